"""
Records added up: by period, series and measure, the sum and how many records reported it.

The same functions add up a batch that is written and the rows that a window cuts out of an hour, so that sums of
roll-ups and sums of rows cannot differ.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
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


def measures(outcome: str, usage: Mapping[str, Number]) -> Iterator[tuple[str, Number]]:
    """Yield what one record adds: its counts, and what it says about them."""
    yield RESPONSES, 1
    if not usage:
        yield UNKNOWN, 1
    elif outcome == Outcome.TRUNCATED:
        yield BOUNDS, 1
    yield from usage.items()


_Totals = defaultdict[str, list[Number]]


def _new_totals() -> _Totals:
    return defaultdict(lambda: [0, 0])


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
    groups: defaultdict[tuple[int, Series], _Totals] = defaultdict(_new_totals)
    for at_unix_us, series, usage in rows:
        totals = groups[period_of(level, at_unix_us), series]
        for measure, value in measures(series.outcome, usage):
            pair = totals[measure]
            pair[0] += value
            pair[1] += 1
    return {
        (period, series, measure): Sum(total, int(reported))
        for (period, series), totals in groups.items()
        for measure, (total, reported) in totals.items()
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
