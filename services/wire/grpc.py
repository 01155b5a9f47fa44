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


class GrpcMessageReader:
    """
    Takes the body of one call, in one direction, apart.

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
        self._encoding = encoding.strip().lower()
        self._message_bytes_max = message_bytes_max
        self._decoded_bytes_left = decoded_bytes_max
        # The unfinished message, in the pieces in which it came: joining them once keeps a long one linear.
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = _HEAD.size
        self._error: WireError | None = None

    @property
    def is_between_messages(self) -> bool:
        """Nothing of an unfinished message has come."""
        return self._held_bytes == 0

    def feed(self, data: bytes) -> list[bytes]:
        """
        Read the next piece of the body.

        Returns:
            The messages that it finished, in order; often none.

        Raises:
            WireError: Not gRPC, too long, or not what its coding says; the reader is of no use afterwards.
        """
        self.end()
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._wanted_bytes:
            return []
        found: list[bytes] = []
        held = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            position = self._take_messages(held, found)
        except WireError as error:
            self._error = error
            self._pieces.clear()
            if not found:
                raise
            return found
        rest = held[position:]
        self._pieces = [rest] if rest else []
        self._held_bytes = len(rest)
        return found

    def end(self) -> None:
        """
        The body is over.

        Raises:
            WireError: What came behind the last message is none.
        """
        if self._error is not None:
            raise self._error

    def _take_messages(self, held: bytes, found: list[bytes]) -> int:
        """Add the whole messages in `held` to `found`; return where the unfinished one begins."""
        position = 0
        while len(held) - position >= _HEAD.size:
            flag, length = _HEAD.unpack_from(held, position)
            if flag not in (_PLAIN, _COMPRESSED):
                raise GrpcInvalid(f"message begins with {flag}, neither plain nor compressed")
            if length > self._message_bytes_max:
                raise GrpcInvalid(f"message of {length} bytes exceeds {self._message_bytes_max}")
            start = position + _HEAD.size
            end = start + length
            if end > len(held):
                self._wanted_bytes = _HEAD.size + length
                return position
            message = held[start:end]
            found.append(self._decompressed(message) if flag == _COMPRESSED else message)
            position = end
        self._wanted_bytes = _HEAD.size
        return position

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
