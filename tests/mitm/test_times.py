"""Times as records have them."""

from services.mitm.times import milliseconds, steady_offset, timestamp


def test_times_are_written_in_utc_with_microseconds() -> None:
    """RFC 3339."""
    assert timestamp(0.5) == "1970-01-01T00:00:00.500000Z"
    assert timestamp(1_700_000_000.0) == "2023-11-14T22:13:20.000000Z"


def test_spans_are_written_in_milliseconds() -> None:
    """To the microsecond."""
    assert milliseconds(0.0123456) == 12.346


def test_the_offset_of_the_clocks_is_steady_for_a_moment() -> None:
    """And follows a clock that was set, soon."""
    unix_s, monotonic_s = iter([1_000.5, 2_000.0]), iter([0.25, 0.255, 0.2599, 0.27, 0.2705])
    offset_s = steady_offset(lambda: next(unix_s), lambda: next(monotonic_s))
    assert [offset_s() for _ in range(5)] == [1_000.25, 1_000.25, 1_000.25, 1_999.73, 1_999.73]
