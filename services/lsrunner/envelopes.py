"""
The Connect protocol's envelopes: bytes in any split become JSON messages and, at last, the trailer.

Source: the Connect protocol, "Streaming RPCs" (https://connectrpc.com/docs/protocol). Each envelope is one byte of
flags, a length of four bytes (big endian), and so many bytes of JSON. Flag 1 says compressed, which we never offer;
flag 2 marks the last one, whose JSON may hold the error of the call: HTTP has said 200 by then.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from services.wire.errors import WireError

JsonObject: TypeAlias = Mapping[str, object]

# A whole trajectory in one update: tens of megabytes have been seen.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
_HEAD = struct.Struct(">BI")
_FLAG_COMPRESSED = 1
_FLAG_END = 2


class EnvelopeError(WireError):
    """The peer broke the rules of the Connect protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcFailure:
    """An error as Connect tells it: `code` is a word such as `unimplemented`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last envelope; `failure` is None when the call succeeded."""

    failure: RpcFailure | None


def encode_envelope(message: JsonObject) -> bytes:
    """Put one message into an envelope."""
    text = json.dumps(message).encode()
    return _HEAD.pack(0, len(text)) + text


class EnvelopeReader:
    """
    Reads the envelopes of one response.

    Raises (from `feed` and `end`):
        EnvelopeError: A flag, a length or JSON that cannot be; anything after the last envelope; no last envelope.
    """

    __slots__ = ("_buffer", "_ended", "_message_bytes_max")

    def __init__(self, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._ended = False
        self._message_bytes_max = message_bytes_max

    def __repr__(self) -> str:
        return f"<EnvelopeReader {'ended' if self._ended else 'open'}, {len(self._buffer)} bytes waiting>"

    def feed(self, data: bytes) -> list[JsonObject | End]:
        """Take bytes; return the messages that are complete, `End` as the last."""
        self._buffer += data
        found: list[JsonObject | End] = []
        start = 0
        while (whole := self._next(start)) is not None:
            flags, text, start = whole
            found.append(self._read(flags, text))
        del self._buffer[:start]
        if self._ended and self._buffer:
            raise EnvelopeError(f"{len(self._buffer)} bytes after the last envelope")
        return found

    def end(self) -> None:
        """Say that no more bytes will come."""
        if not self._ended:
            raise EnvelopeError(f"the stream ended without its last envelope, {len(self._buffer)} bytes into another")

    def _next(self, start: int) -> tuple[int, bytes, int] | None:
        """Find the envelope at `start`: its flags, its content and where it ends; None when it is incomplete."""
        if self._ended or len(self._buffer) - start < _HEAD.size:
            return None
        flags, length = _HEAD.unpack_from(self._buffer, start)
        if flags not in (0, _FLAG_END):
            what = "compressed, which was not offered" if flags & _FLAG_COMPRESSED else "unknown"
            raise EnvelopeError(f"envelope flags {flags:#04x} are {what}")
        if length > self._message_bytes_max:
            raise EnvelopeError(f"envelope of {length} bytes exceeds {self._message_bytes_max}")
        end = start + _HEAD.size + length
        if len(self._buffer) < end:
            return None
        return flags, bytes(self._buffer[start + _HEAD.size : end]), end

    def _read(self, flags: int, text: bytes) -> JsonObject | End:
        message = parse_object(text)
        if flags != _FLAG_END:
            return message
        self._ended = True
        return End(failure=failure_in(message.get("error")))


def parse_object(text: bytes) -> JsonObject:
    """
    Parse a JSON object; nothing at all is an empty one.

    Raises:
        EnvelopeError: It is no JSON, or no object.
    """
    try:
        message = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"a message of {len(text)} bytes is no JSON") from error
    if not isinstance(message, dict):
        raise EnvelopeError(f"a message is {type(message).__name__}, not an object")
    return message


def failure_in(error: object) -> RpcFailure | None:
    """Read Connect's error object; None when there is none."""
    if error is None:
        return None
    members = error if isinstance(error, dict) else {}
    code, message = members.get("code"), members.get("message")
    return RpcFailure(
        code=code if isinstance(code, str) and code else "unknown",
        message=message if isinstance(message, str) else "",
    )
