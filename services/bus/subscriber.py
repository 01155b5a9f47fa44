"""
Events in: a SUB socket as an asynchronous iterator over (topic, object).

    async for topic, members in Subscriber(connect=["tcp://127.0.0.1:8743"], topics=["usage."]):
        ...

What is not two frames with a JSON object in the second is skipped and counted, never raised: whoever reaches an
endpoint may send nonsense to it. `zmq.asyncio` would do the same at several times the cost per message.
"""

import asyncio
from collections.abc import Callable, Sequence

import zmq

from services.bus.addresses import EndpointTaken
from services.events.codec import EVENT_BYTES_MAX, EventInvalid, read_object

# Messages kept for us while we are busy; more are lost, and memory is bounded.
RECEIVE_HIGH_WATER_MARK = 4096
# Messages taken in a row before the rest of the process gets its turn.
_IN_A_ROW_MAX = 64
# While everything starts, whoever connects is often a moment early. ZeroMQ's own pause is the longer one, always.
_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 100


class Subscriber:
    """
    A SUB socket, for one task at a time. Use it inside a running event loop.

    Args:
        connect: Endpoints to connect to; who listens there may come and go.
        bind: Endpoints to listen at.
        topics: Prefixes to subscribe to.
        read: Makes an object of the second frame, or raises EventInvalid.

    Attributes:
        malformed: Messages that were skipped because they were none of ours.

    Raises:
        EndpointTaken: An endpoint cannot be bound.
    """

    def __init__(
        self,
        *,
        connect: Sequence[str] = (),
        bind: Sequence[str] = (),
        topics: Sequence[str],
        high_water_mark: int = RECEIVE_HIGH_WATER_MARK,
        read: Callable[[bytes], dict[str, object]] = read_object,
    ) -> None:
        self._read = read
        self.malformed = 0
        self._in_a_row = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readable = asyncio.Event()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        # libzmq closes the connection of a peer that announces more, before anything is allocated.
        self._socket.setsockopt(zmq.MAXMSGSIZE, EVENT_BYTES_MAX)
        reconnect_soon(self._socket)
        self._descriptor: int = self._socket.getsockopt(zmq.FD)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        for endpoint in connect:
            self._socket.connect(endpoint)
        for endpoint in bind:
            try:
                self._socket.bind(endpoint)
            except zmq.ZMQError as error:
                self._socket.close()
                raise EndpointTaken(f"{endpoint} cannot be bound: {zmq.strerror(error.errno or 0)}") from error

    def __aiter__(self) -> "Subscriber":
        return self

    async def __anext__(self) -> tuple[str, dict[str, object]]:
        """Wait for the next message. Cancelling loses none."""
        while True:
            if self._in_a_row >= _IN_A_ROW_MAX:
                self._in_a_row = 0
                await asyncio.sleep(0)
            received = self.receive_now()
            if received is not None:
                self._in_a_row += 1
                return received
            self._in_a_row = 0
            await self._wait()

    def receive_now(self) -> tuple[str, dict[str, object]] | None:
        """Return the next message if there is one already."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                if len(frames) != 2:
                    raise EventInvalid(f"message of {len(frames)} frames, not 2")
                return frames[0].decode(), self._read(frames[1])
            except (EventInvalid, UnicodeDecodeError):
                self.malformed += 1

    def close(self) -> None:
        """Close the socket. Whoever waits in the iterator waits for ever: cancel it first."""
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None
        self._socket.close()

    async def _wait(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._descriptor, self._on_readable)
        # The descriptor tells of changes, not of states: it was emptied when receiving said "nothing", so whatever came
        # later raises it again.
        self._readable.clear()
        await self._readable.wait()

    def _on_readable(self) -> None:
        # Asking for EVENTS takes the descriptor's signal away; otherwise a task that is busy elsewhere would be told
        # again and again.
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._readable.set()


def reconnect_soon(socket: zmq.Socket[bytes]) -> None:
    """Let a socket look often, then less often, for someone who does not listen yet."""
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
