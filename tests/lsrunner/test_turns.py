"""Which turn is answered when."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.lifecycle import LanguageServerState, OfferedModel, ServerState
from services.events.turn import FailureKind, Message, Role, TurnRequested
from services.lsrunner.turns import Accepted, BeginTurn, GiveUp, Refused, TurnQueue, Withdrawn

READY = LanguageServerState(
    at="",
    state=ServerState.READY,
    profile="acp",
    label="acp",
    user="u",
    uid=1,
    models=(OfferedModel(id="small", name="Small"), OfferedModel(id="large", name="Large")),
)
HELLO = (Message(role=Role.USER, text="hello"),)


def request(turn_id: str = "T", model: str | None = None, deadline_s: float = 60.0) -> TurnRequested:
    """Ask something."""
    return TurnRequested(turn_id=turn_id, model=model, messages=HELLO, deadline_s=deadline_s)


def queue(queue_max: int = 2) -> TurnQueue:
    """Return an empty one."""
    return TurnQueue(queue_max, turn_timeout_s=600.0)


def begun(orders) -> list[str]:
    """Return the ids of turns that begin."""
    return [order.request.turn_id for order in orders if isinstance(order, BeginTurn)]


def test_a_turn_is_accepted_and_begun():
    """Its deadline is the request's, or the runner's where that is shorter."""
    subject = queue()
    assert subject.ask(request(deadline_s=60.0), READY, 100.0) == [Accepted(turn_id="T")]
    assert subject.begin_next(1) == [BeginTurn(request=request(deadline_s=60.0), deadline_at_s=160.0)]
    subject.ask(request("U", deadline_s=9999.0), READY, 100.0)
    subject.finished("T")
    [begin] = subject.begin_next(1)
    assert begin.deadline_at_s == 700.0


def test_a_repeated_request_is_answered_again_and_not_begun_twice():
    """Also when its turn is over; frontproxy repeats until it hears us."""
    subject = queue()
    subject.ask(request(), READY, 0.0)
    assert subject.ask(request(), READY, 0.2) == [Accepted(turn_id="T")]
    assert begun(subject.begin_next(5)) == ["T"]
    assert subject.ask(request(), READY, 0.4) == [Accepted(turn_id="T")]
    subject.finished("T")
    assert subject.ask(request(), READY, 0.6) == [Accepted(turn_id="T")]
    assert begun(subject.begin_next(5)) == []


def test_a_repeated_request_that_was_refused_is_refused_again():
    """With the same words, even if it could be answered now."""
    subject = queue()
    [first] = subject.ask(request(), dataclasses.replace(READY, state=ServerState.STARTING), 0.0)
    assert isinstance(first, Refused)
    assert subject.ask(request(), READY, 1.0) == [first]


def test_turns_run_in_the_order_of_their_arrival_and_as_many_as_are_told_apart():
    """The others wait."""
    subject = queue(queue_max=9)
    for each in "abcd":
        subject.ask(request(each), READY, 0.0)
    assert begun(subject.begin_next(2)) == ["a", "b"]
    assert begun(subject.begin_next(2)) == []
    subject.finished("b")
    assert begun(subject.begin_next(2)) == ["c"]
    assert repr(subject) == "<TurnQueue 2 running, 1 waiting>"


def test_one_more_than_fits_is_refused_as_busy():
    """With the number and the limit."""
    subject = queue(queue_max=2)
    for each in "ab":
        subject.ask(request(each), READY, 0.0)
    message = "2 turns are waiting already; the limit is 2"
    assert subject.ask(request("c"), READY, 0.0) == [Refused(turn_id="c", kind=FailureKind.BUSY, message=message)]


@pytest.mark.parametrize(
    ("server", "asked", "kind", "words"),
    [
        (
            READY,
            request(model="huge"),
            FailureKind.UNKNOWN_MODEL,
            "model 'huge' is not offered; offered are small, large",
        ),
        (
            dataclasses.replace(READY, state=ServerState.BACKING_OFF, detail="no such program"),
            request(),
            FailureKind.NOT_READY,
            "the language server is backing off: no such program",
        ),
        (
            dataclasses.replace(READY, accepts_turns=False, profile="command"),
            request(),
            FailureKind.INVALID,
            "it answers no prompts",
        ),
        (
            READY,
            dataclasses.replace(request(), messages=(Message(role=Role.ASSISTANT, text="x"),)),
            FailureKind.INVALID,
            "the last message must be the user's",
        ),
        (
            READY,
            dataclasses.replace(request(), messages=()),
            FailureKind.INVALID,
            "the last message must be the user's",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(server, asked, kind, words):
    """Before it takes a place in the queue."""
    [refused] = queue().ask(asked, server, 0.0)
    assert isinstance(refused, Refused)
    assert refused.kind is kind
    assert words in refused.message


def test_a_cancelled_turn_is_given_up_or_withdrawn():
    """Depending on whether it runs; unknown and finished ones are no concern."""
    subject = queue()
    for each in "ab":
        subject.ask(request(each), READY, 0.0)
    subject.begin_next(1)
    assert subject.cancel("a", "gone") == [GiveUp(turn_id="a", kind=None, message="gone")]
    assert subject.cancel("b", "gone") == [Withdrawn(turn_id="b")]
    assert subject.cancel("c", "gone") == []
    subject.finished("a")
    assert subject.cancel("a", "gone") == []
    assert subject.active == 0


def test_waiting_does_not_outlast_the_deadline():
    """Those in front may take long; while nobody waits there is nothing to wake up for."""
    subject = queue()
    assert subject.wake_at_s is None
    subject.ask(request("a", deadline_s=5.0), READY, 0.0)
    subject.ask(request("b", deadline_s=9.0), READY, 0.0)
    assert subject.wake_at_s == 5.0
    assert subject.expire(4.9) == []
    [refused] = subject.expire(5.0)
    assert (refused.turn_id, refused.kind) == ("a", FailureKind.TIMEOUT)


def test_a_lost_language_server_takes_all_turns_with_it():
    """The running ones have failed, the waiting ones can be asked again."""
    subject = queue()
    for each in "ab":
        subject.ask(request(each), READY, 0.0)
    subject.begin_next(1)
    assert subject.lose("it ended") == [
        GiveUp(turn_id="a", kind=FailureKind.INTERNAL, message="it ended"),
        Refused(turn_id="b", kind=FailureKind.NOT_READY, message="it ended"),
    ]


@given(st.lists(st.tuples(st.sampled_from(["ask", "begin", "cancel", "finish", "expire", "lose"]), st.integers(0, 6))))
def test_every_turn_begins_at_most_once_and_limits_hold(steps):
    """Whatever the order of things."""
    subject = TurnQueue(3, turn_timeout_s=600.0)
    running: set[str] = set()
    ever: set[str] = set()
    for now, (what, number) in enumerate(steps):
        turn_id = f"T{number}"
        if what == "ask":
            assert len(subject.ask(request(turn_id, deadline_s=4.0), READY, float(now))) == 1
        elif what == "begin":
            for each in begun(subject.begin_next(2)):
                assert each not in ever
                running.add(each)
                ever.add(each)
        elif what == "cancel":
            for order in subject.cancel(turn_id, ""):
                assert isinstance(order, GiveUp) == (turn_id in running)
        elif what == "finish":
            subject.finished(turn_id)
            running.discard(turn_id)
        elif what == "expire":
            assert not {order.turn_id for order in subject.expire(float(now))} & running
        else:
            gone = {order.turn_id for order in subject.lose("") if isinstance(order, GiveUp)}
            assert gone == running
        assert len(running) <= 2
        assert len(running) <= subject.active <= len(running) + 3
