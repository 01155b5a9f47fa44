"""Epochs on disk: read up to the first bad record, in order, whatever happened to the files."""

import os
import shutil
from pathlib import Path

import orjson
import pytest

from services.bus.journal import Journal
from services.bus.limits import JournalLimits
from services.bus.store import (
    PastEpoch,
    SegmentVanished,
    Unfinished,
    create_segment,
    unfinished_record,
    write_covered,
)

EVERYTHING = (1 << 30, 1 << 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An epoch of ten segments with 100 records."""
    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=1200))
    for number in range(1, 101):
        journal.finish(None, [b'{"n":%d,"pad":"%b"}' % (number, b"x" * 80)])
    journal.close(0)
    return tmp_path / "mitm-0" / journal.epoch


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.segment"))


def scanned(folder: Path) -> PastEpoch:
    past = PastEpoch(folder)
    past.scan()
    return past


def numbers(past: PastEpoch) -> list[int]:
    return [orjson.loads(record)["n"] for record in past.read(past.first, *EVERYTHING)]


def test_an_epoch_is_read_whole(folder: Path) -> None:
    """All segments, in order."""
    past = scanned(folder)
    assert numbers(past) == list(range(1, 101))
    assert (past.first, past.last, past.damage) == (1, 100, None)
    assert past.size_bytes == sum(path.stat().st_size for path in segments(folder))


def test_an_epoch_whose_beginning_was_deleted_begins_later(folder: Path) -> None:
    """Retention takes whole segments from the front."""
    segments(folder)[0].unlink()
    past = scanned(folder)
    assert past.first > 1
    assert numbers(past) == list(range(past.first, 101))


def test_an_epoch_ends_before_a_hole(folder: Path) -> None:
    """What follows has lost its place: the ledger could never take it."""
    segments(folder)[4].unlink()
    past = scanned(folder)
    assert numbers(past) == list(range(1, past.last + 1))
    assert past.last < 60


def test_an_epoch_ends_at_the_first_damage(folder: Path) -> None:
    """Nothing of a segment after a bad entry, nor of those behind it."""
    victim = segments(folder)[3]
    data = bytearray(victim.read_bytes())
    data[600] ^= 1
    victim.write_bytes(data)
    past = scanned(folder)
    assert numbers(past) == list(range(1, past.last + 1))
    assert 20 < past.last < 50
    assert past.damage is not None


def test_a_torn_end_that_lost_nothing_is_no_hole(folder: Path) -> None:
    """An entry that could not be cut back stays at the end of its segment; the next one goes on."""
    with segments(folder)[2].open("ab") as file:
        file.write(b"torn")
    assert numbers(scanned(folder)) == list(range(1, 101))


def test_files_that_are_no_segments_end_the_epoch(folder: Path) -> None:
    """Empty, or of another kind."""
    segments(folder)[2].write_bytes(b"")
    assert scanned(folder).last < 40
    segments(folder)[0].write_bytes(b"not a segment at all, but long enough for a head")
    assert scanned(folder).is_empty


def test_a_segment_that_vanishes_is_named_and_can_be_given_up(folder: Path) -> None:
    """The records before it are gone as well; those behind it are served."""
    past = scanned(folder)
    gone = segments(folder)[0]
    gone.unlink()
    with pytest.raises(SegmentVanished, match=f"{gone} cannot be read: No such file") as caught:
        past.read(1, *EVERYTHING)
    past.forget(caught.value.segment)
    assert past.first > 1
    assert numbers(past) == list(range(past.first, 101))


def test_an_unscanned_epoch_has_no_records_yet(folder: Path) -> None:
    """Nor has one that is asked for what it does not hold."""
    assert PastEpoch(folder).read(1, *EVERYTHING) == []
    assert scanned(folder).read(101, *EVERYTHING) == []
    assert scanned(folder).read(0, *EVERYTHING) == []


def test_a_note_of_what_is_committed_survives_and_is_forgiven(folder: Path) -> None:
    """A note that is damaged costs a scan."""
    past = scanned(folder)
    past.note_covered(1.0)
    again = PastEpoch(folder)
    assert (again.first, again.last, again.unfinished.last, again.covered_at_unix_s is None) == (1, 100, 0, False)
    (folder / "covered").write_text("{")
    assert PastEpoch(folder).covered_at_unix_s is None
    shutil.rmtree(folder)
    write_covered(folder, 1, 1, 0)  # nobody minds
    assert not folder.exists()


def test_a_segment_without_room_for_its_header_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it keep its name."""
    path = folder / "new" / "00000001.segment"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr("os.write", lambda descriptor, data: len(data) - 1)
        create_segment(path, b"header")
    assert not path.exists()
    os.close(create_segment(path, b"header"))
    assert path.read_bytes() == b"header"
    with pytest.raises(FileExistsError):
        create_segment(path, b"another")
    assert path.read_bytes() == b"header"


def test_unfinished_records_are_an_epoch_with_a_name_of_its_own() -> None:
    """Always the same for the same epoch."""
    first, again = (Unfinished("a" * 32, 7, [b"{}", b"[]", b"1"]) for _ in range(2))
    assert first.epoch == again.epoch != "a" * 32
    assert len(first.epoch) == 32
    assert (first.first, first.last, first.left_behind.after) == (1, 3, 7)
    assert first.read(2, 1, 100) == [b"[]"]
    assert first.read(1, 10, 3) == [b"{}"]
    assert first.read(4, 10, 100) == []


def test_a_draft_without_progress_stands_as_it_is() -> None:
    """Byte for byte."""
    assert unfinished_record([b'{"a": 1}']) == b'{"a": 1}'
    assert orjson.loads(unfinished_record([b'{"a": 1, "b": {"c": 1}}', b'{"b": {"d": 2}}'])) == {"a": 1, "b": {"d": 2}}


def test_what_a_process_wrote_for_itself_becomes_a_record(tmp_path: Path) -> None:
    """Of a draft with its progress, once for each, whatever became of it in the journal meanwhile."""

    def restore(record: dict[str, object]) -> dict[str, object]:
        usage = record["usage"]
        return record | {"usage": sum(usage)} if isinstance(usage, list) else record

    journal = Journal.open(tmp_path, "mitm-0", limits=JournalLimits(segment_bytes=400))
    for exchange in ("one", "two", "three"):
        journal.start(exchange, b'{"id":"%b","usage":0}' % exchange.encode())
    repeat = journal.repeats("one")
    for number in range(60):
        repeat(b'{"usage":[1,%d]}' % number)
        journal.progress("two", b'{"usage":[%d]}' % number)
    journal.close(0)
    past = Journal.open(tmp_path, "mitm-0", restore=restore).past[0]
    past.scan()
    records = [orjson.loads(record) for record in past.unfinished.read(1, *EVERYTHING)]
    assert {record["id"]: record["usage"] for record in records} == {"one": 60, "two": 59, "three": 0}


def test_a_deleted_epoch_is_gone(folder: Path) -> None:
    """With everything in it."""
    past = scanned(folder)
    past.read(1, 5, 1000)
    past.delete()
    assert not folder.exists()
