"""
From the parts of an exchange to usage records.

An `Observation` is told what passes, in order, and writes to the outbox (the journal and the bus behind it): the start
of a model call before its request leaves, changed counts before the bytes that carry them leave, and at the end the
records. Nothing that it meets may stop the traffic: what it cannot read becomes an `unreadable` record with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec, Protocol

import orjson

from services.dialects.dialect import Call, CallKind, RequestFacts, RequestReader, ResponseReader
from services.dialects.model_names import ModelCatalogueReader, ModelNames
from services.dialects.recognise import catalogue_reader, recognise, request_reader, response_reader
from services.events.exchange import Client, ExchangeCounted, UsageRecorded
from services.events.identity import UlidSource
from services.events.usage import Outcome, ResponseUsage
from services.runtime.logs import Logs
from services.wire.content_encoding import ContentDecoder, content_decoder
from services.wire.errors import WireError
from services.wire.http1 import RequestHead, ResponseHead

_INTERNAL = "internal error, see the log"
_Arguments = ParamSpec("_Arguments")


class Abort(StrEnum):
    """Who broke an exchange off."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Outbox(Protocol):
    """Where an observation writes; services.bus.publisher keeps it."""

    def start(self, exchange_id: str, draft: bytes) -> None:
        """A model call begins: `draft` is its record if this process dies now."""

    def progress(self, exchange_id: str, members: bytes) -> None:
        """`members` replace those of the draft."""

    def finish(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        """The exchange is over; these are its records."""


class Peer(Protocol):
    """Who is at the other end of the client's connection."""

    def client(self) -> Client:
        """Describe it; looked up once."""


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


def _harmless(
    step: Callable[Concatenate["Observation", _Arguments], None],
) -> Callable[Concatenate["Observation", _Arguments], None]:
    """Keep a bug in `step` from the traffic: it is logged, and nothing is read any more."""

    @wraps(step)
    def guarded(self: "Observation", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            step(self, *args, **kwargs)
        except Exception as error:
            self.failed(error)

    return guarded


class Observation:
    """
    One exchange, as it passes.

    `reads_request` and `reads_response` say whether content is wanted at all: bodies that nobody reads cost nothing.
    """

    __slots__ = (
        "_call",
        "_catalogue",
        "_client",
        "_decoder",
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

    def __init__(self, host: str, request: RequestHead, peer: Peer, now: float, parts: ObserverParts) -> None:
        self._host = host
        self._parts = parts
        self._started = now
        wall = parts.epoch_offset_s() + now
        self._started_at = timestamp(wall)
        self._id = parts.ids.make(int(wall * 1000))
        self._client = Client()
        self._call = Call(kind=CallKind.UNKNOWN)
        self._facts = RequestFacts()
        self._finished = False
        self._problem: str | None = None
        self._decoder: ContentDecoder | None = None
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
        self._begin(request, peer)

    def __repr__(self) -> str:
        return f"<Observation {self._id} of {self._call.operation or 'an unknown call'} at {self._host}>"

    @_harmless
    def _begin(self, request: RequestHead, peer: Peer) -> None:
        self._client = peer.client()
        self._call = recognise(request.method, self._host, request.target)
        self._facts = RequestFacts(model=self._call.request_model)
        if self._call.kind is CallKind.MODEL_CALL:
            self._begin_call(request)

    def failed(self, error: Exception) -> None:
        """A step of ours has failed: the traffic goes on, unread."""
        self._parts.logs.error("observation.failed", error=error, exchange=self._id, host=self._host)
        self.reads_request = False
        self._stop_reading(_INTERNAL)

    # -- what passes -------------------------------------------------------

    @_harmless
    def request_content(self, data: bytes) -> None:
        """Read a piece of the request's body."""
        assert self._request_reader is not None
        try:
            self._request_reader.feed(self._request_decoder.feed(data) if self._request_decoder else data)
        except WireError:
            self.reads_request = False  # the model is then what the response names

    @_harmless
    def request_ended(self) -> None:
        """The request is whole: what it says about itself is known."""
        if self._request_reader is None:
            return
        facts = self._request_reader.facts()
        self._facts = RequestFacts(
            model=facts.model or self._call.request_model, stream=facts.stream, conversation_id=facts.conversation_id
        )
        self.reads_request = False
        members = {"request_model": self._facts.model, "conversation_id": self._facts.conversation_id}
        self._parts.outbox.progress(self._id, orjson.dumps(members | {"model": self._model_named(self._facts.model)}))

    @_harmless
    def response_head(self, response: ResponseHead, now: float) -> None:
        """The final response begins."""
        self._status = response.status
        self._first_byte_ms = _ms(now - self._started)
        content_type = response.field(b"content-type")
        self._response_reader = response_reader(
            self._call, status=response.status, content_type=content_type, facts=self._facts
        )
        self._catalogue = catalogue_reader(self._call)
        if self._response_reader is None and self._catalogue is None:
            return
        try:
            self._decoder = _decoder_for(response.field(b"content-encoding"), self._parts.decoded_bytes_max)
        except WireError as error:
            self._problem = str(error)
            return
        self.reads_response = True

    def response_content(self, view: memoryview, content: Sequence[tuple[int, int]]) -> None:
        """Read pieces of the response's body, and journal the counts if they changed."""
        data = b"".join([view[first:last] for first, last in content])
        reader = self._response_reader
        try:
            if self._decoder:
                data = self._decoder.feed(data)
            if reader is None:
                assert self._catalogue is not None
                self._catalogue.feed(data)
                return
            if reader.feed(data):
                members = {"usage": reader.counts(), "response_model": reader.response_model()}
                self._parts.outbox.progress(self._id, orjson.dumps(members))
        except WireError as error:
            self._stop_reading(str(error))
        except Exception as error:
            self.failed(error)

    def _stop_reading(self, problem: str) -> None:
        self._problem = problem
        self.reads_response = False

    # -- how it ends -------------------------------------------------------

    def ended(self, now: float) -> None:
        """The response is whole."""
        self._close(now, complete=True, aborted_by=None)

    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """The exchange broke off; `aborted_by` None means that it ended as such things end."""
        self._close(now, complete=aborted_by is None, aborted_by=aborted_by, reason=reason)

    @_harmless
    def upgraded(self, response: ResponseHead, now: float) -> None:
        """The connection speaks another protocol from here on, which is not read."""
        self._status = response.status
        self._first_byte_ms = _ms(now - self._started)
        self._problem = f"upgrade to {response.field(b'upgrade')[:40] or 'another protocol'} is not read"

    @_harmless
    def refused(self, status: int, error_type: str, reason: str, now: float) -> None:
        """We answered in upstream's place."""
        if self._call.kind is CallKind.OTHER:
            self._count(now)
            return
        usage = self._usage(Outcome.ERROR, error_type=error_type, reason=reason)
        self._finish([self._record(usage, now, None)], [usage])

    @_harmless
    def _close(self, now: float, *, complete: bool, aborted_by: Abort | None, reason: str | None = None) -> None:
        try:
            self._conclude(now, complete=complete, aborted_by=aborted_by, reason=reason)
        except Exception as error:
            self.failed(error)
            if not self._finished:
                self._facts = RequestFacts()  # whatever it was, it is not in this one
                usage = self._usage(Outcome.UNREADABLE, reason=_INTERNAL)
                self._finish([self._record(usage, now, None)], [usage])

    def _conclude(self, now: float, *, complete: bool, aborted_by: Abort | None, reason: str | None) -> None:
        if self._call.kind is CallKind.OTHER:
            if self._catalogue is not None:
                self._parts.model_names.learn(self._catalogue.end())
            self._count(now)
            return
        usages = self._usages(complete=complete, reason=reason)
        records = [self._record(usage, now, aborted_by, is_extra=n > 0) for n, usage in enumerate(usages)]
        self._finish(records, usages)

    def _usages(self, *, complete: bool, reason: str | None) -> Sequence[ResponseUsage]:
        if self._call.kind is CallKind.UNKNOWN:
            return [self._usage(Outcome.UNREADABLE, reason=self._problem or "endpoint is not known")]
        if self._call.dialect is None:
            return [self._usage(Outcome.UNREADABLE, reason=self._problem or "no dialect reads this call")]
        if self._problem is not None:
            seen = self._response_reader.progress() if self._response_reader else None
            return [self._usage(Outcome.UNREADABLE, reason=self._problem, counts=seen.counts if seen else {})]
        if self._response_reader is None:
            return [self._usage(Outcome.NO_USAGE if complete else Outcome.TRUNCATED, reason=reason)]
        return self._response_reader.end(complete=complete)

    # -- records -----------------------------------------------------------

    def _begin_call(self, request: RequestHead) -> None:
        usage = self._usage(Outcome.TRUNCATED)
        self._parts.outbox.start(self._id, self._record(usage, self._started, Abort.PROXY))
        reader = request_reader(self._call)
        if reader is not None:
            try:
                coding = request.field(b"content-encoding")
                self._request_decoder = _decoder_for(coding, self._parts.decoded_bytes_max)
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

    def _record(self, usage: ResponseUsage, now: float, aborted_by: Abort | None, *, is_extra: bool = False) -> bytes:
        """Write a record; the members are those of `UsageRecorded`, in its order."""
        wall = self._parts.epoch_offset_s() + now
        truncated = usage.outcome is Outcome.TRUNCATED
        return orjson.dumps(
            {
                "schema": UsageRecorded.SCHEMA,
                # The first record's id is the exchange's own, so that a draft and what replaces it are one event.
                "event_id": self._parts.ids.make(int(wall * 1000)) if is_extra else self._id,
                "at": timestamp(wall),
                "exchange_id": self._id,
                "provider": self._call.provider,
                "dialect": self._call.dialect,
                "operation": usage.operation,
                "host": self._host,
                "request_model": usage.request_model,
                "response_model": usage.response_model,
                "model": self._model_named(usage.response_model or usage.request_model),
                "response_id": usage.response_id,
                "trace_id": usage.trace_id,
                "conversation_id": usage.conversation_id or self._facts.conversation_id,
                "outcome": usage.outcome,
                "reason": usage.reason,
                "aborted_by": (aborted_by or Abort.UPSTREAM) if truncated else None,
                "finish_reasons": usage.finish_reasons,
                "http_status": self._status,
                "error_type": usage.error_type,
                "error_code": usage.error_code,
                "service_tier": usage.service_tier,
                "block_reason": usage.block_reason,
                "iteration_type": usage.iteration_type,
                "anomalies": usage.anomalies,
                "usage": usage.counts,
                "timing": self._timing(now),
                "bytes": {"up": self.bytes_up, "down": self.bytes_down},
                "client": self._client,
                "turn_id": None,
            }
        )

    def _model_named(self, model: str | None) -> str | None:
        """Return what people call a model: the name behind a placeholder where it is known."""
        return self._parts.model_names.resolve(model) if model else None

    def _timing(self, now: float) -> dict[str, object]:
        return {
            "started_at": self._started_at,
            "first_byte_ms": self._first_byte_ms,
            "duration_ms": _ms(now - self._started),
        }

    def _count(self, now: float) -> None:
        wall = self._parts.epoch_offset_s() + now
        counted = {
            "schema": ExchangeCounted.SCHEMA,
            "event_id": self._id,
            "at": timestamp(wall),
            "host": self._host,
            "endpoint": self._call.operation or "unknown",
            "http_status": self._status,
            "timing": self._timing(now),
            "bytes": {"up": self.bytes_up, "down": self.bytes_down},
            "client": self._client,
        }
        self._finished = True
        self._parts.outbox.finish(None, [orjson.dumps(counted)])

    def _finish(self, records: Sequence[bytes], usages: Sequence[ResponseUsage]) -> None:
        is_call = self._call.kind is CallKind.MODEL_CALL
        self._finished = True
        self._parts.outbox.finish(self._id if is_call else None, records)
        if is_call:
            main = usages[0]
            self._parts.logs.info(
                "exchange.finished",
                exchange=self._id,
                host=self._host,
                status=self._status,
                outcome=main.outcome,
                model=main.response_model or main.request_model,
                input_tokens=main.counts.get("input_tokens"),
                output_tokens=main.counts.get("output_tokens"),
                reason=main.reason,
            )


def tunnel_record(
    host: str, client: Client, started: float, now: float, up: int, down: int, parts: ObserverParts
) -> bytes:
    """Write the record of a connection that was passed through unopened."""
    offset = parts.epoch_offset_s()
    return orjson.dumps(
        {
            "schema": ExchangeCounted.SCHEMA,
            "event_id": parts.ids.make(int((offset + now) * 1000)),
            "at": timestamp(offset + now),
            "host": host,
            "endpoint": "(tunnel)",
            "http_status": None,
            "timing": {
                "started_at": timestamp(offset + started),
                "first_byte_ms": None,
                "duration_ms": _ms(now - started),
            },
            "bytes": {"up": up, "down": down},
            "client": client,
        }
    )


def timestamp(unix_s: float) -> str:
    """Write a time as RFC 3339 in UTC, with microseconds."""
    second = int(unix_s)
    return f"{_second(second)}.{int((unix_s - second) * 1e6):06d}Z"


@lru_cache(maxsize=8)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _decoder_for(coding: str, bytes_max: int) -> ContentDecoder | None:
    return content_decoder(coding, body_bytes_max=bytes_max) if coding else None
