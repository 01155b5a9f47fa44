"""One socket: what it reads and sends, with and without TLS, and how it leaves."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from services.mitm.poller import Poller
from services.mitm.stream import BROKEN_OFF, ENDED, KEPT, NOTHING_YET, Passage, Scratch, Stream, TlsFailed
from services.runtime.logs import Logs
from tests.support.raw_upstream import server_context, upstream_authority
from tests.support.tls_end import CLOSE_NOTIFY, RESET, TlsEnd, reset

HOST = "a.upstream.test"


class Loop:
    """Runs callbacks when the test says so; the poller needs nothing else of an event loop."""

    def __init__(self) -> None:
        self._soon: list[object] = []

    def add_reader(self, *_: object) -> None:
        pass

    def remove_reader(self, *_: object) -> None:
        pass

    def call_soon(self, callback: object) -> None:
        self._soon.append(callback)

    def run(self) -> None:
        while self._soon:
            self._soon.pop(0)()  # type: ignore[operator]


class Lines:
    def __init__(self) -> None:
        self.text = b""

    def write(self, line: bytes, /) -> object:
        self.text += line
        return None

    def flush(self) -> object:
        return None


class Bench:
    """A stream in the test's hands, and the socket at its other end."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.lines = Lines()
        self.poller = Poller(self.loop, Logs("test", sink=self.lines))  # type: ignore[arg-type]
        self.scratch = Scratch()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.far = socket.create_connection(listening.getsockname(), timeout=10)
            near, _ = listening.accept()
        near.setblocking(False)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.near = near
        self.stream = Stream(near, self.poller, self.scratch)
        self.drained = 0

    def watch(self) -> None:
        """Read what comes into `received` until the end, which `ending` says."""
        self.received = bytearray()
        self.ending: int | str | None = None
        self.stream.watch(self._on_readable, self._on_drained)

    def _on_readable(self) -> None:
        try:
            size = self.stream.receive()
        except TlsFailed as error:
            self.ending = str(error)
            self.stream.close()
            return
        if size > 0:
            self.received += self.scratch.plain_view[:size]
        elif size != NOTHING_YET:
            self.ending = size
            self.stream.pause()

    def _on_drained(self) -> None:
        self.drained += 1

    def turn(self) -> None:
        """Wait for readiness and handle it."""
        assert self.poller._epoll.poll(10), "nothing happens"
        self.poller._dispatch()
        self.loop.run()

    def shake_hands(self, *, client_context: ssl.SSLContext | None = None) -> TlsEnd:
        """Serve TLS on the stream and return the client's end of it."""
        context = client_context or ssl.create_default_context(cadata=upstream_authority().certificate_pem().decode())
        ends: list[TlsEnd | Exception] = []

        def connect() -> None:
            try:
                ends.append(TlsEnd(self.far, context, server_name=HOST))
            except Exception as error:
                ends.append(error)

        connecting = threading.Thread(target=connect)
        connecting.start()
        self.stream.start_tls(server_context(), server_side=True)
        self.near.setblocking(True)
        self.near.settimeout(10)
        while not self.stream.handshake():
            assert self.stream.receive_handshake() > 0
        self.near.setblocking(False)
        connecting.join()
        [end] = ends
        if isinstance(end, Exception):
            raise end
        return end

    def close(self) -> None:
        self.stream.abort()
        self.loop.run()
        self.poller.close()
        self.far.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.close()


# -- in clear ------------------------------------------------------------------


def test_bytes_are_read_into_the_shared_buffer(bench: Bench) -> None:
    """As many as there are; nothing is no end."""
    assert bench.stream.receive() == NOTHING_YET
    bench.far.sendall(b"hello")
    bench.watch()
    bench.turn()
    assert bench.received == b"hello" and bench.ending is None


def test_a_fin_is_an_end_and_a_reset_is_none(bench: Bench) -> None:
    """In clear nothing else can be told."""
    bench.watch()
    bench.far.shutdown(socket.SHUT_WR)
    bench.turn()
    assert bench.ending == ENDED and bench.stream.ended


def test_a_reset_breaks_off(bench: Bench) -> None:
    """Also a stream that is paused hears of it."""
    bench.watch()
    bench.stream.pause()
    reset(bench.far)
    bench.turn()
    assert bench.ending == BROKEN_OFF


def test_what_the_socket_does_not_take_is_kept_and_sent_in_order(bench: Bench) -> None:
    """`backlog` says how much; `on_drained` comes once, when it is gone; a FIN waits behind it."""
    bench.watch()
    data = bytes(range(256)) * 65536  # 16 MiB
    bench.stream.send(data[:1000])
    assert bench.stream.backlog == 0
    bench.stream.send(data[1000:-10])
    backlog = bench.stream.backlog
    assert backlog > 0
    bench.stream.send(data[-10:])
    assert bench.stream.backlog == backlog + 10
    bench.stream.shut_writing()
    received = bytearray()
    reading = threading.Thread(target=lambda: received.extend(b"".join(iter(lambda: bench.far.recv(65536), b""))))
    reading.start()
    while bench.stream.backlog:
        bench.turn()
    reading.join(10)
    assert received == data and bench.drained == 1


def test_sending_to_one_who_has_gone_does_not_raise(bench: Bench) -> None:
    """The next read says it."""
    bench.watch()
    reset(bench.far)
    bench.stream.send(b"x")
    bench.stream.send(b"x")
    assert bench.stream.sent_failed
    bench.turn()
    assert bench.ending == BROKEN_OFF


def test_closing_with_something_unsent_is_a_reset(bench: Bench) -> None:
    """Else the peer would take what it has for everything."""
    bench.watch()
    bench.stream.send(b"x" * 16_000_000)
    assert bench.stream.backlog
    bench.stream.close()
    bench.loop.run()
    with pytest.raises(ConnectionResetError):
        while bench.far.recv(1_000_000):
            pass


def test_closing_twice_and_aborting_behind_it_is_nothing(bench: Bench) -> None:
    """`on_closed` is called once."""
    closed: list[int] = []
    bench.watch()
    bench.stream.on_closed = lambda: closed.append(1)
    bench.stream.close()
    bench.stream.close()
    bench.stream.abort()
    bench.stream.pause()
    bench.stream.resume()
    bench.loop.run()
    assert closed == [1] and bench.far.recv(1) == b""


# -- under TLS -----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 65_536, 3_000_000])
def test_tls_carries_any_size_both_ways(bench: Bench, size: int) -> None:
    """In as many reads and records as it takes."""
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    with bench.shake_hands() as client:
        bench.watch()
        sending = threading.Thread(target=client.send, args=(data,))
        sending.start()
        while len(bench.received) < size:
            bench.turn()
        sending.join()
        assert bench.received == data
        back: list[bytes] = []
        reading = threading.Thread(target=lambda: back.append(client.read(size)))
        reading.start()
        bench.stream.send(data)
        while bench.stream.backlog:
            bench.turn()
        reading.join()
        assert back == [data]


def test_many_small_records_come_out_of_one_read(bench: Bench) -> None:
    """Nothing stays behind in the TLS layer, where no readiness would tell of it."""
    with bench.shake_hands() as client:
        bench.watch()
        client.send(*[b"%05d" % n for n in range(500)])
        while len(bench.received) < 2500:
            bench.turn()
        assert bench.received == b"".join(b"%05d" % n for n in range(500))


def test_close_notify_is_an_end_also_when_it_comes_with_data(bench: Bench) -> None:
    """`ended` is true with the last bytes already."""
    with bench.shake_hands() as client:
        bench.watch()
        client.send(b"last")
        client.say_close()
        while not bench.stream.ended:
            bench.turn()
        assert bench.received == b"last"
        bench.stream.close()
        bench.loop.run()
        assert client.wait_gone() == CLOSE_NOTIFY


@pytest.mark.parametrize("how", ["drop", "reset"])
def test_an_end_without_close_notify_breaks_off(bench: Bench, how: str) -> None:
    """A truncated message must not look whole."""
    with bench.shake_hands() as client:
        bench.watch()
        client.send(b"half")
        while not bench.received:
            bench.turn()
        getattr(client, how)()
        bench.turn()
        assert (bench.received, bench.ending) == (b"half", BROKEN_OFF)


def test_a_clean_close_sends_close_notify_and_fin(bench: Bench) -> None:
    """In that order, behind the data."""
    with bench.shake_hands() as client:
        bench.watch()
        bench.stream.send(b"bye")
        bench.stream.close()
        bench.loop.run()
        assert (client.read_to_end(), client.ending) == (b"bye", CLOSE_NOTIFY)
        assert client.sock.recv(1) == b""


@pytest.mark.parametrize("before", [b"", b"x" * 100], ids=["alone", "behind data"])
def test_whoever_has_said_goodbye_hears_it_too(bench: Bench, before: bytes) -> None:
    """RFC 5246 §7.2.1: close_notify is answered by one, and the FIN behind it comes from closing the socket."""
    client = bench.shake_hands()
    bench.watch()
    client.send(before)
    client.say_close()
    while bench.ending is None:
        bench.turn()
        if bench.stream.ended:
            break
    bench.stream.close()
    bench.loop.run()
    assert client.wait_gone() == CLOSE_NOTIFY
    assert client.sock.recv(1) == b""


def test_nothing_is_decrypted_where_nothing_has_come(bench: Bench) -> None:
    """The end of a handshake often comes alone; what comes with it is found."""
    client = bench.shake_hands()
    assert bench.stream.receive_decrypted() == NOTHING_YET
    client.tls.write(b"early")
    bench.stream.feed_tls(client._outgoing.read())
    assert bench.stream.receive_decrypted() == 5
    assert bench.scratch.plain[:5] == b"early"


def test_an_abort_sends_neither(bench: Bench) -> None:
    """A reset."""
    with bench.shake_hands() as client:
        bench.watch()
        bench.stream.abort()
        bench.loop.run()
        assert client.wait_gone() == RESET


@pytest.mark.parametrize("before", [b"", b"good data"], ids=["alone", "behind good data"])
def test_a_bad_record_is_answered_with_an_alert(bench: Bench, before: bytes) -> None:
    """Good data before it is handed out; sending afterwards is harmless."""
    with bench.shake_hands() as client:
        bench.watch()
        client.tls.write(before) if before else None
        client.send_raw(client._outgoing.read() + b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
        while bench.ending is None:
            bench.stream.send(b"data")
            bench.turn()
        bench.loop.run()
        assert bench.received == before
        client.read_to_end()
        assert client.ending is not None and ("alert bad record mac" in client.ending.replace("_", " "))


def test_an_alert_of_the_peers_is_told_in_words(bench: Bench) -> None:
    """A client that distrusts us says so, and OpenSSL knows how."""
    with pytest.raises(TlsFailed, match="alert unknown ca"):
        with contextlib.suppress(ssl.SSLError):
            bench.shake_hands(client_context=ssl.create_default_context())


def test_a_handshake_that_ends_breaks_off(bench: Bench) -> None:
    """Whatever way."""
    bench.stream.start_tls(server_context(), server_side=True)
    assert bench.stream.handshake() is False
    assert bench.stream.receive_handshake() == NOTHING_YET
    bench.far.close()
    bench.near.setblocking(True)
    assert bench.stream.receive_handshake() == BROKEN_OFF


# -- a handler that fails ------------------------------------------------------


def test_a_handler_that_fails_ends_its_own_connection(bench: Bench) -> None:
    """It is logged with its traceback, the owner hears of it, and the socket is closed in any case."""
    heard: list[int] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    bench.stream.watch(fail, on_failed=lambda: heard.append(1))
    bench.far.sendall(b"x")
    bench.turn()
    assert heard == [1] and bench.stream.closed
    assert b"handler.failed" in bench.lines.text and b"a bug" in bench.lines.text
    with pytest.raises(ConnectionResetError):
        bench.far.recv(1)


# -- from one to another -------------------------------------------------------


class Passing:
    """A passage between two streams under TLS, and the ends beyond them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.source, self.sink = (stack.enter_context(contextlib.closing(Bench())) for _ in range(2))
        self.provider, self.client = (stack.enter_context(each.shake_hands()) for each in (self.source, self.sink))
        self.seen: list[bytes] = []
        self.is_simple = True
        self.passage = Passage(self.source.stream, self.sink.stream, self.source.scratch, self._follow)

    def _follow(self, data: bytearray, view: memoryview, size: int) -> bool:
        assert data[:size] == view[:size]
        self.seen.append(bytes(view[:size]))
        return self.is_simple

    def step_on(self, data: bytes) -> int:
        """Let the provider send, and take one step when it has come."""
        self.provider.send(data)
        return self.step()

    def step(self) -> int:
        assert select.select([self.source.near], [], [], 10)[0], "nothing has come"
        return self.passage.step()


@pytest.fixture
def passing() -> Iterator[Passing]:
    with contextlib.ExitStack() as stack:
        yield Passing(stack)


def test_a_piece_is_seen_and_passes_in_one_step(passing: Passing) -> None:
    """In order; and where nothing has come, nothing happens."""
    for data in (b"one", b"two" * 5000):
        assert passing.step_on(data) == NOTHING_YET
        assert passing.client.read(len(data)) == data
        assert passing.seen.pop() == data
    assert passing.passage.step() == NOTHING_YET
    assert passing.seen == []


def test_a_piece_that_needs_another_look_is_handed_to_the_caller(passing: Passing) -> None:
    """It has not been sent."""
    passing.is_simple = False
    assert passing.step_on(b"look") == 4
    assert passing.source.scratch.plain[:4] == b"look"
    passing.is_simple = True
    assert passing.step_on(b"next") == NOTHING_YET
    assert passing.client.read(4) == b"next"


def test_several_records_and_the_end_are_handed_to_the_caller_as_from_a_receive(passing: Passing) -> None:
    """Only one record at a time is simple."""
    passing.provider.tls.write(b"a")
    passing.provider.tls.write(b"b")
    assert passing.step_on(b"c") == 3
    assert passing.source.scratch.plain[:3] == b"abc"
    passing.provider.tls.write(b"last")
    with contextlib.suppress(ssl.SSLError):
        passing.provider.tls.unwrap()
    passing.provider.send_raw(passing.provider._outgoing.read())
    assert (passing.step(), passing.source.stream.ended) == (4, True)
    assert passing.seen == []
    passing.provider.sock.shutdown(socket.SHUT_WR)
    assert passing.step() == ENDED


def test_half_a_record_is_waited_for(passing: Passing) -> None:
    """It passes when the rest is there."""
    passing.provider.tls.write(b"whole")
    record = passing.provider._outgoing.read()
    passing.provider.send_raw(record[:9])
    assert passing.step() == NOTHING_YET
    passing.provider.send_raw(record[9:])
    assert passing.step() == NOTHING_YET
    assert passing.client.read(5) == b"whole"


def test_an_end_and_a_bad_record_are_told_as_by_receive(passing: Passing) -> None:
    """A reset breaks off, nonsense fails."""
    passing.provider.send_raw(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    with pytest.raises(TlsFailed):
        passing.step()
    reset(passing.provider.sock)
    assert passing.step() == BROKEN_OFF


def test_what_the_sink_does_not_take_is_kept_in_order(passing: Passing) -> None:
    """The caller is told, and may pause."""
    data = bytes(range(256)) * 32
    sent = bytearray()
    while (size := passing.step_on(data)) == NOTHING_YET:
        sent += data
    assert size == KEPT
    sent += data
    assert passing.sink.stream.backlog > 0
    assert passing.step_on(b"behind it") == KEPT
    sent += b"behind it"
    passing.sink.watch()
    received = bytearray()
    reading = threading.Thread(target=lambda: received.extend(passing.client.read(len(sent))))
    reading.start()
    while passing.sink.stream.backlog:
        passing.sink.turn()
    reading.join(10)
    assert received == sent


def test_a_sink_that_has_gone_is_no_error_of_the_source(passing: Passing) -> None:
    """The reason comes out of the sink's next receive."""
    reset(passing.client.sock)
    assert select.select([passing.sink.near], [], [], 10)[0]
    assert passing.step_on(b"lost") == NOTHING_YET
    assert passing.sink.stream.sent_failed
