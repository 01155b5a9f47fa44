"""
HTTP/1.1 as a proxy sees it that edits nothing: heads are read strictly, bodies are tracked, every byte is passed on.

RFC 9110 and RFC 9112. Heads are forwarded as they came, so this reader must see exactly what the next one sees: what
two readers could take differently (bare CR or LF, folded lines, both lengths at once, white space before a colon) is
refused, RFC 9112 §11.2. A body is not parsed but followed: a tracker says how far in a read the message goes and which
parts of it are content.
"""

import re
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from services.wire.errors import WireError

# A chunk size line with its extensions, or a line of the trailer: RFC 9112 §7.1.1 asks for a bound and names none.
CHUNK_LINE_BYTES_MAX = 4096
TRAILER_BYTES_MAX = 64 * 1024
# Longer than any real length, short enough that no arithmetic on it can surprise.
LENGTH_DIGITS_MAX = 18

# Repeats are possessive ("*+") or in an atomic group ("(?>"): nothing taken is given back, so that a bad head costs no
# more than a good one.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"
FIELD_LINE = TOKEN + rb":" + TEXT + rb"\r\n"
_REQUEST_LINE = rb"(" + TOKEN + rb") ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n"
_STATUS_LINE = rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: " + TEXT + rb")?\r\n"
_END_OF_HEAD = rb"(?>(?:" + FIELD_LINE + rb")*)\r\n"
_match_request_head = re.compile(_REQUEST_LINE + _END_OF_HEAD).fullmatch
_match_response_head = re.compile(_STATUS_LINE + _END_OF_HEAD).fullmatch
_find_fields_of_a_proxy = re.compile(
    # What has one beginning stands together: at each line every alternative is tried.
    rb"\n(con(?:nection|tent-(?:encoding|length|type))|expect|host|proxy-authorization"
    rb"|sec-websocket-extensions|transfer-encoding|upgrade"
    # Bedrock's counts, which stand in no body, its id of the exchange and its word for an error.
    rb"|x-amzn-(?:bedrock-(?:cache-(?:read|write)-)?(?:input|output)-token-count|errortype|requestid)"
    # A value ends in a letter, or is empty: white space behind it is none of it.
    rb"):[ \t]*+([^\r]*[^\r\t ]|)",
    re.IGNORECASE,
).findall
# uri-host [":" port] without the comma, which RFC 3986 allows and no name has: it is how a second Host shows.
HOST = rb"[0-9A-Za-z\-._~%!$&'()*+;=:\[\]]*+"
_match_host = re.compile(HOST).fullmatch
_CHUNK_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*+(?:;" + TEXT + rb")?\r\n")
_CHUNK_START = rb"([0-9A-Fa-f]{1,15})\r\n"
_match_chunk_start = re.compile(_CHUNK_START).match
_match_next_chunk_start = re.compile(rb"\r\n" + _CHUNK_START).match
_TRAILER_LINE = re.compile(FIELD_LINE)


class HttpInvalid(WireError):
    """The peer broke the rules of HTTP/1.1."""


class Framing(Enum):
    """How a body ends, RFC 9112 §6.3."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


# An attribute of an Enum takes Python 3.11 as long as twenty names of the module.
_NONE = Framing.NONE
_LENGTH = Framing.LENGTH
_CHUNKED = Framing.CHUNKED
_UNTIL_CLOSE = Framing.UNTIL_CLOSE

# Heads are tuples: one is made for every message, and a tuple is made in half the time of a frozen dataclass.


class RequestHead(NamedTuple):
    """
    A request's first part.

    Attributes:
        target: As it came.
        keeps_alive: Whether the sender lets the connection carry another message.
        framing: How the body ends.
        length: Of the body in bytes, where the framing is LENGTH.
        content_type, content_encoding: These fields, b"" if they are missing.
        read_fields: Returns `fields`, which most heads are never asked for.
    """

    method: str
    target: str
    keeps_alive: bool
    framing: Framing
    length: int
    content_type: bytes
    content_encoding: bytes
    read_fields: Callable[[], dict[bytes, bytes]]

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The fields that a proxy needs, by lower-case name, several values joined with a comma."""
        return self.read_fields()

    def field(self, name: bytes) -> str:
        """Return a field's value, "" if it is missing."""
        return self.fields.get(name, b"").decode("latin-1")


class ResponseHead(NamedTuple):
    """
    A response's first part; see `RequestHead`.

    A response that ends HTTP on its connection (101, and 2xx to CONNECT) has no body and does not keep alive.
    """

    status: int
    keeps_alive: bool
    framing: Framing
    length: int
    content_type: bytes
    content_encoding: bytes
    read_fields: Callable[[], dict[bytes, bytes]]

    @property
    def fields(self) -> dict[bytes, bytes]:
        """See `RequestHead.fields`."""
        return self.read_fields()

    def field(self, name: bytes) -> str:
        """Return a field's value, "" if it is missing."""
        return self.fields.get(name, b"").decode("latin-1")


def read_request_head(head: bytes) -> RequestHead:
    r"""
    Read a request head, from its first byte to the closing `\r\n\r\n`.

    Raises:
        HttpInvalid: Anything that another reader could take differently.
    """
    match = _match_request_head(head)
    if match is None:
        raise HttpInvalid(_problem_of(head, "request", _REQUEST_LINE))
    method, target, minor = match.groups()
    fields = fields_of(head)
    host = fields.get(b"host")
    if host is None or not _match_host(host):
        _check_host(host, minor)
    framing, length = _framing_of(fields, minor, _NONE)
    if method == b"CONNECT" and framing is not _NONE:
        # RFC 9110 §9.3.6: such a request has no content; some would take these bytes for the tunnel's first.
        raise HttpInvalid("a CONNECT request with a body is refused")
    keeps_alive = minor == b"1" if b"connection" not in fields else _keeps_alive(fields, minor)
    return RequestHead(
        method=method.decode("ascii"),
        target=target.decode("latin-1"),
        keeps_alive=keeps_alive,
        framing=framing,
        length=length,
        content_type=fields.get(b"content-type", b""),
        content_encoding=fields.get(b"content-encoding", b""),
        read_fields=lambda: fields,
    )


def read_response_head(head: bytes, *, request_method: str) -> ResponseHead:
    r"""
    Read a response head, from its first byte to the closing `\r\n\r\n`.

    Raises:
        HttpInvalid: Anything that another reader could take differently.
    """
    match = _match_response_head(head)
    if match is None:
        raise HttpInvalid(_problem_of(head, "response", _STATUS_LINE))
    minor, digits = match.groups()
    status = int(digits)
    fields = fields_of(head)
    # Read even where it does not count: a head that we cannot read is not passed on.
    framing, length = _framing_of(fields, minor, _UNTIL_CLOSE)
    leaves_http = status == 101 or (request_method == "CONNECT" and 200 <= status < 300)
    if leaves_http or request_method == "HEAD" or status < 200 or status in (204, 304):
        framing, length = _NONE, 0
    if framing is _UNTIL_CLOSE or leaves_http:
        keeps_alive = False
    else:
        keeps_alive = minor == b"1" if b"connection" not in fields else _keeps_alive(fields, minor)
    return ResponseHead(
        status=status,
        keeps_alive=keeps_alive,
        framing=framing,
        length=length,
        content_type=fields.get(b"content-type", b""),
        content_encoding=fields.get(b"content-encoding", b""),
        read_fields=lambda: fields,
    )


def _problem_of(head: bytes, kind: str, start_line: bytes) -> str:
    """Name the first line of a head that is wrong; no target and no value, for these hold keys."""
    first, *others = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not re.fullmatch(start_line, first + b"\r\n"):
        return f"{kind} line of {len(first)} bytes is not of HTTP/1.1"
    for number, line in enumerate(others, 2):
        if not re.fullmatch(FIELD_LINE, line + b"\r\n"):
            name = re.match(rb"(" + TOKEN + rb"):", line)
            return f"{kind} field in line {number} is malformed" + (f": {name[1].decode()[:40]}" if name else "")
    return f"{kind} head does not end in an empty line"


def fields_of(head: bytes) -> dict[bytes, bytes]:
    """Return the `fields` of a head whose lines are well-formed."""
    listed = _find_fields_of_a_proxy(head)
    found = {name.lower(): value for name, value in listed}
    if len(found) != len(listed):
        found.clear()
        for name, value in listed:
            name = name.lower()
            found[name] = found[name] + b", " + value if name in found else value
    return found


def _check_host(host: bytes | None, minor: bytes) -> None:
    # RFC 9112 §3.2: to be refused when it is missing, repeated or malformed.
    if host is not None:
        raise HttpInvalid(f"host {host[:80]!r} is not one host")
    if minor == b"1":
        raise HttpInvalid("request of HTTP/1.1 has no host field")


def _keeps_alive(fields: dict[bytes, bytes], minor: bytes) -> bool:
    options = [option.strip() for option in fields[b"connection"].lower().split(b",")]
    if b"close" in options:
        return False
    return minor == b"1" or b"keep-alive" in options


def _framing_of(fields: dict[bytes, bytes], minor: bytes, otherwise: Framing) -> tuple[Framing, int]:
    """Apply RFC 9112 §6.3 to the two fields that say how a body ends; `otherwise` is for neither."""
    length = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        coding = fields[b"transfer-encoding"]
        # §6.1: in HTTP/1.0 its framing is faulty, and readers differ; other codings are obsolete.
        if coding.lower() != b"chunked" or minor == b"0":
            raise HttpInvalid(f"transfer-encoding {coding[:40]!r} in HTTP/1.{minor.decode()} is not read")
        if length is not None:
            raise HttpInvalid("transfer-encoding and content-length in one head are refused")
        return _CHUNKED, 0
    if length is None:
        return otherwise, 0
    # A list of equal values is allowed by RFC 9110 §8.6 and refused here: no client of ours sends one.
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
        raise HttpInvalid(f"content-length {length[:40]!r} is no length")
    size = int(length)
    return (_LENGTH, size) if size else (_NONE, 0)


class NoBody:
    """A message without a body: over at once."""

    __slots__ = ()
    done = True

    def feed(self, data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
        """See `ChunkedBody.feed`."""
        return start


class LengthBody:
    """Counts down a content-length."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
        """See `ChunkedBody.feed`."""
        left = start + self._left - end
        if left <= 0:
            self.done = True
            end += left
            left = 0
        self._left = left
        if end > start:
            content.append((start, end))
        return end


class UntilCloseBody:
    """Everything up to the end of the connection; the shell says when that is."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
        """See `ChunkedBody.feed`."""
        if end > start:
            content.append((start, end))
        return end


class _Chunk(Enum):
    SIZE = "a chunk size"
    DATA = "chunk data"
    DATA_CR = "the CR after a chunk"
    DATA_LF = "the LF after a chunk"
    TRAILER = "a trailer line"


class ChunkedBody:
    """
    Follows chunk sizes, RFC 9112 §7.1.

    The usual read holds whole chunks and costs one match and one `int` for each; a line that is cut is kept, bounded,
    until its end comes.
    """

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "done", "is_between_chunks")

    def __init__(self) -> None:
        self._state = _Chunk.SIZE
        self.is_between_chunks = True
        self._left = 0
        self._line = bytearray()
        self._trailer_bytes = 0
        self.done = False

    def __repr__(self) -> str:
        return f"<ChunkedBody awaiting {'nothing' if self.done else self._state.value}>"

    def feed(self, data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
        """
        Follow the body through `data[start:end]`.

        Args:
            data: A buffer that holds the next bytes of the connection.
            content: Gets the (start, end) of each part of the body's content in `data`.

        Returns:
            Where in `data` the message ends, or `end` while it goes on (`done` tells which).

        Raises:
            HttpInvalid: The chunks are malformed, or a line or the trailer exceeds its limit.
        """
        while start < end and not self.done:
            if self.is_between_chunks:
                start = _follow_chunks(data, start, end, content)
                if start == end:
                    break
            start = self._follow_part(data, start, end, content)
        return start

    def only_chunk(self, piece: bytes) -> int:
        """
        Tell, and nothing else, whether the next bytes, `piece`, are one chunk, from its size to its end.

        Returns:
            Where its content starts, which ends 2 before the piece; 0 if they are anything else.
        """
        if self.is_between_chunks:
            match = _match_chunk_start(piece)
            if match is not None:
                start, end = match.end(), len(piece) - 2
                if start < end == start + int(match[1], 16) and piece.endswith(b"\r\n"):
                    return start
        return 0

    def _follow_part(self, data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
        """Go on with what is there of the chunk's next part."""
        state = self._state
        if state is _Chunk.DATA:
            start = self._follow_data(start, end, content)
        elif state is _Chunk.DATA_CR or state is _Chunk.DATA_LF:
            self._take_chunk_end(data[start])
            start += 1
        else:
            start = self._follow_line(data, start, end)
        self.is_between_chunks = self._state is _Chunk.SIZE and not self._line
        return start

    def _follow_data(self, start: int, end: int, content: list[tuple[int, int]]) -> int:
        size = min(self._left, end - start)
        content.append((start, start + size))
        self._left -= size
        if not self._left:
            self._state = _Chunk.DATA_CR
        return start + size

    def _take_chunk_end(self, byte: int) -> None:
        if byte != (13 if self._state is _Chunk.DATA_CR else 10):
            raise HttpInvalid(f"byte {byte:#04x} stands in the place of {self._state.value}")
        self._state = _Chunk.DATA_LF if self._state is _Chunk.DATA_CR else _Chunk.SIZE

    def _follow_line(self, data: bytearray, start: int, end: int) -> int:
        line_end = data.find(b"\n", start, end) + 1
        self._line += data[start : line_end or end]
        if len(self._line) > CHUNK_LINE_BYTES_MAX:
            raise HttpInvalid(f"{self._state.value} of {len(self._line)} bytes or more exceeds {CHUNK_LINE_BYTES_MAX}")
        if not line_end:
            return end
        line, self._line = self._line, bytearray()
        if self._state is _Chunk.SIZE:
            self._take_size_line(line)
        else:
            self._take_trailer_line(line)
        return line_end

    # The messages below quote no line: in a body that went wrong it could hold anything, a prompt for one.

    def _take_size_line(self, line: bytearray) -> None:
        match = _CHUNK_SIZE_LINE.fullmatch(line)
        if match is None:
            raise HttpInvalid(f"chunk size line of {len(line)} bytes is malformed")
        self._left = int(match[1], 16)
        self._state = _Chunk.DATA if self._left else _Chunk.TRAILER

    def _take_trailer_line(self, line: bytearray) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise HttpInvalid(f"trailer of {self._trailer_bytes} bytes or more exceeds {TRAILER_BYTES_MAX}")
        if line == b"\r\n":
            self.done = True
        elif not _TRAILER_LINE.fullmatch(line):
            raise HttpInvalid(f"trailer line of {len(line)} bytes is malformed")


def _follow_chunks(data: bytearray, start: int, end: int, content: list[tuple[int, int]]) -> int:
    """
    Follow those chunks that lie before `end` as a whole, which nearly always are all; return where they end.

    Others are the last one, which is empty, one that goes on, and a bad one.
    """
    match = _match_chunk_start(data, start, end)
    while match is not None:
        first = match.end()
        last = first + int(match[1], 16)
        if not first < last <= end - 2:
            break
        # What ends this chunk, and what begins the next one.
        match = _match_next_chunk_start(data, last, end)
        if match is None and not data.startswith(b"\r\n", last):
            break
        content.append((first, last))
        start = last + 2
    return start


Body: TypeAlias = NoBody | LengthBody | ChunkedBody | UntilCloseBody


def body_of(head: RequestHead | ResponseHead) -> Body:
    """Make the tracker for the body that follows a head."""
    if head.framing is _NONE:
        return NoBody()
    if head.framing is _LENGTH:
        return LengthBody(head.length)
    return ChunkedBody() if head.framing is _CHUNKED else UntilCloseBody()
