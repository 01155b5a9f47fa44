"""
The state of everything: heartbeats and the language server's own word, made into one report.

A core: it is told what was heard and when (seconds of a monotonic clock). Processes are found by their heartbeats;
one that has not been heard for `FRESH_S` is missing, one that has not been heard for `FORGET_S` is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.events.lifecycle import LanguageServerState, Missing, ProcessBeat, ServerState

# Beats come once a second.
FRESH_S: Final = 3.0
FORGET_S: Final = 600.0
PROCESSES_MAX: Final = 64
# Without any of these nothing is metered or nothing is answered. Of mitm there may be several; one is enough.
ESSENTIAL: Final = ("mitm", "accountant", "lsrunner")


@dataclass(frozen=True, slots=True)
class Heard:
    """The last heartbeat of a process, and when it was heard."""

    beat: ProcessBeat
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """
    What `GET /health` says.

    Attributes:
        is_serving: Nothing essential is missing.
        missing: Everything that is missing, of every process.
    """

    is_serving: bool
    missing: tuple[Missing, ...]
    processes: tuple[Mapping[str, object], ...]
    language_server: LanguageServerState | None
    language_server_age_s: float | None

    def as_object(self) -> dict[str, object]:
        """Return the report as its JSON object."""
        return {
            "schema": "wiremeter.health-report/1",
            "status": "degraded" if self.missing else "ok",
            "processes": self.processes,
            "language_server": self.language_server,
            "language_server_age_s": self.language_server_age_s,
            "missing": self.missing,
        }


class HealthView:
    """What has been heard."""

    def __init__(self) -> None:
        self._processes: dict[str, Heard] = {}
        self._state: LanguageServerState | None = None
        self._state_at_s = 0.0

    @property
    def language_server(self) -> LanguageServerState | None:
        """The last state that lsrunner said, however old."""
        return self._state

    def hear_beat(self, beat: ProcessBeat, now_s: float) -> None:
        """Take a heartbeat."""
        self._processes.pop(beat.process, None)
        self._processes[beat.process] = Heard(beat, now_s)
        # The dictionary is in order of hearing.
        while len(self._processes) > PROCESSES_MAX:
            del self._processes[next(iter(self._processes))]

    def hear_state(self, state: LanguageServerState, now_s: float) -> None:
        """Take the language server's state."""
        self._state = state
        self._state_at_s = now_s

    def report(self, now_s: float) -> HealthReport:
        """Tell how everything is."""
        for name in [name for name, heard in self._processes.items() if now_s - heard.at_s > FORGET_S]:
            del self._processes[name]
        absent = self._essential_missing(now_s)
        missing = absent + [entry for entry in self._other_missing(now_s) if entry not in absent]
        return HealthReport(
            is_serving=not absent,
            missing=tuple(missing),
            processes=tuple(_process_object(self._processes[name], now_s) for name in sorted(self._processes)),
            language_server=self._state,
            language_server_age_s=None if self._state is None else round(now_s - self._state_at_s, 1),
        )

    def _essential_missing(self, now_s: float) -> list[Missing]:
        missing = []
        for role in ESSENTIAL:
            heard = [each for name, each in self._processes.items() if name == role or name.startswith(f"{role}-")]
            if not any(_is_fresh(each, now_s) for each in heard):
                missing.append(_silent(role, max((each.at_s for each in heard), default=None), now_s))
        if self._state is None:
            missing.append(Missing(what="language_server", detail="nothing has been heard of the language server"))
        elif self._state.state is not ServerState.READY:
            missing.append(Missing(what="language_server", detail=_why_not_ready(self._state)))
        elif now_s - self._state_at_s > FRESH_S:
            missing.append(_silent("language_server", self._state_at_s, now_s))
        return missing

    def _other_missing(self, now_s: float) -> list[Missing]:
        missing = []
        for name, heard in sorted(self._processes.items()):
            if not _is_fresh(heard, now_s):
                if name not in ESSENTIAL:
                    missing.append(_silent(name, heard.at_s, now_s))
                continue
            missing.extend(
                Missing(what=each.what, detail=f"{name}: {each.detail}")
                for each in heard.beat.missing
                if each.what != "language_server"  # its own word says the same, and sooner
            )
        return missing


def _is_fresh(heard: Heard, now_s: float) -> bool:
    return now_s - heard.at_s <= FRESH_S


def _silent(name: str, heard_at_s: float | None, now_s: float) -> Missing:
    detail = "has not been heard" if heard_at_s is None else f"has not been heard for {now_s - heard_at_s:.0f} s"
    return Missing(what=name, detail=f"{name} {detail}")


def _why_not_ready(state: LanguageServerState) -> str:
    reason = f": {state.detail}" if state.detail else ""
    where = f"; sign in at {state.login_url}" if state.state is ServerState.SIGNING_IN and state.login_url else ""
    return f"the language server is {state.state.replace('_', ' ')}{reason}{where}"


def _process_object(heard: Heard, now_s: float) -> dict[str, object]:
    beat = heard.beat
    return {
        "name": beat.process,
        "pid": beat.pid,
        "version": beat.version,
        "since": beat.started_at,
        "last_seen": beat.at,
        "is_alive": _is_fresh(heard, now_s),
        "missing": beat.missing,
        "facts": beat.facts,
    }
