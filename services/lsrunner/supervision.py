"""
The life of one language server as a table: (state, input) to state.

Input: what happened, and the time. Output: the state, why, and when to look again. No process, no clock.

Rules: a start has `start_timeout_s` to become ready, during which time spent signing in does not count; each failure in
a row doubles the pause before the next start, from one second to sixty; a minute of readiness makes the slate clean;
nothing but a request to stop ends it.
"""

from enum import StrEnum

from services.events.lifecycle import OfferedModel, ServerState

BACK_OFF_FIRST_S = 1.0
BACK_OFF_MAX_S = 60.0
# Ready for this long: what failed before is forgotten.
STABLE_S = 60.0


class Input(StrEnum):
    """What can happen to a language server."""

    BEGAN = "began"  # a start begins
    PROGRESSED = "progressed"  # still starting; the detail says what is awaited
    ASKED_TO_SIGN_IN = "asked_to_sign_in"  # a person is needed
    BECAME_READY = "became_ready"
    FAILED = "failed"  # the start failed, or the process ended
    ASKED_TO_STOP = "asked_to_stop"
    ENDED = "ended"  # after the request to stop: nothing of it runs any more


TRANSITIONS: dict[tuple[ServerState, Input], ServerState] = {
    (ServerState.STOPPED, Input.BEGAN): ServerState.STARTING,
    (ServerState.STOPPED, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.STARTING, Input.PROGRESSED): ServerState.STARTING,
    (ServerState.STARTING, Input.ASKED_TO_SIGN_IN): ServerState.SIGNING_IN,
    (ServerState.STARTING, Input.BECAME_READY): ServerState.READY,
    (ServerState.STARTING, Input.FAILED): ServerState.BACKING_OFF,
    (ServerState.STARTING, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.SIGNING_IN, Input.PROGRESSED): ServerState.STARTING,
    (ServerState.SIGNING_IN, Input.ASKED_TO_SIGN_IN): ServerState.SIGNING_IN,
    (ServerState.SIGNING_IN, Input.BECAME_READY): ServerState.READY,
    (ServerState.SIGNING_IN, Input.FAILED): ServerState.BACKING_OFF,
    (ServerState.SIGNING_IN, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.READY, Input.FAILED): ServerState.BACKING_OFF,
    (ServerState.READY, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.BACKING_OFF, Input.BEGAN): ServerState.STARTING,
    (ServerState.BACKING_OFF, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.STOPPING, Input.FAILED): ServerState.STOPPING,
    (ServerState.STOPPING, Input.ASKED_TO_STOP): ServerState.STOPPING,
    (ServerState.STOPPING, Input.ENDED): ServerState.STOPPED,
}


class ImpossibleInput(AssertionError):
    """An input that a state does not know: our own mistake."""


class Supervision:
    """
    Where one language server stands.

    Attributes:
        detail: Why it is not ready, for people; None when it is.
        login_url: Where to sign in, in the state `signing_in` only.
        models: Offered, in the state `ready` only.
        restarts: Starts after the first.
        wake_at_s: When to look again: in `starting` the start has then taken too long, in `backing_off` the next start
            is due; None when there is nothing to wait for.
    """

    __slots__ = (
        "_failures",
        "_ready_since_s",
        "_start_timeout_s",
        "_starts",
        "detail",
        "login_url",
        "models",
        "state",
        "wake_at_s",
    )

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._starts = 0
        self._failures = 0
        self._ready_since_s = 0.0
        self.state = ServerState.STOPPED
        self.detail: str | None = None
        self.login_url: str | None = None
        self.models: tuple[OfferedModel, ...] = ()
        self.wake_at_s: float | None = None

    def __repr__(self) -> str:
        return f"<Supervision {self.state}, {self._starts} starts, {self._failures} failures in a row>"

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self._starts - 1)

    def take(
        self,
        happened: Input,
        now_s: float,
        *,
        detail: str | None = None,
        login_url: str | None = None,
        models: tuple[OfferedModel, ...] = (),
    ) -> None:
        """
        Learn what happened.

        Raises:
            ImpossibleInput: The present state does not know this input.
        """
        before = self.state
        after = TRANSITIONS.get((before, happened))
        if after is None:
            raise ImpossibleInput(f"a language server that is {before} cannot have {happened}")
        self.state = after
        self.detail = detail
        self.login_url = login_url if after is ServerState.SIGNING_IN else None
        self.models = models if after is ServerState.READY else ()
        self._count(before, happened, now_s)
        self._set_alarm(before, now_s)

    def _count(self, before: ServerState, happened: Input, now_s: float) -> None:
        if happened is Input.BEGAN:
            self._starts += 1
        elif happened is Input.BECAME_READY:
            self._ready_since_s = now_s
        elif happened is Input.FAILED:
            if before is ServerState.READY and now_s - self._ready_since_s >= STABLE_S:
                self._failures = 0
            self._failures += 1

    def _set_alarm(self, before: ServerState, now_s: float) -> None:
        if self.state is ServerState.STARTING:
            # Progress is no excuse for taking longer; coming back from signing in is.
            if before is not ServerState.STARTING:
                self.wake_at_s = now_s + self._start_timeout_s
        elif self.state is ServerState.BACKING_OFF:
            self.wake_at_s = now_s + self.pause_s
        else:
            self.wake_at_s = None

    @property
    def pause_s(self) -> float:
        """Between the last failure and the next start."""
        # The exponent is bounded so that no float overflows after a thousand failures.
        return min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(self._failures - 1, 16))
