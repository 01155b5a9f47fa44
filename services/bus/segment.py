"""
The format of a journal segment: entries to bytes, and bytes in any split back to entries.

    length u32 · crc32 u32 · sequence u64 · body             little-endian; the sum covers sequence and body
    body = kind u8 · id length u8 · exchange id · { part length u32 · part }

Whatever belongs together is one entry under one sum, so that a torn write loses all of it or nothing: the records of
an exchange never stand without the end of its draft. Reading stops for good at the first entry that is not whole.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

_HEAD = struct.Struct("<II")
pack_head = _HEAD.pack  # length and crc32
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_BYTES = _SEQUENCE.size
_pack_body_head = struct.Struct("<QBB").pack  # sequence, kind, id length
_LENGTH = struct.Struct("<I")
_pack_length = _LENGTH.pack
_HEAD_BYTES = _HEAD.size + _SEQUENCE_BYTES
# One entry holds what one exchange ended with; a WebSocket reports as it goes. Past this it is damage, not data.
ENTRY_BYTES_MAX = 16 * 1024 * 1024
EXCHANGE_ID_BYTES_MAX = 255


class EntryKind(IntEnum):
    """What an entry says."""

    HEADER = 1  # of a segment: sequence is the first that it may hold; part 0 says whose it is
    STARTED = 2  # an exchange began; part 0 is the record that stands if nothing more is written
    PROGRESSED = 3  # part 0 is a JSON object whose members replace those of the draft
    FINISHED = 4  # each part is a record, the first numbered `sequence`; the draft is void


class Entry(NamedTuple):
    """One entry; `sequence` is 0 for the kinds that have none."""

    kind: EntryKind
    sequence: int
    exchange_id: bytes
    parts: tuple[bytes, ...]


def encode_entry(kind: EntryKind, sequence: int, exchange_id: bytes, parts: Sequence[bytes]) -> bytes:
    """Write one entry; an id is cut after `EXCHANGE_ID_BYTES_MAX` bytes."""
    exchange_id = exchange_id[:EXCHANGE_ID_BYTES_MAX]
    pieces = [_pack_body_head(sequence, kind, len(exchange_id)), exchange_id]
    for part in parts:
        pieces += _pack_length(len(part)), part
    summed = b"".join(pieces)
    return pack_head(len(summed) - _SEQUENCE_BYTES, crc32(summed)) + summed


def encode_single(head: bytes, part: bytes) -> bytes:
    """Write an entry of one part behind a head that `entry_head` has written; `part_of_single` returns the part."""
    summed = head + _pack_length(len(part)) + part
    return pack_head(len(summed) - _SEQUENCE_BYTES, crc32(summed)) + summed


def single_prefix(head: bytes, part_bytes: int) -> tuple[bytes, int, int]:
    """Return what `encode_single` writes from `head` to the part, its crc32, and the entry's length; for many parts."""
    prefix = head + _pack_length(part_bytes)
    return prefix, crc32(prefix), len(prefix) + part_bytes - _SEQUENCE_BYTES


def part_of_single(entry: bytes, head: bytes) -> bytes:
    """Return the part that `encode_single` has written behind a head of that length."""
    return entry[_HEAD.size + len(head) + _LENGTH.size :]


def entry_head(kind: EntryKind, sequence: int, exchange_id: bytes) -> bytes:
    """Write what stands before the parts of an entry; an id is cut after `EXCHANGE_ID_BYTES_MAX` bytes."""
    exchange_id = exchange_id[:EXCHANGE_ID_BYTES_MAX]
    return _pack_body_head(sequence, kind, len(exchange_id)) + exchange_id


class SegmentReader:
    """
    Takes the bytes of one segment in any split, returns whole entries.

    Attributes:
        position: Where the last whole entry ended.
        damage: Why reading stopped for good; None while all is well. A segment that merely ends early is not damaged:
            its last entry may still be on the way.
    """

    __slots__ = ("_buffer", "damage", "position")

    def __init__(self, position: int = 0) -> None:
        self._buffer = b""
        self.position = position
        self.damage: str | None = None

    def feed(self, data: bytes) -> list[Entry]:
        """Return the entries that are whole now."""
        buffer = self._buffer + data if self._buffer else data
        entries: list[Entry] = []
        offset = 0
        while self.damage is None and len(buffer) - offset >= _HEAD_BYTES:
            length, expected_sum = _HEAD.unpack_from(buffer, offset)
            if length > ENTRY_BYTES_MAX:
                self.damage = f"entry of {length} bytes exceeds {ENTRY_BYTES_MAX}"
                break
            end = offset + _HEAD_BYTES + length
            if end > len(buffer):
                break
            summed = buffer[offset + _HEAD.size : end]
            entry = _entry_from(summed) if crc32(summed) == expected_sum else None
            if entry is None:
                self.damage = f"entry at {self.position} does not match its sum"
                break
            entries.append(entry)
            self.position += end - offset
            offset = end
        self._buffer = b"" if self.damage else buffer[offset:]
        return entries

    @property
    def pending_bytes(self) -> int:
        """Bytes taken that are not yet a whole entry."""
        return len(self._buffer)


def _entry_from(summed: bytes) -> Entry | None:
    body = _SEQUENCE_BYTES
    if len(summed) < body + 2 or summed[body] not in EntryKind._value2member_map_:
        return None
    offset = body + 2 + summed[body + 1]
    exchange_id = summed[body + 2 : offset]
    parts: list[bytes] = []
    while offset < len(summed):
        if len(summed) - offset < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(summed, offset)
        offset += _LENGTH.size + length
        parts.append(summed[offset - length : offset])
    if offset != len(summed):
        return None  # a part claims more than there is
    return Entry(EntryKind(summed[body]), _SEQUENCE.unpack_from(summed)[0], exchange_id, tuple(parts))
