"""One turn as frontproxy sees it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.turn import (
    DeltaKind,
    FailureKind,
    Message,
    Role,
    StopReason,
    TurnAccepted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnRequested,
)
from services.frontproxy.turns import (
    ACCEPT_TIMEOUT_S,
    ANSWER_CHARS_MAX,
    DEADLINE_GRACE_S,
    HEARD_WITHIN_S,
    REPEAT_INTERVAL_S,
    SILENCE_S,
    Turn,
    TurnEvent,
    TurnState,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
REQUEST = TurnRequested(turn_id="t1", model="m", messages=(Message(role=Role.USER, text="hello"),), deadline_s=600.0)


def turn() -> Turn:
    return Turn(REQUEST, now_s=100.0, requested_at=NOON)


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def accepted(seconds: float = 1) -> TurnAccepted:
    return TurnAccepted(turn_id="t1", at=at(seconds), label="simulated")


def delta(number: int, text: str = "x") -> TurnDelta:
    return TurnDelta(turn_id="t1", number=number, kind=DeltaKind.TEXT, text=text)


def done(number: int, stop_reason: StopReason = StopReason.END) -> TurnDone:
    return TurnDone(turn_id="t1", number=number, at=at(2), stop_reason=stop_reason)


def failed(number: int) -> TurnFailed:
    return TurnFailed(turn_id="t1", number=number, at=at(2), kind=FailureKind.UPSTREAM, message="quota", status=429)


def fed(*events: TurnEvent) -> Turn:
    found = turn()
    for event in events:
        found.feed(event)
    return found


def test_an_answer_is_its_pieces_in_order():
    """Pieces come out once, in order, and the end ends the turn."""
    subject = fed(accepted(), delta(1, "a"), delta(2, "b"))
    assert [each.text for each in subject.take()] == ["a", "b"]
    assert subject.take() == []
    subject.feed(done(3))
    assert subject.state is TurnState.DONE
    assert subject.done == done(3)
    assert subject.cancel_reason is None


def test_pieces_count_as_acceptance():
    """An acceptance that was lost on the way is no reason to ask again."""
    subject = fed(delta(1))
    assert subject.state is TurnState.AWAITING_END
    assert not subject.wake(101.0, 101.0)


def test_a_repeated_piece_is_ignored():
    """A piece that is told twice is in the answer once."""
    subject = fed(accepted(), delta(1, "a"), delta(1, "a"), accepted(), delta(2, "b"))
    assert [each.text for each in subject.take()] == ["a", "b"]


@pytest.mark.parametrize("late", [delta(4), done(4), delta(9)], ids=["piece", "end", "far piece"])
def test_a_lost_piece_fails_the_turn_and_tells_the_runner(late: TurnEvent):
    """An answer with a hole is never passed on as whole."""
    subject = fed(accepted(), delta(1), delta(2), late)
    assert subject.failure is not None
    assert subject.failure.kind is FailureKind.INTERNAL
    assert subject.failure.message == f"pieces 3 to {late.number - 1} of the answer were lost on the way"
    assert subject.cancel_reason == subject.failure.message


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_failure_is_taken_at_its_word(number: int):
    """The runner's own failure counts whatever its number: its message says more than a gap would."""
    subject = fed(accepted(), failed(number))
    assert subject.failure is not None
    assert (subject.failure.kind, subject.failure.status) == (FailureKind.UPSTREAM, 429)
    assert subject.cancel_reason is None


def test_a_turn_that_the_language_server_cancels_has_failed():
    """Half an answer is not told as a whole one."""
    subject = fed(accepted(), delta(1), done(2, StopReason.CANCELLED))
    assert subject.failure is not None
    assert subject.done is None


def test_the_request_is_repeated_until_it_is_accepted():
    """Asked at once, again after the interval, never after the acceptance."""
    subject = turn()
    assert subject.wake(100.0, 100.0)
    assert not subject.wake(100.1, 100.0)
    assert subject.wake(100.0 + REPEAT_INTERVAL_S, 100.0)
    subject.feed(accepted())
    assert not subject.wake(101.0, 100.0)


def test_the_request_waits_until_the_runner_is_heard():
    """A runner that cannot be heard yet would answer into the void."""
    subject = turn()
    assert not subject.wake(100.0, 100.0 - HEARD_WITHIN_S)
    assert subject.wake(100.2, 100.1)


def test_a_runner_that_does_not_answer_is_given_up_after_the_limit():
    """The client learns within seconds that nobody is there."""
    subject = turn()
    assert subject.wake(100.0, 100.0)
    subject.wake(100.0 + ACCEPT_TIMEOUT_S, 104.0)
    assert subject.failure is not None
    assert subject.failure.kind is FailureKind.NOT_READY
    assert subject.failure.message == "the language server runner does not answer"
    assert subject.cancel_reason is not None


def test_a_turn_that_takes_too_long_is_given_up():
    """The runner gives up at the deadline; if it does not, frontproxy does a little later."""
    subject = fed(accepted())
    limit = 100.0 + ACCEPT_TIMEOUT_S + REQUEST.deadline_s + DEADLINE_GRACE_S
    subject.wake(limit - 0.1, limit - 0.1)
    assert subject.failure is None
    subject.wake(limit, limit)
    assert subject.failure is not None
    assert subject.failure.kind is FailureKind.TIMEOUT
    assert subject.failure.message == "the turn took longer than 600 s"


def test_a_runner_that_falls_silent_fails_the_turn():
    """A turn does not hang because its runner does."""
    subject = fed(accepted())
    subject.wake(150.0 + SILENCE_S - 0.1, 150.0)
    assert subject.failure is None
    subject.wake(150.0 + SILENCE_S, 150.0)
    assert subject.failure is not None


def test_a_runner_that_says_twice_that_it_is_idle_has_ended_the_turn():
    """Once may be the moment before the end; an event in between begins the count anew."""
    subject = turn()
    subject.runner_idle()
    subject.runner_idle()
    subject.feed(accepted())
    subject.runner_idle()
    subject.feed(delta(1))
    subject.runner_idle()
    assert not subject.is_over
    subject.runner_idle()
    assert subject.failure is not None
    assert subject.failure.message == "the end of the answer was lost on the way"


def test_a_runner_that_was_started_later_does_not_know_the_turn():
    """A restart in the middle of a turn fails it at the new runner's first word."""
    subject = fed(accepted(1))
    subject.runner_started(at(-60))
    assert not subject.is_over
    subject.runner_started(at(1.5))
    assert subject.failure is not None
    assert "restarted" in subject.failure.message
    assert subject.cancel_reason is None


def test_a_runner_that_is_started_before_it_accepts_is_the_right_one():
    """A request that waited for the restart is answered."""
    subject = turn()
    subject.runner_started(at(0.5))
    subject.feed(accepted(1))
    subject.runner_started(at(0.5))
    assert not subject.is_over


@pytest.mark.parametrize("word", ["", "yesterday", "2026-11-23T12:00:00"])
def test_a_time_that_cannot_be_read_decides_nothing(word: str):
    """Nonsense from the bus fails no turn."""
    subject = fed(accepted())
    subject.runner_started(word)
    assert not subject.is_over


def test_an_endless_answer_ends_at_the_limit():
    """Memory is bounded by the answer's limit."""
    piece = "x" * (ANSWER_CHARS_MAX // 2)
    subject = fed(accepted(), delta(1, piece), delta(2, piece), delta(3, "x"))
    assert subject.failure is not None
    assert subject.failure.message == f"the answer is longer than {ANSWER_CHARS_MAX} characters"


def test_giving_up_tells_the_runner_unless_it_has_ended():
    """A cancel is sent for work that goes on, and only then."""
    subject = fed(accepted())
    subject.give_up("the client has gone")
    assert subject.cancel_reason == "the client has gone"
    subject = fed(accepted(), done(1))
    subject.give_up("the client has gone")
    assert subject.cancel_reason is None


def test_a_turn_shows_its_state():
    """A log line or a failed assertion says where a turn stands, and no text of it."""
    assert repr(fed(accepted(), delta(1, "secret"))) == "<Turn t1 awaiting_end after 1>"


EVENTS = st.one_of(
    st.builds(accepted, st.integers(0, 9)),
    st.builds(delta, st.integers(0, 9), st.text(max_size=3)),
    st.builds(done, st.integers(0, 9), st.sampled_from(StopReason)),
    st.builds(failed, st.integers(0, 9)),
)


@given(st.lists(EVENTS, max_size=30), st.lists(st.floats(0, 1000), max_size=5))
def test_whatever_comes_the_answer_has_no_holes(events: list[TurnEvent], clock: list[float]):
    """In any order and number: pieces are 1, 2, 3…, done or failed excludes the other, and the end is final."""
    subject = turn()
    numbers = []
    over_as = None
    for event in events:
        subject.feed(event)
        for moment in clock:
            subject.wake(100.0 + moment, 100.0 + moment)
        numbers += [each.number for each in subject.take()]
        assert (subject.done is not None) + (subject.failure is not None) == subject.is_over
        if over_as is not None:
            assert subject.state is over_as
        over_as = subject.state if subject.is_over else None
    assert numbers == list(range(1, len(numbers) + 1))
    if subject.done is not None:
        assert subject.done.number == len(numbers) + 1
