"""
One turn as frontproxy sees it: what each event of lsrunner means, and when to ask again or give up.

The bus may lose a message at either end of a restart, so:

* the request is repeated every `REPEAT_INTERVAL_S` until the runner answers, at most `ACCEPT_TIMEOUT_S` long, and
  only while the runner is heard: one that starts anew may hear us before we hear it, and its first words were lost;
* pieces are numbered 1, 2, 3…, the end included: a number that is skipped fails the turn, one that comes again is
  ignored; an answer with a hole is never passed on as whole;
* a runner that was started anew does not know the turn any more, one that is silent for `SILENCE_S` is gone, and one
  that has said twice that it works on nothing has ended the turn, whose end was lost.

A core: time is an argument (seconds of a monotonic clock), and nothing is sent from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from services.events.turn import (
    FailureKind,
    StopReason,
    TurnAccepted,
    TurnDelta,
    TurnDone,
    TurnFailed,
    TurnRequested,
)

ACCEPT_TIMEOUT_S: Final = 5.0
REPEAT_INTERVAL_S: Final = 0.2
# The runner says its state once a second; one that was not heard for longer is gone, or cannot be heard yet. Less than
# what supervisord needs to start another.
HEARD_WITHIN_S: Final = 1.3
# A state that was made just before the end of a turn was published may come just before that end.
_IDLE_STATES_MAX: Final = 2
# A machine that was suspended or swaps gets more patience for a turn that has begun.
SILENCE_S: Final = 15.0
# The runner gives up at the deadline itself; this is for one that does not.
DEADLINE_GRACE_S: Final = 5.0
# All of an answer is held in memory when it is not streamed or the client reads slowly.
ANSWER_CHARS_MAX: Final = 16 * 1024 * 1024

TurnEvent: TypeAlias = TurnAccepted | TurnDelta | TurnDone | TurnFailed


class TurnState(StrEnum):
    """What the turn waits for."""

    AWAITING_ACCEPTANCE = "awaiting_acceptance"
    AWAITING_END = "awaiting_end"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a turn failed: by the runner's word, or decided here. `status` is the provider's, where there was one."""

    kind: FailureKind
    message: str
    status: int | None = None


_OVER: Final = frozenset({TurnState.DONE, TurnState.FAILED})

# (state, event) -> state. A delta or an end whose acceptance was lost on the way is as good as accepted. What comes
# after the end is late and means nothing.
_TRANSITIONS: Final[Mapping[tuple[TurnState, type], TurnState]] = {
    (TurnState.AWAITING_ACCEPTANCE, TurnAccepted): TurnState.AWAITING_END,
    (TurnState.AWAITING_ACCEPTANCE, TurnDelta): TurnState.AWAITING_END,
    (TurnState.AWAITING_ACCEPTANCE, TurnDone): TurnState.DONE,
    (TurnState.AWAITING_ACCEPTANCE, TurnFailed): TurnState.FAILED,
    (TurnState.AWAITING_END, TurnAccepted): TurnState.AWAITING_END,
    (TurnState.AWAITING_END, TurnDelta): TurnState.AWAITING_END,
    (TurnState.AWAITING_END, TurnDone): TurnState.DONE,
    (TurnState.AWAITING_END, TurnFailed): TurnState.FAILED,
} | {(state, kind): state for state in _OVER for kind in (TurnAccepted, TurnDelta, TurnDone, TurnFailed)}


class Turn:
    """
    The state of one turn.

    Attributes:
        state: What it waits for.
        done: How it ended well, once it has.
        failure: Why it failed, once it has; also when that was decided here.
        cancel_reason: Set when the runner may still be at work on a turn that is over for us: it must be told.
    """

    __slots__ = (
        "_chars",
        "_deadline_at_s",
        "_deltas",
        "_idle_states",
        "_known_since",
        "_last_number",
        "_next_request_at_s",
        "_requested_at_s",
        "cancel_reason",
        "done",
        "failure",
        "request",
        "state",
    )

    def __init__(self, request: TurnRequested, *, now_s: float, requested_at: datetime) -> None:
        self.request = request
        self.state = TurnState.AWAITING_ACCEPTANCE
        self.done: TurnDone | None = None
        self.failure: Failure | None = None
        self.cancel_reason: str | None = None
        # When a runner that was started later cannot know this turn.
        self._known_since = requested_at
        self._requested_at_s = now_s
        self._next_request_at_s = now_s
        self._deadline_at_s = now_s + ACCEPT_TIMEOUT_S + request.deadline_s + DEADLINE_GRACE_S
        self._last_number = 0
        self._idle_states = 0
        self._deltas: list[TurnDelta] = []
        self._chars = 0

    def __repr__(self) -> str:
        return f"<Turn {self.request.turn_id} {self.state} after {self._last_number}>"

    @property
    def is_over(self) -> bool:
        """Will nothing more come of it?"""
        return self.state in _OVER

    @property
    def has_pieces(self) -> bool:
        """Are there pieces that were not taken yet?"""
        return bool(self._deltas)

    def feed(self, event: TurnEvent) -> None:
        """Take an event of the runner about this turn."""
        if self.is_over or self._is_repetition(event):
            return
        self._idle_states = 0
        gap = self._gap_before(event)
        if gap is not None:
            self._fail(FailureKind.INTERNAL, gap)
            return
        self.state = _TRANSITIONS[self.state, type(event)]
        match event:
            case TurnAccepted():
                self._known_since = _time_of(event.at) or self._known_since
            case TurnDelta():
                self._take_delta(event)
            case TurnDone():
                self._take_done(event)
            case TurnFailed():
                self.failure = Failure(kind=event.kind, message=event.message, status=event.status)

    def take(self) -> list[TurnDelta]:
        """Return the pieces that came since the last call, in order."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def runner_started(self, at: str) -> None:
        """Learn when the runner that lives now was started: it knows nothing of turns that another has accepted."""
        started_at = _time_of(at)
        if self.state is TurnState.AWAITING_END and started_at is not None and started_at > self._known_since:
            self._fail(FailureKind.INTERNAL, "the language server runner was restarted in the middle of the turn")
            self.cancel_reason = None

    def runner_idle(self) -> None:
        """Learn that the runner works on no turn at all: heard in one order with the turn's events."""
        if self.state is TurnState.AWAITING_END:
            self._idle_states += 1
            if self._idle_states >= _IDLE_STATES_MAX:
                self._fail(FailureKind.INTERNAL, "the end of the answer was lost on the way")
                self.cancel_reason = None

    def wake(self, now_s: float, runner_heard_at_s: float) -> bool:
        """
        Look at the clock.

        Args:
            now_s: Now.
            runner_heard_at_s: When anything of the runner was last heard where turns are heard too.

        Returns:
            Whether the request is to be sent (again) now.
        """
        if self.is_over:
            return False
        if now_s >= self._deadline_at_s:
            self._fail(FailureKind.TIMEOUT, f"the turn took longer than {self.request.deadline_s:g} s")
            return False
        if self.state is TurnState.AWAITING_END:
            if now_s >= max(runner_heard_at_s, self._requested_at_s) + SILENCE_S:
                self._fail(FailureKind.INTERNAL, f"the language server runner has been silent for {SILENCE_S:g} s")
            return False
        if now_s >= self._requested_at_s + ACCEPT_TIMEOUT_S:
            self._fail(FailureKind.NOT_READY, "the language server runner does not answer")
            return False
        if now_s < self._next_request_at_s or now_s >= runner_heard_at_s + HEARD_WITHIN_S:
            return False
        self._next_request_at_s = now_s + REPEAT_INTERVAL_S
        return True

    def wake_at_s(self, now_s: float, runner_heard_at_s: float) -> float:
        """Return when to look at the clock again if nothing comes."""
        if self.state is TurnState.AWAITING_ACCEPTANCE:
            # Looking often costs nothing for so short a time, also while nothing is sent.
            return min(now_s + REPEAT_INTERVAL_S, self._requested_at_s + ACCEPT_TIMEOUT_S)
        return min(self._deadline_at_s, max(runner_heard_at_s, self._requested_at_s) + SILENCE_S)

    def give_up(self, reason: str) -> None:
        """Learn that nobody waits for the answer any more."""
        if not self.is_over:
            self._fail(FailureKind.INTERNAL, reason)

    def _is_repetition(self, event: TurnEvent) -> bool:
        match event:
            case TurnAccepted():
                return False
            case TurnFailed() if event.number == 0:
                return False
            case _:
                return event.number <= self._last_number

    def _gap_before(self, event: TurnEvent) -> str | None:
        # A failure is a failure with or without the pieces before it, and its own message says more.
        if isinstance(event, TurnAccepted | TurnFailed) or event.number == self._last_number + 1:
            return None
        return f"pieces {self._last_number + 1} to {event.number - 1} of the answer were lost on the way"

    def _take_delta(self, delta: TurnDelta) -> None:
        self._last_number = delta.number
        self._chars += len(delta.text)
        if self._chars > ANSWER_CHARS_MAX:
            self._fail(FailureKind.INTERNAL, f"the answer is longer than {ANSWER_CHARS_MAX} characters")
        else:
            self._deltas.append(delta)

    def _take_done(self, done: TurnDone) -> None:
        self._last_number = done.number
        if done.stop_reason is StopReason.CANCELLED:
            self._fail(FailureKind.INTERNAL, "the language server cancelled the turn")
            self.cancel_reason = None
        else:
            self.done = done

    def _fail(self, kind: FailureKind, message: str) -> None:
        self.state = TurnState.FAILED
        self.cancel_reason = message
        self.failure = Failure(kind=kind, message=message)


def _time_of(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
