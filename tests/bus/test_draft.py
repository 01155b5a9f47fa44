"""A draft says what its progress has come to, however that was told."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from services.bus.draft import Draft
from services.bus.segment import EntryKind, encode_entry, encode_single


def start(draft: bytes) -> bytes:
    return encode_entry(EntryKind.STARTED, 0, b"id", (draft,))


def entry(draft: Draft, members: dict[str, int]) -> bytes:
    return encode_single(draft.progress_head, orjson.dumps(members))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_the_newest_of_each_member_stands(told: list[tuple[bool, int]]) -> None:
    """Progress of any members, and progress that repeats and replaces itself, in any order; and not much is kept."""
    draft = Draft(b"id", start(b'{"id":"x"}'))
    expected: dict[str, object] = {"id": "x"}
    for number, (repeats, member) in enumerate(told):
        name = "usage" if repeats else f"member {member}"
        expected[name] = number
        if repeats:
            draft.repeated = entry(draft, {name: number})
        else:
            draft.add(entry(draft, {name: number}))
    assert orjson.loads(draft.record()) == expected
    assert draft.size_bytes < 3000


def test_a_draft_begins_anew_with_what_it_has_come_to() -> None:
    """What was before is of no account."""
    draft = Draft(b"id", start(b'{"usage":1}'))
    draft.repeated = entry(draft, {"usage": 2})
    draft.begin(start(b'{"usage":3}'))
    assert (draft.record(), draft.first_part) == (b'{"usage":3}', b'{"usage":3}')
    assert draft.size_bytes == len(entry(draft, {"usage": 3}))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.booleans())
def test_what_repeats_is_written_as_any_progress_is(parts: list[bytes], is_holding: bool) -> None:
    """One entry for each, whatever its size; at once where nothing waits."""

    class Held:
        def __init__(self) -> None:
            self.is_holding = is_holding
            self.entries: list[bytes] = []
            self.written = 0

        def write_held(self) -> None:
            self.written += 1

    held, draft = Held(), Draft(b"id", b"{}")
    repeat = draft.repeater(held.entries.append, held)
    for part in parts:
        repeat(part)
    assert held.entries == [encode_single(draft.progress_head, part) for part in parts]
    assert draft.repeated == held.entries[-1]
    assert held.written == (0 if is_holding else len(parts))
