"""
An epoll of our own, which the event loop watches as one descriptor.

A wake-up is then one callback of the event loop for all ready connections, and one dictionary look-up for each: no
handle, future or task of the loop's per connection and event. That is worth a few microseconds for each small piece of
a stream (docs/architecture.md, "The data path").
"""

import asyncio
import select
import socket
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from services.mitm.convoy import Convoy
from services.runtime.logs import Logs

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP

Handler: TypeAlias = Callable[[int], None]

# Ready descriptors taken per wake-up: enough to share its cost, few enough that the rest of the process is not starved.
_BATCH = 256


class Poller:
    """
    Dispatches readiness to handlers.

    A handler is called with the epoll events of its descriptor, which is level-triggered; where nothing but `READ` is
    there, `on_readable` is called instead, if there is one. Neither must raise: an exception is a bug, logged with its
    traceback, and `fail` is called, by which the owner ends what it was for.

    What handlers send leaves at the end of a wake-up (`convoy`). Where nothing but `READ` is there and one has said
    `pass_by`, its two steps come before all handlers, each for all who have one before the other.
    """

    __slots__ = (
        "_closing",
        "_epoll",
        "_failures",
        "_handlers",
        "_logs",
        "_loop",
        "_passages",
        "_readers",
        "convoy",
        "now",
        "read_by",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, logs: Logs, convoy: Convoy | None = None) -> None:
        self._loop = loop
        self._logs = logs
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        # By what the epoll says when nothing but `READ` is there.
        self._passages: dict[tuple[int, int], tuple[Callable[[], bool], Callable[[], None]]] = {}
        # `read_by(descriptor, on_readable)`: call that from now on where nothing but `READ` is there.
        self.read_by: Callable[[int, Callable[[], None]], None] = self._readers.__setitem__
        self._failures: dict[int, Callable[[], None]] = {}
        self._closing: list[socket.SocketType] = []
        # Monotonic seconds, read once per wake-up.
        self.now = monotonic()
        self.convoy = convoy or Convoy()
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(
        self,
        descriptor: int,
        handler: Handler,
        events: int = READ,
        *,
        fail: Callable[[], None],
        on_readable: Callable[[], None] | None = None,
    ) -> None:
        """Call `handler` when one of `events` is there, or an error; `fail` if it raises."""
        self._handlers[descriptor] = handler
        self._failures[descriptor] = fail
        if on_readable is not None:
            self._readers[descriptor] = on_readable
        self._epoll.register(descriptor, events)

    def pass_by(self, descriptor: int, receive: Callable[[], bool], pass_on: Callable[[], None]) -> None:
        """Call `receive` where nothing but `READ` is there, and `pass_on` if it says so; see the class."""
        self._passages[descriptor, READ] = receive, pass_on

    def pass_no_more(self, descriptor: int) -> None:
        """Undo `pass_by`."""
        self._passages.pop((descriptor, READ), None)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Call no handler for this descriptor any more."""
        if self._drop_handlers(descriptor):
            self._epoll.unregister(descriptor)

    def _drop_handlers(self, descriptor: int) -> bool:
        if self._handlers.pop(descriptor, None) is None:
            return False
        del self._failures[descriptor]
        self._readers.pop(descriptor, None)
        self._passages.pop((descriptor, READ), None)
        return True

    def close_socket(self, sock: socket.SocketType) -> None:
        """Close a socket at the end of the wake-up, so that no event in hand can meet a new owner of its number."""
        self._drop_handlers(sock.fileno())  # and the kernel forgets a socket that is closed
        if not self._closing and not self.convoy.is_open:
            self._loop.call_soon(self._close_sockets)
        self._closing.append(sock)

    def close(self) -> None:
        """Stop watching; handlers are not called again."""
        self._close_sockets()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._handlers.clear()
        self._readers.clear()
        self._passages.clear()
        self._failures.clear()

    def _dispatch(self) -> None:
        self.now = monotonic()
        ready = self._epoll.poll(0, _BATCH)
        convoy = self.convoy
        convoy.open()
        try:
            if self._passages:
                ready = self._pass_on(ready)
            if ready:
                handlers, readers = self._handlers, self._readers
            for descriptor, events in ready:
                try:
                    if events == READ and descriptor in readers:
                        readers[descriptor]()
                    elif descriptor in handlers:
                        handlers[descriptor](events)
                except Exception as error:
                    self._failed(descriptor, error)
        finally:
            convoy.close()
            if self._closing:
                self._close_sockets()

    def _pass_on(self, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Take the steps of the passages, and return what else is ready."""
        passages = self._passages
        others, coming = [], []
        for each in ready:
            if each not in passages:
                others.append(each)
                continue
            receive, pass_on = passages[each]
            try:
                if receive():
                    coming.append((pass_on, each))
            except Exception as error:
                self._failed(each[0], error)
        for pass_on, each in coming:
            try:
                pass_on()
            except Exception as error:
                self._failed(each[0], error)
        return others

    def _failed(self, descriptor: int, error: Exception) -> None:
        self._logs.error("handler.failed", error=error)
        self._failures.get(descriptor, _ignore)()

    def _close_sockets(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()


def _ignore() -> None:
    return
