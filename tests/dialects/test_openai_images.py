"""Images: text and image tokens, where the model counts tokens at all."""

import json

import pytest

from services.dialects.recognise import recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import facts_of, read, reader_of

CALL = recognise("POST", "api.openai.com", "/v1/images/generations")
PARTIAL = {"type": "image_generation.partial_image", "b64_json": "aGF0", "usage": None}


def record_of(*events: dict[str, object], complete: bool = True) -> ResponseUsage:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    (record,) = read(reader_of(CALL, 200, "text/event-stream"), [body], complete=complete)
    return record


@pytest.mark.parametrize("kind", ["image_generation.completed", "image_edit.completed"])
def test_a_stream_ends_with_its_completed_event(kind: str) -> None:
    record = record_of(PARTIAL, {"type": kind, "usage": {"input_tokens": 3, "output_tokens": 4}})
    assert (record.outcome, record.counts) == (Outcome.OK, {"input_tokens": 3, "output_tokens": 4})
    assert record_of(PARTIAL).outcome is Outcome.TRUNCATED


def test_counts_replace_each_other() -> None:
    completed = {"type": "image_generation.completed"}
    record = record_of(
        {**completed, "usage": {"input_tokens": 3, "output_tokens": 4}},
        {**completed, "usage": {"input_tokens": 3, "output_tokens": 8}},
    )
    assert record.counts == {"input_tokens": 3, "output_tokens": 8}


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"type": "error", "error": {"code": "c"}}, "c"),
        ({"type": "error", "code": "c"}, "c"),
        ({"type": "error"}, "error"),
    ],
)
def test_an_error_ends_a_stream(event: dict[str, object], name: str) -> None:
    record = record_of(PARTIAL, event)
    assert (record.outcome, record.error_type) == (Outcome.ERROR, name)


@pytest.mark.parametrize("end", ["generations", "edits", "variations"])
def test_images_are_recognised_by_the_end_of_the_path(end: str) -> None:
    call = recognise("POST", "x.openai.azure.com", f"/openai/deployments/gpt-image-1/images/{end}?api-version=1")
    assert (call.dialect, call.operation, call.request_model) == ("openai-images", "generate_content", "gpt-image-1")


def test_a_form_does_not_say_its_model() -> None:
    assert facts_of(CALL, [b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-image-1\r\n']).model is None
