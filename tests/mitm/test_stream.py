"""One socket: what it reads and sends, with and without TLS, and how it leaves."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from services.mitm.convoy import PIECES_MAX
from services.mitm.stream import BROKEN_OFF, ENDED, NOTHING_YET, TlsFailed
from tests.support.raw_upstream import server_context
from tests.support.stream_bench import Bench
from tests.support.tls_end import CLOSE_NOTIFY, RESET, reset


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


@pytest.mark.parametrize("is_watched", [True, False], ids=["used before", "never used"])
def test_what_comes_while_a_stream_rests_closes_it(bench: Bench, is_watched: bool) -> None:
    """It reads also if it was paused, and whoever used it hears nothing."""
    if is_watched:
        bench.watch()
    bench.stream.pause()
    bench.stream.rest()
    assert not bench.stream.closed
    bench.far.sendall(b"hello")
    bench.turn()
    assert bench.stream.closed
    assert not is_watched or (bench.received, bench.ending) == (b"", None)


def test_a_stream_at_rest_can_be_used_again(bench: Bench) -> None:
    """What failed meanwhile is no concern of whoever used it before."""
    bench.watch()
    bench.stream.rest()
    assert bench.stream.on_drained is bench.stream.on_failed
    bench.watch()
    bench.far.sendall(b"hello")
    bench.turn()
    assert bench.received == b"hello"


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


def test_a_wake_up_holds_only_so_many_pieces(bench: Bench) -> None:
    """One more makes them leave before its end."""
    bench.watch()
    bench.far.settimeout(0)
    convoy = bench.poller.convoy
    convoy.open()
    for _ in range(PIECES_MAX):
        bench.stream.send(b"x")
    with pytest.raises(BlockingIOError):
        bench.far.recv(1)
    bench.stream.send(b"y")
    bench.far.settimeout(10)
    with bench.far.makefile("rb") as far:
        assert far.read(PIECES_MAX + 1) == b"x" * PIECES_MAX + b"y"
    convoy.close()


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
    client.send(b"early")
    assert bench.stream.receive_handshake() > 0
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


def test_a_wake_up_ends_also_when_an_owner_fails(bench: Bench) -> None:
    """What was sent in it leaves, and what is sent afterwards waits for none."""

    def fail() -> None:
        raise RuntimeError("another bug")

    def on_readable() -> None:
        bench.stream.send(b"x")
        raise RuntimeError("a bug")

    bench.stream.watch(on_readable, on_failed=fail)
    bench.far.sendall(b"x")
    with pytest.raises(RuntimeError):
        bench.turn()
    assert bench.far.recv(1) == b"x"
    bench.stream.send(b"y")
    bench.far.settimeout(1)
    assert bench.far.recv(1) == b"y"


def test_a_stream_that_was_closed_sends_nothing_behind_a_gap(bench: Bench) -> None:
    """What the socket does not take is lost then, and all that waits behind it."""
    taken: list[bytes] = []

    def take(data: bytes) -> int:
        taken.append(data[:3])
        return 3

    bench.stream._send = take
    bench.stream.ended = True

    def say_much() -> None:
        bench.stream.send(b"abcdef")
        bench.stream.send(b"ghi")
        bench.stream.close()

    bench.stream.watch(say_much)
    bench.far.sendall(b"x")
    bench.turn()
    assert taken == [b"abc"]
    with pytest.raises(ConnectionResetError):
        bench.far.recv(1)
