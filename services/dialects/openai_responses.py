"""
OpenAI Responses: `/responses` as JSON or event stream, `/responses/compact`, and the WebSocket form of the same.

Source     `openai/openai-python:api_reference/openapi.transformed.yml`, `examples/responses/websocket.py`;
           `openai/openai-node:docs/responses.md`; counted over 1,261 recordings, in all of which the sums were exact.
Framing    One JSON object of `object: "response"` (compaction: "response.compaction"), or an event stream whose events
           have a `type`, also at Azure, xAI, DeepSeek, OpenRouter, Bedrock, and behind ChatGPT subscriptions.

Where      `response.usage` of the terminal event: `response.completed`, `.incomplete`, `.failed` (may be null) or
           `.cancelled`; of the whole object without a stream. It is null before. What is in it: see openai_usage.
Names      Id and model are in every `response` object. The tier is that of the terminal event: before it stands
           `auto`, which is what was asked for. The finish reason is `incomplete_details.reason`, else the status.
End        The terminal event, and nothing comes behind it, save a gateway's `[DONE]`: a transfer that breaks off
           there was complete. An `error` event ends a stream as well, or is followed by `response.failed`.
Free       `GET /responses/{id}` reports a past response again, `/responses/input_tokens` is an estimate. Only of a
           background response the GET is the first report: see background_responses.
WebSocket  One JSON object in each text message, of the client `response.create`, of the server what a stream has.
           A request with `generate: false` warms a connection up, and its answer is no response. An `error` names no
           response: it refuses the request that waits, or ends the one that runs. The connection stays.
"""

import re
from collections import deque
from operator import methodcaller

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import anomalies_of, error_name_of, json_of, name_of, object_of
from services.dialects.dialect import (
    Call,
    CallKind,
    Dialect,
    Endpoint,
    RequestFacts,
    ResponseReader,
    SocketReader,
)
from services.dialects.hosts import provider_of
from services.dialects.openai_paths import SOCKET_METHODS, model_call, path_ending
from services.dialects.openai_usage import has_responses_counts, responses_counts
from services.dialects.request_body import body_model_and_stream, path_alone
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "openai-responses"
SOCKET_NAME = "openai-responses-ws"
OPERATION = "chat"

# The operation of a request for a past response.
RETRIEVAL = "responses.retrieve"

TERMINAL_TYPES = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"}
)

# Nearly all events of a stream, the most frequent first: none of them has a `response` object. A message that begins so
# has said its `type` (of two types the first one counts here); one with its members in another order is parsed.
SILENT_TYPES = (
    "response.output_",
    "response.reasoning_",
    "response.function_call_",
    "response.custom_tool_call_",
    "response.content_part.",
    "response.refusal.",
    "response.mcp_",
    "response.web_search_call.",
    "response.file_search_call.",
    "response.code_interpreter_call",
    "response.image_generation_call.",
    "response.audio.",
)
SILENT_PREFIXES = tuple(f'{{"type":{space}"{kind}'.encode() for space in ("", " ") for kind in SILENT_TYPES)

# A client asks one thing after the other, agents of the multi-agent form a few at a time.
UNDER_WAY_MAX = 64
REMEMBERED_IDS = 64

_PATH = path_ending("responses", "responses/compact")
_SOCKET_PATH = re.compile(r".*/responses/?")
_INPUT_TOKENS_PATH = re.compile(r".*/responses/input_tokens/?")
_PAST_PATH = re.compile(r".*/responses/[^/]+(?:/cancel)?/?")
_PARTS_PATH = re.compile(r".*/responses/[^/]+/\w+/?")


class ResponsesTally:
    """What one response said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._model: str | None = None
        self._response_id: str | None = None
        self._tier: str | None = None
        self._finish_reason: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False  # a filtered answer is an answer here, with counts and billed
        self.has_ended = False

    @property
    def response_id(self) -> str | None:
        return self._response_id

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return [text for text in texts if not text.startswith(SILENT_PREFIXES)]

    def read(self, message: dict[str, object]) -> bool:
        kind = message.get("type")
        response = message.get("response")
        if type(response) is dict:
            return self._read_response(response, is_final=kind in TERMINAL_TYPES)
        if kind == "error":
            self.fail(error_in(message))
        elif type(shape := message.get("object")) is str and shape.startswith("response"):
            return self._read_response(message, is_final=True)
        elif message.get("error"):
            self.fail(message["error"])
        return False

    def counts(self) -> Counts:
        return responses_counts(self._usage) if self._usage else {}

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=(self._finish_reason,) if self._finish_reason else (),
            error_type=self.error_type,
            service_tier=self._tier,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _read_response(self, response: dict[str, object], *, is_final: bool) -> bool:
        self._response_id = name_of(response.get("id")) or self._response_id
        self._model = name_of(response.get("model")) or self._model
        if is_final:
            self._finish(response)
        usage = object_of(response.get("usage"))
        if usage == self._usage or not has_responses_counts(usage):
            return False
        self._usage = usage
        return True

    def _finish(self, response: dict[str, object]) -> None:
        self.has_ended = True
        self._tier = name_of(response.get("service_tier"))
        status = name_of(response.get("status"))
        self._finish_reason = name_of(object_of(response.get("incomplete_details")).get("reason")) or status
        if response.get("error"):
            self.fail(response["error"])
        elif status == "failed" and self.error_type is None:
            self.error_type = status


class ResponsesSocketReader:
    """Reads one connection: several responses, usually one after the other, perhaps of different models."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._under_way: list[_Turn] = []
        # A client may ask for the same terminal event again when it comes back.
        self._reported: deque[str] = deque(maxlen=REMEMBERED_IDS)
        self._warmed_up: deque[str] = deque(maxlen=REMEMBERED_IDS)  # ended without anything to report

    def feed_client(self, text: bytes) -> tuple[ResponseUsage, ...]:
        message = _object_in(text) if b"response.create" in text else {}
        if message.get("type") != "response.create":
            return ()
        asked = {**object_of(message.get("response")), **message}
        facts = RequestFacts(
            model=name_of(asked.get("model")) or self._facts.model,
            stream=True,
            conversation_id=self._facts.conversation_id,
        )
        return self._begin(_Turn(self._call, facts, is_warm_up=asked.get("generate") is False))

    def feed_server(self, text: bytes) -> tuple[ResponseUsage, ...]:
        if text.startswith(SILENT_PREFIXES):
            return ()
        message = _object_in(text)
        response = object_of(message.get("response"))
        if response:
            return self._read_event(message, name_of(response.get("id")))
        if message.get("type") == "error" or message.get("error"):
            return self._read_error(message)
        return ()

    def pending(self) -> tuple[ResponseUsage, ...]:
        return tuple(usage for turn in self._under_way for usage in turn.cut())

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        cut = self.pending()
        self._under_way.clear()
        return cut

    def _read_event(self, message: dict[str, object], response_id: str | None) -> tuple[ResponseUsage, ...]:
        if response_id is not None and response_id in self._reported:
            return ()
        given_up: tuple[ResponseUsage, ...] = ()
        turn = self._turn_of(response_id)
        if turn is None:  # its request was not seen, or not understood
            turn = _Turn(self._call, self._facts, is_warm_up=response_id in self._warmed_up)
            given_up = self._begin(turn)
        turn.tally.read(message)
        if not turn.tally.has_ended:
            return given_up
        self._under_way.remove(turn)
        said = turn.finish()
        if response_id is not None:
            (self._reported if said else self._warmed_up).append(response_id)
        return given_up + said

    def _begin(self, turn: "_Turn") -> tuple[ResponseUsage, ...]:
        self._under_way.append(turn)
        return self._under_way.pop(0).cut() if len(self._under_way) > UNDER_WAY_MAX else ()

    def _turn_of(self, response_id: str | None) -> "_Turn | None":
        """Return the turn of that response, which is the oldest one waiting if the id is new."""
        for turn in self._under_way:
            if turn.tally.response_id == response_id and response_id is not None:
                return turn
        if response_id in self._warmed_up:
            return None
        return next((turn for turn in self._under_way if turn.tally.response_id is None), None)

    def _read_error(self, message: dict[str, object]) -> tuple[ResponseUsage, ...]:
        waiting = [turn for turn in self._under_way if turn.tally.response_id is None]
        turn = waiting[0] if waiting else self._under_way[-1] if self._under_way else None
        if turn is None:
            return ()  # of the connection, not of a response
        self._under_way.remove(turn)
        return turn.refused(error_in(message))


class _Turn:
    """One request on the connection, and what its response said so far."""

    def __init__(self, call: Call, facts: RequestFacts, *, is_warm_up: bool) -> None:
        self._call = call
        self._facts = facts
        self._is_warm_up = is_warm_up
        self.tally = ResponsesTally(call, facts)

    def finish(self) -> tuple[ResponseUsage, ...]:
        if self.tally.error_type is not None:
            return self._said(self.tally.record(Outcome.ERROR))
        return self._said(self.tally.record(Outcome.OK if self.tally.counts() else Outcome.NO_USAGE))

    def refused(self, error: object) -> tuple[ResponseUsage, ...]:
        """Return the record of a request that got an error: it names no response, whatever had begun before."""
        tally = ResponsesTally(self._call, self._facts)
        tally.fail(error)
        return self._said(tally.record(Outcome.ERROR))

    def cut(self) -> tuple[ResponseUsage, ...]:
        return self._said(self.tally.record(Outcome.TRUNCATED))

    def _said(self, usage: ResponseUsage) -> tuple[ResponseUsage, ...]:
        """A warm-up is no response, unless the provider says that it spent something."""
        return () if self._is_warm_up and not any(usage.counts.values()) else (usage,)


def error_in(message: dict[str, object]) -> object:
    """Return the error of an `error` event: an object of its own, or the event itself without its type."""
    return message.get("error") or {"code": message.get("code")}


def _object_in(text: bytes) -> dict[str, object]:
    try:
        return object_of(json_of(text))
    except ValueError:
        return {}


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host."""
    if call := model_call(endpoint, _PATH, NAME, OPERATION):
        return call
    provider = provider_of(endpoint.host)
    if _INPUT_TOKENS_PATH.fullmatch(endpoint.path):
        return Call(kind=CallKind.OTHER, provider=provider, operation="responses.input_tokens")
    if _PAST_PATH.fullmatch(endpoint.path):
        return Call(kind=CallKind.OTHER, provider=provider, operation=RETRIEVAL)
    if _PARTS_PATH.fullmatch(endpoint.path):
        return Call(kind=CallKind.OTHER, provider=provider, operation="responses.parts")
    return None


def recognise_socket(endpoint: Endpoint) -> Call | None:
    """Recognise the request that opens a WebSocket; nothing else is asked for with GET at this path."""
    if endpoint.method not in SOCKET_METHODS or not _SOCKET_PATH.fullmatch(endpoint.path):
        return None
    return Call(
        kind=CallKind.MODEL_CALL,
        dialect=SOCKET_NAME,
        provider=provider_of(endpoint.host),
        operation=OPERATION,
        is_streaming=True,
    )


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(
        ResponsesTally(call, facts),
        content_type,
        end_is_final=True,
        says_nothing=methodcaller("startswith", SILENT_PREFIXES),
    )


def socket_reader(call: Call, facts: RequestFacts) -> SocketReader:
    """Return a reader for the messages of one connection."""
    return ResponsesSocketReader(call, facts)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=body_model_and_stream, response_reader=response_reader)

SOCKET_DIALECT = Dialect(
    name=SOCKET_NAME,
    recognise=recognise_socket,
    request_reader=path_alone,
    response_reader=response_reader,
    socket_reader=socket_reader,
)
