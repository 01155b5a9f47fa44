"""Pieces that come alone pass in two steps; everything else is handed over as if it had come by `receive`."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from services.mitm.convoy import PIECE_BYTES_MAX
from services.mitm.passage import open_passage
from services.mitm.poller import READ
from services.mitm.stream import BACKLOG_BYTES_MAX, BROKEN_OFF, ENDED, NOTHING_YET, TlsFailed
from tests.support.stream_bench import Bench
from tests.support.tls_end import reset


class Passing:
    """
    A passage between two streams under TLS, and the ends beyond them.

    Attributes:
        seen: Pieces that `follow` was shown.
        others: What came otherwise: sizes, as from `receive`, or why TLS failed.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.source = stack.enter_context(contextlib.closing(Bench()))
        self.sink = stack.enter_context(contextlib.closing(Bench(beside=self.source)))
        self.provider, self.client = (stack.enter_context(each.shake_hands()) for each in (self.source, self.sink))
        self.seen: list[bytes] = []
        self.others: list[int | str] = []
        self.is_simple = True
        self.source.stream.watch(lambda: self._otherwise(self.source.stream.receive))
        self.passage = open_passage(
            self.source.stream, self.sink.stream, self.source.poller, self._follow, self._otherwise
        )

    def _follow(self, piece: bytes) -> bool:
        self.seen.append(piece)
        return self.is_simple

    def _otherwise(self, receive: Callable[[], int]) -> None:
        try:
            self.others.append(receive())
        except TlsFailed as error:
            self.others.append(str(error))

    def step_on(self, data: bytes) -> None:
        """Let the provider send, and take a turn when it has come."""
        self.provider.send(data)
        self.source.turn()

    def step(self) -> int | str:
        """Take a turn in which nothing passes; return what came otherwise."""
        self.source.turn()
        return self.others.pop()


@pytest.fixture
def passing() -> Iterator[Passing]:
    with contextlib.ExitStack() as stack:
        yield Passing(stack)


def test_a_piece_is_seen_and_passes(passing: Passing) -> None:
    """In order, and the time is noted."""
    for now, data in ((5.0, b"one"), (7.0, b"two" * 5000)):
        passing.passage.moved_at = now
        passing.step_on(data)
        assert passing.client.read(len(data)) == data
        assert passing.seen.pop() == data
        assert passing.passage.moved_at == passing.source.poller.now
    assert passing.others == []


@pytest.mark.parametrize("data", [b"look", b"x" * (PIECE_BYTES_MAX // 2)], ids=["small", "large"])
def test_a_piece_that_needs_another_look_is_handed_over(passing: Passing, data: bytes) -> None:
    """It has not been sent."""
    passing.is_simple = False
    passing.step_on(data)
    assert passing.others == [len(data)]
    assert passing.source.scratch.plain[: len(data)] == data
    passing.is_simple = True
    passing.step_on(b"next")
    assert passing.client.read(4) == b"next"


def test_several_records_and_the_end_are_handed_over_as_from_a_receive(passing: Passing) -> None:
    """Only one record at a time is simple."""
    passing.provider.tls.write(b"a")
    passing.provider.tls.write(b"b")
    passing.step_on(b"c")
    assert passing.others.pop() == 3
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
    passing.source.turn()
    assert passing.client.read(5) == b"whole"


def test_an_end_and_a_bad_record_are_told_as_by_receive(passing: Passing) -> None:
    """A reset breaks off, nonsense fails."""
    passing.provider.send_raw(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    assert "bad record mac" in str(passing.step()).replace("_", " ")
    reset(passing.provider.sock)
    assert passing.step() == BROKEN_OFF


def test_what_the_sink_does_not_take_is_kept_in_order(passing: Passing) -> None:
    """And the source is paused while too much waits."""
    data = bytes(range(256)) * 32
    sent = bytearray()
    while passing.source.stream._events & READ:
        passing.step_on(data)
        sent += data
    assert BACKLOG_BYTES_MAX < passing.sink.stream.backlog < BACKLOG_BYTES_MAX + 2 * len(data)
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
    passing.step_on(b"lost")
    assert passing.sink.stream.sent_failed
    assert passing.others == []


def test_a_sink_whose_tls_has_failed_takes_nothing(passing: Passing) -> None:
    """As after its bad record."""
    passing.client.send_raw(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    assert select.select([passing.sink.near], [], [], 10)[0]
    with pytest.raises(TlsFailed):
        passing.sink.stream.receive()
    passing.step_on(b"lost")
    assert passing.sink.stream.sent_failed


def test_nothing_passes_where_a_passage_is_closed(passing: Passing) -> None:
    """What comes is for the stream's reader again."""
    passing.passage.close()
    passing.step_on(b"data")
    assert (passing.seen, passing.others) == ([], [4])


def test_what_fails_in_a_step_ends_its_own_connection_alone(passing: Passing) -> None:
    """It is logged, and the owner hears of it."""
    failed: list[int] = []

    def fail(*_: object) -> bool:
        raise RuntimeError("a bug")

    passing.source.stream.watch(lambda: None, on_failed=lambda: failed.append(1))
    open_passage(passing.source.stream, passing.sink.stream, passing.source.poller, fail, passing._otherwise)
    passing.step_on(b"data")
    assert failed == [1] and passing.source.stream.closed and not passing.sink.stream.closed
    assert b"a bug" in passing.source.lines.text
