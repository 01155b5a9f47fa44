"""
gRPC answers: body bytes in any split go in, the record of the call comes out.

What differs between services is in a dialect's `Tally`, as for the answers of HTTP APIs, which is told one message at a
time, made of protobuf by a shape. What all calls share is here: a call is complete if its status is OK, whatever its
messages say, and an `error` with the status' name if it is another; the HTTP status is 200 in either case. Without a
status it broke off. Messages in protobuf alone are read: neither `application/grpc+json` nor gRPC-Web.
"""

from collections.abc import Callable, Mapping

from services.dialects.answer import Tally, outcome_of
from services.dialects.dialect import Call, RequestFacts, ResponseFacts
from services.events.usage import Counts, Outcome, ResponseUsage
from services.wire.errors import WireError
from services.wire.grpc import OK, GrpcMessageReader, status_name, status_of
from services.wire.protobuf import Shape, object_in

CONTENT_TYPES = frozenset({"application/grpc", "application/grpc+proto"})
STATUS_FIELD = "grpc-status"
ENCODING_FIELD = "grpc-encoding"


class GrpcAnswerReader:
    """
    Reads one answer of an HTTP status below 400.

    Args:
        tally: The dialect's part.
        shape: Of the service's answers.
        response: What the head says.
    """

    def __init__(self, tally: Tally, shape: Shape, response: ResponseFacts) -> None:
        self._tally = tally
        self._shape = shape
        self._messages = GrpcMessageReader(response.headers.get(ENCODING_FIELD, ""))
        self._is_ok = False
        self._failure: str | None = None
        kind = response.content_type.partition(";")[0].strip().lower()
        if kind not in CONTENT_TYPES:
            self._failure = f"answer of {kind[:80] or 'no content type'} is no gRPC of protobuf messages"
        self.read_trailer(response.headers)

    def feed(self, data: bytes) -> bool:
        if self._failure is not None:
            return False
        changed = False
        try:
            for message in self._messages.feed(data):
                if self._tally.read(object_in(message, self._shape)):
                    changed = True
        except WireError as error:
            self._failure = str(error)
        return changed

    def read_trailer(self, fields: Mapping[str, str]) -> None:
        if STATUS_FIELD not in fields:
            return
        status = status_of(fields[STATUS_FIELD])
        self._is_ok = status == OK
        if not self._is_ok:
            self._tally.fail({"status": status_name(status)})

    def counts(self) -> Counts:
        return self._tally.counts()

    def response_model(self) -> str | None:
        return self._tally.response_model()

    def progress(self) -> ResponseUsage:
        return self._tally.record(Outcome.TRUNCATED)

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        try:
            self._messages.end()
        except WireError as error:
            self._failure = str(error)
        is_whole = complete and self._is_ok and self._messages.is_between_messages
        outcome = outcome_of(self._tally, self._failure, is_whole=is_whole)
        reason = self._failure if outcome is Outcome.UNREADABLE else None
        return self._tally.record(outcome, reason), *self._tally.extra_records(outcome)


class GrpcRequestReader:
    """
    Reads the model out of the one message of a request.

    A compressed one is not read: which coding it has stands in a field of its head. The model is then the answer's.

    Args:
        call: What the path says.
        shape: Of the service's requests.
        model_of: Returns the model's name.
    """

    def __init__(self, call: Call, shape: Shape, model_of: Callable[[Mapping[str, object]], str | None]) -> None:
        self._call = call
        self._shape = shape
        self._model_of = model_of
        self._messages: GrpcMessageReader | None = GrpcMessageReader()
        self._model: str | None = None

    def feed(self, data: bytes) -> None:
        if self._messages is None:
            return
        try:
            for message in self._messages.feed(data)[:1]:
                self._messages = None
                self._model = self._model_of(object_in(message, self._shape))
        except WireError:
            self._messages = None  # the provider will say so to the client

    def facts(self) -> RequestFacts:
        return RequestFacts(model=self._model or self._call.request_model, stream=self._call.is_streaming)
