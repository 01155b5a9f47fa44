"""OpenAI chat completions: requests read, answers written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.turn import DeltaKind, Message, Role, StopReason, TurnDelta
from services.frontproxy.bodies import Members
from services.frontproxy.joining import ModelUsage, TurnUsage
from services.frontproxy.openai_chat import ChatAnswer, OpenAIChat, error_object
from services.frontproxy.refusal import Refused
from services.frontproxy.surfaces import Asked

HELLO = {"role": "user", "content": "hello"}
ASKED = Asked(model="m", messages=(Message(role=Role.USER, text="hello"),), streams=True, wants_usage=True, ignored=())
USAGE = TurnUsage(
    calls=2,
    counts={
        "input_tokens": 15,
        "output_tokens": 7,
        "cache_read_input_tokens": 4,
        "reasoning_output_tokens": 2,
        "total_tokens": 23,
    },
    by_model=(
        ModelUsage(
            model="gemini", provider="gcp.gen_ai", calls=2, counts={"input_tokens": 15}, outcomes={"ok": 1, "error": 1}
        ),
    ),
    complete=True,
)
UNKNOWN = TurnUsage(calls=0, counts={}, by_model=(), complete=False)


def read(**members: object) -> Asked:
    return OpenAIChat().read(Members({"model": "m", "messages": [HELLO]} | members))


def refusal(**members: object) -> Refused:
    with pytest.raises(Refused) as caught:
        read(**members)
    assert caught.value.status == 400
    return caught.value


def delta(kind: DeltaKind, text: str) -> TurnDelta:
    return TurnDelta(turn_id="t1", number=1, kind=kind, text=text)


def events(data: bytes) -> list[object]:
    """Read server-sent events the way a client does."""
    found = []
    for event in data.decode().removesuffix("\n\n").split("\n\n"):
        assert event.startswith("data: ")
        text = event.removeprefix("data: ")
        found.append(text if text == "[DONE]" else json.loads(text))
    return found


# -- requests ---------------------------------------------------------------------------------------------------------


def test_a_conversation_is_read_as_texts():
    """System and developer are one role; parts of text are lines."""
    asked = read(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "reasoning_content": "hm"},
            {"role": "assistant", "content": None, "refusal": "no", "tool_calls": [], "audio": None},
            {"role": "user", "content": "d", "name": "ann"},
        ]
    )
    assert asked.messages == (
        Message(role=Role.SYSTEM, text="be brief"),
        Message(role=Role.USER, text="a\nb"),
        Message(role=Role.ASSISTANT, text="c"),
        Message(role=Role.ASSISTANT, text="no"),
        Message(role=Role.USER, text="d"),
    )


def test_a_whole_answer_waits_for_usage_and_a_stream_only_when_asked():
    """`usage` is in every whole answer, and in a stream by stream_options.include_usage."""
    assert read().wants_usage
    assert not read(stream=True).wants_usage
    assert not read(stream=True, stream_options={"include_obfuscation": True}).wants_usage
    assert read(stream=True, stream_options={"include_usage": True}).wants_usage


def test_parameters_without_effect_are_accepted_and_named():
    """Every SDK sends some of them; the answer is right without."""
    asked = read(temperature=0, top_p=0.5, max_tokens=100, user="ann", seed=None, metadata={})
    assert set(asked.ignored) == {"temperature", "top_p", "max_tokens", "user", "metadata"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("stop", ["\n"]),
        ("stop", "END"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("web_search_options", {}),
    ],
)
def test_what_a_language_server_cannot_do_is_refused_by_name(name: str, value: object):
    """An answer that looks right and is not would be worse."""
    found = refusal(**{name: value})
    assert found.param == name
    assert found.message.startswith(f"{name} is not supported: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("tools", None),
        ("tool_choice", "none"),
        ("n", 1),
        ("logprobs", False),
        ("response_format", {"type": "text"}),
        ("stop", None),
        ("stop", []),
        ("modalities", ["text"]),
        ("logit_bias", {}),
    ],
)
def test_asking_for_what_happens_anyway_is_fine(name: str, value: object):
    """Some clients write the defaults out."""
    assert read(**{name: value}).model == "m"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model": None}, "model is missing; GET /v1/models lists what is offered"),
        ({"model": ""}, "model is missing; GET /v1/models lists what is offered"),
        ({"model": 5}, "model is an integer; a string is expected"),
        ({"messages": None}, "messages is missing or empty; at least one message is expected"),
        ({"messages": []}, "messages is missing or empty; at least one message is expected"),
        ({"messages": "hello"}, "messages is a string; an array is expected"),
        ({"messages": ["hello"]}, "messages[0] is a string; an object is expected"),
        ({"messages": [{}]}, "messages[0].role is missing; allowed: system, developer, user, assistant"),
        (
            {"messages": [{"role": "boss", "content": "x"}]},
            "messages[0].role is 'boss'; allowed: system, developer, user, assistant",
        ),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
            "messages[0].role is 'tool'; tools of the client cannot be called",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}, HELLO]},
            "messages[0].tool_calls is not supported: a conversation is made of texts",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content is null; a string or an array of text parts is expected",
        ),
        (
            {"messages": [{"role": "user", "content": {"text": "x"}}]},
            "messages[0].content is an object; a string or an array of text parts is expected",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type is 'image_url'; a language server reads text only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text is null; a string is expected",
        ),
        (
            {"messages": [{"role": "user", "content": [7]}]},
            "messages[0].content[0] is an integer; an object is expected",
        ),
        (
            {"messages": [HELLO, {"role": "assistant", "content": "x"}]},
            "messages[1] is the assistant's; the last message is the user's",
        ),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "messages[0].content is empty; the last message is the prompt",
        ),
        ({"stream": "yes"}, "stream is a string; a boolean is expected"),
        ({"stream_options": {"include_usage": True}}, "stream_options is allowed only when stream is true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x is no stream option"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage is an integer; a boolean is expected",
        ),
        ({"temperature": "hot"}, "temperature is a string; an integer or a number is expected"),
        ({"max_tokens": True}, "max_tokens is a boolean; an integer is expected"),
        ({"max_tokenz": 5}, "'max_tokenz' is no parameter of chat completions"),
    ],
)
def test_a_mistake_is_named_with_its_place(members: dict[str, object], message: str):
    """A clear 400 for each."""
    assert refusal(**members).message == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["model", "messages", "stream", "stream_options", "tools", "n", "stop", "temperature", "response_format", "zzz"]
)
PART = st.dictionaries(st.sampled_from(["type", "text", "refusal"]), st.sampled_from(["text", "x", None]) | JSON)
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "refusal", "tool_calls", "name"]),
    st.sampled_from(["user", "assistant", "system"]) | st.lists(PART, max_size=2) | JSON,
)


@given(st.dictionaries(NAMES, JSON | st.lists(MESSAGE, max_size=3)))
def test_any_json_is_understood_or_refused(body: dict[str, object]):
    """Nothing that a client can send is our internal error."""
    try:
        asked = OpenAIChat().read(Members(body))
    except Refused as refused:
        assert refused.status == 400
        assert json.loads(error_object(refused))["error"]["message"]
    else:
        assert asked.messages[-1].role is Role.USER
        assert asked.messages[-1].text


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_stream_is_role_pieces_reason_usage_end():
    """The order that OpenAI's clients rely on."""
    answer = ChatAnswer(ASKED, "t1", 1700000000)
    written = events(
        answer.begin()
        + answer.piece(delta(DeltaKind.THINKING, "hm"))
        + answer.piece(delta(DeltaKind.TEXT, 'sa"y\n\n€\u2028'))
        + answer.piece(delta(DeltaKind.TOOL, "read file"))
        + answer.end(StopReason.END)
        + answer.usage(USAGE)
    )
    assert written[-1] == "[DONE]"
    chunks = [each for each in written if isinstance(each, dict)]
    assert {each["id"] for each in chunks} == {"chatcmpl-t1"}
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    assert [each["choices"][0]["delta"] for each in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": 'sa"y\n\n€\u2028'},
        {},
        {},
    ]
    assert chunks[3]["x_wiremeter"] == {"tool": "read file"}
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None, None, None, None, "stop"]
    assert [each["usage"] for each in chunks[:-1]] == [None] * 5
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 15


def test_a_stream_without_include_usage_says_nothing_of_usage():
    """As OpenAI's own."""
    asked = Asked(model="m", messages=ASKED.messages, streams=True, wants_usage=False, ignored=())
    answer = ChatAnswer(asked, "t1", 1700000000)
    written = events(answer.begin() + answer.end(StopReason.LENGTH) + answer.usage(None))
    assert len(written) == 3
    assert "usage" not in written[0]
    assert written[1]["choices"][0]["finish_reason"] == "length"


def test_a_broken_stream_ends_with_an_error_event():
    """The SDK raises its APIError from it."""
    written = events(ChatAnswer(ASKED, "t1", 0).broken(Refused(502, "gone", code="language_server_error")))
    assert written == [
        {"error": {"message": "gone", "type": "server_error", "param": None, "code": "language_server_error"}}
    ]


def test_a_whole_answer_has_text_thinking_tools_and_usage():
    """One object, the wire's own counts in OpenAI's names."""
    deltas = [
        delta(DeltaKind.THINKING, "hm"),
        delta(DeltaKind.TOOL, "read file"),
        delta(DeltaKind.TEXT, "a"),
        delta(DeltaKind.TEXT, "b"),
    ]
    written = json.loads(ChatAnswer(ASKED, "t1", 1700000000).whole(deltas, StopReason.REFUSED, USAGE))
    assert written["object"] == "chat.completion"
    assert written["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "hm"},
            "logprobs": None,
            "finish_reason": "content_filter",
        }
    ]
    assert written["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert written["x_wiremeter"] == {
        "turn_id": "t1",
        "calls": 2,
        "complete": True,
        "by_model": [
            {
                "model": "gemini",
                "provider": "gcp.gen_ai",
                "calls": 2,
                "usage": {"input_tokens": 15},
                "outcomes": {"ok": 1, "error": 1},
            }
        ],
        "tools": ["read file"],
    }


def test_unknown_counts_are_absent_and_no_counts_are_null():
    """Never zero for what nobody said."""
    answer = ChatAnswer(ASKED, "t1", 0)
    assert json.loads(answer.whole([], StopReason.END, UNKNOWN))["usage"] is None
    half = TurnUsage(calls=1, counts={"output_tokens": 3}, by_model=(), complete=False)
    assert json.loads(answer.whole([], StopReason.END, half))["usage"] == {"completion_tokens": 3}


@given(st.text(max_size=30), st.sampled_from(DeltaKind))
def test_any_text_survives_the_stream(text: str, kind: DeltaKind):
    """No text can break out of its event."""
    (chunk,) = events(ChatAnswer(ASKED, "t1", 0).piece(delta(kind, text)))
    assert isinstance(chunk, dict)
    found = {
        DeltaKind.TEXT: lambda: chunk["choices"][0]["delta"]["content"],
        DeltaKind.THINKING: lambda: chunk["choices"][0]["delta"]["reasoning_content"],
        DeltaKind.TOOL: lambda: chunk["x_wiremeter"]["tool"],
    }[kind]()
    assert found == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_errors_have_openais_types(status: int, kind: str):
    """The shape of every error on this surface."""
    written = json.loads(error_object(Refused(status, "x", param="p", code="c")))
    assert written == {"error": {"message": "x", "type": kind, "param": "p", "code": "c"}}
