"""
The query strings of the usage API: text to what the ledger is asked, or a `Refused` that names the parameter.

What a time, a group or a width may be is the ledger's own to say (services.ledger.window); here a name that there is
not, one that comes twice, and what is no number are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.frontproxy.refusal import Refused, invalid

# A query string: every value of every name.
Query: TypeAlias = Mapping[str, Sequence[str]]

EVENTS_DEFAULT: Final = 100
EVENTS_MAX: Final = 1000
# The ledger numbers its records with SQLite's integers.
_SEQ_MAX: Final = 2**63 - 1
# Unix seconds up to the year 5138; the ledger's own limit is narrower.
_UNIX_S_MAX: Final = 10**11 - 1
_BUCKETS_MAX: Final = 1440
_VALUE_SHOWN_MAX: Final = 100
# OpenAI's filters by things that a ledger of one user on one machine does not have, or does not sum by.
_COMPLETIONS_UNSUPPORTED: Final = ("api_key_ids", "batch", "models", "project_ids", "user_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAsked:
    """What `GET /v1/usage` asks for; a bound that is None is open."""

    since: str | None = None
    until: str | None = None
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAsked:
    """What `GET /v1/usage/events` asks for."""

    after: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionsAsked:
    """What `GET /v1/organization/usage/completions` asks for, in OpenAI's words; times are Unix seconds."""

    start_time: int
    end_time: int | None
    bucket_width: str
    limit: int | None
    page: str | None
    group_by: tuple[str, ...]


def read_report(query: Query) -> ReportAsked:
    """
    Read `since`, `until`, `group_by`.

    Raises:
        Refused: 400, with the parameter.
    """
    _refuse_unknown(query, ("since", "until", "group_by"))
    return ReportAsked(
        since=_time(query, "since"), until=_time(query, "until"), group_by=tuple(query.get("group_by", ()))
    )


def read_events(query: Query) -> EventsAsked:
    """
    Read `after` and `limit`.

    Raises:
        Refused: 400, with the parameter.
    """
    _refuse_unknown(query, ("after", "limit"))
    after, limit = _whole(query, "after", 0, _SEQ_MAX), _whole(query, "limit", 1, EVENTS_MAX)
    return EventsAsked(after=after or 0, limit=limit or EVENTS_DEFAULT)


def read_completions(query: Query) -> CompletionsAsked:
    """
    Read OpenAI's parameters; arrays come as `group_by[]=…`, as its SDK writes them, or as `group_by=…`.

    Raises:
        Refused: 400, with the parameter.
    """
    query = {name.removesuffix("[]"): values for name, values in query.items()}
    for name in _COMPLETIONS_UNSUPPORTED:
        if name in query:
            raise invalid(f"{name} is not supported: the ledger is one user's, on one machine", param=name)
    _refuse_unknown(query, ("start_time", "end_time", "bucket_width", "group_by", "limit", "page"))
    start_time = _whole(query, "start_time", 0, _UNIX_S_MAX)
    if start_time is None:
        raise invalid("start_time is missing; Unix seconds are expected", param="start_time", code="missing")
    return CompletionsAsked(
        start_time=start_time,
        end_time=_whole(query, "end_time", 0, _UNIX_S_MAX),
        bucket_width=_one(query, "bucket_width") or "1d",
        limit=_whole(query, "limit", 1, _BUCKETS_MAX),
        page=_one(query, "page"),
        group_by=tuple(query.get("group_by", ())),
    )


def flag(query: Query, name: str) -> bool:
    """
    Read `?name=1`.

    Raises:
        Refused: 400, when it is neither on nor off.
    """
    text = _one(query, name)
    if text not in (None, "", "0", "1", "true", "false"):
        raise _wrong(name, text or "", "0 or 1 is allowed")
    return text in ("", "1", "true")


def _refuse_unknown(query: Query, allowed: Sequence[str]) -> None:
    for name in query:
        if name not in allowed:
            shown = name[:_VALUE_SHOWN_MAX]
            raise invalid(f"{shown!r} is no parameter; allowed: {', '.join(allowed)}", param=shown)


def _one(query: Query, name: str) -> str | None:
    values = query.get(name, ())
    if len(values) > 1:
        raise invalid(f"{name} is given {len(values)} times; once is allowed", param=name)
    return values[0] if values else None


def _whole(query: Query, name: str, low: int, high: int) -> int | None:
    text = _one(query, name)
    if text is None:
        return None
    # int() alone would take " 1_0 " and digits of other scripts, and be slow on a long line of them.
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
        raise _wrong(name, text, f"a whole number from {low} to {high} is allowed")
    return int(text)


def _time(query: Query, name: str) -> str | None:
    text = _one(query, name)
    # The "+" of "+01:00", when the client did not escape it, arrives as a space.
    return text.replace(" ", "+") if text is not None and "T" in text else text


def _wrong(name: str, value: str, allowed: str) -> Refused:
    return invalid(f"{name} is {value[:_VALUE_SHOWN_MAX]!r}; {allowed}", param=name)
