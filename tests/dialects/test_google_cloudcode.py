"""Cloud Code wraps Google's answers: the wrapper's own members are read beside them, and nothing is read twice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.google_cloudcode import CloudCodeTally
from services.dialects.recognise import CallKind, RequestFacts, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import facts_of, reader_of

CALL = recognise("POST", "cloudcode-pa.googleapis.com", "/v1internal:streamGenerateContent?alt=sse")


def record_of_messages(*messages: dict[str, object]) -> ResponseUsage:
    tally = CloudCodeTally(CALL, RequestFacts())
    for message in messages:
        tally.read(message)
    return tally.record(Outcome.OK)


@pytest.mark.parametrize(
    ("credits", "expected"),
    [
        ([{"creditType": "A", "creditAmount": "5"}], 5),
        ([{"creditAmount": "5"}, {"creditAmount": 0.25}], 5.25),
        ([{"creditAmount": "0"}], 0),
        ([{"creditType": "A"}], None),
        ([{"creditAmount": "many"}, {"creditAmount": "inf"}, {"creditAmount": True}, {"creditAmount": "1e300"}], None),
        ([], None),
        ("5", None),
    ],
)
def test_credits_are_a_number_or_not_there(credits: object, expected: float | None) -> None:
    assert record_of_messages({"consumedCredits": credits}).counts.get("consumed_credits") == expected


def test_the_last_credits_stand() -> None:
    first, second = ({"consumedCredits": [{"creditAmount": amount}]} for amount in ("2", "3"))
    assert record_of_messages(first, second, {"traceId": "t"}).counts == {"consumed_credits": 3}


def test_only_the_response_inside_the_wrapper_is_an_answer() -> None:
    bare = {"usageMetadata": {"totalTokenCount": 9}, "modelVersion": "m"}
    record = record_of_messages(bare, {"response": {"response": bare}}, {"response": "text"})
    assert record.counts == {}
    assert record.response_model is None


def test_the_trace_is_kept_beside_the_id() -> None:
    record = record_of_messages({"traceId": "t"}, {"response": {"responseId": "r"}, "traceId": "u"})
    assert (record.trace_id, record.response_id) == ("t", "r")


@pytest.mark.parametrize(
    ("request_id", "conversation"),
    [
        ("agent/6f1c/1795455611000/9a8b/3", "6f1c"),
        ("agent-6f1c", None),
        ("agent//1/2/3", None),
        ("agent/" + "x" * 200 + "/1", None),
        (7, None),
        (None, None),
    ],
)
def test_the_request_id_names_the_conversation(request_id: object, conversation: str | None) -> None:
    body = json.dumps({"requestId": request_id, "request": {"requestId": "agent/no/1"}, "model": "m"}).encode()
    assert facts_of(CALL, [body]) == RequestFacts(model="m", stream=True, conversation_id=conversation)


@pytest.mark.parametrize(
    ("method", "target", "kind", "operation"),
    [
        ("POST", "/v1internal:streamGenerateContent?alt=sse", CallKind.MODEL_CALL, "generate_content"),
        ("POST", "/v1internal:generateContent", CallKind.MODEL_CALL, "generate_content"),
        ("POST", "/v1internal:fetchUserInfo", CallKind.OTHER, "fetchUserInfo"),
        ("POST", "/v1internal:countTokens", CallKind.OTHER, "countTokens"),
        ("GET", "/v1internal/cascadeNuxes", CallKind.OTHER, "cascadeNuxes"),
        ("GET", "/v1internal/{name=health}", CallKind.OTHER, "health"),
        ("GET", "/v1internal:streamGenerateContent", CallKind.UNKNOWN, "streamGenerateContent"),
        ("POST", "/v1internal:somethingNew", CallKind.UNKNOWN, "somethingNew"),
    ],
)
def test_endpoints_are_recognised_by_name(method: str, target: str, kind: CallKind, operation: str) -> None:
    call = recognise(method, "daily-cloudcode-pa.googleapis.com", target)
    assert (call.kind, call.provider, call.operation) == (kind, "gcp.gen_ai", operation)


def test_code_completion_is_a_model_call_that_nobody_reads() -> None:
    """It spends, so it must not pass as free; its shape is not known, so nothing is made up."""
    call = recognise("POST", "daily-cloudcode-pa.googleapis.com", "/v1internal:tabChat?alt=sse")
    assert (call.kind, call.dialect, call.operation) == (CallKind.MODEL_CALL, None, "tabChat")


MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "response": st.fixed_dictionaries(
            {},
            optional={
                "usageMetadata": st.dictionaries(
                    st.sampled_from(["totalTokenCount", "x"]), st.integers(0, 3), max_size=2
                ),
                "candidates": st.just([{"finishReason": "STOP"}]) | st.just([{"content": {"consumedCredits": []}}]),
                "modelVersion": st.just("m"),
                "responseId": st.just("r"),
            },
        ),
        "traceId": st.sampled_from(["t", "u"]),
        "consumedCredits": st.sampled_from([[{"creditAmount": "1"}], [{"creditAmount": "2"}], []]),
        "error": st.just({"status": "INTERNAL"}),
    },
)


@given(bursts=st.lists(st.lists(MESSAGES.map(lambda message: json.dumps(message).encode()), max_size=8), max_size=4))
def test_events_that_come_together_are_worth_what_they_are_worth_alone(bursts: list[list[bytes]]) -> None:
    together, alone = (reader_of(CALL, 200, "text/event-stream") for _ in range(2))
    for burst in bursts:
        together.feed(b"".join(b"data: %b\r\n\r\n" % text for text in burst))
        for text in burst:
            alone.feed(b"data: %b\r\n\r\n" % text)
        assert together.progress() == alone.progress()
    assert together.end(complete=True) == alone.end(complete=True)
