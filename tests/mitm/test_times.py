"""Times as records have them."""

from services.mitm.times import milliseconds, timestamp


def test_times_are_written_in_utc_with_microseconds() -> None:
    """RFC 3339."""
    assert timestamp(0.5) == "1970-01-01T00:00:00.500000Z"
    assert timestamp(1_700_000_000.0) == "2023-11-14T22:13:20.000000Z"


def test_spans_are_written_in_milliseconds() -> None:
    """To the microsecond."""
    assert milliseconds(0.0123456) == 12.346
