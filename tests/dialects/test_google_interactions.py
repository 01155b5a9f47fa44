"""An interaction's usage is that of its last report, tools beside the input and thoughts beside the output."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in
from tests.support.splits import CUTS, cut_at

HOST = "generativelanguage.googleapis.com"
CALL = recognise("POST", HOST, "/v1beta/interactions")
EVENTS = "text/event-stream"


def body_of(*messages: object) -> bytes:
    return "".join(f"data: {json.dumps(each, separators=(',', ':'))}\n\n" for each in messages).encode()


def record_of(*messages: object, complete: bool = True) -> ResponseUsage:
    return read(reader_of(CALL, 200, EVENTS), [body_of(*messages)], complete=complete)[0]


def completed(status: str = "completed", kind: str = "interaction.completed", **usage: object) -> dict[str, object]:
    return {"interaction": {"id": "i", "status": status, "model": "m", "usage": usage}, "event_type": kind}


def test_tools_stand_beside_the_input_and_thoughts_beside_the_output() -> None:
    record = record_of(
        completed(
            total_input_tokens=22,
            total_tool_use_tokens=129,
            total_output_tokens=973,
            total_thought_tokens=249,
            total_cached_tokens=0,
            total_tokens=1373,
            input_tokens_by_modality=[{"modality": "text", "tokens": 22}, {"modality": "smell", "tokens": 1}, 7],
            tool_use_tokens_by_modality=[{"modality": "TEXT", "tokens": 129}],
        )
    )
    assert record.counts == {
        "input_tokens": 151,
        "output_tokens": 1222,
        "cache_read_input_tokens": 0,
        "tool_use_prompt_input_tokens": 129,
        "reasoning_output_tokens": 249,
        "total_tokens": 1373,
        "text_input_tokens": 151,
    }
    assert record.anomalies == ()


@pytest.mark.parametrize(
    ("message", "outcome", "reasons"),
    [
        (completed(total_input_tokens=1), Outcome.OK, ("completed",)),
        (completed(), Outcome.NO_USAGE, ("completed",)),
        (completed("requires_action", "interaction.complete", total_tokens=1), Outcome.OK, ("requires_action",)),
        (completed("in_progress", "interaction.created"), Outcome.TRUNCATED, ()),
        (completed("failed", total_tokens=1), Outcome.ERROR, ("failed",)),
        ({"event_type": "error", "error": {"code": "gateway_timeout"}}, Outcome.ERROR, ()),
        ({"event_type": "step.delta", "usage": {"total_tokens": 9}}, Outcome.TRUNCATED, ()),
    ],
)
def test_a_stream_ends_as(message: object, outcome: Outcome, reasons: tuple[str, ...]) -> None:
    for complete in (True, False):
        record = record_of(message, complete=complete)
        assert (record.outcome, record.finish_reasons) == (outcome, reasons)


NOISE = [
    {"index": 0, "delta": {"text": '{"interaction": {"usage": {"total_tokens": 9}}}'}, "event_type": "step.delta"},
    {"index": 0, "step": {"usage": {"total_tokens": 9}}, "event_type": "step.start"},
    {"interaction_id": "i", "status": "in_progress", "event_type": "interaction.status_update"},
]
MESSAGES = st.sampled_from(NOISE) | st.integers(0, 9).map(
    lambda n: completed(total_input_tokens=n, total_output_tokens=1, total_tokens=n + 1)
)


@given(st.lists(MESSAGES, max_size=6), CUTS)
def test_a_stream_gives_what_parsing_every_event_gives(messages: list[object], cuts: list[int]) -> None:
    body = body_of(*messages)
    (record,) = read(reader_of(CALL, 200, EVENTS), cut_at(body, cuts))
    found = {name: record.counts[name] for name in COMPARED if name in record.counts}
    assert found == counts_in("google-interactions", body)


@pytest.mark.parametrize(
    ("method", "host", "target", "kind"),
    [
        ("POST", HOST, "/v1beta/interactions", CallKind.MODEL_CALL),
        ("POST", "aiplatform.googleapis.com", "/v1beta1/projects/p/locations/l/interactions", CallKind.MODEL_CALL),
        ("GET", HOST, "/v1beta/interactions/v1_x?stream=true", CallKind.OTHER),
        ("DELETE", HOST, "/v1beta/interactions/v1_x", CallKind.OTHER),
        ("POST", HOST, "/v1beta/interactions/v1_x/cancel", CallKind.OTHER),
        ("POST", "gateway.example", "/v1beta/interactions", CallKind.UNKNOWN),
    ],
)
def test_only_what_begins_an_interaction_makes_a_model_work(
    method: str, host: str, target: str, kind: CallKind
) -> None:
    assert recognise(method, host, target).kind is kind
