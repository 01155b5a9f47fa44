"""
WebSocket as an observer sees it: the bytes that one side sends, in any split, go in, whole text messages come out.

Source  RFC 6455 (frames, §5; closing, §7), RFC 7692 (permessage-deflate).
Limits  `message_bytes_max` for a text message, and for whatever a compressed message of either kind inflates to;
        `FINAL_BLOCKS_MAX` for the deflate streams of one message. Binary messages may have any length: they are
        counted over, not kept, and not even unmasked, unless the compression of later messages refers back to them.
Rules   Nothing is answered and nothing corrected: what breaks the framing raises, for behind it no frame can be
        found. What only breaks the conversation (an odd close code, text that is no UTF-8) is left to the two ends.
        Behind a close frame its sender may say nothing more (§5.5.1), so nothing more is read.
"""

import zlib
from dataclasses import dataclass

from services.wire.errors import WireError

# A whole conversation with some images; a response's last event repeats its entire output.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# RFC 7692 §7.2.3.5 lets a sender end a message with a final block. One a fragment would be many.
FINAL_BLOCKS_MAX = 256
# RFC 6455 §7.1.5: what a close frame without a code is said to have.
NO_STATUS = 1005

_CONTROL_BYTES_MAX = 125
_LENGTH_16, _LENGTH_64 = 126, 127
_FIN, _RSV1, _RSV2_RSV3, _OPCODE = 0x80, 0x40, 0x30, 0x0F
_MASK, _LENGTH = 0x80, 0x7F
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KNOWN = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
# RFC 7692 §7.2.1 and 7.2.2: the end of the empty block that a sender leaves out.
_FLUSHED = b"\x00\x00\xff\xff"
# The largest window: it inflates what was deflated with a smaller one as well.
_RAW_DEFLATE = -15
_WINDOW_BYTES = 32 * 1024
_WINDOW_BITS = frozenset(map(str, range(8, 16)))


class WebSocketInvalid(WireError):
    """
    One side broke the rules of the framing, or one of our limits.

    Attributes:
        texts: The text messages that were whole before it, and that the call which raised has not returned.
    """

    texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PermessageDeflate:
    """What the two ends agreed on: whether a message may refer back to the messages before it, per sender."""

    client_keeps_context: bool
    server_keeps_context: bool


def agreed_compression(extensions: str) -> PermessageDeflate | None:
    """
    Read `Sec-WebSocket-Extensions` of the response that opened the connection, its lines joined with commas.

    Raises:
        WebSocketInvalid: An extension that we do not know, which may have changed what a frame means.
    """
    agreed = None
    for extension in filter(None, map(str.strip, extensions.split(","))):
        name, *parameters = map(str.strip, extension.split(";"))
        if name.lower() != "permessage-deflate" or agreed is not None:
            raise WebSocketInvalid(f"extension {name[:40]!r} is not read")
        agreed = _deflate_of(parameters)
    return agreed


def _deflate_of(parameters: list[str]) -> PermessageDeflate:
    given: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = map(str.strip, parameter.partition("="))
        value = value.strip('"')
        is_flag = name in ("server_no_context_takeover", "client_no_context_takeover")
        is_window = name in ("server_max_window_bits", "client_max_window_bits")
        if name in given or not (is_flag and not value or is_window and value in _WINDOW_BITS):
            raise WebSocketInvalid(f"parameter {parameter[:40]!r} of permessage-deflate is not read")
        given[name] = value
    return PermessageDeflate(
        client_keeps_context="client_no_context_takeover" not in given,
        server_keeps_context="server_no_context_takeover" not in given,
    )


class WebSocketReader:
    """
    Reads what one end of a connection sends.

    Args:
        is_client: The client is read: its frames are masked, the server's are not (§5.1).
        compression: What the opening handshake agreed on.
        message_bytes_max: What a message may have, decompressed; see the module.

    Attributes:
        close_code: Of the close frame, `NO_STATUS` where it had none; None while the sender has not closed.
    """

    __slots__ = (
        "_control",
        "_head",
        "_inflater",
        "_is_client",
        "_is_compressed",
        "_is_final",
        "_is_wanted",
        "_key",
        "_left",
        "_message_bytes",
        "_message_bytes_max",
        "_opcode",
        "_position",
        "_text",
        "_type",
        "close_code",
    )

    def __init__(
        self,
        *,
        is_client: bool,
        compression: PermessageDeflate | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._is_client = is_client
        self._inflater: _Inflater | None = None
        if compression is not None:
            keeps_context = compression.client_keeps_context if is_client else compression.server_keeps_context
            self._inflater = _Inflater(keeps_context=keeps_context)
        self._message_bytes_max = message_bytes_max
        self.close_code: int | None = None
        # The message under way: its type, or None between two messages.
        self._type: int | None = None
        self._is_compressed = False
        self._is_wanted = False
        self._text: list[bytes] = []
        self._message_bytes = 0
        # The frame under way; `_left` is None while its head is awaited.
        self._head = b""
        self._opcode = _CONTINUATION
        self._is_final = True
        self._key = b""
        self._position = 0
        self._left: int | None = None
        self._control = b""

    def __repr__(self) -> str:
        if self.close_code is not None:
            return f"<WebSocketReader closed with {self.close_code}>"
        return f"<WebSocketReader {'between' if self.is_between_messages else 'inside'} messages>"

    @property
    def is_between_messages(self) -> bool:
        """Nothing of a message, text or binary, has come that is not over."""
        return self._type is None and self._left is None and not self._head

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """
        Read the next bytes of the connection.

        Returns:
            The text messages that are whole now, in UTF-8 as far as their sender kept to the rules.

        Raises:
            WebSocketInvalid: The framing or the compression is broken, or a limit was passed. The reader is of no use
                afterwards.
        """
        texts: list[bytes] = []
        view = memoryview(self._head + data if self._head else data)
        self._head = b""
        try:
            self._follow(view, texts)
        except WebSocketInvalid as error:
            error.texts = tuple(texts)
            raise
        return texts

    # -- frames ------------------------------------------------------------

    def _follow(self, view: memoryview, texts: list[bytes]) -> None:
        position, size = 0, len(view)
        while self.close_code is None:
            if self._left is None:
                head_bytes = self._take_head(view[position : position + 14])
                if not head_bytes:
                    self._head = bytes(view[position:])
                    break
                position += head_bytes
            assert self._left is not None
            taken = min(self._left, size - position)
            if taken:
                self._take_payload(view[position : position + taken])
                position += taken
                self._left -= taken
            if self._left:
                break
            self._left = None
            self._end_frame(texts)

    def _take_head(self, view: memoryview) -> int:
        """Read the head of a frame at the start of `view` and return its size, 0 while it is not whole."""
        if len(view) < 2:
            return 0
        if bool(view[1] & _MASK) is not self._is_client:
            raise WebSocketInvalid(f"frame of the {self._sender} is {'not ' if self._is_client else ''}masked")
        length = view[1] & _LENGTH
        payload_at = 10 if length == _LENGTH_64 else 4 if length == _LENGTH_16 else 2
        head_bytes = payload_at + 4 if view[1] & _MASK else payload_at
        if len(view) < head_bytes:
            return 0
        if length >= _LENGTH_16:
            length = self._long_length(bytes(view[2:payload_at]))
        self._begin_frame(view[0], length)
        self._key = bytes(view[payload_at:head_bytes])
        self._position = 0
        self._left = length
        return head_bytes

    @property
    def _sender(self) -> str:
        return "client" if self._is_client else "server"

    def _long_length(self, field: bytes) -> int:
        # §5.2: in the fewest bytes, and below 2^63.
        length = int.from_bytes(field)
        if length < _LENGTH_16 or (len(field) == 8 and not 0xFFFF < length < 1 << 63):
            raise WebSocketInvalid(f"frame length {length} in {len(field)} bytes is malformed")
        return length

    def _begin_frame(self, first: int, length: int) -> None:
        opcode = first & _OPCODE
        if opcode not in _KNOWN:
            raise WebSocketInvalid(f"opcode {opcode:#x} is not known")
        self._opcode = opcode
        self._is_final = bool(first & _FIN)
        if first & _RSV2_RSV3:
            raise WebSocketInvalid(f"reserved bits of frame {first:#04x} are set")
        if opcode >= _CLOSE:
            if length > _CONTROL_BYTES_MAX or not self._is_final or first & _RSV1:
                raise WebSocketInvalid(f"control frame {first:#04x} of {length} bytes is malformed")
            return
        if opcode == _CONTINUATION:
            if self._type is None or first & _RSV1:
                raise WebSocketInvalid("continuation frame continues nothing, or is marked as compressed")
        else:
            self._begin_message(opcode, is_compressed=bool(first & _RSV1))
        # What is compressed is bounded as it is inflated: its length here says little.
        if self._type == _TEXT and not self._is_compressed:
            self._count(length)

    def _begin_message(self, opcode: int, *, is_compressed: bool) -> None:
        if self._type is not None:
            raise WebSocketInvalid("a message begins inside another one")
        if is_compressed and self._inflater is None:
            raise WebSocketInvalid("message is compressed, though no compression was agreed on")
        self._type = opcode
        self._is_compressed = is_compressed
        refers_back = self._inflater is not None and self._inflater.keeps_context
        self._is_wanted = opcode == _TEXT or (is_compressed and refers_back)
        self._message_bytes = 0

    def _count(self, more: int) -> None:
        self._message_bytes += more
        if self._message_bytes > self._message_bytes_max:
            raise WebSocketInvalid(f"message of more than {self._message_bytes_max} bytes")

    def _take_payload(self, piece: memoryview) -> None:
        if self._opcode >= _CLOSE:
            if self._opcode == _CLOSE:
                self._control += self._unmasked(piece)
        elif self._is_wanted:
            if self._is_compressed:
                self._inflate(self._unmasked(piece))
            else:
                self._text.append(self._unmasked(piece))

    def _unmasked(self, piece: memoryview) -> bytes:
        """Undo the mask, §5.3, of the next piece of the frame; as one long number, which costs a few passes in C."""
        if not self._is_client:
            return bytes(piece)
        size = len(piece)
        turn = self._position & 3
        self._position += size
        key = ((self._key[turn:] + self._key[:turn]) * (size // 4 + 1))[:size]
        return (int.from_bytes(piece, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")

    def _inflate(self, data: bytes, *, is_end: bool = False) -> None:
        assert self._inflater is not None
        left = self._message_bytes_max - self._message_bytes
        inflated = self._inflater.end_message(left) if is_end else self._inflater.feed(data, left)
        self._count(len(inflated))
        if self._type == _TEXT and inflated:
            self._text.append(inflated)

    def _end_frame(self, texts: list[bytes]) -> None:
        if self._opcode >= _CLOSE:
            if self._opcode == _CLOSE:
                self.close_code = int.from_bytes(self._control[:2]) if len(self._control) >= 2 else NO_STATUS
        elif self._is_final:
            if self._is_compressed and self._is_wanted:
                self._inflate(b"", is_end=True)
            if self._type == _TEXT:
                texts.append(b"".join(self._text))
                self._text.clear()
            self._type = None


class _Inflater:
    """Undoes the compression of one direction's messages."""

    __slots__ = ("_final_blocks", "_is_pristine", "_stream", "_window", "keeps_context")

    def __init__(self, *, keeps_context: bool) -> None:
        self.keeps_context = keeps_context
        self._stream = zlib.decompressobj(_RAW_DEFLATE)
        # The last of what was inflated: a stream that follows a final block begins with it.
        self._window = b""
        self._final_blocks = 0
        # Nothing has come since a message, or a stream, ended.
        self._is_pristine = True

    def feed(self, data: bytes, bytes_max: int) -> bytes:
        """Inflate the next piece of a message, to `bytes_max` bytes at most."""
        parts: list[bytes] = []
        while data:
            self._is_pristine = False
            try:
                # One byte more tells "exactly full" from "more", and zero would mean "no limit" to zlib.
                part = self._stream.decompress(data, bytes_max + 1)
            except zlib.error as error:
                raise WebSocketInvalid(f"message is not deflated: {error}") from error
            bytes_max -= len(part)
            if bytes_max < 0:
                raise WebSocketInvalid("message inflates to more than the limit")
            parts.append(part)
            self._window = (self._window + part)[-_WINDOW_BYTES:]
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data
                self._follow_final_block()
        return b"".join(parts)

    def _follow_final_block(self) -> None:
        self._final_blocks += 1
        if self._final_blocks > FINAL_BLOCKS_MAX:
            raise WebSocketInvalid(f"message of more than {FINAL_BLOCKS_MAX} final blocks")
        self._stream = zlib.decompressobj(_RAW_DEFLATE, zdict=self._window)
        self._is_pristine = True

    def end_message(self, bytes_max: int) -> bytes:
        """Inflate what the sender left out, RFC 7692 §7.2.2."""
        rest = b"" if self._is_pristine else self.feed(_FLUSHED, bytes_max)
        if not self.keeps_context:
            self._stream = zlib.decompressobj(_RAW_DEFLATE)
            self._window = b""
        self._final_blocks = 0
        self._is_pristine = True
        return rest
