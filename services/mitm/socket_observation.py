"""
From the frames of a WebSocket to usage records, one for each response on the connection.

Takes over from the `Observation` of the request that opened the connection. A response has a draft in the journal from
the message that asks for it, and its record there before the bytes that end it are forwarded. The records share the
exchange's id; each has an event id, times and bytes of its own: the bytes are those since the record before. What
cannot be read ends the reading, with an `unreadable` record, and never the traffic.

Rules  * A response that was begun and not finished is `truncated`, broken off by whoever closed first.
       * A connection that carried no response (a warm-up, say) is counted as an exchange that spent nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from services.dialects.dialect import SocketReader
from services.events.usage import Outcome, ResponseUsage
from services.mitm.harmless import harmless
from services.mitm.observation import INTERNAL, Abort, Observation, ObserverParts
from services.mitm.observer import CallObservation
from services.mitm.times import milliseconds, timestamp
from services.wire.errors import WireError
from services.wire.http1 import ResponseHead
from services.wire.websocket import (
    MESSAGE_BYTES_MAX,
    PermessageDeflate,
    WebSocketInvalid,
    WebSocketReader,
    agreed_compression,
)

_ENDPOINT = "(websocket)"
# By a close frame: what then becomes of the connection is no reason any more.
_CLOSED = {Abort.CLIENT: "the client closed the WebSocket", Abort.UPSTREAM: "upstream closed the WebSocket"}


class _Response:
    """A response under way: the key of its draft, which is also its record's id, and what the draft says."""

    __slots__ = ("event_id", "first_byte_ms", "said", "started")

    def __init__(self, event_id: str, started: float, said: ResponseUsage) -> None:
        self.event_id = event_id
        self.started = started
        self.first_byte_ms: float | None = None
        self.said = said


def observe_socket(
    observation: Observation, response: ResponseHead, now: float, parts: ObserverParts
) -> "SocketObservation | None":
    """
    Go on behind a response of status 101.

    Returns:
        Who is to be told what passes from here on. None when nobody can read it: then the exchange's own observation
        knows why, and is to be told how it ends.
    """
    problem = None
    try:
        is_socket = response.field(b"upgrade").lower() == "websocket"
        if (
            is_socket
            and isinstance(observation, CallObservation)
            and (reader := observation.socket_reader()) is not None
        ):
            compression = agreed_compression(response.field(b"sec-websocket-extensions"))
            observation.upgraded(response, now)
            observation.leave_to_responses()
            return SocketObservation(observation, reader, compression, now, parts)
    except WireError as error:
        problem = str(error)
    except Exception as error:
        observation.failed(error)
        problem = INTERNAL
    observation.upgraded(response, now, problem)
    return None


class SocketObservation:
    """One WebSocket, as it passes; nothing that it meets may stop the traffic."""

    __slots__ = (
        "_closed_by",
        "_from_client",
        "_from_server",
        "_has_recorded",
        "_is_reading",
        "_message_began",
        "_now",
        "_observation",
        "_parts",
        "_reader",
        "_responses",
        "_unrecorded_down",
        "_unrecorded_up",
    )

    def __init__(
        self,
        observation: CallObservation,
        reader: SocketReader,
        compression: PermessageDeflate | None,
        now: float,
        parts: ObserverParts,
    ) -> None:
        bytes_max = min(MESSAGE_BYTES_MAX, parts.decoded_bytes_max)
        self._from_client = WebSocketReader(is_client=True, compression=compression, message_bytes_max=bytes_max)
        self._from_server = WebSocketReader(is_client=False, compression=compression, message_bytes_max=bytes_max)
        self._observation = observation
        self._reader = reader
        self._parts = parts
        self._now = now
        self._message_began = now
        self._responses: list[_Response] = []
        self._closed_by: Abort | None = None
        self._is_reading = True
        self._has_recorded = False
        self._unrecorded_up = 0
        self._unrecorded_down = 0

    def __repr__(self) -> str:
        state = f"{len(self._responses)} responses under way" if self._is_reading else "not read any more"
        return f"<SocketObservation of {self._observation!r}: {state}>"

    # -- what passes -------------------------------------------------------

    def from_client(self, data: memoryview, now: float) -> None:
        """Read the next bytes of the client, before they are forwarded."""
        self._unrecorded_up += len(data)
        if self._is_reading:
            self._now = now
            if self._from_client.is_between_messages:
                self._message_began = now
            self._read(self._from_client, data, self._reader.feed_client, Abort.CLIENT)

    def from_server(self, data: memoryview, now: float) -> None:
        """Read the next bytes of the server, before they are forwarded."""
        self._unrecorded_down += len(data)
        if self._is_reading:
            self._now = now
            self._read(self._from_server, data, self._reader.feed_server, Abort.UPSTREAM)

    @harmless
    def _read(
        self,
        frames: WebSocketReader,
        data: memoryview,
        feed: Callable[[bytes], Sequence[ResponseUsage]],
        sender: Abort,
    ) -> None:
        problem: str | None = None
        try:
            texts: Sequence[bytes] = frames.feed(data)
        except WebSocketInvalid as error:
            problem, texts = str(error), error.texts
        for text in texts:
            if sender is Abort.UPSTREAM:
                self._note_first_byte()
            for usage in feed(text):
                self._record(usage, self._response_of(usage))
            self._draft()
        if problem is not None:
            self._give_up(problem)
        elif frames.close_code is not None and self._closed_by is None:
            self._closed_by = sender

    def _note_first_byte(self) -> None:
        for response in self._responses:
            if response.first_byte_ms is None:
                response.first_byte_ms = milliseconds(self._now - response.started)

    # -- how it ends -------------------------------------------------------

    @harmless
    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """The connection is over; `aborted_by` None means that upstream ended it as connections end."""
        self._now = now
        if self._is_reading:
            by = self._closed_by or aborted_by or Abort.UPSTREAM
            why = reason if self._closed_by is None else _CLOSED[self._closed_by]
            usages = self._reader.end(complete=self._closed_by is not None or aborted_by is None)
            self._is_reading = False
            for usage in usages:
                if usage.outcome is Outcome.TRUNCATED:
                    usage = replace(usage, reason=why)
                self._record(usage, self._response_of(usage), by)
            self._drop_drafts(0)
        if not self._has_recorded:
            self._has_recorded = True
            self._observation.bytes_up, self._observation.bytes_down = self._unrecorded_up, self._unrecorded_down
            self._observation.count(now, _ENDPOINT)

    def failed(self, error: Exception) -> None:
        """A step of ours has failed: the traffic goes on, unread."""
        self._observation.failed(error)
        if self._is_reading:
            try:
                self._give_up(INTERNAL)
            except Exception as another:
                self._observation.failed(another)

    def _give_up(self, problem: str) -> None:
        """Read no more: what is under way cannot be known, and nor can what follows."""
        self._is_reading = False
        responses = self._responses[:] or [self._begin(self._observation.unreadable(problem))]
        for response in responses:
            usage = replace(response.said, outcome=Outcome.UNREADABLE, reason=problem)
            self._record(usage, response)

    # -- records -----------------------------------------------------------

    def _response_of(self, usage: ResponseUsage) -> _Response:
        """Return the response that a record belongs to: of that id, or without one, else the oldest, else a new one."""
        for wanted in (usage.response_id, None):
            for response in self._responses:
                if response.said.response_id == wanted:
                    return response
        return self._responses[0] if self._responses else self._begin(usage)

    def _begin(self, usage: ResponseUsage) -> _Response:
        return _Response(self._observation.make_id(self._now), self._message_began, usage)

    def _draft(self) -> None:
        """Keep the journal's drafts as what is under way; they are the records if this process dies now."""
        pending = self._reader.pending()
        self._drop_drafts(len(pending))
        for response, usage in zip(self._responses, pending, strict=False):
            if usage != response.said:
                response.said = usage
                self._parts.outbox.progress(response.event_id, orjson.dumps(self._members(usage)))
        for usage in pending[len(self._responses) :]:
            response = self._begin(usage)
            self._responses.append(response)
            self._parts.outbox.start(response.event_id, self._written(usage, response, Abort.PROXY))

    def _members(self, usage: ResponseUsage) -> dict[str, object]:
        return {
            "request_model": usage.request_model,
            "response_model": usage.response_model,
            "model": self._observation.model_named(usage.response_model or usage.request_model),
            "response_id": usage.response_id,
            "usage": usage.counts,
        }

    def _drop_drafts(self, kept: int) -> None:
        while len(self._responses) > kept:
            self._parts.outbox.finish(self._responses.pop().event_id, [])

    def _record(self, usage: ResponseUsage, response: _Response, aborted_by: Abort | None = None) -> None:
        if response in self._responses:
            self._responses.remove(response)
        record = self._written(usage, response, aborted_by)
        self._has_recorded = True
        self._unrecorded_up = self._unrecorded_down = 0
        self._parts.outbox.finish(response.event_id, [record])
        self._observation.log_finished(usage)

    def _written(self, usage: ResponseUsage, response: _Response, aborted_by: Abort | None) -> bytes:
        return self._observation.record(
            usage,
            self._now,
            aborted_by,
            response.event_id,
            {
                "started_at": timestamp(self._parts.epoch_offset_s() + response.started),
                "first_byte_ms": response.first_byte_ms,
                "duration_ms": milliseconds(self._now - response.started),
            },
            {"up": self._unrecorded_up, "down": self._unrecorded_down},
        )
