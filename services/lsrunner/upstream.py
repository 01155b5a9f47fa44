"""
The simulated provider as an HTTPS server on loopback, with the certificate that mitm made for it.

Resources: `serve` holds the listening socket and its connections until it is cancelled. The certificate is waited
for, and read again whenever mitm has written a new one. Bodies are neither kept nor logged.
"""

import asyncio
import secrets
import ssl
import zlib
from pathlib import Path

import orjson
from aiohttp import web

from services.events.codec import EventInvalid, read_object
from services.lsrunner.simulated_provider import (
    START_ANSWERS,
    Problem,
    error_body,
    events_for,
    prompt_in,
    trace_id_of,
)

_PATH_PREFIX = "/v1internal:"
# Between two events, so that streaming can be seen; short enough not to bore.
_EVENT_PAUSE_S = 0.02
_CERTIFICATE_POLL_S = 0.5
_BODY_BYTES_MAX = 16 * 1024 * 1024
_GZIP_WBITS = 31  # zlib's number for the gzip format
_SHUTDOWN_S = 1.0


class SimulatedProvider:
    """
    The server.

    Attributes:
        problem: Why it does not serve (yet), None when it does.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        self._port = port
        self._certificate = certificate
        self.problem: str | None = f"waiting for {certificate}, which mitm writes"

    async def serve(self) -> None:
        """Serve until cancelled; a port that is taken is tried again."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        loaded = 0
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=_SHUTDOWN_S)
        try:
            await runner.setup()
            listening = False
            while True:
                loaded = self._load(context, loaded)
                if loaded and not listening:
                    listening = await self._listen(runner, context)
                await asyncio.sleep(_CERTIFICATE_POLL_S)
        finally:
            await runner.cleanup()

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

    async def _listen(self, runner: web.ServerRunner, context: ssl.SSLContext) -> bool:
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=context).start()
        except OSError as error:
            self.problem = f"port {self._port} of the simulated provider is not to be had: {error.strerror}"
            return False
        self.problem = None
        return True

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        method = request.path.removeprefix(_PATH_PREFIX)
        try:
            if request.method != "POST" or not request.path.startswith(_PATH_PREFIX):
                raise Problem(status=404)
            body = await self._body(request)
            if method == "streamGenerateContent":
                return await self._stream(request, body)
            if method not in START_ANSWERS:
                raise Problem(status=404)
            return _whole(request, START_ANSWERS[method], "application/json")
        except Problem as problem:
            # The real one gives its errors the type of the stream that was asked for.
            kind = "text/event-stream" if method == "streamGenerateContent" else "application/json"
            return _whole(request, error_body(problem), kind, problem.status)

    async def _body(self, request: web.BaseRequest) -> dict[str, object]:
        if (request.content_length or 0) > _BODY_BYTES_MAX:
            raise Problem(status=400)
        try:
            return read_object(await request.content.read())
        except EventInvalid as error:
            raise Problem(status=400) from error

    async def _stream(self, request: web.BaseRequest, body: dict[str, object]) -> web.StreamResponse:
        prompt = prompt_in(body)
        response_id = f"simulated-{secrets.token_urlsafe(12)}"
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Server": "wiremeter-simulated",
                "X-CloudAICompanion-Trace-Id": trace_id_of(response_id),
            }
        )
        squeeze = zlib.compressobj(wbits=_GZIP_WBITS) if _takes_gzip(request) else None
        if squeeze:
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        for event in events_for(prompt, response_id):
            data = b"data: " + orjson.dumps(event) + b"\r\n\r\n"
            await response.write(squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH) if squeeze else data)
            await asyncio.sleep(_EVENT_PAUSE_S)
        await response.write_eof(squeeze.flush() if squeeze else b"")
        return response


def _takes_gzip(request: web.BaseRequest) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")


def _whole(request: web.BaseRequest, value: object, content_type: str, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    headers = {"Content-Type": content_type, "Server": "wiremeter-simulated"}
    if _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        squeeze = zlib.compressobj(wbits=_GZIP_WBITS)
        body = squeeze.compress(body) + squeeze.flush()
    return web.Response(body=body, status=status, headers=headers)
