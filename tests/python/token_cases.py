"""Microsoft's `azure-identity` gets access tokens from `waybill-local`.

usage: token_cases.py READY_FILE READY_FILE_WITH_SHORT_LIVES
"""
import base64
import json
import logging
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid

import jwt
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential, ClientAssertionCredential
from azure.storage.blob import BlobServiceClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cases import case, raises, run


class Place:
    """A running `waybill-local` with its one application."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.ready = json.load(file)
        self.client = self.ready["clients"][0]
        self.base = f"{self.ready['authorityUrl']}/{self.client['directoryId']}"
        self.trust = ssl.create_default_context(cafile=self.ready["caFile"])
        with open(self.client["certificateFile"], "rb") as file:
            pem = file.read()
        self.certificate = x509.load_pem_x509_certificate(pem)
        self.key = serialization.load_pem_private_key(pem, password=None)

    def authority(self):
        return {"authority": self.ready["authorityUrl"], "disable_instance_discovery": True,
                "connection_verify": self.ready["caFile"]}

    def assertion(self, algorithm="PS256", key=None, **claims):
        """What the documentation of certificate credentials says, with some claims replaced."""
        now = int(time.time())
        claims = {"aud": f"{self.base}/oauth2/v2.0/token", "iss": self.client["clientId"], "sub": self.client["clientId"],
                  "jti": str(uuid.uuid4()), "nbf": now, "exp": now + 300, **claims}
        thumbprint = base64.urlsafe_b64encode(self.certificate.fingerprint(hashes.SHA256())).decode().rstrip("=")
        return jwt.encode(claims, key or self.key, algorithm=algorithm, headers={"x5t#S256": thumbprint})

    def token(self, assertion=None):
        """An access token for TenantService, of a credential that has none in store."""
        assertion = assertion or self.assertion()
        credential = ClientAssertionCredential(
            self.client["directoryId"], self.client["clientId"], lambda: assertion, **self.authority())
        with credential:
            return credential.get_token(self.ready["tenantScope"])

    def refuses(self, code, assertion):
        with raises(ClientAuthenticationError) as refused:
            self.token(assertion)
        assert f"AADSTS{code}:" in str(refused.error), refused.error

    def get(self, url, headers=None):
        with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers or {}), timeout=30, context=self.trust) as answer:
            return json.load(answer)

    def opens(self, token):
        """Whether TenantService takes the token."""
        url = self.ready["tenantUrl"] + "/api/external/integration/export/temporaryendpoints"
        try:
            self.get(url, {"Authorization": f"Bearer {token.token}"})
            return True
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
            return False

    def admin(self, path, body=b""):
        request = urllib.request.Request(self.ready["adminUrl"] + path, method="POST", data=body)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def fault(self, **step):
        self.admin("/faults", json.dumps({"faults": [{"on": "token", **step}]}).encode())


@case
def certificate_from_a_file(place, _):
    credential = CertificateCredential(
        place.client["directoryId"], place.client["clientId"], place.client["certificateFile"], **place.authority())
    with credential:
        assert place.opens(credential.get_token(place.ready["tenantScope"]))


@case
def assertion_signed_with_rs256(place, _):
    assert place.opens(place.token(place.assertion("RS256")))


@case
def assertion_signed_with_ps256(place, _):
    assert place.opens(place.token(place.assertion("PS256")))


@case
def assertion_with_a_jti_that_was_used(place, _):
    name, now = str(uuid.uuid4()), int(time.time())
    place.token(place.assertion(jti=name, exp=now + 200))
    place.refuses(50013, place.assertion(jti=name, exp=now + 250))


@case
def assertion_for_another_audience(place, _):
    place.refuses(700023, place.assertion(aud="https://login.microsoftonline.com/common/oauth2/v2.0/token"))


@case
def assertion_whose_time_is_over(place, _):
    now = int(time.time())
    place.refuses(700024, place.assertion(nbf=now - 1200, exp=now - 600))


@case
def assertion_of_another_key(place, _):
    place.refuses(700027, place.assertion(key=rsa.generate_private_key(public_exponent=65537, key_size=2048)))


@case
def token_is_verified_with_the_published_key(place, _):
    configuration = place.get(f"{place.base}/v2.0/.well-known/openid-configuration")
    keys = jwt.PyJWKClient(configuration["jwks_uri"], ssl_context=place.trust)
    token = place.token().token
    claims = jwt.decode(
        token, keys.get_signing_key_from_jwt(token).key, algorithms=["RS256"],
        audience=place.ready["tenantScope"].removesuffix("/.default"), issuer=configuration["issuer"])
    assert claims["appid"] == place.client["clientId"], claims
    changed = token[:-8] + ("A" * 8 if token[-8:] != "A" * 8 else "B" * 8)
    with raises(jwt.InvalidSignatureError):
        jwt.decode(changed, keys.get_signing_key_from_jwt(token).key, algorithms=["RS256"],
                   options={"verify_aud": False})


@case
def token_of_a_short_life(_, short):
    token = short.token()
    # The library counts in whole seconds, rounded.
    assert token.expires_on <= time.time() + 6, token.expires_on
    assert short.opens(token)
    time.sleep(6)
    assert not short.opens(token)
    assert short.opens(short.token())


@case
def token_opens_storage(place, _):
    parts = dict(part.split("=", 1) for part in place.ready["blobConnectionString"].split(";") if part)
    credential = CertificateCredential(
        place.client["directoryId"], place.client["clientId"], place.client["certificateFile"], **place.authority())
    with credential, BlobServiceClient(
            parts["BlobEndpoint"], credential, connection_verify=place.ready["caFile"]) as service:
        container = service.get_container_client(place.ready["container"])
        blob = container.upload_blob("by-role", b"rows")
        assert blob.download_blob().readall() == b"rows"
        assert [found.name for found in container.list_blobs()] == ["by-role"]
        # A token that was withdrawn is refused, and the library has no other.
        place.admin("/rotate")
        with raises(ClientAuthenticationError) as refused:
            blob.delete_blob()
        assert refused.error.error_code == "InvalidAuthenticationInfo", refused.error
    credential = CertificateCredential(
        place.client["directoryId"], place.client["clientId"], place.client["certificateFile"], **place.authority())
    with credential, BlobServiceClient(
            parts["BlobEndpoint"], credential, connection_verify=place.ready["caFile"]) as service:
        service.get_blob_client(place.ready["container"], "by-role").delete_blob()


@case
def rotation_at_once(place, _):
    token = place.token()
    assert place.opens(token)
    place.admin("/rotate")
    assert not place.opens(token)
    assert place.opens(place.token())


@case
def rotation_with_a_grace(place, _):
    token, began = place.token(), time.monotonic()
    place.admin("/rotate?grace_ms=4000")
    assert place.opens(token) and place.opens(place.token())
    while place.opens(token):
        assert time.monotonic() - began < 20, "the grace has no end"
        time.sleep(0.05)
    assert time.monotonic() - began >= 3.9
    assert place.opens(place.token())


@case
def authority_that_is_down_for_a_moment(place, _):
    place.fault(do="refuse", code="503", retry_after_s=1, times=2)
    assert place.opens(place.token())


@case
def authority_that_is_asked_too_often(place, _):
    place.fault(do="throttle", retry_after_s=1)
    assert place.opens(place.token())


if __name__ == "__main__":
    # The SDK logs what its caller is told anyway.
    logging.disable(logging.CRITICAL)
    run(*(Place(path) for path in sys.argv[1:]))
