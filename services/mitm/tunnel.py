"""
A connection that is not opened: bytes pass both ways as they are, counted, with back-pressure and half-closes.
"""

from collections.abc import Callable

import orjson

from services.events.exchange import Client, ExchangeCounted
from services.mitm.observation import ObserverParts
from services.mitm.stream import BACKLOG_BYTES_MAX, BROKEN_OFF, NOTHING_YET, Scratch, Stream
from services.mitm.times import milliseconds, timestamp


class Tunnel:
    """
    Relays between two streams in clear until both have ended, one has broken off, or nothing moved for too long.

    Owns both streams from the start of its life and closes them at its end; `on_end` is called once, after that.
    """

    __slots__ = (
        "_client",
        "_idle_timeout_s",
        "_now",
        "_on_end",
        "_over",
        "_scratch",
        "_upstream",
        "deadline",
        "down",
        "up",
    )

    def __init__(
        self,
        client: Stream,
        upstream: Stream,
        scratch: Scratch,
        *,
        idle_timeout_s: float,
        now: Callable[[], float],
        on_end: Callable[["Tunnel"], None],
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._scratch = scratch
        self._idle_timeout_s = idle_timeout_s
        self._now = now
        self._on_end = on_end
        self.up = 0
        self.down = 0
        self._over = False
        self.deadline = now() + idle_timeout_s
        client.watch(self._on_client, lambda: self._on_drained(upstream), self.fail)
        upstream.watch(self._on_upstream, lambda: self._on_drained(client), self.fail)

    def send_up(self, data: bytes) -> None:
        """Pass on what was read from the client before the tunnel was there."""
        self.up += len(data)
        self._upstream.send(data)

    def expire(self) -> None:
        """Nothing moved until the deadline."""
        self._end(broken=True)

    def stop(self) -> None:
        """The process stops."""
        self._end(broken=True)

    def fail(self) -> None:
        """A handler of ours has failed."""
        self._end(broken=True)

    def _on_client(self) -> None:
        self.up += self._pass(self._client, self._upstream)

    def _on_upstream(self) -> None:
        self.down += self._pass(self._upstream, self._client)

    def _pass(self, source: Stream, sink: Stream) -> int:
        if source.ended:
            # It is paused and can say one thing only: that the connection is gone in the other direction too.
            self._end(broken=True)
            return 0
        size = source.receive()
        if size > 0:
            self.deadline = self._now() + self._idle_timeout_s
            sink.send(self._scratch.plain_view[:size])
            if sink.backlog > BACKLOG_BYTES_MAX:
                source.pause()
            return size
        if size == NOTHING_YET:
            return 0
        source.pause()
        if size == BROKEN_OFF:
            self._end(broken=True)
        else:
            sink.shut_writing()
            self._settle()
        return 0

    def _on_drained(self, source: Stream) -> None:
        if not source.ended:
            source.resume()
        self._settle()

    def _settle(self) -> None:
        """End when both sides have ended and have everything; close a side that is through before the other is."""
        client, upstream = self._client, self._upstream
        client_has_all = upstream.ended and not client.backlog
        upstream_has_all = client.ended and not upstream.backlog
        if client.sent_failed or upstream.sent_failed:
            self._end(broken=True)
        elif client_has_all and upstream_has_all:
            self._end(broken=False)
        elif client_has_all and client.ended:
            client.close()
        elif upstream_has_all and upstream.ended:
            upstream.close()

    def _end(self, *, broken: bool) -> None:
        if self._over:
            return
        self._over = True
        for stream in (self._client, self._upstream):
            if broken:
                stream.abort()
            else:
                stream.close()
        self._on_end(self)


def tunnel_record(
    host: str, client: Client, started: float, now: float, up: int, down: int, parts: ObserverParts
) -> bytes:
    """Write the record of a connection that was passed through unopened."""
    offset = parts.epoch_offset_s()
    return orjson.dumps(
        {
            "schema": ExchangeCounted.SCHEMA,
            "event_id": parts.ids.make(int((offset + now) * 1000)),
            "at": timestamp(offset + now),
            "host": host,
            "endpoint": "(tunnel)",
            "http_status": None,
            "timing": {
                "started_at": timestamp(offset + started),
                "first_byte_ms": None,
                "duration_ms": milliseconds(now - started),
            },
            "bytes": {"up": up, "down": down},
            "client": client,
        }
    )
