"""
One record on its way into the ledger: what arrives, checked and made ready for a row.

Times become microseconds since 1970; everything that is added up is within bounds that no sum of SQLite overflows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import orjson

from services.events.exchange import ExchangeCounted, UsageMembers, UsageRecorded
from services.events.verbatim import NUMBER_END, has_each_name_once

# A trillion tokens in one response: past it a number is damage, and nine million of them fit a signed 64-bit sum.
COUNT_MAX = 10**12
assert COUNT_MAX >= NUMBER_END
_COUNT_MIN = -COUNT_MAX
_UID_END = 1 << 32
# What a row has beside the record itself.
_entered = itemgetter("usage", "client", "provider", "model", "outcome", "at")
_USAGE_HEAD = b'{"schema":"%b",' % UsageRecorded.SCHEMA.encode()
_MESSAGE_HEAD = _USAGE_HEAD + b'"seq":%d,'
VERBATIM_BYTES_BESIDE = len(_USAGE_HEAD)
# What a row is made of where the record is verbatim (services.events.verbatim); `turn_id` and those of `CallNames` are
# for who attributes it.
VERBATIM_MEMBERS = (
    "at",
    "provider",
    "model",
    "response_id",
    "conversation_id",
    "outcome",
    "usage",
    "timing.started_at",
    "client.uid",
    "client.label",
    "turn_id",
)
VerbatimUsage: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
# How what attribution adds is written as long as it is missing. Strings of a verbatim record have no quotes within, and
# behind the client there is no other label.
_NO_LABEL = b'"label":null'
_NO_TURN = b'"turn_id":null}'
# `at` of a record: what the calendar of `periods` covers.
_ZERO = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_time_from = datetime.fromisoformat
_AT_MIN_US = (datetime(2000, 1, 1, tzinfo=UTC) - _ZERO) // _US
_AT_MAX_US = (datetime(9000, 1, 1, tzinfo=UTC) - _ZERO) // _US


class EntryInvalid(Exception):
    """A record that cannot become a row; the message says why, without content."""


class Source(NamedTuple):
    """One life of one publisher."""

    publisher: str
    epoch: str


class Series(NamedTuple):
    """What records are grouped by."""

    provider: str
    model: str | None
    label: str | None
    uid: int | None
    outcome: str


# Records are of few series: the same one is found faster than made, here and in every dictionary after.
_series = lru_cache(maxsize=1024)(Series)


class ExchangeSeries(NamedTuple):
    """What exchanges without usage are grouped by; `status_class` is 2 for 200 to 299, None without an answer."""

    host: str
    endpoint: str
    status_class: int | None


class UsageEntry(NamedTuple):
    """
    A usage record as a row.

    Attributes:
        counts: The JSON of `usage`.
        body: The JSON of the record, without schema and number.
    """

    at_unix_us: int
    series: Series
    usage: Mapping[str, int | float]
    counts: bytes
    body: bytes


class CallNames(NamedTuple):
    """What a record is known by to whoever caused it."""

    response_id: str | None
    conversation_id: str | None
    started_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeEntry:
    """An exchange that is only counted."""

    at_unix_us: int
    series: ExchangeSeries
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedEntry:
    """A record that could not be read: what it said is not kept, that it came is."""

    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GapEntry:
    """Records up to this one that their publisher no longer holds: they were never committed here and never will be."""

    reason: str


Entry: TypeAlias = UsageEntry | ExchangeEntry | RefusedEntry | GapEntry


class Superseding(NamedTuple):
    """An exchange that makes an arrival superfluous if a source has a record of it beyond a number."""

    source: Source
    after: int
    exchange_id: str


class Arrival(NamedTuple):
    """
    An entry and its place in its source's numbering.

    Attributes:
        unless: The record was derived from what a dead process left unfinished; it is dropped when the ledger has the
            finished one, which the journal lost in a power cut after it had been committed.
    """

    source: Source
    seq: int
    entry: Entry
    unless: Superseding | None = None


def usage_entry(record: UsageMembers) -> UsageEntry:
    """
    Make a usage record ready.

    Raises:
        EntryInvalid: No time, or a count beyond `COUNT_MAX`.
    """
    usage, client, provider, model, outcome, at = _entered(record)
    for name, count in usage.items():
        if not _COUNT_MIN <= count <= COUNT_MAX:
            raise EntryInvalid(f"count {name:.40} exceeds {COUNT_MAX}")
    uid = client["uid"]
    if uid is not None and not 0 <= uid < _UID_END:
        raise EntryInvalid("client.uid is no user id")
    series = _series(provider, model or None, client["label"] or None, uid, outcome)
    body = b"{" + orjson.dumps(record)[len(_USAGE_HEAD) :]
    return UsageEntry(_unix_us(at), series, usage, orjson.dumps(usage), body)


def verbatim_entry(record: VerbatimUsage) -> UsageEntry | None:
    """
    Make a usage record ready that was not parsed: the rest of its JSON behind the schema, and `VERBATIM_MEMBERS`.

    Returns:
        What `usage_entry` makes of the record, or None: it has to be looked at, and may have to be refused.
    """
    # No count of it exceeds `COUNT_MAX`: see `services.events.verbatim.NUMBER_END`.
    rest, at, provider, model, _, _, outcome, counts, _, uid, label, _ = record
    usage = orjson.loads(counts)
    series = _verbatim_series(provider, model, label, uid, outcome)
    if series is None or not has_each_name_once(counts, usage):
        return None
    try:
        at_unix_us = _unix_us(at[1:-1].decode())
    except EntryInvalid:
        return None
    return UsageEntry(at_unix_us, series, usage, counts, b"{" + rest)


def has_turn(record: VerbatimUsage) -> bool:
    """Say whether a record that was not parsed names its turn."""
    return record[-1] != b"null"


def call_names(record: VerbatimUsage) -> CallNames:
    """Return what a record that was not parsed is known by."""
    _, _, _, _, response_id, conversation_id, _, _, started_at, _, _, _ = record
    return CallNames(*orjson.loads(b"[%b,%b,%b]" % (response_id, conversation_id, started_at)))


def attributed(entry: UsageEntry, label: str | None, turn_id: str | None) -> UsageEntry:
    """
    Return the entry of a verbatim record that has no turn as `usage_entry` would make it with these.

    Args:
        label: Its own, or one for a record that has none.
    """
    at_unix_us, series, usage, counts, body = entry
    if label != series.label:
        before, _, behind = body.rpartition(_NO_LABEL)
        body = b'%b"label":%b%b' % (before, orjson.dumps(label), behind)
        series = _series(series.provider, series.model, label or None, series.uid, series.outcome)
    if turn_id is not None:
        body = b'%b"turn_id":%b}' % (body[: -len(_NO_TURN)], orjson.dumps(turn_id))
    return UsageEntry(at_unix_us, series, usage, counts, body)


def record_from(record: VerbatimUsage) -> dict[str, object]:
    """Parse such a record after all."""
    members: dict[str, object] = orjson.loads(_USAGE_HEAD + record[0])
    return members


@lru_cache(maxsize=1024)
def _verbatim_series(provider: bytes, model: bytes, label: bytes, uid: bytes, outcome: bytes) -> Series | None:
    # An empty label is none to the ledger and one to whoever attributes.
    uid_read, label_read = orjson.loads(uid), orjson.loads(label)
    if label_read == "" or (uid_read is not None and not 0 <= uid_read < _UID_END):
        return None
    return _series(orjson.loads(provider), orjson.loads(model) or None, label_read, uid_read, orjson.loads(outcome))


def exchange_entry(record: ExchangeCounted) -> ExchangeEntry:
    """
    Make a counted exchange ready.

    Raises:
        EntryInvalid: No time, or bytes beyond `COUNT_MAX`.
    """
    if not (0 <= record.bytes.up <= COUNT_MAX and 0 <= record.bytes.down <= COUNT_MAX):
        raise EntryInvalid(f"bytes exceed {COUNT_MAX}")
    status = record.http_status
    if status is not None and not 0 <= status <= 999:
        raise EntryInvalid("http_status is none")
    return ExchangeEntry(
        at_unix_us=_unix_us(record.at),
        series=ExchangeSeries(
            host=record.host, endpoint=record.endpoint, status_class=None if status is None else status // 100
        ),
        bytes_up=record.bytes.up,
        bytes_down=record.bytes.down,
    )


def messages_from(first_seq: int, bodies: Iterable[bytes]) -> list[bytes]:
    """Return records with consecutive numbers as the topic carries them: schema, number, then the rest."""
    return [_MESSAGE_HEAD % seq + body[1:] for seq, body in enumerate(bodies, first_seq)]


def members_from(seq: int, body: bytes) -> dict[str, object]:
    """Return the record as the API shows it."""
    return {"schema": UsageRecorded.SCHEMA, "seq": seq, **orjson.loads(body)}


def _unix_us(text: str) -> int:
    try:
        at_unix_us = (_time_from(text) - _ZERO) // _US
    except ValueError as error:
        raise EntryInvalid("at is no time") from error
    except TypeError:  # no offset, so nothing that a time which has one could be taken from
        at_unix_us = -1
    if not _AT_MIN_US <= at_unix_us < _AT_MAX_US:
        raise EntryInvalid("at has no offset, or is not of this age")
    return at_unix_us
