"""How many calls a piece of work makes: what takes its time, counted, so that the answer is the same every time."""

import select
import socket
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType


def is_as_ever(calls: float, expected: float) -> bool:
    """A fifth more is a finding; so is a third less: then the number is no guard any longer."""
    return expected * 0.67 < calls < expected * 1.2


def calls_of(work: Callable[[], object]) -> int:
    """Count the calls of Python functions and of built-in ones; what happens inside those is not counted."""
    return sum(_counted(work).values())


def system_calls_of(work: Callable[[], object]) -> dict[str, int]:
    """Count the calls of functions of `os`, sockets and epolls by name: nearly every one is one system call."""
    counts = _counted(work)
    return {name.partition(".")[2]: count for name, count in counts.items() if name.startswith(("posix.", "kernel."))}


def _counted(work: Callable[[], object]) -> Counter[str]:
    counts: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counts[frame.f_code.co_name] += 1
        elif event == "c_call":
            of_kernel = isinstance(getattr(argument, "__self__", None), socket.SocketType | select.epoll)
            home = "kernel" if of_kernel else getattr(argument, "__module__", None)
            counts[f"{home}.{getattr(argument, '__name__', '')}"] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    # Ending it is a call too.
    counts["sys.setprofile"] -= 1
    return counts
