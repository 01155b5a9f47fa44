"""Every answer ends as exactly one outcome, and no body, however odd, makes a reader raise."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.answer import ERROR_BYTES_MAX
from services.dialects.framings import AWS_CONTENT_TYPE
from services.dialects.recognise import Call, RequestFacts, recognise
from services.events.usage import Outcome, ResponseUsage
from services.wire.json_stream import ELEMENT_BYTES_MAX
from services.wire.sse import EVENT_BYTES_MAX
from tests.support.eventstream import event
from tests.support.reading import read, reader_of
from tests.support.splits import CUTS, cut_at

GEMINI = recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:generateContent")
CLOUD_CODE = recognise("POST", "cloudcode-pa.googleapis.com", "/v1internal:streamGenerateContent?alt=sse")
ANTHROPIC = recognise("POST", "api.anthropic.com", "/v1/messages")
CHAT = recognise("POST", "api.openai.com", "/v1/chat/completions")
RESPONSES = recognise("POST", "api.openai.com", "/v1/responses")
IMAGES = recognise("POST", "api.openai.com", "/v1/images/generations")
EMBEDDINGS = recognise("POST", "api.openai.com", "/v1/embeddings")
CONVERSE = recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream")
INVOKE = recognise("POST", "bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke-with-response-stream")
COHERE = recognise("POST", "api.cohere.com", "/v2/chat")
OLLAMA = recognise("POST", "localhost:11434", "/api/chat")
GOOGLE_EMBEDDINGS = recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/embedding:embedContent")
INTERACTIONS = recognise("POST", "generativelanguage.googleapis.com", "/v1beta/interactions")
CALLS = [GEMINI, CLOUD_CODE, ANTHROPIC, CHAT, RESPONSES, IMAGES, EMBEDDINGS]
CALLS += [CONVERSE, INVOKE, COHERE, OLLAMA, GOOGLE_EMBEDDINGS, INTERACTIONS]

EVENTS, JSON = "text/event-stream; charset=utf-8", "application/json"
USAGE = b'"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7}'
ANSWER = b'{"candidates": [{"finishReason": "STOP"}], ' + USAGE + b"}"
STREAM = b"data: " + ANSWER + b"\r\n\r\n"


def end_of(
    body: bytes, content_type: str, *, call: Call = GEMINI, status: int = 200, complete: bool = True
) -> ResponseUsage:
    return read(reader_of(call, status, content_type), [body], complete=complete)[0]


@pytest.mark.parametrize(
    ("body", "content_type", "outcome"),
    [
        (b"data: [DONE]\n\n", EVENTS, Outcome.NO_USAGE),
        (b"data:[DONE]", EVENTS, Outcome.NO_USAGE),
        (b"data: [DONE]\n\n", "", Outcome.NO_USAGE),
        (b"data: [DONE", EVENTS, Outcome.TRUNCATED),
        (b'data: "[DONE]"\n\n', EVENTS, Outcome.TRUNCATED),
        (b"[DONE]", JSON, Outcome.UNREADABLE),
    ],
)
def test_behind_an_end_mark_nothing_can_break_off(body: bytes, content_type: str, outcome: Outcome) -> None:
    """Where the dialect has one: to the others it is an event that is not JSON, and nothing."""
    assert end_of(body, content_type, call=CHAT, complete=False).outcome is outcome
    assert end_of(b"data: [DONE]\n\n", EVENTS, call=ANTHROPIC, complete=False).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("body", "content_type", "complete", "outcome"),
    [
        (STREAM, EVENTS, True, Outcome.OK),
        (STREAM, EVENTS, False, Outcome.TRUNCATED),
        (b"", EVENTS, True, Outcome.TRUNCATED),
        (b"data: {" + USAGE + b"}\n\n", EVENTS, True, Outcome.TRUNCATED),
        (b'data: {"candidates": [{"finishReason": "STOP"}]}\n\n', EVENTS, True, Outcome.NO_USAGE),
        (ANSWER, JSON, True, Outcome.OK),
        (ANSWER, JSON, False, Outcome.OK),
        (ANSWER[:-1], JSON, True, Outcome.TRUNCATED),
        (ANSWER[:-1], JSON, False, Outcome.TRUNCATED),
        (b"{}", JSON, True, Outcome.NO_USAGE),
        (b"", JSON, True, Outcome.NO_USAGE),
        (b"", JSON, False, Outcome.TRUNCATED),
        (b"[" + ANSWER + b"]", JSON, True, Outcome.OK),
        (b"[" + ANSWER, JSON, False, Outcome.TRUNCATED),
        (b"[" + ANSWER + b",nonsense]", JSON, True, Outcome.UNREADABLE),
        (b"[]", JSON, True, Outcome.TRUNCATED),
        (b'{"a": nonsense}', JSON, True, Outcome.UNREADABLE),
        (b"<html>no</html>", "text/html", True, Outcome.UNREADABLE),
        (b'{"error": {"status": "INTERNAL"}}', JSON, True, Outcome.ERROR),
        (b'{"error": "text"}', JSON, True, Outcome.ERROR),
        (b'{"promptFeedback": {"blockReason": "SAFETY"}}', JSON, True, Outcome.BLOCKED),
    ],
)
def test_an_answer_ends_as(body: bytes, content_type: str, complete: bool, outcome: Outcome) -> None:
    record = end_of(body, content_type, complete=complete)
    assert record.outcome is outcome
    assert (record.reason is not None) == (outcome is Outcome.UNREADABLE)


def test_a_label_that_lies_does_not_matter() -> None:
    """Gateways call streams JSON, and JSON plain text; the first byte tells them apart."""
    assert end_of(b"\r\n: comment\n" + STREAM, JSON).outcome is Outcome.OK
    assert end_of(b" \n\xef\xbb\xbf" + ANSWER, "text/plain").outcome is Outcome.OK
    assert end_of(STREAM, "").counts == end_of(ANSWER, "").counts


@pytest.mark.parametrize("status", [200, 429])
def test_json_under_the_label_of_a_stream_is_json(status: int) -> None:
    """An error that comes in place of a stream, and an answer of a gateway that does not stream after all."""
    error = b'{\n  "error": {\n    "status": "INTERNAL"\n  }\n}\n'
    assert end_of(error, EVENTS, status=status).outcome is Outcome.ERROR
    assert end_of(b"[" + error + b"]", EVENTS, status=status).outcome is Outcome.ERROR
    assert end_of(ANSWER, EVENTS).counts == end_of(ANSWER, JSON).counts != {}
    assert end_of(ANSWER, EVENTS).outcome is Outcome.OK
    assert end_of(ANSWER[:-1], EVENTS).outcome is Outcome.TRUNCATED
    for junk in (b'{"a": 1}\n\n', b'{"a": [1}}\n', b"[]\n"):
        assert end_of(junk + STREAM, EVENTS).counts == end_of(ANSWER, JSON).counts
        assert end_of(junk + STREAM, EVENTS).outcome is Outcome.OK


@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
def test_an_answer_without_a_type_is_what_its_first_byte_says(content_type: str) -> None:
    """Recorders and gateways leave it out."""
    lines = b'{"model":"m","message":{"content":"a"},"done":false}\n{"model":"m","done":true,"eval_count":4}\n'
    assert end_of(lines, content_type, call=OLLAMA).counts == {"output_tokens": 4}
    assert end_of(lines[:70], content_type, call=OLLAMA, complete=False).outcome is Outcome.TRUNCATED
    messages = event("messageStop", b'{"stopReason":"end_turn"}') + event("metadata", b'{"usage":{"outputTokens":4}}')
    assert end_of(messages, content_type, call=CONVERSE).counts == {"output_tokens": 4}
    assert end_of(b'{"usage":{"outputTokens":4}}', content_type, call=CONVERSE).counts == {"output_tokens": 4}
    assert end_of(STREAM, content_type).counts == end_of(STREAM, EVENTS).counts


@pytest.mark.parametrize(
    "odd",
    [rb'"\ud83d"', b'"\xf0\x9f"', b"NaN", b"-Infinity", b"1e999", b'"\xed\xa0\xbd"', b"9" * 400],
    ids=["half a pair", "half a character", "NaN", "infinity", "beyond a double", "a raw surrogate", "many digits"],
)
def test_what_only_the_strict_refuse_does_not_hide_the_counts(odd: bytes) -> None:
    """Models cut characters in two, and Python writes what JSON does not know, beside counts that are right."""
    answer = ANSWER[:-1] + b', "modelVersion": "m", "responseId": ' + odd + b', "avgLogprobs": ' + odd + b"}"
    for body, content_type in ((answer, JSON), (b"[" + answer + b"]", JSON), (b"data: " + answer + b"\n\n", EVENTS)):
        record = end_of(body, content_type)
        assert (record.outcome, record.response_model) == (Outcome.OK, "m")
        assert record.counts == end_of(ANSWER, JSON).counts
        assert (record.response_id or "").encode().decode() == (record.response_id or "")


def test_what_cannot_be_read_says_why() -> None:
    assert end_of(b"<html>", "text/html").reason == "answer of text/html begins with b'<': neither JSON nor events"
    assert end_of(b"{no}", JSON).reason == "answer is not valid JSON"
    assert end_of(b"{}{", JSON).reason == "b'{' behind the end of the JSON text"


@pytest.mark.parametrize(
    ("head", "content_type", "limit"),
    [(b'data: {"a": "', EVENTS, EVENT_BYTES_MAX), (b'{"a": "', JSON, ELEMENT_BYTES_MAX)],
)
def test_an_answer_beyond_the_limit_is_unreadable_and_keeps_what_was_seen(
    head: bytes, content_type: str, limit: int
) -> None:
    reader = reader_of(GEMINI, 200, content_type)
    reader.feed(STREAM if content_type is EVENTS else b"")
    reader.feed(head)
    for _ in range(0, limit + 1, 1024 * 1024):
        assert reader.feed(b"x" * (1024 * 1024)) is False
    (record,) = reader.end(complete=True)
    assert record.outcome is Outcome.UNREADABLE
    assert record.reason is not None and record.reason.endswith(f"exceeds {limit}")
    assert record.counts.get("total_tokens") == (7 if content_type is EVENTS else None)


@pytest.mark.parametrize("call", CALLS)
@given(
    noise=st.binary(max_size=300), cuts=CUTS, status=st.sampled_from([200, 204, 301, 400, 503]), complete=st.booleans()
)
def test_noise_ends_as_one_record_without_counts(
    call: Call, noise: bytes, cuts: list[int], status: int, complete: bool
) -> None:
    for content_type in (EVENTS, JSON, "", AWS_CONTENT_TYPE, "application/x-ndjson"):
        (record,) = read(reader_of(call, status, content_type), cut_at(noise, cuts), complete=complete)
        assert record.counts == {}
        assert record.outcome not in (Outcome.OK, Outcome.BLOCKED)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "type message usage delta error candidates usageMetadata promptTokenCount totalTokenCount index "
                    "finishReason promptFeedback blockReason response traceId consumedCredits creditAmount iterations "
                    "content_block to model id input_tokens output_tokens cache_creation server_tool_use modality "
                    "promptTokensDetails tokenCount stop_reason metadata inputTokens cacheDetails ttl trace "
                    "serviceTier promptRouter messageStop stopReason amazon-bedrock-invocationMetrics "
                    "inputTokenCount results choices prompt_token_count finish_reason meta tokens billed_units "
                    "generations is_finished done eval_count predictions embeddings statistics token_count "
                    "promptTokenDetails event_type status interaction total_input_tokens total_thought_tokens "
                    "input_tokens_by_modality "
                ).split()
            ),
            inner,
            max_size=5,
        )
        | st.sampled_from(["message_start", "message_delta", "message", "fallback", "compaction", "error", "STOP"])
    ),
    max_leaves=15,
)


@pytest.mark.parametrize("call", CALLS)
@given(values=st.lists(JSON_VALUES, max_size=6), as_stream=st.booleans())
def test_json_of_any_shape_is_read_without_complaint(call: Call, values: list[object], as_stream: bool) -> None:
    """Members of wrong types, numbers beyond all bounds, objects where texts should be."""
    if as_stream:
        body, content_type = "".join(f"data: {json.dumps(value)}\n\n" for value in values).encode(), EVENTS
    else:
        body, content_type = json.dumps(values).encode(), JSON
    records = read(reader_of(call, 200, content_type), [body])
    for record in records:
        assert all(type(count) in (int, float) for count in record.counts.values())
        assert all(type(reason) is str for reason in record.finish_reasons)


def test_progress_is_the_record_as_if_the_body_broke_off_here() -> None:
    reader = reader_of(CLOUD_CODE, 200, EVENTS, RequestFacts(model="m", conversation_id="c"))
    assert reader.progress() == ResponseUsage(
        outcome=Outcome.TRUNCATED, operation="generate_content", request_model="m", conversation_id="c"
    )
    assert reader.feed(b'data: {"response": {' + USAGE) is False
    assert reader.progress().counts == {}
    assert reader.feed(b"}}\n\n") is True
    assert reader.progress().outcome is Outcome.TRUNCATED
    assert reader.progress().counts == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert reader.feed(b'data: {"response": {' + USAGE + b"}}\n\n") is False, "the same counts again are no news"


@pytest.mark.parametrize(
    ("body", "error_code"),
    [
        (b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}', "RESOURCE_EXHAUSTED"),
        (b'[{"error": {"code": 429}}]', "429"),
        (b'{"type": "error", "error": {"type": "overloaded_error"}}', "overloaded_error"),
        (b'event: error\ndata: {"error": {"type": "api_error"}}', "api_error"),
        (b"<html>Bad Gateway</html>", None),
        (b"", None),
        (b'{"error": "text"}', None),
        (b'{"error": {"type": "cut', None),
        (b" " * ERROR_BYTES_MAX + b'{"error": {"type": "too late"}}', None),
    ],
)
def test_an_http_error_is_an_error_whatever_its_body(body: bytes, error_code: str | None) -> None:
    for content_type in (EVENTS, JSON):
        for complete in (True, False):
            record = end_of(body, content_type, status=429, complete=complete)
            assert (record.outcome, record.error_type, record.error_code) == (Outcome.ERROR, "429", error_code)
            assert record.counts == {}
            assert record.request_model == "gemini-2.5-flash"
