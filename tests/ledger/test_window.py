"""What people write for times and groups."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from services.ledger.periods import BEGINNING_US, END_US
from services.ledger.window import LedgerQueryInvalid, groups_from, moment_from, text_from, unix_us, window_from

NOW = datetime(2026, 11, 23, 17, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("90s", NOW - timedelta(seconds=90)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T12:00:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_time_can_be_written_in_three_ways(text: str, moment: datetime) -> None:
    """How long ago, a date, RFC 3339."""
    assert moment_from(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "24", "h", "-3h", "2026-13-01", "999999w", "24h "])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    """The message is what the user sees."""
    with pytest.raises(LedgerQueryInvalid, match="allowed is a time like 2026-11-23T17:40:00Z, a date, or how long"):
        moment_from(text, NOW)


def test_values_of_the_language_are_taken_as_they_are() -> None:
    """Without an offset they are UTC."""
    assert moment_from(datetime(2026, 1, 1), NOW) == datetime(2026, 1, 1, tzinfo=UTC)
    east = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert moment_from(east, NOW) is east


def test_a_window_may_be_open_on_both_sides() -> None:
    """And must not end before it begins."""
    assert window_from(None, None, NOW) == (BEGINNING_US, END_US)
    assert window_from("1h", "30m", NOW) == (unix_us(NOW) - 3_600_000_000, unix_us(NOW) - 1_800_000_000)
    with pytest.raises(LedgerQueryInvalid, match="until 2h lies before since 1h"):
        window_from("1h", "2h", NOW)


def test_groups_are_checked_and_each_comes_once() -> None:
    """In one parameter or in several."""
    assert groups_from(["model,hour", "day", " model "]) == ("model", "hour", "day")
    assert groups_from([""]) == ()
    with pytest.raises(LedgerQueryInvalid, match="'host' is no group; allowed are model, provider, client, hour"):
        groups_from(["host"])


def test_times_are_written_with_microseconds() -> None:
    """As in the records."""
    assert text_from(unix_us(NOW) + 5) == "2026-11-23T17:40:00.000005Z"
