"""
The simulated language server: what a real one does on the wire, without a model behind it.

Reads      one JSON object per line on standard input: {"do": "answer", "turn", "conversation", "model", "messages":
           [{"role", "text"}, …]} and {"do": "cancel", "turn"}.
Writes     one per line on standard output: {"say": "waiting", "detail"}, {"say": "ready", "models": [{"id", "name"}]},
           {"say": "thinking" | "text", "turn", "text"}, {"say": "done", "turn", "stop_reason", "response_ids"},
           {"say": "failed", "turn", "kind", "message", "status"}, {"say": "cancelled", "turn"}.
Calls      https://simulated.wiremeter.invalid with the endpoints, headers and coding of the Cloud Code API: three at
           its start, two for each turn (the answer, then a small model that names the conversation). It trusts
           SSL_CERT_FILE and goes through HTTPS_PROXY where that is set; else it dials port 443 of this machine, which
           the redirect catches.
Ends       at the end of its input.

Stand-alone: the standard library only, Python >= 3.7, because it runs with the system's interpreter, as a user who
cannot enter the directory that holds the rest of Wiremeter.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

HOST = "simulated.wiremeter.invalid"
CHECKPOINT_MODEL = "simulated-lite"
_TIMEOUT_S = 60.0
# At its start; doubled after each try.
_RETRY_FIRST_S = 0.05
_RETRY_MAX_S = 1.0
# Idle connections kept; more turns at once open more connections and close them afterwards.
_POOL_MAX = 4
_KIND_BY_STATUS = {400: "invalid", 404: "unknown_model"}


class ProviderError(Exception):
    """The provider answered with an error, or not at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RedirectedConnection(http.client.HTTPSConnection):
    """A connection to port 443 of this machine, whatever the host's name: the redirect is what answers there."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(HOST, timeout=_TIMEOUT_S, context=context)
        self._trust = context

    def connect(self) -> None:
        """Dial this machine, ask for `HOST` in the handshake."""
        plain = socket.create_connection(("127.0.0.1", 443), timeout=_TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._trust.wrap_socket(plain, server_hostname=HOST)


class Provider:
    """The HTTPS client, with its idle connections."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._proxy = environ.get("HTTPS_PROXY", "")
        self._trust_file = environ.get("SSL_CERT_FILE")
        self._idle: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()

    def connect(self) -> http.client.HTTPSConnection:
        """Take an idle connection, or make one; it is opened by its first request."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not has_been_closed(connection):
                    return connection
                connection.close()
        # Read anew each time: a new authority needs no new language server.
        context = ssl.create_default_context(cafile=self._trust_file)
        # As strict as the real ones, which are written in Go or for Node, whatever Python this is: since 3.13 its
        # default would refuse an authority of the user's own that has no key usage or identifier.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self._proxy:
            return RedirectedConnection(context)
        proxy = urllib.parse.urlsplit(self._proxy)
        connection = http.client.HTTPSConnection(
            proxy.hostname or "127.0.0.1", proxy.port, timeout=_TIMEOUT_S, context=context
        )
        credentials = f"{urllib.parse.unquote(proxy.username or '')}:{urllib.parse.unquote(proxy.password or '')}"
        coded = base64.b64encode(credentials.encode()).decode()
        connection.set_tunnel(HOST, 443, headers={"Proxy-Authorization": f"Basic {coded}"})
        return connection

    def keep(self, connection: http.client.HTTPSConnection) -> None:
        """Give a connection back whose last answer was read to its end."""
        with self._lock:
            if len(self._idle) < _POOL_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def post(self, method: str, body: dict[str, Any], turn: Turn | None = None) -> Iterator[bytes]:
        """Call a method and yield the decoded body as it comes."""
        connection = self.connect()
        try:
            yield from self._exchange(connection, method, body, turn)
        except (OSError, http.client.HTTPException, zlib.error) as error:
            connection.close()
            raise ProviderError(f"the simulated provider cannot be reached: {error}") from error
        except BaseException:
            connection.close()
            raise
        self.keep(connection)

    def _exchange(
        self, connection: http.client.HTTPSConnection, method: str, body: dict[str, Any], turn: Turn | None
    ) -> Iterator[bytes]:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": "wiremeter-simulated/1 (a simulation, not a vendor's program)",
        }
        connection.request("POST", f"/v1internal:{method}", json.dumps(body).encode(), headers)
        if turn is not None:
            turn.connection = connection
        response = connection.getresponse()
        pieces = decoded(response)
        if response.status != 200:
            raise ProviderError(error_message(b"".join(pieces)), response.status)
        yield from pieces


def has_been_closed(connection: http.client.HTTPSConnection) -> bool:
    """Say whether the other end has left an idle connection: nobody there has anything else to say (mitm's restart)."""
    return connection.sock is not None and bool(select.select([connection.sock], [], [], 0)[0])


def decoded(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield a body as it comes, without its gzip coding."""
    gzip = zlib.decompressobj(31) if response.getheader("Content-Encoding") == "gzip" else None
    while True:
        piece = response.read1(65536)
        if not piece:
            response.read()  # read1 alone leaves a body with a length open, and its connection unusable
            return
        yield gzip.decompress(piece) if gzip else piece


def error_message(body: bytes) -> str:
    """Return what a Google error body says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "the simulated provider gave an error that cannot be read"


def events(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON of each server-sent event."""
    waiting = b""
    for piece in pieces:
        waiting += piece
        *whole, waiting = waiting.split(b"\r\n\r\n")
        for event in whole:
            if event.startswith(b"data: "):
                yield json.loads(event[len(b"data: ") :])


class Turn:
    """One turn being answered."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.id = str(order["turn"])
        self.conversation = str(order["conversation"])
        self.model = str(order["model"])
        self.messages = [(str(each["role"]), str(each["text"])) for each in order["messages"]]
        self.connection: http.client.HTTPSConnection | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Break the call that runs; the reading thread notices."""
        self.cancelled = True
        sock = self.connection.sock if self.connection is not None else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def request(self, model: str, messages: list[tuple[str, str]], step: int) -> dict[str, Any]:
        """Write the call's body in the wrapped form of the Cloud Code API."""
        spoken = [(role, text) for role, text in messages if role != "system"]
        inner: dict[str, Any] = {
            "contents": [
                {"role": "model" if role == "assistant" else "user", "parts": [{"text": text}]} for role, text in spoken
            ],
            "generationConfig": {"maxOutputTokens": 65536, "thinkingConfig": {"includeThoughts": True}},
            "labels": {"last_step_index": str(step), "model_enum": model, "used_claude": "false"},
        }
        instructions = [{"text": text} for role, text in messages if role == "system"]
        if instructions:
            inner["systemInstruction"] = {"role": "user", "parts": instructions}
        return {
            "project": "wiremeter-simulated",
            "requestId": f"agent/{self.conversation}/{int(time.time() * 1000)}/{uuid.uuid4()}/{step}",
            "model": model,
            "userAgent": "wiremeter-simulated",
            "requestType": "agent",
            "request": inner,
        }


class Server:
    """The language server."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._turns: dict[str, Turn] = {}
        self._lock = threading.Lock()

    def say(self, **members: object) -> None:
        """Write one line."""
        with self._lock:
            sys.stdout.write(json.dumps(members) + "\n")
            sys.stdout.flush()

    def start(self) -> None:
        """Make the calls of a start, until they succeed; then say which models there are."""
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                self._call("loadCodeAssist", {"metadata": {"ideType": "WIREMETER_SIMULATED"}})
                self._call("fetchUserInfo", {"project": "wiremeter-simulated"})
                offered = self._call("fetchAvailableModels", {"project": "wiremeter-simulated"})
                break
            except (ProviderError, ValueError) as error:
                self.say(say="waiting", detail=str(error))
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, _RETRY_MAX_S)
        models = [{"id": name, "name": model["displayName"]} for name, model in offered["models"].items()]
        self.say(say="ready", models=models)

    def _call(self, method: str, body: dict[str, Any]) -> Any:
        return json.loads(b"".join(self._provider.post(method, body)))

    def read(self) -> None:
        """Take orders until the input ends."""
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "answer":
                turn = Turn(order)
                self._turns[turn.id] = turn
                threading.Thread(target=self._answer, args=(turn,), daemon=True).start()
            elif order["do"] == "cancel" and order["turn"] in self._turns:
                self._turns[order["turn"]].cancel()

    def _answer(self, turn: Turn) -> None:
        try:
            stop_reason, first = self._stream(turn, turn.model, turn.messages, 0, aloud=True)
            title = [("user", f"Name this conversation: {turn.messages[-1][1][:200]}")]
            second = self._stream(turn, CHECKPOINT_MODEL, title, 1, aloud=False)[1]
            self.say(say="done", turn=turn.id, stop_reason=stop_reason, response_ids=[first, second])
        except (ProviderError, ValueError) as error:
            if turn.cancelled:
                self.say(say="cancelled", turn=turn.id)
                return
            status = error.status if isinstance(error, ProviderError) else None
            kind = _KIND_BY_STATUS.get(status or 0, "upstream")
            self.say(say="failed", turn=turn.id, kind=kind, message=str(error), status=status)
        finally:
            self._turns.pop(turn.id, None)

    def _stream(
        self, turn: Turn, model: str, messages: list[tuple[str, str]], step: int, aloud: bool
    ) -> tuple[str, str]:
        body = turn.request(model, messages, step)
        response_id, finish = "", ""
        for event in events(self._provider.post("streamGenerateContent?alt=sse", body, turn)):
            response = event["response"]
            response_id = response["responseId"]
            candidate = response["candidates"][0]
            finish = candidate.get("finishReason", finish)
            for part in candidate["content"]["parts"] if aloud else []:
                self.say(say="thinking" if part.get("thought") else "text", turn=turn.id, text=part["text"])
        if turn.cancelled or not finish:
            raise ProviderError("the simulated provider broke off")
        return ("length" if finish == "MAX_TOKENS" else "end"), response_id


def main() -> int:
    """Serve until the input ends."""
    server = Server(Provider(dict(os.environ)))
    # The end of the input must be seen while the start waits for the provider.
    threading.Thread(target=server.start, daemon=True).start()
    server.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
