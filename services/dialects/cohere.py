"""
Cohere: chat (v2 and v1), generate, embeddings and rerank.

Source     `cohere-ai/cohere-python` (`types/usage.py`, `types/api_meta.py`) and Cohere's API reference; counted over
           249 recordings.
Framing    v2 chat: one JSON object, or an event stream of `message-start` (id), …, `message-end` (`delta.usage` and
           `delta.finish_reason`), behind it `[DONE]`. v1 chat and generate: one JSON object, or JSON lines, the last of
           which holds the whole `response`. Embeddings and rerank: one JSON object.

Counts     `usage` (v2) or `meta` (v1, embeddings) has two sets that differ in nearly every answer, by as much as 503
           to 8:

           tokens         what the model processed: `input_tokens`; `output_tokens`, `reasoning_tokens` inside;
                          `image_tokens` beside the input
           billed_units   what is charged: templates, and what came from the cache, are not
           cached_tokens  part of tokens.input_tokens

           So tokens are the counts, billed units are beside them; where there are only billed units (embeddings) they
           are both. Numbers may be floats.
Names      The answer never names the model. v1 calls the answer's id `generation_id`.
End        `message-end`, or a line that says `is_finished`; only `[DONE]` comes behind it. An answer that ends with the
           finish reason `ERROR` has failed.
"""

import re
from dataclasses import replace
from operator import methodcaller

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import (
    anomalies_of,
    count_of,
    error_name_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.framings import json_lines
from services.dialects.hosts import provider_of
from services.dialects.request_body import model_and_stream
from services.events.usage import Counts, Outcome, ResponseUsage

CHAT_NAME = "cohere-chat"
EMBED_NAME = "cohere-embed"
RERANK_NAME = "cohere-rerank"
OPERATION = "chat"

# Who serves Cohere's own paths. Others' `/v1/chat` is something else.
PROVIDERS = frozenset({"cohere", "azure.ai.inference"})

# Nearly all messages of a stream, each a piece of an answer. A message that begins so has said its kind; one with its
# members in another order is parsed like any other.
SILENT_KINDS = ("content-delta", "tool-plan-delta", "tool-call-delta", "citation-start")
SILENT_PREFIXES = (
    *(f'{{"type":"{kind}"'.encode() for kind in SILENT_KINDS),
    b'{"is_finished":false,"event_type":"text-generation"',
)

# Of `generations`: no request can ask for more than five.
GENERATIONS_MAX = 128

_PATH = re.compile(r".*?/(v[12])/(chat|generate|summarize|embed|rerank|classify)/?")
_FREE_PATH = re.compile(
    r"/v[12]/(chat-stream|check-api-key|connectors|datasets|detokenize|embed-jobs|finetuning|models|tokenize)(?:/.*)?"
)

# Last part of the path -> dialect and operation; both None for what nobody reads.
_VERBS = {
    "chat": (CHAT_NAME, OPERATION),
    "generate": (CHAT_NAME, "text_completion"),
    "summarize": (CHAT_NAME, "text_completion"),
    "embed": (EMBED_NAME, "embeddings"),
    "rerank": (RERANK_NAME, "rerank"),
    "classify": (RERANK_NAME, "classify"),
}


class CohereTally:
    """What one answer said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._response_id: str | None = None
        self._finish_reasons: tuple[str, ...] = ()
        self.error_type: str | None = None
        self.is_blocked = False
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return [text for text in texts if not text.startswith(SILENT_PREFIXES)]

    def read(self, message: dict[str, object]) -> bool:
        if message.get("type") == "message-end" or message.get("is_finished") is True:
            self.has_ended = True
        delta, response = object_of(message.get("delta")), object_of(message.get("response"))
        for said in (message, delta, response):
            self._response_id = self._response_id or name_of(said.get("generation_id")) or name_of(said.get("id"))
            self._read_finish(said)
            if said.get("error"):
                self.fail(said["error"])
        return self._read_usage(message) or self._read_usage(delta) or self._read_usage(response)

    def counts(self) -> Counts:
        return _counts_of(self._usage)

    def response_model(self) -> str | None:
        return None

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        return ResponseUsage(
            outcome=outcome,
            operation=self._call.operation or OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=self._finish_reasons,
            error_type=self.error_type,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _read_finish(self, said: dict[str, object]) -> None:
        answers = [said, *objects_of(said.get("generations"))[:GENERATIONS_MAX]]
        reasons = tuple(reason for answer in answers if (reason := name_of(answer.get("finish_reason"))))
        self._finish_reasons = reasons or self._finish_reasons
        if any(reason.startswith("ERROR") for reason in reasons):
            self.error_type = self.error_type or "error"

    def _read_usage(self, said: dict[str, object]) -> bool:
        usage = object_of(said.get("usage")) or object_of(said.get("meta"))
        if usage == self._usage or not _counts_of(usage):
            return False
        self._usage = usage
        return True


def _counts_of(usage: dict[str, object]) -> Counts:
    billed = object_of(usage.get("billed_units"))
    tokens = object_of(usage.get("tokens"))
    processed = tokens or billed
    return without_absent(
        {
            "input_tokens": count_of(processed.get("input_tokens")),
            "output_tokens": count_of(processed.get("output_tokens")),
            "cache_read_input_tokens": _first(usage.get("cached_tokens"), tokens.get("cached_tokens")),
            "reasoning_output_tokens": count_of(tokens.get("reasoning_tokens")),
            "image_tokens": count_of(tokens.get("image_tokens")),
            "billed_input_tokens": count_of(billed.get("input_tokens")),
            "billed_output_tokens": count_of(billed.get("output_tokens")),
            "search_units": count_of(billed.get("search_units")),
        }
    )


def _first(*values: object) -> int | None:
    for value in values:
        if (count := count_of(value)) is not None:
            return count
    return None


def recognise_as(name: str, endpoint: Endpoint) -> Call | None:
    """Recognise the calls of one of this API's dialects by path: on Cohere's own hosts, v2 on any that is nobody's."""
    provider = provider_of(endpoint.host)
    found = _PATH.fullmatch(endpoint.path) if endpoint.method == "POST" else None
    if found is None:
        return None
    version, verb = found.groups()
    dialect, operation = _VERBS[verb]
    if dialect != name or not (provider in PROVIDERS or (version == "v2" and provider in ("unknown", "self_hosted"))):
        return None
    return Call(kind=CallKind.MODEL_CALL, dialect=name, provider=provider, operation=operation)


def recognise_chat(endpoint: Endpoint) -> Call | None:
    """Recognise chat and generate, and Cohere's endpoints that spend nothing."""
    provider = provider_of(endpoint.host)
    if provider == "cohere" and (found := _FREE_PATH.fullmatch(endpoint.path)):
        return Call(kind=CallKind.OTHER, provider=provider, operation=found[1])
    return recognise_as(CHAT_NAME, endpoint)


def recognise_embed(endpoint: Endpoint) -> Call | None:
    """Recognise embeddings."""
    return recognise_as(EMBED_NAME, endpoint)


def recognise_rerank(endpoint: Endpoint) -> Call | None:
    """Recognise what judges texts."""
    return recognise_as(RERANK_NAME, endpoint)


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    return AnswerReader(
        CohereTally(call, facts),
        content_type,
        end_is_final=True,
        says_nothing=methodcaller("startswith", SILENT_PREFIXES),
        framing=json_lines(content_type, is_streaming=facts.stream),
    )


CHAT = Dialect(
    name=CHAT_NAME, recognise=recognise_chat, request_reader=model_and_stream, response_reader=response_reader
)
EMBED = replace(CHAT, name=EMBED_NAME, recognise=recognise_embed)
RERANK = replace(CHAT, name=RERANK_NAME, recognise=recognise_rerank)
