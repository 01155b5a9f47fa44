"""Ollama's counts come with the object that is done."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in
from tests.support.splits import CUTS, cut_at

CALL = recognise("POST", "localhost:11434", "/api/chat")
LINES = "application/x-ndjson"

DONE = {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 4}


def lines(*messages: object) -> bytes:
    return "".join(json.dumps(message, separators=(",", ":")) + "\n" for message in messages).encode()


def record_of(*messages: object, complete: bool = True) -> ResponseUsage:
    return read(reader_of(CALL, 200, LINES), [lines(*messages)], complete=complete)[0]


@pytest.mark.parametrize(
    ("messages", "outcome", "counts"),
    [
        ([DONE], Outcome.OK, {"input_tokens": 3, "output_tokens": 4}),
        ([{"done": True, "eval_count": 0}], Outcome.OK, {"output_tokens": 0}),
        ([{"done": True}], Outcome.NO_USAGE, {}),
        ([{"done": False, "eval_count": 4}], Outcome.TRUNCATED, {}),
        ([{"done": "true", "eval_count": 4}], Outcome.TRUNCATED, {}),
        ([DONE, {"error": "text"}], Outcome.ERROR, {"input_tokens": 3, "output_tokens": 4}),
    ],
)
def test_a_stream_ends_with_the_line_that_is_done(
    messages: list[object], outcome: Outcome, counts: dict[str, int]
) -> None:
    for complete in (True, False):
        record = record_of(*messages, complete=complete)
        assert (record.outcome, record.counts) == (outcome, counts)


def test_one_object_is_read_as_well() -> None:
    (record,) = read(reader_of(CALL, 200, "application/json"), [json.dumps(DONE, indent=1).encode()])
    assert (record.outcome, record.finish_reasons, record.response_model) == (Outcome.OK, ("stop",), "m")


TEXTS = st.sampled_from(['{"done":true,"eval_count":9}', '"done":false}', '\\"done\\":false}', "x"])
MESSAGES = st.one_of(
    st.builds(lambda text: {"model": "m", "message": {"content": text}, "done": False}, TEXTS),
    st.builds(lambda text: {"model": "m", "done": False, "message": {"content": text}}, TEXTS),
    st.builds(lambda n: {"done": True, "eval_count": n, "tool": {"done": False}}, st.integers(0, 9)),
)


@given(st.lists(MESSAGES, max_size=6), CUTS)
def test_a_stream_gives_what_parsing_every_line_gives(messages: list[object], cuts: list[int]) -> None:
    body = lines(*messages)
    (record,) = read(reader_of(CALL, 200, LINES), cut_at(body, cuts))
    found = {name: record.counts[name] for name in COMPARED if name in record.counts}
    assert found == counts_in("ollama-native", body, content_type=LINES)


@pytest.mark.parametrize(
    ("host", "target", "provider", "operation"),
    [
        ("localhost:11434", "/api/chat", "ollama", "chat"),
        ("192.168.1.7:11434", "/api/generate", "ollama", "text_completion"),
        ("ollama.com", "/api/embed", "ollama", "embeddings"),
        ("ollama.example", "/api/embeddings", "ollama", "embeddings"),
    ],
)
def test_its_calls_are_recognised_on_any_host_that_is_nobodys(
    host: str, target: str, provider: str, operation: str
) -> None:
    call = recognise("POST", host, target)
    assert (call.dialect, call.provider, call.operation) == ("ollama-native", provider, operation)


def test_the_same_path_of_others_is_not_its() -> None:
    assert recognise("POST", "api.mistral.ai", "/api/chat").dialect is None


@pytest.mark.parametrize("target", ["/api/tags", "/api/show", "/api/ps", "/api/pull", "/api/blobs/sha256:0"])
def test_lists_and_stores_spend_nothing(target: str) -> None:
    assert recognise("POST", "localhost:11434", target).kind is CallKind.OTHER
