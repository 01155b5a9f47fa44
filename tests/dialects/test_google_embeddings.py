"""Google's embeddings count their input, in one of three places or not at all."""

import json

import pytest

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of

CALL = recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/gemini-embedding-2:embedContent")
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/"


def record_of(message: object) -> ResponseUsage:
    return read(reader_of(CALL, 200, "application/json"), [json.dumps(message).encode()])[0]


def prediction(token_count: object) -> dict[str, object]:
    return {"embeddings": {"values": [0.1], "statistics": {"token_count": token_count}}}


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        ({"usageMetadata": {"promptTokenCount": 3}}, {"input_tokens": 3}),
        ({"usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3}}, {"input_tokens": 3, "total_tokens": 3}),
        (
            {"usageMetadata": {"promptTokenCount": 3, "promptTokenDetails": [{"modality": "TEXT", "tokenCount": 3}]}},
            {"input_tokens": 3, "text_input_tokens": 3},
        ),
        ({"predictions": [prediction(4), prediction(7.0)]}, {"input_tokens": 11}),
        ({"predictions": [prediction("4"), {}, 7]}, {}),
        ({"embedding": {"values": [], "usageMetadata": {"promptTokenCount": 9}}}, {}),
    ],
)
def test_counts_are_taken_from_where_they_are_reported(message: object, counts: dict[str, int]) -> None:
    record = record_of(message)
    assert record.counts == counts
    assert record.outcome is (Outcome.OK if counts else Outcome.NO_USAGE)


def test_an_error_object_is_an_error() -> None:
    assert record_of({"error": {"status": "INTERNAL"}}).error_type == "INTERNAL"


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("text-embedding-005", "google-embeddings"),
        ("textembedding-gecko@003", "google-embeddings"),
        ("imagen-4.0-generate-001", None),
    ],
)
def test_predict_is_told_apart_by_its_model(model: str, dialect: str | None) -> None:
    call = recognise("POST", "l-aiplatform.googleapis.com", f"{VERTEX}{model}:predict")
    assert (call.kind, call.dialect, call.request_model) == (CallKind.MODEL_CALL, dialect, model)
