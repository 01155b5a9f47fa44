"""
One prompt turn: asked by frontproxy, answered by lsrunner, piece by piece.

Prompts and answers exist in these events only, in memory, on the `ipc` sockets of the run directory.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Role(StrEnum):
    """Who spoke."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the conversation so far, as text."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequested:
    """
    A prompt to answer.

    Attributes:
        turn_id: Chosen by frontproxy, unique for ever.
        model: One of the ids of `LanguageServerState.models`.
        messages: The whole conversation, the new prompt last. A runner that holds the conversation already (the
            messages before the last equal what it has seen and answered) continues it, another begins anew.
        deadline_s: Seconds from arrival until the turn is given up.
    """

    SCHEMA: ClassVar[str] = "wiremeter.turn-request/1"

    turn_id: str
    model: str | None
    messages: tuple[Message, ...]
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCancelled:
    """The client of a turn has gone, or gave up."""

    SCHEMA: ClassVar[str] = "wiremeter.turn-cancel/1"

    turn_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAccepted:
    """
    lsrunner has taken the turn; repeated when the request is repeated.

    Attributes:
        at: RFC 3339 UTC; exchanges of the turn start later than this.
        label: The `client.label` under which its exchanges are recorded.
        conversation_id: The language server's own id of the conversation, if its calls carry one on the wire.
    """

    SCHEMA: ClassVar[str] = "wiremeter.turn-accepted/1"

    turn_id: str
    at: str
    label: str
    model: str | None = None
    conversation_id: str | None = None


class DeltaKind(StrEnum):
    """What a delta carries."""

    TEXT = "text"
    THINKING = "thinking"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDelta:
    """
    A piece of the answer.

    Attributes:
        number: 1, 2, 3… within the turn, `TurnDone` and `TurnFailed` included, so that a loss is seen.
        text: The new text only, never what came before; for `tool` a title for people.
    """

    SCHEMA: ClassVar[str] = "wiremeter.turn-delta/1"

    turn_id: str
    number: int
    kind: DeltaKind
    text: str


class StopReason(StrEnum):
    """Why an answer ended."""

    END = "end"
    LENGTH = "length"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDone:
    """
    The answer is complete.

    Attributes:
        at: RFC 3339 UTC; exchanges of the turn started before this.
        response_ids: The provider's response ids that the turn used, where the language server tells them.
    """

    SCHEMA: ClassVar[str] = "wiremeter.turn-done/1"

    turn_id: str
    number: int
    at: str
    stop_reason: StopReason
    response_ids: tuple[str, ...] = ()
    conversation_id: str | None = None


class FailureKind(StrEnum):
    """What a client should make of a failed turn."""

    UNKNOWN_MODEL = "unknown_model"
    INVALID = "invalid"  # the language server cannot do what was asked
    NOT_READY = "not_ready"  # no language server is running, or it is not signed in
    BUSY = "busy"  # the queue of turns is full
    UPSTREAM = "upstream"  # the provider refused: quota, permission, capacity
    TIMEOUT = "timeout"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed:
    """
    The turn ends without (the rest of) an answer.

    Attributes:
        number: See `TurnDelta`; 0 when the turn was refused before it began.
        message: For people, lower case, without secrets.
        status: The provider's HTTP status, where there was one.
    """

    SCHEMA: ClassVar[str] = "wiremeter.turn-failed/1"

    turn_id: str
    number: int
    at: str
    kind: FailureKind
    message: str
    status: int | None = None
