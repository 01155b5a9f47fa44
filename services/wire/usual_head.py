"""
The short way to a head of HTTP/1.1: one match reads it, if it is as nearly all are.

That is to say: HTTP/1.1, one host, at most one field of each name that says where the message ends or how to read it,
no option but keep-alive, no odd value. Whatever is not so, good or bad, does not match, and http1.py reads it; of what
does match http1.py says the same.
"""

import re
from collections.abc import Callable
from functools import partial

from services.wire.http1 import (
    FIELD_LINE,
    HOST,
    LENGTH_DIGITS_MAX,
    TEXT,
    TOKEN,
    Framing,
    RequestHead,
    ResponseHead,
    fields_of,
)

# No agent of today sends half of these. It bounds what a look at a head that has not come as a whole can cost.
LINES_MAX = 128
# `(?(4)(?!))` fails where group 4 has been seen: a second length, or a length beside chunks.
# The lines repeat greedily: a possessive repeat of groups and alternatives goes wrong in some releases of Python 3.11.
# No line is of two forms, so that nothing is tried twice; most are told from the others by their first letter.
_FIELDS = (
    rb"(?:(?![CHTcht])" + FIELD_LINE
    + rb"|(?i:content-length):(?(4)(?!))(?(5)(?!))[ \t]*+([1-9][0-9]{0,%d}+)\r\n" % (LENGTH_DIGITS_MAX - 1)
    + rb"|(?i:transfer-encoding):(?(4)(?!))(?(5)(?!))[ \t]*+((?i:chunked))\r\n"
    + rb"|(?i:content-type):(?(6)(?!))[ \t]*+(" + TEXT + rb")(?<![ \t])\r\n"
    + rb"|(?i:content-encoding):(?(7)(?!))[ \t]*+(" + TEXT + rb")(?<![ \t])\r\n"
    + rb"|(?i:host):(?(8)(?!))[ \t]*+(" + HOST + rb")\r\n"
    + rb"|(?i:connection):[ \t]*+(?i:keep-alive)\r\n"
    + rb"|(?=[CHTcht])(?!(?i:con(?:nection|tent-(?:encoding|length|type))|host|transfer-encoding):)" + FIELD_LINE
    + rb"){0,%d}\r\n" % LINES_MAX
)  # fmt: skip
# Groups 1 to 3 are the head, and two parts of its first line. What may have no body by its method or status does not
# match: CONNECT, 1xx, 204, 304.
_match_request_head = re.compile(
    rb"((?!CONNECT )(" + TOKEN + rb") ([!-~\x80-\xff]++) HTTP/1\.1\r\n" + _FIELDS + rb")(?(8)|(?!))"
).match
_match_response_head = re.compile(
    rb"(HTTP/1\.1 (?!204|304)([2-9][0-9][0-9])(?: (" + TEXT + rb"))?\r\n" + _FIELDS + rb")"
).match

# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_NONE = Framing.NONE
_LENGTH = Framing.LENGTH
_CHUNKED = Framing.CHUNKED

# Without the function in Python that a named tuple has between its class and a tuple.
_request: Callable[[tuple[object, ...]], RequestHead] = partial(tuple.__new__, RequestHead)
_response: Callable[[tuple[object, ...]], ResponseHead] = partial(tuple.__new__, ResponseHead)


def usual_request_head(data: bytearray, size: int, bytes_max: int) -> tuple[RequestHead, int] | None:
    """
    Read the request head at the start of `data[:size]`, and where it ends.

    None where it is not whole, longer than `bytes_max`, or has to be looked at by `read_request_head`.
    """
    match = _match_request_head(data, 0, size)
    if match is None:
        return None
    head, method, target, digits, chunked, kind, coding, _ = match.groups(b"")
    end = len(head)
    if end > bytes_max:
        return None
    if digits:
        framing, length = _LENGTH, int(digits)
    else:
        framing, length = _CHUNKED if chunked else _NONE, 0
    fields = partial(fields_of, head)
    values = method.decode("ascii"), target.decode("latin-1"), True, framing, length, kind, coding, fields
    return _request(values), end


def usual_response_head(data: bytearray, size: int, bytes_max: int) -> tuple[ResponseHead, int] | None:
    """
    Read the response head at the start of `data[:size]`, and where it ends; not for an answer to HEAD or CONNECT.

    None where it is not whole, longer than `bytes_max`, or has to be looked at by `read_response_head`; also where it
    says no length.
    """
    match = _match_response_head(data, 0, size)
    if match is None:
        return None
    head, status, _, digits, chunked, kind, coding, _ = match.groups(b"")
    end = len(head)
    if end > bytes_max:
        return None
    if digits:
        framing, length = _LENGTH, int(digits)
    elif chunked:
        framing, length = _CHUNKED, 0
    else:
        return None
    return _response((int(status), True, framing, length, kind, coding, partial(fields_of, head))), end
