"""
Content codings undone: coded bytes of a body in any split go in, decoded bytes come out at once.

Source  RFC 9110 §8.4 (codings, listed in the order in which they were applied), RFC 1952 (gzip, several members),
        RFC 1950 and 1951 ("deflate" is zlib-wrapped by the standard and raw in practice), RFC 7932 (br), RFC 8878 and
        RFC 9659 (zstd, window of at most 8 MiB over HTTP).
Limits  `CODINGS_MAX` codings; `feed_bytes_max` for what one piece may decode to, `body_bytes_max` for the whole body,
        for every coding in the stack. No decoder is asked for more than that at a time, so a bomb costs no more either.
Rules   Whatever the pieces so far decode to is handed out: nobody waits for a trailer, because a body that breaks off
        has none. Of `deflate` the first bytes decide between zlib and raw. Bytes behind a finished gzip or deflate
        stream that do not begin another member are ignored, as curl does; br and zstd refuse them.
"""

import zlib
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # it ships no annotations
import zstandard

from services.wire.errors import WireError

# Nobody applies more than one on purpose; each costs a decoder's memory.
CODINGS_MAX = 4

# A read is at most a few hundred kilobytes, and text shrinks by a factor of ten or so.
FEED_BYTES_MAX = 32 * 1024 * 1024

# Hours of streaming, or some hundred generated images.
BODY_BYTES_MAX = 1024 * 1024 * 1024

# RFC 9659 §3: the window that every HTTP recipient must support, and no sender may exceed.
ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW_BITS, ZLIB_WINDOW_BITS, RAW_WINDOW_BITS = 31, 15, -15


class CodingUnknown(WireError):
    """A content coding that we cannot undo, or too many of them."""


class CodingInvalid(WireError):
    """The body is not what its coding says."""


class DecodedTooLarge(WireError):
    """The body decodes to more than we were told to hold."""


class ContentDecoder(Protocol):
    """Undoes one content coding, or a stack of them."""

    def feed(self, data: bytes) -> bytes:
        """
        Return everything that the body decodes to so far and that was not returned before.

        Raises:
            CodingInvalid: The body is not what its coding says.
            DecodedTooLarge: A limit was passed. In both cases the decoder is of no use afterwards.
        """
        ...


def content_decoder(
    content_encoding: str, *, feed_bytes_max: int = FEED_BYTES_MAX, body_bytes_max: int = BODY_BYTES_MAX
) -> ContentDecoder:
    """
    Make the decoder of one body.

    Args:
        content_encoding: Value of the header field, its lines joined with commas; empty when there is none.
        feed_bytes_max: What one `feed` may return at most.
        body_bytes_max: What all of them may return together.

    Raises:
        CodingUnknown: A coding that we do not know, or more than `CODINGS_MAX`.
    """
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower())]
    codings = [name for name in names if name != "identity"]
    if len(codings) > CODINGS_MAX:
        raise CodingUnknown(f"{len(codings)} content codings exceed {CODINGS_MAX}")
    for name in codings:
        if name not in _CODINGS:
            raise CodingUnknown(f"content coding {name[:40]!r} is not known")
    stack = [_Bounded(_CODINGS[name](), feed_bytes_max, body_bytes_max) for name in reversed(codings)]
    return stack[0] if len(stack) == 1 else _Stack(stack)


class _Coding(Protocol):
    """One coding without limits of its own: `decode` returns at most about `bytes_max` and raises when it has more."""

    def decode(self, data: bytes, bytes_max: int) -> bytes: ...


class _Bounded:
    """One coding under the limits of its body."""

    def __init__(self, coding: _Coding, feed_bytes_max: int, body_bytes_max: int) -> None:
        self._coding = coding
        self._feed_bytes_max = feed_bytes_max
        self._body_bytes_max = body_bytes_max
        self._body_bytes = 0

    def feed(self, data: bytes) -> bytes:
        left = self._body_bytes_max - self._body_bytes
        try:
            decoded = self._coding.decode(data, min(left, self._feed_bytes_max))
        except _MoreThanAsked:
            if left <= self._feed_bytes_max:
                raise DecodedTooLarge(f"body decodes to more than {self._body_bytes_max} bytes") from None
            raise DecodedTooLarge(
                f"{len(data)} bytes of a body decode to more than {self._feed_bytes_max} bytes"
            ) from None
        self._body_bytes += len(decoded)
        return decoded


class _Stack:
    """Several codings, the one applied last first; none of them is the identity."""

    def __init__(self, decoders: list[_Bounded]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data)
        return data


class _MoreThanAsked(Exception):
    """The data decodes to more than was asked for."""


class _Gzip:
    """Gzip of one or several members; zlib checks each trailer."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP_WINDOW_BITS)
        self._behind_member = b""  # until it shows whether another member begins
        self._is_over = False

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        left = bytes_max
        while data and not self._is_over:
            if self._member.eof:
                data = self._behind_member + data
                self._behind_member = b""
                if len(data) < len(GZIP_MAGIC) and GZIP_MAGIC.startswith(data):
                    self._behind_member = data
                    break
                if not data.startswith(GZIP_MAGIC):
                    self._is_over = True
                    break
                self._member = zlib.decompressobj(GZIP_WINDOW_BITS)
            parts.append(_inflate(self._member, data, left))
            left -= len(parts[-1])
            data = self._member.unused_data
        return b"".join(parts)


class _Deflate:
    """The deflate format, zlib-wrapped or raw."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(ZLIB_WINDOW_BITS)
        # Input that may have to be read again as raw: all of it until the zlib reading has given anything.
        self._doubtful: bytes | None = b""

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        if self._stream.eof:
            return b""
        if self._doubtful is None:
            return _inflate(self._stream, data, bytes_max)
        self._doubtful += data
        try:
            decoded = _inflate(self._stream, data, bytes_max)
        except CodingInvalid:
            doubtful, self._doubtful = self._doubtful, None
            self._stream = zlib.decompressobj(RAW_WINDOW_BITS)
            return _inflate(self._stream, doubtful, bytes_max)
        if decoded or self._stream.eof:
            self._doubtful = None
        return decoded


class _Brotli:
    """Brotli, one stream."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        if self._decompressor.is_finished():
            return b""
        try:
            # Asking for one byte more than allowed tells "exactly full" from "more".
            parts = [self._decompressor.process(data, output_buffer_limit=bytes_max + 1)]
            size = len(parts[0])
            while not self._decompressor.can_accept_more_data() and size <= bytes_max:
                parts.append(self._decompressor.process(b"", output_buffer_limit=bytes_max + 1 - size))
                size += len(parts[-1])
        except brotli.error as error:
            raise CodingInvalid("body is not brotli") from error
        if size > bytes_max:
            raise _MoreThanAsked
        return b"".join(parts)


class _Zstd:
    """Zstandard, one or several frames."""

    def __init__(self) -> None:
        self._sink = _Sink()
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._writer = decompressor.stream_writer(
            self._sink,  # type: ignore[arg-type]  # nothing but its write is called
            closefd=False,
        )

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        self._sink.bytes_left = bytes_max
        try:
            self._writer.write(data)
        except zstandard.ZstdError as error:
            raise CodingInvalid("body is not zstd") from error
        parts, self._sink.parts = self._sink.parts, []
        return b"".join(parts)


class _Sink:
    """Takes what the zstd writer writes, one output buffer at a time, and stops it at the limit."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bytes_left = 0

    def write(self, part: bytes) -> int:
        self.bytes_left -= len(part)
        if self.bytes_left < 0:
            raise _MoreThanAsked
        self.parts.append(part)
        return len(part)


def _inflate(stream: "zlib._Decompress", data: bytes, bytes_max: int) -> bytes:
    try:
        # Zero would mean "no limit" to zlib, and one byte more tells "exactly full" from "more".
        decoded = stream.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise CodingInvalid(f"body is not gzip or deflate: {error}") from error
    if len(decoded) > bytes_max:
        raise _MoreThanAsked
    return decoded


_CODINGS: dict[str, type[_Coding]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,  # RFC 9110 §8.4.1.3: the same
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
