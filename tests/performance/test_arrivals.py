"""What mitm does to know a new connection, counted: calls and system calls. It stays what it is."""

import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from services.mitm.peer import Address, PeerDirectory
from services.mitm.server import SocketName, _accepted, original_address
from services.wire.client_hello import ClientHello, _layouts, read_whole_hello
from tests.support.call_counts import calls_of, is_as_ever, system_calls_of
from tests.support.mitm import Mitm, mitm
from tests.support.raw_upstream import DOMAIN

# Python's and built-in calls for a hello of a dozen extensions, and for who has made a connection.
HELLO_CALLS = 6
OWNER_CALLS = 12
CLIENT_CALLS = 13
# For a connection that begins, up to our half of the handshake, and for one whose client has said that it ends.
ARRIVAL_CALLS = 74
LEAVING_CALLS = 46
# Connections that one client has at once.
CROWD = 8

Ends = tuple[socket.socket, Address, Address]


@pytest.fixture
def directory() -> Iterator[PeerDirectory]:
    with closing(PeerDirectory()) as opened:
        yield opened


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def connect(listening: socket.socket, until: ExitStack) -> Ends:
    """Connect to ourselves; return the server's socket and the client's two addresses."""
    until.enter_context(socket.create_connection(listening.getsockname()))
    accepted, near = listening.accept()
    until.enter_context(accepted)
    return accepted, near, accepted.getsockname()


def hello_of_python() -> bytes:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.example").do_handshake()
    return outgoing.read()


def test_a_hello_takes_as_many_calls_as_ever() -> None:
    """A real one, that comes in one piece, of a client that has been here before."""
    hello, read = hello_of_python(), []
    _layouts.clear()
    read_whole_hello(hello)
    assert is_as_ever(calls_of(lambda: read.append(read_whole_hello(hello))), HELLO_CALLS)
    assert read == [ClientHello(server_name="a.example", protocols=("h2", "http/1.1"))]


def test_a_hello_takes_no_call_for_what_nobody_asks_for() -> None:
    """An extension more is a header read more; of a client that is known, not even that."""

    def with_extensions(count: int) -> bytes:
        extensions = b"".join(number.to_bytes(2) + b"\0\0" for number in range(100, 100 + count))
        body = (
            b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extensions).to_bytes(2) + extensions
        )
        message = b"\x01" + len(body).to_bytes(3) + body
        return b"\x16\x03\x01" + len(message).to_bytes(2) + message

    few, many = (with_extensions(count) for count in (10, 30))
    _layouts.clear()
    _layouts.update(dict.fromkeys(range(1000)))  # no room to learn
    calls = [calls_of(lambda hello=hello: read_whole_hello(hello)) for hello in (few, few, many)]
    assert calls[2] - calls[1] == 20
    _layouts.clear()
    calls = [calls_of(lambda hello=hello: read_whole_hello(hello)) for hello in (few, many, few, many)]
    assert calls[2] == calls[3] < calls[0] < calls[1]


def test_a_connection_is_accepted_in_one_call(listening: socket.socket) -> None:
    """It is a socket like any other, that no program we start would have."""
    with socket.create_connection(listening.getsockname()) as client:
        taken: list[tuple[socket.SocketType, SocketName]] = []
        assert system_calls_of(lambda: taken.append(_accepted(listening))) == {"_accept": 1}
        [(accepted, near)] = taken
        assert near == client.getsockname() and accepted.getpeername() == near
        assert not os.get_inheritable(accepted.fileno())
        client.sendall(b"x")
        assert accepted.recv(2) == b"x"
        accepted.close()


def test_the_owner_of_a_connection_is_asked_for_once(directory: PeerDirectory, listening: socket.socket) -> None:
    """One question to the kernel and its answer; one more where the connection was going."""
    with ExitStack() as until:
        accepted, near, far = connect(listening, until)
        assert system_calls_of(lambda: directory.owner_of(near, far)) == {"send": 1, "recv_into": 1}
        assert is_as_ever(calls_of(lambda: directory.owner_of(near, far)), OWNER_CALLS)
        assert set(system_calls_of(lambda: original_address(accepted, far))) == {"getsockopt"}


def test_a_client_that_is_known_is_not_searched_for(directory: PeerDirectory, listening: socket.socket) -> None:
    """The descriptor, its program and where it is; no list is read, neither of processes nor descriptors."""
    with ExitStack() as until:
        for ends in [connect(listening, until) for _ in range(CROWD)]:
            owner = directory.owner_of(*ends[1:])
            assert owner is not None
            directory.client_of(owner)
    with ExitStack() as until:
        opened = [directory.owner_of(*connect(listening, until)[1:]) for _ in range(CROWD)]
        for owner in islice(cycle(opened), 3 * CROWD):
            assert owner is not None
            assert system_calls_of(lambda owner=owner: directory.client_of(owner)) == {"readlink": 3}
        assert is_as_ever(calls_of(lambda: directory.client_of(opened[0])), CLIENT_CALLS)


def test_connections_that_stay_are_not_looked_at_for_ever(directory: PeerDirectory, listening: socket.socket) -> None:
    """A client that keeps some and makes others for one request each."""
    with ExitStack() as until:
        kept = [directory.owner_of(*connect(listening, until)[1:]) for _ in range(CROWD - 1)]
        for owner in kept:
            assert owner is not None
            directory.client_of(owner)
        counts = []
        for _ in range(2 * CROWD):
            with ExitStack() as soon:
                owner = directory.owner_of(*connect(listening, soon)[1:])
                assert owner is not None
                counts.append(system_calls_of(lambda owner=owner: directory.client_of(owner)))
        assert counts[1] == {"readlink": CROWD + 2}
        assert counts[-1] == {"readlink": 3}


class Visitor:
    """A client that goes on when it is told to; a wake-up of mitm's is then a call, and counted."""

    def __init__(self, proxy: Mitm, host: str) -> None:
        self._proxy = proxy
        self._sock = proxy.dial()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = proxy.context().wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def say_hello(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._sock.sendall(self._outgoing.read())

    def answer(self) -> None:
        self._incoming.write(self._sock.recv(65536))
        self._tls.do_handshake()
        self._sock.sendall(self._outgoing.read())

    def leave(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._sock.sendall(self._outgoing.read())
        self._sock.close()


def test_a_connection_takes_as_many_calls_as_ever(tmp_path: Path) -> None:
    """From its first byte to its last, beside what it is used for."""
    with mitm(tmp_path) as proxy:
        descriptor = proxy.poller._epoll.fileno()
        proxy.call(lambda: proxy.loop.remove_reader(descriptor))

        def wake_up(how: Callable[[Callable[[], None]], Any]) -> Any:
            assert select.select([descriptor], [], [], 10)[0]
            return proxy.call(lambda: how(proxy.poller._dispatch))

        arrivals, leavings = [], []
        for how in (calls_of, calls_of, system_calls_of):
            visitor = Visitor(proxy, f"a.{DOMAIN}")
            visitor.say_hello()
            arrivals.append(wake_up(how))
            visitor.answer()
            wake_up(how)
            visitor.leave()
            leavings.append(wake_up(how))
        proxy.call(lambda: proxy.loop.add_reader(descriptor, proxy.poller._dispatch))
    assert is_as_ever(arrivals[1], ARRIVAL_CALLS)
    assert is_as_ever(leavings[1], LEAVING_CALLS)
    # Two are sent and received: whose the connection is, and the two hellos. (A socket's number is no system call.)
    once = ("poll", "_accept", "setblocking", "getsockopt", "register", "fileno")
    assert arrivals[2] == dict.fromkeys(once, 1) | {"send": 2, "recv_into": 2}
    assert leavings[2] == dict.fromkeys(("poll", "recv_into", "send", "close", "fileno"), 1)
