"""Heartbeats: that a process lives and what it misses, and the state of the language server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that a process lacks: `what` is a stable word, `detail` a sentence for people."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessBeat:
    """
    Said once a second by every process.

    Attributes:
        process: `mitm-0`, `accountant`, `lsrunner`, `frontproxy`.
        missing: Empty when all is well.
        facts: Small numbers and words worth seeing: connections open, records not yet acknowledged, …
    """

    SCHEMA: ClassVar[str] = "wiremeter.health/1"

    process: str
    pid: int
    version: str
    at: str
    started_at: str
    missing: tuple[Missing, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class ServerState(StrEnum):
    """Where the language server stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    SIGNING_IN = "signing_in"
    READY = "ready"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """A model that the language server offers: its id on our surfaces, and the vendor's name for people."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageServerState:
    """
    Said by lsrunner at every change and once a second.

    Attributes:
        label: The `client.label` of its exchanges.
        uid: The UNIX user that it runs as; its unlabelled exchanges get the label by this.
        way: How its traffic reaches mitm: `redirect` or `connect`.
        login_url: Where the user signs in, while the state is `signing_in`.
        detail: Why it is not ready, for people.
    """

    SCHEMA: ClassVar[str] = "wiremeter.ls-state/1"

    at: str
    state: ServerState
    profile: str
    label: str
    user: str
    uid: int
    pid: int | None = None
    way: str | None = None
    accepts_turns: bool = True
    models: tuple[OfferedModel, ...] = ()
    active_turns: int = 0
    restarts: int = 0
    login_url: str | None = None
    detail: str | None = None
