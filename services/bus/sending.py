"""
Go-back-N for one epoch of one publisher: which records to send next, given what is known to be committed.

Records 1…`last` exist. Those up to the mark are committed. At most `window` records beyond the mark are under way; when
the mark stands still for `stall_s` although some are, everything behind it is sent again. A mark may go backwards (an
older ledger was restored): then sending starts again from there. Time is an argument, in seconds of any steady clock.
"""

# Below the high-water mark of the sockets, so that a window is never cut by them.
WINDOW_RECORDS = 800
STALL_S = 0.2


class SendWindow:
    """The send pointer of one epoch."""

    __slots__ = ("_moved_at", "_stall_s", "_window", "last", "mark", "next", "resends")

    def __init__(self, *, window: int = WINDOW_RECORDS, stall_s: float = STALL_S) -> None:
        self._window = window
        self._stall_s = stall_s
        self._moved_at = 0.0
        self.last = 0
        self.mark = 0
        self.next = 1
        self.resends = 0

    def __repr__(self) -> str:
        return f"<SendWindow mark {self.mark} next {self.next} last {self.last}>"

    @property
    def is_settled(self) -> bool:
        """Everything that exists is committed."""
        return self.mark >= self.last

    @property
    def unacknowledged(self) -> int:
        """Records that exist and are not known to be committed."""
        return max(0, self.last - self.mark)

    def extend(self, last: int) -> None:
        """Records up to `last` exist now."""
        assert last >= self.last
        self.last = last

    def sendable(self) -> int:
        """Return how many records, from `next` on, may be sent now."""
        return max(0, min(self.last, self.mark + self._window) - self.next + 1)

    def sent(self, count: int, now: float) -> None:
        """`count` records from `next` on have been sent."""
        assert 0 <= count <= self.sendable()
        if self.next == self.mark + 1:
            self._moved_at = now  # nothing was under way: the wait begins now
        self.next += count

    def marked(self, mark: int, now: float) -> None:
        """
        The ledger says that it has everything up to `mark`.

        A mark beyond what exists is taken for `last`: after a power cut the ledger may know records that the journal
        has lost.
        """
        mark = max(0, min(mark, self.last))
        if mark > self.mark:
            self._moved_at = now
        elif mark < self.mark:
            self.next = mark + 1
        self.mark = mark
        self.next = max(self.next, mark + 1)

    def go_back_if_stalled(self, now: float) -> bool:
        """Put the pointer back to the mark when that has stood still too long; say whether it was."""
        if self.next == self.mark + 1 or now - self._moved_at < self._stall_s:
            return False
        self.next = self.mark + 1
        self.resends += 1
        return True
