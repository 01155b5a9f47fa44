"""
What mitm saw and sends to the accountant: usage records, and the exchanges and tunnels that it only counts.

`UsageRecorded` is also, with its `seq`, what the ledger keeps and the public topic carries (docs/events.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypedDict

from services.events.usage import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When an exchange happened: `started_at` in RFC 3339 UTC, the rest in milliseconds since then."""

    started_at: str
    first_byte_ms: float | None = None
    duration_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCount:
    """Body bytes as they were on the wire, content coding included, transfer framing excluded."""

    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """
    Who made the connection.

    Attributes:
        uid: UNIX user of the peer, by the kernel's word.
        pid: A process that holds the connection's socket, where we may see it.
        executable: Base name of its program.
        cwd: Its working directory.
        label: The name that the user gave it: proxy credentials, or the language server's profile.
        run: Id of the `wiremeter run` that it belongs to.
    """

    uid: int | None = None
    pid: int | None = None
    executable: str | None = None
    cwd: str | None = None
    label: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecorded:
    """
    One response of a provider.

    Attributes:
        event_id: ULID, unique for ever.
        at: When the record was made, RFC 3339 UTC with microseconds.
        exchange_id: Shared by the records of one HTTP exchange or WebSocket.
        model: What people group by: the answered model, else the one asked for, placeholders resolved.
        aborted_by: `client`, `upstream` or `proxy`, when the outcome is `truncated`.
        usage: Counts by name (services.events.usage.COUNT_MEANING); absent means unknown.
        turn_id: The prompt turn that caused it, where that is known; set by the accountant.

    The remaining members are those of `ResponseUsage`.
    """

    SCHEMA: ClassVar[str] = "wiremeter.usage/1"

    event_id: str
    at: str
    exchange_id: str
    provider: str
    dialect: str | None
    operation: str | None
    host: str
    request_model: str | None = None
    response_model: str | None = None
    model: str | None = None
    response_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    outcome: Outcome
    reason: str | None = None
    aborted_by: str | None = None
    finish_reasons: tuple[str, ...] = ()
    http_status: int | None = None
    error_type: str | None = None
    error_code: str | None = None
    service_tier: str | None = None
    block_reason: str | None = None
    iteration_type: str | None = None
    anomalies: tuple[str, ...] = ()
    usage: Mapping[str, int | float] = field(default_factory=dict)
    timing: Timing
    bytes: ByteCount = field(default_factory=ByteCount)
    client: Client = field(default_factory=Client)
    turn_id: str | None = None


class TimingMembers(TypedDict):
    """`Timing` as JSON has it, as far as anyone reads it there."""

    started_at: str


class ClientMembers(TypedDict):
    """`Client` as JSON has it, as far as anyone reads it there."""

    uid: int | None
    label: str | None


class UsageMembers(TypedDict):
    """
    A `UsageRecorded` that was checked and left as JSON has it (services.events.codec.checked).

    It has every member of the record; here are those that are read on the way into the ledger.
    """

    at: str
    provider: str
    model: str | None
    response_id: str | None
    conversation_id: str | None
    outcome: str
    usage: Mapping[str, int | float]
    timing: TimingMembers
    client: ClientMembers
    turn_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeCounted:
    """
    An exchange that spends nothing, or a tunnel that was not opened: counted, never read.

    Attributes:
        endpoint: The call's name (`fetchUserInfo`, …), or `(tunnel)`.
    """

    SCHEMA: ClassVar[str] = "wiremeter.exchange/1"

    event_id: str
    at: str
    host: str
    endpoint: str
    http_status: int | None = None
    timing: Timing
    bytes: ByteCount = field(default_factory=ByteCount)
    client: Client = field(default_factory=Client)
