"""The newest records in memory: in order, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from services.bus.tail import Tail, trimmed


@given(st.lists(st.one_of(st.lists(st.integers(0, 50), max_size=4), st.integers(0, 5)), max_size=20))
def test_it_holds_what_was_added_and_not_dropped(steps: list[list[int] | int]) -> None:
    """Records are added at the end and dropped at the beginning."""
    tail = Tail()
    expected: list[bytes] = []
    for step in steps:
        if isinstance(step, int):
            tail.drop(step)
            del expected[:step]
        else:
            records = [b"x" * size for size in step]
            tail.add(records)
            expected += records
    assert len(tail) == len(expected)
    assert tail.read(0, 1000, 1 << 30) == expected
    assert tail.read(1, 2, 1 << 30) == expected[1:3]


def test_reading_gives_at_least_one_record_and_no_more_bytes_than_asked_for() -> None:
    """However large it is."""
    tail = Tail()
    tail.add([b"a" * 100, b"b" * 100, b"c" * 100])
    assert tail.read(0, 10, 1) == [b"a" * 100]
    assert tail.read(1, 10, 200) == [b"b" * 100, b"c" * 100]
    assert tail.read(3, 10, 200) == []


def test_the_oldest_make_room() -> None:
    """By number, and by size; a quarter of them at a time."""
    tail = Tail()
    for number in range(2049):
        tail.add([b"%d" % number])
    assert (len(tail), tail.read(0, 1, 100)) == (1537, [b"512"])
    tail.add([b"x" * (5 << 20), b"y" * (4 << 20)])
    assert [record[:1] for record in tail.read(0, 10, 1 << 30)] == [b"y"]


def test_what_is_kept_is_copied() -> None:
    """Bytes may hold more memory than they show."""
    data = bytes(1000)
    [copied] = trimmed([data])
    assert copied == data and copied is not data
