"""How records write times: seconds since the epoch as RFC 3339, spans of seconds as milliseconds."""

from datetime import UTC, datetime
from functools import lru_cache


def timestamp(unix_s: float) -> str:
    """Write a time as RFC 3339 in UTC, with microseconds."""
    return f"{_second(int(unix_s))}.{int(unix_s % 1 * 1e6):06d}Z"


@lru_cache(maxsize=8)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def milliseconds(seconds: float) -> float:
    """Return a span of time as records have it."""
    return int(seconds * 1e6 + 0.5) / 1000  # a tenth of what `round` takes, and spans are never negative
