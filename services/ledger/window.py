"""
What people ask for: times, groups and page sizes as text, to values.

A time is RFC 3339 (`2026-11-23T17:40:00Z`), a date (midnight UTC), or how long ago: `30m`, `24h`, `7d`, `2w`.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from services.ledger.periods import BEGINNING_US, END_US

GROUPS = ("model", "provider", "client", "hour", "day", "outcome")
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


class LedgerQueryInvalid(Exception):
    """A question that has no answer; the message names the value and what is allowed."""


def moment_from(value: datetime | str, now: datetime) -> datetime:
    """
    Read a point in time.

    Raises:
        LedgerQueryInvalid: Not one.
    """
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    ago = _AGO.fullmatch(value)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError) as error:
        allowed = "a time like 2026-11-23T17:40:00Z, a date, or how long ago, like 24h or 7d"
        raise LedgerQueryInvalid(f"{value!r:.60} is no time; allowed is {allowed}") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def window_from(since: datetime | str | None, until: datetime | str | None, now: datetime) -> tuple[int, int]:
    """
    Read a window, in microseconds since 1970, its end excluded; None stands for "no bound".

    Raises:
        LedgerQueryInvalid: A bound is no time, or the end lies before the beginning.
    """
    since_us = BEGINNING_US if since is None else unix_us(moment_from(since, now))
    until_us = END_US if until is None else unix_us(moment_from(until, now))
    if until_us < since_us:
        raise LedgerQueryInvalid(f"until {until} lies before since {since}")
    return since_us, until_us


def groups_from(names: Iterable[str]) -> tuple[str, ...]:
    """
    Check the groups that a report is to have, each name possibly several separated by commas.

    Raises:
        LedgerQueryInvalid: A group that there is not.
    """
    found = tuple(dict.fromkeys(each.strip() for name in names for each in name.split(",") if each.strip()))
    for name in found:
        if name not in GROUPS:
            raise LedgerQueryInvalid(f"{name!r:.60} is no group; allowed are {', '.join(GROUPS)}")
    return found


def unix_us(moment: datetime) -> int:
    """Return microseconds since 1970, within what the calendar covers."""
    since = moment - _ZERO
    exact = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return min(max(exact, BEGINNING_US), END_US)


def text_from(at_unix_us: int) -> str:
    """Write a time as RFC 3339 UTC with microseconds."""
    return (_ZERO + timedelta(microseconds=at_unix_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
