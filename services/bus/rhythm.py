"""
When what is repeated is said: at the same moments in all processes, so that whoever hears it wakes up once for all.

Time is an argument: seconds of the machine's monotonic clock, which is the event loop's.
"""

from typing import Final

# A timer may ring a moment early, and what was just said need not be said again; as a part of the period.
_EARLY: Final = 0.1


def pause_s(now_s: float, period_s: float) -> float:
    """Return how long it is to the next whole number of periods."""
    left_s = period_s - now_s % period_s
    return left_s if left_s > _EARLY * period_s else left_s + period_s
