"""Converse's counts stand beside each other, come in the last event, and are read from nowhere else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.framings import AWS_CONTENT_TYPE
from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.eventstream import event
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in
from tests.support.splits import CUTS, cut_at

HOST = "bedrock-runtime.us-east-1.amazonaws.com"
CALL = recognise("POST", HOST, "/model/m/converse-stream")

Event = tuple[str, dict[str, object]]


def metadata(**usage: object) -> Event:
    return "metadata", {"metrics": {}, "p": "abc", "usage": usage}


STOP: Event = ("messageStop", {"stopReason": "end_turn"})


def body_of(*events: Event) -> bytes:
    return b"".join(event(name, json.dumps(payload).encode()) for name, payload in events)


def record_of(*events: Event, complete: bool = True) -> ResponseUsage:
    (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), [body_of(*events)], complete=complete)
    return record


# ---- what a usage object says


def test_the_input_is_what_was_fresh_read_and_written() -> None:
    record = record_of(
        metadata(inputTokens=3, cacheReadInputTokens=20, cacheWriteInputTokens=4, outputTokens=5, totalTokens=32)
    )
    assert record.counts == {
        "input_tokens": 27,
        "output_tokens": 5,
        "cache_read_input_tokens": 20,
        "cache_write_input_tokens": 4,
        "total_tokens": 32,
    }
    assert record.anomalies == ()


def test_the_second_name_of_a_cache_count_is_the_same_count() -> None:
    counts = record_of(metadata(inputTokens=3, cacheReadInputTokens=20, cacheReadInputTokenCount=20)).counts
    assert counts == record_of(metadata(inputTokens=3, cacheReadInputTokenCount=20)).counts
    assert counts["input_tokens"] == 23


def test_lifetimes_are_told_apart() -> None:
    details = [{"ttl": "1h", "inputTokens": 7}, {"ttl": "9d", "inputTokens": 1}, {"ttl": None}, "odd"]
    counts = record_of(metadata(inputTokens=1, cacheWriteInputTokens=7, cacheDetails=details)).counts
    assert counts["cache_write_1h_input_tokens"] == 7
    assert "cache_write_5m_input_tokens" not in counts


# ---- how it ends


@pytest.mark.parametrize(
    ("events", "complete", "outcome"),
    [
        ((STOP, metadata(inputTokens=1)), True, Outcome.OK),
        ((STOP, metadata(inputTokens=1)), False, Outcome.OK),  # nothing comes behind it
        ((STOP,), True, Outcome.TRUNCATED),
        ((metadata(),), True, Outcome.NO_USAGE),
        ((), True, Outcome.TRUNCATED),
    ],
)
def test_a_stream_ends_with_its_metadata(events: tuple[Event, ...], complete: bool, outcome: Outcome) -> None:
    record = record_of(*events, complete=complete)
    assert record.outcome is outcome
    assert record.finish_reasons == (("end_turn",) if STOP in events else ())


@pytest.mark.parametrize("message_type", ["exception", "error"])
def test_an_exception_ends_a_stream_whatever_came_before(message_type: str) -> None:
    body = body_of(metadata(inputTokens=1)) + event("modelStreamErrorException", b"{}", message_type=message_type)
    (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), [body])
    assert (record.outcome, record.error_type) == (Outcome.ERROR, "modelStreamErrorException")
    assert record.counts == {"input_tokens": 1}


def test_a_flipped_bit_makes_a_stream_unreadable_and_keeps_what_was_before() -> None:
    body = body_of(metadata(inputTokens=1)) + body_of(STOP)[:-1] + b"!"
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), pieces)
        assert record.outcome is Outcome.UNREADABLE
        assert record.reason is not None and record.reason.startswith("checksum of a message")
        assert record.counts == {"input_tokens": 1}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("ValidationException:http://internal.amazon.com/coral/com.amazon.bedrock/", "ValidationException"),
        ("com.amazon.bedrock#ThrottlingException", "ThrottlingException"),
        ("", None),
    ],
)
def test_an_error_answer_is_named_by_its_header(header: str, reason: str | None) -> None:
    headers = {"x-amzn-errortype": header, "x-amzn-requestid": "id"}
    (record,) = read(reader_of(CALL, 400, "application/json", headers=headers), [b'{"message": "no"}'])
    assert (record.outcome, record.error_type, record.reason) == (Outcome.ERROR, "400", reason)


# ---- against an oracle

USAGES = st.fixed_dictionaries(
    {"inputTokens": st.integers(0, 9), "outputTokens": st.integers(0, 9), "totalTokens": st.integers(0, 99)},
    optional={"cacheReadInputTokens": st.integers(0, 9), "cacheWriteInputTokens": st.integers(0, 9)},
)
EVENTS = st.one_of(
    st.just(STOP),
    st.just(("contentBlockDelta", {"delta": {"text": '{"metadata": {"usage": {"inputTokens": 9}}}'}})),
    USAGES.map(lambda usage: ("contentBlockStart", {"usage": usage})),
)


@given(st.lists(EVENTS, max_size=5), USAGES, CUTS, st.integers(0, 400))
def test_a_stream_cut_anywhere_gives_what_botocore_reads(
    before: list[Event], usage: dict[str, object], cuts: list[int], missing: int
) -> None:
    whole = body_of(*before, metadata(**usage))
    body = whole[: max(0, len(whole) - missing)]
    (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), cut_at(body, cuts), complete=False)
    found = {name: record.counts[name] for name in COMPARED if name in record.counts}
    assert found == counts_in("bedrock-converse", body, content_type=AWS_CONTENT_TYPE)
    assert record.outcome is (Outcome.TRUNCATED if missing and whole else Outcome.OK)


# ---- whose requests these are


def test_the_model_may_be_an_arn_with_slashes() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    call = recognise("POST", HOST, f"/model/{arn.replace(':', '%3A').replace('/', '%2F')}/converse")
    assert (call.request_model, call.is_streaming) == (arn, False)


@pytest.mark.parametrize(
    ("method", "target", "kind", "operation"),
    [
        ("POST", "/model/m/count-tokens", CallKind.OTHER, "count-tokens"),
        ("POST", "/guardrail/g/version/1/apply", CallKind.OTHER, "guardrail"),
        ("GET", "/async-invoke", CallKind.OTHER, "async-invoke"),
        ("POST", "/async-invoke", CallKind.MODEL_CALL, "async-invoke"),
        ("POST", "/model/m/invoke-with-bidirectional-stream", CallKind.MODEL_CALL, "invoke-with-bidirectional-stream"),
        ("POST", "/model/m/something-new", CallKind.UNKNOWN, None),
    ],
)
def test_other_endpoints_are_known_by_name(method: str, target: str, kind: CallKind, operation: str | None) -> None:
    call = recognise(method, HOST, target)
    assert (call.kind, call.dialect, call.operation) == (kind, None, operation)
