"""
Protobuf messages: the bytes of one whole message go in, the few members that somebody wants come out.

Source  "Encoding" in the Protocol Buffers documentation. A field is a key (its number and its wire type, a varint) and
        a value: a varint, 4 or 8 bytes, or a length with as many bytes.
Limits  `FIELDS_MAX` fields in one message, those of the messages in it that are opened included. How deep that goes is
        up to the shape alone, never to the bytes.
Rules   A member is described by what it is (`Shape`). Fields that no shape names, or of another wire type than theirs,
        are skipped. Of a single value that comes twice the last counts, of a single message all that came together.
        In proto3 a number or a text that is zero or empty is "not said", unless its presence is written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from services.wire.errors import WireError

# An answer has a dozen; two bytes are enough for a field, and a message may have millions of them.
FIELDS_MAX = 65_536

FIELD_NUMBER_MAX = 2**29 - 1

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BITS_MAX = 70
_UINT64_MASK, _UINT32_MASK, _INT32_SIGN = 2**64 - 1, 2**32 - 1, 2**31

Value: TypeAlias = int | bytes

# Makes a member of all values that its field came with, or None where that says nothing.
Kind: TypeAlias = Callable[[Sequence[Value], "Allowance"], object]

# Number of a field -> name and kind of the member.
Shape: TypeAlias = Mapping[int, tuple[str, Kind]]


class Allowance:
    """How many fields may still be read, in one message and those in it together."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = FIELDS_MAX

    def take(self) -> None:
        """Read one more; raises ProtobufInvalid when there are none left."""
        self._left -= 1
        if self._left < 0:
            raise ProtobufInvalid(f"message has more than {FIELDS_MAX} fields")


class ProtobufInvalid(WireError):
    """Bytes that are no protobuf message, or one with more fields than any should have."""


def object_in(message: bytes, shape: Shape) -> dict[str, object]:
    """
    Return the members of one message that `shape` describes.

    Raises:
        ProtobufInvalid: It is none.
    """
    return _object_in(message, shape, Allowance())


def _object_in(message: bytes, shape: Shape, allowance: Allowance) -> dict[str, object]:
    found: dict[int, list[Value]] = {}
    for number, value in fields_in(message, allowance):
        if number in shape:
            found.setdefault(number, []).append(value)
    members = ((shape[number], values) for number, values in found.items())
    return {name: member for (name, kind), values in members if (member := kind(values, allowance)) is not None}


def fields_in(message: bytes, allowance: Allowance) -> Iterator[tuple[int, Value]]:
    """
    Yield number and value of the fields, in order: varints as unsigned numbers, and those with a length as bytes.

    Raises:
        ProtobufInvalid: While it is read.
    """
    position = 0
    while position < len(message):
        allowance.take()
        key, position = _varint_at(message, position)
        number, wire_type = key >> 3, key & 7
        if not 0 < number <= FIELD_NUMBER_MAX:
            raise ProtobufInvalid(f"field number {number} is none")
        if wire_type == _VARINT:
            value, position = _varint_at(message, position)
            yield number, value
        elif wire_type == _LENGTH:
            length, start = _varint_at(message, position)
            position = _end_of(message, start, length)
            yield number, message[start:position]
        elif wire_type in _FIXED_BYTES:
            position = _end_of(message, position, _FIXED_BYTES[wire_type])
        else:
            raise ProtobufInvalid(f"wire type {wire_type} is none")  # groups, 3 and 4, are of proto2


def int32(values: Sequence[Value], allowance: Allowance) -> int | None:
    """Read a number for which 0 is "not said"."""
    return present_int32(values, allowance) or None


def present_int32(values: Sequence[Value], allowance: Allowance) -> int | None:
    """Read a number whose presence is written (`optional`)."""
    number = _last_varint(values)
    if number is None:
        return None
    number &= _UINT32_MASK
    return number - 2 * _INT32_SIGN if number & _INT32_SIGN else number


def text(values: Sequence[Value], allowance: Allowance) -> str | None:
    """Read a text; what is not UTF-8 in it is replaced."""
    texts = [value for value in values if type(value) is bytes]
    return texts[-1].decode("utf-8", "replace") or None if texts else None


def enum(names: Mapping[int, str]) -> Kind:
    """Return the kind of an enum: its value's name, or its number as text where it has none; 0 is "not said"."""

    def read(values: Sequence[Value], allowance: Allowance) -> str | None:
        number = int32(values, allowance)
        return None if number is None else names.get(number, str(number))

    return read


def message_of(shape: Shape) -> Kind:
    """Return the kind of a single message."""

    def read(values: Sequence[Value], allowance: Allowance) -> dict[str, object] | None:
        parts = [value for value in values if type(value) is bytes]
        return _object_in(b"".join(parts), shape, allowance) if parts else None

    return read


def messages_of(shape: Shape) -> Kind:
    """Return the kind of a message that may be repeated."""

    def read(values: Sequence[Value], allowance: Allowance) -> list[dict[str, object]]:
        return [_object_in(value, shape, allowance) for value in values if type(value) is bytes]

    return read


def _last_varint(values: Sequence[Value]) -> int | None:
    numbers = [value for value in values if type(value) is int]
    return numbers[-1] if numbers else None


def _varint_at(message: bytes, position: int) -> tuple[int, int]:
    """Return the number at `position`, of 64 bits, and where it ends."""
    number = 0
    for shift in range(0, _VARINT_BITS_MAX, 7):
        if position >= len(message):
            raise ProtobufInvalid(f"message of {len(message)} bytes ends in a number")
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _UINT64_MASK, position
    raise ProtobufInvalid("number has more than 10 bytes")


def _end_of(message: bytes, start: int, length: int) -> int:
    if length > len(message) - start:
        raise ProtobufInvalid(f"value of {length} bytes exceeds the {len(message) - start} that are left")
    return start + length
