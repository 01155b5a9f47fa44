"""
From the parts of an exchange to usage records.

`observe` says who is told what passes. A `CallObservation` writes the start of a model call before its request leaves,
changed counts before the bytes that carry them leave, and at the end the records; of any other exchange there is one
record at its end (services.mitm.observation). Whatever fails here, the traffic goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orjson import Fragment, dumps

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, EventReader
from services.dialects.dialect import Call, CallKind, RequestFacts, RequestReader, ResponseReader, SocketReader
from services.dialects.model_names import ModelCatalogueReader
from services.dialects.recognise import (
    catalogue_reader,
    reads_headers,
    recognise,
    request_reader,
    response_reader,
    socket_reader,
)
from services.events.exchange import Client
from services.events.usage import Outcome, ResponseUsage
from services.mitm.harmless import harmless
from services.mitm.known_peer import KnownPeer, written
from services.mitm.observation import INTERNAL, NOTHING_SAID, Abort, Observation, ObserverParts
from services.mitm.records import MODEL_LETTERS_MAX, draft_record
from services.wire.content_encoding import ContentDecoder, content_decoder
from services.wire.errors import WireError
from services.wire.http1 import RequestHead, ResponseHead

# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_MODEL_CALL = CallKind.MODEL_CALL
_OTHER = CallKind.OTHER
_TRUNCATED = Outcome.TRUNCATED
_UNKNOWN_CALL = Call(kind=CallKind.UNKNOWN)
_NOBODY = written(Client())


def observe(host: str, request: RequestHead, peer: KnownPeer, now: float, parts: ObserverParts) -> Observation:
    """Begin to observe an exchange."""
    client, problem = _NOBODY, None
    try:
        client = peer.written()
        call = recognise(request.method, host, request.target)
        if call.dialect is None and request.content_type.startswith(b"application/grpc"):
            problem = "gRPC messages of this call are not read"
        is_read = call.kind is _MODEL_CALL or (call.kind is _OTHER and catalogue_reader(call) is not None)
    except Exception as error:
        unknown = Observation(host, _UNKNOWN_CALL, client, None, now, parts)
        unknown.failed(error)
        return unknown
    if not is_read:
        return Observation(host, call, client, problem, now, parts)
    observation = CallObservation(host, call, client, problem, now, parts)
    observation.begin(request)
    return observation


class CallObservation(Observation):
    """A model call, or an answer that lists models, as it passes: it is read."""

    __slots__ = (
        "_catalogue",
        "_decoded_bytes",
        "_decoder",
        "_facts",
        "_finished",
        "_is_ending",
        "_request_decoder",
        "_request_reader",
        "_response_reader",
    )

    def __init__(self, host: str, call: Call, client: Fragment, problem: str | None, now: float, parts: ObserverParts):
        super().__init__(host, call, client, problem, now, parts)
        self._facts = NOTHING_SAID if call.request_model is None else RequestFacts(model=call.request_model)
        self._finished = False
        self._is_ending = False  # its last piece is being read
        self._decoder: ContentDecoder | None = None
        self._decoded_bytes = 0
        self._request_decoder: ContentDecoder | None = None
        self._request_reader: RequestReader | None = None
        self._response_reader: ResponseReader | None = None
        self._catalogue: ModelCatalogueReader | None = None

    @harmless
    def begin(self, request: RequestHead) -> None:
        """Draft the record of a model call, and read its request if there is something to learn from it."""
        call = self._call
        if call.kind is not _MODEL_CALL:
            return
        # This is the record if nothing of ours is left to write another one.
        asked, model = call.request_model, self.model_named(call.request_model)
        known = draft_record if asked is None or len(asked) <= MODEL_LETTERS_MAX else draft_record.__wrapped__
        draft = known(call.provider, call.dialect, self._host, self._client, asked, model)
        self._parts.outbox.start(self._id, self._written_like(draft, self._started))
        reader = request_reader(call)
        if reader is not None:
            try:
                self._request_decoder = _decoder_for(request.content_encoding, self._parts.decoded_bytes_max)
            except WireError:
                return
            self._request_reader = reader
            self.reads_request = True

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
        self._first_byte_at = now
        self._begin_reading(response)

    @harmless
    def _begin_reading(self, response: ResponseHead) -> None:
        call, has_said = self._call, reads_headers(self._call)
        reader = self._response_reader = response_reader(
            call,
            status=response.status,
            content_type=response.content_type.decode("latin-1"),
            facts=self._facts,
            headers=_texts(response.fields) if has_said else {},
        )
        self._catalogue = catalogue_reader(call)
        if reader is None and self._catalogue is None:
            return
        try:
            self._decoder = _decoder_for(response.content_encoding, self._parts.decoded_bytes_max)
        except WireError as error:
            self._problem = str(error)
            return
        self.reads_response = True
        if has_said and reader is not None and reader.counts():  # Bedrock's head has counts
            self._journal_counts(reader)

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

    def last_content(self, data: bytes, now: float) -> None:
        """
        Take the last piece of the response's body, with which it has ended.

        Its counts stand in the record, which is journaled here and now: they need no entry of their own before it.
        """
        self._is_ending = True
        self.response_content(data)
        self.ended(now)

    @property
    def awaits_event(self) -> bool:
        reader = self._response_reader
        is_read = self.reads_response and self._decoder is None
        return is_read and isinstance(reader, AnswerReader) and reader.takes_events

    def event_reading(self) -> tuple[EventReader, Callable[[bytes], None]] | None:
        reader = self._response_reader
        if not isinstance(reader, AnswerReader):
            return None
        return reader.event_reader(), self._parts.outbox.repeats(self._id)

    def _journal_counts(self, reader: ResponseReader) -> None:
        if self._is_ending:
            return
        members = {"usage": reader.counts(), "response_model": reader.response_model()}
        self._parts.outbox.repeats(self._id)(dumps(members))

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

    # -- how it ends -------------------------------------------------------

    def ended(self, now: float) -> None:
        """The response is whole."""
        self._close(now, True, None, None)

    def broken(self, aborted_by: Abort | None, reason: str, now: float) -> None:
        """The exchange broke off; `aborted_by` None means that it ended as such things end."""
        self._close(now, aborted_by is None, aborted_by, reason)

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
        self._facts = NOTHING_SAID  # whatever it was, it is not in this one
        self._finish([self._usage(Outcome.UNREADABLE, reason=INTERNAL)], now, None)

    def _conclude_counted(self, now: float) -> None:
        if self._catalogue is not None:
            self._parts.model_names.learn(self._catalogue.end())
        self._finished = True
        self.count(now)

    def _usages(self, *, complete: bool, reason: str | None) -> Sequence[ResponseUsage]:
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

    def _finish(self, usages: Sequence[ResponseUsage], now: float, aborted_by: Abort | None) -> None:
        records = self._records(usages, now, aborted_by)
        self._finished = True
        if self._call.kind is _MODEL_CALL:
            self._parts.outbox.finish(self._id, records)
            self.log_finished(usages[0])
        else:
            self._parts.outbox.finish(None, records)

    def _is_readable(self) -> bool:
        return self._call.dialect is not None and self._problem is None

    def _has_decoded_nothing(self) -> bool:
        return self._decoder is not None and self.bytes_down > 0 and self._decoded_bytes == 0


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}


def _decoder_for(coding: bytes, bytes_max: int) -> ContentDecoder | None:
    return content_decoder(coding.decode("latin-1"), body_bytes_max=bytes_max) if coding else None
