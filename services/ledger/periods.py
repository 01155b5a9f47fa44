"""
Ten minutes, hours, days and months of UTC, each numbered from 1970, and the fewest of them that make up a window.

Times are microseconds since 1970. A window is cut into whole months, the whole days around them, the whole hours around
those, the whole ten minutes around those, and rows for what is left of the first and the last ten minutes.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

TEN_MINUTES_US = 600_000_000
HOUR_US = 6 * TEN_MINUTES_US
DAY_US = 24 * HOUR_US
# Ends of what can be asked for; every record lies well between.
BEGINNING_US = 0
END_US = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_DAY_ZERO = date(1970, 1, 1)


class Level(IntEnum):
    """
    Sizes of period; ROW is no period but the record's own microsecond.

    The numbers stand in the ledger, and each level follows from the one before.
    """

    ROW = -1
    TEN_MINUTES = 0
    HOUR = 1
    DAY = 2
    MONTH = 3


# Those that sums are kept for: of usage records, and of exchanges, which have no rows.
KEPT = (Level.TEN_MINUTES, Level.HOUR, Level.DAY, Level.MONTH)
KEPT_OF_EXCHANGES = KEPT[1:]
# Of all levels whose periods are equally long.
WIDTHS_US: Mapping[Level, int] = {
    Level.ROW: 1,
    Level.TEN_MINUTES: TEN_MINUTES_US,
    Level.HOUR: HOUR_US,
    Level.DAY: DAY_US,
}


class Span(NamedTuple):
    """Periods `first` to `end`, the latter excluded; microseconds for ROW."""

    level: Level
    first: int
    end: int


def period_of(level: Level, at_unix_us: int) -> int:
    """Return the number of the period that holds a time."""
    if level is Level.MONTH:
        return _month_of_day(at_unix_us // DAY_US)
    return at_unix_us // WIDTHS_US[level]


def start_of(level: Level, period: int) -> int:
    """Return the first microsecond of a period."""
    if level is Level.MONTH:
        return _first_day_of_month(period) * DAY_US
    return period * WIDTHS_US[level]


def cover(since_us: int, until_us: int, coarsest: Level = Level.MONTH) -> list[Span]:
    """Cut the window from `since_us` to `until_us`, the latter excluded, into the fewest spans."""
    since_us, until_us = max(since_us, BEGINNING_US), min(until_us, END_US)
    return [span for span in _cover(Level.ROW, since_us, until_us, coarsest) if span.first < span.end]


def _cover(level: Level, first: int, end: int, coarsest: Level) -> Iterator[Span]:
    """Cut periods `first` to `end` of `level` into whole ones of the next level and what is left around them."""
    if level is coarsest:
        yield Span(level, first, end)
        return
    above = Level(level + 1)
    inner_first, inner_end = _rounded_up(above, start_of(level, first)), period_of(above, start_of(level, end))
    if inner_first >= inner_end:
        yield Span(level, first, end)
        return
    yield Span(level, first, period_of(level, start_of(above, inner_first)))
    yield from _cover(above, inner_first, inner_end, coarsest)
    yield Span(level, period_of(level, start_of(above, inner_end)), end)


def _rounded_up(level: Level, at_us: int) -> int:
    period = period_of(level, at_us)
    return period if start_of(level, period) == at_us else period + 1


def _month_of_day(day: int) -> int:
    that = _DAY_ZERO + timedelta(days=day)
    return (that.year - 1970) * 12 + that.month - 1


def _first_day_of_month(month: int) -> int:
    return (date(1970 + month // 12, month % 12 + 1, 1) - _DAY_ZERO).days
