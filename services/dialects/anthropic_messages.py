"""
Anthropic Messages: `/v1/messages` at Anthropic and behind gateways, and Claude on Vertex AI (`rawPredict`).

Source     `anthropics/anthropic-sdk-python:src/anthropic/types/usage.py`, `message_delta_usage.py` and
           `beta/beta_*_iteration_usage.py`; the pages "Streaming Messages", "Prompt caching", "Compaction", "Refusals
           and fallback"; counted over 519 streams.
Framing    One JSON object of `type: "message"`, or an event stream: `message_start`, `ping`, `content_block_start`,
           `_delta`, `_stop`, one or more `message_delta`, `message_stop`; `error` at any time. The `type` in the JSON
           is authoritative: gateways drop or change the event's name, and add a `[DONE]` that is not Anthropic's.

Counts     input_tokens                  neither read from nor written to a cache
           cache_read_input_tokens       beside input_tokens
           cache_creation_input_tokens   beside input_tokens; cache_creation breaks it down by lifetime
           output_tokens                 everything, thinking included
           output_tokens_details         thinking_tokens, part of output
           server_tool_use               requests of server-side tools
           cost                          only OpenRouter's

           So input = the three together.

Replace    Values of a `message_delta` replace those of `message_start`, key by key, nulls ignored. Never add, never
           keep the larger: compaction lowers the input (60,385 -> 612), gateways start with a guess or with zeros. The
           lifetime breakdown goes stale when a delta raises the total: it is used only if it adds up to the one in
           force. A repeated `message_start` begins anew.
Iterations `usage.iterations` lists every sampling. `compaction` and `advisor_message` are billed and not in the
           top-level numbers; nor is `message` when there is a `fallback_message`: it is the attempt that was declined.
           Each of these is a record of its own.
Models     After a server-side fallback `message_start` names the model that declined; a content block of type
           `fallback` names the one that answers.
End        `message_stop`, and nothing comes behind it: a transfer that breaks off there was complete.
"""

import re
from dataclasses import replace
from operator import methodcaller

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import (
    anomalies_of,
    cost_of,
    count_of,
    error_name_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.hosts import provider_of
from services.dialects.request_body import model_and_stream
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "anthropic-messages"
OPERATION = "chat"

# Nearly all events of a stream. A message that begins so has said its `type` (of two types the first one counts here);
# one with its members in another order is parsed like any other.
SILENT_PREFIXES = (
    b'{"type":"content_block_delta"',
    b'{"type": "content_block_delta"',
    b'{"type":"content_block_stop"',
    b'{"type": "content_block_stop"',
    b'{"type":"ping"',
    b'{"type": "ping"',
)

# Server-side tools that Anthropic counts itself; their names are those of our counts.
SERVER_TOOLS = ("web_search_requests", "web_fetch_requests")

# A response of that many samplings has never been seen; each entry is a record.
ITERATIONS_MAX = 256

HIDDEN_ALWAYS = frozenset({"compaction", "advisor_message"})

_MESSAGES_PATH = re.compile(r".*/v1/messages/?")
_VERTEX_PATH = re.compile(r".*/publishers/anthropic/models/([^/]+):(rawPredict|streamRawPredict)/?")
_FREE_PATH = re.compile(
    r"/v1/messages/(count_tokens|batches)(?:/.*)?|/v1/(models|files|organizations|mcp_servers|skills)(?:/.*)?|/(api/\w+|mcp-registry)(?:/.*)?"
)

VERTEX_COUNT_TOKENS = "count-tokens"  # Vertex spells this endpoint as if it were a model


class MessagesTally:
    """What one message said so far."""

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}
        self._response_id: str | None = None
        self._started_model: str | None = None  # that of message_start, or of the whole message
        self._fallback_model: str | None = None
        self._stop_reason: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False  # a refusal is an answer here, with counts and billed
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return [text for text in texts if not text.startswith(SILENT_PREFIXES)]

    def read(self, message: dict[str, object]) -> bool:
        match message.get("type"):
            case "message_start":
                return self._start(object_of(message.get("message")))
            case "message_delta":
                self._stop_reason = name_of(object_of(message.get("delta")).get("stop_reason")) or self._stop_reason
                return self._replace(object_of(message.get("usage")))
            case "message_stop":
                self.has_ended = True
            case "content_block_start":
                self._read_block(object_of(message.get("content_block")))
            case "message":
                self.has_ended = True
                return self._start(message)
            case _ if message.get("error"):
                self.fail(message["error"])
        return False

    def counts(self) -> Counts:
        return _counts_of(self._usage)

    def response_model(self) -> str | None:
        """Return the model that answered, which is not the one that began if there was a fallback."""
        named = [model for entry in self._fallback_entries() if (model := name_of(entry.get("model")))]
        return named[-1] if named else self._fallback_model or self._started_model

    def fail(self, error: object) -> None:
        self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self.response_model(),
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=(self._stop_reason,) if self._stop_reason else (),
            error_type=self.error_type,
            service_tier=name_of(self._usage.get("service_tier")),
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return tuple(self._extra_record(entry, outcome) for entry in self._iterations() if self._is_hidden(entry))

    def _start(self, message: dict[str, object]) -> bool:
        before, self._usage = self._usage, {}
        self._response_id = name_of(message.get("id"))
        self._started_model = name_of(message.get("model"))
        self._fallback_model = None
        self._stop_reason = name_of(message.get("stop_reason"))
        self._replace(object_of(message.get("usage")))
        return self._usage != before

    def _replace(self, usage: dict[str, object]) -> bool:
        news = {key: value for key, value in usage.items() if value is not None and self._usage.get(key) != value}
        self._usage.update(news)
        return bool(news)

    def _read_block(self, block: dict[str, object]) -> None:
        if block.get("type") == "fallback":
            self._fallback_model = name_of(object_of(block.get("to")).get("model")) or self._fallback_model

    def _iterations(self) -> list[dict[str, object]]:
        return objects_of(self._usage.get("iterations"))[:ITERATIONS_MAX]

    def _fallback_entries(self) -> list[dict[str, object]]:
        return [entry for entry in self._iterations() if entry.get("type") == "fallback_message"]

    def _is_hidden(self, entry: dict[str, object]) -> bool:
        kind = entry.get("type")
        return kind in HIDDEN_ALWAYS or (kind == "message" and bool(self._fallback_entries()))

    def _extra_record(self, entry: dict[str, object], outcome: Outcome) -> ResponseUsage:
        counts = _counts_of(entry)
        declined = entry.get("type") == "message"
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=counts,
            response_model=name_of(entry.get("model")) or (self._started_model if declined else self.response_model()),
            response_id=self._response_id,
            conversation_id=self._facts.conversation_id,
            iteration_type=name_of(entry.get("type")),
            anomalies=anomalies_of(counts),
        )


def _counts_of(usage: dict[str, object]) -> Counts:
    """Map one usage object, of a message or of one iteration."""
    fresh, read = count_of(usage.get("input_tokens")), count_of(usage.get("cache_read_input_tokens"))
    written = count_of(usage.get("cache_creation_input_tokens"))
    return without_absent(
        {
            "input_tokens": None if fresh is None else fresh + (read or 0) + (written or 0),
            "output_tokens": count_of(usage.get("output_tokens")),
            "cache_read_input_tokens": read,
            "cache_write_input_tokens": written,
            "reasoning_output_tokens": count_of(object_of(usage.get("output_tokens_details")).get("thinking_tokens")),
            **_by_lifetime(object_of(usage.get("cache_creation")), written),
            **_server_tools(object_of(usage.get("server_tool_use"))),
            "cost": cost_of(usage.get("cost")),
        }
    )


def _by_lifetime(breakdown: dict[str, object], written: int | None) -> dict[str, int | None]:
    """Return the parts of what was written, if they still add up to it."""
    five_minutes = count_of(breakdown.get("ephemeral_5m_input_tokens"))
    one_hour = count_of(breakdown.get("ephemeral_1h_input_tokens"))
    if written is None or (five_minutes or 0) + (one_hour or 0) != written:
        return {}
    return {"cache_write_5m_input_tokens": five_minutes, "cache_write_1h_input_tokens": one_hour}


def _server_tools(requests: dict[str, object]) -> dict[str, int | None]:
    return {name: count_of(requests.get(name)) for name in SERVER_TOOLS}


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by path, on any host: gateways speak this dialect too."""
    provider = provider_of(endpoint.host)
    call = Call(kind=CallKind.MODEL_CALL, dialect=NAME, provider=provider, operation=OPERATION)
    if endpoint.method == "POST":
        if _MESSAGES_PATH.fullmatch(endpoint.path):
            return call
        if found := _VERTEX_PATH.fullmatch(endpoint.path):
            model, verb = found.groups()
            if model.partition("@")[0] == VERTEX_COUNT_TOKENS:
                return Call(kind=CallKind.OTHER, provider=provider, operation="count_tokens")
            return replace(call, request_model=model, is_streaming=verb == "streamRawPredict")
    if provider == "anthropic" and (found := _FREE_PATH.fullmatch(endpoint.path)):
        return Call(kind=CallKind.OTHER, provider=provider, operation=found[1] or found[2] or found[3])
    return None


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    tally = MessagesTally(call, facts)
    return AnswerReader(
        tally, content_type, end_is_final=True, says_nothing=methodcaller("startswith", SILENT_PREFIXES)
    )


DIALECT = Dialect(name=NAME, recognise=recognise, request_reader=model_and_stream, response_reader=response_reader)
