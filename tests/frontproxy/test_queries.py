"""The query strings of the usage API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.frontproxy.queries import (
    CompletionsAsked,
    EventsAsked,
    Query,
    ReportAsked,
    flag,
    read_completions,
    read_events,
    read_report,
)
from services.frontproxy.refusal import Refused


def test_a_report_is_asked_by_its_window_and_groups():
    """What a time or a group may be, the ledger says."""
    assert read_report({}) == ReportAsked()
    query = {"since": ["24h"], "until": ["2026-11-23"], "group_by": ["model,client", "hour"]}
    assert read_report(query) == ReportAsked(since="24h", until="2026-11-23", group_by=("model,client", "hour"))


def test_an_offset_whose_plus_was_not_escaped_is_understood():
    """`+01:00` in an address arrives as ` 01:00`."""
    assert read_report({"since": ["2026-11-23T18:00:00 01:00"]}).since == "2026-11-23T18:00:00+01:00"


def test_events_are_asked_by_number():
    """From the beginning, a hundred at a time, unless told otherwise."""
    assert read_events({}) == EventsAsked(after=0, limit=100)
    assert read_events({"after": ["812"], "limit": ["1"]}) == EventsAsked(after=812, limit=1)


def test_completions_are_asked_as_openais_sdk_does():
    """Arrays have brackets behind their name."""
    assert read_completions({"start_time": ["100"], "group_by[]": ["model"], "bucket_width": ["1h"]}) == (
        CompletionsAsked(start_time=100, end_time=None, bucket_width="1h", limit=None, page=None, group_by=("model",))
    )


@pytest.mark.parametrize(
    ("read", "query", "message"),
    [
        (read_report, {"from": ["1h"]}, "'from' is no parameter; allowed: since, until, group_by"),
        (read_report, {"since": ["1h", "2h"]}, "since is given 2 times; once is allowed"),
        (read_events, {"after": ["-1"]}, "after is '-1'; a whole number from 0 to 9223372036854775807 is allowed"),
        (read_events, {"after": ["9" * 5000]}, f"after is '{'9' * 100}'; a whole number from 0 to"),
        (read_events, {"after": ["9223372036854775808"]}, "after is '9223372036854775808'; a whole number"),
        (read_events, {"after": ["٣"]}, "after is '٣'; a whole number"),
        (read_events, {"limit": ["0"]}, "limit is '0'; a whole number from 1 to 1000 is allowed"),
        (read_events, {"limit": [""]}, "limit is ''; a whole number from 1 to 1000 is allowed"),
        (read_completions, {}, "start_time is missing; Unix seconds are expected"),
        (read_completions, {"start_time": ["now"]}, "start_time is 'now'; a whole number"),
        (read_completions, {"start_time": ["1"], "user_ids[]": ["ann"]}, "user_ids is not supported"),
        (read_completions, {"start_time": ["1"], "mood": ["good"]}, "'mood' is no parameter"),
    ],
)
def test_a_mistake_names_the_parameter_and_what_is_allowed(read, query: Query, message: str):
    """A clear 400 for each."""
    with pytest.raises(Refused) as caught:
        read(query)
    assert caught.value.message.startswith(message)
    assert caught.value.status == 400


def test_a_flag_is_on_or_off():
    """`?strict`, `?strict=1`, `?strict=true`."""
    assert [flag({"strict": [text]}, "strict") for text in ("", "1", "true", "0", "false")] == [True] * 3 + [False] * 2
    assert not flag({}, "strict")
    with pytest.raises(Refused, match="strict is 'maybe'; 0 or 1 is allowed"):
        flag({"strict": ["maybe"]}, "strict")


NAMES = st.sampled_from(["since", "until", "group_by", "after", "limit", "start_time", "page", "strict", "models[]"])


@given(st.dictionaries(NAMES, st.lists(st.text(max_size=25), min_size=1, max_size=2)))
def test_any_query_is_understood_or_refused(query: Query):
    """Nothing that an address can hold is our internal error."""
    for read in (read_report, read_events, read_completions, lambda each: flag(each, "strict")):
        try:
            read(query)
        except Refused as refused:
            assert refused.status == 400
