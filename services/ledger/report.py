"""
Sums to the usage report, `wiremeter.usage-report/1`.

Beside the sums every part says how many of its responses are `bounds` (broken off: the true counts are at least these)
or `unknown` (reported nothing), and for each count how many responses `reported` it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.ledger.entry import ExchangeSeries, Series
from services.ledger.periods import DAY_US, Level, start_of
from services.ledger.rollups import BOUNDS, NOTHING, RESPONSES, UNKNOWN, Sum
from services.ledger.window import text_from

REPORT_SCHEMA = "wiremeter.usage-report/1"


class SumRow(NamedTuple):
    """One sum; `period` is None where nobody asked for periods."""

    level: Level
    period: int | None
    series: Series
    measure: str
    sum: Sum


class ExchangeRow(NamedTuple):
    """Exchanges without usage of one series."""

    series: ExchangeSeries
    exchanges: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The window of a report as it was asked for; None stands for "no bound"."""

    since_us: int | None
    until_us: int | None


class _Group:
    """Sums of the responses that share something."""

    __slots__ = ("_measures", "_outcomes")

    def __init__(self) -> None:
        self._measures: dict[str, Sum] = {}
        self._outcomes: dict[str, int] = {}

    def add(self, row: SumRow) -> None:
        self._measures[row.measure] = self._measures.get(row.measure, NOTHING).plus(row.sum)
        if row.measure == RESPONSES:
            outcome = row.series.outcome
            self._outcomes[outcome] = self._outcomes.get(outcome, 0) + row.sum.reported

    @property
    def requests(self) -> int:
        return self._measures.get(RESPONSES, NOTHING).reported

    def members(self) -> dict[str, object]:
        counts = {name: value for name, value in sorted(self._measures.items()) if not name.startswith("#")}
        return {
            "requests": self.requests,
            "usage": {name: value.total for name, value in counts.items()},
            "reported": {name: value.reported for name, value in counts.items()},
            "outcomes": dict(sorted(self._outcomes.items())),
            "bounds": self._measures.get(BOUNDS, NOTHING).reported,
            "unknown": self._measures.get(UNKNOWN, NOTHING).reported,
        }


def _client(series: Series) -> str:
    return series.label or ("unknown" if series.uid is None else f"uid:{series.uid}")


# Group -> what its parts are told apart by, as members of the report.
_KEYS: Mapping[str, Callable[[SumRow], Mapping[str, object]]] = {
    "model": lambda row: {"model": row.series.model, "provider": row.series.provider},
    "client": lambda row: {"client": _client(row.series), "label": row.series.label, "uid": row.series.uid},
    "provider": lambda row: {"provider": row.series.provider},
    "outcome": lambda row: {"outcome": row.series.outcome},
    "hour": lambda row: {"hour": _start(row)},
    "day": lambda row: {"day": _start(row, Level.DAY)},
}


def _start(row: SumRow, level: Level | None = None) -> str:
    assert row.period is not None
    start_us = start_of(row.level, row.period)
    if level is Level.DAY:
        start_us = start_us // DAY_US * DAY_US
    return text_from(start_us)[:19] + "Z"


def usage_report(
    rows: Sequence[SumRow], exchanges: Iterable[ExchangeRow], groups: Sequence[str], window: Window, now_us: int
) -> dict[str, object]:
    """Write the report: totals, by model, by client, and by whatever else was asked."""
    report: dict[str, object] = {
        "schema": REPORT_SCHEMA,
        "generated_at": text_from(now_us),
        "window": {
            "since": None if window.since_us is None else text_from(window.since_us),
            "until": None if window.until_us is None else text_from(window.until_us),
        },
        "totals": _totals(rows),
    }
    for group in dict.fromkeys(("model", "client", *groups)):
        report[f"by_{group}"] = _parts(rows, _KEYS[group], by_time=group in ("hour", "day"))
    report["endpoints"] = [
        {
            "host": row.series.host,
            "endpoint": row.series.endpoint,
            "status_class": None if row.series.status_class is None else f"{row.series.status_class}xx",
            "exchanges": row.exchanges,
            "bytes": {"up": row.bytes_up, "down": row.bytes_down},
        }
        for row in sorted(exchanges, key=lambda row: -row.exchanges)
    ]
    return report


def _totals(rows: Iterable[SumRow]) -> dict[str, object]:
    whole = _Group()
    for row in rows:
        whole.add(row)
    return whole.members()


def _parts(
    rows: Iterable[SumRow], key: Callable[[SumRow], Mapping[str, object]], *, by_time: bool
) -> list[dict[str, object]]:
    groups: dict[tuple[tuple[str, object], ...], _Group] = {}
    for row in rows:
        groups.setdefault(tuple(key(row).items()), _Group()).add(row)
    if by_time:
        ordered = sorted(groups.items(), key=lambda item: str(item[0]))
    else:
        ordered = sorted(groups.items(), key=lambda item: (-item[1].requests, str(item[0])))
    return [{**dict(names), **group.members()} for names, group in ordered]
