"""
The HTTP server: takes requests, asks the parts, and alone decides what a client is told.

Resources: one TCP listener per loopback address. A request whose connection is lost is cancelled, and its turn with
it. Every wait has a limit: `HEAD_TIMEOUT_S` for a request's head and between requests, `BODY_TIMEOUT_S` for its body,
`WRITE_TIMEOUT_S` for a client that does not read. One line per request is logged when it is over, without its query.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final

import orjson
from aiohttp import web

from services.events.identity import UlidSource
from services.events.lifecycle import LanguageServerState
from services.events.turn import StopReason, TurnDelta, TurnRequested
from services.frontproxy import guard, queries
from services.frontproxy.backend import Backend, TurnSession
from services.frontproxy.bodies import Members, read_body
from services.frontproxy.config import FrontproxyConfig
from services.frontproxy.metrics import metrics_text
from services.frontproxy.models import model_list, one_model
from services.frontproxy.openai_chat import error_object
from services.frontproxy.refusal import BUSY_RETRY_AFTER_S, Refused, invalid, refusal_of, unknown_model
from services.frontproxy.store import LedgerDesk
from services.frontproxy.surfaces import Answer, Asked, Surface
from services.ledger.store import LedgerUnusable
from services.ledger.window import LedgerQueryInvalid
from services.runtime.logs import Logs
from services.runtime.run import StartRefused

HEAD_TIMEOUT_S: Final = 30.0
BODY_TIMEOUT_S: Final = 60.0
WRITE_TIMEOUT_S: Final = 60.0
# Answers in progress get this long when the process is asked to stop.
SHUTDOWN_TIMEOUT_S: Final = 1.0
# Each holds an answer in memory; a language server works on a few at a time.
TURNS_MAX: Final = 64
# nginx's word for a client that went away; it reaches the log only.
_CLIENT_CLOSED: Final = 499
# Each request runs in a task of its own, and with it in a context of its own.
_request_id: Final[ContextVar[str]] = ContextVar("request_id")
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "wiremeter"}

_RETRY_LATER: Final = {"retry-after": str(BUSY_RETRY_AFTER_S)}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The routes and what stands behind them."""

    def __init__(
        self,
        config: FrontproxyConfig,
        *,
        backend: Backend,
        ledger: LedgerDesk,
        surfaces: Sequence[Surface],
        ids: UlidSource,
        logs: Logs,
    ) -> None:
        self._config = config
        self._backend = backend
        self._ledger = ledger
        self._ids = ids
        self._logs = logs
        self._turns = 0
        self._surfaces = {surface.path: surface for surface in surfaces}
        self._app = web.Application(middlewares=[self._tell], client_max_size=0)
        self._app.router.add_get("/health", self._health)
        self._app.router.add_get("/metrics", self._metrics)
        self._app.router.add_get("/v1/usage", self._usage)
        self._app.router.add_get("/v1/usage/events", self._events)
        self._app.router.add_get("/v1/organization/usage/completions", self._completions)
        self._app.router.add_get("/v1/models", self._models)
        self._app.router.add_get("/v1/models/{model:.+}", self._model)
        for surface in surfaces:
            self._app.router.add_post(surface.path, self._turn_handler(surface))
        self._runner = web.AppRunner(
            self._app,
            handle_signals=False,
            handler_cancellation=True,
            keepalive_timeout=HEAD_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            access_log=None,
            logger=_quiet_logger(logs),
        )

    async def serve(self) -> None:
        """
        Begin to listen.

        Raises:
            StartRefused: The port is in use on 127.0.0.1.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._config.port).start()
        except OSError as error:
            await self._runner.cleanup()
            problem = f"port {self._config.port} on 127.0.0.1 cannot be taken: {os.strerror(error.errno or 0)}"
            raise StartRefused(f"{problem}; frontproxy.port sets another") from error
        try:
            await web.TCPSite(self._runner, "::1", self._config.port).start()
        except OSError as error:
            # Many containers have no IPv6. Everything is reachable by IPv4 all the same.
            problem = os.strerror(error.errno or 0)
            self._logs.warning("listener.missed", address="::1", port=self._config.port, problem=problem)
        self._logs.info("listener.opened", port=self._config.port)

    async def close(self) -> None:
        """Stop listening; answers in progress get `SHUTDOWN_TIMEOUT_S`, then they are cancelled."""
        await self._runner.cleanup()

    # -- every request --------------------------------------------------------------------------------------------

    @web.middleware
    async def _tell(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        started_at_s = time.monotonic()
        request_id = self._ids.make(time.time_ns() // 1_000_000)
        _request_id.set(request_id)
        status = _CLIENT_CLOSED
        try:
            response = await self._checked(request, handler)
            status = response.status
        except Refused as refused:
            response = self._refusal(request, refused)
            status = response.status
        except LedgerQueryInvalid as error:
            response = self._refusal(request, invalid(str(error)))
            status = response.status
        except LedgerUnusable as error:
            response = self._refusal(request, Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code="ledger"))
            status = response.status
        except ConnectionResetError:
            raise
        except Exception as error:
            response = self._refusal(request, self._internal(request, error))
            status = response.status
        finally:
            self._logs.info(
                "request.finished",
                request=request_id,
                method=request.method,
                path=request.path,
                status=int(status),
                ms=round((time.monotonic() - started_at_s) * 1000, 1),
            )
        return response

    async def _checked(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        guard.check(request.headers.getall("Host", []), request.headers.getall("Origin", []), self._config.port)
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.method} is not allowed for {request.path}; allowed: {allowed}"
            headers = {"Allow": allowed}
            raise Refused(error.status, message, code="method_not_allowed", headers=headers) from error
        except web.HTTPNotFound as error:
            paths = sorted({resource.canonical for resource in self._app.router.resources()})
            message = f"{request.path[:200]!r} is no path here; there are {', '.join(paths)}"
            raise Refused(error.status, message, code="path_unknown") from error

    def _internal(self, request: web.Request, error: Exception) -> Refused:
        request_id = _request_id.get()
        self._logs.error("request.failed", error=error, request=request_id, path=request.path)
        message = f"internal error, request {request_id}"
        return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, message, code="internal")

    def _refusal(self, request: web.Request, refused: Refused) -> web.Response:
        surface = self._surfaces.get(request.path)
        body = surface.error(refused) if surface is not None else error_object(refused)
        response = _json(body, status=refused.status)
        response.headers.update(refused.headers)
        return response

    # -- what the ledger knows ------------------------------------------------------------------------------------

    async def _usage(self, request: web.Request) -> web.Response:
        return _json(await self._ledger.report(queries.read_report(_query(request))))

    async def _events(self, request: web.Request) -> web.Response:
        return _json(await self._ledger.events(queries.read_events(_query(request))))

    async def _completions(self, request: web.Request) -> web.Response:
        return _json(await self._ledger.completions(queries.read_completions(_query(request))))

    # -- what everything is doing ---------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        report = self._backend.health_report()
        strict = queries.flag(_query(request), "strict")
        status = HTTPStatus.SERVICE_UNAVAILABLE if strict and not report.is_serving else HTTPStatus.OK
        return _json(report.as_object(), status=status)

    async def _metrics(self, request: web.Request) -> web.Response:
        report = await self._ledger.report(queries.ReportAsked())
        text = metrics_text(self._backend.health_report(), report)
        return web.Response(
            body=text.encode(), headers=_headers() | {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _models(self, request: web.Request) -> web.Response:
        return _json(model_list(self._backend.language_server))

    async def _model(self, request: web.Request) -> web.Response:
        return _json(one_model(self._backend.language_server, request.match_info["model"]))

    # -- turns ----------------------------------------------------------------------------------------------------

    def _turn_handler(self, surface: Surface) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = surface.read(await self._body(request))
            if self._turns >= TURNS_MAX:
                message = f"{self._turns} turns are in progress, which is the limit"
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, message, code="busy", headers=_RETRY_LATER)
            self._turns += 1
            try:
                return await self._turn(request, surface, asked)
            finally:
                self._turns -= 1

        return handle

    async def _turn(self, request: web.Request, surface: Surface, asked: Asked) -> web.StreamResponse:
        state = await self._backend.language_server_heard()
        if state is None:
            message = "the language server runner does not answer"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, code="not_ready", headers=_RETRY_LATER)
        self._check_offer(state, asked)
        turn_id = _request_id.get()
        turn = TurnRequested(
            turn_id=turn_id, model=asked.model, messages=asked.messages, deadline_s=self._config.turn_timeout_s
        )
        answer = surface.answer(asked, turn_id, int(time.time()))
        with self._backend.turn(turn) as session:
            if asked.streams:
                return await self._stream(request, asked, answer, session)
            return await self._whole(request, asked, answer, session)

    def _check_offer(self, state: LanguageServerState, asked: Asked) -> None:
        if state.profile == "antigravity" and not self._config.terms_read:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "the vendor's terms decide whether other programs may use this login; read them, then set"
                " lsrunner.terms_read = true (metering works without it)",
                code="terms_unread",
            )
        if not state.accepts_turns:
            message = f"the language server's profile {state.profile} takes no prompts; its traffic is metered only"
            raise Refused(HTTPStatus.BAD_REQUEST, message, code="unsupported")
        offered = tuple(model.id for model in state.models)
        if offered and asked.model not in offered:
            raise unknown_model(asked.model, offered)

    async def _whole(
        self, request: web.Request, asked: Asked, answer: Answer, session: TurnSession
    ) -> web.StreamResponse:
        deltas: list[TurnDelta] = []
        while not session.is_over:
            deltas += await session.next()
        stop_reason = self._ended(session)
        body = answer.whole(deltas, stop_reason, await session.usage())
        return _json(body, more=_ignored_header(asked))

    async def _stream(
        self, request: web.Request, asked: Asked, answer: Answer, session: TurnSession
    ) -> web.StreamResponse:
        # Nothing is said before there is something to say: a turn that fails at once is told by an HTTP status.
        deltas = await session.next()
        if session.turn.failure is not None and not deltas:
            self._ended(session)
        headers = _headers() | {"Content-Type": "text/event-stream; charset=utf-8"} | _ignored_header(asked)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            await _write(response, answer.begin() + b"".join(map(answer.piece, deltas)))
            while not session.is_over:
                deltas = await session.next()
                if deltas:
                    await _write(response, b"".join(map(answer.piece, deltas)))
            await _write(response, answer.end(self._ended(session)))
            await _write(response, answer.usage(await session.usage() if asked.wants_usage else None))
        except Refused as refused:
            await _write(response, answer.broken(refused))
        except ConnectionResetError:
            raise
        except Exception as error:
            # The status has left already: only an event of the stream can still tell it.
            await _write(response, answer.broken(self._internal(request, error)))
        return response

    def _ended(self, session: TurnSession) -> StopReason:
        """Return why the answer ended, or raise what the client is told when it did not."""
        failure, done = session.turn.failure, session.turn.done
        if failure is None:
            assert done is not None, "a turn that is over is done or failed"
            return done.stop_reason
        state = self._backend.language_server
        if state is None:
            raise refusal_of(failure)
        raise refusal_of(failure, offered=tuple(model.id for model in state.models), login_url=state.login_url)

    async def _body(self, request: web.Request) -> Members:
        limit = self._config.body_bytes_max
        if request.content_length is not None and request.content_length > limit:
            raise _too_large(f"request body of {request.content_length} bytes exceeds {limit}")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > limit:
                        raise _too_large(f"request body of more than {len(body) - 1} bytes exceeds {limit}")
        except web.RequestPayloadError as error:
            raise invalid(
                "the request body is broken: its framing or coding cannot be read", code="body_broken"
            ) from error
        except TimeoutError as error:
            message = f"the request body did not arrive within {BODY_TIMEOUT_S:g} s"
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, message, code="body_timeout") from error
        return read_body(bytes(body))


def _too_large(message: str) -> Refused:
    # What is left of the body is not read: the connection ends.
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, code="body_too_large", headers={"Connection": "close"})


def _query(request: web.Request) -> dict[str, list[str]]:
    return {name: request.query.getall(name) for name in request.query}


def _headers() -> dict[str, str]:
    return {**_HEADERS, "x-request-id": _request_id.get()}


def _ignored_header(asked: Asked) -> dict[str, str]:
    return {"x-wiremeter-ignored": ", ".join(asked.ignored)} if asked.ignored else {}


def _json(body: object, *, status: int = HTTPStatus.OK, more: Mapping[str, str] | None = None) -> web.Response:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = _headers() | {"Content-Type": "application/json"} | dict(more or {})
    return web.Response(body=data, status=status, headers=headers)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Send a piece of a stream; a client that does not read for too long is one that has gone."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(data)
    except TimeoutError as error:
        raise ConnectionResetError(f"the client has not read for {WRITE_TIMEOUT_S:g} s") from error


class _ServerLog(logging.Handler):
    """Turns aiohttp's own log into ours, without its messages: they quote what the client sent."""

    def __init__(self, logs: Logs) -> None:
        super().__init__(logging.WARNING)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        self._logs.warning("connection.refused", problem=kind.__name__ if kind is not None else "unknown")


def _quiet_logger(logs: Logs) -> logging.Logger:
    logger = logging.Logger("frontproxy", logging.WARNING)
    logger.addHandler(_ServerLog(logs))
    return logger
