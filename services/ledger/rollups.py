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
from services.ledger.periods import HOUR_US, KEPT, Level, period_of

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


NOTHING = Sum(0, 0)


def add_up_alike(outcome: str, usages: Iterable[Mapping[str, Number]]) -> dict[str, Sum]:
    """Add up records of one outcome: their counts by measure, and what they say about them."""
    totals: dict[str, list[Number]] = {}
    responses = unknown = 0
    for usage in usages:
        responses += 1
        if not usage:
            unknown += 1
        for measure, value in usage.items():
            pair = totals.get(measure)
            if pair is None:
                totals[measure] = [value, 1]
            else:
                pair[0] += value
                pair[1] += 1
    sums = {RESPONSES: Sum(responses, responses)}
    if unknown:
        sums[UNKNOWN] = Sum(unknown, unknown)
    if outcome == Outcome.TRUNCATED and responses > unknown:
        sums[BOUNDS] = Sum(responses - unknown, responses - unknown)
    for measure, (total, reported) in totals.items():
        sums[measure] = Sum(total, int(reported))
    return sums


UsageSums = dict[tuple[Level, int, Series, str], Sum]
ExchangeSums = dict[tuple[Level, int, ExchangeSeries], tuple[int, int, int]]


def add_up(rows: Iterable[tuple[int, Series, Mapping[str, Number]]]) -> UsageSums:
    """Add up records, each given as time, series and counts, for every period that sums are kept for."""
    hours = add_up_at(Level.HOUR, rows)
    found: UsageSums = {(Level.HOUR, *key): value for key, value in hours.items()}
    for (hour, series, measure), value in hours.items():
        for level in KEPT[1:]:
            key = (level, period_of(level, hour * HOUR_US), series, measure)
            found[key] = found.get(key, NOTHING).plus(value)
    return found


def add_up_at(
    level: Level, rows: Iterable[tuple[int, Series, Mapping[str, Number]]]
) -> dict[tuple[int, Series, str], Sum]:
    """Add up records for the periods of one level."""
    alike: defaultdict[tuple[int, Series], list[Mapping[str, Number]]] = defaultdict(list)
    for at_unix_us, series, usage in rows:
        alike[period_of(level, at_unix_us), series].append(usage)
    return {
        (period, series, measure): value
        for (period, series), usages in alike.items()
        for measure, value in add_up_alike(series.outcome, usages).items()
    }


def add_up_exchanges(entries: Iterable[ExchangeEntry]) -> ExchangeSums:
    """Add up exchanges: how many, bytes up, bytes down."""
    found: ExchangeSums = {}
    for entry in entries:
        for level in KEPT:
            key = (level, period_of(level, entry.at_unix_us), entry.series)
            count, up, down = found.get(key, (0, 0, 0))
            found[key] = (count + 1, up + entry.bytes_up, down + entry.bytes_down)
    return found
