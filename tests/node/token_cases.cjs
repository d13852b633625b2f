// Microsoft's `@azure/identity` gets access tokens from `waybill-local`.
//
// usage: node token_cases.cjs READY_FILE READY_FILE_WITH_SHORT_LIVES
"use strict";
const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");
const { ClientAssertionCredential, ClientCertificateCredential } = require("@azure/identity");
const { BlobServiceClient } = require("@azure/storage-blob");
const { cases, run } = require("./cases.cjs");

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const base64url = (value) => Buffer.from(value).toString("base64url");
const seconds = () => Math.floor(Date.now() / 1000);

/** A running `waybill-local` with its one application. */
class Place {
  constructor(path) {
    this.ready = JSON.parse(fs.readFileSync(path, "utf8"));
    this.client = this.ready.clients[0];
    this.base = `${this.ready.authorityUrl}/${this.client.directoryId}`;
    const pem = fs.readFileSync(this.client.certificateFile, "utf8");
    this.certificate = new crypto.X509Certificate(pem);
    this.key = crypto.createPrivateKey(pem.slice(pem.indexOf("-----BEGIN PRIVATE KEY")));
  }

  get authority() {
    return { authorityHost: this.ready.authorityUrl, disableInstanceDiscovery: true };
  }

  /** What the documentation of certificate credentials says, with some claims replaced. */
  assertion({ algorithm = "PS256", key = this.key, ...claims } = {}) {
    const thumbprint = crypto.createHash("sha256").update(this.certificate.raw).digest("base64url");
    const { clientId } = this.client;
    const all = {
      aud: `${this.base}/oauth2/v2.0/token`, iss: clientId, sub: clientId, jti: crypto.randomUUID(),
      nbf: seconds(), exp: seconds() + 300, ...claims,
    };
    const head = { alg: algorithm, typ: "JWT", "x5t#S256": thumbprint };
    const signed = `${base64url(JSON.stringify(head))}.${base64url(JSON.stringify(all))}`;
    const padding = algorithm === "PS256"
      ? { padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }
      : { padding: crypto.constants.RSA_PKCS1_PADDING };
    return `${signed}.${crypto.sign("sha256", Buffer.from(signed), { key, ...padding }).toString("base64url")}`;
  }

  /** An access token for TenantService, of a credential that has none in store. */
  token(assertion = this.assertion()) {
    const { directoryId, clientId } = this.client;
    const credential = new ClientAssertionCredential(directoryId, clientId, async () => assertion, this.authority);
    return credential.getToken(this.ready.tenantScope);
  }

  refuses(code, assertion) {
    return assert.rejects(this.token(assertion), new RegExp(`AADSTS${code}:`));
  }

  /** Whether TenantService takes the token. */
  async opens({ token }) {
    const url = `${this.ready.tenantUrl}/api/external/integration/export/temporaryendpoints`;
    const answer = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
    assert([200, 401].includes(answer.status), `${answer.status}`);
    return answer.status === 200;
  }

  async admin(path, body) {
    const answer = await fetch(this.ready.adminUrl + path, { method: "POST", body });
    assert.equal(answer.status, 200, await answer.text());
  }

  fault(step) {
    return this.admin("/faults", JSON.stringify({ faults: [{ on: "token", ...step }] }));
  }
}

cases({
  async certificate_from_a_file(place) {
    const { directoryId, clientId, certificateFile } = place.client;
    const credential =
      new ClientCertificateCredential(directoryId, clientId, { certificatePath: certificateFile }, place.authority);
    assert(await place.opens(await credential.getToken(place.ready.tenantScope)));
  },

  async assertion_signed_with_rs256(place) {
    assert(await place.opens(await place.token(place.assertion({ algorithm: "RS256" }))));
  },

  async assertion_signed_with_ps256(place) {
    assert(await place.opens(await place.token(place.assertion({ algorithm: "PS256" }))));
  },

  async assertion_with_a_jti_that_was_used(place) {
    const jti = crypto.randomUUID();
    await place.token(place.assertion({ jti, exp: seconds() + 200 }));
    await place.refuses(50013, place.assertion({ jti, exp: seconds() + 250 }));
  },

  assertion_for_another_audience(place) {
    return place.refuses(700023, place.assertion({ aud: "https://login.microsoftonline.com/common/oauth2/v2.0/token" }));
  },

  assertion_whose_time_is_over(place) {
    return place.refuses(700024, place.assertion({ nbf: seconds() - 1200, exp: seconds() - 600 }));
  },

  assertion_of_another_key(place) {
    const { privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 });
    return place.refuses(700027, place.assertion({ key: privateKey }));
  },

  async token_is_verified_with_the_published_key(place) {
    const read = async (url) => (await fetch(url)).json();
    const configuration = await read(`${place.base}/v2.0/.well-known/openid-configuration`);
    const { keys } = await read(configuration.jwks_uri);
    const [head, claims, signature] = (await place.token()).token.split(".");
    const { kid, alg } = JSON.parse(Buffer.from(head, "base64url"));
    const key = crypto.createPublicKey({ key: keys.find((known) => known.kid === kid), format: "jwk" });
    assert.equal(alg, "RS256");
    const holds = (signed) => crypto.verify("sha256", Buffer.from(signed), key, Buffer.from(signature, "base64url"));
    assert(holds(`${head}.${claims}`) && !holds(`${head}.${claims}x`));
    const { aud, iss, appid } = JSON.parse(Buffer.from(claims, "base64url"));
    assert.equal(`${aud}/.default`, place.ready.tenantScope);
    assert.deepEqual([iss, appid], [configuration.issuer, place.client.clientId]);
  },

  async token_of_a_short_life(_, short) {
    const token = await short.token();
    // The library counts in whole seconds, rounded.
    assert(token.expiresOnTimestamp <= Date.now() + 6_000, new Date(token.expiresOnTimestamp).toISOString());
    assert(await short.opens(token));
    await sleep(6_000);
    assert(!(await short.opens(token)));
    assert(await short.opens(await short.token()));
  },

  async token_opens_storage(place) {
    const { directoryId, clientId, certificateFile } = place.client;
    const endpoint = /BlobEndpoint=([^;]+)/.exec(place.ready.blobConnectionString)[1];
    const service = new BlobServiceClient(endpoint, new ClientCertificateCredential(
      directoryId, clientId, { certificatePath: certificateFile }, place.authority));
    const container = service.getContainerClient(place.ready.container);
    const blob = container.getBlockBlobClient("by-role");
    await blob.upload("rows", 4);
    assert.equal((await blob.downloadToBuffer()).toString(), "rows");
    await blob.delete();
    // Refused, the library asks where storage says that tokens are issued, and tells storage's answer.
    let asked = 0;
    const nobody = { getToken: async () => ({ token: `none${++asked}`, expiresOnTimestamp: Date.now() + 3_600_000 }) };
    const refused = new BlobServiceClient(endpoint, nobody).getContainerClient(place.ready.container).getProperties();
    await assert.rejects(refused, (error) => error.statusCode === 401);
    assert(asked > 1);
    const anonymous = await fetch(`${endpoint}/${place.ready.container}/by-role`);
    assert.equal(anonymous.status, 401);
    assert.equal(anonymous.headers.get("www-authenticate"),
      `Bearer authorization_uri=${place.base}/oauth2/authorize resource_id=https://storage.azure.com`);
  },

  async rotation_at_once(place) {
    const token = await place.token();
    assert(await place.opens(token));
    await place.admin("/rotate");
    assert(!(await place.opens(token)));
    assert(await place.opens(await place.token()));
  },

  async rotation_with_a_grace(place) {
    const token = await place.token();
    const began = Date.now();
    await place.admin("/rotate?grace_ms=4000");
    assert((await place.opens(token)) && (await place.opens(await place.token())));
    while (await place.opens(token)) {
      assert(Date.now() - began < 20_000, "the grace has no end");
      await sleep(50);
    }
    assert(Date.now() - began >= 3_900);
    assert(await place.opens(await place.token()));
  },

  async authority_that_is_down_for_a_moment(place) {
    await place.fault({ do: "refuse", code: "503", retry_after_s: 1, times: 2 });
    assert(await place.opens(await place.token()));
  },

  async authority_that_is_asked_too_often(place) {
    await place.fault({ do: "throttle", retry_after_s: 1 });
    assert(await place.opens(await place.token()));
  },
});

run(...process.argv.slice(2).map((path) => new Place(path)));
