"""Providers are found, verified and kept; what cannot be verified gets no byte of a request."""

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.mitm.authority import make_authority
from tests.support.eventually import eventually
from tests.support.mitm import Mitm, get, mitm, post, response
from tests.support.raw_upstream import DOMAIN, RawUpstream, answering, server_context
from tests.support.tls_end import CLOSE_NOTIFY, TlsEnd


def refusal_of(proxy: Mitm, host: str) -> bytes:
    """Send a request and return the whole answer, which must end cleanly."""
    with proxy.client(host) as client:
        client.send(post(host, b'{"model": "x"}'))
        answer = client.read_to_end()
        assert client.ending == CLOSE_NOTIFY
    return answer


# -- verification --------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "cause"),
    [
        (lambda: server_context("other.upstream.test"), b"Hostname mismatch, certificate is not valid for"),
        (lambda: server_context(age=timedelta(days=9)), b"certificate has expired"),
        (
            lambda: server_context(authority=make_authority([DOMAIN], datetime.now(UTC), "stranger")),
            b"unable to get local issuer certificate",
        ),
    ],
    ids=["wrong host", "expired", "unknown issuer"],
)
def test_a_certificate_that_is_no_good_is_a_502_that_names_the_cause(
    proxy: Mitm, context: Callable[[], ssl.SSLContext], cause: bytes
) -> None:
    """Never silent acceptance: no byte of the request has left."""
    heard: list[bytes] = []
    host = proxy.upstream(lambda link: heard.append(link.receive()), context=context())
    answer = refusal_of(proxy, host)
    assert answer.startswith(b"HTTP/1.1 502 ") and b"x-wiremeter-error: upstream_tls" in answer
    assert b"certificate verify failed: " + cause in answer
    # Under TLS 1.3 the server may be through with its side of the handshake when the alert comes.
    eventually("the connection is over", lambda: heard or proxy.last_upstream.handshake_failures)
    assert b"".join(heard) == b""
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["error_type"], record["bytes"]["up"]) == ("error", "upstream_tls", 14)


def in_clear(answer: bytes) -> Callable[[socket.socket], None]:
    def far_end(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(answer)

    return far_end


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, b""], ids=["plain http", "zeros", "nothing"]
)
def test_an_upstream_that_speaks_no_tls_is_a_502(proxy: Mitm, answer: bytes) -> None:
    """With what there is to say about it."""
    host = proxy.upstream(lambda link: None, in_clear=in_clear(answer))
    told = refusal_of(proxy, host)
    assert told.startswith(b"HTTP/1.1 502 ") and f"TLS with {host} failed: ".encode() in told


def test_an_upstream_that_is_not_there_is_a_502(proxy: Mitm) -> None:
    """The address and the reason are named."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    proxy.upstream_map["gone.upstream.test"] = address
    answer = refusal_of(proxy, "gone.upstream.test")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert f"cannot connect to gone.upstream.test: 127.0.0.1:{address[1]}: ECONNREFUSED" in answer.decode()


def test_a_name_without_an_address_is_a_502(proxy: Mitm) -> None:
    """`upstream.test` is in no DNS."""
    answer = refusal_of(proxy, "nowhere.upstream.test")
    assert answer.startswith(b"HTTP/1.1 502 ") and b"nowhere.upstream.test has no address" in answer


def test_an_upstream_that_stalls_in_the_handshake_is_a_504(impatient: Mitm) -> None:
    """After handshake_timeout_s."""
    over = threading.Event()
    host = impatient.upstream(lambda link: None, in_clear=lambda sock: over.wait(10) and None)
    answer = refusal_of(impatient, host)
    over.set()
    assert answer.startswith(b"HTTP/1.1 504 ") and f"no TLS handshake with {host} within 0.5 s".encode() in answer


def test_an_address_that_does_not_answer_is_given_up(impatient: Mitm) -> None:
    """After connect_timeout_s: a listener whose queue is full takes no connection and refuses none."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listening.getsockname())
            impatient.upstream_map["full.upstream.test"] = listening.getsockname()
            answer = refusal_of(impatient, "full.upstream.test")
        finally:
            for filler in fillers:
                filler.close()
    assert answer.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 504 ")) and b"full.upstream.test" in answer


def test_a_client_that_resets_while_we_dial_is_forgotten(proxy: Mitm) -> None:
    """Nobody waits; the record says that the client broke off, and the connection goes into the pool or away."""
    go_on = threading.Event()

    def far_end(sock: socket.socket) -> None:
        go_on.wait(10)

    host = proxy.upstream(lambda link: None, in_clear=far_end)
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        eventually("mitm dials", lambda: proxy.last_upstream.accepted)
        client.reset()
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("truncated", "client")
    go_on.set()


def test_our_own_authority_is_never_trusted_upstream(tmp_path: Path) -> None:
    """Not even if the user has put it into upstream_ca_file: a loop through ourselves must end."""
    with mitm(tmp_path) as first:
        ours = first.keystore.authority
    path = tmp_path / "both.pem"
    path.write_bytes((tmp_path / "test-authority.pem").read_bytes() + ours.certificate_pem())
    with mitm(tmp_path, ca_file=str(path)) as proxy:
        assert proxy.keystore.authority.certificate == ours.certificate
        host = proxy.upstream(answering(response()), context=server_context(authority=ours))
        assert b"certificate verify failed" in refusal_of(proxy, host)
        trusted = proxy.keystore.upstream_context.get_ca_certs(binary_form=True)
        assert ours.certificate_der() not in trusted and len(trusted) > 10


def test_a_connection_to_ourselves_ends_at_depth_one(proxy: Mitm) -> None:
    """`upstream_map` that points at mitm: the second one is known as our own, closed and reported."""
    before = proxy.call(lambda: proxy.server.facts()["connections"])
    proxy.upstream_map["loop.upstream.test"] = ("127.0.0.1", proxy.port)
    answer = refusal_of(proxy, "loop.upstream.test")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert proxy.call(lambda: proxy.server.facts()["connections"]) == before + 1  # type: ignore[operator]
    assert any("our own" in line["reason"] for line in proxy.logged("connection.refused"))


# -- the race ------------------------------------------------------------------


def test_the_other_family_is_tried_when_the_original_address_is_dead(tmp_path: Path) -> None:
    """A redirect disables the client's own fallback: here IPv6 is refused, and the name has an IPv4 address."""
    upstream = RawUpstream(answering(response()), context=server_context("localhost"))
    with mitm(
        tmp_path, hosts=("localhost.upstream.test", "*.upstream.test"), original=("::1", upstream.address[1])
    ) as proxy:
        context = ssl._create_unverified_context()
        # A name that the system's resolver knows and that is not on the list: the connection is a tunnel.
        with TlsEnd(proxy.dial(), context, server_name="localhost") as client:
            client.send(get("localhost"))
            assert client.read_head() == response()
            client.close()
        assert proxy.outbox.of("localhost")[0]["endpoint"] == "(tunnel)"
    upstream.close()


# -- the pool ------------------------------------------------------------------


def test_idle_connections_are_kept_for_a_while(impatient: Mitm) -> None:
    """Not longer than pool_idle_timeout_s."""
    left: list[str] = []

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(response())
        left.append(link.wait_gone())

    host = impatient.upstream(script)
    with impatient.client(host) as client:
        client.send(get(host))
        client.read_head()
        client.close()
    eventually("it has been closed", lambda: left)
    assert left == [CLOSE_NOTIFY]
    assert impatient.call(lambda: not impatient.pool)


def test_no_more_idle_connections_are_kept_than_pool_size_max(impatient: Mitm) -> None:
    """Of four that were busy at once two are kept."""
    together = threading.Barrier(4)

    def script(link: TlsEnd) -> None:
        link.read_head()
        together.wait(10)
        link.send(response())
        link.wait_gone()

    host = impatient.upstream(script)
    clients = [impatient.client(host) for _ in range(4)]
    for client in clients:
        client.send(get(host))
    for client in clients:
        assert client.read_head() == response()
        client.sock.close()
    kept = impatient.call(lambda: [len(s) for (name, _), s in impatient.pool._idle.items() if name == host])
    assert kept in ([2], [])


@pytest.mark.parametrize("how", ["close", "drop", "reset", "noise"])
def test_a_connection_that_ends_while_it_is_idle_is_not_used(proxy: Mitm, how: str) -> None:
    """Nor one on which something comes that nobody asked for."""
    may_leave = threading.Event()

    def script(link: TlsEnd) -> None:
        link.read_head()
        link.send(response())
        if len(proxy.last_upstream.links) == 1:
            may_leave.wait(10)
            link.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n") if how == "noise" else getattr(link, how)()
        if how == "noise" or len(proxy.last_upstream.links) > 1:
            link.wait_gone()

    host = proxy.upstream(script)
    with proxy.client(host) as client:
        client.send(post(host, b"{}"))
        assert client.read_head() == response()
        may_leave.set()
        eventually("the pool has noticed", lambda: proxy.call(lambda: idle(proxy, host) == 0))
        client.send(post(host, b"{}"))
        assert client.read_head() == response()
    assert len(proxy.last_upstream.links) == 2


def idle(proxy: Mitm, host: str) -> int:
    return sum(not s.closed for (name, _), streams in proxy.pool._idle.items() if name == host for s, _ in streams)
