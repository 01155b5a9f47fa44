"""
Amazon Bedrock's Converse and ConverseStream: one shape for all of its models.

Source     `boto/botocore`, service model `bedrock-runtime/2023-09-30`: `ConverseResponse`, `ConverseStreamOutput`,
           `TokenUsage`; counted over 453 recordings, in all of which the total was exact.
Framing    One JSON object, or an AWS event stream of `messageStart`, `contentBlockStart`, `_Delta`, `_Stop`,
           `messageStop` with the reason, and `metadata` with the counts. Here an event is read as
           `{"<event type>": payload}`, which is how Nova writes the same events in InvokeModel.

Counts     inputTokens                 neither read from nor written to a cache
           cacheReadInputTokens        beside inputTokens
           cacheWriteInputTokens       beside inputTokens; cacheDetails breaks it down by lifetime
           outputTokens                everything
           totalTokens                 the four together

           So input = the first three together. The cache counts come twice: `cacheReadInputTokenCount` and
           `cacheWriteInputTokenCount` are the same numbers, not more.
Names      The answer names no model and no id: the model is in the path, perhaps as an ARN, the id in the header
           `x-amzn-requestid`. Only a prompt router says, in its trace, which model it chose.
End        `metadata`, which comes behind `messageStop`, and behind which nothing comes: a stream that is cut between
           the two is truncated, one that is cut behind it was complete.
Errors     A status of 400 and above, with the header `x-amzn-errortype` and a body that only has a text; within a
           stream a message of the type `exception`.
"""

import re
from collections.abc import Mapping

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
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseFacts, ResponseReader
from services.dialects.framings import aws_messages
from services.dialects.hosts import provider_of
from services.dialects.request_body import path_alone
from services.events.usage import Counts, Outcome, ResponseUsage
from services.wire.eventstream import EventStreamMessage

NAME = "bedrock-converse"
OPERATION = "chat"

REQUEST_ID_HEADER = "x-amzn-requestid"
ERROR_HEADER = "x-amzn-errortype"

# The rest of a stream is text, which says nothing that a record needs.
TELLING_EVENTS = frozenset({"messageStop", "metadata"})

LIFETIMES = ("5m", "1h")

# An ARN in the path may hold slashes, which are percent-encoded on the wire.
_PATH = re.compile(r".*?/model/(.+)/(converse|converse-stream)/?")
_UNREAD_PATH = re.compile(r"(?:.*?/model/(.+))?/(invoke-with-bidirectional-stream|async-invoke)/?")
_FREE_PATH = re.compile(r".*?/model/.+/(count-tokens)/?|/(guardrail|async-invoke|inference-profiles)(?:/.*)?")


class ConverseTally:
    """What one answer said so far."""

    def __init__(self, call: Call, facts: RequestFacts, headers: Mapping[str, str]) -> None:
        self._call = call
        self._facts = facts
        self._response_id = name_of(headers.get(REQUEST_ID_HEADER))
        self._usage: dict[str, object] = {}
        self._tier: str | None = None
        self._model: str | None = None
        self._stop_reason: str | None = None
        self.error_type: str | None = None
        self.is_blocked = False  # what a guardrail stopped is an answer here, with counts and billed
        self.has_ended = False

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        return texts  # the framing has left out what says nothing

    def read(self, message: dict[str, object]) -> bool:
        if message.get("error"):
            self.fail(message["error"])
        if "messageStop" in message:
            self._read_stop(object_of(message["messageStop"]))
        if "metadata" in message:
            self.has_ended = True
            return self._read_metadata(object_of(message["metadata"]))
        self._read_stop(message)
        return self._read_metadata(message)

    def counts(self) -> Counts:
        return converse_counts(self._usage)

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
            finish_reasons=(self._stop_reason,) if self._stop_reason else (),
            error_type=self.error_type,
            service_tier=self._tier,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _read_stop(self, stop: dict[str, object]) -> None:
        self._stop_reason = name_of(stop.get("stopReason")) or self._stop_reason

    def _read_metadata(self, metadata: dict[str, object]) -> bool:
        self._tier = name_of(object_of(metadata.get("serviceTier")).get("type")) or self._tier
        router = object_of(object_of(metadata.get("trace")).get("promptRouter"))
        self._model = name_of(router.get("invokedModelId")) or self._model
        usage = object_of(metadata.get("usage"))
        if usage == self._usage or not converse_counts(usage):
            return False
        self._usage = usage
        return True


def converse_counts(usage: dict[str, object]) -> Counts:
    """Map one usage object, of Converse or of Nova's own format."""
    fresh = count_of(usage.get("inputTokens"))
    read, written = _cached(usage, "Read"), _cached(usage, "Write")
    return without_absent(
        {
            "input_tokens": None if fresh is None else fresh + (read or 0) + (written or 0),
            "output_tokens": count_of(usage.get("outputTokens")),
            "cache_read_input_tokens": read,
            "cache_write_input_tokens": written,
            **_by_lifetime(objects_of(usage.get("cacheDetails"))),
            "total_tokens": count_of(usage.get("totalTokens")),
        }
    )


def _cached(usage: dict[str, object], how: str) -> int | None:
    """Return what was read from or written to a cache, under either of its two names."""
    for name in (f"cache{how}InputTokens", f"cache{how}InputTokenCount"):
        if (count := count_of(usage.get(name))) is not None:
            return count
    return None


def _by_lifetime(details: list[dict[str, object]]) -> dict[str, int | None]:
    written = {
        detail.get("ttl"): count_of(detail.get("inputTokens")) for detail in details if name_of(detail.get("ttl"))
    }
    return {f"cache_write_{ttl}_input_tokens": written.get(ttl) for ttl in LIFETIMES}


def _text_of(message: EventStreamMessage) -> bytes | None:
    event_type = message.text(":event-type")
    return b'{"%b":%b}' % (event_type.encode(), message.payload) if event_type in TELLING_EVENTS else None


def error_reader(call: Call, response: ResponseFacts, facts: RequestFacts) -> ResponseReader:
    """Return a reader of an error answer, whose exception is named in a header and nowhere else."""
    exception = response.headers.get(ERROR_HEADER, "").partition(":")[0].rpartition("#")[2]
    return ErrorAnswerReader(call, response.status, facts, reason=name_of(exception))


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host; also Bedrock's endpoints that nobody reads, or that are free."""
    provider = provider_of(endpoint.host)
    if endpoint.method == "POST":
        if found := _PATH.fullmatch(endpoint.path):
            return Call(
                kind=CallKind.MODEL_CALL,
                dialect=NAME,
                provider=provider,
                operation=OPERATION,
                request_model=found[1],
                is_streaming=found[2] == "converse-stream",
            )
        if provider == "aws.bedrock" and (found := _UNREAD_PATH.fullmatch(endpoint.path)):
            model, operation = found.groups()
            return Call(kind=CallKind.MODEL_CALL, provider=provider, operation=operation, request_model=model)
    if provider == "aws.bedrock" and (found := _FREE_PATH.fullmatch(endpoint.path)):
        return Call(kind=CallKind.OTHER, provider=provider, operation=found[1] or found[2])
    return None


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer whose headers are not known."""
    return headed_reader(call, ResponseFacts(status=status, content_type=content_type), facts)


def headed_reader(call: Call, response: ResponseFacts, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if response.status >= FIRST_ERROR_STATUS:
        return error_reader(call, response, facts)
    return AnswerReader(
        ConverseTally(call, facts, response.headers),
        response.content_type,
        end_is_final=True,
        framing=aws_messages(response.content_type, _text_of),
    )


DIALECT = Dialect(
    name=NAME,
    recognise=recognise,
    request_reader=path_alone,
    response_reader=response_reader,
    headed_reader=headed_reader,
)
