"""
Which turn is answered when: requests in, orders out.

Input: requests, cancellations, ends, and the time. Output: what to publish, what to begin, what to give up. No
socket, no clock, no task.

Rules: a turn id is answered once, and a repeated request gets the same first answer again (frontproxy repeats until it
hears one); `queue_max` turns wait, one more is refused as busy; at most as many run at once as the language server
tells apart; a turn's deadline counts from its arrival, waiting included.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from services.events.lifecycle import LanguageServerState, ServerState
from services.events.turn import FailureKind, Role, TurnRequested

# Ids remembered after their turn, so that a request that was delayed is not answered twice.
REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Publish that the turn was taken."""

    turn_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Publish that the turn will not be answered."""

    turn_id: str
    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginTurn:
    """Begin to answer; give up when the time is `deadline_at_s`."""

    request: TurnRequested
    deadline_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End a running turn; `kind` None means that its client does not want it any more."""

    turn_id: str
    kind: FailureKind | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """Publish that a waiting turn was cancelled before it began."""

    turn_id: str


Order = Accepted | Refused | BeginTurn | GiveUp | Withdrawn


class TurnQueue:
    """The turns of one runner."""

    def __init__(self, queue_max: int, turn_timeout_s: float) -> None:
        self._queue_max = queue_max
        self._turn_timeout_s = turn_timeout_s
        self._waiting: OrderedDict[str, BeginTurn] = OrderedDict()
        self._running: set[str] = set()
        self._answers: OrderedDict[str, Accepted | Refused] = OrderedDict()

    def __repr__(self) -> str:
        return f"<TurnQueue {len(self._running)} running, {len(self._waiting)} waiting>"

    @property
    def active(self) -> int:
        """Turns that run or wait."""
        return len(self._running) + len(self._waiting)

    @property
    def wake_at_s(self) -> float | None:
        """When `expire` has something to do, None while nobody waits."""
        return min((begin.deadline_at_s for begin in self._waiting.values()), default=None)

    def ask(self, request: TurnRequested, server: LanguageServerState, now_s: float) -> Sequence[Order]:
        """Take a request, or refuse it; orders to begin come from `begin_next`."""
        known = self._answers.get(request.turn_id)
        if known is not None:
            return [known]
        answer = self._judge(request, server)
        self._answers[request.turn_id] = answer
        while len(self._answers) > REMEMBERED_MAX:
            self._answers.popitem(last=False)
        if isinstance(answer, Accepted):
            patience_s = min(request.deadline_s, self._turn_timeout_s)
            self._waiting[request.turn_id] = BeginTurn(request=request, deadline_at_s=now_s + patience_s)
        return [answer]

    def _judge(self, request: TurnRequested, server: LanguageServerState) -> Accepted | Refused:
        refusal = refusal_of(request, server)
        if refusal is not None:
            return Refused(turn_id=request.turn_id, kind=refusal[0], message=refusal[1])
        if len(self._waiting) >= self._queue_max:
            message = f"{len(self._waiting)} turns are waiting already; the limit is {self._queue_max}"
            return Refused(turn_id=request.turn_id, kind=FailureKind.BUSY, message=message)
        return Accepted(turn_id=request.turn_id)

    def begin_next(self, turns_at_once: int) -> Sequence[BeginTurn]:
        """Take from the front of the queue what may run now."""
        begun = []
        while self._waiting and len(self._running) < turns_at_once:
            turn_id, begin = self._waiting.popitem(last=False)
            self._running.add(turn_id)
            begun.append(begin)
        return begun

    def cancel(self, turn_id: str, reason: str) -> Sequence[Order]:
        """The client has gone."""
        if turn_id in self._running:
            return [GiveUp(turn_id=turn_id, kind=None, message=reason)]
        if self._waiting.pop(turn_id, None) is not None:
            return [Withdrawn(turn_id=turn_id)]
        return []  # over already, or never heard of

    def expire(self, now_s: float) -> Sequence[Refused]:
        """Refuse the waiting turns whose time is over; running ones are timed by their task."""
        late = [turn_id for turn_id, begin in self._waiting.items() if begin.deadline_at_s <= now_s]
        for turn_id in late:
            del self._waiting[turn_id]
        message = "the turn waited for its predecessors until its deadline"
        return [Refused(turn_id=turn_id, kind=FailureKind.TIMEOUT, message=message) for turn_id in late]

    def lose(self, message: str) -> Sequence[Order]:
        """The language server has gone, and with it everything that runs or waits."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return [
            *(GiveUp(turn_id=each, kind=FailureKind.INTERNAL, message=message) for each in sorted(self._running)),
            *(Refused(turn_id=each, kind=FailureKind.NOT_READY, message=message) for each in waiting),
        ]

    def finished(self, turn_id: str) -> None:
        """A running turn has ended, however."""
        self._running.discard(turn_id)


def refusal_of(request: TurnRequested, server: LanguageServerState) -> tuple[FailureKind, str] | None:
    """Say why a turn cannot be answered by this language server, if it cannot."""
    if not server.accepts_turns:
        message = f"the profile {server.profile} runs a program and meters it; it answers no prompts"
        return FailureKind.INVALID, message
    if server.state is not ServerState.READY:
        return (
            FailureKind.NOT_READY,
            f"the language server is {server.state.replace('_', ' ')}: {server.detail or 'no reason is known'}",
        )
    if not request.messages or request.messages[-1].role is not Role.USER:
        return FailureKind.INVALID, "the last message must be the user's"
    offered = [model.id for model in server.models]
    if request.model is not None and request.model not in offered:
        message = f"model {request.model!r:.200} is not offered; offered are {', '.join(offered) or 'none'}"
        return FailureKind.UNKNOWN_MODEL, message
    return None
