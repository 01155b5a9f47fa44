"""What is not opened passes as it is: every byte, both ends, counted."""

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from services.mitm.stream import BACKLOG_BYTES_MAX
from services.mitm.tunnel import Tunnel
from tests.support.eventually import eventually
from tests.support.mitm import Mitm
from tests.support.tls_end import reset

MIB = 1024 * 1024
_names = iter(range(1000))


@contextlib.contextmanager
def tunnel(proxy: Mitm, far_end: Callable[[socket.socket], None]) -> Iterator[tuple[socket.socket, str]]:
    """Open a tunnel by CONNECT to a server in clear that runs `far_end`."""
    host = proxy.upstream(lambda link: None, in_clear=far_end, host=f"t{next(_names)}.elsewhere.example")
    sock, head = proxy.tunnelled(f"{host}:443")
    with sock:
        assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
        yield sock, host


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"ended after {len(data)} of {size} bytes"
        data += more
    return data


def tunnels_alive(proxy: Mitm) -> object:
    return proxy.call(lambda: proxy.server.facts()["live"])


def test_bytes_pass_both_ways_at_once(proxy: Mitm) -> None:
    """Any bytes, in any pieces; each end sends while the other does."""
    upwards, downwards = random.Random(1).randbytes(3 * MIB), random.Random(2).randbytes(3 * MIB)
    received: list[bytes] = []

    def far_end(sock: socket.socket) -> None:
        sending = threading.Thread(target=sock.sendall, args=(downwards,))
        sending.start()
        received.append(read_exactly(sock, len(upwards)))
        sending.join()

    with tunnel(proxy, far_end) as (client, host):
        sending = threading.Thread(target=client.sendall, args=(upwards,))
        sending.start()
        assert read_all(client) == downwards
        sending.join()
    assert received == [upwards]
    [record] = proxy.outbox.of(host)
    assert record["bytes"] == {"up": len(upwards), "down": len(downwards)}
    assert (record["schema"], record["endpoint"]) == ("wiremeter.exchange/1", "(tunnel)")
    assert record["timing"]["duration_ms"] >= 0
    assert record["client"]["uid"] == os.getuid()


def test_an_end_may_stop_sending_and_go_on_reading(proxy: Mitm) -> None:
    """A half-close arrives as one, and the other half stays open."""

    def far_end(sock: socket.socket) -> None:
        asked = read_all(sock)
        sock.sendall(asked[::-1])

    with tunnel(proxy, far_end) as (client, _):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"noitseuq"


def waiting_for(proxy: Mitm, side: str) -> int:
    """Return the bytes that wait in our memory for one side of the only tunnel there is."""
    return proxy.call(lambda: max((getattr(each, side).backlog for each in live(proxy)), default=0))


def test_nothing_is_lost_when_the_sender_leaves_before_the_reader_has_read(proxy: Mitm) -> None:
    """Its FIN goes behind what still waits to be sent."""
    sent: list[int] = []
    left = threading.Event()

    def far_end(sock: socket.socket) -> None:
        # A little more than the kernel takes: it waits in mitm, and mitm goes on reading, so that it sees the FIN.
        while not waiting_for(proxy, "_client"):
            sock.sendall(b"x" * 16 * 1024)
            sent.append(16 * 1024)
        sock.shutdown(socket.SHUT_WR)
        left.set()
        sock.recv(1)

    with tunnel(proxy, far_end) as (client, host):
        assert left.wait(10)
        eventually("the FIN has been read", lambda: proxy.call(lambda: any(t._upstream.ended for t in live(proxy))))
        assert waiting_for(proxy, "_client")
        assert len(read_all(client)) == sum(sent)
    assert proxy.outbox.of(host)[0]["bytes"]["down"] == sum(sent)


def live(proxy: Mitm) -> list[Tunnel]:
    return [each for each in proxy.server._live if isinstance(each, Tunnel)]


def test_an_upload_is_not_lost_when_the_client_leaves_at_once(proxy: Mitm) -> None:
    """The same upwards, with an other end that begins to read late."""
    size = 24 * MIB
    received: list[int] = []
    sent = threading.Event()

    def far_end(sock: socket.socket) -> None:
        sock.recv(1)
        sent.wait(0.3)  # a part must be waiting in between
        received.append(1 + len(read_all(sock)))

    with tunnel(proxy, far_end) as (client, _):
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        sent.set()
        assert read_all(client) == b""
    assert received == [size]


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_reset_is_passed_on_as_one(proxy: Mitm, side: str) -> None:
    """Whoever reads must not take it for an end."""
    seen: list[str] = []

    def far_end(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        sock.recv(1)
        if side == "upstream":
            reset(sock)
            return
        try:
            sock.recv(1)
        except ConnectionResetError:
            seen.append("reset")

    with tunnel(proxy, far_end) as (client, _):
        assert read_exactly(client, 5) == b"hello"
        client.sendall(b"x")
        if side == "client":
            reset(client)
            eventually("the far end sees it", lambda: seen)
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_an_end_that_has_left_for_good_does_not_keep_the_processor_busy(proxy: Mitm) -> None:
    """The far end closes while the client stays and goes on talking: the tunnel ends, instead of spinning."""
    with tunnel(proxy, lambda sock: None) as (client, host):
        assert client.recv(1) == b""
        with pytest.raises(OSError):
            eventually("writing fails", lambda: client.send(b"x" * 1000) is None)
    assert proxy.outbox.of(host)[0]["host"] == host


def test_memory_is_bounded_for_a_reader_that_does_not_read(proxy: Mitm) -> None:
    """64 MiB wait outside."""
    may_stop = threading.Event()

    def far_end(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(b"x" * 64 * MIB)
        may_stop.set()

    with tunnel(proxy, far_end) as (client, host):
        read_exactly(client, 1)

        def waiting() -> int:
            return proxy.call(lambda: max(each._client.backlog for each in live(proxy)))

        last: list[int] = []
        eventually("it stands", lambda: last.append(waiting()) or (len(last) > 10 and len(set(last[-10:])) == 1))
        assert 0 < last[-1] <= BACKLOG_BYTES_MAX + 90 * 1024
        assert not may_stop.is_set()
        reset(client)
    assert may_stop.wait(10)
    proxy.outbox.of(host)


def test_the_addresses_of_a_tunnel_that_is_over_are_no_longer_ours(proxy: Mitm) -> None:
    """Else the port's next user would be refused as our own connection, going in a circle."""
    for _ in range(3):
        with tunnel(proxy, lambda sock: None) as (client, host):
            assert client.recv(1) == b""
        proxy.outbox.of(host)
    eventually("no tunnel is alive", lambda: tunnels_alive(proxy) == 0)
    assert proxy.call(lambda: len(proxy.dialer.own_connections)) == 0
