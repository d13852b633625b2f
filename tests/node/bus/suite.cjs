// Runs the named cases against the plan that the Rust test wrote, and prints a JSON line per case. A case that is missing,
// or that nobody asked for, is a failure and not a gap.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");

// Operations that run side by side: they wait most of the time, and the machine may be busy.
const AT_ONCE = 20;
// Longer than any case takes on a slow machine; one that hangs is named.
const PATIENCE_MS = 60_000;

const CASES = new Map();

/** Names the operation that a function tries. */
function test(operation, attempt) {
  assert(!CASES.has(operation), `two cases for ${operation}`);
  CASES.set(operation, attempt);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until it is so. */
async function until(what, so, ms = 20_000) {
  const end = Date.now() + ms;
  for (;;) {
    const seen = await so();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`${what} did not come to be within ${ms} ms`);
    await sleep(50);
  }
}

/** The promise must end with an error of the SDK that has one of these codes. */
async function refused(codes, attempt, text) {
  let error;
  try {
    await attempt();
  } catch (caught) {
    error = caught;
  }
  if (!error) throw new Error(`was not refused; wanted ${[codes].flat().join(" or ")}`);
  if (![codes].flat().includes(error.code)) {
    throw new Error(`code ${error.code} instead of ${[codes].flat().join(" or ")}: ${error}`);
  }
  if (text && !String(error.message).toLowerCase().includes(text)) {
    throw new Error(`the error does not say ${text}: ${error}`);
  }
}

const partsOf = (connectionString) =>
  Object.fromEntries(
    connectionString.split(";").filter(Boolean).map((part) => {
      const at = part.indexOf("=");
      return [part.slice(0, at), part.slice(at + 1)];
    }),
  );

const hostOf = (connection) => connection.Endpoint.replace(/^sb:\/\//, "").replace(/\/$/, "");

/** What the Rust test started and wants to know. */
class Plan {
  constructor(path) {
    const plan = JSON.parse(fs.readFileSync(path, "utf8"));
    this.ready = plan.ready;
    this.operations = plan.operations;
    this.policies = plan.policies;
    this.connection = partsOf(this.ready.serviceBusConnectionString);
    this.host = hostOf(this.connection);
    this.tlsHost = hostOf(partsOf(this.ready.serviceBusTlsConnectionString));
    this.keyName = this.connection.SharedAccessKeyName;
    this.key = this.connection.SharedAccessKey;
  }

  /** A SAS as the documentation says how to make one: for an entity, or for the namespace. */
  sas(path = "", { keyName = this.keyName, key = this.key, lifeS = 600 } = {}) {
    const resource = encodeURIComponent(`sb://${this.host}/${path}`);
    const expires = Math.floor(Date.now() / 1000) + lifeS;
    const digest = crypto.createHmac("sha256", key).update(`${resource}\n${expires}`, "utf8").digest("base64");
    return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(digest)}&se=${expires}&skn=${keyName}`;
  }

  connectionString(changes = {}) {
    const parts = { ...this.connection, ...changes };
    return Object.entries(parts).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${value}`).join(";");
  }

  /** A connection string with the key of another policy than the root's. */
  policy(name) {
    return this.connectionString({ SharedAccessKeyName: name, SharedAccessKey: this.policies[name] });
  }

  withSas(sas) {
    return this.connectionString({ SharedAccessKeyName: null, SharedAccessKey: null, SharedAccessSignature: sas });
  }

  async admin(method, path, body) {
    const answer = await fetch(this.ready.adminUrl + path, { method, body: body && JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  /** What TenantService gives to who shows an access token. */
  async grant(accessToken) {
    const url = new URL("/api/external/integration/export/temporaryendpoints", this.ready.tenantUrl);
    const answer = await fetch(url, { headers: { Authorization: `Bearer ${accessToken}` } });
    if (!answer.ok) throw new Error(`TenantService: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }

  fault(step) {
    return this.admin("POST", "/faults", { faults: [step] });
  }

  /** How many messages are where, and what happened to them. */
  async counts(entity) {
    const found = (await this.admin("GET", "/entities")).find(({ path }) => path === entity.toLowerCase());
    assert(found, `there is no entity ${entity}`);
    return { ...found.counts, totals: found.totals };
  }
}

/** Runs every case of the plan, side by side: each has an entity of its own. */
async function run(plan, contextOf) {
  const print = (line) => fs.writeSync(1, JSON.stringify(line) + "\n");
  const wanted = new Set(plan.operations.map((operation) => operation.name));
  for (const name of CASES.keys()) {
    if (!wanted.has(name)) print({ operation: name, error: "a case for an operation that the list does not have" });
  }
  const one = async (operation) => {
    const started = performance.now();
    const error = await attempt(plan, operation, contextOf);
    print({ operation: operation.name, seconds: (performance.now() - started) / 1000, error });
  };
  const queue = [...plan.operations];
  const work = async () => {
    for (let operation; (operation = queue.shift()); ) await one(operation);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

async function attempt(plan, operation, contextOf) {
  const body = CASES.get(operation.name);
  if (!body) return "this client has no case for it";
  const context = contextOf(plan, operation);
  let timer;
  const patience = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`had not ended after ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
  });
  try {
    await Promise.race([body(context), patience]);
    return null;
  } catch (error) {
    const place = /cases_\w+\.cjs:\d+/.exec(error.stack ?? "")?.[0] ?? "";
    return `${place} ${error.code ?? error.name}: ${error.message}`;
  } finally {
    clearTimeout(timer);
    await Promise.race([context.close(), sleep(10_000)]).catch(() => {});
  }
}

module.exports = { Plan, assert, refused, run, sleep, test, until };
