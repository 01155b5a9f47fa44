"""
Amazon Bedrock's InvokeModel and InvokeModelWithResponseStream: each model in its vendor's own format.

Source     `boto/botocore`, service model `bedrock-runtime/2023-09-30`; "Inference request parameters and response
           fields" (Amazon Bedrock user guide); counted over 208 whole answers and the streams beside them.
Framing    One JSON object, or an AWS event stream of `chunk` messages; the payload of each is
           `{"bytes": "<base64 of JSON>", "p": "<padding>"}`.
Formats    Told apart by their shape, for an inference profile's ARN hides the vendor:

           Anthropic      messages and their events, see anthropic_messages
           Nova           as Converse, its events written `{"metadata": {…}}`, see bedrock_converse
           Titan          inputTextTokenCount, results[].tokenCount; in a stream totalOutputTextTokenCount
           Llama          prompt_token_count (in a stream in its first chunk only), generation_token_count
           Jamba, others  `usage` as in OpenAI's chat completions, see openai_usage
           the rest       nothing: Mistral, Cohere, AI21 J2, Stability, old Claude

Metrics    What every vendor has in common: the headers `x-amzn-bedrock-input-token-count` and `-output-token-count` of
           whole answers, and `amazon-bedrock-invocationMetrics` in the last chunk of a stream; the cache counts stand
           beside the input there. They fill in for what the vendor's own format does not say; where both speak the
           vendor's word counts (the metrics of a few Claude streams are lower). For embeddings, which the model's
           name or the answer's members give away, an output of 0 says that there is none, and is left out.
Names      The body's own id and model; an answer without id has that of the header `x-amzn-requestid`.
End        Anthropic's `message_stop`, Nova's `metadata`, or the metrics: behind these nothing comes. Where there are no
           metrics a finish reason has to do, and then the transfer must have ended as it should.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import replace

import orjson

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader
from services.dialects.anthropic_messages import SILENT_PREFIXES, MessagesTally
from services.dialects.bedrock_converse import REQUEST_ID_HEADER, ConverseTally, error_reader
from services.dialects.counts import (
    anomalies_of,
    count_of,
    error_name_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseFacts, ResponseReader
from services.dialects.framings import aws_messages
from services.dialects.hosts import provider_of
from services.dialects.openai_usage import chat_counts, has_chat_counts
from services.dialects.request_body import path_alone
from services.events.usage import Counts, Outcome, ResponseUsage
from services.wire.eventstream import EventStreamMessage

NAME = "bedrock-invoke"
OPERATION = "chat"
EMBEDDINGS = "embeddings"

METRICS = "amazon-bedrock-invocationMetrics"

ANTHROPIC_TYPES = frozenset(
    "message message_start message_delta message_stop content_block_start content_block_delta content_block_stop"
    " ping error".split()
)
NOVA_MEMBERS = frozenset("output messageStart contentBlockStart contentBlockStop messageStop metadata".split())
EMBEDDING_MEMBERS = frozenset({"embedding", "embeddings", "embeddingsByType"})
NOVA_SILENT_PREFIX = b'{"contentBlockDelta":'

# How the payload of a chunk begins whose JSON begins silently: such a chunk is not even decoded. A letter of base64
# that hangs on the byte behind the prefix is left off.
SILENT_CHUNKS = tuple(
    b'{"bytes":"' + b64encode(prefix)[: len(prefix) * 8 // 6] for prefix in (*SILENT_PREFIXES, NOVA_SILENT_PREFIX)
)

# Where the smaller formats have their answers, and what these call the reason why they end.
ANSWER_LISTS = ("results", "choices", "outputs", "generations", "completions")
REASON_MEMBERS = ("completionReason", "finish_reason", "stop_reason", "finishReason")
FINISH_REASONS_MAX = 128

_PATH = re.compile(r".*?/model/(.+)/(invoke|invoke-with-response-stream)/?")


class VendorTally:
    """What an answer in one of the smaller formats said so far."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._usage: dict[str, object] = {}  # OpenAI's usage object, whole
        self._input: int | None = None
        self._output: int | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self.finish_reasons: tuple[str, ...] = ()

    def read(self, message: dict[str, object]) -> bool:
        self.response_id = self.response_id or name_of(message.get("id"))
        self.model = self.model or name_of(message.get("model"))
        self.finish_reasons = _finish_reasons_of(message) or self.finish_reasons
        before = self._usage, self._input, self._output
        usage = object_of(message.get("usage"))
        if has_chat_counts(usage):
            self._usage = usage
        self._input = _first(message.get("inputTextTokenCount"), message.get("prompt_token_count"), self._input)
        self._output = _first(
            message.get("totalOutputTextTokenCount"),
            _sum_of(message.get("results"), "tokenCount"),
            message.get("generation_token_count"),
            self._output,
        )
        return before != (self._usage, self._input, self._output)

    def counts(self) -> Counts:
        if self._usage:
            return chat_counts(self._usage, self._provider)
        return without_absent({"input_tokens": self._input, "output_tokens": self._output})

    def response_model(self) -> str | None:
        return self.model


class InvokeTally:
    """What one answer said so far, in whichever format."""

    def __init__(self, call: Call, facts: RequestFacts, headers: Mapping[str, str]) -> None:
        self._call = call
        self._facts = facts
        self._anthropic = MessagesTally(call, facts)
        self._nova = ConverseTally(call, facts, headers)
        self._vendor = VendorTally(call.provider)
        self._reading: MessagesTally | ConverseTally | VendorTally = self._vendor
        self._request_id = name_of(headers.get(REQUEST_ID_HEADER))
        self._metrics = _metrics_in_head(headers)
        self._has_metrics = False
        self._operation = call.operation or OPERATION
        self._error_type: str | None = None
        self.is_blocked = False

    @property
    def error_type(self) -> str | None:
        return self._error_type or self._anthropic.error_type or self._nova.error_type

    @property
    def has_ended(self) -> bool:
        return self.has_said_all or bool(self._vendor.finish_reasons)

    @property
    def has_said_all(self) -> bool:
        """Whether what came last is what comes last."""
        return self._has_metrics or self._anthropic.has_ended or self._nova.has_ended

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return texts  # the framing has left out what says nothing

    def read(self, message: dict[str, object]) -> bool:
        reading, operation = self._reading, self._operation
        metrics = message.get(METRICS)
        if type(metrics) is dict:
            self._has_metrics = True
            self._metrics = _metric_counts(metrics) or self._metrics
        if name_of(message.get("type")) in ANTHROPIC_TYPES:
            self._reading = self._anthropic
        elif not NOVA_MEMBERS.isdisjoint(message):
            self._reading = self._nova
        elif message.get("error"):
            self.fail(message["error"])
        elif not EMBEDDING_MEMBERS.isdisjoint(message):
            self._operation = EMBEDDINGS
        is_another = self._reading is not reading or self._operation != operation
        return self._reading.read(message) or is_another or metrics is not None

    def counts(self) -> Counts:
        own = self._reading.counts()
        filled = dict(own)
        for whole in ("input_tokens", "output_tokens"):
            if whole not in own:
                filled |= {name: count for name, count in self._metrics.items() if name.endswith(whole)}
        if self._operation == EMBEDDINGS and filled.get("output_tokens") == 0:
            del filled["output_tokens"]
        return filled

    def response_model(self) -> str | None:
        return self._reading.response_model()

    def fail(self, error: object) -> None:
        self._error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        said = self._vendor_record(outcome, reason)
        if isinstance(self._reading, MessagesTally | ConverseTally):
            said = self._reading.record(outcome, reason)
        counts = self.counts()
        return replace(
            said,
            counts=counts,
            operation=self._operation,
            response_id=said.response_id or self._request_id,
            error_type=self.error_type,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return self._anthropic.extra_records(outcome)

    def _vendor_record(self, outcome: Outcome, reason: str | None) -> ResponseUsage:
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._vendor.model,
            response_id=self._vendor.response_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=self._vendor.finish_reasons,
            reason=reason,
        )


class InvokeReader(AnswerReader):
    """Reads one answer; a body that breaks off behind the metrics was complete."""

    def __init__(self, tally: InvokeTally, content_type: str) -> None:
        super().__init__(tally, content_type, framing=aws_messages(content_type, _text_of))
        self._invoked = tally

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        return super().end(complete=complete or self._invoked.has_said_all)


def _text_of(message: EventStreamMessage) -> bytes | None:
    """Return the vendor's JSON in a chunk."""
    payload = message.payload
    if payload.startswith(SILENT_CHUNKS):
        return None
    try:
        return b64decode(object_of(orjson.loads(payload)).get("bytes", ""))  # type: ignore[arg-type]
    except (ValueError, TypeError, Base64Error):
        return None


def _metric_counts(metrics: Mapping[str, object]) -> Counts:
    fresh, read = count_of(metrics.get("inputTokenCount")), count_of(metrics.get("cacheReadInputTokenCount"))
    written = count_of(metrics.get("cacheWriteInputTokenCount"))
    return without_absent(
        {
            "input_tokens": None if fresh is None else fresh + (read or 0) + (written or 0),
            "output_tokens": count_of(metrics.get("outputTokenCount")),
            "cache_read_input_tokens": read,
            "cache_write_input_tokens": written,
        }
    )


def _metrics_in_head(headers: Mapping[str, str]) -> Counts:
    """Return the same counts from the headers of a whole answer."""
    kinds = {
        "input": "input",
        "output": "output",
        "cacheReadInput": "cache-read-input",
        "cacheWriteInput": "cache-write-input",
    }
    written = {
        f"{name}TokenCount": headers.get(f"x-amzn-bedrock-{kind}-token-count", "") for name, kind in kinds.items()
    }
    return _metric_counts({name: int(text) for name, text in written.items() if text.isascii() and text.isdigit()})


def _finish_reasons_of(message: dict[str, object]) -> tuple[str, ...]:
    """Return the reasons of all answers in a message, wherever its vendor writes them."""
    answers = [message]
    for member in ANSWER_LISTS:
        if member in message:
            answers += objects_of(message[member])
    found = []
    for answer in answers[:FINISH_REASONS_MAX]:
        for member in REASON_MEMBERS:
            reason = answer.get(member)
            if reason is not None and (name := name_of(reason) or name_of(object_of(reason).get("reason"))):
                found.append(name)
                break
    return tuple(found)


def _first(*values: object) -> int | None:
    for value in values:
        if (count := count_of(value)) is not None:
            return count
    return None


def _sum_of(items: object, member: str) -> int | None:
    if items is None:
        return None
    counts = [count for item in objects_of(items) if (count := count_of(item.get(member))) is not None]
    return sum(counts) if counts else None


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host."""
    found = _PATH.fullmatch(endpoint.path) if endpoint.method == "POST" else None
    if found is None:
        return None
    model, verb = found.groups()
    return Call(
        kind=CallKind.MODEL_CALL,
        dialect=NAME,
        provider=provider_of(endpoint.host),
        operation=EMBEDDINGS if "embed" in model.lower() else OPERATION,
        request_model=model,
        is_streaming=verb == "invoke-with-response-stream",
    )


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer whose headers are not known."""
    return headed_reader(call, ResponseFacts(status=status, content_type=content_type), facts)


def headed_reader(call: Call, response: ResponseFacts, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if response.status >= FIRST_ERROR_STATUS:
        return error_reader(call, response, facts)
    return InvokeReader(InvokeTally(call, facts, response.headers), response.content_type)


DIALECT = Dialect(
    name=NAME,
    recognise=recognise,
    request_reader=path_alone,
    response_reader=response_reader,
    headed_reader=headed_reader,
)
