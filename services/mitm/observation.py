"""
What every exchange leaves behind: how its records are written, and what is done for one that nobody reads.

An `Observation` is told what passes, in order, and writes to the outbox (the journal and the bus behind it). Nothing
that it meets may stop the traffic: what cannot be read becomes an `unreadable` record with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orjson import Fragment, dumps

from services.dialects.answer import EventReader
from services.dialects.dialect import Call, CallKind, RequestFacts
from services.dialects.model_names import ModelNames
from services.events.exchange import ExchangeCounted
from services.events.identity import UlidSource
from services.events.usage import Outcome, ResponseUsage
from services.mitm.harmless import harmless
from services.mitm.outbox import Outbox
from services.mitm.records import empty_record, unread_record
from services.mitm.times import milliseconds, timestamp
from services.runtime.logs import Logs
from services.wire.http1 import ResponseHead

INTERNAL = "internal error, see the log"
# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_OTHER = CallKind.OTHER
_TRUNCATED = Outcome.TRUNCATED
NOTHING_SAID = RequestFacts()


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
    One exchange, as it passes; made by `observe`.

    This one is counted, or known not to be readable: nothing of it is looked at but its heads. `CallObservation` reads.
    `reads_request` and `reads_response` say whether content is wanted at all: bodies that nobody reads cost nothing.
    """

    __slots__ = (
        "_call",
        "_client",
        "_epoch_offset_s",
        "_first_byte_at",
        "_host",
        "_id",
        "_parts",
        "_problem",
        "_started",
        "_started_at",
        "_status",
        "bytes_down",
        "bytes_up",
        "reads_request",
        "reads_response",
    )

    _facts = NOTHING_SAID

    def __init__(self, host: str, call: Call, client: Fragment, problem: str | None, now: float, parts: ObserverParts):
        self._host = host
        self._call = call
        self._client = client
        self._problem = problem
        self._parts = parts
        self._started = now
        # One offset for the whole exchange: its times fit each other, whatever happens to the clock meanwhile.
        self._epoch_offset_s = offset_s = parts.epoch_offset_s()
        wall = offset_s + now
        self._started_at = timestamp(wall)
        self._id = parts.ids.make(int(wall * 1000))
        self._first_byte_at: float | None = None
        self._status: int | None = None
        self.bytes_up = 0
        self.bytes_down = 0
        self.reads_request = False
        self.reads_response = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} of {self._call.operation or 'an unknown call'} at {self._host}>"

    def failed(self, error: Exception) -> None:
        """A step of ours has failed: the traffic goes on, unread."""
        self._parts.logs.error("observation.failed", error=error, exchange=self._id, host=self._host)
        self.reads_request = False
        self._stop_reading(INTERNAL)

    def _stop_reading(self, problem: str) -> None:
        self._problem = problem
        self.reads_response = False

    # -- what passes -------------------------------------------------------

    def request_content(self, data: bytes) -> None:
        """Read a piece of the request's body, if `reads_request`."""

    def request_ended(self) -> None:
        """The request is whole: what it says about itself is known."""

    def response_head(self, response: ResponseHead, now: float) -> None:
        """The final response begins."""
        self._status = response.status
        self._first_byte_at = now

    def response_trailer(self, fields: Mapping[bytes, bytes]) -> None:
        """Read the fields behind the body."""

    def response_content(self, data: bytes) -> None:
        """Take a piece of the response's body."""
        self.bytes_down += len(data)

    def last_content(self, data: bytes, now: float) -> None:
        """Take the last piece of the response's body, with which it has ended."""
        self.bytes_down += len(data)
        self.ended(now)

    @property
    def awaits_event(self) -> bool:
        """What comes next of the body may be told by `event_reading`, if it is one event as a whole."""
        return False

    def event_reading(self) -> tuple[EventReader, Callable[[bytes], None]] | None:
        """Return what reads the data of such an event, and what journals what is returned; None if none comes."""
        return None

    # -- how it ends -------------------------------------------------------

    def ended(self, now: float) -> None:
        """The response is whole."""
        try:
            if self._call.kind is _OTHER:
                self.count(now)
            else:
                reason = self._problem or "endpoint is not known"
                alike = unread_record(self._call.provider, self._host, self._client, reason)
                self._parts.outbox.finish(None, [self._written_like(alike, now)])
        except Exception as error:
            self.failed(error)

    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """The exchange broke off; `aborted_by` None means that it ended as such things end."""
        self.ended(now)  # what is not read is written the same however it ends

    @harmless
    def upgraded(self, response: ResponseHead, now: float, problem: str | None = None) -> None:
        """The connection speaks another protocol from here on, which is not read; `problem` says why."""
        self._status = response.status
        self._first_byte_at = now
        self._problem = problem or f"upgrade to {response.field(b'upgrade')[:40] or 'another protocol'} is not read"

    @harmless
    def refused(self, status: int, error_type: str, reason: str, now: float) -> None:
        """We answered in upstream's place."""
        if self._call.kind is _OTHER:
            self.count(now)
            return
        self._finish([self._usage(Outcome.ERROR, error_type=error_type, reason=reason)], now, None)

    # -- records -----------------------------------------------------------

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

    def _record_of_exchange(self, usage: ResponseUsage, now: float, aborted_by: Abort | None, event_id: str) -> bytes:
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
        """
        Write a record of one response.

        Args:
            event_id: The exchange's own id for its first record, one of `make_id` for any other.
            aborted_by: Who broke it off, where it was; None is upstream.
            timing, transferred: The record's `timing` and `bytes`, which may be of a part of the exchange.
        """
        call, outcome = self._call, usage.outcome
        model = usage.response_model or usage.request_model
        record = empty_record(call.provider, call.dialect, self._host, self._client).copy()
        record["event_id"] = event_id
        record["at"] = timestamp(self._epoch_offset_s + now)
        record["exchange_id"] = self._id
        record["operation"] = usage.operation
        record["request_model"] = usage.request_model
        record["response_model"] = usage.response_model
        record["model"] = self.model_named(model) if model else None
        record["response_id"] = usage.response_id
        record["trace_id"] = usage.trace_id
        record["conversation_id"] = usage.conversation_id or self._facts.conversation_id
        record["outcome"] = outcome
        record["reason"] = usage.reason
        record["aborted_by"] = (aborted_by or Abort.UPSTREAM) if outcome is _TRUNCATED else None
        record["finish_reasons"] = usage.finish_reasons
        record["http_status"] = self._status
        record["error_type"] = usage.error_type
        record["error_code"] = usage.error_code
        record["service_tier"] = usage.service_tier
        record["block_reason"] = usage.block_reason
        record["iteration_type"] = usage.iteration_type
        record["anomalies"] = usage.anomalies
        record["usage"] = usage.counts
        record["timing"] = timing
        record["bytes"] = transferred
        return dumps(record)

    def _written_like(self, alike: dict[str, object], now: float) -> bytes:
        """Write a record to which nothing is added but what every exchange has."""
        record = alike.copy()
        record["event_id"] = record["exchange_id"] = self._id
        record["at"] = timestamp(self._epoch_offset_s + now)
        record["operation"] = self._call.operation or "unknown"
        record["http_status"] = self._status
        record["timing"] = self._timing(now)
        record["bytes"] = {"up": self.bytes_up, "down": self.bytes_down}
        return dumps(record)

    def model_named(self, model: str | None) -> str | None:
        """Return what people call a model: the name behind a placeholder where it is known."""
        return self._parts.model_names.resolve(model) if model else None

    def _timing(self, now: float) -> dict[str, object]:
        duration_ms, first_byte_at = milliseconds(now - self._started), self._first_byte_at
        first_byte_ms = None if first_byte_at is None else duration_ms
        if first_byte_at is not None and first_byte_at != now:
            first_byte_ms = milliseconds(first_byte_at - self._started)
        return {"started_at": self._started_at, "first_byte_ms": first_byte_ms, "duration_ms": duration_ms}

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
        self._parts.outbox.finish(None, [dumps(counted)])

    def _finish(self, usages: Sequence[ResponseUsage], now: float, aborted_by: Abort | None) -> None:
        self._parts.outbox.finish(None, self._records(usages, now, aborted_by))

    def _records(self, usages: Sequence[ResponseUsage], now: float, aborted_by: Abort | None) -> list[bytes]:
        # The first record's id is the exchange's own, so that a draft and what replaces it are one event.
        records = [self._record_of_exchange(usages[0], now, aborted_by, self._id)]
        for usage in usages[1:]:
            records.append(self._record_of_exchange(usage, now, aborted_by, self.make_id(now)))
        return records

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
