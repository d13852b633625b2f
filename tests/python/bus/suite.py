"""Runs the named cases of one client against the plan that the Rust test wrote, and prints a JSON line per case.

The plan names every operation of the list (`tests/src/conformance/bus/operations.rs`) that this client has, so a case
that is missing, or that nobody asked for, is a failure and not a gap.
"""
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
import time
import traceback
import urllib.parse
import urllib.request

# Operations that run side by side: they wait most of the time, and the machine may be busy.
AT_ONCE = 20
# Longer than any case takes on a slow machine; one that hangs is named.
PATIENCE_S = 60

CASES = {}


def case(operation):
    """Names the operation that a function tries."""
    def named(function):
        assert operation not in CASES, f"two cases for {operation}"
        CASES[operation] = function
        return function
    return named


def parts_of(connection_string):
    return dict(part.split("=", 1) for part in connection_string.split(";") if part)


class Plan:
    """What the Rust test started and wants to know."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            plan = json.load(file)
        self.ready = plan["ready"]
        self.operations = plan["operations"]
        self.policies = plan["policies"]
        self.connection = parts_of(self.ready["serviceBusConnectionString"])
        self.tls = parts_of(self.ready["serviceBusTlsConnectionString"])
        self.endpoint = self.connection["Endpoint"]
        self.host = urllib.parse.urlsplit(self.endpoint).netloc
        self.key_name = self.connection["SharedAccessKeyName"]
        self.key = self.connection["SharedAccessKey"]

    def sas(self, path="", key_name=None, key=None, life_s=600):
        """A SAS as the documentation says how to make one: for an entity, or for the namespace."""
        resource = urllib.parse.quote_plus(f"sb://{self.host}/{path}")
        expires = int(time.time() + life_s)
        signed = f"{resource}\n{expires}".encode()
        digest = hmac.new((key or self.key).encode(), signed, hashlib.sha256).digest()
        signature = urllib.parse.quote_plus(base64.b64encode(digest))
        return f"SharedAccessSignature sr={resource}&sig={signature}&se={expires}&skn={key_name or self.key_name}"

    def connection_string(self, **changes):
        parts = {**self.connection, **changes}
        return ";".join(f"{name}={value}" for name, value in parts.items() if value is not None)

    def policy(self, name):
        """A connection string with the key of another policy than the root's."""
        return self.connection_string(SharedAccessKeyName=name, SharedAccessKey=self.policies[name])

    def with_sas(self, sas):
        return self.connection_string(SharedAccessKeyName=None, SharedAccessKey=None, SharedAccessSignature=sas)

    def admin(self, method, path, body=None):
        request = urllib.request.Request(
            self.ready["adminUrl"] + path, method=method, data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def grant(self, access_token):
        """What TenantService gives to who shows an access token."""
        request = urllib.request.Request(
            self.ready["tenantUrl"].rstrip("/") + "/api/external/integration/export/temporaryendpoints",
            headers={"Authorization": f"Bearer {access_token}"})
        trust = ssl.create_default_context(cafile=self.ready["caFile"])
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
            return json.load(answer)

    async def fault(self, **step):
        await asyncio.to_thread(self.admin, "POST", "/faults", {"faults": [step]})

    def counts_now(self, entity):
        """How many messages are where, and what happened to them."""
        for found in self.admin("GET", "/entities"):
            if found["path"] == entity.lower():
                return {**found["counts"], "totals": found["totals"]}
        raise AssertionError(f"there is no entity {entity}")

    async def counts(self, entity):
        return await asyncio.to_thread(self.counts_now, entity)


async def until(what, so, seconds=20.0):
    """Asks until it is so."""
    end = time.monotonic() + seconds
    while True:
        seen = await so()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come to be within {seconds} s")
        await asyncio.sleep(0.05)


def same(seen, wanted, what="value"):
    if seen != wanted:
        raise AssertionError(f"{what}: {seen!r} instead of {wanted!r}")


@contextlib.contextmanager
def refused(*errors, text=None):
    """The body must end with one of these errors of the SDK."""
    try:
        yield
    except errors as error:
        if text is not None and text.lower() not in str(error).lower():
            raise AssertionError(f"the error does not say {text!r}: {error}") from error
        return
    except Exception as error:
        names = " or ".join(error.__name__ for error in errors)
        raise AssertionError(f"{type(error).__name__} instead of {names}: {error}") from error
    raise AssertionError(f"was not refused; wanted {' or '.join(error.__name__ for error in errors)}")


async def run(plan, context):
    """Runs every case of the plan, side by side: each has an entity of its own."""
    wanted = [operation["name"] for operation in plan.operations]
    for name in sorted(set(CASES) - set(wanted)):
        print(json.dumps({"operation": name, "error": "a case for an operation that the list does not have"}), flush=True)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(operation):
        async with slots:
            name, started = operation["name"], time.monotonic()
            error = await attempt(plan, operation, context)
            seconds = round(time.monotonic() - started, 2)
            print(json.dumps({"operation": name, "seconds": seconds, "error": error}), flush=True)

    await asyncio.gather(*(one(operation) for operation in plan.operations))


async def attempt(plan, operation, context):
    function = CASES.get(operation["name"])
    if function is None:
        return "this client has no case for it"
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with context(plan, operation) as case_context:
                await function(case_context)
    except TimeoutError:
        return f"had not ended after {PATIENCE_S} s: {traceback.format_exc(limit=-3)}"
    except Exception as error:  # whatever it is, it belongs into the table
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bus/" in frame.filename]
        places = [frame for frame in frames if "suite" not in frame.filename]
        place = f"{places[-1].filename.rsplit('/', 1)[-1]}:{places[-1].lineno}" if places else ""
        return f"{place} {type(error).__name__}: {error}"
    return None
