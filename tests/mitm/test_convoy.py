"""Nothing leaves before what was noted is written, and everything that waits leaves, in order."""

import socket
from collections.abc import Iterator

import pytest

from services.mitm.convoy import Convoy


class Notes:
    """Notes what happens in order, with those whose data leaves."""

    def __init__(self) -> None:
        self.is_holding = False
        self.told: list[object] = []

    def write_held(self) -> None:
        self.told.append("written")


class Sender:
    """One end of a real connection."""

    def __init__(self, told: list[object]) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.unsent = bytearray()
        self.sent_failed = False
        self._told = told

    def send(self, data: bytes) -> int:
        self._told.append(data[:1])
        return self.near.send(data)

    def keep(self, data: bytes) -> None:
        self.unsent += data

    def join(self, convoy: Convoy, data: bytes) -> None:
        convoy.join((self.send, self.unsent, data, self))

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def sender(notes: Notes) -> Iterator[Sender]:
    made = Sender(notes.told)
    yield made
    made.close()


def test_what_was_noted_is_written_before_anything_leaves(notes: Notes, sender: Sender) -> None:
    """Once for all, and notes are held from the beginning of a wake-up to its end."""
    convoy = Convoy(notes)
    assert not convoy.is_open
    convoy.open()
    assert convoy.is_open and notes.is_holding
    for data in (b"a", b"b", b"c"):
        sender.join(convoy, data)
    assert notes.told == []
    convoy.close()
    assert notes.told == ["written", b"a", b"b", b"c"]
    assert sender.far.recv(10) == b"abc"
    assert not convoy.is_open and not notes.is_holding
    convoy.open()
    convoy.close()
    assert notes.told[4:] == ["written"]


def test_one_who_cannot_wait_makes_all_leave(notes: Notes, sender: Sender) -> None:
    """The wake-up goes on afterwards."""
    convoy = Convoy(notes)
    convoy.open()
    sender.join(convoy, b"first")
    convoy.leave()
    assert sender.far.recv(10) == b"first"
    assert convoy.is_open and notes.is_holding
    sender.join(convoy, b"second")
    convoy.close()
    assert sender.far.recv(10) == b"second"


def test_what_a_socket_does_not_take_is_given_back_in_order(notes: Notes, sender: Sender) -> None:
    """And so is what comes behind it."""
    convoy = Convoy(notes)
    convoy.open()
    large = b"x" * 4_000_000
    sender.join(convoy, large)
    sender.join(convoy, b"behind")
    convoy.close()
    convoy.open()
    sender.join(convoy, b"later")
    convoy.close()
    sender.near.shutdown(socket.SHUT_WR)
    sent = b""
    while data := sender.far.recv(1 << 20):
        sent += data
    assert 0 < len(sent) < len(large)
    assert sent + sender.unsent == large + b"behindlater"


def test_a_socket_that_has_gone_is_noted_and_stops_nobody(notes: Notes, sender: Sender) -> None:
    """Others leave."""
    convoy, gone = Convoy(notes), Sender(notes.told)
    gone.far.close()
    convoy.open()
    gone.join(convoy, b"lost")
    sender.join(convoy, b"sent")
    convoy.close()
    assert (gone.sent_failed, sender.sent_failed) == (True, False)
    assert sender.far.recv(10) == b"sent"
    gone.near.close()


def test_what_waits_is_known_until_it_has_left(notes: Notes, sender: Sender) -> None:
    """So that senders can keep to the limit."""
    convoy = Convoy(notes)
    convoy.open()
    for count in range(3):
        assert len(convoy.waiting) == count
        sender.join(convoy, b"x")
    convoy.leave()
    assert not convoy.waiting
    assert convoy.is_open
    convoy.close()


def test_without_anybody_who_takes_notes_things_leave_all_the_same(sender: Sender) -> None:
    """As in a test of the poller alone."""
    convoy = Convoy()
    convoy.open()
    sender.join(convoy, b"x")
    convoy.close()
    assert sender.far.recv(10) == b"x"
