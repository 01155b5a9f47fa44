"""
What is sent in one wake-up of the process leaves together, behind what was noted of it.

Every count has to be on disk before the bytes that carry it leave. With many connections at work a wake-up brings
several pieces at once: so what is noted of all of them goes into the journal in one write, and then they are sent. That
saves most of the writes; and each kind of work, done for all before the next kind begins, finds its code in the
processor's cache (docs/architecture.md, "The data path").
"""

from collections.abc import Callable
from typing import Protocol

# Larger pieces do not wait: what is shared would be little beside what they cost.
PIECE_BYTES_MAX = 16 * 1024
PIECES_MAX = 128  # beside those of passages: one for each that is ready in a wake-up


class Notes(Protocol):
    """What has to be written before anything leaves; services.bus.journal keeps it."""

    is_holding: bool

    def write_held(self) -> None:
        """Write what was held since `is_holding` was set."""


class _NothingNoted:
    """Notes of nobody."""

    is_holding = False

    def write_held(self) -> None:
        pass


class Waits(Protocol):
    """Whose data waits."""

    sent_failed: bool

    def keep(self, data: bytes) -> object:
        """Take back what the socket does not take now."""


class Convoy:
    """
    The pieces that wait for the end of a wake-up.

    Attributes:
        is_open: A wake-up is under way, and what is sent may `join`.
        waiting: What has; the next piece beyond `PIECES_MAX` has to `leave` by itself.
    """

    __slots__ = ("_notes", "is_open", "join", "waiting")

    def __init__(self, notes: Notes | None = None) -> None:
        self._notes = notes or _NothingNoted()
        self.waiting: list[tuple[Callable[[bytes], int], bytearray, bytes, Waits]] = []
        self.is_open = False
        # With the socket's `send`, what waits for the socket already, the piece, and whose it is.
        self.join = self.waiting.append

    def open(self) -> None:
        """A wake-up begins."""
        self.is_open = self._notes.is_holding = True

    def leave(self) -> None:
        """Write what was noted, and send what waits, in the midst of a wake-up."""
        self.close()
        self.open()

    def close(self) -> None:
        """Write what was noted, and send what waits; the wake-up ends."""
        notes = self._notes
        notes.write_held()
        for send, unsent, data, whose in self.waiting:
            try:
                sent = 0 if unsent else send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                whose.sent_failed = True
                continue
            if sent != len(data):
                whose.keep(data[sent:])
        self.waiting.clear()
        self.is_open = notes.is_holding = False
