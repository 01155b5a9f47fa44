"""Questions to frontproxy."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.cli.upstream import Api, ApiRefused, ApiUnreachable
from tests.support.checkout import free_ports


class Answers(BaseHTTPRequestHandler):
    """Answers every path with what the table says."""

    table: dict[str, tuple[int, bytes]] = {}

    def do_GET(self) -> None:
        status, body = self.table[self.path]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Api(server.server_port)
        server.shutdown()
        thread.join()


def test_models_are_listed_by_id(api: Api) -> None:
    """In the order in which they are offered."""
    Answers.table = {"/v1/models": (200, b'{"data": [{"id": "a"}, {"id": "b"}]}')}
    assert api.models() == ["a", "b"]


def test_a_refusal_is_told_in_the_words_of_the_server(api: Api) -> None:
    """OpenAI's error shape, or whatever is there."""
    Answers.table = {
        "/v1/chat/completions": (403, b'{"error": {"message": "read the terms"}}'),
        "/v1/usage": (500, b"{}"),
    }
    with pytest.raises(ApiRefused, match="read the terms") as refused:
        api.ask("a", "?", 5)
    assert refused.value.status == 403
    with pytest.raises(ApiRefused, match="GET /v1/usage was answered with status 500"):
        api.usage()


def test_health_is_an_answer_whatever_its_status(api: Api) -> None:
    """503 means that something is missing, and the body says what."""
    Answers.table = {"/health": (503, b'{"missing": ["x"]}')}
    assert api.health() == {"missing": ["x"]}


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b""])
def test_another_program_on_the_port_is_no_answer(api: Api, body: bytes) -> None:
    """Not JSON, or not an object."""
    Answers.table = {"/health": (200, body)}
    with pytest.raises(ApiUnreachable):
        api.health()


def test_nobody_on_the_port_is_no_answer() -> None:
    """With the address that was asked."""
    (port,) = free_ports(1)
    with pytest.raises(ApiUnreachable, match=f"http://127.0.0.1:{port}/health"):
        Api(port).health()
