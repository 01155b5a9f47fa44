"""
Sums to the usage report, `wiremeter.usage-report/1`.

Beside the sums every part says how many of its responses are `bounds` (broken off: the true counts are at least these)
or `unknown` (reported nothing), and for each count how many responses `reported` it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.ledger.entry import ExchangeSeries, Series
from services.ledger.periods import DAY_US, Level, start_of
from services.ledger.rollups import BOUNDS, RESPONSES, UNKNOWN, Number, Sum
from services.ledger.window import text_from

REPORT_SCHEMA = "wiremeter.usage-report/1"


class SumRow(NamedTuple):
    """A `Sum`; `period` is None where nobody asked for periods."""

    level: Level
    period: int | None
    series: Series
    measure: str
    total: Number
    reported: int


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

    __slots__ = ("_outcomes", "_reported", "_totals")

    def __init__(self) -> None:
        self._totals: dict[str, Number] = {}
        self._reported: dict[str, int] = {}
        self._outcomes: dict[str, int] = {}

    def add(self, series: Series, measure: str, total: Number, reported: int) -> None:
        totals = self._totals
        if measure in totals:
            totals[measure] += total
            self._reported[measure] += reported
        else:
            totals[measure] = total
            self._reported[measure] = reported
        if measure == RESPONSES:
            self._outcomes[series.outcome] = self._outcomes.get(series.outcome, 0) + reported

    @property
    def requests(self) -> int:
        return self._reported.get(RESPONSES, 0)

    def members(self) -> dict[str, object]:
        names = sorted(name for name in self._totals if not name.startswith("#"))
        return {
            "requests": self.requests,
            "usage": {name: self._totals[name] for name in names},
            "reported": {name: self._reported[name] for name in names},
            "outcomes": dict(sorted(self._outcomes.items())),
            "bounds": self._reported.get(BOUNDS, 0),
            "unknown": self._reported.get(UNKNOWN, 0),
        }


def _client(series: Series) -> str:
    return series.label or ("unknown" if series.uid is None else f"uid:{series.uid}")


# Group -> what its parts are told apart by, as members of the report.
_KEYS: Mapping[str, Callable[[Series], Mapping[str, object]]] = {
    "model": lambda series: {"model": series.model, "provider": series.provider},
    "client": lambda series: {"client": _client(series), "label": series.label, "uid": series.uid},
    "provider": lambda series: {"provider": series.provider},
    "outcome": lambda series: {"outcome": series.outcome},
}
_TIMES: Mapping[str, Level] = {"hour": Level.HOUR, "day": Level.DAY}


def _start(level: Level, period: int | None, wanted: Level) -> str:
    assert period is not None
    start_us = start_of(level, period)
    if wanted is Level.DAY:
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
    }
    # Nothing but a group by time needs the periods: of a year of hours there are ten thousand times fewer sums then.
    found: defaultdict[tuple[Series, str], list[tuple[Number, int]]] = defaultdict(list)
    for _, _, series, measure, total, reported in rows:
        found[series, measure].append((total, reported))
    sums = {key: Sum(*map(sum, zip(*values, strict=True))) for key, values in found.items()}
    report["totals"] = _totals(sums)
    for group in dict.fromkeys(("model", "client", *groups)):
        level = _TIMES.get(group)
        parts = _parts(sums, _KEYS[group]) if level is None else _parts_by_time(rows, group, level)
        report[f"by_{group}"] = parts
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


def _totals(sums: Mapping[tuple[Series, str], Sum]) -> dict[str, object]:
    whole = _Group()
    for (series, measure), value in sums.items():
        whole.add(series, measure, *value)
    return whole.members()


def _parts(
    sums: Mapping[tuple[Series, str], Sum], key: Callable[[Series], Mapping[str, object]]
) -> list[dict[str, object]]:
    groups: dict[tuple[tuple[str, object], ...], _Group] = {}
    for (series, measure), value in sums.items():
        groups.setdefault(tuple(key(series).items()), _Group()).add(series, measure, *value)
    ordered = sorted(groups.items(), key=lambda item: (-item[1].requests, str(item[0])))
    return [{**dict(names), **group.members()} for names, group in ordered]


def _parts_by_time(rows: Iterable[SumRow], name: str, wanted: Level) -> list[dict[str, object]]:
    periods: dict[tuple[Level, int | None], _Group] = {}
    groups: dict[str, _Group] = {}
    for level, period, series, measure, total, reported in rows:
        group = periods.get((level, period))
        if group is None:
            # Several periods may be of one group: rows and hours of one day.
            group = groups.setdefault(_start(level, period, wanted), _Group())
            periods[level, period] = group
        group.add(series, measure, total, reported)
    return [{name: start, **group.members()} for start, group in sorted(groups.items())]
