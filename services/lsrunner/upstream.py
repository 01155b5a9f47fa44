"""
The simulated provider as an HTTPS server on loopback, with the certificate that mitm made for it.

As much HTTP/1.1 as its one client needs, which comes through mitm: POST with a content-length, one request after
another. A server made for the world took longer to import than everything else of this process together.

Resources: `serve` holds the listening socket and its connections until it is cancelled. The certificate is waited
for, and read again whenever mitm has written a new one. Bodies are neither kept nor logged.
"""

import asyncio
import contextlib
import secrets
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import orjson

from services.bus.rhythm import pause_s
from services.events.codec import EventInvalid, read_object
from services.lsrunner.simulated_provider import (
    START_ANSWERS,
    Problem,
    error_body,
    events_for,
    prompt_in,
    trace_id_of,
)
from services.runtime.logs import Logs

_PATH_PREFIX = "/v1internal:"
# Between two events, so that streaming can be seen; short enough not to bore.
_EVENT_PAUSE_S = 0.02
# Until it is there people wait for it, and mitm starts at the same time.
_CERTIFICATE_AWAITED_S = 0.05
# Later it is a matter of months; with the heartbeat it costs no wake-up of its own.
_CERTIFICATE_POLL_S = 1.0
_HEAD_BYTES_MAX = 64 * 1024
_BODY_BYTES_MAX = 16 * 1024 * 1024
# Longer than mitm keeps a connection that nobody uses.
_IDLE_TIMEOUT_S = 300.0
_GZIP_WBITS = 31  # zlib's number for the gzip format

_Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def takes_gzip(self) -> bool:
        return "gzip" in self.headers.get("accept-encoding", "")


class SimulatedProvider:
    """
    The server.

    Attributes:
        problem: Why it does not serve (yet), None when it does.
    """

    def __init__(self, port: int, certificate: Path, logs: Logs) -> None:
        self._port = port
        self._certificate = certificate
        self._logs = logs
        self.problem: str | None = f"waiting for {certificate}, which mitm writes"

    async def serve(self) -> None:
        """Serve until cancelled; a port that is taken is tried again."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        loaded = 0
        async with asyncio.TaskGroup() as connections:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connections.create_task(self._attend(reader, writer))

            listener = None
            try:
                while True:
                    loaded = self._load(context, loaded)
                    if loaded and listener is None:
                        listener = await self._listen(connected, context)
                    loop_s = asyncio.get_running_loop().time()
                    await asyncio.sleep(pause_s(loop_s, _CERTIFICATE_POLL_S) if listener else _CERTIFICATE_AWAITED_S)
            finally:
                if listener is not None:
                    listener.close()

    def _load(self, context: ssl.SSLContext, loaded: int) -> int:
        """Read the certificate if it is new; return its time."""
        try:
            changed = self._certificate.stat().st_mtime_ns
            if changed != loaded:
                # A running server's context takes a new certificate for its next handshakes.
                context.load_cert_chain(self._certificate)
            return changed
        except (OSError, ssl.SSLError):
            return loaded  # not there yet, or half written: next time

    async def _listen(self, connected: _Connected, context: ssl.SSLContext) -> asyncio.Server | None:
        try:
            listener = await asyncio.start_server(
                connected, "127.0.0.1", self._port, ssl=context, limit=_HEAD_BYTES_MAX
            )
        except OSError as error:
            self.problem = f"port {self._port} of the simulated provider is not to be had: {error.strerror}"
            return None
        self.problem = None
        return listener

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another; what is no such request ends its connection."""
        try:
            with contextlib.suppress(OSError, ValueError, TimeoutError, EOFError, asyncio.LimitOverrunError):
                while True:
                    async with asyncio.timeout(_IDLE_TIMEOUT_S):
                        request = await _next_request(reader)
                    await self._answer(request, writer)
        except Exception as error:
            self._logs.error("simulated_provider.failed", error=error)
        finally:
            writer.close()

    async def _answer(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        method = request.path.removeprefix(_PATH_PREFIX).partition("?")[0]
        try:
            if request.method != "POST" or not request.path.startswith(_PATH_PREFIX):
                raise Problem(status=404)
            body = _object_in(request)
            if method == "streamGenerateContent":
                await self._stream(request, body, writer)
                return
            if method not in START_ANSWERS:
                raise Problem(status=404)
            _send_whole(writer, request, START_ANSWERS[method], "application/json")
        except Problem as problem:
            # The real one gives its errors the type of the stream that was asked for.
            kind = "text/event-stream" if method == "streamGenerateContent" else "application/json"
            _send_whole(writer, request, error_body(problem), kind, problem.status)
        await writer.drain()

    async def _stream(self, request: _Request, body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        prompt = prompt_in(body)
        response_id = f"simulated-{secrets.token_urlsafe(12)}"
        headers = {
            "Content-Type": "text/event-stream",
            "Server": "wiremeter-simulated",
            "X-CloudAICompanion-Trace-Id": trace_id_of(response_id),
            "Transfer-Encoding": "chunked",
        }
        squeeze = zlib.compressobj(wbits=_GZIP_WBITS) if request.takes_gzip else None
        if squeeze:
            headers["Content-Encoding"] = "gzip"
        writer.write(_head(200, headers))
        for event in events_for(prompt, response_id):
            data = b"data: " + orjson.dumps(event) + b"\r\n\r\n"
            writer.write(_chunk(squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH) if squeeze else data))
            await writer.drain()
            await asyncio.sleep(_EVENT_PAUSE_S)
        writer.write((_chunk(squeeze.flush()) if squeeze else b"") + b"0\r\n\r\n")
        await writer.drain()


async def _next_request(reader: asyncio.StreamReader) -> _Request:
    """
    Read a request.

    Raises:
        ValueError: It is none, or none of those that are understood here.
        EOFError, LimitOverrunError: It did not come to its end.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *fields = head[:-4].split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    size = int(headers.get("content-length", "0"))
    if "transfer-encoding" in headers or not 0 <= size <= _BODY_BYTES_MAX:
        raise ValueError(f"body of {size} bytes, or of no stated length")
    return _Request(method=method, path=path, headers=headers, body=await reader.readexactly(size))


def _object_in(request: _Request) -> dict[str, object]:
    try:
        return read_object(request.body)
    except EventInvalid as error:
        raise Problem(status=400) from error


def _send_whole(
    writer: asyncio.StreamWriter, request: _Request, value: object, content_type: str, status: int = 200
) -> None:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    headers = {"Content-Type": content_type, "Server": "wiremeter-simulated"}
    if request.takes_gzip:
        headers["Content-Encoding"] = "gzip"
        squeeze = zlib.compressobj(wbits=_GZIP_WBITS)
        body = squeeze.compress(body) + squeeze.flush()
    writer.write(_head(status, headers | {"Content-Length": str(len(body))}) + body)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
