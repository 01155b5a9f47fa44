"""
The usual piece of a streamed answer: one chunk (RFC 9112 §7.1) that is one server-sent event of one `data` line.

A look ahead for those who would follow it with `http1.ChunkedBody` and `sse.ServerSentEventReader`, one after the
other: it tells with one match whether these would find exactly that, if both stand between two of theirs.
"""

import re

_SIZE = rb"([0-9A-Fa-f]{1,15})\r\n"
_EVENT = rb"(?:event: [^\r\n]*+\r?\n)?data: ?+([^\n]*[^\r\n])\r?\n\r?\n"
_match = re.compile(_SIZE + _EVENT + rb"\r\n").fullmatch


def event_in_chunk(piece: bytes) -> tuple[bytes, int] | None:
    """
    Look whether a piece is one chunk, and that one event.

    Returns:
        The event's data, and the size of the chunk's content; None if it is anything else.
    """
    match = _match(piece)
    if match is None:
        return None
    digits, text = match.groups()
    content_bytes = int(digits, 16)
    if len(digits) + content_bytes + 4 != len(piece) or b"\r" in text:  # a CR ends lines, too
        return None
    return text, content_bytes
