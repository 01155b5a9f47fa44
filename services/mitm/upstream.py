"""
Connections to the providers: found, raced, verified, kept.

Addresses: `upstream_map` first; else, for a redirected connection, the original address, and after 250 ms those of the
other family, because a redirect disables the client's own fallback (RFC 8305 is how clients do it); else what the
system's resolver says, families interleaved. The certificate is always verified for the host's own name.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

from services.mitm.peer import Address
from services.mitm.poller import Poller
from services.mitm.stream import Scratch, Stream, TlsFailed

# RFC 8305 §5 recommends 250 ms between attempts.
ATTEMPT_DELAY_S = 0.25
ADDRESSES_MAX = 8


class UpstreamFailed(Exception):
    """
    No verified connection to the provider.

    Attributes:
        kind: `dns`, `connect`, `timeout` or `tls`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    Where a client wanted to go.

    Attributes:
        host: The server's name, or its address where no name was said.
        original: The address that the client dialled, when the connection was redirected.
    """

    host: str
    port: int
    original: Address | None = None


class Dialer:
    """
    Makes connections.

    A dial that is cancelled closes what it opened. `own_connections` holds both addresses of all live upstream sockets:
    one that arrives with the same two is our own, going in a circle. The near address alone would not do, because the
    kernel gives the same port to connections that go to different places.
    """

    def __init__(
        self,
        poller: Poller,
        scratch: Scratch,
        *,
        upstream_map: dict[str, Address],
        contexts: Callable[[str], ssl.SSLContext],
        http2_contexts: Callable[[str], ssl.SSLContext],
        connect_timeout_s: float,
        handshake_timeout_s: float,
    ) -> None:
        self._poller = poller
        self._scratch = scratch
        self._upstream_map = upstream_map
        self._contexts = contexts
        self._http2_contexts = http2_contexts
        self._connect_timeout_s = connect_timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self.own_connections: set[tuple[Address, Address]] = set()
        self._ends: dict[socket.socket, tuple[Address, Address]] = {}

    async def dial_tls(self, route: Route, *, http2: bool = False) -> Stream:
        """
        Connect and complete a verified TLS handshake, in which HTTP/2 is offered too or not.

        Raises:
            UpstreamFailed: With the reason for people.
        """
        stream = await self.dial(route)
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                await self._handshake(stream, route.host, self._http2_contexts if http2 else self._contexts)
        except TimeoutError as error:
            stream.close()
            raise UpstreamFailed(
                "timeout", f"no TLS handshake with {route.host} within {self._handshake_timeout_s:g} s"
            ) from error
        except (TlsFailed, OSError) as error:
            stream.close()
            raise UpstreamFailed("tls", f"TLS with {route.host} failed: {error}") from error
        except BaseException:
            stream.close()
            raise
        return stream

    async def dial(self, route: Route) -> Stream:
        """
        Connect without TLS.

        Raises:
            UpstreamFailed: With the reason for people.
        """
        problems: list[str] = []
        attempts: list[asyncio.Task[socket.socket]] = []
        try:
            async with asyncio.timeout(self._connect_timeout_s * 2):
                sock = await self._race(route, attempts, problems)
        except TimeoutError as error:
            self._close_losers(set(attempts))
            raise UpstreamFailed("timeout", f"no connection to {route.host} within its time") from error
        except BaseException:
            self._close_losers(set(attempts))
            raise
        if sock is None:
            raise UpstreamFailed("connect", f"cannot connect to {route.host}: {'; '.join(problems) or 'no address'}")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = Stream(sock, self._poller, self._scratch)
        stream.on_closed = lambda: self._forget(sock)
        return stream

    async def _race(
        self, route: Route, attempts: list[asyncio.Task[socket.socket]], problems: list[str]
    ) -> socket.socket | None:
        """Try address after address, the next one when the last has failed or 250 ms have passed; first wins."""
        loop = asyncio.get_running_loop()
        addresses = await self._first_addresses(route)
        more = route.original is not None and route.host not in self._upstream_map
        # Asked for beside the attempts: a resolver that is slow must not hold up the connection that it is not for.
        resolving: asyncio.Task[list[Address]] | None = None
        pending: set[asyncio.Task[socket.socket]] = set()
        try:
            while addresses or pending or more or resolving:
                if addresses:
                    attempt = loop.create_task(self._connect(addresses.pop(0)))
                    attempts.append(attempt)
                    pending.add(attempt)
                await asyncio.wait(
                    {*pending, resolving} if resolving else pending,
                    timeout=ATTEMPT_DELAY_S if addresses or more else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for attempt in [attempt for attempt in pending if attempt.done()]:
                    if attempt.exception() is None:
                        self._close_losers({*attempts} - {attempt})
                        return attempt.result()
                    problems.append(_words_of(attempt.exception()))
                    pending.remove(attempt)
                if resolving is not None and resolving.done():
                    addresses, resolving = resolving.result(), None
                elif more and not addresses:
                    more = False
                    resolving = loop.create_task(self._other_addresses(route))
        finally:
            if resolving is not None:
                resolving.cancel()
        return None

    def _close_losers(self, pending: set[asyncio.Task[socket.socket]]) -> None:
        for attempt in pending:
            # A loser that connects in the same moment must not stay open.
            attempt.add_done_callback(self._close_loser)
            attempt.cancel()

    def _close_loser(self, attempt: asyncio.Task[socket.socket]) -> None:
        if not attempt.cancelled() and attempt.exception() is None:
            self._drop(attempt.result())

    async def _first_addresses(self, route: Route) -> list[Address]:
        mapped = self._upstream_map.get(route.host)
        if mapped is not None:
            return [mapped]
        if route.original is not None:
            return [route.original]
        return await self._resolve(route.host, route.port)

    async def _other_addresses(self, route: Route) -> list[Address]:
        assert route.original is not None
        try:
            found = await self._resolve(route.host, route.port)
        except UpstreamFailed:
            return []  # the original address has its own reason already
        is_ipv6 = ":" in route.original[0]
        return [address for address in found if (":" in address[0]) != is_ipv6]

    async def _resolve(self, host: str, port: int) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UpstreamFailed("dns", f"{host} has no address: {error.strerror or error}") from error
        except UnicodeError as error:  # an empty label, or one of more than 63 letters
            raise UpstreamFailed("dns", f"{host!r} is no host name") from error
        ipv6 = [info[4][:2] for info in found if info[0] == socket.AF_INET6]
        ipv4 = [info[4][:2] for info in found if info[0] == socket.AF_INET]
        pairs = (address for pair in zip_longest(ipv6, ipv4) for address in pair if address is not None)
        return [(str(address[0]), int(address[1])) for address in pairs][:ADDRESSES_MAX]

    async def _connect(self, address: Address) -> socket.socket:
        """Connect to one address; both ends are noted before the far side can see the connection."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
            socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        )
        try:
            number = sock.connect_ex(address)
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, f"{_shown(address)}: {errno.errorcode.get(number, number)}")
            self._ends[sock] = ends = _near_address(sock), address
            self.own_connections.add(ends)
            async with asyncio.timeout(self._connect_timeout_s):
                await _writable(loop, sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, f"{_shown(address)}: {errno.errorcode.get(number, number)}")
        except TimeoutError as error:
            self._drop(sock)
            raise OSError(errno.ETIMEDOUT, f"{_shown(address)}: no answer") from error
        except BaseException:
            self._drop(sock)
            raise
        return sock

    def _drop(self, sock: socket.socket) -> None:
        self._forget(sock)
        sock.close()

    def _forget(self, sock: socket.socket) -> None:
        ends = self._ends.pop(sock, None)
        if ends is not None:
            self.own_connections.discard(ends)

    async def _handshake(self, stream: Stream, host: str, contexts: Callable[[str], ssl.SSLContext]) -> None:
        loop = asyncio.get_running_loop()
        stream.start_tls(contexts(host), server_side=False, server_name=host)
        while not stream.handshake():
            await _readable(loop, stream.socket)
            if stream.receive_handshake() < 0:
                raise OSError("the connection was closed during the handshake")


class Pool:
    """
    Idle, verified upstream connections by host.

    The one used last is taken first. A connection that ends, or on which data comes, while it is idle is closed: nobody
    asked for anything.
    """

    def __init__(self, poller: Poller, *, size_max: int, idle_timeout_s: float) -> None:
        self._poller = poller
        self._size_max = size_max
        self._idle_timeout_s = idle_timeout_s
        self._idle: dict[tuple[str, int], list[tuple[Stream, float]]] = {}

    def __repr__(self) -> str:
        return f"<Pool of {sum(len(streams) for streams in self._idle.values())} idle>"

    def __bool__(self) -> bool:
        return bool(self._idle)

    def take(self, route: Route) -> Stream | None:
        """Return an idle connection to the route's host, or None."""
        streams = self._idle.get((route.host, route.port))
        while streams:
            stream, _ = streams.pop()
            if not stream.closed:
                return stream
        return None

    def put(self, route: Route, stream: Stream) -> None:
        """Keep a connection whose last exchange is whole."""
        streams = self._idle.setdefault((route.host, route.port), [])
        if len(streams) >= self._size_max:
            self.discard(stream)
            return
        streams.append((stream, self._poller.now + self._idle_timeout_s))
        stream.rest()

    def discard(self, stream: Stream) -> None:
        """Close a connection for good."""
        stream.close()

    @property
    def deadline(self) -> float:
        """When `expire` has something to do next."""
        return min((streams[0][1] for streams in self._idle.values() if streams), default=float("inf"))

    def expire(self, now: float) -> None:
        """Close what has been idle for too long, oldest first."""
        for key, streams in list(self._idle.items()):
            while streams and (streams[0][0].closed or streams[0][1] <= now):
                self.discard(streams.pop(0)[0])
            if not streams:
                del self._idle[key]

    def close(self) -> None:
        """Close every idle connection."""
        for streams in self._idle.values():
            for stream, _ in streams:
                self.discard(stream)
        self._idle.clear()


def _near_address(sock: socket.socket) -> Address:
    try:
        name = sock.getsockname()
    except OSError:
        return ("", 0)
    return (name[0], name[1])


def _words_of(error: BaseException | None) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _shown(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_writer(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.SocketType) -> None:
    ready = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
