"""What a journal remembers of an exchange that is not over."""

from collections.abc import Callable
from typing import Protocol
from zlib import crc32

from services.bus.segment import EntryKind, encode_single, entry_head, pack_head, part_of_single, single_prefix
from services.bus.store import unfinished_record

# Parts that are kept before they are merged: parsing JSON is dear beside an append.
_PARTS_MAX = 16
_PROGRESSED = EntryKind.PROGRESSED


class Holder(Protocol):
    """Who writes what is held; services.bus.journal is one."""

    is_holding: bool

    def write_held(self) -> None:
        """Write it now."""


class Draft:
    """
    An exchange that is not over: where its draft is on disk, and what it says by now.

    Attributes:
        key: The exchange's id.
        segment_number: Of the segment that has its start.
        progress_head: Stands before the part of each entry of its progress.
        repeated: The newest entry of progress that repeats, if no other came behind it.
    """

    __slots__ = ("_entries", "key", "progress_head", "repeated", "segment_number")

    def __init__(self, key: bytes, start: bytes) -> None:
        self.key = key
        self.segment_number = 0
        self.progress_head = entry_head(_PROGRESSED, 0, key)
        self.begin(start)

    def begin(self, start: bytes) -> None:
        """The draft in this entry stands for all before it."""
        # Entries are kept as they were written: their heads have one length.
        self._entries = [start]
        self.repeated: bytes | None = None

    def add(self, entry: bytes) -> None:
        """Take an entry of progress."""
        if self.repeated is not None:
            self._entries.append(self.repeated)
            self.repeated = None
        self._entries.append(entry)
        if len(self._entries) > _PARTS_MAX:
            self._entries = [encode_single(self.progress_head, self.record())]

    def repeater(self, hold: Callable[[bytes], None], holder: Holder) -> Callable[[bytes], None]:
        """Return what takes progress of the same members each time, mostly of one size, and gives entries to `hold`."""
        head, part_bytes, prefix, prefix_sum, length = self.progress_head, -1, b"", 0, 0

        def repeat(members: bytes) -> None:
            nonlocal part_bytes, prefix, prefix_sum, length
            if len(members) != part_bytes:
                part_bytes = len(members)
                prefix, prefix_sum, length = single_prefix(head, part_bytes)
            self.repeated = entry = pack_head(length, crc32(members, prefix_sum)) + prefix + members
            hold(entry)
            if not holder.is_holding:
                holder.write_held()

        return repeat

    def record(self) -> bytes:
        """Return what stands by now."""
        return unfinished_record([part_of_single(entry, self.progress_head) for entry in self._all()])

    def _all(self) -> list[bytes]:
        return self._entries if self.repeated is None else [*self._entries, self.repeated]

    @property
    def first_part(self) -> bytes:
        """The draft as it began, or once much has come of it, what that was merged to."""
        return part_of_single(self._entries[0], self.progress_head)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, and about so much on disk if it is written again."""
        return sum(map(len, self._all()))
