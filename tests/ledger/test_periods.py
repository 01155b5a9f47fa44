"""Windows are cut into periods without gap and overlap, and into few of them."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.periods import (
    DAY_US,
    END_US,
    HOUR_US,
    KEPT,
    TEN_MINUTES_US,
    Level,
    Span,
    cover,
    period_of,
    start_of,
)

MOMENTS = st.integers(0, END_US) | st.integers(0, END_US // HOUR_US).map(lambda hour: hour * HOUR_US)


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc, arg-type]


@given(MOMENTS, MOMENTS, st.sampled_from(Level))
def test_spans_meet_and_make_up_the_window(one: int, other: int, coarsest: Level) -> None:
    """Whatever the ends, the order of spans is that of time."""
    since, until = sorted((one, other))
    if coarsest is not Level.ROW and coarsest is not Level.MONTH:
        until = min(until, since + 400 * DAY_US)
    spans = sorted(cover(since, until, coarsest), key=lambda span: start_of(span.level, span.first))
    edges = [(start_of(span.level, span.first), start_of(span.level, span.end)) for span in spans]
    assert [edge[0] for edge in edges] + [until] == ([since] if edges else [until]) + [edge[1] for edge in edges]
    assert all(span.level <= coarsest for span in spans)


@given(MOMENTS, MOMENTS)
def test_a_window_of_any_length_is_few_periods(one: int, other: int) -> None:
    """Less than ten minutes at each end are read from rows."""
    since, until = sorted((one, other))
    spans = cover(since, until)
    count = {level: sum(span.end - span.first for span in spans if span.level is level) for level in KEPT}
    assert count[Level.TEN_MINUTES] <= 5 + 6
    assert count[Level.HOUR] <= 46 + 24
    assert count[Level.DAY] <= 60 + 31
    assert sum(span.end - span.first for span in spans if span.level is Level.ROW) < 2 * TEN_MINUTES_US


@given(MOMENTS, st.sampled_from(Level))
def test_every_moment_is_in_its_period(at: int, level: Level) -> None:
    """Begin included, end excluded."""
    period = period_of(level, at)
    assert start_of(level, period) <= at < start_of(level, period + 1)


def test_an_example() -> None:
    """From 10:27 on the 29th of January to the 2nd of March."""
    spans = cover(us(2026, 1, 29, 10, 27), us(2026, 3, 2, 1))
    assert spans == [
        Span(Level.ROW, us(2026, 1, 29, 10, 27), us(2026, 1, 29, 10, 30)),
        Span(Level.TEN_MINUTES, us(2026, 1, 29, 10, 30) // TEN_MINUTES_US, us(2026, 1, 29, 11) // TEN_MINUTES_US),
        Span(Level.HOUR, us(2026, 1, 29, 11) // HOUR_US, us(2026, 1, 30) // HOUR_US),
        Span(Level.DAY, us(2026, 1, 30) // DAY_US, us(2026, 2, 1) // DAY_US),
        Span(Level.MONTH, 56 * 12 + 1, 56 * 12 + 2),
        Span(Level.DAY, us(2026, 3, 1) // DAY_US, us(2026, 3, 2) // DAY_US),
        Span(Level.HOUR, us(2026, 3, 2) // HOUR_US, us(2026, 3, 2, 1) // HOUR_US),
    ]


def test_a_window_without_end_needs_no_rows() -> None:
    """Everything is in whole months."""
    assert [span.level for span in cover(0, END_US)] == [Level.MONTH]
    assert cover(5, 5) == []
