"""A program's log, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from services.lsrunner.lines import LineMemory


def test_lines_are_counted_and_kept():
    """With any line end, and without one at the very end."""
    subject = LineMemory()
    subject.feed(b"one\ntwo\r\nthr")
    subject.feed(b"ee")
    assert subject.since(0) == (2, ["one", "two"])
    subject.end()
    assert subject.since(2) == (3, ["three"])
    assert (subject.lines_seen, subject.bytes_seen, subject.tail()) == (3, 14, "one\ntwo\nthree")


def test_a_line_is_cut_at_its_bound():
    """What follows it on the next line is whole again."""
    subject = LineMemory(line_bytes_max=4)
    subject.feed(b"abcdefgh\nij\n")
    assert subject.since(0) == (2, ["abcd", "ij"])


def test_the_oldest_lines_are_forgotten():
    """The numbers go on; who asks for what is gone gets what is left."""
    subject = LineMemory(kept_bytes_max=8)
    subject.feed(b"aaa\nbbb\nccc\n")
    assert subject.since(0) == (3, ["bbb", "ccc"])
    assert subject.since(2) == (3, ["ccc"])


def test_bytes_that_are_no_text_are_shown_as_such():
    """Never an exception for what a program writes."""
    subject = LineMemory()
    subject.feed(b"\xff\xfe\n")
    assert subject.since(0) == (1, ["\ufffd\ufffd"])


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_lines_do_not_depend_on_how_they_were_cut(pieces):
    """However the pipe delivers them; and what is kept stays within its bounds."""
    whole, cut = (LineMemory(line_bytes_max=16, kept_bytes_max=64) for _ in range(2))
    whole.feed(b"".join(pieces))
    for piece in pieces:
        cut.feed(piece)
        assert len(cut.tail()) <= 64 * 3
    for subject in (whole, cut):
        subject.end()
    assert whole.since(0) == cut.since(0)
    assert whole.bytes_seen == cut.bytes_seen
