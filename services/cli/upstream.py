"""
frontproxy's HTTP API, as the `wiremeter` command asks it.

http.client rather than urllib: proxies that the environment names are for other hosts.
"""

import contextlib
import http.client
import json
from collections.abc import Mapping
from typing import Any

# Of every question but a prompt: they are answered from memory or from the ledger.
ANSWER_TIMEOUT_S = 5.0


class ApiUnreachable(Exception):
    """Nobody answers on frontproxy's port, or not HTTP."""


class ApiRefused(Exception):
    """frontproxy answered with an error; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Questions to the frontproxy of one port."""

    def __init__(self, port: int) -> None:
        self._port = port

    def health(self) -> dict[str, Any]:
        """Return `GET /health`, whatever its status says."""
        return self._ask("GET", "/health", timeout_s=ANSWER_TIMEOUT_S)[1]

    def models(self) -> list[str]:
        """Return the ids of the models offered."""
        return [model["id"] for model in self._answer("GET", "/v1/models")["data"]]

    def usage(self) -> dict[str, Any]:
        """Return the usage report over all time."""
        return self._answer("GET", "/v1/usage")

    def ask(self, model: str, prompt: str, timeout_s: float) -> dict[str, Any]:
        """Send one prompt; return the chat completion."""
        question = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        return self._answer("POST", "/v1/chat/completions", question, timeout_s=timeout_s)

    def _answer(
        self, method: str, path: str, body: Mapping[str, object] | None = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        status, answer = self._ask(method, path, body, timeout_s=timeout_s)
        if status != 200:
            error = answer.get("error")
            message = error.get("message") if isinstance(error, dict) else error
            raise ApiRefused(status, str(message or f"{method} {path} was answered with status {status}"))
        return answer

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float
    ) -> tuple[int, dict[str, Any]]:
        """
        Ask once.

        Raises:
            ApiUnreachable: No connection, no answer in time, or one that is not a JSON object.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        with contextlib.closing(connection):
            try:
                headers = {"Content-Type": "application/json", "Host": f"127.0.0.1:{self._port}"}
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ApiUnreachable(f"http://127.0.0.1:{self._port}{path}: {error}") from error
        if not isinstance(answer, dict):
            raise ApiUnreachable(f"http://127.0.0.1:{self._port}{path} answers with something else than an object")
        return response.status, answer
