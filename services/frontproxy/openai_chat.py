"""
OpenAI chat completions on the language server: `POST /v1/chat/completions`.

Source: platform.openai.com/docs/api-reference/chat, and the `openai` Python SDK, which is the judge.

A language server answers a conversation of texts with a text, by its own sampling, tools and limits. So parameters
fall into three groups. Those that change what a right answer is (tools, images, several choices, a schema, a stop
word, log probabilities) are refused, unless they are set to what happens anyway. Those that only colour, bound or
label it (temperature, max_tokens, user, …) are accepted, have no effect, and are named in the response header
`x-wiremeter-ignored`; `max_tokens` is among them because a longer answer is still a whole and right one, and most
clients send it with every request. Anything unknown is refused, as OpenAI does.

`usage` is what the wire said; a count that no provider reported is absent, and without any record `usage` is null.
The extra member `x_wiremeter` has the turn's id, the calls it took and the usage by model.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import orjson

from services.events.turn import DeltaKind, Message, Role, StopReason, TurnDelta
from services.frontproxy.bodies import Members, json_word
from services.frontproxy.joining import TurnUsage
from services.frontproxy.refusal import Refused, invalid
from services.frontproxy.surfaces import Asked

_ROLES: Final[Mapping[str, Role]] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_READ: Final = frozenset({"model", "messages", "stream", "stream_options"})
# Parameters without effect -> their JSON types.
_IGNORED: Final[Mapping[str, tuple[type, ...]]] = {
    "frequency_penalty": (int, float),
    "max_completion_tokens": (int,),
    "max_tokens": (int,),
    "metadata": (dict,),
    "parallel_tool_calls": (bool,),
    "prediction": (dict,),
    "presence_penalty": (int, float),
    "prompt_cache_key": (str,),
    "prompt_cache_retention": (str,),
    "reasoning_effort": (str,),
    "safety_identifier": (str,),
    "seed": (int,),
    "service_tier": (str,),
    "store": (bool,),
    "temperature": (int, float),
    "top_k": (int, float),
    "top_p": (int, float),
    "user": (str,),
    "verbosity": (str,),
}
# Parameters that are refused -> the values that ask for nothing, and what cannot be done.
_REFUSED: Final[Mapping[str, tuple[tuple[object, ...], str]]] = {
    "audio": ((), "answers are text"),
    "function_call": (("none", "auto"), "functions of the client cannot be called"),
    "functions": (([],), "functions of the client cannot be called"),
    "logit_bias": (({},), "sampling cannot be steered"),
    "logprobs": ((False,), "log probabilities are not available"),
    "modalities": ((["text"],), "answers are text"),
    "moderation": ((), "moderation is the provider's own"),
    "n": ((1,), "there is one answer"),
    "response_format": (({"type": "text"},), "answers are text, in no promised format"),
    "stop": (([], ""), "an answer cannot be stopped at a word"),
    "tool_choice": (("none", "auto"), "tools of the client cannot be called"),
    "tools": (([],), "tools of the client cannot be called"),
    "top_logprobs": ((0,), "log probabilities are not available"),
    "web_search_options": ((), "the language server searches by itself or not at all"),
}
_FINISH_REASONS: Final[Mapping[StopReason, str]] = {
    StopReason.END: "stop",
    StopReason.LENGTH: "length",
    StopReason.REFUSED: "content_filter",
}
_ERROR_TYPES: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class OpenAIChat:
    """The surface."""

    path = "/v1/chat/completions"

    def read(self, body: Members) -> Asked:
        """
        Read a request.

        Raises:
            Refused: It is not right, or asks for what a language server cannot do.
        """
        model = body.text("model")
        if not model:
            raise body.refused("model", "is missing; GET /v1/models lists what is offered", code="missing")
        streams = body.flag("stream")
        include_usage = _include_usage(body, streams=streams)
        _refuse_impossible(body)
        return Asked(
            model=model,
            messages=_messages(body),
            streams=streams,
            wants_usage=include_usage or not streams,
            ignored=_ignored(body),
        )

    def answer(self, asked: Asked, turn_id: str, created_unix_s: int) -> "ChatAnswer":
        """Make the writer of one answer."""
        return ChatAnswer(asked, turn_id, created_unix_s)

    def error(self, refused: Refused) -> bytes:
        """Write a refusal in OpenAI's shape."""
        return error_object(refused)


def error_object(refused: Refused) -> bytes:
    """Write a refusal in OpenAI's shape; also for paths that no surface has."""
    kind = _ERROR_TYPES.get(refused.status) or ("invalid_request_error" if refused.status < 500 else "server_error")
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return orjson.dumps({"error": error})


def _include_usage(body: Members, *, streams: bool) -> bool:
    if "stream_options" not in body:
        return False
    if not streams:
        raise body.refused("stream_options", "is allowed only when stream is true", code="unsupported")
    options = body.members("stream_options")
    for name in options.values:
        # Obfuscation pads events against eavesdroppers; nobody listens in on loopback.
        if name not in ("include_usage", "include_obfuscation"):
            raise options.refused(name, "is no stream option", code="unknown_parameter")
    return options.flag("include_usage")


def _refuse_impossible(body: Members) -> None:
    for name in body.values:
        if name in _REFUSED:
            harmless, why = _REFUSED[name]
            if name in body and not any(_is_same(body.values[name], value) for value in harmless):
                raise body.refused(name, f"is not supported: {why}", code="unsupported")
        elif name not in _READ and name not in _IGNORED:
            raise invalid(f"{name[:100]!r} is no parameter of chat completions", param=name, code="unknown_parameter")


def _is_same(value: object, other: object) -> bool:
    # In Python True == 1; in JSON they differ.
    return type(value) is type(other) and value == other


def _ignored(body: Members) -> tuple[str, ...]:
    found = [name for name in _IGNORED if name in body]
    for name in found:
        if type(body.values[name]) not in _IGNORED[name]:
            expected = " or ".join(json_word(kind()) for kind in _IGNORED[name])
            raise body.mistyped(name, expected)
    return tuple(found)


def _messages(body: Members) -> tuple[Message, ...]:
    messages = tuple(_message(each) for each in body.each("messages"))
    if not messages:
        raise body.refused("messages", "is missing or empty; at least one message is expected", code="missing")
    last = f"messages[{len(messages) - 1}]"
    if messages[-1].role is not Role.USER:
        raise invalid(f"{last} is the {messages[-1].role}'s; the last message is the user's", param=last)
    if not messages[-1].text:
        raise invalid(f"{last}.content is empty; the last message is the prompt", param=f"{last}.content")
    return messages


def _message(members: Members) -> Message:
    role = members.text("role")
    if role in ("tool", "function"):
        raise members.refused("role", f"is {role!r}; tools of the client cannot be called", code="unsupported")
    if role is None or role not in _ROLES:
        allowed = ", ".join(_ROLES)
        shown = "missing" if role is None else repr(role[:100])
        raise members.refused("role", f"is {shown}; allowed: {allowed}", code="role_invalid")
    for name in ("tool_calls", "function_call", "audio"):
        if name in members and members.values[name] != []:
            raise members.refused(name, "is not supported: a conversation is made of texts", code="unsupported")
    return Message(role=_ROLES[role], text=_content(members))


def _content(members: Members) -> str:
    content = members.values.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part) for part in members.each("content"))
    # The answer of a model that refused, as the SDK hands it back.
    refusal = members.text("refusal")
    if content is None and refusal is not None:
        return refusal
    raise members.mistyped("content", "a string or an array of text parts")


def _part(part: Members) -> str:
    kind = part.text("type")
    if kind not in ("text", "refusal"):
        shown = "missing" if kind is None else repr(kind[:100])
        raise part.refused("type", f"is {shown}; a language server reads text only", code="unsupported")
    text = part.text(kind)
    if text is None:
        raise part.mistyped(kind, "a string")
    return text


class ChatAnswer:
    """Writes one answer: chunks, or the whole object."""

    __slots__ = ("_asked", "_chunk_head", "_created", "_turn_id")

    def __init__(self, asked: Asked, turn_id: str, created_unix_s: int) -> None:
        self._asked = asked
        self._turn_id = turn_id
        self._created = created_unix_s
        head = orjson.dumps(self._identity("chat.completion.chunk"))
        # With include_usage every chunk but the last says that its usage is null.
        usage = b',"usage":null' if asked.wants_usage else b""
        self._chunk_head = b"data: " + head[:-1] + usage

    def begin(self) -> bytes:
        """Write the chunk that says who speaks."""
        return self._chunk(b'{"role":"assistant","content":""}')

    def piece(self, delta: TurnDelta) -> bytes:
        """Write one chunk."""
        match delta.kind:
            case DeltaKind.TEXT:
                return self._chunk(b'{"content":' + orjson.dumps(delta.text) + b"}")
            case DeltaKind.THINKING:
                # Not OpenAI's own word, but the one that its relatives have agreed on.
                return self._chunk(b'{"reasoning_content":' + orjson.dumps(delta.text) + b"}")
            case DeltaKind.TOOL:
                return self._chunk(b"{}", extra=b',"x_wiremeter":' + orjson.dumps({"tool": delta.text}))

    def end(self, stop_reason: StopReason) -> bytes:
        """Write the chunk with the finish reason."""
        return self._chunk(b"{}", finish_reason=orjson.dumps(_FINISH_REASONS[stop_reason]))

    def usage(self, usage: TurnUsage | None) -> bytes:
        """Write the usage chunk, which has no choices, if usage was asked for, and the end."""
        if usage is None:
            return b"data: [DONE]\n\n"
        members: dict[str, object] = {
            "choices": [],
            "usage": _usage_object(usage),
            "x_wiremeter": _details(self._turn_id, usage),
        }
        chunk = self._identity("chat.completion.chunk") | members
        return b"data: " + orjson.dumps(chunk) + b"\n\ndata: [DONE]\n\n"

    def broken(self, refused: Refused) -> bytes:
        """Write an error event; `[DONE]` does not follow."""
        return b"data: " + error_object(refused) + b"\n\n"

    def whole(self, deltas: Sequence[TurnDelta], stop_reason: StopReason, usage: TurnUsage) -> bytes:
        """Write the answer in one piece."""
        message = {"role": "assistant", "content": _joined(deltas, DeltaKind.TEXT), "refusal": None}
        thinking = _joined(deltas, DeltaKind.THINKING)
        if thinking:
            message["reasoning_content"] = thinking
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH_REASONS[stop_reason]}
        details = _details(self._turn_id, usage)
        tools = [delta.text for delta in deltas if delta.kind is DeltaKind.TOOL]
        if tools:
            details["tools"] = tools
        members = {"choices": [choice], "usage": _usage_object(usage), "x_wiremeter": details}
        return orjson.dumps(self._identity("chat.completion") | members)

    def _identity(self, kind: str) -> dict[str, object]:
        return {
            "id": f"chatcmpl-{self._turn_id}",
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
        }

    def _chunk(self, delta: bytes, *, finish_reason: bytes = b"null", extra: bytes = b"") -> bytes:
        # Put together by hand: a stream is hundreds of these, and all but the delta is always the same.
        return b'%b,"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b}\n\n' % (
            self._chunk_head,
            delta,
            finish_reason,
            extra,
        )


def _joined(deltas: Sequence[TurnDelta], kind: DeltaKind) -> str:
    return "".join(delta.text for delta in deltas if delta.kind is kind)


def _usage_object(usage: TurnUsage) -> dict[str, object] | None:
    counts = usage.counts
    found: dict[str, object] = {}
    if "input_tokens" in counts:
        found["prompt_tokens"] = counts["input_tokens"]
    if "output_tokens" in counts:
        found["completion_tokens"] = counts["output_tokens"]
    if len(found) == 2:
        # OpenAI's own sum; a provider's total may count more than these two.
        found["total_tokens"] = counts["input_tokens"] + counts["output_tokens"]
    if "cache_read_input_tokens" in counts:
        found["prompt_tokens_details"] = {"cached_tokens": counts["cache_read_input_tokens"]}
    if "reasoning_output_tokens" in counts:
        found["completion_tokens_details"] = {"reasoning_tokens": counts["reasoning_output_tokens"]}
    return found or None


def _details(turn_id: str, usage: TurnUsage) -> dict[str, object]:
    by_model = [
        {
            "model": each.model,
            "provider": each.provider,
            "calls": each.calls,
            "usage": each.counts,
            "outcomes": each.outcomes,
        }
        for each in usage.by_model
    ]
    return {"turn_id": turn_id, "calls": usage.calls, "complete": usage.complete, "by_model": by_model}
