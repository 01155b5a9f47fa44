"""Responses: usage is in the terminal event; on a WebSocket one record for each response, and none for a warm-up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.openai_responses import UNDER_WAY_MAX, ResponsesTally
from services.dialects.recognise import CallKind, RequestFacts, SocketReader, recognise, request_reader, socket_reader
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in

CALL = recognise("POST", "api.openai.com", "/v1/responses")
SOCKET = recognise("GET", "api.openai.com", "/v1/responses")

USAGE = {"input_tokens": 30, "output_tokens": 7, "total_tokens": 37}


def event(kind: str, response_id: str | None = "r1", **response: object) -> dict[str, object]:
    status = kind if kind in ("completed", "incomplete", "failed", "cancelled") else "in_progress"
    return {"type": f"response.{kind}", "response": {"id": response_id, "model": "m", "status": status, **response}}


DELTA = {"type": "response.output_text.delta", "delta": '"response":{"usage":{"input_tokens":1}}'}


def record_of(*events: dict[str, object], complete: bool = True) -> ResponseUsage:
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    (record,) = read(reader_of(CALL, 200, "text/event-stream"), [body], complete=complete)
    return record


# ---- one answer


@pytest.mark.parametrize(
    ("last", "complete", "outcome", "finish"),
    [
        (event("completed", usage=USAGE), True, Outcome.OK, ("completed",)),
        (event("completed", usage=USAGE), False, Outcome.OK, ("completed",)),  # nothing comes behind it
        (event("completed"), True, Outcome.NO_USAGE, ("completed",)),
        (
            event("incomplete", usage=USAGE, incomplete_details={"reason": "content_filter"}),
            True,
            Outcome.OK,
            ("content_filter",),
        ),
        (event("cancelled", usage=None), True, Outcome.NO_USAGE, ("cancelled",)),
        (event("failed", error={"code": "server_error"}), True, Outcome.ERROR, ("failed",)),
        (event("failed", error=None), True, Outcome.ERROR, ("failed",)),
        ({"type": "error", "code": "x"}, True, Outcome.ERROR, ()),
        (event("in_progress"), True, Outcome.TRUNCATED, ()),
        (DELTA, True, Outcome.TRUNCATED, ()),
    ],
)
def test_a_stream_ends_with_its_terminal_event(
    last: dict[str, object], complete: bool, outcome: Outcome, finish: tuple[str, ...]
) -> None:
    record = record_of(event("created", service_tier="auto", usage=None), DELTA, last, complete=complete)
    assert (record.outcome, record.finish_reasons) == (outcome, finish)
    assert (record.response_id, record.response_model) == ("r1", "m")
    assert record.counts == (USAGE if outcome is Outcome.OK else {})


def test_the_tier_is_that_of_the_terminal_event() -> None:
    created = event("created", service_tier="auto")
    assert record_of(created).service_tier is None
    assert record_of(created, event("completed", service_tier="flex")).service_tier == "flex"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ({"type": "error", "code": "ERR"}, "ERR"),
        (
            {"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}},
            "previous_response_not_found",
        ),
        ({"type": "error", "error": {"type": "invalid_request_error", "code": None}}, "invalid_request_error"),
        ({"type": "error"}, "error"),
    ],
)
def test_an_error_is_called_what_the_provider_calls_it(error: dict[str, object], name: str) -> None:
    assert record_of(event("created"), error).error_type == name


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"object": "response", "status": "completed", "usage": USAGE}, Outcome.OK),
        ({"object": "response.compaction", "usage": USAGE}, Outcome.OK),
        ({"object": "response", "status": "queued", "usage": None}, Outcome.NO_USAGE),
        ({"object": "response", "status": "failed", "error": {"code": "x"}, "usage": None}, Outcome.ERROR),
        ({"error": {"code": "x"}}, Outcome.ERROR),
        ({"object": "list", "usage": USAGE}, Outcome.NO_USAGE),
    ],
)
def test_an_answer_without_a_stream_is_one_object(answer: dict[str, object], outcome: Outcome) -> None:
    (record,) = read(reader_of(CALL, 200, "application/json"), [json.dumps(answer).encode()])
    assert record.outcome is outcome


NOISE = [
    DELTA,
    dict(reversed(DELTA.items())),
    {"type": "response.new_thing", "response": None},
    {"type": "response.output_item.done", "item": {"usage": USAGE}},
    {"usage": USAGE},
]
COUNTS = st.none() | st.fixed_dictionaries({"input_tokens": st.integers(0, 9), "output_tokens": st.integers(0, 9)})
EVENTS = st.one_of(
    st.sampled_from(NOISE[:-1]),
    st.builds(
        lambda kind, usage: event(kind, usage=usage), st.sampled_from(["created", "completed", "failed"]), COUNTS
    ),
)


@given(bursts=st.lists(st.lists(EVENTS, max_size=6), max_size=4), compact=st.booleans())
def test_a_stream_gives_what_parsing_every_event_gives(bursts: list[list[dict[str, object]]], compact: bool) -> None:
    """Deltas are skipped unparsed; the oracle parses them all, and the tally is told them all."""
    separators = (",", ":") if compact else None
    reader, tally = reader_of(CALL, 200, "text/event-stream"), ResponsesTally(CALL, RequestFacts())
    body = b""
    for burst in bursts:
        piece = "".join(f"data: {json.dumps(message, separators=separators)}\n\n" for message in burst).encode()
        reader.feed(piece)
        body += piece
        for message in burst:
            tally.read(message)
        assert reader.progress() == tally.record(Outcome.TRUNCATED)
    counts = reader.end(complete=True)[0].counts
    assert {name: counts[name] for name in COMPARED if name in counts} == counts_in("openai-responses", body)


# ---- a WebSocket


def socket() -> SocketReader:
    reader = socket_reader(SOCKET, RequestFacts())
    assert reader is not None
    return reader


def text(message: object) -> bytes:
    return json.dumps(message).encode()


def create(model: str = "asked", **more: object) -> bytes:
    return text({"type": "response.create", "model": model, "input": [], **more})


def test_responses_follow_each_other_each_with_its_own_model() -> None:
    reader, found = socket(), []
    for number, model in enumerate(["a", "b"]):
        assert reader.feed_client(create(model)) == ()
        assert reader.feed_server(text(event("created", f"r{number}"))) == ()
        assert reader.feed_server(text(DELTA)) == ()
        assert [record.outcome for record in reader.pending()] == [Outcome.TRUNCATED]
        found += reader.feed_server(text(event("completed", f"r{number}", usage=USAGE)))
        assert reader.pending() == ()
    assert [(record.request_model, record.response_id) for record in found] == [("a", "r0"), ("b", "r1")]
    assert all((record.outcome, record.counts) == (Outcome.OK, USAGE) for record in found)
    assert reader.end(complete=True) == ()


def test_responses_that_run_at_once_are_told_apart_by_their_ids() -> None:
    reader = socket()
    for model, response_id in (("a", "r1"), ("b", "r2")):
        reader.feed_client(create(model))
        reader.feed_server(text(event("created", response_id)))
    (second,) = reader.feed_server(text(event("completed", "r2", usage=USAGE)))
    (first,) = reader.feed_server(text(event("completed", "r1", usage=USAGE)))
    assert (second.request_model, first.request_model) == ("b", "a")


def test_a_request_may_hold_its_members_inside() -> None:
    reader = socket()
    reader.feed_client(text({"type": "response.create", "response": {"model": "inner"}}))
    (record,) = reader.feed_server(text(event("completed", usage=USAGE)))
    assert record.request_model == "inner"


@pytest.mark.parametrize("usage", [None, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}])
def test_a_warm_up_is_no_response(usage: object) -> None:
    reader = socket()
    reader.feed_client(create(generate=False))
    assert reader.pending() == ()
    reader.feed_server(text(event("created", "warm")))
    assert reader.feed_server(text(event("completed", "warm", usage=usage))) == ()
    reader.feed_client(create("real"))
    (record,) = reader.feed_server(text(event("completed", "r1", usage=USAGE)))
    assert (record.request_model, record.counts) == ("real", USAGE)
    reader.feed_client(create(generate=False))
    assert reader.feed_server(text({"type": "error", "error": {"code": "x"}})) == ()
    reader.feed_client(create(generate=False))
    assert reader.end(complete=False) == ()


def test_a_warm_up_that_spent_something_is_counted() -> None:
    reader = socket()
    reader.feed_client(create(generate=False))
    (record,) = reader.feed_server(text(event("completed", usage={**USAGE, "output_tokens": 0})))
    assert record.counts["input_tokens"] == 30


def test_an_error_refuses_the_request_that_waits_and_the_connection_stays() -> None:
    reader = socket()
    reader.feed_client(create("a"))
    reader.feed_server(text(event("created", "r1")))
    reader.feed_client(create("b"))
    (refused,) = reader.feed_server(text({"type": "error", "status": 400, "error": {"code": "no"}}))
    assert (refused.outcome, refused.request_model, refused.error_type) == (Outcome.ERROR, "b", "no")
    assert (refused.response_id, refused.counts) == (None, {})
    (record,) = reader.feed_server(text(event("completed", "r1", usage=USAGE)))
    assert (record.outcome, record.request_model) == (Outcome.OK, "a")


def test_an_error_ends_the_response_that_runs_if_none_waits() -> None:
    reader = socket()
    reader.feed_client(create("a"))
    reader.feed_server(text(event("created", "r1")))
    (record,) = reader.feed_server(text({"type": "error", "error": {"code": "no"}}))
    assert (record.outcome, record.request_model, record.response_id) == (Outcome.ERROR, "a", None)
    assert reader.end(complete=True) == ()


def test_an_error_of_the_connection_is_no_response() -> None:
    assert socket().feed_server(text({"type": "error", "error": {"code": "websocket_connection_limit_reached"}})) == ()


def test_a_response_is_reported_once() -> None:
    reader = socket()
    reader.feed_client(create())
    assert reader.feed_server(text(event("completed", usage=USAGE)))
    assert reader.feed_server(text(event("completed", usage=USAGE))) == ()
    assert reader.pending() == ()


def test_a_response_whose_request_was_not_seen_is_counted() -> None:
    (record,) = socket().feed_server(text(event("completed", usage=USAGE)))
    assert (record.request_model, record.response_model, record.counts) == (None, "m", USAGE)


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_under_way_when_the_connection_ends_is_truncated(complete: bool) -> None:
    reader = socket()
    reader.feed_client(create("a"))
    reader.feed_server(text(event("created", "r1")))
    reader.feed_client(create("b"))
    first, second = reader.end(complete=complete)
    assert {first.outcome, second.outcome} == {Outcome.TRUNCATED}
    assert [(record.request_model, record.response_id) for record in (first, second)] == [("a", "r1"), ("b", None)]
    assert reader.end(complete=complete) == ()


def test_requests_without_end_are_given_up_one_by_one() -> None:
    reader = socket()
    records = [record for number in range(UNDER_WAY_MAX + 2) for record in reader.feed_client(create(f"m{number}"))]
    assert [(record.request_model, record.outcome) for record in records] == [
        ("m0", Outcome.TRUNCATED),
        ("m1", Outcome.TRUNCATED),
    ]
    assert len(reader.pending()) == UNDER_WAY_MAX


def test_a_server_that_begins_without_end_is_given_up_as_well() -> None:
    reader = socket()
    found = [reader.feed_server(text(event("created", f"r{number}"))) for number in range(UNDER_WAY_MAX + 1)]
    assert [record.response_id for records in found for record in records] == ["r0"]
    assert len(reader.pending()) == UNDER_WAY_MAX


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff", b"[]", b"null", b'{"type": 7}', b'"response.create"', b"{response.create"]
)
def test_what_is_no_message_is_nothing(garbage: bytes) -> None:
    reader = socket()
    assert reader.feed_client(garbage) == reader.feed_server(garbage) == reader.end(complete=True) == ()


def test_a_warm_up_that_reports_late_takes_no_other_request_with_it() -> None:
    reader = socket()
    reader.feed_client(create(generate=False))
    assert reader.feed_server(text(event("completed", "r1"))) == ()
    reader.feed_client(create())
    assert reader.feed_server(text(event("completed", "r1"))) == ()
    (late,) = reader.feed_server(text(event("completed", "r1", usage=USAGE)))
    assert (late.response_id, late.outcome) == ("r1", Outcome.OK)
    (record,) = reader.feed_server(text(event("completed", "r2", usage=USAGE)))
    assert (record.response_id, reader.pending()) == ("r2", ())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "warm-up", "created", "completed", "failed", "error", "delta"]),
        st.sampled_from(["r1", "r2", "r3", None]),
        st.booleans(),
    ),
    max_size=25,
)


@given(STEPS)
def test_each_request_and_each_terminal_event_gives_at_most_one_record(
    steps: list[tuple[str, str | None, bool]],
) -> None:
    """Whatever passes, in whatever order: no response is counted twice, and no reported count is lost."""
    reader = socket()
    records: list[ResponseUsage] = []
    started, counted = 0, set()
    for kind, response_id, has_usage in steps:
        if kind in ("create", "warm-up"):
            started += 1
            records += reader.feed_client(create(generate=kind == "create"))
        elif kind == "error":
            records += reader.feed_server(text({"type": "error", "error": {"code": "x"}}))
        elif kind == "delta":
            records += reader.feed_server(text(DELTA))
        else:
            started += 1
            if kind == "completed" and has_usage and response_id is not None:
                counted.add(response_id)
            usage = USAGE if has_usage and kind != "created" else None
            records += reader.feed_server(text(event(kind, response_id, usage=usage)))
    records += reader.end(complete=True)
    assert len(records) <= started
    finished = [record.response_id for record in records if record.finish_reasons and record.response_id]
    assert len(finished) == len(set(finished))
    assert counted <= set(finished)


# ---- whose requests these are


@pytest.mark.parametrize(
    ("host", "target", "provider"),
    [
        ("api.openai.com", "/v1/responses", "openai"),
        ("api.openai.com", "/v1/responses/compact", "openai"),
        ("x.openai.azure.com", "/openai/v1/responses?api-version=v1", "azure.ai.openai"),
        ("api.x.ai", "/v1/responses", "x_ai"),
        ("api.deepseek.com", "/responses", "deepseek"),
        ("openrouter.ai", "/api/v1/responses", "openrouter"),
        ("bedrock-mantle.us-east-1.api.aws", "/openai/v1/responses", "aws.bedrock"),
        ("chatgpt.com", "/backend-api/codex/responses", "openai"),
        ("127.0.0.1:1234", "/v1/responses", "self_hosted"),
    ],
)
def test_responses_are_recognised_by_the_end_of_the_path(host: str, target: str, provider: str) -> None:
    call = recognise("POST", host, target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.MODEL_CALL, "openai-responses", "chat")
    assert call.provider == provider


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
@pytest.mark.parametrize(
    ("host", "target"), [("api.openai.com", "/v1/responses"), ("chatgpt.com", "/backend-api/codex/responses")]
)
def test_a_socket_is_recognised_over_both_versions_of_http(method: str, host: str, target: str) -> None:
    call = recognise(method, host, target)
    assert (call.kind, call.dialect) == (CallKind.MODEL_CALL, "openai-responses-ws")
    assert socket_reader(call, RequestFacts()) is not None
    assert request_reader(call) is not None


def test_a_refused_socket_is_an_error() -> None:
    (record,) = read(reader_of(SOCKET, 426, ""), [b""])
    assert (record.outcome, record.error_type) == (Outcome.ERROR, "426")


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("GET", "/v1/responses/resp_1", "responses.retrieve"),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=4", "responses.retrieve"),
        ("DELETE", "/v1/responses/resp_1", "responses.retrieve"),
        ("POST", "/v1/responses/resp_1/cancel", "responses.retrieve"),
        ("GET", "/v1/responses/resp_1/input_items", "responses.parts"),
        ("POST", "/v1/responses/input_tokens", "responses.input_tokens"),
    ],
)
def test_past_responses_and_estimates_are_not_counted(method: str, target: str, operation: str) -> None:
    call = recognise(method, "api.openai.com", target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.OTHER, None, operation)


def test_only_a_socket_has_a_reader_of_messages() -> None:
    assert socket_reader(CALL, RequestFacts()) is None
