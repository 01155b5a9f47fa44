"""A past response is counted when it reports for the first time, and never twice."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.background_responses import RESPONSES_MAX, BackgroundResponses
from services.dialects.recognise import RequestFacts, recognise, response_reader, retrieval_reader
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read

CREATION = recognise("POST", "api.openai.com", "/v1/responses")
RETRIEVAL = recognise("GET", "api.openai.com", "/v1/responses/resp_1")


def answer(status: str, usage: object = None) -> bytes:
    return json.dumps({"id": "resp_1", "object": "response", "model": "m", "status": status, "usage": usage}).encode()


def created(status: str, usage: object = None) -> ResponseUsage:
    facts = RequestFacts(model="asked")
    reader = response_reader(CREATION, status=200, content_type="application/json", facts=facts)
    assert reader is not None
    return read(reader, [answer(status, usage)])[0]


def retrieved(status: str, usage: object = None) -> ResponseUsage:
    reader = retrieval_reader(RETRIEVAL, status=200, content_type="application/json")
    assert reader is not None
    return read(reader, [answer(status, usage)])[0]


COUNTED = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


def test_the_first_report_is_counted_once() -> None:
    background = BackgroundResponses()
    background.note(created("queued"))
    assert background.first_report(retrieved("queued")) is None
    assert background.first_report(retrieved("in_progress")) is None
    report = background.first_report(retrieved("completed", COUNTED))
    assert report is not None
    assert (report.outcome, report.counts, report.response_id) == (Outcome.OK, COUNTED, "resp_1")
    assert (report.request_model, report.response_model) == ("asked", "m")
    assert background.first_report(retrieved("completed", COUNTED)) is None


def test_what_was_counted_before_or_never_seen_is_not_counted() -> None:
    background = BackgroundResponses()
    assert background.first_report(retrieved("completed", COUNTED)) is None
    background.note(created("completed", COUNTED))
    assert background.first_report(retrieved("completed", COUNTED)) is None


def test_a_stream_that_broke_off_may_be_asked_for_again() -> None:
    background = BackgroundResponses()
    background.note(replace(created("queued"), outcome=Outcome.TRUNCATED))
    assert background.first_report(retrieved("completed", COUNTED)) is not None


def test_a_report_that_broke_off_leaves_the_next_one_the_first() -> None:
    background = BackgroundResponses()
    background.note(created("queued"))
    cut = replace(retrieved("completed", COUNTED), outcome=Outcome.TRUNCATED)
    assert background.first_report(cut) is None
    assert background.first_report(retrieved("completed", COUNTED)) is not None


def test_only_the_newest_are_remembered() -> None:
    background = BackgroundResponses()
    usage = created("queued")
    for number in range(RESPONSES_MAX + 1):
        background.note(replace(usage, response_id=f"resp_{number}"))
    report = retrieved("completed", COUNTED)
    assert background.first_report(replace(report, response_id="resp_0")) is None
    assert background.first_report(replace(report, response_id="resp_1")) is not None


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses/r/input_items", "/v1/responses/input_tokens"])
def test_only_a_retrieval_has_such_a_reader(target: str) -> None:
    assert retrieval_reader(recognise("GET", "api.openai.com", target), status=200, content_type="") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans())))
def test_no_response_is_ever_reported_twice_for_one_request(steps: list[tuple[str, bool, bool]]) -> None:
    background, asked, reports = BackgroundResponses(), dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    for name, is_request, has_counts in steps:
        outcome = Outcome.OK if has_counts else Outcome.NO_USAGE
        counts = COUNTED if has_counts else {}
        usage = ResponseUsage(outcome=outcome, operation="chat", counts=counts, response_id=name)
        if is_request:
            background.note(usage)
            asked[name] += not has_counts
        elif background.first_report(usage):
            reports[name] += 1
        assert reports[name] <= asked[name]
