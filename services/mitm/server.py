"""
Listens on 127.0.0.1 and ::1, admits clients, and keeps what became of them until it is over.

Several workers listen on one port (SO_REUSEPORT): when one dies the others go on. Whether a port that is in use belongs
to a sibling or to a stranger is told by a lock in the state directory, so that a second instance gets an error instead
of half of the first one's connections.
"""

import asyncio
import errno
import fcntl
import os
import pwd
import select
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from services.events.lifecycle import Missing
from services.mitm.arrival import Arrival
from services.mitm.config import MitmConfig
from services.mitm.known_peer import KnownPeer
from services.mitm.peer import Address, PeerDirectory
from services.mitm.relay import Relay
from services.mitm.stream import Stream
from services.mitm.tunnel import Tunnel
from services.mitm.upstream import Dialer, Route, UpstreamFailed
from services.mitm.wiring import AwaitsUpstream, Wiring
from services.runtime.run import StartRefused

if TYPE_CHECKING:
    from services.mitm.http2_relay import Http2Relay

# linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h
_SO_ORIGINAL_DST = 80
# An attribute of a module, and a member of an enum behind it, take longer than a name.
_SOL_IP = int(socket.SOL_IP)
_SOL_IPV6 = int(socket.IPPROTO_IPV6)
_STREAM = int(socket.SOCK_STREAM)
_FAMILY_OF_DESCRIPTOR = -1  # socket(3): Python asks for the descriptor's own name anyway, which says it
# Per wake-up. Each may have said hello already: 32 handshakes would keep everybody else waiting for ten milliseconds.
_ACCEPTED_AT_ONCE = 8
_BACKLOG = 1024
_TICK_S = 1.0
# While no deadline is nearer than that. One that a connection gets meanwhile may be kept so much later.
_TICKS_AT_REST = 5
_ACCEPT_PAUSE_S = 0.5
# Exchanges under way at SIGTERM get this long; supervisord waits longer (stopwaitsecs).
DRAIN_S = 5.0
_DRAIN_POLL_S = 0.05
# Host names come from clients: what is counted for each of them is bounded.
_COUNTED_HOSTS_MAX = 1024
_SHOWN_HOSTS = 5


# What `getsockname` returns: address and port, and two numbers more for IPv6.
SocketName: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


class Server:
    """Accepts connections and owns all that is alive."""

    def __init__(
        self,
        config: MitmConfig,
        wiring: Wiring,
        dialer: Dialer,
        server_context: Callable[[str, bool], ssl.SSLContext],
        peers: PeerDirectory,
    ) -> None:
        self._config = config
        self._wiring = wiring
        self._dialer = dialer
        self.server_context = server_context  # see `Arrivals`
        self._peers = peers
        self._connections_max = config.limits.connections_max
        self._listening: list[socket.socket] = []
        self._lock: int | None = None
        self._live: set[Arrival | Relay | Http2Relay | Tunnel] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._ticks_at = inf
        self._admitted: set[int] = {0, os.geteuid()}
        self._connections = 0
        self._refused = 0
        self._tunnels = 0
        self._distrust: Counter[str] = Counter()
        self._silent: Counter[str] = Counter()

    # -- listening ---------------------------------------------------------

    def listen(self) -> None:
        """
        Open the listening sockets.

        Raises:
            StartRefused: The port is another program's.
        """
        self._lock = _lock_port(self._config)
        self._listening.append(_listening_socket(socket.AF_INET, "127.0.0.1", self._config.port))
        try:
            self._listening.append(_listening_socket(socket.AF_INET6, "::1", self._config.port))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise _refused(self._config.port, error) from error
            self._wiring.logs.warning("listener.missing", reason="no IPv6 on this machine")
        for sock in self._listening:
            self._watch_listener(sock)

    def _watch_listener(self, sock: socket.socket) -> None:
        waiting = select.poll()
        waiting.register(sock, select.POLLIN)
        accept = partial(self._accept, sock, sock.getsockname(), waiting)
        self._wiring.poller.watch(sock.fileno(), lambda _: accept(), fail=lambda: None, on_readable=accept)

    def _accept(self, listening: socket.socket, here: SocketName, waiting: select.poll) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, far = _accepted(listening)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Out of descriptors or memory: stop accepting for a moment instead of spinning.
                self._wiring.logs.error("accept.failed", problem=str(error))
                self._wiring.poller.forget(listening.fileno())
                asyncio.get_running_loop().call_later(_ACCEPT_PAUSE_S, self._watch_again, listening)
                return
            try:
                self._arrive(sock, far[:2], here)
            except Exception as error:
                # One connection is no reason to be deaf to all others.
                self._wiring.logs.error("arrival.failed", error=error)
                self._wiring.poller.close_socket(sock)  # it may be watched by now
            if not waiting.poll(0):
                return  # nearly always; to be told so by `accept` costs seven times as much

    def _watch_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._watch_listener(listening)

    def _arrive(self, sock: socket.SocketType, near: Address, here: SocketName) -> None:
        """`near` is the client's own address; where it wanted to go is the other end, or `here`."""
        sock.setblocking(False)
        original = original_address(sock, here)
        goal: Address = original or here[:2]
        owner = self._peers.owner_of(near, goal)
        wiring, live = self._wiring, self._live
        problem = None
        if len(live) >= self._connections_max:
            problem = f"{len(live)} connections exceed {self._connections_max}"
        elif (near, goal) in self._dialer.own_connections:
            problem = "the connection is our own, going in a circle"
        elif owner is None or not (owner.uid in self._admitted or self._admits(owner.uid)):
            problem = f"user {owner.uid if owner else 'unknown'} is not admitted"
        stream = Stream(sock, wiring.poller, wiring.scratch)
        if problem is not None:
            self._refused += 1
            wiring.logs.warning("connection.refused", reason=problem)
            stream.abort()
            return
        assert owner is not None
        self._connections += 1
        arrival = Arrival(stream, KnownPeer(owner, self._peers), original, wiring, self)
        live.add(arrival)
        if self._ticks_at > wiring.poller.now + _TICK_S:
            self._start_ticking()
        # Clients speak first, and many have while we asked who it is.
        self._guarded(arrival, arrival.on_readable)

    def _admits(self, uid: int) -> bool:
        # Looked up when needed: the language server's user may be made while we run.
        for name in (self._config.language_server_user, *self._config.admit_users):
            try:
                self._admitted.add(pwd.getpwnam(name).pw_uid)
            except KeyError:
                continue
        return uid in self._admitted

    # -- what became of them -----------------------------------------------

    def arrival_became(self, arrival: Arrival, successor: "Relay | Http2Relay | Tunnel | None") -> None:
        """See `Arrivals`."""
        self._live.discard(arrival)
        if successor is not None:
            self._live.add(successor)

    def relay_ended(self, relay: "Relay | Http2Relay") -> None:
        """See `Arrivals`."""
        self._live.discard(relay)

    def tunnel_ended(self, tunnel: Tunnel) -> None:
        """See `Arrivals`."""
        self._live.discard(tunnel)
        self._tunnels += 1

    def client_distrusts(self, host: str, reason: str) -> None:
        """See `Arrivals`."""
        _count_host(self._distrust, host)

    def client_left_silently(self, host: str) -> None:
        """See `Arrivals`."""
        _count_host(self._silent, host)

    def client_spoke(self, host: str) -> None:
        """See `Arrivals`."""
        self._silent.pop(host, None)

    # -- dialling ----------------------------------------------------------

    async def dial(self, route: Route, awaits: AwaitsUpstream, *, tls: bool, http2: bool = False) -> None:
        """Make a connection and hand it over; never raises for what the world does."""
        try:
            stream = await (self._dialer.dial_tls(route, http2=http2) if tls else self._dialer.dial(route))
        except UpstreamFailed as failure:
            self._wiring.poller.now = monotonic()
            self._guarded(awaits, partial(awaits.upstream_failed, failure))
        except Exception as error:
            self._wiring.logs.error("dial.failed", error=error, host=route.host)
            awaits.fail()
        else:
            self._wiring.poller.now = monotonic()
            self._guarded(awaits, partial(self._hand_over, route, stream, awaits, keep=tls and not http2))

    def _hand_over(self, route: Route, stream: Stream, awaits: AwaitsUpstream, *, keep: bool) -> None:
        if not awaits.upstream_ready(stream):
            self._wiring.pool.put(route, stream) if keep else self._wiring.pool.discard(stream)

    def _guarded(
        self, concerned: "AwaitsUpstream | Arrival | Relay | Http2Relay | Tunnel", step: Callable[[], None]
    ) -> None:
        """Take a step of one connection; a bug in it ends that connection, not the process."""
        try:
            step()
        except Exception as error:
            self._wiring.logs.error("step.failed", error=error)
            concerned.fail()

    # -- time --------------------------------------------------------------

    def _start_ticking(self, ticks: int = 1) -> None:
        at = self._wiring.poller.now + ticks * _TICK_S
        if self._ticking is not None:
            self._ticking.cancel()
        self._ticks_at = at
        self._ticking = asyncio.get_running_loop().call_later(ticks * _TICK_S, self._tick)

    def _tick(self) -> None:
        """Look for passed deadlines, only while something is alive, and less often while none is near."""
        self._ticking, self._ticks_at = None, inf
        now = self._wiring.poller.now = monotonic()
        next_at = self._wiring.pool.deadline
        for each in list(self._live):
            next_at = min(next_at, each.deadline)
            if each.deadline <= now:
                self._guarded(each, each.expire)
        self._wiring.pool.expire(now)
        if self._live or self._wiring.pool:
            self._start_ticking(_TICKS_AT_REST if next_at > now + _TICKS_AT_REST * _TICK_S else 1)

    # -- health and the end ------------------------------------------------

    def facts(self) -> dict[str, object]:
        """Return numbers for the heartbeat."""
        return {
            "live": len(self._live),
            "connections": self._connections,
            "refused": self._refused,
            "tunnels": self._tunnels,
        }

    def missing(self) -> tuple[Missing, ...]:
        """Return what users should know."""
        refused = (
            f"a client of {host} refused our certificate {count} times; it does not use the trust bundle"
            for host, count in self._distrust.most_common(_SHOWN_HOSTS)
        )
        silent = (
            f"all {count} clients of {host} left after the handshake without a request; they may not trust our"
            " certificate"
            for host, count in self._silent.most_common(_SHOWN_HOSTS)
        )
        return tuple(Missing(what="trust", detail=detail) for detail in (*refused, *silent))

    async def close(self) -> None:
        """Stop listening, let exchanges under way end for a moment, then break off the rest."""
        loop = asyncio.get_running_loop()
        for sock in self._listening:
            self._wiring.poller.close_socket(sock)
        self._listening.clear()
        deadline = loop.time() + DRAIN_S
        while self._live and loop.time() < deadline:
            for each in [each for each in self._live if isinstance(each, Arrival | Tunnel) or each.is_idle]:
                self._guarded(each, each.stop)
            await asyncio.sleep(_DRAIN_POLL_S)
        for each in list(self._live):
            self._guarded(each, each.stop)
        self._wiring.pool.close()
        if self._lock is not None:
            os.close(self._lock)


def _count_host(counts: Counter[str], host: str) -> None:
    if host in counts or len(counts) < _COUNTED_HOSTS_MAX:
        counts[host] += 1


def _accepted(listening: socket.socket) -> tuple[socket.SocketType, SocketName]:
    """
    Return a connection and its far end, as `accept` does.

    That looks its constants up in enums and makes the connection an object of Python around one of C: a hundred steps
    of the interpreter for nothing that we use.
    """
    descriptor, far = listening._accept()  # type: ignore[attr-defined]  # not in typeshed; `accept` is made of it
    return socket.SocketType(_FAMILY_OF_DESCRIPTOR, _STREAM, 0, descriptor), far


def original_address(sock: socket.SocketType, here: SocketName) -> Address | None:
    """
    Return where a redirected client wanted to go; None for a connection that was made to us directly.

    `here` is the socket's own name.
    """
    try:
        if len(here) == 2:
            address = _address_in(sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, 16))
        else:
            address = _address_in(sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, 28))
    except OSError:
        return None  # nothing tracks this connection
    return None if address == here[:2] else address


@lru_cache(maxsize=256)
def _address_in(name: bytes) -> Address:
    """Read a `sockaddr_in` or `sockaddr_in6`; most connections go where others have gone."""
    if len(name) == 16:
        port, packed = struct.unpack_from("!2xH4s", name)
        return socket.inet_ntop(socket.AF_INET, packed), port
    port, packed = struct.unpack_from("!2xH4x16s", name)
    return socket.inet_ntop(socket.AF_INET6, packed), port


def _listening_socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the sockets that it accepts inherit that
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _lock_port(config: MitmConfig) -> int:
    """
    Hold a shared lock that says "a worker of this instance listens on the port".

    Raises:
        StartRefused: Somebody listens there, and it is none of ours.
    """
    path = config.run_directory / f"port-{config.port}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # a sibling has it
    else:
        try:
            # Without SO_REUSEPORT this fails if anybody at all listens.
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", config.port))
        except OSError as error:
            os.close(descriptor)
            raise _refused(config.port, error) from error
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _refused(port: int, error: OSError) -> StartRefused:
    if error.errno == errno.EADDRINUSE:
        return StartRefused(f"port {port} (mitm.port) is in use by another program")
    return StartRefused(f"port {port} (mitm.port) cannot be opened: {error.strerror}")
