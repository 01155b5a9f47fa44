"""
Which records are taken: for every epoch of every publisher the next one, and nothing else.

Two numbers per source: what is committed, and what has been taken on top and waits for its commit. After a commit that
failed both are what the ledger says, and the publishers send again.
"""

from collections.abc import Mapping, Sequence
from itertools import count, repeat
from typing import Any

from services.accountant.attribution import Attribution
from services.bus.delivery import RECORD_END, SEQ_MAX, ExchangeBatch, HeldEpoch, LeftBehind, read_batch
from services.events.codec import EventInvalid, checked, decode
from services.events.exchange import ExchangeCounted, UsageRecorded
from services.events.verbatim import verbatim
from services.ledger.entry import (
    VERBATIM_BYTES_BESIDE,
    VERBATIM_MEMBERS,
    Arrival,
    Entry,
    EntryInvalid,
    GapEntry,
    RefusedEntry,
    Source,
    Superseding,
    exchange_entry,
    has_turn,
    record_from,
    usage_entry,
    verbatim_entry,
)

_VERBATIM = verbatim(UsageRecorded, VERBATIM_MEMBERS, after=RECORD_END)


def read_message(message: bytes) -> dict[str, object]:
    """
    Read what publishers send; usage records that are as our writers write them stay unparsed.

    Parsing such a record, checking it member by member and writing it again, as the bytes that it was before, would be
    half of what the accountant does.

    Raises:
        EventInvalid: See `services.events.codec.read_object`.
    """
    return read_batch(message, _VERBATIM, VERBATIM_BYTES_BESIDE)


class Intake:
    """
    Takes batches in any order and any number of times, hands out arrivals in order, each once.

    Args:
        attribution: Says whose a record is.
        pending_max: How many may be pending; the publishers send what finds no room again.

    Attributes:
        pending: Taken and not yet handed out.
        refused: Records that could not be read, since the start.
        gone: Records that their publishers no longer held, since the start.
    """

    def __init__(self, attribution: Attribution, *, pending_max: int) -> None:
        self._attribution = attribution
        self._pending_max = pending_max
        self._committed: dict[Source, int] = {}
        self._taken: dict[Source, int] = {}
        self.pending: list[Arrival] = []
        self.refused = 0
        self.gone = 0

    def reset(self, cursors: Mapping[Source, int]) -> None:
        """Begin from what the ledger says; what was taken and not committed will come again."""
        self._committed = dict(cursors)
        self._taken = dict(cursors)
        self.pending = []

    def committed(self, cursors: Mapping[Source, int]) -> None:
        """The ledger has committed up to here."""
        self._committed.update(cursors)

    def take(self, batch: ExchangeBatch) -> None:
        """Take the records of a batch that are next in line; the rest comes again in its turn, or was here before."""
        source = Source(batch.publisher, batch.epoch)
        expected = self._taken.get(source, 0) + 1
        if not batch.first_seq <= expected < batch.first_seq + len(batch.records):
            return
        # What finds no room the publisher sends again: its journal has more of it than our memory.
        room = max(0, self._pending_max - len(self.pending))
        records = batch.records[expected - batch.first_seq :][:room]
        entries = [self._entry_of(each) for each in records]
        left = batch.left_behind
        unless = repeat(None) if left is None else [_superseding(batch.publisher, left, each) for each in records]
        self.pending += map(Arrival, repeat(source), count(expected), entries, unless)
        self._taken[source] = expected - 1 + len(records)

    def greet(self, publisher: str, held: Sequence[HeldEpoch]) -> None:
        """A publisher says what it holds: where our cursor lies before that, what is between is gone for good."""
        for each in held:
            source = Source(publisher, each.epoch)
            taken = self._taken.get(source, 0)
            if taken + 1 < each.first <= each.last + 1 <= SEQ_MAX:
                reason = f"{each.first - 1 - taken} records are no longer held by their publisher"
                self.gone += each.first - 1 - taken
                self.pending.append(Arrival(source=source, seq=each.first - 1, entry=GapEntry(reason=reason)))
                self._taken[source] = each.first - 1

    def hand_out(self, records_max: int) -> list[Arrival]:
        """Return what is to be committed next."""
        out, self.pending = self.pending[:records_max], self.pending[records_max:]
        return out

    def marks(self, publisher: str, epochs: Sequence[str]) -> dict[str, int]:
        """Return what is committed of some epochs of a publisher."""
        return {epoch: self._committed.get(Source(publisher, epoch), 0) for epoch in epochs}

    def _entry_of(self, record: object) -> Entry:
        if isinstance(record, tuple):
            entry = None if has_turn(record) else verbatim_entry(record)
            if entry is not None:
                return self._attribution.attribute_verbatim(entry, record)
            record = record_from(record)
        try:
            if not isinstance(record, dict):
                raise EventInvalid(f"record is a {type(record).__name__}, not an object")
            if record.get("schema") == ExchangeCounted.SCHEMA:
                return exchange_entry(decode(ExchangeCounted, record))
            members: Any = checked(UsageRecorded, record)
            return usage_entry(self._attribution.attribute(members))
        except EntryInvalid as error:
            reason = str(error)
        except EventInvalid as error:
            reason = _without_content(str(error))
        self.refused += 1
        return RefusedEntry(reason=reason, size_bytes=len(repr(record)))


def _superseding(publisher: str, left: LeftBehind, record: object) -> Superseding | None:
    if not isinstance(record, dict):
        return None
    after = min(max(left.after, 0), SEQ_MAX)
    return Superseding(source=Source(publisher, left.epoch), after=after, exchange_id=str(record.get("exchange_id")))


def _without_content(reason: str) -> str:
    # The codec's messages quote a value of at most 80 characters; a record that is damaged might hold anything.
    where, _, rest = reason.partition(" is ")
    return f"{where} is not as it should be" if rest else where
