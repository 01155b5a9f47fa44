"""What a record takes between mitm and the ledger, counted: system calls, statements, calls. It stays what it is."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bench.records import FIRST_US, record
from services.accountant.attribution import Attribution
from services.accountant.intake import Intake, read_message
from services.bus.delivery import batch_from, encode_batch
from services.bus.journal import Journal
from services.events.codec import encode, read_object
from services.events.turn import StopReason, TurnAccepted, TurnDone
from services.ledger.entry import UsageEntry
from services.ledger.store import LedgerStore
from services.ledger.window import text_from
from tests.support.call_counts import calls_of, is_as_ever, system_calls_of

BATCH = 64
BATCHES = 10
# Calls of one record.
START_CALLS = 32
PROGRESS_CALLS = 9
FINISH_CALLS = 17
PARSED_CALLS = 27.4
UNPARSED_CALLS = 17.6
ATTRIBUTED_CALLS = 30
COMMIT_CALLS = 3.45
# Of what a batch writes besides its rows: series, measures and sums of three levels.
STATEMENTS_OF_SUMS_MAX = 4


@contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    journal = Journal.open(folder, "mitm-0")
    try:
        yield journal
    finally:
        journal.close(0)


def message(first: int) -> bytes:
    return encode_batch("mitm-0", "0" * 32, first, [encode(record(first + number)) for number in range(BATCH)])


def new_intake() -> Intake:
    return Intake(Attribution(), pending_max=10_000)


def taken(intake: Intake, batches: int, read: Callable[[bytes], dict[str, object]] = read_message) -> None:
    for number in range(batches):
        intake.take(batch_from(read(message(1 + number * BATCH))))


def test_an_entry_of_the_journal_is_one_write_and_nothing_else(tmp_path: Path) -> None:
    """No entry waits for the disk, none is written in two pieces, whatever it holds."""
    data = encode(record(1))
    with open_journal(tmp_path) as journal:
        assert system_calls_of(lambda: journal.start("x", data)) == {"write": 1}
        assert system_calls_of(lambda: journal.progress("x", b'{"model":"m"}')) == {"write": 1}
        assert system_calls_of(lambda: journal.finish("x", [data] * 5)) == {"write": 1}


def test_entries_of_one_wake_up_are_one_write_together(tmp_path: Path) -> None:
    """Whatever they are, and how many."""
    data = encode(record(1))

    def wake_up() -> None:
        journal.is_holding = True
        for name in "abc":
            journal.start(name, data)
            journal.repeats(name)(b'{"usage":{}}')
        journal.finish("a", [data])
        journal.write_held()
        journal.is_holding = False

    with open_journal(tmp_path) as journal:
        journal.finish(None, [data])  # the first entry of a segment is looked at by itself
        assert system_calls_of(wake_up) == {"write": 1}


def test_an_entry_of_the_journal_takes_as_many_calls_as_ever(tmp_path: Path) -> None:
    """Start, progress and finish of a hundred exchanges that are open at once, written together."""
    data, names = encode(record(1)), [str(number) for number in range(100)]
    with open_journal(tmp_path) as journal:
        journal.is_holding = True

        def calls_for(entries: Callable[[], object]) -> float:
            return calls_of(lambda: (entries(), journal.write_held())) / 100

        assert is_as_ever(calls_for(lambda: [journal.start(name, data) for name in names]), START_CALLS)
        tellers = [journal.repeats(name) for name in names]
        assert is_as_ever(calls_for(lambda: [tell(b'{"usage":{}}') for tell in tellers]), PROGRESS_CALLS)
        assert is_as_ever(calls_for(lambda: [journal.finish(name, [data]) for name in names]), FINISH_CALLS)


def test_records_without_drafts_share_what_their_writing_takes(tmp_path: Path) -> None:
    """Those of one wake-up are one entry."""
    data = encode(record(1))
    with open_journal(tmp_path) as journal:
        journal.is_holding = True

        def calls_for(count: int) -> int:
            return calls_of(lambda: ([journal.finish(None, [data]) for _ in range(count)], journal.write_held()))

        calls_for(1)  # the first entry of a segment is looked at by itself
        assert (calls_for(101) - calls_for(1)) / 100 < 4


@pytest.mark.parametrize(
    ("read", "expected"), [(read_message, UNPARSED_CALLS), (read_object, PARSED_CALLS)], ids=["unparsed", "parsed"]
)
def test_a_record_is_taken_with_as_many_calls_as_ever(
    read: Callable[[bytes], dict[str, object]], expected: float
) -> None:
    """Checked, attributed, made a row; and it costs less if it is as our writers write it."""
    intake = new_intake()
    taken(intake, 1, read)  # what is found out once is known now
    messages = [message(1 + number * BATCH) for number in range(1, 1 + BATCHES)]
    calls = calls_of(lambda: [intake.take(batch_from(read(each))) for each in messages])
    assert len(intake.pending) == (1 + BATCHES) * BATCH
    assert is_as_ever(calls / BATCHES / BATCH, expected)


def test_a_record_that_gets_a_turn_takes_as_many_calls_as_ever() -> None:
    """However many turns there were before: what is added is put between its bytes."""
    attribution = Attribution()
    for second in range(60):
        at = text_from(FIRST_US - (60 - second) * 10_000_000)
        attribution.hear(TurnAccepted(turn_id=f"turn-{second}", at=at, label="client-0"))
        attribution.hear(TurnDone(turn_id=f"turn-{second}", number=1, at=at, stop_reason=StopReason.END))
    attribution.hear(TurnAccepted(turn_id="turn", at=text_from(FIRST_US), label="client-0"))
    intake = Intake(attribution, pending_max=10_000)
    taken(intake, 1)
    messages = [message(1 + number * BATCH) for number in range(1, 1 + BATCHES)]
    calls = calls_of(lambda: [intake.take(batch_from(read_message(each))) for each in messages])
    bodies = [arrival.entry.body for arrival in intake.pending if isinstance(arrival.entry, UsageEntry)]
    assert sum(body.endswith(b'"turn_id":"turn"}') for body in bodies) == len(bodies) / 2
    assert is_as_ever(calls / BATCHES / BATCH, ATTRIBUTED_CALLS)


def test_a_batch_is_one_transaction_of_few_statements(tmp_path: Path) -> None:
    """One wait for the disk, and a statement for each 64 rows: not for each row, not for each count."""
    intake = new_intake()
    taken(intake, 1 + BATCHES)
    with closing(LedgerStore(tmp_path / "ledger.sqlite3")) as store:
        store.commit(intake.hand_out(BATCH))  # series and measures are known now
        arrivals = intake.hand_out(BATCH * BATCHES)
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        store.commit(arrivals)
        store._connection.set_trace_callback(None)
    kinds = Counter(" ".join(statement.split()[:3]) for statement in statements)
    assert kinds.pop("INSERT INTO rollup") <= STATEMENTS_OF_SUMS_MAX
    assert kinds == {"BEGIN IMMEDIATE": 1, "INSERT INTO usage": BATCHES, "UPDATE source SET": 1, "COMMIT": 1}


def test_a_record_is_committed_with_as_many_calls_as_ever(tmp_path: Path) -> None:
    """Rows, sums, messages."""
    intake = new_intake()
    taken(intake, 1 + BATCHES)
    with closing(LedgerStore(tmp_path / "ledger.sqlite3")) as store:
        store.commit(intake.hand_out(BATCH))
        arrivals = intake.hand_out(BATCH * BATCHES)
        calls = calls_of(lambda: store.commit(arrivals)) / BATCHES / BATCH
        assert is_as_ever(calls, COMMIT_CALLS)
