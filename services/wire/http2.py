"""
One end of an HTTP/2 connection, as a proxy needs it: bytes in, parts out; heads, pieces and credit in, bytes out.

RFC 9113. The protocol is the h2 library's; this module has what it leaves to its users: limits on everything a peer can
send for free, credit that is given back when the bytes have gone on and not before, and GOAWAY, which h2 takes for the
end of the connection (it then refuses the streams under way, which RFC 9113 §6.8 lets finish). Therefore bytes are
given to h2 frame by frame, and GOAWAY frames are read and written here.

Priorities, padding, pings and frames that nobody has defined yet are of one connection only and end here.
"""

import struct
from collections.abc import Iterator

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings

from services.wire.http2_parts import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Data,
    Fields,
    GoneAway,
    Head,
    HeadKind,
    Http2Invalid,
    Part,
    Reset,
    WindowOpened,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Streams that a peer may have open at once; RFC 9113 §6.5.2 recommends at least 100.
STREAMS_MAX = 256
# What is assumed of a peer whose SETTINGS have not come yet; most clients do the same.
STREAMS_BEFORE_SETTINGS = 100
# Credit for one stream: what is held of it when its other side does not read. A fast line needs no more.
STREAM_WINDOW_BYTES = 512 * 1024
# Credit for a connection: given back as bytes come, so that one stalled stream does not stop the others ...
CONNECTION_WINDOW_BYTES = 2 * 1024 * 1024
# ... until this much of all its streams is held.
HELD_BYTES_MAX = 4 * 1024 * 1024
# One piece of data: shared fairly among streams, and not larger than a peer takes by default (RFC 9113 §6.5.2).
PIECE_BYTES_MAX = 16 * 1024
# RFC 9113 lets a peer ask for a compression table of 4 GiB; RFC 7541 §4.2 lets us use less.
_TABLE_BYTES_MAX = 64 * 1024
# Given to h2, which answers one stream too many with the end of the connection: refusing it is done here.
_STREAMS_OF_LIBRARY = 2**31 - 1
# Resets by the peer (CVE-2023-44487: opening and resetting costs it nothing), and frames that carry nothing.
_RESETS_AT_ONCE, _RESETS_PER_S = 1000.0, 200.0
_CONTROL_AT_ONCE, _CONTROL_PER_S = 10_000.0, 2_000.0

_FRAME_HEADER_BYTES = 9
_FRAME_BYTES_MAX = 16 * 1024  # SETTINGS_MAX_FRAME_SIZE as it stands when nobody changes it
_DATA, _HEADERS, _RST_STREAM, _PUSH_PROMISE, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 5, 7, 8, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_STREAM_ID_BITS = 0x7FFFFFFF


_KINDS: dict[type[Event], HeadKind] = {
    RequestReceived: HeadKind.REQUEST,
    InformationalResponseReceived: HeadKind.INTERIM,
    ResponseReceived: HeadKind.RESPONSE,
    TrailersReceived: HeadKind.TRAILER,
}


class Budget:
    """So many at once, so many per second in the long run; time is the caller's."""

    __slots__ = ("_at_once", "_left", "_per_s", "_when")

    def __init__(self, at_once: float, per_s: float) -> None:
        self._at_once = self._left = at_once
        self._per_s = per_s
        self._when: float | None = None

    def spend(self, now: float) -> bool:
        """Take one; False when there is none."""
        if self._when is not None:
            self._left = min(self._at_once, self._left + (now - self._when) * self._per_s)
        self._when = now
        self._left -= 1
        return self._left >= 0


class _OpenStream:
    """What is still expected of one stream, and the credit that is owed on it."""

    __slots__ = ("owed", "receives", "sends")

    def __init__(self) -> None:
        self.owed = 0
        self.receives = True
        self.sends = True


class Http2End:
    """
    One end of a connection.

    The peer's bytes go into `feed`; after any call `output` may have bytes for the peer. Calls that concern a stream
    which is over do nothing: the two sides of a proxy learn that at different times.
    """

    __slots__ = (
        "_control",
        "_held",
        "_in_head",
        "_incoming",
        "_library",
        "_out",
        "_over",
        "_owed",
        "_preface_left",
        "_resets",
        "_saw_settings",
        "_streams",
    )

    def __init__(self, *, is_client: bool, head_bytes_max: int) -> None:
        self._library = _library(is_client=is_client, head_bytes_max=head_bytes_max)
        self._streams: dict[int, _OpenStream] = {}
        self._incoming = bytearray()
        self._out = bytearray()
        self._preface_left = b"" if is_client else PREFACE
        self._in_head = False
        self._saw_settings = False
        self._over = False
        self._held = 0
        self._owed = 0
        self._resets = Budget(_RESETS_AT_ONCE, _RESETS_PER_S)
        self._control = Budget(_CONTROL_AT_ONCE, _CONTROL_PER_S)

    def __repr__(self) -> str:
        return f"<Http2End, {len(self._streams)} streams, {self._held} bytes held>"

    @property
    def held_bytes(self) -> int:
        """Content that was handed out and not released."""
        return self._held

    def output(self) -> bytes:
        """Return what is to be sent to the peer, once."""
        self._collect()
        data = bytes(self._out)
        self._out.clear()
        return data

    def _collect(self) -> None:
        self._out += self._library.data_to_send()

    # -- from the peer -----------------------------------------------------

    def feed(self, data: bytes, now: float) -> Iterator[Part]:
        """
        Yield what the peer's next bytes say, frame by frame.

        Args:
            data: In any split.
            now: Monotonic seconds, for the limits that are rates.

        Raises:
            Http2Invalid: After the parts that came before the mistake.
        """
        self._incoming += data
        if self._preface_left:
            self._take_preface()
        while not self._preface_left and len(self._incoming) >= _FRAME_HEADER_BYTES:
            length = int.from_bytes(self._incoming[:3], "big")
            if length > _FRAME_BYTES_MAX:
                self._refuse(FRAME_SIZE_ERROR, f"frame of {length} bytes exceeds {_FRAME_BYTES_MAX}")
            end = _FRAME_HEADER_BYTES + length
            if len(self._incoming) < end:
                return
            frame = bytes(self._incoming[:end])
            del self._incoming[:end]
            yield from self._take_frame(frame, now)

    def _take_preface(self) -> None:
        size = min(len(self._preface_left), len(self._incoming))
        if self._incoming[:size] != self._preface_left[:size]:
            self._refuse(PROTOCOL_ERROR, "the first bytes are not the preface of HTTP/2")
        self._give(bytes(self._incoming[:size]))
        self._preface_left = self._preface_left[size:]
        del self._incoming[:size]

    def _take_frame(self, frame: bytes, now: float) -> Iterator[Part]:
        kind, flags = frame[3], frame[4]
        self._watch_cost(kind, flags, len(frame) - _FRAME_HEADER_BYTES, now)
        if kind == _GOAWAY and not self._in_head:
            yield self._gone_away(frame)
            return
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            self._in_head = not flags & _END_HEADERS
        for event in self._give(frame):
            part = self._part_of(event)
            if part is not None:
                yield part

    def _watch_cost(self, kind: int, flags: int, length: int, now: float) -> None:
        if kind == _RST_STREAM:
            if not self._resets.spend(now):
                self._refuse(ENHANCE_YOUR_CALM, f"streams are reset faster than {_RESETS_PER_S:g} per second")
        elif kind in (_HEADERS, _WINDOW_UPDATE) or (kind == _DATA and (length or flags & _END_STREAM)):
            pass  # paid for by streams and credit, which have limits of their own
        elif not self._control.spend(now):
            self._refuse(ENHANCE_YOUR_CALM, f"frames without content exceed {_CONTROL_PER_S:g} per second")

    def _give(self, data: bytes) -> list[Event]:
        try:
            return self._library.receive_data(data)
        except ProtocolError as error:
            self._fail()
            # The library's message may quote a field's value; its class says enough.
            raise Http2Invalid(_words_of(error)) from error

    def _refuse(self, code: int, reason: str) -> None:
        self.go_away(self._library.highest_inbound_stream_id, code)
        self._fail()
        raise Http2Invalid(reason)

    def _fail(self) -> None:
        self._over = True
        self._streams.clear()

    def _gone_away(self, frame: bytes) -> GoneAway:
        if len(frame) < _FRAME_HEADER_BYTES + 8:
            self._refuse(FRAME_SIZE_ERROR, f"GOAWAY frame of {len(frame)} bytes is too short")
        stream_id, last_stream_id, code = struct.unpack_from("!III", frame, 5)
        if stream_id & _STREAM_ID_BITS:
            self._refuse(PROTOCOL_ERROR, f"GOAWAY on stream {stream_id & _STREAM_ID_BITS}")
        return GoneAway(last_stream_id=last_stream_id & _STREAM_ID_BITS, code=code, debug=frame[17:])

    def _part_of(self, event: Event) -> Part | None:
        if isinstance(event, DataReceived):
            return self._data(event)
        if isinstance(event, RequestReceived | InformationalResponseReceived | ResponseReceived | TrailersReceived):
            return self._head(event)
        if isinstance(event, StreamReset):
            self._streams.pop(event.stream_id, None)
            return Reset(stream_id=event.stream_id, code=int(event.error_code))
        if isinstance(event, WindowUpdated):
            return WindowOpened(stream_id=event.stream_id or 0)
        if isinstance(event, RemoteSettingsChanged):
            self._saw_settings = True
            if self._library.encoder.header_table_size > _TABLE_BYTES_MAX:
                self._library.encoder.header_table_size = _TABLE_BYTES_MAX
            return WindowOpened(stream_id=0)
        return None

    def _head(
        self, event: RequestReceived | InformationalResponseReceived | ResponseReceived | TrailersReceived
    ) -> Head | None:
        stream_id = event.stream_id
        ended = not isinstance(event, InformationalResponseReceived) and event.stream_ended is not None
        if isinstance(event, RequestReceived):
            if len(self._streams) >= STREAMS_MAX:
                self._library.reset_stream(stream_id, REFUSED_STREAM)
                return None
            self._streams[stream_id] = _OpenStream()
        if ended:
            self._received_end(stream_id)
        return Head(stream_id=stream_id, kind=_KINDS[type(event)], fields=event.headers, ended=ended)

    def _data(self, event: DataReceived) -> Data | None:
        stream_id, content, ended = event.stream_id, bytes(event.data), event.stream_ended is not None
        self._held += event.flow_controlled_length
        self._owed += event.flow_controlled_length
        if ended:
            self._received_end(stream_id)
        self.release(stream_id, event.flow_controlled_length - len(content))  # the padding ends here
        return Data(stream_id=stream_id, content=content, ended=ended) if content or ended else None

    def _received_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.receives = False
            if not stream.sends:
                del self._streams[stream_id]

    # -- credit ------------------------------------------------------------

    def release(self, stream_id: int, size: int) -> None:
        """So many bytes of a stream's content have gone on, or will not be needed: the peer may send as many more."""
        self._held -= size
        stream = self._streams.get(stream_id)
        if stream is not None and stream.receives:
            stream.owed += size
            # Half of it: small enough that the peer need not wait, large enough that it is not told of every piece.
            if stream.owed >= STREAM_WINDOW_BYTES // 2:
                self._library.increment_flow_control_window(stream.owed, stream_id)
                stream.owed = 0
        self._repay()

    def _repay(self) -> None:
        """Give the connection's credit back as bytes come, and not while too much of them is held."""
        if not self._over and self._owed >= CONNECTION_WINDOW_BYTES // 2 and self._held <= HELD_BYTES_MAX:
            self._library.increment_flow_control_window(self._owed)
            self._owed = 0

    # -- to the peer -------------------------------------------------------

    def open_stream(self, fields: Fields, *, ended: bool) -> int | None:
        """Send a request's head on a new stream; None while the peer takes no more streams."""
        allowed = self._library.remote_settings.max_concurrent_streams
        if len(self._streams) >= (allowed if self._saw_settings else min(allowed, STREAMS_BEFORE_SETTINGS)):
            return None
        stream_id = self._library.get_next_available_stream_id()
        self._streams[stream_id] = _OpenStream()
        self.send_head(stream_id, fields, ended=ended)
        return stream_id

    def send_head(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        """Send a block of fields."""
        if self.can_send(stream_id):
            self._library.send_headers(stream_id, fields, end_stream=ended)
            if ended:
                self._sent_end(stream_id)

    def can_send(self, stream_id: int) -> bool:
        """Whether the stream is open in our direction, with room or without."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sends

    def room(self, stream_id: int) -> int:
        """How many bytes of content may be sent in one piece now."""
        if not self.can_send(stream_id):
            return 0
        window = self._library.local_flow_control_window(stream_id)
        return max(0, min(window, self._library.max_outbound_frame_size, PIECE_BYTES_MAX))

    def send_data(self, stream_id: int, content: bytes, *, ended: bool) -> None:
        """Send a piece of content, no longer than `room` allows."""
        if self.can_send(stream_id):
            self._library.send_data(stream_id, content, end_stream=ended)
            if ended:
                self._sent_end(stream_id)

    def _sent_end(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        stream.sends = False
        if not stream.receives:
            del self._streams[stream_id]

    def reset(self, stream_id: int, code: int) -> None:
        """Break a stream off, if it is not over."""
        if self._streams.pop(stream_id, None) is not None:
            self._library.reset_stream(stream_id, code)

    def go_away(self, last_stream_id: int, code: int, debug: bytes = b"") -> None:
        """Say that no stream above `last_stream_id` will be looked at; those under way go on."""
        if self._over:
            return
        self._collect()
        length = 8 + len(debug)
        self._out += length.to_bytes(3, "big") + struct.pack("!BBIII", _GOAWAY, 0, 0, last_stream_id, code) + debug

    @property
    def last_stream_id(self) -> int:
        """The last stream that the peer has opened."""
        return self._library.highest_inbound_stream_id


def _library(*, is_client: bool, head_bytes_max: int) -> H2Connection:
    """Make a connection of the library's that has said its preface and changes nothing that passes."""
    library = H2Connection(
        H2Configuration(
            client_side=is_client,
            header_encoding=None,
            # What comes is checked (RFC 9113 §8.2 forbids to pass on what is malformed) and otherwise left alone.
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    announced = {
        SettingCodes.ENABLE_PUSH: 0,
        SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
        SettingCodes.MAX_HEADER_LIST_SIZE: head_bytes_max,
        SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
    }
    library.local_settings = Settings(client=is_client, initial_values=announced)
    library.initiate_connection()
    library.increment_flow_control_window(CONNECTION_WINDOW_BYTES - library.inbound_flow_control_window)
    library.decoder.max_header_list_size = head_bytes_max
    library.local_settings = Settings(
        client=is_client, initial_values={**announced, SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS_OF_LIBRARY}
    )
    return library


def _words_of(error: H2Error) -> str:
    """`FlowControlError` → `flow control error`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(error).__name__).strip()
