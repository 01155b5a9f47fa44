"""
Protobuf and gRPC messages, written from the documents alone: a message is a dict of field numbers.

A number becomes a varint (a negative one 10 bytes, as int32 has it), a text or bytes become a field with a length, a
dict a message, a list as many fields of one number as it has elements.
"""

import gzip
import struct
import zlib
from collections.abc import Mapping
from typing import TypeAlias, Union

Member: TypeAlias = Union[int, str, bytes, "Message", list["Member"]]
Message: TypeAlias = Mapping[int, Member]

CODERS = {"gzip": lambda data: gzip.compress(data, mtime=0), "deflate": zlib.compress}


def varint(number: int) -> bytes:
    """Write a number of 64 bits."""
    number %= 2**64
    digits = []
    while number > 0x7F:
        digits.append(number % 0x80 + 0x80)
        number //= 0x80
    return bytes([*digits, number])


def field(number: int, member: Member) -> bytes:
    """Write one field, or as many as a list has elements."""
    if isinstance(member, list):
        return b"".join(field(number, each) for each in member)
    if isinstance(member, int):
        return varint(number * 8) + varint(member)
    content = member.encode() if isinstance(member, str) else member
    if not isinstance(content, bytes):
        content = message(content)
    return varint(number * 8 + 2) + varint(len(content)) + content


def message(members: Message) -> bytes:
    """Write a message, its fields in the order of the dict."""
    return b"".join(field(number, member) for number, member in members.items())


def grpc_message(content: bytes, coding: str = "") -> bytes:
    """Put a message into gRPC's framing, compressed by its own."""
    content = CODERS[coding](content) if coding else content
    return struct.pack(">BI", bool(coding), len(content)) + content
