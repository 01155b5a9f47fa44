"""How records write times: seconds since the epoch as RFC 3339, spans of seconds as milliseconds."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

# Longer than a wake-up takes, and nothing to a clock that is set meanwhile.
_STEADY_S = 0.01


def steady_offset(unix_s: Callable[[], float], monotonic_s: Callable[[], float]) -> Callable[[], float]:
    """
    Return what says which time since the epoch belongs to the monotonic time 0.

    It says the same to the last digit for a hundredth of a second, so that the same moment is written only once.
    """
    offset_s, renew_at = 0.0, float("-inf")

    def epoch_offset_s() -> float:
        nonlocal offset_s, renew_at
        now = monotonic_s()
        if now >= renew_at:
            offset_s, renew_at = unix_s() - now, now + _STEADY_S
        return offset_s

    return epoch_offset_s


# What begins and ends in one wake-up does so at the same moment.
@lru_cache(maxsize=8)
def timestamp(unix_s: float) -> str:
    """Write a time as RFC 3339 in UTC, with microseconds."""
    return f"{_second(int(unix_s))}.{int(unix_s % 1 * 1e6):06d}Z"


@lru_cache(maxsize=8)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def milliseconds(seconds: float) -> float:
    """Return a span of time as records have it."""
    return int(seconds * 1e6 + 0.5) / 1000  # a tenth of what `round` takes, and spans are never negative
