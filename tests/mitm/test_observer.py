"""What passes becomes records, journaled in the right order; and a reader that fails stops nothing."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import services.mitm.observer as observer_module
from services.mitm.records import draft_record
from tests.support.mitm import Mitm, post, response
from tests.support.observing import Observing
from tests.support.raw_upstream import answering, server_context
from tests.support.tls_end import WAIT_S, TlsEnd, unread_bytes

REQUEST = b'{"model": "claude-x", "stream": true}'
MESSAGE_START = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x-2",'
    b' "usage": {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 1}}}\n\n'
)
TEXT = (
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta",'
    b' "text": "secret words"}}\n\n'
)
MESSAGE_DELTA = (
    b'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "end_turn"},'
    b' "usage": {"output_tokens": 9}}\n\n'
)
EVENTS = [MESSAGE_START, TEXT, MESSAGE_DELTA, b'event: message_stop\ndata: {"type": "message_stop"}\n\n']
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = HEAD + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n"


def piecewise(link: TlsEnd) -> None:
    """Answer requests with the stream, an event at a time."""
    while True:
        if not (head := link.receive()):
            return
        while not head.endswith(REQUEST):
            head += link.receive()
        link.send(HEAD, *map(chunk, EVENTS), b"0\r\n\r\n")


def asked(proxy: Mitm, host: str, expected: bytes = STREAM) -> None:
    """Make the exchange; the client must get exactly the bytes that upstream sent."""
    with proxy.client(host) as client:
        client.send(post(host, REQUEST))
        assert client.read(len(expected)) == expected
        client.close()


def test_a_record_says_what_it_was(proxy: Mitm) -> None:
    """Counts, names, times, bytes without framing, and who."""
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    [record] = proxy.outbox.of(host)
    timing = record.pop("timing")
    assert 0 <= timing["first_byte_ms"] <= timing["duration_ms"] < 10_000
    assert timing["started_at"] <= record["at"]
    assert record["event_id"] == record["exchange_id"] and len(record["event_id"]) == 26
    client = record.pop("client")
    assert (client["uid"], client["pid"], client["cwd"]) == (os.getuid(), os.getpid(), os.getcwd())
    expected = {
        "schema": "wiremeter.usage/1",
        "dialect": "anthropic-messages",
        "operation": "chat",
        "host": host,
        "request_model": "claude-x",
        "response_model": "claude-x-2",
        "model": "claude-x-2",
        "response_id": "msg_1",
        "outcome": "ok",
        "reason": None,
        "aborted_by": None,
        "finish_reasons": ["end_turn"],
        "http_status": 200,
        "error_type": None,
        "usage": {"input_tokens": 125, "cache_read_input_tokens": 100, "output_tokens": 9},
        "bytes": {"up": len(REQUEST), "down": sum(map(len, EVENTS))},
    }
    assert {name: record[name] for name in expected} == expected


def test_counts_in_a_head_are_journaled_before_it_leaves(proxy: Mitm) -> None:
    """Bedrock reports in headers what the bodies of some vendors do not say."""
    counts = ("x-amzn-bedrock-input-token-count: 12", "x-amzn-bedrock-output-token-count: 28", "x-amzn-requestid: id")
    answer = response("200 OK", b'{"outputs":[{"text":"x","stop_reason":"stop"}]}', *counts)
    host = proxy.upstream(answering(answer))
    with proxy.client(host) as client:
        client.send(post(host, b"{}", "/model/mistral.m/invoke"))
        assert client.read(len(answer)) == answer
        client.close()
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["response_id"], record["model"]) == ("ok", "id", "mistral.m")
    assert record["usage"] == {"input_tokens": 12, "output_tokens": 28}
    written = [content for _, exchange, content in proxy.outbox.entries if exchange == record["exchange_id"]]
    assert [content["usage"] for content in written[1:-1] if "usage" in content][:1] == [record["usage"]]


def test_no_content_reaches_a_record_or_a_log(proxy: Mitm) -> None:
    """Prompts and answers are nobody's."""
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    record = proxy.outbox.of(host)
    assert "secret words" not in json.dumps(record) + json.dumps(proxy._sink.lines)


def test_what_is_journaled_is_journaled_before_the_bytes_leave(proxy: Mitm) -> None:
    """The draft before the request, changed counts before the event that carries them, the end before the last byte."""
    pieces = [HEAD, *map(chunk, EVENTS), b"0\r\n\r\n"]
    read_on = threading.Semaphore(len(pieces))

    def script(link: TlsEnd) -> None:
        for _ in range(2):
            link.read(len(request))
            for piece in pieces:
                assert read_on.acquire(timeout=WAIT_S)
                link.send(piece)
        link.wait_gone()

    host = proxy.upstream(script)
    request = post(host, REQUEST)
    with proxy.client(host) as client:
        # The first exchange makes the connections: from then on bytes that leave can be seen on their sockets.
        client.send(request)
        client.read(len(STREAM))
        proxy.outbox.of(host)
        [link] = proxy.last_upstream.links
        seen: list[tuple[str, int, int]] = []
        proxy.outbox.on_write = lambda kind, _: seen.append((kind, unread_bytes(link.sock), unread_bytes(client.sock)))
        before = len(proxy.outbox.entries)
        client.send(request)
        for piece in pieces:
            read_on.release()
            assert client.read(len(piece)) == piece
        proxy.outbox.of(host, 2)
        proxy.outbox.on_write = lambda kind, content: None
    # Whenever something is journaled, nothing of what it is about has arrived at the other side.
    assert seen == [(kind, 0, 0) for kind in ("start", "progress", "progress", "progress", "finish")]
    start, asked, first, last, finish = [content for _, _, content in proxy.outbox.entries[before:]]
    assert (start["outcome"], start["aborted_by"]) == ("truncated", "proxy")
    assert start["reason"] == "the proxy was killed in the middle of it"
    assert asked["request_model"] == "claude-x"
    assert first["usage"] == {"input_tokens": 125, "cache_read_input_tokens": 100, "output_tokens": 1}
    assert last["usage"]["output_tokens"] == 9
    assert finish[0]["usage"] == last["usage"]
    assert len({exchange_id for _, exchange_id, _ in proxy.outbox.entries[before:]}) == 1


def test_a_start_without_an_end_is_a_whole_record(proxy: Mitm) -> None:
    """What a crash leaves behind must be readable as the record of a truncated exchange."""
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    [record] = proxy.outbox.of(host)
    draft = next(c for k, i, c in proxy.outbox.entries if k == "start" and i == record["exchange_id"])
    assert set(draft) == set(record) and draft["event_id"] == record["event_id"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response("429 Too Many Requests", b'{"type": "error", "error": {"type": "rate_limit_error"}}'), "error"),
        (response("200 OK", b"{}", "content-type: application/json"), "no_usage"),
        (response("200 OK", b"\xff\xfe", "content-type: application/json"), "unreadable"),
        (response("200 OK", b"not gzip", "content-type: application/json", "content-encoding: gzip"), "unreadable"),
        (response("200 OK", b"{}", "content-type: application/json", "content-encoding: rot13"), "unreadable"),
    ],
    ids=["error", "silent", "no JSON", "no gzip", "unknown coding"],
)
def test_every_whole_answer_has_an_outcome(proxy: Mitm, answer: bytes, expected: str) -> None:
    """And passes unchanged, whatever can be read of it."""
    host = proxy.upstream(answering(answer))
    asked(proxy, host, answer)
    [record] = proxy.outbox.of(host)
    assert record["outcome"] == expected, record
    assert (record["reason"] is None) == (expected != "unreadable")


@pytest.mark.parametrize(
    ("path", "answer", "outcome", "error_type"),
    [
        ("/v1/messages", response("429 No", b"not gzip", "content-encoding: gzip"), "error", "429"),
        ("/v1/messages", response("503 No", b"{}", "content-encoding: rot13"), "error", "503"),
        ("/v1/audio/speech", response("401 No", b"{}"), "error", "401"),
        ("/v1/audio/speech", response("200 OK", b"sound"), "unreadable", None),
        ("/nobody/knows", response("404 No", b"{}"), "unreadable", None),
        (
            "/v1/messages",
            response("200 OK", gzip.compress(b"{}", mtime=0)[:10], "content-encoding: gzip"),
            "unreadable",
            None,
        ),
    ],
)
def test_a_status_says_of_an_error_what_its_body_cannot(
    proxy: Mitm, path: str, answer: bytes, outcome: str, error_type: str | None
) -> None:
    """Of a call of a model; what nobody knows stays unknown. A coding cut before its first byte is no empty body."""
    host = proxy.upstream(answering(answer))
    with proxy.client(host) as client:
        client.send(post(host, REQUEST, path))
        assert client.read(len(answer)) == answer
        client.close()
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["error_type"], record["usage"]) == (outcome, error_type, {})
    assert record["reason"] or path == "/v1/audio/speech"


def test_a_client_that_asks_again_leaves_a_record_each_time(proxy: Mitm) -> None:
    """A retry is a request like any other, whatever became of the first."""
    refusal = response("529 Overloaded", b'{"type":"error","error":{"type":"overloaded_error"}}')
    whole = response("200 OK", b"".join(EVENTS), "content-type: text/event-stream")

    def script(link: TlsEnd) -> None:
        for answer in (refusal, whole):
            link.read(len(request))
            link.send(answer)
        link.wait_gone()

    host = proxy.upstream(script)
    request = post(host, REQUEST)
    with proxy.client(host) as client:
        for answer in (refusal, whole):
            client.send(request)
            assert client.read(len(answer)) == answer
        client.close()
    first, second = proxy.outbox.of(host, 2)
    assert (first["outcome"], first["error_type"], first["usage"]) == ("error", "529", {})
    assert (second["outcome"], second["usage"]["output_tokens"]) == ("ok", 9)
    assert first["exchange_id"] != second["exchange_id"]


def test_other_endpoints_are_counted_by_name(proxy: Mitm) -> None:
    """Neither usage nor content."""
    host = "cloudcode-pa.googleapis.com"
    proxy.upstream(answering(response(body=b"{}")), host=host, context=server_context(host))
    with proxy.client(host) as client:
        client.send(post(host, b"{}", "/v1internal:fetchUserInfo"))
        client.read_head()
    [record] = proxy.outbox.of(host)
    assert (record["schema"], record["endpoint"], record["http_status"]) == (
        "wiremeter.exchange/1",
        "fetchUserInfo",
        200,
    )
    assert record["bytes"] == {"up": 2, "down": 2}


# -- a reader that fails -------------------------------------------------------


class _Failing:
    """A reader whose every method raises what no reader should."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __getattr__(self, name: str) -> Any:
        def method(*_: object, **__: object) -> object:
            if name == self._where:
                raise RuntimeError(f"{name} failed")
            return {"feed": True, "counts": {"input_tokens": 1 << 80 if self._where == "json" else 1}}.get(name)

        return method


@pytest.fixture(params=["feed", "end", "counts", "response_model", "json"])
def failing_response(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(observer_module, "response_reader", lambda *_, **__: _Failing(request.param))
    yield request.param


def failures(proxy: Mitm) -> list[dict[str, Any]]:
    """Take the logged failures out of the log."""
    found = proxy.logged("observation.failed")
    proxy._sink.lines = [line for line in proxy._sink.lines if line["event"] != "observation.failed"]
    return found


def test_a_reader_that_fails_leaves_the_traffic_alone(proxy: Mitm, failing_response: str) -> None:
    """The record says `unreadable`, the log has the traceback."""
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    asked(proxy, host)
    records = proxy.outbox.of(host, 2)
    assert len(records) == 2
    assert {(record["outcome"], record["reason"]) for record in records} == {
        ("unreadable", "internal error, see the log")
    }
    assert all("Traceback" in line["traceback"] and line["exchange"] for line in failures(proxy))
    proxy.no_errors()


@pytest.mark.parametrize("where", ["response_reader", "recognise", "request_reader"])
def test_a_recogniser_that_fails_leaves_the_traffic_alone(
    proxy: Mitm, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one step before."""

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("failed")

    monkeypatch.setattr(observer_module, where, fail)
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["reason"]) == ("unreadable", "internal error, see the log")
    assert failures(proxy)


@pytest.mark.parametrize("where", ["feed", "facts"])
def test_a_request_reader_that_fails_leaves_the_traffic_alone(
    proxy: Mitm, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same in the other direction."""
    monkeypatch.setattr(observer_module, "request_reader", lambda *_: _Failing(where))
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    assert len(proxy.outbox.of(host)) == 1
    assert failures(proxy)


def test_an_outbox_that_fails_leaves_the_traffic_alone(proxy: Mitm) -> None:
    """Whatever happens to the journal."""

    def fail(kind: str, content: Any) -> None:
        raise OSError("disk")

    proxy.outbox.on_write = fail
    host = proxy.upstream(piecewise)
    asked(proxy, host)
    proxy.outbox.on_write = lambda kind, content: None
    assert failures(proxy)


def test_a_working_directory_that_is_not_unicode_does_not_matter(proxy: Mitm, tmp_path: Path) -> None:
    """A record is JSON, and a path need not be UTF-8."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    host = proxy.upstream(answering(response(body=b"hello")))
    program = (
        "import socket,ssl,sys\n"
        "port,host,ca=sys.argv[1:]\n"
        "sock=ssl.create_default_context(cafile=ca).wrap_socket(\n"
        "    socket.create_connection(('127.0.0.1',int(port)),timeout=10),server_hostname=host)\n"
        "sock.sendall(b'GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n')\n"
        "data=b''\n"
        "while not data.endswith(b'hello'): data+=sock.recv(1000)\n"
    )
    command = [sys.executable, "-c", program, str(proxy.port), host, str(proxy.config.trust_bundle)]
    subprocess.run(command, cwd=folder, check=True, timeout=20)
    [record] = proxy.outbox.of(host)
    assert record["client"]["cwd"].endswith("/caf\ufffd")


def test_only_names_that_a_model_can_have_are_remembered() -> None:
    """A path may be as long as a head: some hundred of those would be kept for good."""
    draft_record.cache_clear()
    observing, known = Observing(), []
    for name in ("gemini-of-this-test", "m" * 10_000):
        head = f"POST /v1beta/models/{name}:streamGenerateContent HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        for _ in range(2):
            observing.observe("generativelanguage.googleapis.com", head, 0.0)
            known.append(draft_record.cache_info().currsize)
    assert known == [1, 1, 1, 1]
    assert [each["request_model"] for each in observing.drafts().values()] == ["gemini-of-this-test"] * 2 + [
        "m" * 10_000
    ] * 2
