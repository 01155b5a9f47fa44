"""
The parts of an HTTP/2 connection, and what an observer of HTTP/1.1 needs of them.

Fields pass as they came: order, duplicates, pseudo-header fields and the "never indexed" mark of RFC 7541 §7.1.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from services.wire.errors import WireError
from services.wire.http1 import Framing, RequestHead, ResponseHead

# The protocol's name in a TLS handshake, RFC 9113 §3.2.
ALPN = "h2"
# RFC 9113 §7, in the order of their numbers.
_CODES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
NO_ERROR = 0
PROTOCOL_ERROR = 1
INTERNAL_ERROR = 2
FRAME_SIZE_ERROR = 6
REFUSED_STREAM = 7
CANCEL = 8
ENHANCE_YOUR_CALM = 11
# In a GOAWAY: "no stream is refused yet", RFC 9113 §6.8.
LAST_STREAM_ID_MAX = 2**31 - 1
_FIELDS_OF_A_PROXY = frozenset(
    (b":method", b":path", b":status", b"content-encoding", b"content-type", b"grpc-encoding", b"grpc-status")
    + (b"x-amzn-errortype", b"x-amzn-requestid")
    + tuple(b"x-amzn-bedrock-%b-token-count" % kind for kind in (b"input", b"output"))
    + tuple(b"x-amzn-bedrock-%b-token-count" % kind for kind in (b"cache-read-input", b"cache-write-input"))
)

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]


class Http2Invalid(WireError):
    """The peer broke the rules of HTTP/2 or a limit of ours: the connection is over, `output` holds our GOAWAY."""


class HeadKind(Enum):
    """What a block of fields is."""

    REQUEST = "request"
    INTERIM = "interim response"
    RESPONSE = "response"
    TRAILER = "trailer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """
    A block of fields.

    Attributes:
        fields: As they came; each remembers whether it may be indexed.
        ended: Nothing follows in this direction.
    """

    stream_id: int
    kind: HeadKind
    fields: Fields
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A piece of content, to be given back with `release` when it has gone on."""

    stream_id: int
    content: bytes
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """A stream was broken off by the peer, or by the library because of what the peer sent on it."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoneAway:
    """The peer takes no more streams; those above `last_stream_id` it has not looked at."""

    last_stream_id: int
    code: int
    debug: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOpened:
    """There may be room again: on one stream, or on any when `stream_id` is 0."""

    stream_id: int


Part: TypeAlias = Head | Data | Reset | GoneAway | WindowOpened


def code_name(code: int) -> str:
    """Return the name of an error code, RFC 9113 §7."""
    return _CODES[code] if code < len(_CODES) else f"code {code}"


def request_head_of(head: Head) -> RequestHead:
    """Say in the words of HTTP/1.1 what an observer needs of a request; the framing is none of HTTP/1.1's."""
    fields = _fields_of(head)
    return RequestHead(
        method=fields.get(b":method", b"").decode("latin-1"),
        target=fields.get(b":path", b"").decode("latin-1"),
        keeps_alive=True,
        framing=Framing.NONE,
        length=0,
        content_type=fields.get(b"content-type", b""),
        content_encoding=fields.get(b"content-encoding", b""),
        read_fields=lambda: fields,
    )


def response_head_of(head: Head) -> ResponseHead:
    """
    Do the same for a response.

    Raises:
        Http2Invalid: Its status is no number.
    """
    fields = _fields_of(head)
    status = fields.get(b":status", b"")
    if len(status) != 3 or not status.isdigit():
        raise Http2Invalid(f"response status {status[:20]!r} is no status")
    return ResponseHead(
        status=int(status),
        keeps_alive=True,
        framing=Framing.NONE,
        length=0,
        content_type=fields.get(b"content-type", b""),
        content_encoding=fields.get(b"content-encoding", b""),
        read_fields=lambda: fields,
    )


def trailer_of(head: Head) -> dict[bytes, bytes]:
    """Return what an observer needs of the fields at the end of a response."""
    return _fields_of(head)


def _fields_of(head: Head) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in head.fields:
        if name in _FIELDS_OF_A_PROXY:
            found[name] = found[name] + b", " + value if name in found else value
    return found
