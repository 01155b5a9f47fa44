"""Waiting for a condition with a bound, instead of sleeping."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
# Short beside everything that is waited for, long enough to leave the processor to it.
_POLL_S = 0.02


def eventually(what: str, condition: Callable[[], Found | None], timeout_s: float = 10.0) -> Found:
    """Return the first result of `condition` that is true; fail with `what` and the last result after the time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s, the last answer was {found!r}")
        pause.wait(_POLL_S)
