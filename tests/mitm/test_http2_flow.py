"""Back-pressure is each stream's own, and nothing is held without a bound."""

import threading
from typing import Any, cast

from services.mitm.http2_flow import Flow, Side
from services.mitm.stream import BACKLOG_BYTES_MAX
from services.wire.http2 import HELD_BYTES_MAX, STREAM_WINDOW_BYTES, Http2End
from services.wire.http2_parts import Data
from tests.support.http2 import MIB, Http2Peer, Stream, noise, serving, speaking
from tests.support.mitm import Mitm

REQUEST_FIELDS = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/")]


class Socket:
    """As much of a stream as a side needs: what was sent, and whether it is read from."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.backlog = 0
        self.paused = False

    def send(self, data: bytes) -> None:
        self.sent += data

    def pause(self) -> None:
        self.paused = True


def side() -> tuple[Side, Socket]:
    """Return the end of a connection to an upstream that does not answer."""
    sock = Socket()
    return Side(Http2End(is_client=True, head_bytes_max=65_536), cast(Any, sock)), sock


def flows_to(target: Side, count: int) -> list[Flow]:
    """Return flows whose streams are open."""
    flows = [Flow(lambda: None) for _ in range(count)]
    for flow in flows:
        flow.target, flow.target_id = target, target.end.open_stream(REQUEST_FIELDS, ended=False)
    target.flush()
    return flows


def streams_in(data: bytes) -> list[int]:
    """Return the stream of each DATA frame, in order."""
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3], "big")
        if data[3] == 0:
            found.append(int.from_bytes(data[5:9], "big"))
        data = data[end:]
    return found


def test_flows_take_turns() -> None:
    """A small body does not wait for the end of a large one."""
    target, sock = side()
    flows = flows_to(target, 3)
    sock.sent.clear()
    for flow in flows:
        flow.push(Data(stream_id=1, content=bytes(40_000), ended=True))
    target.pump()
    target.flush()
    # 65,535 bytes of the connection's window, in pieces of 16 KiB.
    assert streams_in(bytes(sock.sent)) == [1, 3, 5, 1]


def test_nothing_is_sent_to_a_socket_that_is_behind() -> None:
    """And it is not read from while it does not take even the answers."""
    target, sock = side()
    [flow] = flows_to(target, 1)
    sock.sent.clear()
    sock.backlog = BACKLOG_BYTES_MAX
    flow.push(Data(stream_id=1, content=b"x", ended=True))
    target.pump()
    target.flush()
    assert (sock.sent, sock.paused) == (b"", False)
    sock.backlog = 2 * BACKLOG_BYTES_MAX + 1
    target.flush()
    assert sock.paused
    sock.backlog = 0
    target.pump()
    target.flush()
    assert streams_in(bytes(sock.sent)) == [1] and flow.is_over


def test_a_flow_that_is_stopped_gives_its_credit_back() -> None:
    """What waits, and what still comes."""
    source, _ = side()
    target, _ = side()
    [flow] = flows_to(target, 1)
    flow.source, flow.source_id = source, 1
    source.end._held = 100_010  # as if so much had come
    flow.push(Data(stream_id=1, content=bytes(100_000), ended=False))
    target.pump()
    assert source.end.held_bytes == 100_010 - 65_535
    assert flow.is_waiting and not flow.is_over
    flow.stop()
    flow.push(Data(stream_id=1, content=bytes(10), ended=True))
    assert source.end.held_bytes == 0
    assert flow.is_over and not flow.is_waiting


# -- flow control --------------------------------------------------------------


def test_a_client_that_does_not_read_one_stream_stops_that_stream_only(proxy: Mitm) -> None:
    """Upstream may send a window ahead; the other streams go on."""
    body = noise(4 * MIB)
    sent: list[int] = []

    def script(peer: Http2Peer) -> None:
        slow = peer.wait_stream()
        fast = peer.wait_stream()
        for stream in (slow, fast):
            peer.library.send_headers(stream.number, [(b":status", b"200")])
        done = 0
        while room := min(peer.library.local_flow_control_window(slow.number), 16_384):
            peer.library.send_data(slow.number, body[done : done + room])
            done += room
        peer.flush()
        sent.append(done)
        peer.send_body(fast.number, body)
        peer.send_body(slow.number, body[done:])
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host, initial_window_size=1_000) as client:
        client.library.increment_flow_control_window(64 * MIB)
        slow = client.request()
        client.stalled.add(slow.number)
        fast = client.request()
        client.wait_over(fast)
        assert fast.body == body and len(slow.body) == 1_000
        [relay] = proxy.http2_relays(host)
        assert relay._upstream is not None
        assert relay._upstream.end.held_bytes <= STREAM_WINDOW_BYTES
        client.library.increment_flow_control_window(16 * MIB, slow.number)
        client.flush()
        client.wait_over(slow)
        assert slow.body == body
        assert relay._upstream.end.held_bytes == 0
    assert sent[0] <= STREAM_WINDOW_BYTES


def test_a_client_that_reads_nothing_at_all_is_held_for_a_bounded_amount(proxy: Mitm) -> None:
    """However many streams it has open."""
    body = noise(MIB)

    def script(peer: Http2Peer) -> None:
        def serve(stream: Stream) -> None:
            peer.library.send_headers(stream.number, [(b":status", b"200")])

        streams = [peer.wait_stream() for _ in range(20)]
        for stream in streams:
            serve(stream)
        left = {stream.number: body for stream in streams}
        while any(left.values()):
            for number, data in left.items():
                room = min(peer.library.local_flow_control_window(number), 16_384, len(data))
                if room > 0:
                    peer.library.send_data(number, data[:room], end_stream=room == len(data))
                    left[number] = data[room:]
                    peer.flush()
            if not any(left[n] and peer.library.local_flow_control_window(n) for n in left):
                full.set()
                assert peer.pump()
        peer.wait_gone()

    full = threading.Event()
    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        streams = [client.request() for _ in range(20)]
        client.stalled = {stream.number for stream in streams}
        assert full.wait(10)
        [relay] = proxy.http2_relays(host)
        assert relay._upstream is not None
        assert relay._upstream.end.held_bytes <= HELD_BYTES_MAX + 2 * MIB
        client.library.increment_flow_control_window(64 * MIB)
        for stream in streams:
            client.library.increment_flow_control_window(2 * MIB, stream.number)
        client.flush()
        client.wait_over(*streams)
        assert all(stream.body == body for stream in streams)


def test_an_upstream_that_does_not_read_stops_the_client(proxy: Mitm) -> None:
    """And the request goes on when it reads again."""
    body = noise(3 * MIB)
    go_on = threading.Event()

    def script(peer: Http2Peer) -> None:
        stream = peer.wait_stream()
        peer.stalled.add(stream.number)
        assert go_on.wait(10)
        peer.library.increment_flow_control_window(8 * MIB)
        peer.library.increment_flow_control_window(8 * MIB, stream.number)
        peer.flush()
        peer.wait(lambda: stream.ended)
        assert stream.body == body
        peer.respond(stream.number)
        peer.wait_gone()

    host = proxy.http2_upstream(speaking(script))
    with proxy.http2_client(host) as client:
        stream = client.request(end=False)
        client.wait(lambda: client.library.local_flow_control_window(stream.number) > 65_535)
        done = 0
        while room := min(client.library.local_flow_control_window(stream.number), 16_384):
            client.library.send_data(stream.number, body[done : done + room])
            done += room
        client.flush()
        assert done == STREAM_WINDOW_BYTES
        go_on.set()
        client.send_body(stream.number, body[done:])
        client.wait_over(stream)
        assert stream.ended


def test_upstream_may_take_few_streams_at_once(proxy: Mitm) -> None:
    """The others wait for their turn."""

    def answer(peer: Http2Peer, stream: Stream) -> None:
        assert len([each for each in peer.streams.values() if each.number > stream.number]) < 2
        peer.respond(stream.number, body=b"x")

    host = proxy.http2_upstream(serving(answer, max_concurrent_streams=2))
    with proxy.http2_client(host) as client:
        first = client.request(method=b"GET")
        client.wait_over(first)
        streams = [client.request(method=b"GET") for _ in range(40)]
        client.wait_over(*streams)
        assert all(stream.ended for stream in streams)
