"""Whose a record is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from services.accountant.attribution import GRACE, TURNS_MAX, Attribution
from services.events.exchange import Client, Timing, UsageMembers, UsageRecorded
from services.events.lifecycle import LanguageServerState, ServerState
from services.events.turn import FailureKind, StopReason, TurnAccepted, TurnDone, TurnFailed
from services.events.verbatim import verbatim
from services.ledger.entry import VERBATIM_MEMBERS, UsageEntry, VerbatimUsage, usage_entry, verbatim_entry
from tests.support.records import usage_members

ZERO = datetime(2026, 11, 23, 17, 40, tzinfo=UTC)

VERBATIM = verbatim(UsageRecorded, VERBATIM_MEMBERS)
LANGUAGE_SERVER = Client(uid=998, label="antigravity")


def at(second: float) -> str:
    return (ZERO + timedelta(seconds=second)).isoformat()


def accepted(turn_id: str, second: float, **members: object) -> TurnAccepted:
    return TurnAccepted(turn_id=turn_id, at=at(second), **{"label": "antigravity", **members})  # type: ignore[arg-type]


def done(turn_id: str, second: float, **members: object) -> TurnDone:
    return TurnDone(turn_id=turn_id, number=9, at=at(second), stop_reason=StopReason.END, **members)  # type: ignore[arg-type]


def record(second: float, **members: object) -> UsageMembers:
    return usage_members(timing=Timing(started_at=at(second)), **members)


def told(*events: object) -> Attribution:
    attribution = Attribution()
    for event in events:
        attribution.hear(event)
    return attribution


def state(uid: int, way: str = "redirect", label: str = "antigravity") -> LanguageServerState:
    return LanguageServerState(
        at=at(0), state=ServerState.READY, profile="p", label=label, user="antigravity-ls", uid=uid, way=way
    )


def unparsed_entry(record: UsageMembers) -> tuple[UsageEntry, VerbatimUsage]:
    found = VERBATIM.fullmatch(orjson.dumps(record))
    assert found is not None
    unparsed: VerbatimUsage = found.groups()  # type: ignore[assignment]  # its pattern has as many groups
    entry = verbatim_entry(unparsed)
    assert entry is not None
    return entry, unparsed


def test_a_redirected_connection_has_the_label_of_its_user() -> None:
    """The language server has a user of its own."""
    found = told(state(998)).attribute(record(0, client=Client(uid=998, pid=5)))
    assert found["client"] == record(0, client=Client(uid=998, pid=5, label="antigravity"))["client"]


@pytest.mark.parametrize("client", [Client(uid=1000), Client(uid=None), Client(uid=998, label="mine")])
def test_others_keep_what_they_have(client: Client) -> None:
    """Another user, an unknown one, one that named itself."""
    untouched = record(0, client=client)
    assert told(state(998)).attribute(untouched) is untouched


def test_a_language_server_that_shares_our_user_names_itself() -> None:
    """Through CONNECT whoever does not is another program of the same user."""
    assert told(state(1000, "connect")).attribute(record(0, client=Client(uid=1000)))["client"]["label"] is None


def test_a_user_that_the_language_server_has_left_is_nobodys() -> None:
    """It was started again as another."""
    attribution = told(state(998), state(999))
    assert attribution.attribute(record(0, client=Client(uid=998)))["client"]["label"] is None


@pytest.mark.parametrize(("second", "turn_id"), [(-1, None), (0, "t"), (5, "t"), (11.9, "t"), (12.1, None)])
def test_a_record_belongs_to_the_turn_that_was_under_way(second: float, turn_id: str | None) -> None:
    """From its start to two seconds after its end."""
    assert told(accepted("t", 0), done("t", 10)).attribute(record(second))["turn_id"] == turn_id


def test_a_failed_turn_ends_too() -> None:
    """Its exchanges were spent all the same."""
    failed = TurnFailed(turn_id="t", number=1, at=at(10), kind=FailureKind.UPSTREAM, message="quota")
    attribution = told(accepted("t", 0), failed)
    assert attribution.attribute(record(5))["turn_id"] == "t"
    assert attribution.attribute(record(50))["turn_id"] is None


def test_two_turns_at_once_leave_it_open() -> None:
    """A guess would be wrong half of the time."""
    assert told(accepted("t", 0), accepted("u", 1)).attribute(record(5))["turn_id"] is None


def test_a_turn_that_goes_on_is_preferred_to_one_that_is_over() -> None:
    """Turns follow each other faster than the grace lasts."""
    assert told(accepted("t", 0), done("t", 4), accepted("u", 4.5)).attribute(record(5))["turn_id"] == "u"


def test_response_ids_decide() -> None:
    """Whatever the times say."""
    attribution = told(accepted("t", 0), done("t", 1, response_ids=("r1",)), accepted("u", 5))
    assert attribution.attribute(record(6, response_id="r1"))["turn_id"] == "t"
    assert attribution.attribute(record(6, response_id="r2"))["turn_id"] == "u"


def test_conversations_tell_turns_apart() -> None:
    """Two at once, each with its own; within one, the later turn."""
    attribution = told(accepted("t", 0, conversation_id="c"), accepted("u", 0, conversation_id="d"))
    assert attribution.attribute(record(5, conversation_id="c"))["turn_id"] == "t"
    assert attribution.attribute(record(5, conversation_id="d"))["turn_id"] == "u"
    assert attribution.attribute(record(5, conversation_id="e"))["turn_id"] is None
    attribution = told(accepted("t", 0, conversation_id="c"), done("t", 4), accepted("u", 4.5, conversation_id="c"))
    assert attribution.attribute(record(5, conversation_id="c"))["turn_id"] == "u"


def test_a_conversation_may_be_told_late() -> None:
    """When the acceptance is said again, or at the end."""
    attribution = told(accepted("t", 0), accepted("t", 3, conversation_id="c"), accepted("u", 0))
    assert attribution.attribute(record(5, conversation_id="c"))["turn_id"] == "t"


def test_other_labels_have_no_part_in_it() -> None:
    """Nor have records without one."""
    attribution = told(accepted("t", 0))
    assert attribution.attribute(record(5, client=Client(label="other")))["turn_id"] is None
    assert attribution.attribute(record(5, client=Client()))["turn_id"] is None


def test_a_turn_that_never_ends_is_over_after_an_hour() -> None:
    """Its runner died; later calls are not its."""
    attribution = told(accepted("t", 0))
    assert attribution.attribute(record(3599))["turn_id"] == "t"
    assert attribution.attribute(record(3601))["turn_id"] is None


def test_only_so_many_turns_are_remembered() -> None:
    """The oldest are forgotten."""
    attribution = told(*(accepted(str(n), n, label=str(n)) for n in range(TURNS_MAX + 1)))
    assert attribution.attribute(record(5, client=Client(label="0")))["turn_id"] is None
    assert attribution.attribute(record(5, client=Client(label="1")))["turn_id"] == "1"


def test_what_is_forgotten_is_forgotten_whole() -> None:
    """An ended turn with its answers, and one that never ended."""
    attribution = told(
        accepted("t", 0),
        done("t", 1, response_ids=("r",)),
        accepted("u", 0, label="other"),
        *(accepted(str(number), 0, label="later") for number in range(TURNS_MAX)),
    )
    assert attribution.attribute(record(0.5, client=LANGUAGE_SERVER, response_id="r"))["turn_id"] is None
    assert attribution.attribute(record(0.5, client=Client(label="other")))["turn_id"] is None
    assert attribution.attribute(record(0.5, client=Client(label="later")))["turn_id"] is None


def test_what_a_turn_says_last_of_its_answers_counts() -> None:
    """Said twice, it is not two turns'."""
    attribution = told(accepted("t", 0), done("t", 1, response_ids=("r", "s")), done("t", 1, response_ids=("s",)))
    assert attribution.attribute(record(50, response_id="s"))["turn_id"] == "t"
    assert attribution.attribute(record(50, response_id="r"))["turn_id"] is None


@given(st.text(max_size=30))
@example("0001-01-01T00:00:00Z")
@example("9999-12-31T23:59:59Z")
def test_times_that_are_none_are_passed_over(text: str) -> None:
    """Whoever reaches the bus may say anything."""
    attribution = told(
        TurnAccepted(turn_id="t", at=text, label="antigravity"),
        accepted("u", 0),
        TurnDone(turn_id="u", number=1, at=text, stop_reason=StopReason.END),
        "something else",
    )
    attribution.attribute(usage_members(timing=Timing(started_at=text)))


def test_a_turn_that_is_set_already_stays() -> None:
    """And nothing is known of an empty memory."""
    assert told(accepted("t", 0)).attribute(record(5, turn_id="u"))["turn_id"] == "u"
    assert told(done("t", 0)).attribute(record(0))["turn_id"] is None


def test_a_turn_that_waited_begins_when_it_is_accepted_again() -> None:
    """While it waited, what was on the wire belonged to the one before it."""
    attribution = told(accepted("first", 0), accepted("second", 1), done("first", 5), accepted("second", 6))
    assert attribution.attribute(record(3, client=Client(label="antigravity")))["turn_id"] == "first"
    assert attribution.attribute(record(8, client=Client(label="antigravity")))["turn_id"] == "second"


def test_a_record_that_nothing_is_added_to_stays_as_it_is() -> None:
    """Parsed or not."""
    attribution = told(state(998), accepted("t", 0))
    for client in (Client(uid=1000), Client(uid=None), Client(uid=998, label="mine"), Client(uid=998), LANGUAGE_SERVER):
        for second in (-1.0, 0.5):
            untouched = record(second, client=client)
            entry, unparsed = unparsed_entry(untouched)
            adds_nothing = attribution.attribute(untouched) is untouched
            assert (attribution.attribute_verbatim(entry, unparsed) is entry) == adds_nothing
            assert adds_nothing == (client != Client(uid=998) and (client != LANGUAGE_SERVER or second < 0))


@pytest.mark.parametrize("members", [{}, {"response_id": "r"}, {"conversation_id": "c"}, {"response_id": None}])
@pytest.mark.parametrize("client", [Client(uid=998), LANGUAGE_SERVER, Client(label="mine"), Client()])
@pytest.mark.parametrize("second", [-1.0, 0.5, 50.0])
def test_a_record_that_was_not_parsed_is_attributed_in_the_same_way(
    client: Client, second: float, members: dict[str, object]
) -> None:
    """Whatever is known of it."""
    attribution = told(
        state(998),
        accepted("t", 0, conversation_id="c"),
        accepted("u", 0, label="mine"),
        done("t", 10, response_ids=("r",)),
    )
    untouched = record(second, client=client, **members)
    assert attribution.attribute_verbatim(*unparsed_entry(untouched)) == usage_entry(attribution.attribute(untouched))


TOLD = st.one_of(
    st.builds(accepted, st.sampled_from("tuv"), st.integers(0, 9), label=st.sampled_from("ab")),
    st.builds(
        done,
        st.sampled_from("tuv"),
        st.integers(0, 9),
        response_ids=st.lists(st.sampled_from("rs"), max_size=2).map(tuple),
    ),
)


def turn_by_the_rule(events: list[TurnAccepted | TurnDone], second: float, response_id: str) -> str | None:
    """Whose a record of label `a` is, by a look at all that was said; turns have no conversations here."""
    turns: dict[str, dict[str, Any]] = {}
    for event in events:
        moment = datetime.fromisoformat(event.at)
        if isinstance(event, TurnAccepted):
            turn = turns.setdefault(event.turn_id, {"label": event.label, "began": moment, "ended": None, "named": ()})
            if turn["ended"] is None:
                turn["began"] = max(turn["began"], moment)
        elif event.turn_id in turns:
            turn = turns[event.turn_id]
            turn["ended"] = turn["ended"] or moment
            turn["named"] = event.response_ids
    ours = {turn_id: turn for turn_id, turn in turns.items() if turn["label"] == "a"}
    named = [turn_id for turn_id, turn in ours.items() if response_id in turn["named"]]
    now = ZERO + timedelta(seconds=second)
    going_on = [each for each, turn in ours.items() if turn["ended"] is None and turn["began"] <= now]
    over = [each for each, turn in ours.items() if turn["ended"] and turn["began"] <= now <= turn["ended"] + GRACE]
    candidates = named or going_on or over
    return candidates[0] if named or len(candidates) == 1 else None


@given(st.lists(TOLD, max_size=12), st.floats(0, 13), st.sampled_from("rsx"))
def test_a_turn_is_found_as_if_all_were_looked_at(
    events: list[TurnAccepted | TurnDone], second: float, response_id: str
) -> None:
    """In whatever order they began, ended, and named their answers."""
    named = [each for event in events if isinstance(event, TurnDone) for each in event.response_ids]
    assume(len(named) == len(set(named)))  # no provider gives two turns one answer
    found = told(*events).attribute(record(second, client=Client(label="a"), response_id=response_id))["turn_id"]
    assert found == turn_by_the_rule(events, second, response_id)
