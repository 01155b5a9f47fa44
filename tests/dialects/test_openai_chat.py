"""Chat Completions and its relatives: the last usage that has counts is right as a whole, wherever it stands."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.openai_chat import END_MARK, NOT_ASKED_FOR, ChatTally
from services.dialects.recognise import CallKind, RequestFacts, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import facts_of, read, reader_of
from tests.support.slow_reader import COMPARED, counts_in

CALL = recognise("POST", "api.openai.com", "/v1/chat/completions")


def chunk(text: str | None = None, finish: str | None = None, index: int = 0, **more: object) -> dict[str, object]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def usage(prompt: int | None, completion: int | None, **more: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


DONE = b"data: [DONE]\n\n"
FINISH = chunk(finish="stop")


def stream_of(*chunks: dict[str, object]) -> bytes:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


def record_of(body: bytes, *, complete: bool = True, facts: RequestFacts | None = None) -> ResponseUsage:
    (record,) = read(reader_of(CALL, 200, "text/event-stream", facts), [body], complete=complete)
    return record


# ---- what replaces what


def test_counts_replace_they_never_add() -> None:
    record = record_of(stream_of(chunk(usage=usage(9, 9, total_tokens=18)), chunk(usage=usage(5, 1))) + DONE)
    assert record.counts == {"input_tokens": 5, "output_tokens": 1}


@pytest.mark.parametrize("nothing", [None, {}, {"queue_time": 0.1}, {"prompt_tokens": None}, [], "usage", 7])
def test_what_has_no_count_replaces_nothing(nothing: object) -> None:
    record = record_of(stream_of(chunk(usage=usage(5, 1)), chunk(usage=nothing)) + DONE)
    assert (record.outcome, record.counts) == (Outcome.OK, {"input_tokens": 5, "output_tokens": 1})


def test_usage_stands_in_three_places() -> None:
    in_choice = chunk()
    in_choice["choices"] = [{"index": 0, "usage": usage(1, 2)}]
    for message in (chunk(usage=usage(1, 2)), chunk(x_groq={"usage": usage(1, 2)}), in_choice):
        assert record_of(stream_of(message) + DONE).counts == {"input_tokens": 1, "output_tokens": 2}


def test_the_first_id_and_model_that_are_not_empty_count() -> None:
    empty = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    record = record_of(stream_of(empty, chunk("a"), {**FINISH, "id": "other", "model": "other"}) + DONE)
    assert (record.response_id, record.response_model) == ("c", "m")


def test_each_choice_has_its_reason_in_the_order_of_their_index() -> None:
    last = chunk(finish="length", index=2)
    record = record_of(stream_of(last, chunk(finish="stop", index=0), chunk(finish="tool_calls", index=1)) + DONE)
    assert record.finish_reasons == ("stop", "tool_calls", "length")


# ---- how it ends


@pytest.mark.parametrize(
    ("body", "complete", "outcome"),
    [
        (stream_of(chunk("a"), FINISH) + DONE, True, Outcome.NO_USAGE),
        (stream_of(chunk("a"), FINISH) + DONE, False, Outcome.NO_USAGE),  # nothing comes behind the mark
        (stream_of(chunk("a"), FINISH) + DONE.rstrip(), False, Outcome.NO_USAGE),
        (stream_of(chunk("a"), FINISH), True, Outcome.NO_USAGE),
        (stream_of(chunk("a"), FINISH), False, Outcome.TRUNCATED),  # its counts may have been on their way
        (stream_of(chunk("a", usage=usage(1, 2))), True, Outcome.TRUNCATED),
        (stream_of(chunk("a", usage=usage(1, 2))) + DONE, True, Outcome.OK),
        (stream_of(chunk("a")) + b'data: {"error": "gone"}\n\n' + DONE, True, Outcome.ERROR),
        (stream_of(chunk("a")) + b'{"error": {"code": 1}}\n', True, Outcome.ERROR),
        (stream_of(chunk("a"), chunk(x_groq={"error": "over capacity"})) + DONE, True, Outcome.ERROR),
        (stream_of(chunk("a"), {"object": "error", "type": "e"}) + DONE, True, Outcome.ERROR),
        (stream_of({**chunk("a"), "choices": [{"error": {"code": 502}}]}) + DONE, True, Outcome.ERROR),
        (b"", True, Outcome.TRUNCATED),
    ],
)
def test_a_stream_ends_with_its_mark_or_with_a_reason(body: bytes, complete: bool, outcome: Outcome) -> None:
    assert record_of(body, complete=complete).outcome is outcome


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (RequestFacts(stream=True), NOT_ASKED_FOR),
        (RequestFacts(stream=True, include_usage=False), NOT_ASKED_FOR),
        (RequestFacts(stream=True, include_usage=True), None),
        (RequestFacts(), None),
    ],
)
def test_a_stream_that_was_not_asked_for_usage_says_so(facts: RequestFacts, reason: str | None) -> None:
    record = record_of(stream_of(FINISH) + DONE, facts=facts)
    assert (record.outcome, record.counts, record.reason) == (Outcome.NO_USAGE, {}, reason)


def test_text_that_says_done_is_not_the_end() -> None:
    record = record_of(stream_of(chunk("[DONE]")) + b"data:\n\n", complete=False)
    assert record.outcome is Outcome.TRUNCATED


# ---- leaving out what cannot matter

NOISE = [
    chunk('"usage":{"prompt_tokens":7}'),
    chunk("x", usage=None),
    chunk('{"finish_reason":"stop"}', usage=None, service_tier="default"),
    chunk("x", obfuscation="error"),
    chunk("x", error=None),
    {"id": "", "model": "", "choices": []},
]
COUNTS = st.integers(0, 9) | st.none()
MESSAGES = st.one_of(
    st.sampled_from(NOISE),
    st.builds(lambda a, b: chunk("x", usage=usage(a, b)), COUNTS, COUNTS),
    st.builds(lambda a, b: chunk("x", x_groq={"id": "r", "usage": usage(a, b)}), COUNTS, COUNTS),
    st.builds(lambda reason, index: chunk(finish=reason, index=index), st.sampled_from(["stop", "length"]), COUNTS),
    st.just(chunk("x", error={"type": "e"})),
)


@given(
    bursts=st.lists(st.lists(MESSAGES, max_size=8), max_size=4),
    separators=st.sampled_from([None, (",", ":"), (" ,", " : ")]),
    escaped=st.booleans(),
)
def test_a_stream_gives_what_parsing_every_chunk_gives(
    bursts: list[list[dict[str, object]]], separators: tuple[str, str] | None, escaped: bool
) -> None:
    """Chunks of text are skipped unparsed; the oracle parses them all, and the tally is told them all."""
    reader, tally = reader_of(CALL, 200, "text/event-stream"), ChatTally(CALL, RequestFacts())
    body = b""
    for burst in bursts:
        texts = [json.dumps(message, separators=separators) for message in burst]
        if escaped:
            texts = [text.replace('"usage"', '"\\u0075sage"').replace('"finish', '"\\u0066inish') for text in texts]
        piece = "".join(f"data: {text}\n\n" for text in texts).encode()
        reader.feed(piece)
        body += piece
        for text in texts:
            tally.read(json.loads(text))
        assert reader.progress() == tally.record(Outcome.TRUNCATED)
    counts = reader.end(complete=True)[0].counts
    assert {name: counts[name] for name in COMPARED if name in counts} == counts_in("openai-chat", body)


def test_chunks_of_text_are_left_out() -> None:
    tally = ChatTally(CALL, RequestFacts())
    tally.read(chunk("a"))
    texts = [json.dumps(chunk("x", usage=None)).encode()] * 5
    assert tally.worth_parsing([*texts, END_MARK]) == []
    last = json.dumps(chunk(usage=usage(1, 2))).encode()
    assert tally.worth_parsing([*texts, last]) == [last]


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "usage",
                    "choices",
                    "x_groq",
                    "error",
                    "id",
                    "model",
                    "index",
                    "finish_reason",
                    "prompt_tokens",
                    "completion_tokens",
                    "total_tokens",
                    "prompt_tokens_details",
                    "cached_tokens",
                    "cost",
                    "service_tier",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(messages=st.lists(st.dictionaries(st.sampled_from(["usage", "choices", "x_groq", "error", "id"]), JSONS)))
def test_no_message_makes_a_tally_raise(messages: list[dict[str, object]]) -> None:
    tally = ChatTally(CALL, RequestFacts(stream=True))
    for message in messages:
        tally.read(message)
        for outcome in (Outcome.OK, Outcome.NO_USAGE):
            assert tally.record(outcome).counts == tally.counts()


CHUNKS = st.fixed_dictionaries(
    {"id": st.sampled_from(["", "r", 1]), "model": st.sampled_from(["", "m"])},
    optional={
        "object": st.sampled_from(["chat.completion.chunk", "error", None]),
        "choices": st.lists(
            st.fixed_dictionaries(
                {"index": COUNTS},
                optional={
                    "finish_reason": st.sampled_from([None, "", "stop", 1, []]),
                    "usage": COUNTS | st.builds(usage, COUNTS, COUNTS),
                    "error": st.sampled_from([None, {}, {"type": "e"}]),
                },
            )
            | JSONS,
            max_size=2,
        )
        | JSONS,
        "usage": JSONS | st.builds(usage, COUNTS, COUNTS),
        "service_tier": st.sampled_from([None, "auto", "default"]),
        "error": st.sampled_from([None, {}, {"type": "e"}]),
    },
)


@given(messages=st.lists(CHUNKS, max_size=6))
def test_a_chunk_that_is_known_to_bring_text_alone_brings_nothing_else(messages: list[dict[str, object]]) -> None:
    """With an empty `x_groq`, which says nothing, every chunk is looked at in full: the result is the same."""
    tally, thorough = ChatTally(CALL, RequestFacts()), ChatTally(CALL, RequestFacts())
    for message in messages:
        assert tally.read(message) == thorough.read(message | {"x_groq": None})
        assert tally.record(Outcome.OK) == thorough.record(Outcome.OK)


# ---- whose requests these are


@pytest.mark.parametrize(
    ("host", "target", "provider", "model"),
    [
        ("api.openai.com", "/v1/chat/completions", "openai", None),
        (
            "x.openai.azure.com",
            "/openai/deployments/my-own/chat/completions?api-version=1",
            "azure.ai.openai",
            "my-own",
        ),
        ("x.openai.azure.com", "/openai/v1/chat/completions", "azure.ai.openai", None),
        ("x.services.ai.azure.com", "/models/chat/completions?api-version=1", "azure.ai.inference", None),
        ("api.mistral.ai", "/v1/agents/completions", "mistral_ai", None),
        ("api.groq.com", "/openai/v1/chat/completions", "groq", None),
        ("api.deepseek.com", "/chat/completions", "deepseek", None),
        ("generativelanguage.googleapis.com", "/v1beta/openai/chat/completions", "gcp.gemini", None),
        (
            "l-aiplatform.googleapis.com",
            "/v1/projects/p/locations/l/endpoints/openapi/chat/completions",
            "gcp.vertex_ai",
            None,
        ),
        ("openrouter.ai", "/api/v1/chat/completions", "openrouter", None),
        ("api.writer.com", "/v1/chat", "writer", None),
        ("api.cohere.ai", "/compatibility/v1/chat/completions", "cohere", None),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/openai/v1/chat/completions", "aws.bedrock", None),
        ("localhost:11434", "/v1/chat/completions", "ollama", None),
        ("localhost:8000", "/v1/chat/completions", "self_hosted", None),
        ("dbc-0.cloud.databricks.com", "/serving-endpoints/llama/invocations", "databricks", "llama"),
        (
            "l-aiplatform.googleapis.com",
            "/v1/projects/p/locations/l/publishers/ai21/models/jamba:rawPredict",
            "gcp.vertex_ai",
            "jamba",
        ),
    ],
)
def test_chat_is_recognised_at_every_relative(host: str, target: str, provider: str, model: str | None) -> None:
    call = recognise("POST", host, target)
    assert (call.kind, call.dialect, call.operation) == (CallKind.MODEL_CALL, "openai-chat", "chat")
    assert (call.provider, call.request_model) == (provider, model)


@pytest.mark.parametrize(("method", "target"), [("GET", ""), ("GET", "/c1"), ("POST", "/c1"), ("GET", "/c1/messages")])
def test_stored_completions_spend_nothing(method: str, target: str) -> None:
    call = recognise(method, "api.openai.com", f"/v1/chat/completions{target}")
    assert (call.kind, call.dialect, call.operation) == (CallKind.OTHER, None, "chat.completions")


def test_a_request_says_whether_its_stream_reports_usage() -> None:
    body = b'{"messages": [{"content": {"stream": false}}], "stream_options": {"include_usage": true}, "stream": true}'
    assert facts_of(CALL, [body]) == RequestFacts(stream=True, include_usage=True)


def test_a_deployment_gives_way_to_the_model_that_the_body_names() -> None:
    call = recognise("POST", "x.openai.azure.com", "/openai/deployments/my-own/chat/completions")
    assert facts_of(call, [b'{"model": "gpt-5"}']).model == "gpt-5"
    assert facts_of(call, [b"{}"]).model == "my-own"
