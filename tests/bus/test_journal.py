"""The journal: what it has taken is there after a death, the disk full or not, and never more than its limits."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bus.journal import Journal
from services.bus.limits import JournalLimits
from services.bus.store import PastEpoch
from services.events.exchange import Client
from tests.support.records import usage_json

SMALL = JournalLimits(segment_bytes=2000, total_bytes_max=40_000, retained_bytes_max=20_000, waiting_bytes_max=1000)
EVERYTHING = (1 << 30, 1 << 30)


def record(number: int, size: int = 100) -> bytes:
    return b'{"n":%d,"pad":"%b"}' % (number, b"x" * size)


def numbers(records: list[bytes]) -> list[int]:
    return [orjson.loads(each)["n"] for each in records]


def finish(journal: Journal, first: int, end: int) -> None:
    for number in range(first, end):
        journal.finish(None, [record(number)])


def reopened(directory: Path, *, limits: JournalLimits | None = None) -> tuple[Journal, list[PastEpoch]]:
    """Open the journal as the next life does, and read what earlier ones left."""
    journal = Journal.open(directory, "mitm-0", limits=limits)
    for past in journal.past:
        past.scan()
    return journal, [past for past in journal.past if not past.is_empty]


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """Let writes end early and then fail, as on a full disk: the kernel's own limit on the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_are_numbered_from_one_in_every_life(tmp_path: Path) -> None:
    """And every life has a random name."""
    journal = Journal.open(tmp_path, "mitm-0")
    finish(journal, 1, 4)
    assert (journal.first, journal.last) == (1, 3)
    assert numbers(journal.read(2, *EVERYTHING)) == [2, 3]
    other = Journal.open(tmp_path, "mitm-0")
    assert other.epoch != journal.epoch
    assert len(other.epoch) == 32
    assert [past.epoch for past in other.past] == [journal.epoch]


def test_a_dead_life_leaves_finished_records_and_one_for_every_unfinished_exchange(tmp_path: Path) -> None:
    """The draft with its progress merged, in the order in which the exchanges began; the same at every start."""
    journal = Journal.open(tmp_path, "mitm-0")
    for name in ("a", "b", "c"):
        journal.start(name, b'{"id":"%b","usage":{},"model":"asked"}' % name.encode())
    journal.progress("c", b'{"usage":{"input_tokens":5}}')
    journal.progress("a", b'{"usage":{"input_tokens":1}}')
    journal.progress("a", b'{"usage":{"input_tokens":2},"model":"answered"}')
    journal.progress("unknown", b'{"usage":{"input_tokens":9}}')
    journal.finish("b", [record(1), record(2)])
    for _ in range(2):
        _, (past,) = reopened(tmp_path)
        assert numbers(past.read(1, *EVERYTHING)) == [1, 2]
        assert [orjson.loads(each) for each in past.unfinished.read(1, *EVERYTHING)] == [
            {"id": "a", "usage": {"input_tokens": 2}, "model": "answered"},
            {"id": "c", "usage": {"input_tokens": 5}, "model": "asked"},
        ]
        assert past.unfinished.epoch != past.epoch
        assert past.unfinished.left_behind.after == 2


def test_an_exchange_that_began_twice_counts_once(tmp_path: Path) -> None:
    """The later start stands."""
    journal = Journal.open(tmp_path, "mitm-0")
    journal.start("a", record(1))
    journal.start("b", record(2))
    journal.start("a", record(3))
    _, (past,) = reopened(tmp_path)
    assert numbers(past.unfinished.read(1, *EVERYTHING)) == [2, 3]


def test_progress_that_is_no_json_is_passed_over(tmp_path: Path) -> None:
    """What can be read counts."""
    journal = Journal.open(tmp_path, "mitm-0")
    journal.start("a", record(1, 0))
    journal.progress("a", b"{")
    journal.progress("a", b"[]")
    journal.progress("a", b'{"m":2}')
    _, (past,) = reopened(tmp_path)
    assert orjson.loads(past.unfinished.read(1, *EVERYTHING)[0]) == {"n": 1, "pad": "", "m": 2}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["start", "progress", "finish"])), max_size=60), st.data())
def test_what_was_written_is_read_after_any_tear(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Torn at a random byte of the last segment: a prefix of the history, never a record and its draft together."""
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal.open(directory, "mitm-0", limits=JournalLimits(segment_bytes=500))
    states: list[tuple[list[str], list[str]]] = [([], [])]
    finished: list[str] = []
    unfinished: list[str] = []
    for key, step in steps:
        name = f"{key}"
        if step == "start":
            journal.start(name, b'{"id":"%b"}' % name.encode())
            unfinished = [each for each in unfinished if each != name] + [name]
        elif step == "progress":
            journal.progress(name, b'{"usage":{}}')
        else:
            journal.finish(name, [b'{"id":"%b"}' % name.encode()])
            finished = [*finished, name]
            unfinished = [each for each in unfinished if each != name]
        states.append((finished, unfinished))
    last = max((directory / "mitm-0" / journal.epoch).iterdir())
    with last.open("r+b") as file:
        file.truncate(data.draw(st.integers(0, last.stat().st_size)))
    past = PastEpoch(last.parent)
    past.scan()
    found = (
        [orjson.loads(each)["id"] for each in past.read(1, *EVERYTHING)],
        [orjson.loads(each)["id"] for each in past.unfinished.read(1, *EVERYTHING)],
    )
    assert found in states


def test_reading_goes_on_over_segments_from_any_place(tmp_path: Path) -> None:
    """From memory and from disk, forwards, and back again when the ledger asks."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=3000))
    finish(journal, 1, 3001)
    assert len(list((tmp_path / "mitm-0" / journal.epoch).iterdir())) > 50
    for first in (1, 900, 2, 1500, 2990, 1, 952, 953):
        assert numbers(journal.read(first, 10, 1 << 20)) == list(range(first, first + 10))
    everything: list[int] = []
    while len(everything) < 3000:
        everything += numbers(journal.read(len(everything) + 1, 64, 1 << 20))
    assert everything == list(range(1, 3001))
    assert journal.read(3001, 10, 1 << 20) == []


def test_reading_gives_at_least_one_record_however_large(tmp_path: Path) -> None:
    """The limit in bytes is for the company that a record has."""
    journal = Journal.open(tmp_path, "mitm-0")
    finish(journal, 1, 5)
    assert numbers(journal.read(1, 10, 1)) == [1]
    assert numbers(journal.read(1, 10, 250)) == [1, 2]
    _, (past,) = reopened(tmp_path)
    assert numbers(past.read(1, 10, 1)) == [1]
    assert numbers(past.read(2, 10, 250)) == [2, 3]


def test_a_full_disk_keeps_what_was_written_and_lets_the_rest_wait(tmp_path: Path) -> None:
    """A short write is cut back; finished records wait in memory up to a limit, what is beyond is counted."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(waiting_bytes_max=300))
    finish(journal, 1, 11)
    with no_file_above(journal.size_bytes + 50):
        journal.start("a", record(0))
        finish(journal, 11, 15)
        assert journal.problem is not None
        assert (journal.last, journal.waiting, journal.dropped) == (10, 2, 2)
        journal.retry()
        assert (journal.last, journal.waiting) == (10, 2)
    journal.retry()
    assert (journal.last, journal.waiting, journal.dropped, journal.problem) == (12, 0, 2, None)
    finish(journal, 15, 16)
    _, (past,) = reopened(tmp_path)
    assert numbers(past.read(1, *EVERYTHING)) == [*range(1, 13), 15]
    assert past.damage is None


@pytest.mark.parametrize("is_holding", [False, True])
def test_a_record_that_is_dropped_leaves_its_draft_to_the_next_life(tmp_path: Path, is_holding: bool) -> None:
    """In this life nothing would ever end it: it is not counted as under way, and does not keep its segment."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=2000, waiting_bytes_max=10))
    journal.start("a", usage_json("a", client=Client(uid=1, run="01KA")))
    journal.progress("a", b'{"usage":{"input_tokens":7}}')
    journal.is_holding = is_holding
    with no_file_above(0):
        journal.finish("a", [usage_json("a")])
        journal.write_held()
    journal.is_holding = False
    assert (journal.dropped, journal.waiting, journal.open_runs()) == (1, 0, {})
    journal.close(journal.last)
    _, (past,) = reopened(tmp_path)
    [left] = past.unfinished.read(1, *EVERYTHING)
    assert orjson.loads(left)["usage"] == {"input_tokens": 7}


def test_a_journal_at_its_limit_is_not_kept_there_by_drafts_without_an_end(tmp_path: Path) -> None:
    """Their records were dropped; what is committed is deleted as usual, and recording goes on."""
    journal = Journal.open(tmp_path, "mitm-0", limits=SMALL)
    names = [str(number) for number in range(100)]
    for name in names:
        journal.start(name, record(0))
    for number, name in enumerate(names):
        finish(journal, 1000 + 5 * number, 1005 + 5 * number)
        journal.finish(name, [record(number)])
    assert journal.problem is not None and journal.dropped > 0
    for _ in range(5):
        journal.expire(journal.last, 0.0)
        journal.retry()
    assert (journal.problem, journal.waiting) == (None, 0)
    assert journal.size_bytes < 25_000


def test_who_sends_records_is_told_once_for_all_of_a_write(tmp_path: Path) -> None:
    """When they are written and numbered, not before."""
    journal, told = Journal.open(tmp_path, "mitm-0"), list[int]()
    journal.on_written = lambda: told.append(journal.last)
    finish(journal, 1, 3)
    journal.is_holding = True
    finish(journal, 3, 6)
    assert told == [1, 2]
    journal.write_held()
    assert told == [1, 2, 5]


def test_room_is_noticed_without_a_record_that_waits(tmp_path: Path) -> None:
    """Health says "recording" again as soon as it is true."""
    journal = Journal.open(tmp_path, "mitm-0")
    with no_file_above(journal.size_bytes + 5):
        journal.start("a", record(0))
        journal.retry()
        assert journal.problem is not None
    journal.retry()
    assert journal.problem is None


def test_a_journal_at_its_limit_says_so_until_something_is_committed(tmp_path: Path) -> None:
    """The disk is not ours alone."""
    journal = Journal.open(tmp_path, "mitm-0", limits=SMALL)
    finish(journal, 1, 400)
    assert journal.problem == "the journal has reached its limit of 40000 bytes"
    assert journal.size_bytes <= 40_000
    assert journal.dropped > 0
    last = journal.last
    journal.cover(last)
    journal.expire(last, 0.0)
    journal.retry()
    assert journal.problem is None
    assert journal.waiting == 0
    assert journal.last > last
    assert journal.size_bytes <= 25_000


def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    """And nothing raises meanwhile."""
    (tmp_path / "mitm-0").write_text("in the way")
    journal = Journal.open(tmp_path, "mitm-0")
    assert journal.problem is not None
    journal.start("a", record(0))
    journal.progress("a", b"{}")
    journal.finish("a", [record(1)])
    (tmp_path / "mitm-0").unlink()
    journal.retry()
    assert (journal.problem, journal.last) == (None, 1)
    assert numbers(journal.read(1, *EVERYTHING)) == [1]


def test_committed_segments_are_kept_for_a_while(tmp_path: Path) -> None:
    """An older copy of the ledger can catch up from them; then they go, and `first` says so."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=2000, retained_s=100))
    finish(journal, 1, 100)
    journal.cover(50)
    journal.expire(50, 1000.0)
    assert numbers(journal.read(1, 3, 1 << 20)) == [1, 2, 3]
    journal.expire(50, 1101.0)
    assert 40 < journal.first <= 51
    assert journal.read(1, 3, 1 << 20) == []
    assert numbers(journal.read(journal.first, 1, 1 << 20)) == [journal.first]


def test_a_mark_that_went_backwards_keeps_its_segments(tmp_path: Path) -> None:
    """They are not committed any more."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=2000, retained_s=100))
    finish(journal, 1, 100)
    journal.expire(99, 1000.0)
    journal.expire(5, 1050.0)
    journal.expire(5, 1200.0)
    assert journal.first == 1


def test_an_exchange_that_lasts_for_ever_keeps_no_segments(tmp_path: Path) -> None:
    """Its draft is written again, with what it has come to, and is found after a death."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=2000, retained_s=0))
    journal.start("websocket", b'{"id":"websocket","usage":{}}')
    for number in range(1, 400):
        journal.progress("websocket", b'{"usage":{"input_tokens":%d}}' % number)
        journal.finish(None, [record(number)])
        journal.expire(number, float(number))
    assert journal.size_bytes < 20_000
    _, (past,) = reopened(tmp_path)
    assert orjson.loads(past.unfinished.read(1, *EVERYTHING)[0]) == {
        "id": "websocket",
        "usage": {"input_tokens": 399},
    }
    assert past.last == 399


@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), max_size=30))
def test_the_last_progress_of_each_kind_stands(tmp_path_factory: pytest.TempPathFactory, repeating: list[bool]) -> None:
    """Progress that repeats and progress that is merged, in any order, over segments that carry the draft along."""
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal.open(directory, "mitm-0", limits=JournalLimits(segment_bytes=600, retained_s=0))
    journal.start("a", b'{"id":"a"}')
    repeat = journal.repeats("a")
    expected: dict[str, object] = {"id": "a"}
    for number, repeats in enumerate(repeating):
        name = "usage" if repeats else "model"
        expected[name] = number
        (repeat if repeats else partial(journal.progress, "a"))(orjson.dumps({name: number}))
        for _ in range(5):  # enough for a segment
            journal.finish(None, [record(number)])
        journal.expire(journal.last, float(number))
    journal.close(journal.last)
    _, (past,) = reopened(directory)
    assert orjson.loads(past.unfinished.read(1, *EVERYTHING)[0]) == expected


def test_many_open_exchanges_do_not_drown_the_journal_in_drafts(tmp_path: Path) -> None:
    """Writing them again costs a part of what is written anyway."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=2000))
    for number in range(500):
        journal.start(str(number), record(number))
    assert journal.size_bytes < 2 * 500 * 150


def test_an_epoch_that_is_committed_is_not_read_again(tmp_path: Path) -> None:
    """A note of its range is enough, until its mark goes backwards."""
    journal = Journal.open(tmp_path, "mitm-0")
    finish(journal, 1, 10)
    journal.close(9)
    past = Journal.open(tmp_path, "mitm-0").past[0]
    assert past.covered_at_unix_s is not None
    assert (past.first, past.last, past.needs_scan) == (1, 9, True)


@pytest.mark.parametrize(("mark", "is_open"), [(8, False), (9, True)])
def test_an_epoch_with_something_outstanding_is_read_again(tmp_path: Path, mark: int, is_open: bool) -> None:
    """Records beyond the mark, or an exchange that was not over."""
    journal = Journal.open(tmp_path, "mitm-0")
    finish(journal, 1, 10)
    if is_open:
        journal.start("a", record(0))
    journal.close(mark)
    assert Journal.open(tmp_path, "mitm-0").past[0].covered_at_unix_s is None


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    """Only what is named as an epoch is one."""
    (tmp_path / "mitm-0" / "notes").mkdir(parents=True)
    assert Journal.open(tmp_path, "mitm-0").past == []


def test_a_record_too_large_for_an_entry_is_dropped_and_counted(tmp_path: Path) -> None:
    """It could not be read back."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(waiting_bytes_max=1 << 30))
    journal.finish(None, [b"x" * (17 * 1024 * 1024)])
    assert (journal.dropped, journal.waiting, journal.last) == (1, 0, 0)
    finish(journal, 1, 2)
    assert journal.last == 1


def test_what_exchanges_begin_and_end_with_is_to_be_synced_soon_and_their_progress_later(tmp_path: Path) -> None:
    """So that a stream, whose counts change with each event, does not keep the disk busy."""
    told: list[bool] = []
    journal = Journal.open(tmp_path, "mitm-0")
    journal.take_unsynced()
    journal.on_unsynced = told.append
    journal.progress("a", b'{"usage":{}}')
    assert told == [], "without a draft nothing has been written"
    journal.start("a", b"{}")
    journal.start("b", b"{}")
    assert told == [False, True], "told once until it is taken"
    journal.take_unsynced()
    journal.progress("a", b'{"usage":{}}')
    journal.progress("a", b'{"usage":{}}')
    assert told == [False, True, False]
    journal.finish("a", [b"{}"])
    assert told == [False, True, False, True]
    assert journal.take_unsynced()[1] >= 0
    assert journal.take_unsynced() == ([], -1)


def test_syncing_takes_each_full_segment_once(tmp_path: Path) -> None:
    """Off the data path, and the descriptors of full segments are closed after it."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=1000))
    finish(journal, 1, 50)
    full, current = journal.take_unsynced()
    assert len(full) > 3
    assert current >= 0
    Journal.sync((full, current))
    assert journal.take_unsynced() == ([], -1)
    journal.close(0)


def test_exchanges_that_are_not_over_are_counted_by_their_run(tmp_path: Path) -> None:
    """What looks like a run inside a string is none."""
    journal = Journal.open(tmp_path, "mitm-0")
    assert journal.open_runs() == {}
    for number, run in enumerate(["01KA", "01KB", "01KA", None]):
        journal.start(str(number), usage_json(str(number), client=Client(uid=1, run=run)))
    journal.start("x", usage_json("x", reason='"run":"01KC"'))
    journal.start("y", b"{}")
    journal.progress("1", b'{"usage":{}}')
    # Progress is merged into a draft after a while, counts as a provider said them too.
    journal.start("z", usage_json("z", client=Client(uid=1)))
    for number in range(40):
        journal.progress("z", b'{"usage":[{"n":%d,"run":"01KC","client":{"run":"01KD"}}]}' % number)
    assert journal.open_runs() == {"01KA": 2, "01KB": 1}
    journal.finish("0", [usage_json("0")])
    journal.finish("1", [usage_json("1")])
    assert journal.open_runs() == {"01KA": 1}


# -- held, and written at once -------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "progress", "repeat", "finish", "count", "write"]), st.sampled_from("abc")),
    max_size=40,
)


def take(journal: Journal, step: str, name: str, number: int) -> None:
    if step == "start":
        journal.start(name, orjson.dumps({"n": number, "id": name}))
    elif step == "progress":
        journal.progress(name, orjson.dumps({"model": number}))
    elif step == "repeat":
        journal.repeats(name)(orjson.dumps({"usage": number}))
    elif step == "finish":
        journal.finish(name, [record(number), record(number + 1000)])
    elif step == "count":
        journal.finish(None, [record(number)])
    else:
        journal.write_held()


@settings(deadline=None, max_examples=150)
@given(STEPS, st.sampled_from([300, 2000, 1 << 20]))
def test_what_is_held_comes_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]], segment_bytes: int
) -> None:
    """Written one by one or together, over segments that are full in the midst of it: the next life reads the same."""
    left = []
    for is_holding in (False, True):
        directory = tmp_path_factory.mktemp("journal")
        journal = Journal.open(directory, "mitm-0", limits=JournalLimits(segment_bytes=segment_bytes))
        journal.is_holding = is_holding
        for number, (step, name) in enumerate(steps):
            take(journal, step, name, number)
        journal.write_held()
        in_memory = numbers(journal.read(1, *EVERYTHING)) if journal.last else []
        opened, pasts = reopened(directory)
        records = [numbers(past.read(1, *EVERYTHING)) for past in pasts if past.last]
        unfinished = sorted(each for past in pasts for each in past.unfinished.read(1, *EVERYTHING))
        left.append((journal.last, in_memory, records, unfinished))
        for each in (journal, opened):
            each.close(0)
    assert left[0] == left[1]


def test_nothing_of_what_is_held_is_on_disk_before_it_is_written(tmp_path: Path) -> None:
    """And all of it is afterwards, with one write."""
    journal = Journal.open(tmp_path, "mitm-0")
    journal.is_holding = True
    for name in "ab":
        journal.start(name, b'{"id":"%b"}' % name.encode())
    journal.repeats("a")(b'{"usage":{"input_tokens":7}}')
    journal.finish("b", [record(1)])
    assert reopened(tmp_path)[1] == []
    assert (journal.last, journal.read(1, *EVERYTHING)) == (0, [])
    journal.write_held()
    assert (journal.last, numbers(journal.read(1, *EVERYTHING))) == (1, [1])
    _, (past,) = reopened(tmp_path)
    assert past.unfinished.read(1, *EVERYTHING) == [b'{"id":"a","usage":{"input_tokens":7}}']


def test_a_full_disk_takes_of_what_is_held_what_it_can(tmp_path: Path) -> None:
    """The rest is as if it had been written by itself: records wait, an exchange goes on unrecorded."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(waiting_bytes_max=300))
    finish(journal, 1, 3)
    journal.is_holding = True
    with no_file_above(journal.size_bytes + 250):
        journal.start("a", b'{"id":"a"}')
        finish(journal, 3, 8)
        journal.start("b", record(0, 200))
        journal.repeats("b")(b'{"usage":{}}')
        journal.write_held()
        assert (journal.last, journal.waiting, journal.dropped) == (3, 2, 2)
        journal.finish("a", [record(8)])
        assert journal.dropped == 3
    journal.is_holding = False
    journal.retry()
    assert (journal.last, journal.waiting, journal.problem) == (5, 0, None)
    _, (past,) = reopened(tmp_path)
    assert numbers(past.read(1, *EVERYTHING)) == [1, 2, 3, 4, 5]
    assert past.damage is None
    assert past.unfinished.read(1, *EVERYTHING) == [b'{"id":"a"}']


def test_a_held_record_that_has_to_wait_keeps_its_draft(tmp_path: Path) -> None:
    """Until it is written, its draft is all that the next life would find: its segment stays."""
    journal = Journal.open(tmp_path, "mitm-0", limits=SMALL)
    journal.start("a", usage_json("a"))
    finish(journal, 1, 40)
    journal.start("b", usage_json("b"))
    journal.is_holding = True
    with no_file_above(0):
        journal.repeats("a")(b'{"usage":{"input_tokens":7}}')
        journal.finish("a", [usage_json("a")])
        journal.write_held()
    journal.is_holding = False
    assert journal.waiting == 1
    for now_unix_s in (0.0, 1e9):
        journal.expire(journal.last, now_unix_s)
    _, (past,) = reopened(tmp_path)
    assert [orjson.loads(each)["event_id"] for each in past.unfinished.read(1, *EVERYTHING)] == ["a", "b"]
    journal.retry()
    assert (journal.waiting, journal.last) == (0, 40)
    _, (past,) = reopened(tmp_path)
    assert [orjson.loads(each)["event_id"] for each in past.unfinished.read(1, *EVERYTHING)] == ["b"]


@pytest.mark.parametrize("room", range(0, 700, 50))
def test_what_stays_of_held_entries_that_cannot_be_cut_off_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """The whole ones are written; the others follow in the next segment, with the next numbers."""
    journal = Journal.open(tmp_path, "mitm-0")
    journal.start("a", b'{"id":"a"}')
    journal.is_holding = True
    with no_file_above(journal.size_bytes + room), monkeypatch.context() as patch:
        patch.setattr("os.ftruncate", Mock(side_effect=OSError))
        journal.finish("a", [record(1), record(2)])
        journal.start("b", b'{"id":"b"}')
        finish(journal, 3, 5)
        journal.write_held()
    journal.is_holding = False
    journal.retry()
    finish(journal, 5, 6)
    assert (journal.last, journal.waiting) == (5, 0)
    assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.segment"))
    assert numbers(journal.read(1, *EVERYTHING)) == [1, 2, 3, 4, 5]
    _, (past,) = reopened(tmp_path)
    assert numbers(past.read(1, *EVERYTHING)) == [1, 2, 3, 4, 5]
