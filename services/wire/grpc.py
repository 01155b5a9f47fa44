"""
gRPC calls over HTTP/2: bytes of a body in any split go in, whole messages come out, decompressed; and status names.

Source  `grpc/grpc`: `doc/PROTOCOL-HTTP2.md`, `doc/compression.md`, `doc/statuscodes.md`. A message has a flag (1 byte,
        1 for "compressed") and its length (4 bytes, big endian) before it; the coding is named by the field
        `grpc-encoding`; the status is in the trailers, or in a head that nothing follows.
Limits  One message is at most `message_bytes_max` long, before and after decompression, which is checked before
        anything of that size is kept; all messages of a body decompress to at most `decoded_bytes_max`.
Rules   What comes before a bad message is handed out, whatever the split: the error then waits for the next call. A
        message that the end of the body cuts is no error here; only the caller knows whether the transfer broke off.
"""

import struct

from services.wire.content_encoding import BODY_BYTES_MAX, content_decoder
from services.wire.errors import WireError
from services.wire.prefixed import PrefixedReader

# Receivers take 4 MiB unless they ask for more; a generated image or two has room.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

OK = 0
# In the order of their numbers.
_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

_HEAD = struct.Struct(">BI")
_PLAIN, _COMPRESSED = 0, 1
_NO_CODINGS = ("", "identity")


class GrpcInvalid(WireError):
    """A message that no gRPC peer may send, or longer than any should be."""


class GrpcMessageReader(PrefixedReader[bytes]):
    """
    Takes the body of one call, in one direction, apart; its messages come out decompressed.

    Args:
        encoding: Value of the field `grpc-encoding`; empty when there is none.
    """

    def __init__(
        self,
        encoding: str = "",
        *,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        decoded_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        super().__init__(_HEAD.size)
        self._encoding = encoding.strip().lower()
        self._message_bytes_max = message_bytes_max
        self._decoded_bytes_left = decoded_bytes_max

    def _length_at(self, held: bytes, position: int) -> int:
        flag, length = _HEAD.unpack_from(held, position)
        if flag not in (_PLAIN, _COMPRESSED):
            raise GrpcInvalid(f"message begins with {flag}, neither plain nor compressed")
        if length > self._message_bytes_max:
            raise GrpcInvalid(f"message of {length} bytes exceeds {self._message_bytes_max}")
        return _HEAD.size + int(length)

    def _message_at(self, held: bytes, position: int, end: int) -> bytes:
        message = held[position + _HEAD.size : end]
        return self._decompressed(message) if held[position] == _COMPRESSED else message

    def _decompressed(self, message: bytes) -> bytes:
        if self._encoding in _NO_CODINGS:
            raise GrpcInvalid("message is compressed, and no coding is named")
        decoder = content_decoder(
            self._encoding, feed_bytes_max=self._message_bytes_max, body_bytes_max=self._decoded_bytes_left
        )
        decoded = decoder.feed(message)
        self._decoded_bytes_left -= len(decoded)
        return decoded


def status_of(value: str) -> int | None:
    """Return the number in the field `grpc-status`, None where it is no number."""
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 3 else None


def status_name(status: int | None) -> str:
    """Return the name of a status; one that is no number is UNKNOWN, as clients take it."""
    if status is None:
        return "UNKNOWN"
    return _STATUS_NAMES[status] if status < len(_STATUS_NAMES) else str(status)
