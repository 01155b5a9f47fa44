"""
AWS event streams (`application/vnd.amazon.eventstream`): bytes in any split go in, checked messages come out.

Source  "Amazon Event Stream encoding" in the AWS API references, and `boto/botocore:botocore/eventstream.py`. A
        message is its total length (4 bytes, big endian), the length of its headers (4), the CRC-32 of these eight
        bytes (4), the headers, the payload, and the CRC-32 of everything before (4). A header is the length of its
        name (1), the name, a type (1) and a value.
Limits  AWS's own: 128 KiB of headers, 24 MiB of payload. Both are checked before anything of that size is kept.
Rules   What comes before a bad message is handed out, whatever the split: the error then waits for the next call. A
        message that the end of the stream cuts is no error here; only the caller knows whether the transfer broke off.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias
from zlib import crc32

from services.wire.errors import WireError
from services.wire.prefixed import PrefixedReader

HEADERS_BYTES_MAX = 128 * 1024
PAYLOAD_BYTES_MAX = 24 * 1024 * 1024

HeaderValue: TypeAlias = bool | int | str | bytes

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_FRAME_BYTES = _PRELUDE.size + _CRC.size

# A stream repeats a handful of header blocks, which tell the kinds of its messages apart.
_REMEMBERED_BLOCKS_MAX = 64
_REMEMBERED_BLOCK_BYTES_MAX = 512

# Header type -> its value's form; the rest have a two-byte length in front.
_FIXED_VALUES = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q")}
_TRUE, _FALSE, _BYTES, _STRING, _TIMESTAMP, _UUID = 0, 1, 6, 7, 8, 9
_FIXED_VALUES[_TIMESTAMP] = _FIXED_VALUES[5]
_UUID_BYTES = 16
_LENGTH = struct.Struct(">H")


class EventStreamInvalid(WireError):
    """A message that is not what its sender wrote, or longer than any should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStreamMessage:
    """
    One message.

    Attributes:
        headers: By name; not to be changed, for messages share them. Timestamps are milliseconds, UUIDs 16 bytes.
        payload: As it came.
    """

    headers: Mapping[str, HeaderValue]
    payload: bytes

    def text(self, name: str) -> str:
        """Return a header that is a string, or an empty text."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


class EventStreamReader(PrefixedReader[EventStreamMessage]):
    """Takes an event stream apart; what it raises is `EventStreamInvalid`."""

    def __init__(
        self, *, headers_bytes_max: int = HEADERS_BYTES_MAX, payload_bytes_max: int = PAYLOAD_BYTES_MAX
    ) -> None:
        super().__init__(_PRELUDE.size)
        self._headers_bytes_max = headers_bytes_max
        self._payload_bytes_max = payload_bytes_max

    def _length_at(self, held: bytes, position: int) -> int:
        length, headers_length, crc = _PRELUDE.unpack_from(held, position)
        if crc32(held[position : position + 8]) != crc:
            raise EventStreamInvalid(f"checksum of the lengths of a message is not {crc:08x}, as it says")
        self._check_lengths(length, headers_length)
        return int(length)

    def _message_at(self, held: bytes, position: int, end: int) -> EventStreamMessage:
        length, headers_length, _ = _PRELUDE.unpack_from(held, position)
        body_crc = crc32(memoryview(held)[position : end - _CRC.size])
        if body_crc != _CRC.unpack_from(held, end - _CRC.size)[0]:
            raise EventStreamInvalid(f"checksum of a message of {length} bytes is {body_crc:08x}, not what it says")
        headers_end = position + _PRELUDE.size + headers_length
        block = held[position + _PRELUDE.size : headers_end]
        headers = _known_headers(block) if headers_length <= _REMEMBERED_BLOCK_BYTES_MAX else _headers_in(block)
        return EventStreamMessage(headers=headers, payload=held[headers_end : end - _CRC.size])

    def _check_lengths(self, length: int, headers_length: int) -> None:
        if headers_length > self._headers_bytes_max:
            raise EventStreamInvalid(f"message headers of {headers_length} bytes exceed {self._headers_bytes_max}")
        payload_length = length - headers_length - _FRAME_BYTES
        if payload_length < 0:
            raise EventStreamInvalid(f"message of {length} bytes cannot hold {headers_length} bytes of headers")
        if payload_length > self._payload_bytes_max:
            raise EventStreamInvalid(f"message payload of {payload_length} bytes exceeds {self._payload_bytes_max}")


def _headers_in(block: bytes) -> Mapping[str, HeaderValue]:
    """Read the headers of one message."""
    headers: dict[str, HeaderValue] = {}
    position = 0
    try:
        while position < len(block):
            start = position + 1
            position = start + block[position]
            name = block[start:position].decode()
            if name in headers:
                raise EventStreamInvalid(f"header {name[:40]!r} comes twice in one message")
            headers[name], position = _value_at(block, position + 1, block[position])
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise EventStreamInvalid(f"header at byte {position} of {len(block)} is malformed") from error
    if position != len(block):
        raise EventStreamInvalid(f"last header ends behind the {len(block)} bytes of headers")
    return headers


_known_headers = lru_cache(maxsize=_REMEMBERED_BLOCKS_MAX)(_headers_in)


def _value_at(block: bytes, position: int, kind: int) -> tuple[HeaderValue, int]:
    """Return the value of type `kind` at `position`, and where it ends."""
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, position
    if (form := _FIXED_VALUES.get(kind)) is not None:
        return form.unpack_from(block, position)[0], position + form.size
    if kind == _UUID:
        return block[position : position + _UUID_BYTES], position + _UUID_BYTES
    if kind in (_BYTES, _STRING):
        start = position + _LENGTH.size
        end = start + _LENGTH.unpack_from(block, position)[0]
        return (block[start:end] if kind == _BYTES else block[start:end].decode()), end
    raise EventStreamInvalid(f"header type {kind} is none")
