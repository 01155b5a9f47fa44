"""
Epochs on disk: their segments, their records read in order, and what a dead process left unfinished.

`<journal>/<publisher>/<epoch>/<number>.segment`, and beside the segments of an epoch whose records were all committed
a file `covered` with its range, so that a later start need not read it. Nothing is ever appended to an older epoch.
"""

import bisect
import errno
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson

from services.bus.delivery import LeftBehind
from services.bus.segment import Entry, EntryKind, SegmentReader

# Makes the record of an unfinished exchange of what its process had written down for itself.
Restore: TypeAlias = Callable[[dict[str, object]], dict[str, object]]

SEGMENT_SUFFIX = ".segment"
_COVERED = "covered"
# One read: large enough that a backlog of a million records costs a few thousand system calls.
_CHUNK_BYTES = 256 * 1024


class SegmentVanished(Exception):
    """A segment cannot be read any more; somebody has removed it."""

    def __init__(self, segment: "Segment", why: str) -> None:
        super().__init__(f"{segment.path} cannot be read: {why}")
        self.segment = segment


@dataclass(slots=True, kw_only=True)
class Segment:
    """
    One file of an epoch.

    Attributes:
        first: Number of the first record that it may hold.
        last: Number of the last record that it holds; `first - 1` when there is none.
        covered_at_unix_s: When all of it was known to be committed.
    """

    number: int
    path: Path
    first: int
    last: int
    size_bytes: int
    covered_at_unix_s: float | None = None


class EpochReader:
    """
    Reads the records of one epoch in order and keeps its place.

    The list of segments is shared with whoever adds and removes them.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._ahead: deque[tuple[int, bytes]] = deque()
        self._upcoming = 0  # the record that the file's position is at
        self._number = -1
        self._descriptor = -1
        self._reader = SegmentReader()
        # (record, segment number, position), one for each chunk that was read: where to go back to.
        self._places: list[tuple[int, int, int]] = []

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = self._number = -1
        self._ahead.clear()

    def read(self, first: int, records_max: int, bytes_max: int) -> list[bytes]:
        """
        Return records `first`, `first + 1`, …, at least one if there is one.

        Raises:
            SegmentVanished: A file is gone.
        """
        if self._number < 0 or first < (self._ahead[0][0] if self._ahead else self._upcoming) or self._is_beyond(first):
            self._seek(first)
        found: list[bytes] = []
        total = 0
        while len(found) < records_max:
            if not self._ahead and not self._fill():
                break
            while self._ahead and self._ahead[0][0] < first + len(found):
                self._ahead.popleft()
            if not self._ahead:
                continue
            sequence, record = self._ahead[0]
            if sequence != first + len(found) or (found and total + len(record) > bytes_max):
                break
            self._ahead.popleft()
            found.append(record)
            total += len(record)
        return found

    def _is_beyond(self, first: int) -> bool:
        """Say whether a later segment than the open one begins at or before `first`: reading up to it is waste."""
        return any(segment.number > self._number and segment.first <= first for segment in self._segments)

    def _seek(self, first: int) -> None:
        segment = next((each for each in reversed(self._segments) if each.first <= first), None)
        if segment is None:
            self.close()
            return
        sequence, position = segment.first, 0
        place = bisect.bisect_right(self._places, (first, 1 << 62, 0)) - 1
        if place >= 0 and self._places[place][1] == segment.number:
            sequence, _, position = self._places[place]
        self._open(segment, sequence, position)

    def _open(self, segment: Segment, sequence: int, position: int) -> None:
        self.close()
        try:
            self._descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise SegmentVanished(segment, str(error.strerror)) from error
        self._number, self._upcoming, self._reader = segment.number, sequence, SegmentReader(position)

    def _fill(self) -> bool:
        """Read until there are records ahead; False at the end of what there is."""
        while self._descriptor >= 0:
            at = self._reader.position + self._reader.pending_bytes
            data = b"" if self._reader.damage else os.pread(self._descriptor, _CHUNK_BYTES, at)
            if not data:
                following = next((each for each in self._segments if each.number > self._number), None)
                if following is None:
                    return False
                self._open(following, following.first, 0)
                continue
            if not self._places or self._places[-1][0] < self._upcoming:
                self._places.append((self._upcoming, self._number, self._reader.position))
            self._take(self._reader.feed(data))
            if self._ahead:
                return True
        return False

    def _take(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.FINISHED:
                self._ahead.extend(enumerate(entry.parts, entry.sequence))
                self._upcoming = entry.sequence + len(entry.parts)


class Unfinished:
    """
    A record for every exchange that a dead process left unfinished, in the order in which they began.

    An epoch of its own, with a name derived from the dead one's: numbered after the finished records they could collide
    with records that the ledger knows and the journal has lost in a power cut.
    """

    def __init__(self, epoch: str, finished_last: int, records: list[bytes]) -> None:
        self.epoch = hashlib.sha256(f"{epoch} unfinished".encode()).hexdigest()[: len(epoch)]
        self.first = 1
        self.last = len(records)
        self.left_behind = LeftBehind(epoch=epoch, after=finished_last)
        self._records = records

    def read(self, first: int, records_max: int, bytes_max: int) -> list[bytes]:
        """Return records from `first` on, at least one if there is one."""
        found: list[bytes] = []
        total = 0
        for record in self._records[first - 1 : first - 1 + records_max]:
            total += len(record)
            if found and total > bytes_max:
                break
            found.append(record)
        return found

    def forget(self, segment: Segment) -> None:
        """Nothing is read from disk here."""


class PastEpoch:
    """
    What an earlier life of this publisher left: its finished records, and beside them `unfinished`.

    Both are derived from the journal, the same at each start.
    """

    left_behind = None

    def __init__(self, folder: Path, restore: Restore | None = None) -> None:
        self.folder = folder
        self._restore = restore
        self.epoch = folder.name
        self.first = 1
        self.last = 0
        self.unfinished = Unfinished(self.epoch, 0, [])
        self.damage: str | None = None
        self.covered_at_unix_s: float | None = None
        self._segments: list[Segment] = []
        self._reader = EpochReader(self._segments)
        self._is_scanned = False
        self._read_covered()

    @property
    def is_empty(self) -> bool:
        """Whether there is no record at all."""
        return self.last < self.first and self.unfinished.last == 0

    @property
    def needs_scan(self) -> bool:
        """Whether its records, or even its range, are not known yet."""
        return not self._is_scanned

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*" + SEGMENT_SUFFIX))

    def scan(self) -> None:
        """Read all of it once; blocks, for some milliseconds per megabyte."""
        drafts: dict[bytes, list[bytes]] = {}
        expected: int | None = None
        segments: list[Segment] = []
        for path in sorted(self.folder.glob("*" + SEGMENT_SUFFIX)):
            segment = _scan_segment(path, expected, drafts, self)
            if segment is None:
                break
            segments.append(segment)
            expected = segment.last + 1
        self._segments[:] = segments
        self.first = segments[0].first if segments else 1
        self.last = (expected or 1) - 1
        records = [unfinished_record(parts, self._restore) for parts in drafts.values()]
        self.unfinished = Unfinished(self.epoch, self.last, records)
        self._is_scanned = True

    def read(self, first: int, records_max: int, bytes_max: int) -> list[bytes]:
        """Return finished records from `first` on; see `EpochReader.read`."""
        if not self._is_scanned or not self.first <= first <= self.last:
            return []
        return self._reader.read(first, records_max, bytes_max)

    def forget(self, segment: Segment) -> None:
        """Give up on a segment that has vanished and on all before it."""
        self._segments[:] = [each for each in self._segments if each.number > segment.number]
        self.first = self._segments[0].first if self._segments else self.last + 1

    def note_covered(self, now_unix_s: float) -> None:
        """Write down that all of it is committed."""
        self._reader.close()
        self.covered_at_unix_s = now_unix_s
        write_covered(self.folder, self.first, self.last, self.unfinished.last)

    def delete(self) -> None:
        """Remove it from the disk."""
        self._reader.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_covered(self) -> None:
        try:
            path = self.folder / _COVERED
            noted = orjson.loads(path.read_bytes())
            first, last, unfinished = int(noted["first"]), int(noted["last"]), int(noted["unfinished"])
            self.covered_at_unix_s = path.stat().st_mtime
        except (OSError, ValueError, TypeError, KeyError):
            return
        self.first, self.last = first, last
        self.unfinished.last = unfinished


def create_segment(path: Path, header: bytes) -> int:
    """
    Begin a segment with its header, in a folder that is made if need be.

    Returns:
        Its descriptor, for appending.

    Raises:
        OSError: It cannot be made, or has no room for the header; then it is not there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.write(descriptor, header) < len(header):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def write_covered(folder: Path, first: int, last: int, unfinished: int) -> None:
    """Note the range of an epoch that is committed; a note that cannot be written costs a scan later, no more."""
    fresh = folder / (_COVERED + ".new")
    try:
        fresh.write_bytes(orjson.dumps({"first": first, "last": last, "unfinished": unfinished}))
        fresh.replace(folder / _COVERED)
    except OSError:
        fresh.unlink(missing_ok=True)


def unfinished_record(parts: Sequence[bytes], restore: Restore | None = None) -> bytes:
    """Merge a draft with what was journaled of its progress: later members replace earlier ones, at top level."""
    if restore is None and len(parts) == 1:
        return parts[0]
    merged: dict[str, object] = {}
    for part in parts:
        try:
            members = orjson.loads(part)
        except orjson.JSONDecodeError:
            continue  # what can be read counts
        if isinstance(members, dict):
            merged |= members
    return orjson.dumps(restore(merged) if restore else merged)


def _scan_segment(
    path: Path, expected: int | None, drafts: dict[bytes, list[bytes]], epoch: PastEpoch
) -> Segment | None:
    reader = SegmentReader()
    segment: Segment | None = None
    with path.open("rb") as file:
        while reader.damage is None and (data := file.read(_CHUNK_BYTES)):
            for entry in reader.feed(data):
                if segment is None:
                    # A segment that does not follow the one before: the end of that one is lost, and so is its place.
                    if entry.kind is not EntryKind.HEADER or entry.sequence != (expected or entry.sequence):
                        return None
                    segment = Segment(
                        number=int(path.stem, 16),
                        path=path,
                        first=entry.sequence,
                        last=entry.sequence - 1,
                        size_bytes=path.stat().st_size,
                    )
                elif entry.kind is EntryKind.FINISHED and entry.sequence != segment.last + 1:
                    return segment
                else:
                    _scan_entry(entry, segment, drafts)
    epoch.damage = epoch.damage or reader.damage
    return segment


def _scan_entry(entry: Entry, segment: Segment, drafts: dict[bytes, list[bytes]]) -> None:
    match entry.kind:
        case EntryKind.STARTED:
            drafts.pop(entry.exchange_id, None)  # a draft that is written again takes its new place in the order
            drafts[entry.exchange_id] = list(entry.parts)
        case EntryKind.PROGRESSED:
            if entry.exchange_id in drafts:
                drafts[entry.exchange_id].extend(entry.parts)
        case EntryKind.FINISHED:
            drafts.pop(entry.exchange_id, None)
            segment.last += len(entry.parts)
        case EntryKind.HEADER:
            pass
