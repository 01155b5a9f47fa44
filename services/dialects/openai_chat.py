"""
OpenAI Chat Completions, and the many APIs that speak it: Azure, Mistral, Groq, DeepSeek, xAI, OpenRouter, and others.

Source     `openai/openai-python:api_reference/openapi.transformed.yml`; the relatives counted over recordings.
Framing    One JSON object, or an event stream of `chat.completion.chunk`, behind it `data: [DONE]`.
Counts     The usage object: see openai_usage.

Where      `usage` of an object or chunk; `x_groq.usage` (Groq), `choices[].usage` (Moonshot). OpenAI sends it in a
           chunk of its own, whose `choices` are empty, and only if the request has `stream_options.include_usage`;
           others always, in the last chunk or, growing, in every one.
Replace    The last usage object that has any count is right as a whole. Never add, never merge.
Names      Azure's first chunk has an empty id and model: the first that are not empty count.
End        `[DONE]`, behind which nothing comes: a transfer that breaks off there was complete. Some relatives never
           send it (Writer, Perplexity, some models of Together): there a finish reason has to do, and as counts may
           come behind it the transfer must have ended as it should.
Errors     An object with `error` in place of a chunk, or inside one (OpenRouter), there also in a choice, or in
           `x_groq`; one that says `"object": "error"` of itself (Mistral, vLLM). All of these also with status 200.
Elsewhere  Vertex AI serves models of Mistral, AI21 and others in this shape, as `:rawPredict` and `:streamRawPredict`;
           Databricks as `/serving-endpoints/MODEL/invocations`.
"""

import re

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import anomalies_of, count_of, error_name_of, name_of, object_of
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, RequestReader, ResponseReader
from services.dialects.hosts import provider_of
from services.dialects.openai_paths import model_call, other_call, path_ending
from services.dialects.openai_usage import chat_counts, has_chat_counts
from services.dialects.request_body import INCLUDE_USAGE, MODEL, STREAM, RequestBodyReader
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "openai-chat"
OPERATION = "chat"

END_MARK = b"[DONE]"

NOT_ASKED_FOR = "the request did not ask for usage: stream_options.include_usage is not set"

# No request can ask for more answers than that (`n` is at most 128).
CHOICES_MAX = 128

# Below that, parsing is as fast as looking. Measured with bench/dialects.py.
WORTH_LOOKING_MESSAGES = 3

# JSON may spell any letter as an escape, `\u0075sage`; all letters have numbers below 0x80.
ESCAPED_LETTER = b"\\u00"

# With one of these members an object or chunk may say more than text, once its id and model are known; with
# `service_tier` while that is not known either. The same for a choice, beside its `finish_reason`.
TELLING_MEMBERS = frozenset(("error", "x_groq"))
TELLING_MEMBERS_AT_FIRST = TELLING_MEMBERS | {"service_tier"}
TELLING_CHOICE = frozenset(("error", "usage"))

_PATH = path_ending("chat/completions", "agents/completions")
_STORED_PATH = re.compile(r".*/chat/completions(?:/.*)?")
_WRITER_PATH = path_ending("v1/chat")
_VERTEX_PATH = re.compile(
    r".*/publishers/(?!google/|anthropic/)[^/]+/models/(?P<model>[^/]+):(?:rawP|streamRawP)redict/?"
)
_DATABRICKS_PATH = re.compile(r"/serving-endpoints/(?P<model>[^/]+)/invocations/?")

# Who serves this shape under other paths.
_PATHS_OF = {"writer": _WRITER_PATH, "gcp.vertex_ai": _VERTEX_PATH, "databricks": _DATABRICKS_PATH}


class ChatTally:
    """What one completion said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}  # the last object that had counts, whole
        self._model: str | None = None
        self._response_id: str | None = None
        self._tier: str | None = None
        self._telling_members = frozenset(("choices",))  # all of them, while id and model are not known
        self._finish_reasons: dict[int, str] = {}
        self.error_type: str | None = None
        self.is_blocked = False  # a filtered answer is an answer here, with counts and billed

    @property
    def has_ended(self) -> bool:
        return bool(self._finish_reasons)

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        """
        Leave out chunks that bring text and nothing else, once id and model are known.

        Such a chunk has no `usage` and no `finish_reason` but null ones. The quotes around a key cannot stand unescaped
        inside a string, so that counting keys and counting null keys tells whether there is another.
        """
        if len(texts) < WORTH_LOOKING_MESSAGES or self._model is None or self._response_id is None:
            return texts
        if not self._may_tell(b"".join(texts)):
            return []
        return [text for text in texts if self._may_tell(text)]

    def read(self, message: dict[str, object]) -> bool:
        choices = message.get("choices")
        if type(choices) is list and self._telling_members.isdisjoint(message) and not message.get("usage"):
            for choice in choices:
                if type(choice) is not dict or choice.get("finish_reason") or not TELLING_CHOICE.isdisjoint(choice):
                    break
            else:
                if message.get("object") != "error":
                    return False  # as nearly all chunks: text, and what every chunk has
        if self._response_id is None:
            self._response_id = name_of(message.get("id"))
        if self._model is None:
            self._model = name_of(message.get("model"))
        if self._tier is None:
            self._tier = name_of(message.get("service_tier"))
        if self._response_id is not None and self._model is not None:
            self._telling_members = TELLING_MEMBERS if self._tier is not None else TELLING_MEMBERS_AT_FIRST
        usage = message.get("usage")
        if type(choices) is list:
            for position, choice in enumerate(choices):
                if type(choice) is dict:
                    self._read_choice(position, choice)
                    usage = usage or choice.get("usage")
                    if choice.get("error"):
                        self.fail(choice["error"])
        if message.get("error"):
            self.fail(message["error"])
        elif message.get("object") == "error":
            self.fail(message)
        if "x_groq" in message:
            aside = object_of(message["x_groq"])
            usage = usage or aside.get("usage")
            if aside.get("error"):
                self.fail(aside["error"])
        return type(usage) is dict and self._read_usage(usage)

    def counts(self) -> Counts:
        return chat_counts(self._usage, self._call.provider) if self._usage else {}

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        if outcome is Outcome.NO_USAGE and self._facts.stream and not self._facts.include_usage:
            reason = NOT_ASKED_FOR
        return ResponseUsage(
            outcome=outcome,
            operation=self._call.operation or OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=tuple(reason for _, reason in sorted(self._finish_reasons.items())),
            error_type=self.error_type,
            service_tier=self._tier or name_of(self._usage.get("service_tier")),  # Mistral has it inside
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _may_tell(self, text: bytes) -> bool:
        if _says(text, b'"usage"') or _says(text, b'"finish_reason"') or b'"error"' in text:
            return True
        if b"\\" in text and ESCAPED_LETTER in text:
            return True
        return self._tier is None and b'"service_tier"' in text

    def _read_choice(self, position: int, choice: dict[str, object]) -> None:
        reason = choice.get("finish_reason")
        if reason is None or (name := name_of(reason)) is None:
            return
        index = count_of(choice.get("index"))
        key = position if index is None else index
        if key in self._finish_reasons or len(self._finish_reasons) < CHOICES_MAX:
            self._finish_reasons[key] = name

    def _read_usage(self, usage: dict[str, object]) -> bool:
        if usage == self._usage or not has_chat_counts(usage):
            return False
        self._usage = usage
        return True


def _says(text: bytes, key: bytes) -> bool:
    """Return whether `key` may have another value than null in the JSON `text`."""
    others = text.count(key) - text.count(key + b":null")
    return others > 0 and others != text.count(key + b": null")


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host; also the endpoints beside it, which spend nothing."""
    if call := model_call(endpoint, _PATH, NAME, OPERATION):
        return call
    provider = provider_of(endpoint.host)
    pattern = _PATHS_OF.get(provider)
    if pattern and (call := model_call(endpoint, pattern, NAME, OPERATION)):
        return call
    if _STORED_PATH.fullmatch(endpoint.path):
        return Call(kind=CallKind.OTHER, provider=provider, operation="chat.completions")
    return other_call(endpoint)


def request_reader(call: Call) -> RequestReader:
    """Return a reader for model, stream, and whether the stream is to report usage."""
    return RequestBodyReader(call, (MODEL, STREAM, INCLUDE_USAGE), body_names_model=True)


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(ChatTally(call, facts), content_type, end_mark=END_MARK)


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=request_reader, response_reader=response_reader)
