"""
What publishers and the accountant tell each other: batches of records, hellos, marks.

A batch is written by joining records that are JSON already: encoding them again would be the dearest part of sending.
It may be read without parsing those, too, that are as our own writers write them (services.events.verbatim).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import orjson

from services.events.codec import EVENT_BYTES_MAX, EventInvalid, read_object, value_from
from services.events.verbatim import STRING

BATCH_SCHEMA = "wiremeter.exchange-batch/1"
# Far beyond any life of a process, and far below what the ledger's 64 bits hold.
SEQ_MAX = 1 << 60
# What stands before the records of a batch, and behind each of them; as patterns.
_BATCH_HEAD = re.compile(
    rf'\{{"schema":"{re.escape(BATCH_SCHEMA)}","publisher":{STRING},"epoch":{STRING},"first_seq":[1-9][0-9]{{0,17}}+,'
    r'"records":\['.encode()
)
_BATCH_END = b"]}"
RECORD_END = r"(?:,|\]\}\Z)"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEpoch:
    """An epoch that a publisher holds: its records from `first` to `last`, both included."""

    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherGreeted:
    """
    Said by a publisher ten times a second, at rest every five seconds, and at once to whoever begins to listen: the
    epochs whose marks it wants to hear.

    A cursor below `first - 1` can never be served again: the publisher no longer holds what is missing.
    """

    SCHEMA: ClassVar[str] = "wiremeter.hello/1"

    publisher: str
    epochs: tuple[HeldEpoch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitMarked:
    """Said by the accountant: by epoch, the number up to which everything is committed."""

    SCHEMA: ClassVar[str] = "wiremeter.mark/1"

    publisher: str
    marks: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """
    Where the records of a batch come from, when they were derived from exchanges that a dead process left unfinished.

    Attributes:
        epoch: That process's own epoch.
        after: The last finished record that its journal still has. Beyond it the ledger may know more than the journal:
            a power cut takes what was not yet synced. What it knows there of an exchange is better than the derived.
    """

    epoch: str
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeBatch:
    """
    Records `first_seq`, `first_seq + 1`, … of one epoch.

    Each is a JSON object that is checked later, one by one, or a tuple of bytes: what a pattern found in one, unparsed.
    """

    publisher: str
    epoch: str
    first_seq: int
    records: Sequence[object]
    left_behind: LeftBehind | None = None


def encode_batch(
    publisher: str, epoch: str, first_seq: int, records: Sequence[bytes], left_behind: LeftBehind | None = None
) -> bytes:
    """Join records, each the JSON of one, to a message."""
    head = b'{"schema":"%b","publisher":"%b","epoch":"%b","first_seq":%d,'
    origin = b"" if left_behind is None else b'"left_behind":%b,' % orjson.dumps(left_behind)
    names = (BATCH_SCHEMA.encode(), publisher.encode(), epoch.encode(), first_seq)
    return head % names + origin + b'"records":[' + b",".join(records) + b"]}"


def read_batch(message: bytes, record: re.Pattern[bytes], record_bytes_beside: int) -> dict[str, object]:
    """
    Read a message as `read_object` does, but leave records of a batch unparsed that a pattern matches.

    Args:
        record: `services.events.verbatim.verbatim`, with `RECORD_END` after it; its groups are what is found of one.
        record_bytes_beside: What a record has beside the first group.

    Returns:
        Its members. The records of a batch may be tuples, the groups of each.

    Raises:
        EventInvalid: As for `read_object`.
    """
    head = _BATCH_HEAD.match(message)
    if head is not None and message.endswith(_BATCH_END) and len(message) <= EVENT_BYTES_MAX and _is_utf8(message):
        found = record.findall(message, head.end())
        # What is found does not overlap; if nothing is missing, nothing lies between.
        found_bytes = sum([len(groups[0]) for groups in found]) + len(found) * (record_bytes_beside + 1)
        if found and head.end() + found_bytes - 1 + len(_BATCH_END) == len(message):
            return {**read_object(head[0] + _BATCH_END), "records": found}
        mixed = _mixed_records(message, record, head.end()) if found else None
        if mixed is not None:
            return {**read_object(head[0] + _BATCH_END), "records": mixed}
    return read_object(message)


def _mixed_records(message: bytes, record: re.Pattern[bytes], position: int) -> list[object] | None:
    """Return records from a position on, parsed where a pattern does not match; None if these are not whole ones."""
    records: list[object] = []
    for found in record.finditer(message, position):
        if position < found.start():
            # What begins behind the comma of a whole record is a record, and no part of one.
            between = _values(message[position : found.start() - 1])
            if not between or message[found.start() - 1 : found.start()] != b",":
                return None
            records += between
        records.append(found.groups())
        position = found.end()
    if position < len(message):
        behind = _values(message[position : -len(_BATCH_END)])
        if not behind:
            return None
        records += behind
    return records


def _values(json: bytes) -> list[object]:
    """Return JSON values that are separated by commas; none if they are not."""
    try:
        found: list[object] = orjson.loads(b"[%b]" % json)
    except orjson.JSONDecodeError:
        return []
    return found


def _is_utf8(message: bytes) -> bool:
    try:
        return message.isascii() or message.decode() is not None
    except UnicodeDecodeError:
        return False


def batch_from(members: Mapping[str, object]) -> ExchangeBatch:
    """
    Read the envelope of a batch; the records stay as they are.

    Raises:
        EventInvalid: Not such an envelope.
    """
    publisher, epoch, first_seq = members.get("publisher"), members.get("epoch"), members.get("first_seq")
    records = members.get("records")
    if members.get("schema") != BATCH_SCHEMA:
        raise EventInvalid(f"schema is {members.get('schema')!r}, not {BATCH_SCHEMA!r}")
    if not isinstance(publisher, str) or not isinstance(epoch, str) or not isinstance(records, list):
        raise EventInvalid("publisher, epoch or records of a batch are missing")
    if not isinstance(first_seq, int) or isinstance(first_seq, bool) or not 1 <= first_seq <= SEQ_MAX:
        raise EventInvalid(f"first_seq of a batch is {first_seq!r:.40}")
    origin = members.get("left_behind")
    left_behind = None
    if origin is not None:
        if not isinstance(origin, dict):
            raise EventInvalid("left_behind of a batch is no object")
        left_behind = value_from(LeftBehind, origin, "left_behind")
    return ExchangeBatch(
        publisher=publisher, epoch=epoch, first_seq=first_seq, records=records, left_behind=left_behind
    )


def readable(record: bytes) -> bytes:
    """
    Return the record, or a stand-in for one that is not JSON.

    Such a record, joined into a batch, makes the whole batch unreadable, and with it all that follow: a bug in its
    maker must not stop the stream. The ledger refuses the stand-in and says so.
    """
    try:
        orjson.loads(record)
    except orjson.JSONDecodeError:
        return orjson.dumps({"schema": "wiremeter.unreadable/1", "bytes": len(record)})
    return record
