"""
From the parts of an exchange to usage records.

An `Observation` is told what passes, in order, and writes to the outbox (the journal and the bus behind it): the start
of a model call before its request leaves, changed counts before the bytes that carry them leave, and at the end the
records. Nothing that it meets may stop the traffic: what it cannot read becomes an `unreadable` record with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from orjson import dumps

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, EventReader
from services.dialects.dialect import Call, CallKind, RequestFacts, RequestReader, ResponseReader, SocketReader
from services.dialects.model_names import ModelCatalogueReader, ModelNames
from services.dialects.recognise import catalogue_reader, recognise, request_reader, response_reader, socket_reader
from services.events.exchange import Client, ExchangeCounted, UsageRecorded
from services.events.identity import UlidSource
from services.events.usage import Outcome, ResponseUsage
from services.mitm.harmless import harmless
from services.mitm.known_peer import KnownPeer, written
from services.mitm.outbox import Outbox
from services.mitm.times import milliseconds, timestamp
from services.runtime.logs import Logs
from services.wire.content_encoding import ContentDecoder, content_decoder
from services.wire.errors import WireError
from services.wire.http1 import RequestHead, ResponseHead

INTERNAL = "internal error, see the log"
# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_MODEL_CALL = CallKind.MODEL_CALL
_OTHER = CallKind.OTHER
_UNKNOWN = CallKind.UNKNOWN
_TRUNCATED = Outcome.TRUNCATED
_UNREADABLE = Outcome.UNREADABLE
_UNKNOWN_CALL = Call(kind=_UNKNOWN)
_NOTHING_SAID = RequestFacts()
_NOBODY = written(Client())


class Abort(StrEnum):
    """Who broke an exchange off."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverParts:
    """What all observations of a process share."""

    outbox: Outbox
    logs: Logs
    ids: UlidSource
    model_names: ModelNames
    # Seconds since the epoch that belong to the monotonic time 0.
    epoch_offset_s: Callable[[], float]
    decoded_bytes_max: int


class Observation:
    """
    One exchange, as it passes.

    `reads_request` and `reads_response` say whether content is wanted at all: bodies that nobody reads cost nothing.
    """

    __slots__ = (
        "_call",
        "_catalogue",
        "_client",
        "_decoded_bytes",
        "_decoder",
        "_epoch_offset_s",
        "_facts",
        "_finished",
        "_first_byte_ms",
        "_host",
        "_id",
        "_parts",
        "_problem",
        "_request_decoder",
        "_request_reader",
        "_response_reader",
        "_started",
        "_started_at",
        "_status",
        "bytes_down",
        "bytes_up",
        "reads_request",
        "reads_response",
    )

    def __init__(self, host: str, request: RequestHead, peer: KnownPeer, now: float, parts: ObserverParts) -> None:
        self._host = host
        self._parts = parts
        self._started = now
        # One offset for the whole exchange: its times fit each other, whatever happens to the clock meanwhile.
        self._epoch_offset_s = parts.epoch_offset_s()
        wall = self._epoch_offset_s + now
        self._started_at = timestamp(wall)
        self._id = parts.ids.make(int(wall * 1000))
        self._client = _NOBODY
        self._call = _UNKNOWN_CALL
        self._facts = _NOTHING_SAID
        self._finished = False
        self._problem: str | None = None
        self._decoder: ContentDecoder | None = None
        self._decoded_bytes = 0
        self._request_decoder: ContentDecoder | None = None
        self._request_reader: RequestReader | None = None
        self._response_reader: ResponseReader | None = None
        self._catalogue: ModelCatalogueReader | None = None
        self._first_byte_ms: float | None = None
        self._status: int | None = None
        self.bytes_up = 0
        self.bytes_down = 0
        self.reads_request = False
        self.reads_response = False
        try:
            self._client = peer.written()
            self._call = call = recognise(request.method, host, request.target)
            if call.request_model is not None:
                self._facts = RequestFacts(model=call.request_model)
            if call.dialect is None and request.content_type.startswith(b"application/grpc"):
                self._problem = "gRPC messages of this call are not read"
            if call.kind is _MODEL_CALL:
                self._begin_call(request)
        except Exception as error:
            self.failed(error)

    def __repr__(self) -> str:
        return f"<Observation {self._id} of {self._call.operation or 'an unknown call'} at {self._host}>"

    def failed(self, error: Exception) -> None:
        """A step of ours has failed: the traffic goes on, unread."""
        self._parts.logs.error("observation.failed", error=error, exchange=self._id, host=self._host)
        self.reads_request = False
        self._stop_reading(INTERNAL)

    # -- what passes -------------------------------------------------------

    @harmless
    def request_content(self, data: bytes) -> None:
        """Read a piece of the request's body."""
        assert self._request_reader is not None
        try:
            self._request_reader.feed(self._request_decoder.feed(data) if self._request_decoder else data)
        except WireError:
            self.reads_request = False  # the model is then what the response names

    def request_ended(self) -> None:
        """The request is whole: what it says about itself is known."""
        if self._request_reader is not None:
            self._take_facts(self._request_reader)

    @harmless
    def _take_facts(self, reader: RequestReader) -> None:
        facts = reader.facts()
        self._facts = facts if facts.model else replace(facts, model=self._call.request_model)
        self.reads_request = False
        model = self._facts.model
        members = {
            "request_model": model,
            "conversation_id": facts.conversation_id,
            "model": self.model_named(model),
        }
        self._parts.outbox.progress(self._id, dumps(members))

    def response_head(self, response: ResponseHead, now: float) -> None:
        """The final response begins."""
        self._status = response.status
        self._first_byte_ms = milliseconds(now - self._started)
        if self._call.kind is not _UNKNOWN:
            self._begin_reading(response)

    @harmless
    def _begin_reading(self, response: ResponseHead) -> None:
        self._response_reader = response_reader(
            self._call,
            status=response.status,
            content_type=response.content_type.decode("latin-1"),
            facts=self._facts,
            headers=_texts(response.fields),
        )
        self._catalogue = catalogue_reader(self._call)
        if self._response_reader is None and self._catalogue is None:
            return
        try:
            self._decoder = _decoder_for(response.content_encoding, self._parts.decoded_bytes_max)
        except WireError as error:
            self._problem = str(error)
            return
        self.reads_response = True
        if self._response_reader is not None and self._response_reader.counts():  # Bedrock has counts in its head
            self._journal_counts(self._response_reader)

    @harmless
    def response_trailer(self, fields: Mapping[bytes, bytes]) -> None:
        """Read the fields behind the body: in them gRPC says how a call ended."""
        if self._response_reader is not None:
            self._response_reader.read_trailer(_texts(fields))

    def response_content(self, data: bytes) -> None:
        """Take a piece of the response's body: count it, read it, and journal the counts if they changed."""
        self.bytes_down += len(data)
        if not self.reads_response:
            return
        try:
            if self._decoder is not None:
                data = self._decoder.feed(data)
                self._decoded_bytes += len(data)
            if self._response_reader is not None:
                if self._response_reader.feed(data):
                    self._journal_counts(self._response_reader)
            elif self._catalogue is not None:
                self._catalogue.feed(data)
        except WireError as error:
            self._stop_reading(str(error))
        except Exception as error:
            self.failed(error)

    @property
    def awaits_event(self) -> bool:
        """What comes next of the body may be told by `event_reading`, if it is one event as a whole."""
        reader = self._response_reader
        is_read = self.reads_response and self._decoder is None
        return is_read and isinstance(reader, AnswerReader) and reader.takes_events

    def event_reading(self) -> tuple[EventReader, Callable[[bytes], None]] | None:
        """Return what reads the data of such an event, and what journals what is returned; None if none comes."""
        reader = self._response_reader
        if not isinstance(reader, AnswerReader):
            return None
        return reader.event_reader(), self._parts.outbox.repeats(self._id)

    def _journal_counts(self, reader: ResponseReader) -> None:
        members = {"usage": reader.counts(), "response_model": reader.response_model()}
        self._parts.outbox.repeats(self._id)(dumps(members))

    def _stop_reading(self, problem: str) -> None:
        self._problem = problem
        self.reads_response = False

    # -- how it ends -------------------------------------------------------

    def ended(self, now: float) -> None:
        """The response is whole."""
        self._close(now, True, None, None)

    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """The exchange broke off; `aborted_by` None means that it ended as such things end."""
        self._close(now, aborted_by is None, aborted_by, reason)

    @harmless
    def upgraded(self, response: ResponseHead, now: float, problem: str | None = None) -> None:
        """The connection speaks another protocol from here on, which is not read; `problem` says why."""
        self._status = response.status
        self._first_byte_ms = milliseconds(now - self._started)
        self._problem = problem or f"upgrade to {response.field(b'upgrade')[:40] or 'another protocol'} is not read"

    # -- what a socket's observation needs ---------------------------------

    def socket_reader(self) -> SocketReader | None:
        """Return a reader for the WebSocket that the call has opened, None when nobody can read it."""
        return socket_reader(self._call, self._facts)

    def unreadable(self, reason: str) -> ResponseUsage:
        """Return what is known of a response that cannot be read."""
        return self._usage(Outcome.UNREADABLE, reason=reason)

    def leave_to_responses(self) -> None:
        """From here on the responses have drafts of their own; without a response there is no record."""
        self._parts.outbox.finish(self._id, [])

    @harmless
    def refused(self, status: int, error_type: str, reason: str, now: float) -> None:
        """We answered in upstream's place."""
        if self._call.kind is CallKind.OTHER:
            self.count(now)
            return
        self._finish([self._usage(Outcome.ERROR, error_type=error_type, reason=reason)], now, None)

    def _close(self, now: float, complete: bool, aborted_by: Abort | None, reason: str | None) -> None:
        try:
            if self._call.kind is _OTHER:
                self._conclude_counted(now)
            else:
                self._finish(self._usages(complete=complete, reason=reason), now, aborted_by)
        except Exception as error:
            self.failed(error)
            if not self._finished:
                self._conclude_unread(now)

    @harmless
    def _conclude_unread(self, now: float) -> None:
        self._facts = _NOTHING_SAID  # whatever it was, it is not in this one
        self._finish([self._usage(Outcome.UNREADABLE, reason=INTERNAL)], now, None)

    def _conclude_counted(self, now: float) -> None:
        if self._catalogue is not None:
            self._parts.model_names.learn(self._catalogue.end())
        self.count(now)

    def _usages(self, *, complete: bool, reason: str | None) -> Sequence[ResponseUsage]:
        if self._call.kind is _UNKNOWN:
            reason = self._problem or "endpoint is not known"
            return [_known(_UNREADABLE, self._call.operation, self._facts.model, reason)]
        if complete and self._problem is None and self._has_decoded_nothing():
            self._problem = f"{self.bytes_down} bytes of the body decode to nothing: its content coding is cut"
        if self._status is not None and self._status >= FIRST_ERROR_STATUS and not self._is_readable():
            return [self._usage(Outcome.ERROR, reason=self._problem, error_type=str(self._status))]
        if self._call.dialect is None:
            return [self._usage(Outcome.UNREADABLE, reason=self._problem or "no dialect reads this call")]
        if self._problem is not None:
            seen = self._response_reader.progress() if self._response_reader else None
            return [self._usage(Outcome.UNREADABLE, reason=self._problem, counts=seen.counts if seen else {})]
        if self._response_reader is None:
            return [self._usage(Outcome.NO_USAGE if complete else Outcome.TRUNCATED, reason=reason)]
        usages = self._response_reader.end(complete=complete)
        # A reader knows that there was no end, we know why.
        return [replace(each, reason=reason) if each.outcome is _TRUNCATED else each for each in usages]

    def _is_readable(self) -> bool:
        return self._call.dialect is not None and self._problem is None

    def _has_decoded_nothing(self) -> bool:
        return self._decoder is not None and self.bytes_down > 0 and self._decoded_bytes == 0

    # -- records -----------------------------------------------------------

    def _begin_call(self, request: RequestHead) -> None:
        # This is the record if nothing of ours is left to write another one.
        call = self._call
        usage = _known(_TRUNCATED, call.operation, call.request_model, "the proxy was killed in the middle of it")
        self._parts.outbox.start(self._id, self._record(usage, self._started, Abort.PROXY, self._id))
        reader = request_reader(self._call)
        if reader is not None:
            try:
                self._request_decoder = _decoder_for(request.content_encoding, self._parts.decoded_bytes_max)
            except WireError:
                return
            self._request_reader = reader
            self.reads_request = True

    def _usage(
        self,
        outcome: Outcome,
        *,
        reason: str | None = None,
        error_type: str | None = None,
        counts: Mapping[str, int | float] | None = None,
    ) -> ResponseUsage:
        return ResponseUsage(
            outcome=outcome,
            operation=self._call.operation or "unknown",
            request_model=self._facts.model,
            conversation_id=self._facts.conversation_id,
            reason=reason,
            error_type=error_type,
            counts=counts or {},
        )

    def _record(self, usage: ResponseUsage, now: float, aborted_by: Abort | None, event_id: str) -> bytes:
        transferred = {"up": self.bytes_up, "down": self.bytes_down}
        return self.record(usage, now, aborted_by, event_id, self._timing(now), transferred)

    def make_id(self, now: float) -> str:
        """Return an id for a further record."""
        return self._parts.ids.make(int((self._epoch_offset_s + now) * 1000))

    def record(
        self,
        usage: ResponseUsage,
        now: float,
        aborted_by: Abort | None,
        event_id: str,
        timing: Mapping[str, object],
        transferred: Mapping[str, int],
    ) -> bytes:
        """Write a record; the members are those of `UsageRecorded`, in its order."""
        call, outcome = self._call, usage.outcome
        model = usage.response_model or usage.request_model
        return dumps(
            {
                "schema": UsageRecorded.SCHEMA,
                "event_id": event_id,
                "at": timestamp(self._epoch_offset_s + now),
                "exchange_id": self._id,
                "provider": call.provider,
                "dialect": call.dialect,
                "operation": usage.operation,
                "host": self._host,
                "request_model": usage.request_model,
                "response_model": usage.response_model,
                "model": self.model_named(model) if model else None,
                "response_id": usage.response_id,
                "trace_id": usage.trace_id,
                "conversation_id": usage.conversation_id or self._facts.conversation_id,
                "outcome": outcome,
                "reason": usage.reason,
                "aborted_by": (aborted_by or Abort.UPSTREAM) if outcome is _TRUNCATED else None,
                "finish_reasons": usage.finish_reasons,
                "http_status": self._status,
                "error_type": usage.error_type,
                "error_code": usage.error_code,
                "service_tier": usage.service_tier,
                "block_reason": usage.block_reason,
                "iteration_type": usage.iteration_type,
                "anomalies": usage.anomalies,
                "usage": usage.counts,
                "timing": timing,
                "bytes": transferred,
                "client": self._client,
                "turn_id": None,
            }
        )

    def model_named(self, model: str | None) -> str | None:
        """Return what people call a model: the name behind a placeholder where it is known."""
        return self._parts.model_names.resolve(model) if model else None

    def _timing(self, now: float) -> dict[str, object]:
        duration_ms = milliseconds(now - self._started)
        return {"started_at": self._started_at, "first_byte_ms": self._first_byte_ms, "duration_ms": duration_ms}

    def count(self, now: float, endpoint: str | None = None) -> None:
        """Record that the exchange was, and that it spent nothing."""
        counted = {
            "schema": ExchangeCounted.SCHEMA,
            "event_id": self._id,
            "at": timestamp(self._epoch_offset_s + now),
            "host": self._host,
            "endpoint": endpoint or self._call.operation or "unknown",
            "http_status": self._status,
            "timing": self._timing(now),
            "bytes": {"up": self.bytes_up, "down": self.bytes_down},
            "client": self._client,
        }
        self._finished = True
        self._parts.outbox.finish(None, [dumps(counted)])

    def _finish(self, usages: Sequence[ResponseUsage], now: float, aborted_by: Abort | None) -> None:
        # The first record's id is the exchange's own, so that a draft and what replaces it are one event.
        records = [self._record(usages[0], now, aborted_by, self._id)]
        for usage in usages[1:]:
            records.append(self._record(usage, now, aborted_by, self.make_id(now)))
        self._finished = True
        if self._call.kind is _MODEL_CALL:
            self._parts.outbox.finish(self._id, records)
            self.log_finished(usages[0])
        else:
            self._parts.outbox.finish(None, records)

    def log_finished(self, usage: ResponseUsage) -> None:
        """Say in the log how the exchange, or one response of it, ended."""
        self._parts.logs.info(
            "exchange.finished",
            exchange=self._id,
            host=self._host,
            status=self._status,
            outcome=usage.outcome,
            model=usage.response_model or usage.request_model,
            input_tokens=usage.counts.get("input_tokens"),
            output_tokens=usage.counts.get("output_tokens"),
            reason=usage.reason,
        )


@lru_cache(maxsize=64)
def _known(outcome: Outcome, operation: str | None, model: str | None, reason: str) -> ResponseUsage:
    """What is known of a response without its body is one of few things."""
    return ResponseUsage(outcome=outcome, operation=operation or "unknown", request_model=model, reason=reason)


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}


def _decoder_for(coding: bytes, bytes_max: int) -> ContentDecoder | None:
    return content_decoder(coding.decode("latin-1"), body_bytes_max=bytes_max) if coding else None
