"""
Records added up: by period, series and measure, the sum and how many records reported it.

The same functions add up a batch that is written and the rows that a window cuts out of an hour, so that sums of
roll-ups and sums of rows cannot differ.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.events.usage import Outcome
from services.ledger.entry import ExchangeEntry, ExchangeSeries, Series
from services.ledger.periods import KEPT, KEPT_OF_EXCHANGES, WIDTHS_US, Level, period_of, start_of

# Measures that are no counts of a provider; "#" keeps their names apart.
RESPONSES = "#responses"
BOUNDS = "#bounds"  # broken off, with counts: the true ones are at least these
UNKNOWN = "#unknown"  # reported no count at all

Number = int | float


class Sum(NamedTuple):
    """A total and the number of records that reported the measure."""

    total: Number
    reported: int

    def plus(self, other: "Sum") -> "Sum":
        """Add up."""
        return Sum(self.total + other.total, self.reported + other.reported)


def add_up_alike(outcome: str, usages: Iterable[Mapping[str, Number]]) -> dict[str, Sum]:
    """Add up records of one outcome: their counts by measure, and what they say about them."""
    # Records of one model report the same counts: those are added up count by count, not record by record.
    alike: defaultdict[tuple[str, ...], list[Iterable[Number]]] = defaultdict(list)
    for usage in usages:
        alike[tuple(usage)].append(usage.values())
    responses, unknown = sum(map(len, alike.values())), len(alike.get((), ()))
    sums = {RESPONSES: Sum(responses, responses)}
    if unknown:
        sums[UNKNOWN] = Sum(unknown, unknown)
    if outcome == Outcome.TRUNCATED and responses > unknown:
        sums[BOUNDS] = Sum(responses - unknown, responses - unknown)
    for names, values in alike.items():
        for measure, each in zip(names, zip(*values, strict=True), strict=True):
            one, other = Sum(sum(each), len(each)), sums.get(measure)
            sums[measure] = one if other is None else other.plus(one)
    return sums


Row = tuple[int, Series, Mapping[str, Number]]
# By period and series, then by measure.
UsageSums = dict[tuple[Level, int, Series], Mapping[str, Sum]]
ExchangeSums = dict[tuple[Level, int, ExchangeSeries], tuple[int, int, int]]


def add_up(rows: Iterable[Row]) -> UsageSums:
    """Add up records, each given as time, series and counts, for every period that sums are kept for."""
    found: UsageSums = {}
    level, sums = KEPT[0], add_up_at(KEPT[0], rows)
    for above in KEPT[1:]:
        found |= {(level, *key): value for key, value in sums.items()}
        sums = _lifted(level, above, sums)
        level = above
    return found | {(level, *key): value for key, value in sums.items()}


def add_up_at(level: Level, rows: Iterable[Row]) -> dict[tuple[int, Series], Mapping[str, Sum]]:
    """Add up records for the periods of one level."""
    alike: defaultdict[tuple[int, Series], list[Mapping[str, Number]]] = defaultdict(list)
    width_us = WIDTHS_US.get(level)
    for at_unix_us, series, usage in rows:
        alike[at_unix_us // width_us if width_us else period_of(level, at_unix_us), series].append(usage)
    return {key: add_up_alike(key[1].outcome, usages) for key, usages in alike.items()}


def _lifted(
    level: Level, above: Level, sums: Mapping[tuple[int, Series], Mapping[str, Sum]]
) -> dict[tuple[int, Series], Mapping[str, Sum]]:
    found: dict[tuple[int, Series], Mapping[str, Sum]] = {}
    for (period, series), one in sums.items():
        key = (period_of(above, start_of(level, period)), series)
        other = found.get(key)
        # Records that come together are mostly of one period on every level.
        found[key] = one if other is None else _plus(one, other)
    return found


def _plus(one: Mapping[str, Sum], other: Mapping[str, Sum]) -> Mapping[str, Sum]:
    return {**one, **other, **{measure: one[measure].plus(other[measure]) for measure in one.keys() & other.keys()}}


def add_up_exchanges(entries: Iterable[ExchangeEntry]) -> ExchangeSums:
    """Add up exchanges: how many, bytes up, bytes down."""
    found: ExchangeSums = {}
    for entry in entries:
        for level in KEPT_OF_EXCHANGES:
            key = (level, period_of(level, entry.at_unix_us), entry.series)
            count, up, down = found.get(key, (0, 0, 0))
            found[key] = (count + 1, up + entry.bytes_up, down + entry.bytes_down)
    return found
