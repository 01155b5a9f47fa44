"""Anthropic's counts: the last delta corrects the start, key by key; what other models did is a record of its own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.anthropic_messages import MessagesTally
from services.dialects.recognise import CallKind, RequestFacts, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in

CALL = recognise("POST", "api.anthropic.com", "/v1/messages")


def start(model: str = "m", **usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"id": "msg", "model": model, "usage": usage}}


def delta(**usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


STOP = {"type": "message_stop"}


def records_of(*messages: dict[str, object], complete: bool = True) -> tuple[ResponseUsage, ...]:
    body = "".join(f"event: x\ndata: {json.dumps(message)}\n\n" for message in messages).encode()
    return read(reader_of(CALL, 200, "text/event-stream"), [body], complete=complete)


# ---- what a usage object says


def test_the_input_is_what_was_fresh_read_and_written() -> None:
    (record,) = records_of(
        start(input_tokens=3, cache_read_input_tokens=18_000, cache_creation_input_tokens=400, output_tokens=9), STOP
    )
    assert record.counts == {
        "input_tokens": 18_403,
        "output_tokens": 9,
        "cache_read_input_tokens": 18_000,
        "cache_write_input_tokens": 400,
    }
    assert record.anomalies == ()


def test_the_input_is_unknown_while_its_fresh_part_is() -> None:
    (record,) = records_of(start(cache_read_input_tokens=5, output_tokens=1), STOP)
    assert record.counts == {"cache_read_input_tokens": 5, "output_tokens": 1}


@pytest.mark.parametrize(
    ("written", "five_minutes", "one_hour", "is_used"),
    [(10, 4, 6, True), (0, 0, 0, True), (10, 10, None, True), (11, 4, 6, False), (None, 4, 6, False)],
)
def test_lifetimes_are_used_if_they_add_up(
    written: int | None, five_minutes: int, one_hour: int | None, is_used: bool
) -> None:
    lifetimes = {"ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": one_hour}
    (record,) = records_of(start(input_tokens=1, cache_creation_input_tokens=written, cache_creation=lifetimes), STOP)
    expected = {"cache_write_5m_input_tokens": five_minutes, "cache_write_1h_input_tokens": one_hour} if is_used else {}
    found = {
        name: count for name, count in record.counts.items() if name.startswith(("cache_write_5", "cache_write_1"))
    }
    assert found == {name: count for name, count in expected.items() if count is not None}


def test_only_server_tools_that_have_a_name_here_are_counted() -> None:
    (record,) = records_of(
        start(input_tokens=1, server_tool_use={"web_search_requests": 2, "new_requests": 9, "input_tokens": "x"}), STOP
    )
    assert record.counts == {"input_tokens": 1, "web_search_requests": 2}


# ---- what replaces what


@pytest.mark.parametrize(("first", "last"), [(2_068, 22_397), (60_385, 612), (0, 15)])
def test_the_delta_corrects_the_start_up_and_down(first: int, last: int) -> None:
    (record,) = records_of(start(input_tokens=first, output_tokens=1), delta(input_tokens=last, output_tokens=5), STOP)
    assert record.counts == {"input_tokens": last, "output_tokens": 5}


def test_nulls_and_absent_keys_correct_nothing() -> None:
    (record,) = records_of(
        start(input_tokens=7, cache_read_input_tokens=2, output_tokens=1),
        delta(input_tokens=None, output_tokens=5),
        delta(output_tokens=8),
        {"type": "message_delta", "delta": {}},
        STOP,
    )
    assert record.counts == {"input_tokens": 9, "cache_read_input_tokens": 2, "output_tokens": 8}


def test_a_repeated_start_begins_anew() -> None:
    (record,) = records_of(start(input_tokens=7, cache_read_input_tokens=2), start(input_tokens=8), STOP)
    assert record.counts == {"input_tokens": 8}


# ---- further models


def test_hidden_iterations_are_records_of_their_own() -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 100, "output_tokens": 10},
        {"type": "advisor_message", "model": "advisor", "input_tokens": 50, "output_tokens": 5},
        {"type": "message", "input_tokens": 1, "output_tokens": 2},
        {"type": "something_new", "input_tokens": 1000},
    ]
    main, compaction, advisor = records_of(start(input_tokens=1), delta(output_tokens=2, iterations=iterations), STOP)
    assert main.counts == {"input_tokens": 1, "output_tokens": 2}
    assert (compaction.iteration_type, compaction.response_model) == ("compaction", "m")
    assert compaction.counts == {"input_tokens": 100, "output_tokens": 10}
    assert (advisor.iteration_type, advisor.response_model) == ("advisor_message", "advisor")
    assert {record.response_id for record in (main, compaction, advisor)} == {"msg"}


def test_after_a_fallback_the_declined_attempt_is_a_record_of_its_own() -> None:
    block = {"type": "content_block_start", "content_block": {"type": "fallback", "to": {"model": "second"}}}
    iterations = [{"type": "message", "input_tokens": 4}, {"type": "fallback_message", "input_tokens": 5}]
    main, declined = records_of(
        start("first", input_tokens=4), block, delta(input_tokens=5, iterations=iterations), STOP
    )
    assert (main.response_model, main.counts["input_tokens"]) == ("second", 5)
    assert (declined.response_model, declined.counts["input_tokens"]) == ("first", 4)


def test_the_fallback_is_named_by_its_iteration_if_no_block_named_it() -> None:
    iterations = [{"type": "fallback_message", "model": "second", "input_tokens": 5}]
    (main,) = records_of(start("first", input_tokens=4), delta(input_tokens=5, iterations=iterations), STOP)
    assert main.response_model == "second"


# ---- how it ends


@pytest.mark.parametrize(
    ("last", "complete", "outcome"),
    [
        (STOP, True, Outcome.OK),
        (STOP, False, Outcome.OK),  # nothing comes behind it
        (delta(output_tokens=3), True, Outcome.TRUNCATED),
        ({"type": "ping"}, False, Outcome.TRUNCATED),
        ({"type": "error", "error": {"type": "overloaded_error"}}, True, Outcome.ERROR),
        ({"error": {"message": "of some gateway"}}, True, Outcome.ERROR),
    ],
)
def test_a_stream_ends_with_its_stop(last: dict[str, object], complete: bool, outcome: Outcome) -> None:
    (record,) = records_of(start(input_tokens=1), last, complete=complete)
    assert record.outcome is outcome
    assert record.counts["input_tokens"] == 1


def test_a_stop_without_counts_is_unknown_not_zero() -> None:
    (record,) = records_of(start(), STOP)
    assert (record.outcome, record.counts) == (Outcome.NO_USAGE, {})


# ---- leaving out what cannot matter

DELTA = {"type": "content_block_delta", "delta": {"text": 'message_delta {"usage": {"output_tokens": 9}}'}}
NOISE = [DELTA, {"type": "ping"}, dict(reversed(DELTA.items())), {"type": "content_block_stop"}, {"type": "new"}]
USAGES = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]),
    st.integers(0, 9) | st.none(),
)
MESSAGES = st.one_of(
    st.sampled_from(NOISE),
    st.builds(lambda u: start(**u), USAGES),
    st.builds(lambda u: delta(**u), USAGES),
    st.just(STOP),
)


@given(bursts=st.lists(st.lists(MESSAGES, max_size=6), max_size=4), compact=st.booleans())
def test_a_stream_gives_what_parsing_every_event_gives(bursts: list[list[dict[str, object]]], compact: bool) -> None:
    """Deltas are skipped unparsed; the oracle parses them all, and the tally is told them all."""
    separators = (",", ":") if compact else None
    reader = reader_of(CALL, 200, "text/event-stream")
    tally = MessagesTally(CALL, RequestFacts())
    body = b""
    for burst in bursts:
        piece = "".join(f"data: {json.dumps(message, separators=separators)}\n\n" for message in burst).encode()
        reader.feed(piece)
        body += piece
        for message in burst:
            tally.read(message)
        assert reader.progress() == tally.record(Outcome.TRUNCATED)
    counts = reader.end(complete=True)[0].counts
    assert {name: counts[name] for name in COMPARED if name in counts} == counts_in("anthropic-messages", body)


# ---- whose requests these are


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("api.anthropic.com", "/v1/messages"),
        ("api.anthropic.com", "/v1/messages?beta=true"),
        ("api.z.ai", "/api/anthropic/v1/messages"),
        ("openrouter.ai", "/api/v1/messages"),
        ("gateway.example", "/v1/messages/"),
    ],
)
def test_messages_are_recognised_behind_any_gateway(host: str, target: str) -> None:
    call = recognise("POST", host, target)
    assert (call.kind, call.dialect, call.request_model) == (CallKind.MODEL_CALL, "anthropic-messages", None)


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("POST", "/v1/messages/count_tokens?beta=true", "count_tokens"),
        ("POST", "/v1/messages/batches", "batches"),
        ("GET", "/v1/messages/batches/b1/results", "batches"),
        ("GET", "/v1/models", "models"),
        ("POST", "/api/event_logging/batch", "api/event_logging"),
        ("GET", "/mcp-registry/v0/servers?version=latest", "mcp-registry"),
    ],
)
def test_estimates_and_lists_spend_nothing(method: str, target: str, operation: str) -> None:
    call = recognise(method, "api.anthropic.com", target)
    assert (call.kind, call.operation) == (CallKind.OTHER, operation)


def test_on_vertex_the_model_is_in_the_path() -> None:
    where = "/v1/projects/p/locations/l/publishers/anthropic/models/"
    call = recognise("POST", "l-aiplatform.googleapis.com", f"{where}claude-sonnet-4-5%4020250929:streamRawPredict")
    assert (call.provider, call.request_model, call.is_streaming) == (
        "gcp.vertex_ai",
        "claude-sonnet-4-5@20250929",
        True,
    )
    counting = recognise("POST", "l-aiplatform.googleapis.com", f"{where}count-tokens:rawPredict")
    assert counting.kind is CallKind.OTHER
