"""
Events out: a plain PUB socket, and the publisher of exchanges, which loses nothing.

`Publisher` sends and forgets, for what is repeated or only worth hearing now. `ExchangePublisher` journals first and
sends second; it sends again what lies behind a mark that stands still (services.bus.sending), for this epoch and for
those that earlier lives of the process left behind. Live and resent records take the same way.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import zmq
import zmq.backend

from services.bus.addresses import EXCHANGE_TOPIC, HELLO_TOPIC, MARK_TOPIC, Addresses, EndpointTaken
from services.bus.delivery import CommitMarked, HeldEpoch, LeftBehind, PublisherGreeted, encode_batch, readable
from services.bus.journal import Journal
from services.bus.rhythm import pause_s
from services.bus.sending import SendWindow
from services.bus.store import PastEpoch, Segment, SegmentVanished
from services.bus.subscriber import Subscriber, reconnect_soon
from services.events.codec import Event, EventInvalid, decode, encode

# So that memory is bounded: 4096 usage records are some megabytes.
SEND_HIGH_WATER_MARK = 4096
# Messages are at least this far apart, so that records that finish close together share one; a full one does not wait.
_GATHER_S = 0.002
BATCH_RECORDS_MAX = 64
BATCH_BYTES_MAX = 256 * 1024
_HELLO_S = 0.1
# While nothing is on its way, to hear of a ledger that was put back; who comes back is greeted when they listen.
_HELLO_AT_REST_S = 5.0
# To an accountant that lives and does not answer: its ledger cannot be opened.
_HELLO_IN_SILENCE_S = 1.0
# What exchanges begin and end with is made durable at once, the counts of those under way when they have to.
_SYNC_S = 0.05
_SYNC_COUNTS_S = 0.9
_EXPIRE_S = 5.0
# An accountant that lives answers every hello. To one that has left one unanswered this long only hellos are sent.
_SILENCE_S = 1.0
_CLOSE_WAIT_S = 1.0
_CLOSE_POLL_S = 0.01
# `zmq.Socket.send_multipart` takes five times as long, in Python, for what these two calls do.
_send = zmq.backend.Socket.send
_LAST = int(zmq.NOBLOCK)
_NOT_LAST = int(zmq.NOBLOCK | zmq.SNDMORE)


class Publisher:
    """
    A PUB socket. Sending never blocks; a receiver that does not keep up misses messages.

    Args:
        connect: Endpoints to connect to; who listens there may come and go.
        bind: Endpoints to listen at.
        high_water_mark: Messages kept for a receiver that is slow to read; what is beyond is lost to it.
        linger_ms: How long messages that are not on their way yet outlive `close`, in the background.
        on_subscribed: Called whenever somebody has begun to listen: what is sent from then on reaches them. Needs a
            running event loop.

    Raises:
        EndpointTaken: Something else listens at an endpoint, or it cannot be made.
    """

    def __init__(
        self,
        *,
        connect: Sequence[str] = (),
        bind: Sequence[str] = (),
        high_water_mark: int = SEND_HIGH_WATER_MARK,
        linger_ms: int = 0,
        on_subscribed: Callable[[], None] | None = None,
    ) -> None:
        self._on_subscribed = on_subscribed
        self._loop: asyncio.AbstractEventLoop | None = None
        # XPUB is PUB that hands out what it hears of its subscribers.
        kind = zmq.PUB if on_subscribed is None else zmq.XPUB
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self._descriptor: int = self._socket.getsockopt(zmq.FD)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, linger_ms)
        # A subscriber sends subscriptions, nothing else; a stranger shall not make us allocate.
        self._socket.setsockopt(zmq.MAXMSGSIZE, 64 * 1024)
        reconnect_soon(self._socket)
        if on_subscribed is not None:
            # Also one that is known already: who was away and came back asks for the same again.
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._descriptor, self._hear_subscribers)
        for endpoint in connect:
            self._socket.connect(endpoint)
        for endpoint in bind:
            try:
                self._socket.bind(endpoint)
            except zmq.ZMQError as error:
                self.close()
                raise EndpointTaken(f"{endpoint} cannot be bound: {zmq.strerror(error.errno or 0)}") from error

    def send(self, topic: str, message: bytes) -> None:
        """Send one message that is JSON already."""
        try:
            _send(self._socket, topic.encode(), _NOT_LAST)
            _send(self._socket, message, _LAST)
        except zmq.Again:
            pass  # PUB drops by itself; this is the same
        # Sending takes the descriptor's signal away.
        if self._on_subscribed is not None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._hear_subscribers()

    def publish(self, topic: str, event: Event) -> None:
        """Send one event."""
        self.send(topic, encode(event))

    def close(self) -> None:
        """Close the socket; messages not yet handed to the kernel are dropped."""
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None
        self._socket.close()

    def _hear_subscribers(self) -> None:
        assert self._on_subscribed is not None
        begun = False
        with contextlib.suppress(zmq.Again):
            while True:
                # The first byte tells whether one subscribes or leaves.
                begun |= self._socket.recv(zmq.NOBLOCK).startswith(b"\1")
        if begun:
            self._on_subscribed()


class Notices(Protocol):
    """Where the publisher says what people should know; `services.runtime.logs.Logs` is one."""

    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...


class _HeldRecords(Protocol):
    """Records of one epoch, wherever they are: this life's journal, or what an earlier one left."""

    epoch: str
    last: int

    @property
    def left_behind(self) -> LeftBehind | None: ...

    @property
    def first(self) -> int: ...
    def read(self, first: int, records_max: int, bytes_max: int) -> list[bytes]: ...
    def forget(self, segment: Segment) -> None: ...


class _Stream:
    """One epoch on its way to the accountant."""

    __slots__ = ("held", "is_suspect", "window")

    def __init__(self, held: _HeldRecords, *, is_covered: bool = False) -> None:
        self.held = held
        self.window = SendWindow()
        self.window.extend(held.last)
        if is_covered:
            self.window.marked(held.last, 0.0)
        self.is_suspect = False  # what is sent has been sent before and was not taken


class ExchangePublisher:
    """
    Delivers the records of one process to the ledger: none lost, none twice, whatever dies when.

    Call `start`, `progress` and `finish` from the event loop's thread; `run` beside them, `close` at the end. On
    cancellation `run` stops sending; the journal stays open until `close`.

    Args:
        journal: Where the records go first; closed by `close`.
        notices: Told when recording stops and when it goes on.
    """

    def __init__(self, journal: Journal, addresses: Addresses, notices: Notices) -> None:
        self._publisher = publisher = journal.publisher
        self._journal = journal
        # What the data path calls goes straight to the journal.
        self.start = journal.start
        self.progress = journal.progress
        self.repeats = journal.repeats
        self.finish = journal.finish
        self._notices = notices
        self._told: tuple[str | None, int] = (None, 0)
        self._live = _Stream(self._journal)
        self._streams: dict[str, _Stream] = {self._journal.epoch: self._live}
        self._unscanned: list[PastEpoch] = list(self._journal.past)
        self._socket = Publisher(connect=[addresses.exchange], on_subscribed=self._listened)
        self._marks = Subscriber(connect=[addresses.mark], topics=[MARK_TOPIC + publisher])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gather: asyncio.TimerHandle | None = None
        self._gather_at = float("-inf")  # when the next message may go
        self._heard_at = float("-inf")
        self._asked_at = 0.0  # the first hello since then
        self._listened_at = float("-inf")
        self._woken = asyncio.Event()
        self._is_resting = False
        self._written = asyncio.Event()  # something may not be durable yet
        self._written.set()
        self._sync_later: asyncio.TimerHandle | None = None
        journal.on_unsynced = self._unsynced
        journal.on_written = self._send_soon
        journal.on_problem = self._in_trouble
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    # What the journal calls.

    def _send_soon(self) -> None:
        if self._is_resting:
            self._wake()
        loop, window = self._loop, self._live.window
        window.extend(self._journal.last)
        sendable = window.sendable()
        if loop is None or not sendable or not self._is_heard(time.monotonic()):
            return  # what can be sent later goes with a hello, or with the answer to one
        is_full = sendable >= BATCH_RECORDS_MAX
        if self._gather is not None:
            if not is_full:
                return
            self._gather.cancel()
        # Never at once: the bytes that the records belong to have yet to be forwarded.
        now = loop.time()
        self._gather = loop.call_at(now if is_full else max(self._gather_at, now), self._send_gathered)

    def _unsynced(self, soon: bool) -> None:
        if soon or self._loop is None:
            self._written.set()
        elif self._sync_later is None:
            self._sync_later = self._loop.call_later(_SYNC_COUNTS_S, self._written.set)

    def _in_trouble(self) -> None:
        if self._is_resting:
            self._wake()

    # What the process around it calls.

    async def run(self) -> None:
        """Say hello, hear marks, send and send again, make durable; until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear_marks())
                tasks.create_task(self._tick())
                tasks.create_task(self._scan_past())
                tasks.create_task(self._expire())
                tasks.create_task(self._sync())
        finally:
            self._loop = None
            for timer in (self._gather, self._sync_later):
                if timer is not None:
                    timer.cancel()
            self._gather = self._sync_later = None

    async def close(self) -> None:
        """Wait up to a second for what is not yet known to be committed, then close; the journal keeps the rest."""
        deadline, hello_at = time.monotonic() + _CLOSE_WAIT_S, 0.0
        self._send_gathered()
        while not self._live.window.is_settled and (now := time.monotonic()) < deadline and self._is_heard(now):
            if now >= hello_at:
                self._greet(now)
                hello_at = now + _HELLO_S
            while (heard := self._marks.receive_now()) is not None:
                self._take_marks(heard[1])
            await asyncio.sleep(_CLOSE_POLL_S)
        self._socket.close()
        self._marks.close()
        self._syncer.shutdown()
        self._journal.close(self._live.window.mark)

    def facts(self) -> Mapping[str, object]:
        """Return what health should say; `recording_problem` is None while everything is recorded."""
        return {
            "recording": self._journal.problem is None,
            "recording_problem": self._journal.problem,
            "unacknowledged": sum(stream.window.unacknowledged for stream in self._streams.values()),
            "runs": self._journal.open_runs(),
            "waiting_for_disk": self._journal.waiting,
            "records_dropped": self._journal.dropped,
            "journal_bytes": self._journal.size_bytes,
            "resends": sum(stream.window.resends for stream in self._streams.values()),
            "accountant_heard": self._is_heard(time.monotonic()),
        }

    # Sending.

    def _is_heard(self, now: float) -> bool:
        return self._is_answered or now - self._asked_at < _SILENCE_S

    @property
    def _is_answered(self) -> bool:
        return self._heard_at >= self._asked_at

    def _send_gathered(self) -> None:
        if self._gather is not None:
            self._gather.cancel()
            self._gather = None
        if self._loop is not None:
            self._gather_at = self._loop.time() + _GATHER_S
        self._send(self._live, time.monotonic())

    def _send(self, stream: _Stream, now: float) -> None:
        window = stream.window
        window.extend(max(window.last, stream.held.last))
        if not self._is_heard(now):
            return
        while (room := window.sendable()) > 0:
            try:
                records = stream.held.read(window.next, min(room, BATCH_RECORDS_MAX), BATCH_BYTES_MAX)
            except SegmentVanished as error:
                if window.mark + 1 >= error.segment.first:
                    stream.held.forget(error.segment)
                return
            if not records:
                return
            sendable = [readable(record) for record in records] if stream.is_suspect else records
            message = encode_batch(self._publisher, stream.held.epoch, window.next, sendable, stream.held.left_behind)
            self._socket.send(EXCHANGE_TOPIC + self._publisher, message)
            window.sent(len(records), now)

    def _greet(self, now: float) -> None:
        held = tuple(
            HeldEpoch(epoch=epoch, first=stream.held.first, last=stream.held.last)
            for epoch, stream in self._streams.items()
        )
        self._socket.publish(HELLO_TOPIC + self._publisher, PublisherGreeted(publisher=self._publisher, epochs=held))
        if self._is_answered:
            self._asked_at = now
        for stream in self._streams.values():
            if stream.window.go_back_if_stalled(now):
                stream.is_suspect = True
            self._send(stream, now)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._journal.retry()
            self._tell()
            self._woken.clear()
            now = time.monotonic()
            self._is_resting = self._may_rest()
            period_s = _HELLO_AT_REST_S if self._is_resting else self._period_s(now)
            self._greet(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s(loop.time(), period_s)):
                    await self._woken.wait()

    def _may_rest(self) -> bool:
        is_settled = all(stream.window.is_settled for stream in self._streams.values())
        return is_settled and self._is_answered and not self._unscanned and self._journal.problem is None

    def _period_s(self, now: float) -> float:
        # Who has just begun to listen may not be heard by us yet; and a journal in trouble is tried again.
        is_urgent = self._is_heard(now) or now - self._listened_at < _SILENCE_S or self._journal.problem is not None
        return _HELLO_S if is_urgent else _HELLO_IN_SILENCE_S

    def _wake(self) -> None:
        self._is_resting = False
        self._woken.set()

    def _listened(self) -> None:
        self._listened_at = time.monotonic()
        self._wake()

    def _tell(self) -> None:
        problem, dropped = self._journal.problem, self._journal.dropped
        if (problem, dropped) == self._told:
            return
        if problem is None:
            self._notices.info("journal.recovered", records_dropped=dropped)
        else:
            waiting = self._journal.waiting
            self._notices.warning("journal.failed", problem=problem, records_waiting=waiting, records_dropped=dropped)
        self._told = (problem, dropped)

    # Hearing.

    async def _hear_marks(self) -> None:
        async for _, members in self._marks:
            self._take_marks(members)

    def _take_marks(self, members: Mapping[str, object]) -> None:
        try:
            marked = decode(CommitMarked, members)
        except EventInvalid:
            return
        now = time.monotonic()
        self._heard_at = now
        for epoch, mark in marked.marks.items():
            stream = self._streams.get(epoch)
            if stream is None:
                continue
            if mark > stream.window.mark:
                stream.is_suspect = False
            stream.window.marked(mark, now)
            self._send(stream, now)
        self._journal.cover(self._live.window.mark)
        if self._is_resting and not self._may_rest():
            self._wake()  # a mark went backwards

    # Earlier epochs.

    async def _scan_past(self) -> None:
        loop = asyncio.get_running_loop()
        for past in self._unscanned:
            if past.covered_at_unix_s is None:
                await loop.run_in_executor(self._syncer, past.scan)
            if past.is_empty:
                self._journal.delete_past(past)
            else:
                self._open_streams(past)
        self._unscanned.clear()

    async def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause_s(loop.time(), _EXPIRE_S))
            now_unix_s = time.time()
            for past in list(self._journal.past):
                streams = [self._streams[each] for each in self._epochs_of(past) if each in self._streams]
                if not all(stream.window.is_settled for stream in streams):
                    past.covered_at_unix_s = None
                    if past.needs_scan:  # a mark went backwards
                        await loop.run_in_executor(self._syncer, past.scan)
                        self._open_streams(past)
                elif streams and past.covered_at_unix_s is None:
                    past.note_covered(now_unix_s)
            self._journal.expire(self._live.window.mark, now_unix_s)
            kept = {each for past in self._journal.past for each in self._epochs_of(past)} | {self._journal.epoch}
            if not kept.issuperset(self._streams):
                self._streams = {epoch: stream for epoch, stream in self._streams.items() if epoch in kept}
                self._wake()  # the accountant need not be asked for the others any more

    @staticmethod
    def _epochs_of(past: PastEpoch) -> tuple[str, str]:
        return past.epoch, past.unfinished.epoch

    def _open_streams(self, past: PastEpoch) -> None:
        is_covered = past.covered_at_unix_s is not None
        for held in (past, past.unfinished):
            if held.last >= held.first:
                self._streams[held.epoch] = _Stream(held, is_covered=is_covered)

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._written.wait()
            await asyncio.sleep(_SYNC_S)
            self._written.clear()
            if self._sync_later is not None:
                self._sync_later.cancel()
                self._sync_later = None
            unsynced = self._journal.take_unsynced()
            if unsynced != ([], -1):
                await loop.run_in_executor(self._syncer, Journal.sync, unsynced)
