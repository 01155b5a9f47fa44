"""Embeddings have an input and no output; what reports the total only has reported its input."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome
from tests.support.reading import read, reader_of

CALL = recognise("POST", "api.openai.com", "/v1/embeddings")


@pytest.mark.parametrize(
    ("usage", "outcome", "counts"),
    [
        ({"prompt_tokens": 5, "total_tokens": 5}, Outcome.OK, {"input_tokens": 5, "total_tokens": 5}),
        ({"total_tokens": 5}, Outcome.OK, {"input_tokens": 5, "total_tokens": 5}),
        ({"prompt_tokens": 5}, Outcome.OK, {"input_tokens": 5}),
        ({"prompt_tokens": None}, Outcome.NO_USAGE, {}),
        ({}, Outcome.NO_USAGE, {}),
        (None, Outcome.NO_USAGE, {}),
    ],
)
def test_the_input_is_what_was_reported(usage: object, outcome: Outcome, counts: dict[str, int]) -> None:
    body = json.dumps({"object": "list", "data": [], "model": "m", "usage": usage}).encode()
    (record,) = read(reader_of(CALL, 200, "application/json"), [body])
    assert (record.outcome, record.counts, record.response_model) == (outcome, counts, "m")


def test_an_error_may_come_with_status_200() -> None:
    (record,) = read(reader_of(CALL, 200, "application/json"), [b'{"error": {"code": 413}}'])
    assert (record.outcome, record.error_type) == (Outcome.ERROR, "413")


def test_a_body_cut_off_is_truncated() -> None:
    (record,) = read(reader_of(CALL, 200, "application/json"), [b'{"data": [{"embedding": [0.1'])
    assert record.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("api.voyageai.com", "/v1/multimodalembeddings"),
        ("openrouter.ai", "/api/v1/embeddings"),
        ("localhost", "/embeddings"),
    ],
)
def test_embeddings_are_recognised_by_the_end_of_the_path(host: str, target: str) -> None:
    assert recognise("POST", host, target).dialect == "openai-embeddings"


def test_the_old_embeddings_of_ollama_are_another_api() -> None:
    assert recognise("POST", "localhost:11434", "/api/embeddings").dialect != "openai-embeddings"
    assert recognise("POST", "localhost:11434", "/v1/embeddings").kind is CallKind.MODEL_CALL


@given(
    st.dictionaries(
        st.sampled_from(["usage", "model", "error", "id"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["prompt_tokens", "total_tokens"]), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )
)
def test_no_answer_makes_a_reader_raise(message: dict[str, object]) -> None:
    read(reader_of(CALL, 200, "application/json"), [json.dumps(message).encode()])
