"""What a new connection turns out to be: redirected TLS, CONNECT, or neither; and what it is told then."""

import base64
import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.mitm.arrival import CONNECT_HEAD_BYTES_MAX
from tests.support.eventually import eventually
from tests.support.mitm import Mitm, get, mitm, post, response
from tests.support.raw_upstream import RawUpstream, answering, server_context
from tests.support.tls_end import CLOSE_NOTIFY, TlsEnd

GARBAGE = [b"\x00\x01\x02\x03", b"\x80\x2e\x01\x00\x02", b"\r\n\r\n", b"\xff" * 5000]


def answer_to(proxy: Mitm, sent: bytes) -> bytes:
    """Send bytes, return everything that comes back; the end must be a clean one."""
    with proxy.dial() as sock:
        sock.sendall(sent)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def client_hello(server_name: str | None, *protocols: str) -> bytes:
    """Return the first bytes of a TLS client."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    context.check_hostname = server_name is not None
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# -- neither -------------------------------------------------------------------


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: data[:6].hex())
def test_garbage_is_told_so(proxy: Mitm, garbage: bytes) -> None:
    """And everything else goes on."""
    answer = answer_to(proxy, garbage)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"begins neither TLS nor a CONNECT request" in answer
    assert b"x-wiremeter-error: request_invalid" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT example.com HTTP/1.1\r\nHost: example.com\r\n\r\n", 400),
        (b"CONNECT example.com:0 HTTP/1.1\r\nHost: example.com\r\n\r\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT example.com:443\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000, 431),
    ],
)
def test_plain_http_and_bad_connect_requests_are_refused(proxy: Mitm, sent: bytes, status: int) -> None:
    """With a status, a JSON error and a clean end."""
    answer = answer_to(proxy, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and b'"message":"wiremeter: ' in answer
    if status == 431:
        assert f"exceeds {CONNECT_HEAD_BYTES_MAX}".encode() in answer


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 70 + ".example", "\x80\xff", "no-such-host.invalid"])
def test_connect_to_what_is_no_host_is_a_502(proxy: Mitm, host: str) -> None:
    """And the process lives."""
    answer = answer_to(proxy, f"CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 400 ")), answer
    assert answer_to(proxy, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400")


ALERT = b"\x15\x03\x03\x00\x02\x02"
UNRECOGNIZED_NAME, DECODE_ERROR, NO_APPLICATION_PROTOCOL = b"\x70", b"\x32", b"\x78"


@pytest.mark.parametrize("name", [None, "elsewhere.example"])
def test_direct_tls_to_nowhere_gets_an_alert(proxy: Mitm, name: str | None) -> None:
    """Nothing says where it should go."""
    assert answer_to(proxy, client_hello(name)) == ALERT + UNRECOGNIZED_NAME


@pytest.mark.parametrize(
    "hello",
    [
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x02\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x04\x01\x00\xff\xff",
        client_hello("h0.upstream.test")[:43] + b"\xff" + client_hello("h0.upstream.test")[44:],
    ],
    ids=["empty record", "no hello", "no version", "too long a record", "too long a hello", "too long a session id"],
)
def test_a_malformed_client_hello_gets_an_alert(proxy: Mitm, hello: bytes) -> None:
    """`decode_error`, RFC 8446 §6.2."""
    assert answer_to(proxy, hello) == ALERT + DECODE_ERROR


def test_a_client_of_tls_1_1_gets_an_alert(proxy: Mitm) -> None:
    """`protocol_version`: nothing below TLS 1.2 is spoken."""
    context = ssl.create_default_context()
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)alert.protocol.version"):
        proxy.client("h.upstream.test", context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("split", [1, 100, 100_000])
def test_a_client_hello_may_come_in_pieces(proxy: Mitm, version: ssl.TLSVersion, split: int) -> None:
    """Byte by byte, for one; the handshake completes and the exchange passes."""
    host = proxy.upstream(answering(response()))
    context = proxy.context()
    context.minimum_version = context.maximum_version = version
    near, far = socket.socketpair()
    with proxy.dial() as sock, near, far:

        def pass_on(source: socket.socket, sink: socket.socket, size: int) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(size):
                    sink.sendall(data)

        threads = [
            threading.Thread(target=pass_on, args=(far, sock, split), daemon=True),
            threading.Thread(target=pass_on, args=(sock, far, 65536), daemon=True),
        ]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for thread in threads:
            thread.start()
        with _over_pair(near, context, host) as client:
            client.send(get(host))
            assert client.read_head() == response()
            client.close()
        far.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


class _PairEnd(TlsEnd):
    """A TLS end on a UNIX socket pair, which has no TCP options."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        super().__init__(_WithoutOptions(sock), context, server_name=name)  # type: ignore[arg-type]


class _WithoutOptions:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> object:
        return (lambda *_: None) if name == "setsockopt" else getattr(self._sock, name)


def _over_pair(sock: socket.socket, context: ssl.SSLContext, name: str) -> TlsEnd:
    return _PairEnd(sock, context, name)


# -- CONNECT -------------------------------------------------------------------


def test_connect_to_a_listed_host_is_read(proxy: Mitm) -> None:
    """The proxy credentials carry the client's label."""
    host = proxy.upstream(answering(response()))
    label = base64.b64encode(b"my agent:anything").decode()
    sock, head = proxy.tunnelled(f"{host}:443", f"Proxy-Authorization: Basic {label}")
    assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
    with proxy.client(host, sock=sock) as client:
        client.send(post(host, b"{}"))
        assert client.read_head() == response()
    [record] = proxy.outbox.of(host)
    assert record["client"]["label"] == "my agent"


def test_connect_carries_the_run_as_its_password(proxy: Mitm) -> None:
    """What `wiremeter run` started is known by it; a password of any other shape is nobody's run."""
    for password, run in (("01KAS1QZ7A", "01KAS1QZ7A"), ("not an id", None)):
        host = proxy.upstream(answering(response()))
        credentials = base64.b64encode(f"mine:{password}".encode()).decode()
        sock, _ = proxy.tunnelled(f"{host}:443", f"Proxy-Authorization: Basic {credentials}")
        with proxy.client(host, sock=sock) as client:
            client.send(post(host, b"{}"))
            client.read_head()
        [record] = proxy.outbox.of(host)
        assert (record["client"]["label"], record["client"]["run"]) == ("mine", run)


@pytest.mark.parametrize(
    ("credentials", "label"),
    [("Basic eA==", "x"), ("basic " + base64.b64encode(b"a" * 100 + b":p").decode(), "a" * 64)]
    + [(bad, None) for bad in ("Basic !!", "Bearer eA==", "Basic /w==", "Basic Og==", "")],
)
def test_a_label_is_taken_from_readable_credentials_only(proxy: Mitm, credentials: str, label: str | None) -> None:
    """Others are no reason to refuse."""
    host = proxy.upstream(answering(response()))
    sock, _ = proxy.tunnelled(f"{host}:443", f"Proxy-Authorization: {credentials}")
    with proxy.client(host, sock=sock) as client:
        client.send(get(host))
        client.read_head()
    [record] = proxy.outbox.of(host)
    assert record["client"]["label"] == label


def test_connect_and_client_hello_may_come_together(proxy: Mitm) -> None:
    """A client may be sure of the answer."""
    host = proxy.upstream(answering(response()))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = proxy.context().wrap_bio(incoming, outgoing, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    with proxy.dial() as sock:
        sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() + outgoing.read())
        data = b""
        while not data.startswith(b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03"):
            more = sock.recv(65536)
            assert more, data
            data += more


def test_connect_to_an_address_with_a_listed_name_inside_is_read(proxy: Mitm) -> None:
    """The name in the ClientHello decides, and the address is where the connection goes."""
    upstream = RawUpstream(answering(response()))
    try:
        sock, _ = proxy.tunnelled(f"127.0.0.1:{upstream.address[1]}")
        with proxy.client("by-address.upstream.test", sock=sock) as client:
            client.send(get("h"))
            assert client.read_head() == response()
        assert proxy.outbox.of("by-address.upstream.test")
        proxy.call(proxy.pool.close)
    finally:
        upstream.close()


def test_connect_to_an_address_without_a_listed_name_is_a_tunnel(proxy: Mitm) -> None:
    """The client speaks TLS with the other end itself, and sees its certificate."""
    context = server_context("elsewhere.example")
    upstream = RawUpstream(answering(response()), context=context)
    try:
        sock, _ = proxy.tunnelled(f"127.0.0.1:{upstream.address[1]}")
        client_context = ssl._create_unverified_context()
        with proxy.client("elsewhere.example", context=client_context, sock=sock) as client:
            client.send(get("h"))
            assert client.read_head() == response()
            assert client.peer_certificate == upstream.links[0].tls.getpeercert(True) or client.peer_certificate
            client.close()
    finally:
        upstream.close()
    [record] = proxy.outbox.of("127.0.0.1")
    assert record["endpoint"] == "(tunnel)" and record["bytes"]["down"] > 0


@pytest.mark.parametrize("first", [b"SSH-2.0-x\r\n", b"\x00\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_connect_to_a_listed_host_may_carry_something_else(proxy: Mitm, first: bytes) -> None:
    """What is not TLS is none of ours: passed through."""
    received: list[bytes] = []

    def far_end(sock: socket.socket) -> None:
        received.append(sock.recv(100))
        sock.sendall(b"hello")

    host = proxy.upstream(lambda link: None, in_clear=far_end)
    sock, _ = proxy.tunnelled(f"{host}:443")
    with sock:
        sock.sendall(first)
        assert sock.recv(100) == b"hello"
    assert received == [first]


def test_connect_that_cannot_be_reached_is_a_502_with_the_reason(proxy: Mitm) -> None:
    """The client has sent nothing else yet, so that it can be told."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy.upstream_map["gone.elsewhere.example"] = closed.getsockname()
    answer = answer_to(proxy, b"CONNECT gone.elsewhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502 ") and b"x-wiremeter-error: upstream_connect" in answer
    assert b"ECONNREFUSED" in answer


def test_a_client_that_offers_no_http_is_passed_through_and_logged(proxy: Mitm) -> None:
    """It would not get along with us."""
    context = server_context()
    context.set_alpn_protocols(["spdy/3"])
    host = proxy.upstream(lambda link: link.close(), context=context)
    client_context = ssl._create_unverified_context()
    client_context.set_alpn_protocols(["spdy/3"])
    sock, _ = proxy.tunnelled(f"{host}:443")
    with proxy.client(host, context=client_context, sock=sock) as client:
        assert client.tls.selected_alpn_protocol() == "spdy/3"
        assert client.wait_gone() == CLOSE_NOTIFY
        client.close()
    assert proxy.outbox.of(host)[0]["endpoint"] == "(tunnel)"
    assert [line["host"] for line in proxy.logged("connection.unread")].count(host) == 1


def test_a_client_that_offers_no_http_and_came_directly_gets_an_alert(proxy: Mitm) -> None:
    """`no_application_protocol`."""
    assert answer_to(proxy, client_hello("h0.upstream.test", "spdy/3")) == ALERT + NO_APPLICATION_PROTOCOL


# -- time ----------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x16", b"CONN", b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_client_that_does_not_say_what_it_wants_is_closed(impatient: Mitm, sent: bytes) -> None:
    """After client_hello_timeout_s, silently: nobody listens for a reason."""
    answer = answer_to(impatient, sent)
    assert answer in (b"", b"HTTP/1.1 200 Connection established\r\n\r\n")
    assert impatient.logged("arrival.expired")


def test_a_handshake_that_does_not_go_on_is_closed(impatient: Mitm) -> None:
    """After handshake_timeout_s."""
    assert answer_to(impatient, client_hello("h.upstream.test")).startswith(b"\x16\x03\x03")
    assert impatient.logged("arrival.expired")[-1]["phase"] == "awaiting the end of the handshake"


# -- redirected ----------------------------------------------------------------


@pytest.fixture
def redirected(tmp_path: Path) -> Iterator[tuple[Mitm, RawUpstream]]:
    """A mitm whose clients all wanted to go to one upstream, as a redirect rule would bring them."""
    upstream = RawUpstream(answering(response()), context=server_context("*.upstream.test"))
    with mitm(tmp_path, original=upstream.address) as proxy:
        yield proxy, upstream
    upstream.close()


def test_a_redirected_client_of_a_listed_host_is_read(redirected: tuple[Mitm, RawUpstream]) -> None:
    """And goes where it wanted to go."""
    proxy, upstream = redirected
    with proxy.client("a.upstream.test") as client:
        client.send(get("a.upstream.test"))
        assert client.read_head() == response()
    assert len(upstream.links) == 1
    assert proxy.outbox.of("a.upstream.test")


@pytest.mark.parametrize("name", [None, "elsewhere.example"])
def test_a_redirected_client_of_another_host_passes_unopened(
    redirected: tuple[Mitm, RawUpstream], name: str | None
) -> None:
    """With or without a name, to the original address."""
    proxy, upstream = redirected
    context = ssl._create_unverified_context()
    with TlsEnd(proxy.dial(), context, server_name=name) as client:
        client.send(get("h"))
        assert client.read_head() == response()
        assert client.peer_certificate not in (None, proxy.keystore.authority.certificate_der())
        client.close()
    [record] = proxy.outbox.of(name or upstream.address[0])
    assert record["endpoint"] == "(tunnel)" and record["bytes"]["up"] > 0


def test_a_redirected_client_sees_no_connection_where_there_is_none(tmp_path: Path) -> None:
    """A reset, which is what it would have seen without us, and no HTTP inside its TLS."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with mitm(tmp_path, original=address) as proxy, proxy.dial() as sock:
        sock.sendall(client_hello("elsewhere.example"))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# -- clients that do not trust us ----------------------------------------------


def distrusted(proxy: Mitm) -> list[str]:
    return [each.detail for each in proxy.call(proxy.server.missing) if each.what == "trust"]


def by_python(proxy: Mitm, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        proxy.client(host, context=ssl.create_default_context())


def by_curl(proxy: Mitm, host: str) -> None:
    command = ["curl", "-sS", "--max-time", "10", "--connect-to", f"{host}:443:127.0.0.1:{proxy.port}"]
    done = subprocess.run([*command, f"https://{host}/"], capture_output=True, text=True)
    assert done.returncode == 60, done.stderr  # CURLE_PEER_FAILED_VERIFICATION


GO_CLIENT = """
package main

import ("crypto/tls"; "fmt"; "os")

func main() {
	_, err := tls.Dial("tcp", os.Args[1], &tls.Config{ServerName: os.Args[2]})
	fmt.Println(err)
}
"""


def by_go(proxy: Mitm, host: str) -> None:
    folder = proxy.config.run_directory / "go"
    folder.mkdir(exist_ok=True)
    (folder / "main.go").write_text(GO_CLIENT)
    environment = {**os.environ, "GOFLAGS": "", "GO111MODULE": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    if not (folder / "client").exists():
        command = ["go", "build", "-o", "client", "main.go"]
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=300)
    done = subprocess.run([folder / "client", f"127.0.0.1:{proxy.port}", host], capture_output=True, text=True)
    assert "certificate signed by unknown authority" in done.stdout


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(by_python, id="python"),
        pytest.param(by_curl, id="curl"),
        pytest.param(by_go, id="go", marks=pytest.mark.go),
    ],
)
def test_a_client_that_distrusts_us_is_named_in_health(
    proxy: Mitm, client: Callable[[Mitm, str], None], request: pytest.FixtureRequest
) -> None:
    """Per host: it is the one diagnosis that users need."""
    if client is not by_python:
        _need(client.__name__.removeprefix("by_"))
    host = f"{request.node.callspec.id}.upstream.test"
    client(proxy, host)
    client(proxy, host)
    [detail] = eventually("it is counted", lambda: [each for each in distrusted(proxy) if host in each])
    assert f"a client of {host} refused our certificate 2 times" in detail


def test_a_client_that_leaves_without_a_word_is_named_until_one_speaks(proxy: Mitm) -> None:
    """Node.js says nothing at all when it distrusts a certificate."""
    host = proxy.upstream(answering(response()))
    with proxy.client(host) as client:
        client.close()
    eventually("it is counted", lambda: [each for each in distrusted(proxy) if f"all 1 clients of {host}" in each])
    with proxy.client(host) as client:
        client.send(get(host))
        client.read_head()
    assert not [each for each in distrusted(proxy) if host in each]


@pytest.mark.node
def test_node_which_says_nothing_is_noticed_all_the_same(proxy: Mitm) -> None:
    """It ends the connection without an alert."""
    _need("node")
    program = (
        "require('tls').connect({port: +process.argv[1], host: '127.0.0.1', servername: process.argv[2]})"
        ".on('error', error => console.log(error.code))"
    )
    host = "node.upstream.test"
    done = subprocess.run(["node", "-e", program, str(proxy.port), host], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() in ("UNABLE_TO_VERIFY_LEAF_SIGNATURE", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"), done
    eventually("it is named", lambda: [each for each in distrusted(proxy) if host in each])


def _need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on PATH")


def test_curl_reads_through_connect(proxy: Mitm) -> None:
    """Other people's client, other people's TLS."""
    _need("curl")
    host = proxy.upstream(answering(response(body=b"hello")))
    command = ["curl", "-sS", "--max-time", "10", "--proxy", f"http://me:x@127.0.0.1:{proxy.port}"]
    done = subprocess.run(
        [*command, "--cacert", str(proxy.config.trust_bundle), f"https://{host}/"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello", "")
    client = proxy.outbox.of(host)[0]["client"]
    assert (client["executable"], client["label"], client["uid"]) == ("curl", "me", os.getuid())


def test_the_standard_library_reads_through_connect(proxy: Mitm) -> None:
    """`http.client`, over IPv6."""
    host = proxy.upstream(answering(response(body=b"hello")))
    connection = http.client.HTTPSConnection("::1", proxy.ipv6_port, timeout=10, context=proxy.context())
    connection.set_tunnel(host)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"
    connection.close()
