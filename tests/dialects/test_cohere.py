"""Cohere's tokens count, its billed units stand beside them, and both come at the end."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in
from tests.support.splits import CUTS, cut_at

CALL = recognise("POST", "api.cohere.com", "/v2/chat")
EVENTS, LINES, JSON = "text/event-stream", "application/stream+json", "application/json"


def whole(message: object) -> ResponseUsage:
    return read(reader_of(CALL, 200, JSON), [json.dumps(message).encode()])[0]


def events(*messages: object) -> bytes:
    return "".join(f"event: x\ndata: {json.dumps(each, separators=(',', ':'))}\n\n" for each in messages).encode()


def lines(*messages: object) -> bytes:
    return "".join(json.dumps(message, separators=(",", ":")) + "\n" for message in messages).encode()


# ---- what a usage object says


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (
            {"tokens": {"input_tokens": 70, "output_tokens": 45}, "billed_units": {"input_tokens": 4}},
            {"input_tokens": 70, "output_tokens": 45, "billed_input_tokens": 4},
        ),
        ({"billed_units": {"input_tokens": 4}}, {"input_tokens": 4, "billed_input_tokens": 4}),
        ({"tokens": {}, "billed_units": {"output_tokens": 1.0}}, {"output_tokens": 1, "billed_output_tokens": 1}),
        ({"tokens": {"input_tokens": 5, "image_tokens": 7}}, {"input_tokens": 5, "image_tokens": 7}),
        ({"tokens": {"output_tokens": 5, "reasoning_tokens": 3}}, {"output_tokens": 5, "reasoning_output_tokens": 3}),
        ({"tokens": {"input_tokens": 5}, "cached_tokens": 4}, {"input_tokens": 5, "cache_read_input_tokens": 4}),
        ({"billed_units": {"search_units": 1}}, {"search_units": 1}),
        ({"tokens": {"input_tokens": 1.5}, "billed_units": "odd"}, {}),
    ],
)
def test_tokens_count_and_billed_units_stand_beside_them(usage: object, counts: dict[str, int]) -> None:
    assert whole({"usage": usage}).counts == counts == whole({"meta": usage}).counts


def test_the_id_is_that_of_the_generation() -> None:
    assert whole({"response_id": "r", "generation_id": "g"}).response_id == "g"
    assert whole({"id": "i", "generations": [{"id": "x"}]}).response_id == "i"


# ---- how it ends

END = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 1}}}}
LAST = {"is_finished": True, "response": {"finish_reason": "COMPLETE", "meta": {"tokens": {"input_tokens": 1}}}}


@pytest.mark.parametrize(
    ("body", "content_type", "outcome"),
    [
        (events(END), EVENTS, Outcome.OK),
        (events({"type": "content-end"}), EVENTS, Outcome.TRUNCATED),
        (events({"type": "message-end", "delta": {"finish_reason": "ERROR"}}), EVENTS, Outcome.ERROR),
        (events({"type": "message-end", "delta": {"error": "text"}}), EVENTS, Outcome.ERROR),
        (events({"type": "message-end"}), EVENTS, Outcome.NO_USAGE),
        (lines(LAST), LINES, Outcome.OK),
        (lines(LAST)[:-1], LINES, Outcome.OK),
        (lines(LAST)[:-2], LINES, Outcome.TRUNCATED),
        (lines({"is_finished": True, "finish_reason": "ERROR_TOXIC"}), LINES, Outcome.ERROR),
        (b"not JSON\n", LINES, Outcome.TRUNCATED),
    ],
)
def test_an_answer_ends_as(body: bytes, content_type: str, outcome: Outcome) -> None:
    """Whether the transfer ended well does not matter behind the end."""
    for complete in (True, False):
        (record,) = read(reader_of(CALL, 200, content_type), [body], complete=complete)
        assert record.outcome is outcome


# ---- leaving out what cannot matter

NOISE = [
    {"type": "content-delta", "delta": {"usage": {"tokens": {"input_tokens": 9}}, "message": {}}},
    {"type": "content-delta", "delta": {"message": {"content": {"text": '"usage": {"tokens": {}}'}}}},
    {"delta": {"message": {}}, "type": "content-delta"},
    {"type": "message-start", "id": "i"},
]
MESSAGES = st.sampled_from(NOISE[1:]) | st.integers(0, 9).map(
    lambda tokens: {"type": "message-end", "delta": {"usage": {"tokens": {"input_tokens": tokens}}}}
)


@given(st.lists(MESSAGES, max_size=6), CUTS)
def test_a_stream_gives_what_parsing_every_event_gives(messages: list[object], cuts: list[int]) -> None:
    for content_type, body in ((EVENTS, events(*messages)), (LINES, lines(*messages))):
        (record,) = read(reader_of(CALL, 200, content_type), cut_at(body, cuts))
        found = {name: record.counts[name] for name in COMPARED if name in record.counts}
        assert found == counts_in("cohere-chat", body, content_type=content_type)


# ---- whose requests these are


@pytest.mark.parametrize(
    ("host", "target", "dialect", "operation"),
    [
        ("api.cohere.com", "/v1/chat", "cohere-chat", "chat"),
        ("api.cohere.com", "/v1/generate", "cohere-chat", "text_completion"),
        ("api.cohere.com", "/v2/embed", "cohere-embed", "embeddings"),
        ("api.cohere.com", "/v2/rerank", "cohere-rerank", "rerank"),
        ("x.services.ai.azure.com", "/providers/cohere/v2/embed", "cohere-embed", "embeddings"),
        ("gateway.example", "/cohere/v2/chat", "cohere-chat", "chat"),
    ],
)
def test_its_calls_are_recognised(host: str, target: str, dialect: str, operation: str) -> None:
    call = recognise("POST", host, target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.MODEL_CALL, dialect, operation)


def test_the_same_path_of_others_is_not_its() -> None:
    assert recognise("POST", "api.writer.com", "/v1/chat").dialect != "cohere-chat"
    assert recognise("POST", "gateway.example", "/v1/chat").dialect is None
    assert recognise("POST", "api.cohere.com", "/compatibility/v1/chat/completions").dialect == "openai-chat"


@pytest.mark.parametrize("target", ["/v1/models", "/v1/tokenize", "/v1/embed-jobs/1/cancel", "/v1/check-api-key"])
def test_lists_and_tools_spend_nothing(target: str) -> None:
    assert recognise("POST", "api.cohere.com", target).kind is CallKind.OTHER
