"""The cases of one client: run one after another, each reported to the test as a JSON line.

A case is a function, plain or asynchronous, that raises when something is not as it should be; its name is the
operation's in the test's list. `absent` names an operation that this SDK does not have, and why.
"""
import asyncio
import inspect
import json
import signal
import sys
import traceback

# Longer than any case takes on a slow machine. A case that hangs is reported, and the others still run.
SECONDS_MAX = 60

_cases = {}


def case(function):
    assert function.__name__ not in _cases, f"two cases are called {function.__name__}"
    _cases[function.__name__] = function
    return function


def absent(name, reason):
    assert name not in _cases, f"two cases are called {name}"
    _cases[name] = reason


class raises:
    """A block that has to end in an error of this class, and of this code if one is given."""

    def __init__(self, kind, code=None, status=None):
        self.kind, self.code, self.status, self.error = kind, code, status, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        wanted = f"{self.kind.__name__} {self.code or ''} {self.status or ''}".strip()
        assert error is not None, f"nothing was raised where {wanted} was due"
        if not isinstance(error, self.kind):
            return False
        self.error = error
        code, status = getattr(error, "error_code", None), getattr(error, "status_code", None)
        code = getattr(code, "value", code)
        assert self.code in (None, code), f"{wanted} was due and {code} ({status}) came: {error}"
        assert self.status in (None, status), f"{wanted} was due and {code} ({status}) came: {error}"
        return True


def _too_long(*_):
    raise TimeoutError(f"still running after {SECONDS_MAX} seconds")


def run(*arguments):
    signal.signal(signal.SIGALRM, _too_long)
    for name, body in _cases.items():
        report = {"case": name, "outcome": "passed"}
        if isinstance(body, str):
            report.update(outcome="absent", detail=body)
        else:
            signal.alarm(SECONDS_MAX)
            try:
                done = body(*arguments)
                if inspect.isawaitable(done):
                    asyncio.run(done)
            except Exception:
                report.update(outcome="failed", detail=traceback.format_exc())
            finally:
                signal.alarm(0)
        print(json.dumps(report), flush=True)
    sys.stdout.flush()
