"""InvokeModel is read in each vendor's own words; metrics and headers fill in for what these do not say."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.bedrock_invoke import METRICS, SILENT_CHUNKS
from services.dialects.framings import AWS_CONTENT_TYPE
from services.dialects.recognise import recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.eventstream import event
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in
from tests.support.splits import CUTS, cut_at

HOST = "bedrock-runtime.us-east-1.amazonaws.com"
CALL = recognise("POST", HOST, "/model/m/invoke-with-response-stream")
WHOLE = recognise("POST", HOST, "/model/m/invoke")


def chunk(message: object) -> bytes:
    coded = base64.b64encode(json.dumps(message, separators=(",", ":")).encode())
    return event("chunk", b'{"bytes":"%b","p":"abc"}' % coded)


def streamed(*messages: object, complete: bool = True) -> ResponseUsage:
    body = b"".join(chunk(message) for message in messages)
    return read(reader_of(CALL, 200, AWS_CONTENT_TYPE), [body], complete=complete)[0]


def whole(message: object, **headers: str) -> ResponseUsage:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(reader_of(WHOLE, 200, "application/json", headers=named), [json.dumps(message).encode()])[0]


def metrics(**counts: int) -> dict[str, object]:
    return {METRICS: counts}


# ---- what fills in


def test_metrics_fill_in_what_the_vendor_does_not_say() -> None:
    record = streamed({"generation": "x", "prompt_token_count": 5}, metrics(inputTokenCount=7, outputTokenCount=9))
    assert record.counts == {"input_tokens": 5, "output_tokens": 9}


def test_cached_input_stands_beside_the_input_of_metrics() -> None:
    record = streamed(metrics(inputTokenCount=3, cacheReadInputTokenCount=20, cacheWriteInputTokenCount=0))
    assert record.counts == {"input_tokens": 23, "cache_read_input_tokens": 20, "cache_write_input_tokens": 0}


def test_headers_are_counts_before_a_byte_of_the_body_is_read() -> None:
    """They are certain: what the head says stands whatever happens to the body."""
    headers = {"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "28"}
    reader = reader_of(WHOLE, 200, "application/json", headers=headers)
    assert reader.counts() == {"input_tokens": 12, "output_tokens": 28}
    assert reader.end(complete=False)[0].outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("value", ["", "-1", "1.5", "x", "²", " 1"])
def test_a_header_that_is_no_count_is_nothing(value: str) -> None:
    assert whole({}, x_amzn_bedrock_input_token_count=value).counts == {}


def test_an_output_of_zero_is_a_report_unless_it_is_of_embeddings() -> None:
    headers = {"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "0"}
    assert whole({}, **{name.replace("-", "_"): value for name, value in headers.items()}).counts["output_tokens"] == 0
    call = recognise("POST", HOST, "/model/amazon.titan-embed-text-v2%3A0/invoke")
    (record,) = read(reader_of(call, 200, "application/json", headers=headers), [b"{}"])
    assert (record.operation, record.counts) == ("embeddings", {"input_tokens": 12})


def test_the_request_id_stands_in_for_an_id_that_is_missing() -> None:
    assert whole({"id": "own"}, x_amzn_requestid="of the request").response_id == "own"
    assert whole({}, x_amzn_requestid="of the request").response_id == "of the request"


@pytest.mark.parametrize(
    ("message", "reasons"),
    [
        ({"results": [{"completionReason": "FINISH"}, {"completionReason": None}]}, ("FINISH",)),
        ({"stop_reason": "stop"}, ("stop",)),
        ({"outputs": [{"stop_reason": "length"}]}, ("length",)),
        ({"generations": [{"finish_reason": "COMPLETE"}, {"finish_reason": "MAX"}]}, ("COMPLETE", "MAX")),
        ({"completions": [{"data": {}, "finishReason": {"reason": "endoftext"}}]}, ("endoftext",)),
        ({"choices": [{"finish_reason": "stop"}]}, ("stop",)),
        ({"finish_reason": "COMPLETE"}, ("COMPLETE",)),
        ({"results": "odd", "choices": [1], "stop_reason": 3}, ()),
    ],
)
def test_finish_reasons_are_found_where_each_vendor_has_them(message: object, reasons: tuple[str, ...]) -> None:
    assert whole(message).finish_reasons == reasons


# ---- how it ends


@pytest.mark.parametrize(
    ("messages", "complete", "outcome"),
    [
        (({"stop_reason": "stop"} | metrics(inputTokenCount=1),), False, Outcome.OK),  # nothing comes behind metrics
        (({"stop_reason": "stop", "generation_token_count": 3},), True, Outcome.OK),
        (({"stop_reason": "stop", "generation_token_count": 3},), False, Outcome.TRUNCATED),  # metrics could follow
        (({"stop_reason": "stop"},), True, Outcome.NO_USAGE),
        (({"generation": "x"},), True, Outcome.TRUNCATED),
        (({"type": "message_stop"},), False, Outcome.NO_USAGE),
        (({"metadata": {"usage": {"inputTokens": 1}}},), False, Outcome.OK),
        (({"messageStop": {"stopReason": "end_turn"}},), True, Outcome.TRUNCATED),
        (({"type": "error", "error": {"type": "overloaded_error"}},), True, Outcome.ERROR),
        (({"error": {"message": "x"}},), True, Outcome.ERROR),
    ],
)
def test_a_stream_ends_as(messages: tuple[object, ...], complete: bool, outcome: Outcome) -> None:
    assert streamed(*messages, complete=complete).outcome is outcome


def test_a_chunk_that_holds_no_json_is_nothing() -> None:
    odd = [b"{}", b'{"bytes":7}', b'{"bytes":"!"}', b"no JSON", b'{"bytes":"eA=="}', b"[]"]
    body = b"".join(event("chunk", payload) for payload in odd)
    (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), [body + chunk(metrics(inputTokenCount=1))])
    assert (record.outcome, record.counts) == (Outcome.OK, {"input_tokens": 1})


# ---- against an oracle

COUNTS = st.integers(0, 99)
DELTA = {"type": "content_block_delta", "delta": {"text": '{"type":"message_delta","usage":{"output_tokens":9}}'}}
CLAUDE = st.one_of(
    st.sampled_from([DELTA, {"type": "ping"}, {"type": "content_block_stop", "index": 0}]),
    st.builds(
        lambda i: {"type": "message_start", "message": {"usage": {"input_tokens": i, "output_tokens": 1}}}, COUNTS
    ),
    st.builds(lambda o: {"type": "message_delta", "delta": {}, "usage": {"output_tokens": o}}, COUNTS),
)
NOVA = st.one_of(
    st.just({"contentBlockDelta": {"delta": {"text": '"metadata": {"usage": {"inputTokens": 9}}'}}}),
    st.builds(lambda i, o: {"metadata": {"usage": {"inputTokens": i, "outputTokens": o}}}, COUNTS, COUNTS),
)
LLAMA = st.builds(
    lambda i, o: {"generation": "x", "prompt_token_count": i, "generation_token_count": o}, COUNTS | st.none(), COUNTS
)
TITAN = st.builds(
    lambda i, o: {"outputText": "x", "inputTextTokenCount": i, "totalOutputTextTokenCount": o},
    COUNTS,
    COUNTS | st.none(),
)


@pytest.mark.parametrize("vendor", [CLAUDE, NOVA, LLAMA, TITAN], ids=["claude", "nova", "llama", "titan"])
@given(data=st.data(), cuts=CUTS)
def test_a_stream_gives_what_reading_every_chunk_gives(
    vendor: st.SearchStrategy[dict[str, object]], data: st.DataObject, cuts: list[int]
) -> None:
    """Silent chunks are not even decoded; the oracle decodes them all."""
    messages = data.draw(st.lists(vendor, max_size=6))
    body = b"".join(chunk(message) for message in messages)
    (record,) = read(reader_of(CALL, 200, AWS_CONTENT_TYPE), cut_at(body, cuts))
    found = {name: record.counts[name] for name in COMPARED if name in record.counts}
    assert found == counts_in("bedrock-invoke", body, content_type=AWS_CONTENT_TYPE)


@given(st.binary(max_size=12))
def test_a_silent_chunk_is_known_before_it_is_decoded_whatever_follows(tail: bytes) -> None:
    for prefix in (b'{"type":"content_block_delta"', b'{"type": "ping"', b'{"contentBlockDelta":'):
        assert (b'{"bytes":"' + base64.b64encode(prefix + tail)).startswith(SILENT_CHUNKS)
    assert not (b'{"bytes":"' + base64.b64encode(b'{"type":"content_block_start"' + tail)).startswith(SILENT_CHUNKS)
