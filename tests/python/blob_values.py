"""What both sides of azure-storage-blob are tried with."""
import functools
from datetime import datetime, timedelta, timezone

MIB = 1024 * 1024


def in_an_hour():
    return now() + timedelta(hours=1)


def now():
    return datetime.now(timezone.utc)


@functools.lru_cache
def content(length):
    """Bytes that differ at every place, so that a lost or repeated one shows."""
    return b"".join((number * 2654435761 % 2**32).to_bytes(4, "big") for number in range(length // 4 + 1))[:length]
