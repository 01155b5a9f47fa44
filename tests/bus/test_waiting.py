"""Records that wait for room on the disk: in order, and bounded."""

from services.bus.segment import ENTRY_BYTES_MAX
from services.bus.waiting import WaitingRoom


def test_who_came_first_leaves_first() -> None:
    """With all records of its exchange."""
    room = WaitingRoom(100)
    assert not room.exchanges
    assert room.take("a", [b"1", b"2"]) and room.take(None, [b"3"])
    assert (len(room.exchanges), room.records) == (2, 3)
    assert room.exchanges[0] == ("a", (b"1", b"2"))
    room.leave()
    assert room.exchanges[0] == (None, (b"3",))
    room.leave()
    assert not room.exchanges


def test_the_room_is_bounded() -> None:
    """Who finds no room changes nothing, and there is room again when somebody has left."""
    room = WaitingRoom(10)
    assert room.take("a", [b"x" * 4, b"y" * 4])
    assert not room.take("b", [b"z" * 3])
    assert room.records == 2
    room.leave()
    assert room.take("b", [b"z" * 10])


def test_what_is_too_large_for_an_entry_does_not_wait() -> None:
    """It would wait for ever."""
    assert not WaitingRoom(1 << 30).take(None, [b"x" * (ENTRY_BYTES_MAX // 2 + 1)])


def test_records_are_copied() -> None:
    """As in the tail: they may hold more memory than they show."""
    room, record = WaitingRoom(1000), bytes(100)
    room.take(None, [record])
    [kept] = room.exchanges[0][1]
    assert kept == record and kept is not record
