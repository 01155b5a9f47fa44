"""Who may listen, who may connect, and what becomes of the rest."""

import asyncio
import dataclasses
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from services.mitm import server as module
from services.mitm.arrival import Arrival
from services.mitm.server import Server, _listening_socket, _lock_port, original_address
from services.runtime.run import StartRefused
from tests.support.checkout import free_ports
from tests.support.eventually import eventually
from tests.support.mitm import Mitm, get, mitm, mitm_config, post, response
from tests.support.raw_upstream import answering
from tests.support.tls_end import CLOSE_NOTIFY, TlsEnd, reset

# -- listening -----------------------------------------------------------------


@pytest.fixture
def strangers_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield stranger.getsockname()[1]


def test_a_port_that_is_a_strangers_is_an_error_that_names_it(tmp_path: Path, strangers_port: int) -> None:
    """Even if the stranger would share it."""
    config = dataclasses.replace(mitm_config(tmp_path), port=strangers_port)
    with pytest.raises(StartRefused, match=f"port {strangers_port} .mitm.port. is in use by another program"):
        os.close(_lock_port(config))


def test_a_strangers_shared_port_is_a_strangers_all_the_same(tmp_path: Path) -> None:
    """SO_REUSEPORT would give us half of its connections, and it half of ours."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        config = dataclasses.replace(mitm_config(tmp_path), port=stranger.getsockname()[1])
        with pytest.raises(StartRefused, match="in use by another program"):
            os.close(_lock_port(config))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who is not")
def test_a_port_that_we_may_not_open_is_said_so(tmp_path: Path) -> None:
    """Not as a traceback."""
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first_free <= 1:
        pytest.skip("on this machine everybody may open every port")
    config = mitm_config(tmp_path)
    # The lock is there already: only the port is in question.
    lock = config.run_directory / "port-1.lock"
    lock.touch()
    lock.chmod(0o666)
    program = (
        "import os,pathlib\n"
        "from services.mitm import server\n"
        "os.setuid(65534)\n"
        "class Config: port=1; run_directory=pathlib.Path('.')\n"
        "try: server._lock_port(Config)\n"
        "except server.StartRefused as error: print(error)\n"
    )
    config.run_directory.chmod(0o777)
    command = [sys.executable, "-c", f"import os,sys; sys.path.insert(0,{str(Path.cwd())!r})\n{program}"]
    done = subprocess.run(command, cwd=config.run_directory, capture_output=True, text=True, timeout=20)
    assert done.stdout == "port 1 (mitm.port) cannot be opened: Permission denied\n", done.stderr


def test_workers_of_one_instance_share_a_port(tmp_path: Path) -> None:
    """Both serve; when one has gone the other goes on."""
    config = dataclasses.replace(mitm_config(tmp_path), port=free_ports(1)[0])
    first, second = Mitm(config, None), Mitm(config, None)
    second.upstream_map = first.upstream_map
    first.start()
    second.start()
    try:
        host = first.upstream(answering(response(), times=1000))

        def serves() -> None:
            with first.client(host) as client:
                client.send(get(host))
                assert client.read_head() == response()
                client.close()

        def both_have_served() -> bool:
            serves()
            return all(each.call(each.server.facts)["connections"] for each in (first, second))

        eventually("both workers have served", both_have_served)
        second.close()
        for _ in range(5):
            serves()
    finally:
        first.close()


def test_clients_come_by_ipv4_and_ipv6(proxy: Mitm) -> None:
    """The same port on both, in real life."""
    host = proxy.upstream(answering(response(), times=2))
    for ipv6 in (False, True):
        with proxy.client(host, sock=proxy.dial(ipv6=ipv6)) as client:
            client.send(get(host))
            assert client.read_head() == response()


def test_a_crowd_that_comes_at_once_is_served_to_the_last(proxy: Mitm) -> None:
    """More than are accepted in one wake-up; half of them have spoken by then, and half speak later."""

    def crowd() -> list[socket.socket]:
        clients = [proxy.dial() for _ in range(3 * module._ACCEPTED_AT_ONCE)]
        for client in clients[::2]:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return clients

    with ExitStack() as until:
        clients = [until.enter_context(client) for client in proxy.call(crowd)]
        for client in clients[1::2]:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_small_piece_waits_for_no_other(family: socket.AddressFamily, address: str) -> None:
    """A socket is as the listener was that accepted it, so that it need not be told."""
    with _listening_socket(family, address, 0) as listening:
        with socket.create_connection(listening.getsockname()[:2]):
            listening.setblocking(True)
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_connection_that_no_rule_redirected_has_no_original_address() -> None:
    """Whether or not something tracks connections."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as listening:
            with socket.create_connection(listening.getsockname()[:2]) as client:
                accepted, _ = listening.accept()
                with accepted:
                    assert original_address(accepted, accepted.getsockname()) is None
                    assert client.getpeername()[:2] == accepted.getsockname()[:2]


# -- admission -----------------------------------------------------------------


def refused(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def refused_at_once(proxy: Mitm) -> bool:
    try:
        with proxy.dial() as sock:
            return refused(sock)
    except ConnectionResetError:
        return True


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_user_who_is_not_admitted_is_refused(tmp_path: Path) -> None:
    """And one whom the configuration names is not."""
    nobody = pwd.getpwnam("nobody")
    program = (
        "import socket,sys\n"
        "try:\n"
        "    sock=socket.create_connection(('127.0.0.1',int(sys.argv[1])),timeout=10)\n"
        "    sock.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "    print(sock.recv(12).decode())\n"
        "except ConnectionError: print('refused')\n"
    )

    def told(proxy: Mitm) -> str:
        command = ["/usr/bin/python3", "-c", program, str(proxy.port)]
        done = subprocess.run(command, user=nobody.pw_uid, group=nobody.pw_gid, cwd="/", capture_output=True, text=True)
        return done.stdout.strip() or done.stderr

    with mitm(tmp_path) as proxy:
        assert told(proxy) == "refused"
        assert proxy.call(lambda: proxy.server.facts()["refused"]) == 1
        assert proxy.logged("connection.refused")[0]["reason"] == f"user {nobody.pw_uid} is not admitted"
    with mitm(tmp_path, admit_users=("no-such-user", "nobody")) as proxy:
        assert told(proxy) == "HTTP/1.1 400"


def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    """The next one is refused at once, and taken again when one has gone."""
    with mitm(tmp_path, connections_max=3) as proxy:
        held = [proxy.dial() for _ in range(3)]
        eventually("three are there", lambda: proxy.call(lambda: proxy.server.facts()["live"] == 3))
        assert refused_at_once(proxy)
        assert "3 connections exceed 3" in proxy.logged("connection.refused")[0]["reason"]
        reset(held.pop())
        eventually("one has gone", lambda: proxy.call(lambda: proxy.server.facts()["live"] == 2))
        host = proxy.upstream(answering(response()))
        with proxy.client(host) as client:
            client.send(get(host))
            assert client.read_head() == response()
        for sock in held:
            sock.close()


def test_a_port_that_our_own_connection_has_elsewhere_does_not_shut_a_client_out(proxy: Mitm) -> None:
    """The kernel gives one port to connections with different far ends: only both addresses tell a circle."""
    host = proxy.upstream(answering(response()))
    sock = proxy.dial()
    elsewhere = (sock.getsockname(), ("127.0.0.1", 9))
    proxy.call(lambda: proxy.dialer.own_connections.add(elsewhere))
    with proxy.client(host, sock=sock) as client:
        client.send(get(host))
        assert client.read_head() == response()
    proxy.call(lambda: proxy.dialer.own_connections.remove(elsewhere))


# -- a step that fails ---------------------------------------------------------


def test_a_bug_in_a_deadline_does_not_stop_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that it is about ends; the deadlines of others pass as they should."""
    with mitm(tmp_path, client_hello_timeout_s=0.2) as proxy:
        calls: list[int] = []

        def expire(self: object) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("a bug")
            self.stop()  # type: ignore[attr-defined]

        monkeypatch.setattr("services.mitm.arrival.Arrival.expire", expire)
        for _ in range(3):
            with proxy.dial() as sock:
                assert refused(sock)
        assert len(calls) == 3
        [line] = proxy.logged("step.failed")
        assert line["error"] == "RuntimeError: a bug"
        proxy._sink.lines.remove(line)


def test_a_bug_in_the_first_look_at_a_connection_ends_that_connection(
    proxy: Mitm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one connection's step, although it is taken where connections are accepted."""

    def on_readable(self: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr("services.mitm.arrival.Arrival.on_readable", on_readable)
        assert refused_at_once(proxy)
    [line] = proxy.logged("step.failed")
    proxy._sink.lines.remove(line)
    assert proxy.call(lambda: proxy.server.facts()["live"]) == 0
    assert not refused_once_asked(proxy)


def test_a_bug_in_the_making_of_an_arrival_leaves_nothing_behind(proxy: Mitm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is watched by then; its number is the next connection's."""
    make = Arrival.__init__

    def make_and_fail(self: Arrival, *how: Any) -> None:
        make(self, *how)
        raise RuntimeError("a bug")

    watched = proxy.call(lambda: set(proxy.poller._handlers))
    with monkeypatch.context() as broken:
        broken.setattr(Arrival, "__init__", make_and_fail)
        for _ in range(3):
            assert refused_at_once(proxy)
    assert proxy.call(lambda: set(proxy.poller._handlers)) <= watched
    for line in proxy.logged("arrival.failed"):
        assert line["error"] == "RuntimeError: a bug"
        proxy._sink.lines.remove(line)
    proxy.no_errors()
    assert proxy.call(lambda: proxy.server.facts()["live"]) == 0
    assert not refused_once_asked(proxy)


def refused_once_asked(proxy: Mitm) -> bool:
    with proxy.dial() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return refused(sock)


def test_the_clock_goes_slowly_while_no_deadline_is_near(proxy: Mitm) -> None:
    """Connections that wait for hours cost next to nothing; a new one is looked after as soon as ever."""

    def next_tick() -> float | None:
        ticking = proxy.server._ticking
        return None if ticking is None else (ticking.when() - asyncio.get_running_loop().time()) / module._TICK_S

    host = proxy.upstream(answering(response()))
    with proxy.client(host) as client:
        client.send(get(host))
        assert client.read_head() == response()
        eventually("the clock goes slowly", lambda: (proxy.call(next_tick) or 0) > 1.5)
        with proxy.dial():
            eventually("the clock goes again", lambda: (proxy.call(next_tick) or 9) <= 1)


# -- the end -------------------------------------------------------------------


def test_a_stop_lets_an_exchange_end_and_sends_idle_clients_away(tmp_path: Path) -> None:
    """New connections are refused meanwhile."""
    asked: list[int] = []

    def script(link: TlsEnd) -> None:
        link.read_head()
        asked.append(1)
        eventually("mitm does not listen any more", lambda: not listens(proxy.port))
        link.send(response(body=b"late"))
        link.wait_gone()

    with mitm(tmp_path) as proxy:
        host = proxy.upstream(script)
        idle, busy = proxy.client(host), proxy.client(host)
        with idle, busy, proxy.dial() as silent:
            busy.send(post(host, b"{}"))
            eventually("upstream has been asked", lambda: asked)
            proxy.stop()
            assert idle.read_to_end() == b"" and idle.ending == CLOSE_NOTIFY
            assert refused(silent)
            assert busy.read(len(response(body=b"late"))) == response(body=b"late")
            assert busy.wait_gone() == CLOSE_NOTIFY
        assert proxy.outbox.of(host)[0]["http_status"] == 200


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_stop_breaks_off_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so in the record."""
    monkeypatch.setattr("services.mitm.server.DRAIN_S", 0.1)

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n")
        link.wait_gone()

    with mitm(tmp_path) as proxy:
        host = proxy.upstream(script)
        client = proxy.client(host)
        client.send(post(host, b"{}"))
        client.read_until(b"hello\n")
    with client:
        assert client.wait_gone() == "reset"
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "proxy")
    assert isinstance(proxy.server, Server)
