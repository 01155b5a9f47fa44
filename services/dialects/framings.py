"""
Framings of streams other than server-sent events: body bytes in any split go in, JSON texts of messages come out.

JSON lines (Ollama, Cohere v1), and AWS event streams (Bedrock), whose messages say in their headers what they are: a
dialect says how such a message reads as one JSON text, or that nothing in it matters. An exception or an error, which
AWS sends as a message of its own kind, becomes `{"error": {"code": …}}`, whatever the dialect.
"""

from collections.abc import Callable
from typing import Protocol

import orjson

from services.wire.eventstream import EventStreamMessage, EventStreamReader
from services.wire.json_stream import WHITE_SPACE, JsonLineReader

AWS_CONTENT_TYPE = "application/vnd.amazon.eventstream"

# What the fields of an event stream begin with, and its comments: data, event, id, retry.
EVENT_STREAM_STARTS = (b"d", b"e", b"i", b"r", b":")

# Behind these anything may stand: some gateways and recorders leave the type out.
UNTOLD_CONTENT_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})

LINES_CONTENT_TYPES = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/stream+json",
        "application/jsonl",
        "application/x-jsonlines",
        "application/json-lines",
    }
)


class StreamFraming(Protocol):
    """Takes one stream apart."""

    def begins_with(self, data: bytes) -> bool:
        """Say whether a body of this framing can begin so; `data` is not empty."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Read the next piece and return the texts that it finished; raises a `WireError` for what is none of it."""
        ...

    def end(self) -> bytes | None:
        """The stream is over: return the text that it left unfinished, perhaps cut, or None; raises as `feed`."""
        ...


class JsonLines:
    """One JSON object on each line."""

    def __init__(self) -> None:
        self._lines = JsonLineReader()

    def begins_with(self, data: bytes) -> bool:
        return data.lstrip(WHITE_SPACE)[:1] not in EVENT_STREAM_STARTS

    def feed(self, data: bytes) -> list[bytes]:
        return self._lines.feed(data)

    def end(self) -> bytes | None:
        return self._lines.end()


class AwsMessages:
    """
    Messages of an AWS event stream.

    Args:
        text_of: Returns an event's JSON text, or None for one in which nothing matters.
    """

    def __init__(self, text_of: Callable[[EventStreamMessage], bytes | None]) -> None:
        self._messages = EventStreamReader()
        self._text_of = text_of

    def begins_with(self, data: bytes) -> bool:
        return data[0] <= 1  # the highest byte of a length that AWS allows; JSON, which gateways send, begins higher

    def feed(self, data: bytes) -> list[bytes]:
        texts = []
        for message in self._messages.feed(data):
            kind = message.text(":message-type")
            text = self._text_of(message) if kind == "event" else _error_text(message)
            if text is not None:
                texts.append(text)
        return texts

    def end(self) -> bytes | None:
        self._messages.end()
        return None


def json_lines(content_type: str, *, is_streaming: bool | None) -> JsonLines | None:
    """Return the framing of a body that is JSON lines by its content type, or without one by what was asked for."""
    kind = _kind_of(content_type)
    said = kind in LINES_CONTENT_TYPES or (kind in UNTOLD_CONTENT_TYPES and is_streaming is True)
    return JsonLines() if said else None


def aws_messages(content_type: str, text_of: Callable[[EventStreamMessage], bytes | None]) -> AwsMessages | None:
    """Return the framing of a body that may be an AWS event stream by its content type, else None."""
    kind = _kind_of(content_type)
    return AwsMessages(text_of) if kind == AWS_CONTENT_TYPE or kind in UNTOLD_CONTENT_TYPES else None


def _kind_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _error_text(message: EventStreamMessage) -> bytes:
    """Return what an `exception` or an `error` message says, as an error object."""
    code = message.text(":exception-type") or message.text(":error-code") or message.text(":message-type")
    return orjson.dumps({"error": {"code": code or "error"}})
