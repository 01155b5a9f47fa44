"""AWS event stream messages, written the way AWS writes them."""

import struct
from zlib import crc32

Headers = list[tuple[str, int, bytes]]

STRING = 7


def string(value: str) -> bytes:
    """Return the value of a string header."""
    return struct.pack(">H", len(value.encode())) + value.encode()


def message(headers: Headers, payload: bytes) -> bytes:
    """Write one message; each header is its name, its type's number and its coded value."""
    block = b"".join(
        bytes([len(name.encode())]) + name.encode() + bytes([kind]) + value for name, kind, value in headers
    )
    lengths = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    start = lengths + struct.pack(">I", crc32(lengths)) + block + payload
    return start + struct.pack(">I", crc32(start))


def event(event_type: str, payload: bytes, *, message_type: str = "event") -> bytes:
    """Write a message as Bedrock does: an event, an `exception` or an `error`."""
    kind = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}[message_type]
    named = {kind: event_type, ":content-type": "application/json", ":message-type": message_type}
    return message([(name, STRING, string(value)) for name, value in named.items()], payload)
