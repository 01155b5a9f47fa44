"""The terms of this stage: what a call is, what is learned from its request, and what a dialect has to bring."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from services.events.usage import Counts, ResponseUsage


class CallKind(StrEnum):
    """What a request is to us."""

    MODEL_CALL = "model_call"  # a model works, tokens are spent
    OTHER = "other"  # an endpoint known by name that spends nothing
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """
    One request, recognised by its method, host and path.

    Attributes:
        dialect: Grammar of the answer; None for what spends nothing, and for model calls that nobody here can read.
        provider: Who serves it, from the host; `unknown` when the host says nothing.
        operation: `chat`, `generate_content`, … for a model call; otherwise the endpoint's own name.
        request_model: The model asked for, where the path names it.
        is_streaming: Whether the path asks for a stream; None where the path does not tell.
    """

    kind: CallKind
    dialect: str | None = None
    provider: str = "unknown"
    operation: str | None = None
    request_model: str | None = None
    is_streaming: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """
    What a request says about itself, path and body.

    Attributes:
        model: The model asked for.
        stream: Whether a stream was asked for.
        include_usage: Whether the stream was asked to report usage, where a provider does so only then.
        conversation_id: The client's own id of the conversation.
    """

    model: str | None = None
    stream: bool | None = None
    include_usage: bool | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFacts:
    """
    What a response says about itself before its body.

    Attributes:
        status: Of the final response, not of a 1xx before it.
        content_type: Value of the header field; empty when there is none.
        headers: Further fields by lower-case name, as far as the wire's readers keep them.
    """

    status: int
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a request goes: `host` in lower case without its port, `path` percent-decoded and without its query."""

    method: str
    host: str
    path: str


class RequestReader(Protocol):
    """Learns what it can from a request body."""

    def feed(self, data: bytes) -> None:
        """Read the next piece of the decoded body; never raises."""
        ...

    def facts(self) -> RequestFacts:
        """Return what is known so far."""
        ...


class ResponseReader(Protocol):
    """Reads the usage out of one response body."""

    def feed(self, data: bytes) -> bool:
        """Read the next piece of the decoded body; never raises. True when the counts changed by it."""
        ...

    def read_trailer(self, fields: Mapping[str, str]) -> None:
        """Read the fields behind the body, by lower-case name, as far as the wire's readers keep them; never raises."""
        ...

    def counts(self) -> Counts:
        """Return the counts seen last: what `progress` says, at a fraction of its cost."""
        ...

    def response_model(self) -> str | None:
        """Return the model that the response has named so far."""
        ...

    def progress(self) -> ResponseUsage:
        """Return the record as if the body broke off here: truncated, with the counts seen last."""
        ...

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        """
        The body is over; never raises.

        Args:
            complete: The transfer ended as it should; False when it broke off.

        Returns:
            The record of the response, and behind it one for each further model that worked for it.
        """
        ...


class SocketReader(Protocol):
    """
    Reads the usage out of one WebSocket: many responses on one connection, usually one after the other.

    Texts are whole messages in UTF-8, decompressed, in the order in which they passed. None of the methods raises.
    """

    def feed_client(self, text: bytes) -> tuple[ResponseUsage, ...]:
        """Read a message of the client; return the records of the responses that are over by it."""
        ...

    def feed_server(self, text: bytes) -> tuple[ResponseUsage, ...]:
        """Read a message of the server; return the records of the responses that are over by it."""
        ...

    def pending(self) -> tuple[ResponseUsage, ...]:
        """Return the responses that are under way, oldest first, as if the connection broke off here: truncated."""
        ...

    def end(self, *, complete: bool) -> tuple[ResponseUsage, ...]:
        """
        The connection is over.

        Args:
            complete: It was closed as it should be; False when it broke off.

        Returns:
            The records of the responses that were under way.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    One provider API.

    Attributes:
        name: As it stands in records.
        recognise: Says which call of this API a request is, or None when it is none of them; total.
        request_reader: Makes the reader of a request body.
        response_reader: Makes the reader of a response body, from call, status, content type and request facts.
        headed_reader: Stands in for it where an API says some of it in headers; None where it does not.
        socket_reader: Makes the reader of a WebSocket that the call opens; None where the API has none.
        counts_said: Makes counts of what `AnswerReader.members` may have in their place: a list, quicker to write.
            Raises ValueError for any other.
    """

    name: str
    recognise: Callable[[Endpoint], Call | None]
    request_reader: Callable[[Call], RequestReader]
    response_reader: Callable[[Call, int, str, RequestFacts], ResponseReader]
    headed_reader: Callable[[Call, ResponseFacts, RequestFacts], ResponseReader] | None = None
    socket_reader: Callable[[Call, RequestFacts], SocketReader | None] | None = None
    counts_said: Callable[[list[object]], Counts] | None = None
