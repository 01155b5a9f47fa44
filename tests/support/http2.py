"""
The other end of an HTTP/2 connection, with the h2 library: blocking, and what came is kept stream by stream.

    with proxy.http2_client(host) as client:
        stream = client.request(path="/v1/messages", body=b"{}")
        client.wait_ended(stream)
        assert stream.body == ...

GOAWAY frames never reach the library, which would refuse the streams that are still under way.
"""

import random
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.support.raw_upstream import Script, server_context
from tests.support.tls_end import TlsEnd

Fields = list[tuple[bytes, bytes]]
_GOAWAY = 7
MIB = 1024 * 1024
# RFC 9113 §7
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 2, 7, 8, 11

# A model call and its answer: 125 tokens in, 9 out.
REQUEST = b'{"model": "claude-x", "stream": true}'
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
EVENTS = [
    (
        b'event: message_start\ndata: {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x-2",'
        b' "usage": {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1}}}\n\n'
    ),
    (
        b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta",'
        b' "text": "secret words"}}\n\n'
    ),
    (
        b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"},'
        b' "usage": {"output_tokens": 9}}\n\n'
    ),
    b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
]


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that look like nothing, the same ones for each seed."""
    return random.Random(seed).randbytes(size)


class Stream:
    """
    What has come on one stream.

    Attributes:
        heads: Blocks of fields in their order: interim responses, the head, trailers.
        reset: The code of the peer's RST_STREAM.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.heads: list[Fields] = []
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.number}: {self.heads}, {len(self.body)} bytes, ended {self.ended}, reset {self.reset}>"

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> bytes:
        """Of the last head that has one."""
        return [value for head in self.heads for name, value in head if name == b":status"][-1]

    def field(self, name: bytes, head: int = 0) -> bytes:
        return dict(self.heads[head])[name]


class Http2Peer:
    """
    One end.

    Attributes:
        stalled: Streams on which no credit is given back, as if nobody read them.
    """

    def __init__(self, link: TlsEnd, *, is_client: bool, **initial: int) -> None:
        self.link = link
        self.stalled: set[int] = set()
        self.library = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=is_client,
                header_encoding=None,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
                validate_outbound_headers=False,
            )
        )
        values = {h2.settings.SettingCodes[name.upper()]: value for name, value in initial.items()}
        self.library.local_settings = h2.settings.Settings(
            client=is_client, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000, **values}
        )
        self.library.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.gone_away: list[tuple[int, int, bytes]] = []
        self._handed_out = 0
        self._incoming = bytearray()
        self._preface_left = 0 if is_client else 24
        self.flush()

    def __enter__(self) -> "Http2Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.link.sock.close()

    def flush(self) -> None:
        data = self.library.data_to_send()
        if data:
            self.link.send(data)

    # -- reading -----------------------------------------------------------

    def pump(self) -> bool:
        """Take what comes next; False at the end."""
        data = self.link.receive()
        if not data:
            return False
        self._incoming += data
        for piece in self._pieces():
            for event in self.library.receive_data(piece):
                self._take(event)
        try:
            self.flush()
        except ConnectionError:
            pass  # the library acknowledges to one who has left: what is read next tells how
        return True

    def _pieces(self) -> Iterable[bytes]:
        if self._preface_left:
            piece = bytes(self._incoming[: self._preface_left])
            del self._incoming[: len(piece)]
            self._preface_left -= len(piece)
            yield piece
        while len(self._incoming) >= 9 and len(self._incoming) >= (
            end := 9 + int.from_bytes(self._incoming[:3], "big")
        ):
            frame = bytes(self._incoming[:end])
            del self._incoming[:end]
            if frame[3] == _GOAWAY:
                last, code = struct.unpack_from("!II", frame, 9)
                self.gone_away.append((last, code, frame[17:]))
            else:
                yield frame

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.streams[event.stream_id] = Stream(event.stream_id)
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if hasattr(event, "headers"):
            stream.heads.append(list(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
            if event.stream_id not in self.stalled and event.flow_controlled_length:
                self.library.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code)

    def wait(self, condition: Callable[[], object]) -> None:
        """Take what comes until `condition` holds."""
        while not condition():
            assert self.pump(), f"the connection ended with {self.link.ending}: {self.streams} {self.gone_away}"

    def wait_over(self, *streams: Stream) -> None:
        """Wait until these streams have ended or were reset."""
        self.wait(lambda: all(stream.is_over for stream in streams))

    def wait_stream(self) -> Stream:
        """Return the peer's next stream, waiting for it."""
        known, self._handed_out = self._handed_out, self._handed_out + 1
        self.wait(lambda: len(self.streams) > known)
        return list(self.streams.values())[known]

    def wait_gone(self) -> str:
        """Take what comes until the connection ends; return how it did."""
        while self.pump():
            pass
        assert self.link.ending is not None
        return self.link.ending

    # -- writing -----------------------------------------------------------

    def request(
        self,
        *fields: tuple[bytes, bytes],
        method: bytes = b"POST",
        path: bytes = b"/v1/messages",
        host: bytes = b"h",
        body: bytes = b"",
        end: bool = True,
    ) -> Stream:
        """Send a request, with its body if there is one."""
        stream = Stream(self.library.get_next_available_stream_id())
        self.streams[stream.number] = stream
        pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", host), (b":path", path)]
        self.library.send_headers(stream.number, [*pseudo, *fields], end_stream=end and not body)
        self.flush()
        if body:
            self.send_body(stream.number, body, end=end)
        return stream

    def respond(self, number: int, *fields: tuple[bytes, bytes], body: bytes = b"", status: bytes = b"200") -> None:
        """Send a whole response."""
        self.library.send_headers(number, [(b":status", status), *fields], end_stream=not body)
        self.flush()
        if body:
            self.send_body(number, body)

    def send_body(self, number: int, body: bytes, *, end: bool = True, piece_bytes: int = 16_384) -> None:
        """Send content, waiting for room."""
        done = 0
        while done < len(body):
            self.wait(lambda: self.library.local_flow_control_window(number) > 0)
            room = min(self.library.local_flow_control_window(number), piece_bytes)
            piece = body[done : done + room]
            done += len(piece)
            self.library.send_data(number, piece, end_stream=end and done == len(body))
            self.flush()

    def send_trailers(self, number: int, *fields: tuple[bytes, bytes]) -> None:
        self.library.send_headers(number, list(fields), end_stream=True)
        self.flush()

    def reset(self, number: int, code: int) -> None:
        self.library.reset_stream(number, code)
        self.flush()

    def go_away(self, last: int, code: int = 0, debug: bytes = b"") -> None:
        self.flush()
        self.link.send((8 + len(debug)).to_bytes(3, "big") + struct.pack("!BBIII", 7, 0, 0, last, code) + debug)


def http2_context(*protocols: str) -> ssl.SSLContext:
    """Return an upstream's context that speaks HTTP/2, or what is said."""
    context = server_context()
    context.set_alpn_protocols(list(protocols or ("h2",)))
    return context


def speaking(script: Callable[[Http2Peer], None], **initial: int) -> Script:
    """Make an upstream's script out of one that is given an HTTP/2 connection."""

    def on_link(link: TlsEnd) -> None:
        assert link.tls.selected_alpn_protocol() == "h2"
        script(Http2Peer(link, is_client=False, **initial))

    return on_link


def serving(answer: Callable[[Http2Peer, Stream], None], **initial: int) -> Script:
    """Make an upstream's script that answers each request when it is whole, until the connection ends."""

    def on_peer(peer: Http2Peer) -> None:
        answered: set[int] = set()
        while peer.pump():
            for stream in list(peer.streams.values()):
                if stream.ended and stream.number not in answered:
                    answered.add(stream.number)
                    answer(peer, stream)

    return speaking(on_peer, **initial)
