"""Segments: what is written is read, in any split, up to the first thing that is not whole."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from services.bus.segment import ENTRY_BYTES_MAX, Entry, EntryKind, SegmentReader, encode_entry

ENTRIES = st.lists(
    st.builds(
        Entry,
        st.sampled_from(EntryKind),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=255),
        st.lists(st.binary(max_size=60), max_size=4).map(tuple),
    ),
    max_size=8,
)


def written(entries: list[Entry]) -> list[bytes]:
    return [encode_entry(*entry) for entry in entries]


@given(ENTRIES, st.data())
def test_entries_do_not_depend_on_how_the_file_was_read(entries: list[Entry], data: st.DataObject) -> None:
    """Cut anywhere, any number of times."""
    whole = b"".join(written(entries))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reader = SegmentReader()
    found: list[Entry] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += reader.feed(whole[start:end])
    assert found == entries
    assert (reader.position, reader.pending_bytes, reader.damage) == (len(whole), 0, None)


@given(ENTRIES, st.data())
def test_a_torn_segment_gives_every_whole_entry(entries: list[Entry], data: st.DataObject) -> None:
    """Truncated at any byte; the reader knows where the last whole entry ends and calls nothing damaged."""
    pieces = written(entries)
    cut = data.draw(st.integers(0, sum(map(len, pieces))))
    whole_ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    reader = SegmentReader()
    assert reader.feed(b"".join(pieces)[:cut]) == entries[: sum(end <= cut for end in whole_ends)]
    assert reader.position == max([end for end in whole_ends if end <= cut], default=0)
    assert reader.damage is None


@given(ENTRIES.filter(bool), st.data())
def test_a_damaged_entry_ends_the_reading_before_it(entries: list[Entry], data: st.DataObject) -> None:
    """Any bit flipped: everything before is read, nothing of it or after it is made up."""
    pieces = written(entries)
    victim = data.draw(st.integers(0, len(pieces) - 1))
    bit = data.draw(st.integers(0, len(pieces[victim]) * 8 - 1))
    damaged = bytearray(pieces[victim])
    damaged[bit // 8] ^= 1 << bit % 8
    reader = SegmentReader()
    found = reader.feed(b"".join([*pieces[:victim], bytes(damaged), *pieces[victim + 1 :]]))
    assert found == entries[:victim]
    # A length that grew may look like an entry that is still on its way.
    assert reader.damage is not None or reader.pending_bytes > 0


@given(st.binary(max_size=400), st.data())
def test_noise_is_no_entry_and_no_error(noise: bytes, data: st.DataObject) -> None:
    """Garbage of any kind after a good entry."""
    good = encode_entry(EntryKind.STARTED, 0, b"id", (b"{}",))
    reader = SegmentReader()
    assert reader.feed(good + noise)[:1] == [Entry(EntryKind.STARTED, 0, b"id", (b"{}",))]


def test_zeros_are_damage() -> None:
    """A power cut can leave a file's length behind without its content."""
    reader = SegmentReader()
    assert reader.feed(bytes(64)) == []
    assert reader.damage == "entry at 0 does not match its sum"


def test_an_entry_beyond_the_limit_is_damage() -> None:
    """A broken length must not make us read gigabytes."""
    reader = SegmentReader()
    assert reader.feed(struct.pack("<IIQ", ENTRY_BYTES_MAX + 1, 0, 1)) == []
    assert reader.damage == f"entry of {ENTRY_BYTES_MAX + 1} bytes exceeds {ENTRY_BYTES_MAX}"
    assert reader.feed(encode_entry(EntryKind.STARTED, 0, b"", ())) == []
