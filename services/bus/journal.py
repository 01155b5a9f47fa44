"""
A publisher's journal: what it has not yet been told is committed, on disk before anybody hears of it.

Each start of a publisher is an epoch with a random name and a folder of segments of its own (services.bus.store has the
layout, services.bus.segment the format). An append is one `write` without fsync: what `write` has taken survives the
death of the process, and `sync` on another thread bounds what a power cut takes. Nothing here ever blocks on purpose
and nothing raises for a full disk: an exchange goes on unrecorded, the records that it ends with wait in memory.
"""

import os
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import orjson

from services.bus.draft import Draft
from services.bus.limits import JournalLimits
from services.bus.segment import ENTRY_BYTES_MAX, EntryKind, encode_entry, encode_single
from services.bus.store import (
    SEGMENT_SUFFIX,
    EpochReader,
    PastEpoch,
    Restore,
    Segment,
    create_segment,
    write_covered,
)
from services.bus.tail import Tail
from services.bus.waiting import WaitingRoom

_EPOCH_NAME = re.compile("[0-9a-f]{32}")
# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_STARTED = EntryKind.STARTED
_FINISHED = EntryKind.FINISHED
# In a draft, which is a record; inside a string of it the quotes would be escaped. What stands before the client may
# have members of any name.
_match_run = re.compile(rb'(?>.*"client":\{).*"run":"([0-9A-Za-z]+)"', re.DOTALL).match
# A hello names every epoch, up to ten times a second.
_PAST_EPOCHS_MAX = 64
# A draft is written again when the segment that has it is this many segments behind (more when there are many
# drafts), so that an exchange that lasts for days does not keep every segment since its start alive.
_CARRY_SEGMENTS = 4


class Journal:
    """
    The journal of one publisher, open for one life of its process. Only one process may have it open.

    Attributes:
        epoch: Name of this life, 32 random hexadecimal digits.
        first, last: Range of this epoch's records that are held; `last` is `first - 1` when there are none.
        past: Earlier epochs; each needs a `scan` before its records can be read.
        problem: Why nothing is being recorded; None while all is well.
        dropped: Finished records that were lost because the disk was full and the waiting room too, or that were too
            large to be written.
        on_unsynced: Called when there is something to `sync`, and there was nothing before: with True for what
            exchanges begin and end with, with False for their progress.
        on_written: Called when records have been written, once for all of a write: `last` has grown.
        on_problem: Called when `problem` is set.
        is_holding: What the data path writes waits for `write_held`.
    """

    left_behind = None

    def __init__(self, folder: Path, publisher: str, limits: JournalLimits, past: list[PastEpoch]) -> None:
        self.publisher = publisher
        self.epoch = secrets.token_hex(16)
        self.last = 0
        self.past = past
        self.problem: str | None = None
        self.dropped = 0
        self.on_unsynced: Callable[[bool], None] = _ignore
        self.on_written: Callable[[], None] = _ignore
        self.on_problem: Callable[[], None] = _ignore
        self._limits = limits
        self._folder = folder / self.epoch
        self._drafts: dict[str, Draft] = {}
        self.is_holding = False
        self._held: list[bytes] = []
        self._held_records: list[bytes] = []
        self._held_alone: list[bytes] = []  # records that no draft is closed with, and with that no entry of their own
        self._held_ends: dict[str, Draft] = {}  # drafts that what is held closes
        self._uncut = 0  # bytes of a failed append that could not be removed
        self._stands = False  # the entry that is appended lies among those, and is only noted
        self._otherwise: dict[int, Callable[[], None]] = {}
        self._waiting = WaitingRoom(limits.waiting_bytes_max)
        self._segments: list[Segment] = []
        self._reader = EpochReader(self._segments)
        self._tail = Tail()  # up to `last`
        self._descriptor = -1
        self._segment_number = 0
        self._written = 0  # size of the open segment
        self._rotate_at_bytes = self._limits.segment_bytes
        self._room = 0  # what the open segment takes without a further look
        self._left: deque[int] = deque()  # descriptors of full segments, not yet synced
        self._is_dirty = False
        self._is_urgent = False  # `on_unsynced` has been called with True, and nothing taken to be synced since
        self._other_bytes = sum(epoch.size_bytes for epoch in past)  # everything but the open segment

    @classmethod
    def open(
        cls, directory: Path, publisher: str, *, limits: JournalLimits | None = None, restore: Restore | None = None
    ) -> "Journal":
        """
        Begin a new epoch below `directory`, the folder of all publishers' journals; `restore` is for earlier ones.

        A folder that cannot be made is no reason not to run: `retry` tries again, `problem` says why.
        """
        folder = directory / publisher
        past: list[PastEpoch] = []
        if folder.is_dir():
            past = [PastEpoch(each, restore) for each in sorted(folder.iterdir()) if _EPOCH_NAME.fullmatch(each.name)]
        journal = cls(folder, publisher, limits or JournalLimits(), past)
        journal._rotate()
        return journal

    # What the data path calls. While `is_holding`, entries wait for `write_held`: one write serves them all.

    def start(self, exchange_id: str, draft: bytes) -> None:
        """An exchange begins; `draft` is the record that stands if this process dies now."""
        key = exchange_id.encode()
        entry = encode_entry(_STARTED, 0, key, (draft,))
        begun = Draft(key, entry)
        if not self.is_holding:
            self._begin(exchange_id, begun, entry)
            return
        self._hold(entry, partial(self._begin, exchange_id, begun, entry))
        self._keep(exchange_id, begun)

    def progress(self, exchange_id: str, members: bytes) -> None:
        """`members`, a JSON object, replaces members of the draft at top level."""
        if (draft := self._drafts.get(exchange_id)) is None:
            return  # without its start on disk (which was full then) progress would mean nothing to a reader
        entry = encode_single(draft.progress_head, members)
        draft.add(entry)
        self._held.append(entry)
        if not self.is_holding:
            self.write_held()

    def repeats(self, exchange_id: str) -> Callable[[bytes], None]:
        """Return what takes `progress` that has the same members each time: the last stands for all."""
        draft = self._drafts.get(exchange_id)
        return _ignore if draft is None else draft.repeater(self._held.append, self)

    def finish(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        """Write the records that an exchange ends with and close its draft, in one entry: both or neither."""
        if self._waiting.exchanges:
            self._wait(exchange_id, records)
        elif self.is_holding and exchange_id is None:
            self._held_alone += records
        elif self.is_holding:
            if self._held_alone:
                self._hold_alone()
            self._hold(self._finished(exchange_id, records), partial(self.finish, exchange_id, records))
            self._held_records += records
            if exchange_id in self._drafts:
                self._held_ends[exchange_id] = self._drafts.pop(exchange_id)
        elif not self._finish(exchange_id, records):
            self._wait(exchange_id, records)

    def write_held(self) -> None:
        """Write what is held, all at once; what cannot be, each by itself."""
        if self._held_alone:
            self._hold_alone()
        held = self._held
        if not held:
            return
        entries, self._uncut = b"".join(held), 0
        if len(entries) <= self._room and self._append_quickly(entries):
            held.clear()
            if self._otherwise:
                self._hurry()
                self._otherwise.clear()
                self._take(self._held_records)
                self._held_records.clear()
                self._held_ends.clear()
            return
        held, otherwise, uncut = held.copy(), self._otherwise.copy(), self._uncut
        self._held.clear()
        self._otherwise.clear()
        self._held_records.clear()
        # A record that has to wait keeps its draft, which stands until then.
        drafts, self._held_ends = self._held_ends | self._drafts, {}
        self._drafts = dict(sorted(drafts.items(), key=lambda each: each[1].segment_number))
        was_holding, self.is_holding = self.is_holding, False
        for position, entry in enumerate(held):
            # Entries that lie as a whole in what could not be cut off are on disk, and are not written again.
            uncut -= len(entry)
            self._stands = uncut >= 0
            otherwise.get(position, partial(self._append, entry))()
        self.is_holding, self._stands = was_holding, False

    # What the publisher calls.

    @property
    def first(self) -> int:
        """Number of the first record that is held."""
        return self._segments[0].first if self._segments else self.last + 1

    @property
    def waiting(self) -> int:
        """Finished records that wait in memory for room on the disk."""
        return self._waiting.records

    @property
    def size_bytes(self) -> int:
        """What all epochs take on disk."""
        return self._other_bytes + self._written

    def open_runs(self) -> Counter[str]:
        """Count the exchanges that are not over by the `client.run` that they belong to."""
        found = (_match_run(draft.first_part) for draft in self._drafts.values())
        return Counter(match[1].decode() for match in found if match)

    def retry(self) -> None:
        """Try again to write what waits for room on the disk, and to make a segment when there is none."""
        if self._descriptor < 0:
            self._rotate()
        while self._waiting.exchanges:
            if not self._finish(*self._waiting.exchanges[0]):
                break
            self._waiting.leave()
        if self.problem is not None and not self._waiting.exchanges and self._descriptor >= 0:
            # Nothing waits, so only a try tells whether there is room again: an entry that says nothing.
            self._append(encode_entry(EntryKind.PROGRESSED, 0, b"", ()))

    def read(self, first: int, records_max: int, bytes_max: int) -> list[bytes]:
        """
        Return records of this epoch from `first` on, from memory if they are young enough, else from disk.

        Raises:
            SegmentVanished: Somebody has removed a file.
        """
        if first < self.first:
            return []
        in_tail = first - (self.last - len(self._tail) + 1)
        if in_tail < 0 or first > self.last:
            return self._reader.read(first, records_max, bytes_max) if first <= self.last else []
        return self._tail.read(in_tail, records_max, bytes_max)

    def forget(self, segment: Segment) -> None:
        """Give up on a segment that has vanished and on all before it."""
        if segment.number == self._segment_number:
            self._rotate()
        for each in [each for each in self._segments[:-1] if each.number <= segment.number]:
            self._remove(each)

    def cover(self, mark: int) -> None:
        """Everything of this epoch up to `mark` is committed."""
        self._tail.drop(mark - (self.last - len(self._tail)))

    def expire(self, mark: int, now_unix_s: float) -> None:
        """Delete what is committed, of this epoch up to `mark`, and need not be kept any longer."""
        for segment in self._segments[:-1]:
            if segment.last > mark:
                segment.covered_at_unix_s = None  # the mark may have gone backwards
            elif segment.covered_at_unix_s is None:
                segment.covered_at_unix_s = now_unix_s
        covered = [each for each in self.past if each.covered_at_unix_s is not None]
        for epoch in sorted(covered, key=lambda each: each.covered_at_unix_s or 0.0):
            if len(self.past) > _PAST_EPOCHS_MAX or self._limits.has_expired(
                epoch.covered_at_unix_s, now_unix_s, self.size_bytes
            ):
                self.delete_past(epoch)
        oldest_needed = min((draft.segment_number for draft in self._drafts.values()), default=self._segment_number)
        for segment in self._segments[:-1]:
            covered_at_unix_s, size_bytes = segment.covered_at_unix_s, self.size_bytes
            if oldest_needed <= segment.number:
                break
            if not self._limits.has_expired(covered_at_unix_s, now_unix_s, size_bytes):
                break
            self._remove(segment)

    def delete_past(self, epoch: PastEpoch) -> None:
        """Remove an earlier epoch from the disk."""
        self._other_bytes -= epoch.size_bytes
        self.past.remove(epoch)
        epoch.delete()

    def take_unsynced(self) -> tuple[list[int], int]:
        """
        Return what `sync` is to make durable: descriptors of full segments, and the open one or -1.

        Not before the `sync` of the call before has returned.
        """
        full = [self._left.popleft() for _ in range(len(self._left))]
        current = self._descriptor if self._is_dirty else -1
        self._is_dirty = self._is_urgent = False
        return full, current

    @staticmethod
    def sync(unsynced: tuple[list[int], int]) -> None:
        """Make durable what was appended; blocks, so call it on another thread."""
        full, current = unsynced
        for descriptor in full:
            _sync(descriptor)
            os.close(descriptor)
        if current >= 0:
            _sync(current)

    def close(self, mark: int) -> None:
        """Close the files; `mark` is what is known to be committed."""
        self._reader.close()
        self.sync(([self._left.popleft() for _ in range(len(self._left))], -1))
        if self._descriptor >= 0:
            _sync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if mark >= self.last and not self._drafts and not self._waiting.exchanges and not self.dropped:
            write_covered(self._folder, self.first, self.last, 0)

    # Underneath.

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        self._other_bytes -= segment.size_bytes
        segment.path.unlink(missing_ok=True)

    def _hold(self, entry: bytes, otherwise: Callable[[], None]) -> None:
        """Hold an entry; `otherwise` is done in its place if the entries that are held cannot be written as one."""
        self._otherwise[len(self._held)] = otherwise
        self._held.append(entry)

    def _hold_alone(self) -> None:
        """Hold those records as one entry."""
        records, self._held_alone = self._held_alone, []
        entry = encode_entry(_FINISHED, self.last + 1 + len(self._held_records), b"", records)
        self._otherwise[len(self._held)] = partial(self._finish_each, records)
        self._held.append(entry)
        self._held_records += records

    def _finish_each(self, records: Sequence[bytes]) -> None:
        for record in records:
            self.finish(None, [record])

    def _finished(self, exchange_id: str | None, records: Sequence[bytes]) -> bytes:
        key = b"" if exchange_id is None else exchange_id.encode()
        return encode_entry(_FINISHED, self.last + 1 + len(self._held_records), key, records)

    def _finish(self, exchange_id: str | None, records: Sequence[bytes]) -> bool:
        if not self._append(self._finished(exchange_id, records)):
            return False
        self._hurry()
        self._take(records)
        self._drafts.pop(exchange_id or "", None)
        return True

    def _wait(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        if not self._waiting.take(exchange_id, records):
            self.dropped += len(records)
            # Nothing ends its draft any more, which must not keep its segment for ever. As long as that is there, the
            # next life finds what the draft had come to: less than the record, but not nothing.
            self._drafts.pop(exchange_id or "", None)

    def _begin(self, exchange_id: str, draft: Draft, entry: bytes) -> None:
        self._drafts.pop(exchange_id, None)
        if self._append(entry):
            self._hurry()
            self._keep(exchange_id, draft)

    def _keep(self, exchange_id: str, draft: Draft) -> None:
        draft.segment_number = self._segment_number
        self._drafts.pop(exchange_id, None)  # the oldest draft stands first, always
        self._drafts[exchange_id] = draft

    def _take(self, records: Sequence[bytes]) -> None:
        """Records have been written."""
        self._tail.add(records)
        self.last += len(records)
        self._segments[-1].last = self.last
        self.on_written()

    def _append(self, entry: bytes) -> bool:
        """Write one entry, whole or not at all; False if it could not be."""
        return self._append_quickly(entry) if len(entry) <= self._room else self._append_slowly(entry)

    def _append_quickly(self, entry: bytes) -> bool:
        """Write an entry, or several, for which there is room."""
        size = len(entry)
        try:
            written = os.write(self._descriptor, entry)
        except OSError as error:
            written = 0
            self._note_problem(error.strerror)
        if written != size:
            self._cut_back(written)
            return False
        self._written += size
        self._room -= size
        if not self._is_dirty:
            self._note_unsynced(soon=False)
        return True

    def _hurry(self) -> None:
        if not self._is_urgent:
            self._note_unsynced(soon=True)

    def _note_unsynced(self, soon: bool) -> None:
        self._is_dirty = True
        self._is_urgent |= soon
        self.on_unsynced(soon)

    def _note_problem(self, problem: str | None) -> None:
        self.problem = problem
        self._room = 0  # from here on each append is looked at, until one succeeds
        self.on_problem()

    def _append_slowly(self, entry: bytes) -> bool:
        if self._written >= self._rotate_at_bytes:
            self._rotate()
        return self._stands or self._write(entry)

    def _write(self, entry: bytes) -> bool:
        """Write one entry to the open segment, whatever its size is by then."""
        size = len(entry)
        if size > ENTRY_BYTES_MAX or self._descriptor < 0:
            return False
        if self._other_bytes + self._written + size > self._limits.total_bytes_max:
            self._note_problem(f"the journal has reached its limit of {self._limits.total_bytes_max} bytes")
            return False
        if not self._append_quickly(entry):
            return False
        self.problem = None
        in_all = self._limits.total_bytes_max - self._other_bytes
        self._room = min(min(self._rotate_at_bytes, in_all) - self._written, ENTRY_BYTES_MAX)
        return True

    def _cut_back(self, written: int) -> None:
        """An append has failed behind `written` bytes: remove them, so that what follows can be read."""
        if not written:
            return
        self._note_problem("the disk is full")
        try:
            os.ftruncate(self._descriptor, self._written)
        except OSError:
            # The torn entry stays and ends this segment; the next one begins where its whole entries end.
            self._uncut, self._written = written, self._written + written
            self._leave_segment()

    def _leave_segment(self) -> None:
        self._segments[-1].size_bytes = self._written
        self._other_bytes += self._written
        self._left.append(self._descriptor)
        self._descriptor, self._written, self._room = -1, 0, 0

    def _rotate(self) -> None:
        """Begin a new segment; on failure stay with the one that is open, if there is one."""
        number = self._segment_number + 1
        path = self._folder / f"{number:08x}{SEGMENT_SUFFIX}"
        whose = orjson.dumps({"publisher": self.publisher, "epoch": self.epoch, "at_unix_s": int(time.time())})
        header = encode_entry(EntryKind.HEADER, self.last + 1, b"", (whose,))
        try:
            descriptor = create_segment(path, header)
        except OSError as error:
            self._note_problem(error.strerror)
            # Not at once again: on a full disk every record would pay for the attempt.
            self._rotate_at_bytes = self._written + self._limits.segment_bytes // 8
            return
        if self._descriptor >= 0:
            self._leave_segment()
        self._descriptor, self._segment_number, self._written = descriptor, number, len(header)
        self._rotate_at_bytes = self._limits.segment_bytes
        self._segments.append(Segment(number=number, path=path, first=self.last + 1, last=self.last, size_bytes=0))
        self._room = 0
        self._note_unsynced(soon=True)
        self._carry_drafts()

    def _carry_drafts(self) -> None:
        # Writing drafts again may cost a quarter of what is written anyway, not more.
        drafts_bytes = sum(draft.size_bytes for draft in self._drafts.values())
        segments = _CARRY_SEGMENTS * (1 + drafts_bytes // self._limits.segment_bytes)
        oldest_kept = self._segment_number - segments + 1
        while self._drafts:
            exchange_id, draft = next(iter(self._drafts.items()))
            if draft.segment_number >= oldest_kept:
                return
            start = encode_entry(_STARTED, 0, draft.key, (draft.record(),))
            # Straight to the file: an append could rotate again.
            if not self._write(start):
                return
            draft.begin(start)
            self._keep(exchange_id, draft)


def _ignore(*_: object) -> None:
    return


def _sync(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    except OSError:
        pass  # a disk that fails shows at the next write; there is nobody to tell here
