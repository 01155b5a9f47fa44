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
    """

    __slots__ = ("_closing", "_epoll", "_failures", "_handlers", "_logs", "_loop", "_readers", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop, logs: Logs) -> None:
        self._loop = loop
        self._logs = logs
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._failures: dict[int, Callable[[], None]] = {}
        self._closing: list[socket.SocketType] = []
        # Monotonic seconds, read once per wake-up.
        self.now = monotonic()
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

    def read_by(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` from now on where nothing but `READ` is there."""
        self._readers[descriptor] = on_readable

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
        return True

    def close_socket(self, sock: socket.SocketType) -> None:
        """Close a socket at the end of the wake-up, so that no event in hand can meet a new owner of its number."""
        self._drop_handlers(sock.fileno())  # and the kernel forgets a socket that is closed
        if not self._closing:
            self._loop.call_soon(self._close_sockets)
        self._closing.append(sock)

    def close(self) -> None:
        """Stop watching; handlers are not called again."""
        self._close_sockets()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._handlers.clear()
        self._readers.clear()
        self._failures.clear()

    def _dispatch(self) -> None:
        self.now = monotonic()
        handlers, readers = self._handlers, self._readers
        for descriptor, events in self._epoll.poll(0, _BATCH):
            try:
                if events == READ and descriptor in readers:
                    readers[descriptor]()
                elif descriptor in handlers:
                    handlers[descriptor](events)
            except Exception as error:
                self._logs.error("handler.failed", error=error)
                self._failures.get(descriptor, _ignore)()

    def _close_sockets(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()


def _ignore() -> None:
    return
