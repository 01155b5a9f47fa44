"""
Answers: decoded body bytes in any split go in, the records of the response come out.

What differs between providers is in a dialect's `Tally`, which is told one parsed JSON message at a time. Here is what
they share: an answer is an event stream, a JSON array whose elements arrive one after the other, one JSON object, or a
stream of another framing that the dialect brings; an answer of status 400 and above is an error object; and every
answer ends as exactly one `Outcome`.

Rules
  * The first byte decides between events and JSON: gateways mislabel, and send errors as JSON under any type. What
    could be neither is believed to be what the content type says.
  * An event that the end of the body interrupts counts if it is a whole JSON object (some providers leave out the
    last empty line), and not otherwise (an aborted stream).
  * A bare JSON error between the events of a stream, without `data:`, is an error (Google).
  * An event that is not JSON is nothing (`[DONE]`).

Of messages that come together a dialect may leave out those that cannot change the result (`Tally.worth_parsing`). It
has to be sure: looking into bytes chooses candidates, the JSON parser decides.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from orjson import JSONDecodeError, dumps, loads

from services.dialects.counts import error_name_of, json_of, json_or_none, object_of, objects_of
from services.dialects.dialect import Call, RequestFacts
from services.dialects.framings import EVENT_STREAM_STARTS, StreamFraming
from services.events.usage import Counts, Outcome, ResponseUsage
from services.wire.errors import WireError
from services.wire.json_stream import BYTE_ORDER_MARK, WHITE_SPACE, JsonElementReader
from services.wire.sse import ServerSentEventReader

EVENT_STREAM = "text/event-stream"

# Error objects are a few hundred bytes; some gateways answer with a whole page.
ERROR_BYTES_MAX = 64 * 1024

FIRST_ERROR_STATUS = 400


class Tally(Protocol):
    """
    What one response said so far, in one provider's words.

    Attributes:
        error_type: The provider's word for an error that came inside the answer.
        is_blocked: A filter refused the prompt.
        has_ended: The stream's own end mark was read.
    """

    @property
    def error_type(self) -> str | None: ...
    @property
    def is_blocked(self) -> bool: ...
    @property
    def has_ended(self) -> bool: ...

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        """Return those of the JSON texts, which came together, that have to be read; the others change nothing."""
        ...

    def read(self, message: dict[str, object]) -> bool:
        """Take in one message; True when the counts changed. Whatever it holds, it does not raise."""
        ...

    def counts(self) -> Counts:
        """Return the counts in force; empty when none was reported."""
        ...

    def response_model(self) -> str | None:
        """Return the model that the response names."""
        ...

    def fail(self, error: object) -> None:
        """Take in an error object that stood outside any message."""
        ...

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        """Return what is known of the response itself."""
        ...

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        """Return what is known of further models that worked for it."""
        ...


# Reads the data of an event that came alone and whole as `AnswerReader.feed` would. If the counts changed by it, it
# returns `AnswerReader.members`, in which `usage` may be a list that `Dialect.counts_said` makes counts of.
EventReader: TypeAlias = Callable[[bytes], bytes | None]


def outcome_of(tally: Tally, failure: str | None, *, is_whole: bool) -> Outcome:
    """Return how an answer ended: what it says itself comes first, then whether it could be read, and was whole."""
    if tally.error_type is not None:
        return Outcome.ERROR
    if failure is not None:
        return Outcome.UNREADABLE
    if tally.is_blocked:
        return Outcome.BLOCKED
    if not is_whole:
        return Outcome.TRUNCATED
    return Outcome.OK if tally.counts() else Outcome.NO_USAGE


class AnswerReader:
    """
    Reads one answer of status below 400.

    Args:
        tally: The dialect's part.
        content_type: Of the response, as the server wrote it.
        end_is_final: The dialect's end mark is the last word: a body that breaks off behind it was complete.
        end_mark: Data of the event that is such a last word, where it is no message (`[DONE]`).
        framing: Of a stream that is neither events nor an array; None where the content type names none.
        event_reader: Makes what reads an event that came alone, where the tally has a shorter way for it.
        says_nothing: Tells of one event's data what `Tally.worth_parsing` would, where that leaves out single ones.

    Attributes:
        takes_events: What comes next may be told by an `event_reader`, if it is one event as a whole.
    """

    def __init__(
        self,
        tally: Tally,
        content_type: str,
        *,
        end_is_final: bool = False,
        end_mark: bytes | None = None,
        framing: StreamFraming | None = None,
        event_reader: Callable[[], EventReader] | None = None,
        says_nothing: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._tally = tally
        self.counts = tally.counts
        self.response_model = tally.response_model
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._end_is_final = end_is_final
        self._end_mark = end_mark
        self._saw_end_mark = False
        self._events = ServerSentEventReader()
        self._elements = JsonElementReader()
        self._is_event_stream = self._content_type == EVENT_STREAM
        self._framing = framing
        self._split = self._split_by_first_byte
        self._failure: str | None = None
        self.takes_events = False
        self.event_reader = event_reader or self._plain_event_reader
        self._says_nothing = says_nothing

    def _plain_event_reader(self) -> EventReader:
        read, says_nothing, end_mark = self._tally.read, self._says_nothing, self._end_mark

        def read_event(data: bytes) -> bytes | None:
            if says_nothing is not None and says_nothing(data):
                return None
            try:
                message = loads(data)
            except JSONDecodeError:
                if data == end_mark:
                    self._saw_end_mark = True
                message = json_or_none(data)  # what only the strict parser refuses
            return self.members() if type(message) is dict and read(message) else None

        return read_event

    def members(self) -> bytes:
        """Return what is known of the record's members that change as the answer goes on, a JSON object."""
        return dumps({"usage": self.counts(), "response_model": self.response_model()})

    def feed(self, data: bytes) -> bool:
        if self._failure is not None:
            return False
        try:
            texts = self._split(data)
        except WireError as error:
            if self._content_type == EVENT_STREAM and not self._is_event_stream:
                return self._feed_as_events(data)
            self._failure = str(error)
            self.takes_events = False
            return False
        self.takes_events = self._split == self._events.feed_data and self._events.is_between_events
        if self._is_event_stream or self._framing is not None:
            if self._end_mark is not None and self._is_event_stream and self._end_mark in texts:
                self._saw_end_mark = True
            texts = self._tally.worth_parsing(texts)
        # The elements of an array are all parsed: among them something that is not JSON is a fault.
        changed = False
        for text in texts:
            try:
                message = json_of(text)
            except ValueError:
                self._note_garbled()
                continue
            if type(message) is dict and self._tally.read(message):
                changed = True
        return changed

    def read_trailer(self, fields: Mapping[str, str]) -> None:
        pass  # no HTTP API says anything there

    def progress(self) -> ResponseUsage:
        return self._tally.record(Outcome.TRUNCATED)

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        if self._is_stream and self._failure is None:
            self._read_what_is_left()
        outcome = outcome_of(self._tally, self._failure, is_whole=self._is_whole(complete))
        reason = self._failure if outcome is Outcome.UNREADABLE else None
        return self._tally.record(outcome, reason), *self._tally.extra_records(outcome)

    @property
    def _is_stream(self) -> bool:
        return self._is_event_stream or self._framing is not None

    def _feed_as_events(self, data: bytes) -> bool:
        """What began as JSON under the label of an event stream, and is none, is one after all."""
        self._is_event_stream = True
        self._split = self._events.feed_data
        return self.feed(data)

    def _split_by_first_byte(self, data: bytes) -> list[bytes]:
        if self._framing is not None and data:
            if self._framing.begins_with(data):
                self._split = self._framing.feed
                return self._split(data)
            self._framing = None  # mislabelled
        start = data.lstrip(WHITE_SPACE + BYTE_ORDER_MARK)
        if not start:
            return []
        if start[:1] in b"{[":
            self._is_event_stream = False
            self._split = self._elements.feed
        elif self._is_event_stream or start[:1] in EVENT_STREAM_STARTS:
            self._is_event_stream = True
            self._split = self._events.feed_data
        else:
            what = self._content_type[:80] or "no content type"
            raise WireError(f"answer of {what} begins with {start[:1]!r}: neither JSON nor events")
        return self._split(start)

    def _note_garbled(self) -> None:
        """In a stream something else than JSON is nothing; an answer that should be JSON and is not is unreadable."""
        if not self._is_stream:
            self._failure = "answer is not valid JSON"

    def _read_what_is_left(self) -> None:
        if self._framing is not None:
            self._read_what_is_left_of(self._framing)
            return
        try:
            unfinished = self._events.end()
        except WireError:
            return  # too long to be kept, and without an end in any case
        if unfinished is not None and unfinished.data == self._end_mark:
            self._saw_end_mark = True
        elif unfinished is not None and (message := _json_object(unfinished.data)):
            self._tally.read(message)
        for error in _stray_errors(self._events.stray_text):
            self._tally.fail(error)

    def _read_what_is_left_of(self, framing: StreamFraming) -> None:
        try:
            unfinished = framing.end()
        except WireError as error:
            self._failure = str(error)
            return
        if unfinished is not None and (message := _json_object(unfinished)):
            self._tally.read(message)

    def _is_whole(self, complete: bool) -> bool:
        if self._saw_end_mark:
            return True
        if self._is_stream or self._elements.is_array:
            return self._tally.has_ended and (complete or self._end_is_final)
        if self._elements.is_array is None:  # no body at all
            return complete
        return self._elements.is_closed


class ErrorAnswerReader:
    """
    Reads one answer of status 400 and above: no counts, and the provider's word for the error if it says one.

    Args:
        call: What the request is.
        status: Of the answer.
        facts: What the request said.
        reason: What else the answer says of the error, outside its body.
    """

    def __init__(self, call: Call, status: int, facts: RequestFacts, *, reason: str | None = None) -> None:
        self._call = call
        self._reason = reason
        self._status = status
        self._facts = facts
        self._body = bytearray()

    def feed(self, data: bytes) -> bool:
        self._body += data[: ERROR_BYTES_MAX - len(self._body)]
        return False

    def read_trailer(self, fields: Mapping[str, str]) -> None:
        pass

    def counts(self) -> Counts:
        return {}

    def response_model(self) -> str | None:
        return None

    def progress(self) -> ResponseUsage:
        return self._record()

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        return (self._record(),)

    def _record(self) -> ResponseUsage:
        return ResponseUsage(
            outcome=Outcome.ERROR,
            operation=self._call.operation or "",
            request_model=self._facts.model or self._call.request_model,
            conversation_id=self._facts.conversation_id,
            error_type=str(self._status),
            error_code=self._error_code(),
            reason=self._reason,
        )

    def _error_code(self) -> str | None:
        body = bytes(self._body)
        for text in (body, *_event_data(body)):
            for error in _errors_in(text):
                if name := error_name_of(error):
                    return name
        return None


def _event_data(body: bytes) -> list[bytes]:
    events = ServerSentEventReader()
    found = events.feed_data(body)
    last = events.end()
    return [*found, last.data] if last else found


def _stray_errors(text: bytes) -> list[object]:
    """Return the error objects in the text that stood between the events."""
    return [error for block in text.split(b"\n\n") for error in _errors_in(block)]


def _errors_in(text: bytes) -> list[object]:
    """Return the `error` members of the JSON object, or of the array of objects, that `text` is."""
    if text.strip(WHITE_SPACE)[:1] not in (b"{", b"["):
        return []
    try:
        value = json_of(text)
    except ValueError:
        return []
    messages = objects_of(value) if isinstance(value, list) else [object_of(value)]
    return [message["error"] for message in messages if message.get("error")]


def _json_object(text: bytes) -> dict[str, object] | None:
    try:
        value = json_of(text)
    except ValueError:
        return None
    return value if type(value) is dict else None
