"""What is taken: the next record of each epoch, once, readable or not. (tests/bus/test_sending.py has the protocol.)"""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.accountant.attribution import Attribution
from services.accountant.intake import Intake, read_message
from services.bus.delivery import ExchangeBatch, HeldEpoch, LeftBehind, batch_from, encode_batch
from services.events.codec import encode, read_object
from services.events.exchange import Client, UsageRecorded
from services.events.lifecycle import LanguageServerState, ServerState
from services.events.turn import TurnAccepted
from services.ledger.entry import ExchangeEntry, GapEntry, RefusedEntry, Source, Superseding, UsageEntry, usage_entry
from tests.support.event_values import values_of
from tests.support.records import AT, exchange_record, usage_json, usage_members

EPOCH = "e" * 32
SOURCE = Source("mitm-0", EPOCH)
GOOD = read_object(usage_json())


def intake(pending_max: int = 100) -> Intake:
    return Intake(Attribution(), pending_max=pending_max)


def batch(first: int, *records: object, left_behind: LeftBehind | None = None) -> ExchangeBatch:
    return ExchangeBatch(publisher="mitm-0", epoch=EPOCH, first_seq=first, records=records, left_behind=left_behind)


def seqs(taken: Intake) -> list[int]:
    return [arrival.seq for arrival in taken.pending]


def test_batches_may_overlap_and_come_again() -> None:
    """Each record is taken once, in order; what comes too early is ignored."""
    taken = intake()
    for first, count in [(3, 2), (1, 2), (1, 3), (2, 4), (1, 5), (9, 1)]:
        taken.take(batch(first, *[GOOD] * count))
    assert seqs(taken) == [1, 2, 3, 4, 5]


def test_only_committed_records_are_marked() -> None:
    """Taken is not enough."""
    taken = intake()
    taken.take(batch(1, GOOD, GOOD))
    assert taken.marks("mitm-0", [EPOCH, "f" * 32]) == {EPOCH: 0, "f" * 32: 0}
    assert len(taken.hand_out(10)) == 2
    taken.committed({SOURCE: 2})
    assert taken.marks("mitm-0", [EPOCH]) == {EPOCH: 2}


def test_after_a_failed_commit_the_ledger_says_what_is_next() -> None:
    """What was handed out and what was pending comes again."""
    taken = intake()
    taken.take(batch(1, GOOD, GOOD, GOOD))
    taken.hand_out(2)
    taken.reset({SOURCE: 1})
    assert taken.pending == []
    taken.take(batch(1, GOOD, GOOD, GOOD))
    assert seqs(taken) == [2, 3]


def test_memory_is_bounded() -> None:
    """The rest of a batch is left to be sent again."""
    taken = intake(pending_max=3)
    taken.take(batch(1, *[GOOD] * 5))
    assert seqs(taken) == [1, 2, 3]
    taken.hand_out(10)
    taken.take(batch(1, *[GOOD] * 5))
    assert seqs(taken) == [4, 5]


def test_each_kind_of_record_becomes_its_entry() -> None:
    """Usage rows, counted exchanges, and what cannot be read."""
    attribution = Attribution()
    attribution.hear(TurnAccepted(turn_id="t", at=AT, label="antigravity"))
    taken = Intake(attribution, pending_max=100)
    taken.take(batch(1, GOOD, read_object(encode(exchange_record())), {"schema": "wiremeter.unreadable/1"}))
    usage, exchange, refused = (arrival.entry for arrival in taken.pending)
    assert isinstance(usage, UsageEntry)
    assert usage.body.endswith(b'"turn_id":"t"}')
    assert isinstance(exchange, ExchangeEntry)
    assert isinstance(refused, RefusedEntry)
    assert taken.refused == 1


@pytest.mark.parametrize(
    "record",
    [
        7,
        None,
        [],
        {},
        GOOD | {"at": "yesterday"},
        GOOD | {"host": 5},
        GOOD | {"outcome": "secret prompt"},
        GOOD | {"usage": {"input_tokens": "secret prompt"}},
        GOOD | {"usage": {"input_tokens": 10**18}},
        GOOD | {"schema": "secret prompt"},
        GOOD | {"timing": "secret prompt"},
    ],
)
def test_a_record_that_cannot_be_read_takes_its_place_without_its_content(record: object) -> None:
    """The stream goes on behind it."""
    taken = intake()
    taken.take(batch(1, GOOD, record, GOOD))
    assert seqs(taken) == [1, 2, 3]
    entry = taken.pending[1].entry
    assert isinstance(entry, RefusedEntry)
    assert "secret" not in entry.reason
    assert entry.size_bytes > 0


def test_what_a_publisher_no_longer_holds_is_passed_over_once() -> None:
    """A cursor behind its first record could never move again."""
    taken = intake()
    taken.reset({SOURCE: 4})
    held = HeldEpoch(epoch=EPOCH, first=11, last=20)
    taken.greet("mitm-0", [held])
    taken.greet("mitm-0", [held])
    (arrival,) = taken.pending
    assert (arrival.seq, arrival.entry) == (10, GapEntry(reason="6 records are no longer held by their publisher"))
    assert taken.gone == 6
    taken.take(batch(11, GOOD))
    assert seqs(taken) == [10, 11]


@pytest.mark.parametrize(("first", "last"), [(1, 9), (5, 9), (6, 4), (0, 0), (1 << 62, 1 << 62)])
def test_a_greeting_that_hides_nothing_or_is_nonsense_changes_nothing(first: int, last: int) -> None:
    """The next record is held, or the numbers are none."""
    taken = intake()
    taken.reset({SOURCE: 4})
    taken.greet("mitm-0", [HeldEpoch(epoch=EPOCH, first=first, last=last)])
    assert taken.pending == []


def test_what_a_dead_process_left_unfinished_names_what_makes_it_superfluous() -> None:
    """The finished record of the same exchange, if the ledger has it."""
    taken = intake()
    taken.take(batch(1, GOOD, 7, left_behind=LeftBehind(epoch="d" * 32, after=3)))
    wanted = Superseding(source=Source("mitm-0", "d" * 32), after=3, exchange_id="exchange-01JDUSAGE")
    assert [arrival.unless for arrival in taken.pending] == [wanted, None]


BROKEN = [b"{}", b"1", usage_json(at="never"), usage_json(usage={"x": 10**13}), usage_json(client=Client(uid=1 << 40))]
SPECIAL = [
    usage_json(client=Client(uid=998)),
    usage_json(client=Client(uid=998, executable="label:null", run="r"), conversation_id="c", usage={"label": 1}),
    usage_json(client=Client(uid=998), conversation_id="d", response_id=None),
    usage_json(client=Client(uid=5, label="antigravity")),
    usage_json(client=Client(label="")),
    usage_json(turn_id="t"),
    usage_json(turn_id=""),
    usage_json(host='"'),
    usage_json().replace(b'"output_tokens"', b'"input_tokens"'),
    encode(exchange_record()),
]


LANGUAGE_SERVER_READY = LanguageServerState(
    at=AT, state=ServerState.READY, profile="p", label="antigravity", user="u", uid=998, way="redirect"
)
LABELS = st.sampled_from(["antigravity", "", '"label":null', "größer"]) | st.text(max_size=5)
TOLD = st.one_of(
    LABELS.map(lambda label: dataclasses.replace(LANGUAGE_SERVER_READY, label=label)),
    st.builds(
        TurnAccepted,
        turn_id=st.sampled_from(["t", 'u"', ""]),
        at=st.just(AT),
        label=LABELS,
        conversation_id=st.none() | st.just("c"),
    ),
)


@given(
    st.lists(values_of(UsageRecorded).map(encode) | st.sampled_from([usage_json("a"), *SPECIAL, *BROKEN]), max_size=4),
    st.lists(TOLD, max_size=3),
)
def test_records_that_are_not_parsed_become_the_same_arrivals(records: list[bytes], told: list[object]) -> None:
    """And the same refusals, with the same attribution."""
    attribution = Attribution()
    for event in told:
        attribution.hear(event)
    unparsed = Intake(attribution, pending_max=100)
    parsed = Intake(attribution, pending_max=100)
    message = encode_batch("mitm-0", EPOCH, 1, records)
    unparsed.take(batch_from(read_message(message)))
    parsed.take(batch_from(read_object(message)))
    assert unparsed.pending == parsed.pending
    assert unparsed.refused == parsed.refused


def test_an_ordinary_record_is_not_parsed() -> None:
    """Its bytes are the row's."""
    message = encode_batch("mitm-0", EPOCH, 1, [usage_json()])
    (record,) = batch_from(read_message(message)).records
    assert isinstance(record, tuple)
    taken = intake()
    taken.take(batch_from(read_message(message)))
    assert isinstance(taken.pending[0].entry, UsageEntry)
    assert taken.pending[0].entry.body == usage_json().replace(b'"schema":"wiremeter.usage/1",', b"")


@pytest.mark.parametrize("client", [Client(uid=998, label="mine"), Client(uid=998)], ids=["labelled", "unlabelled"])
def test_a_record_that_gets_a_label_or_a_turn_is_not_parsed_either(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added is put between its bytes: in ordinary use that is every record of the language server."""
    attribution = Attribution()
    for told in (LANGUAGE_SERVER_READY, TurnAccepted(turn_id="t", at=AT, label=client.label or "antigravity")):
        attribution.hear(told)
    taken = Intake(attribution, pending_max=100)
    monkeypatch.setattr("services.accountant.intake.record_from", None)
    taken.take(batch_from(read_message(encode_batch("mitm-0", EPOCH, 1, [usage_json(client=client)]))))
    wanted = usage_members(client=Client(uid=998, label=client.label or "antigravity"), turn_id="t")
    assert taken.pending[0].entry == usage_entry(wanted)
