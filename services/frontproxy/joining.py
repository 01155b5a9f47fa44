"""
Usage of a turn: the ledger's records that carry its id, added up.

The records come from the wire by way of the accountant, usually a few milliseconds after the answer's last word. The
join is settled when every response that the language server named is there; when it names none, once a record is
there and none has followed for `QUIET_S`; and in any case `wait_s` after the end. What is missing then makes the sum
a lower bound (`complete` is False), never a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.events.exchange import UsageRecorded
from services.events.usage import Outcome

# An agent's calls end before its answer does; a record is committed and published within some 10 ms.
QUIET_S: Final = 0.15
# A turn of an agent makes a few dozen calls; past this many its records are no longer taken, and the sum says so.
RECORDS_MAX: Final = 10_000

# Outcomes whose counts are whatever they are, finally: a refusal or an error spends what it reports.
_FINAL: Final = frozenset({Outcome.OK, Outcome.BLOCKED, Outcome.ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What a turn used of one model."""

    model: str
    provider: str
    calls: int
    counts: Mapping[str, int | float]
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUsage:
    """
    What a turn used.

    Attributes:
        calls: Responses of providers.
        counts: Sums by name; a name is present if and only if some response reported it.
        complete: Every expected record is there and final, so that the sums are exact.
    """

    calls: int
    counts: Mapping[str, int | float]
    by_model: tuple[ModelUsage, ...]
    complete: bool


class UsageJoin:
    """Collects the records of one turn."""

    def __init__(self, *, wait_s: float) -> None:
        self._wait_s = wait_s
        self._records: dict[str, UsageRecorded] = {}
        self._response_ids: set[str] = set()
        self._last_record_at_s = 0.0
        self._ended_at_s: float | None = None
        self._expected: frozenset[str] = frozenset()

    def feed(self, record: UsageRecorded, now_s: float) -> None:
        """Take a record of this turn; one that is told twice counts once."""
        if record.event_id in self._records or len(self._records) >= RECORDS_MAX:
            return
        self._records[record.event_id] = record
        if record.response_id is not None:
            self._response_ids.add(record.response_id)
        self._last_record_at_s = now_s

    def end(self, response_ids: Sequence[str], now_s: float) -> None:
        """Learn that the turn is done and which responses the language server names."""
        self._expected = frozenset(response_ids)
        self._ended_at_s = now_s

    def wake_at_s(self) -> float:
        """Return when to look again if no record comes."""
        assert self._ended_at_s is not None, "usage is waited for after the turn's end"
        limit = self._ended_at_s + self._wait_s
        if self._expected or not self._records:
            return limit
        return min(limit, max(self._ended_at_s, self._last_record_at_s) + QUIET_S)

    def is_settled(self, now_s: float) -> bool:
        """Is there nothing more to wait for?"""
        if self._expected and self._expected <= self._response_ids:
            return True
        return now_s >= self.wake_at_s()

    def usage(self) -> TurnUsage:
        """Add up what has come."""
        records = list(self._records.values())
        by_model: dict[tuple[str, str], list[UsageRecorded]] = {}
        for record in records:
            by_model.setdefault((record.model or "unknown", record.provider), []).append(record)
        return TurnUsage(
            calls=len(records),
            counts=_sums(records),
            by_model=tuple(_model_usage(*key, found) for key, found in by_model.items()),
            complete=self._is_complete(records),
        )

    def _is_complete(self, records: Sequence[UsageRecorded]) -> bool:
        full = 0 < len(records) < RECORDS_MAX
        return full and self._expected <= self._response_ids and all(record.outcome in _FINAL for record in records)


def _model_usage(model: str, provider: str, records: Sequence[UsageRecorded]) -> ModelUsage:
    outcomes: dict[str, int] = {}
    for record in records:
        outcomes[record.outcome.value] = outcomes.get(record.outcome.value, 0) + 1
    return ModelUsage(model=model, provider=provider, calls=len(records), counts=_sums(records), outcomes=outcomes)


def _sums(records: Sequence[UsageRecorded]) -> dict[str, int | float]:
    sums: dict[str, int | float] = {}
    for record in records:
        for name, count in record.usage.items():
            sums[name] = sums.get(name, 0) + count
    return sums
