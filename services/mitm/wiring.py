"""What the connections of one process share, joined by app.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.mitm.config import HostList
from services.mitm.observation import ObserverParts
from services.mitm.poller import Poller
from services.mitm.stream import Scratch, Stream
from services.mitm.upstream import Pool, Route, UpstreamFailed
from services.runtime.logs import Logs
from services.runtime.settings import MitmSettings

_Relay = TypeVar("_Relay", contravariant=True)


class AwaitsUpstream(Protocol):
    """Who asked for a connection."""

    def upstream_ready(self, upstream: Stream) -> bool:
        """Take the connection; False when it is not wanted any more."""

    def upstream_failed(self, failure: UpstreamFailed) -> None:
        """There is none."""

    def fail(self) -> None:
        """A step of ours has failed: end the connection. Never raises."""


class RelayOwner(Protocol[_Relay]):
    """Who keeps a relay until it is over."""

    def relay_ended(self, relay: _Relay) -> None:
        """The relay has closed its streams."""

    def client_left_silently(self, host: str) -> None:
        """The client has left without a single request."""

    def client_spoke(self, host: str) -> None:
        """The client has made its first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """
    Parts that live as long as the process.

    Attributes:
        dial: Begin a verified connection; ends in one of the two methods of the one who awaits it.
        dial_http2: The same for HTTP/2, where upstream has it: `protocol` of the stream tells.
        dial_tunnel: The same without TLS.
    """

    poller: Poller
    scratch: Scratch
    limits: MitmSettings
    logs: Logs
    hosts: HostList
    pool: Pool
    observer_parts: ObserverParts
    dial: Callable[[Route, AwaitsUpstream], None]
    dial_http2: Callable[[Route, AwaitsUpstream], None]
    dial_tunnel: Callable[[Route, AwaitsUpstream], None]
