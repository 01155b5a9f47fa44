"""Messages with their length before them come out whole, however the stream is cut, and those before a mistake too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.errors import WireError
from services.wire.prefixed import PrefixedReader

BAD_HEAD, BAD_MESSAGE = b"\xff", b"\x02!"


class Texts(PrefixedReader[bytes]):
    """A byte of length, then the text; 255 is no length, and `!` alone no text."""

    def __init__(self) -> None:
        super().__init__(1)

    def _length_at(self, held: bytes, position: int) -> int:
        if held[position] == 255:
            raise WireError("no length")
        return held[position]

    def _message_at(self, held: bytes, position: int, end: int) -> bytes:
        if held[position + 1 : end] == b"!":
            raise WireError("no text")
        return held[position + 1 : end]


def fed(stream: bytes, cuts: list[int]) -> tuple[list[bytes], str | None, Texts]:
    """Feed the stream in pieces; return the messages, the mistake, and the reader."""
    reader = Texts()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found: list[bytes] = []
    try:
        for first, last in zip(edges, edges[1:], strict=False):
            found += reader.feed(stream[first:last])
        reader.end()
    except WireError as error:
        return found, str(error), reader
    return found, None, reader


TEXTS = st.lists(st.binary(max_size=20).filter(lambda text: text != b"!"), max_size=8)
CUTS = st.lists(st.integers(0, 500), max_size=12)


@given(TEXTS, CUTS, st.booleans())
def test_messages_come_out_whole_however_they_are_cut(texts: list[bytes], cuts: list[int], is_cut: bool) -> None:
    """One that is not finished is waited for."""
    stream = b"".join(bytes((len(text) + 1,)) + text for text in texts)
    found, mistake, reader = fed(stream + (b"\x05ab" if is_cut else b""), cuts)
    assert (found, mistake) == (texts, None)
    assert reader.is_between_messages is not is_cut


@pytest.mark.parametrize(("bad", "said"), [(BAD_HEAD, "no length"), (BAD_MESSAGE, "no text")])
@given(texts=TEXTS, cuts=CUTS)
def test_what_was_whole_before_a_mistake_comes_out(bad: bytes, said: str, texts: list[bytes], cuts: list[int]) -> None:
    """Then it is said, and said again."""
    stream = b"".join(bytes((len(text) + 1,)) + text for text in texts)
    found, mistake, reader = fed(stream + bad + b"\x03ok", cuts)
    assert (found, mistake) == (texts, said)
    for _ in range(2):
        with pytest.raises(WireError, match=said):
            reader.feed(b"\x03ok")
