"""A WebSocket passes byte for byte, and each response on it leaves one record, before its last bytes leave."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from services.dialects import openai_responses
from services.mitm.observation import Abort
from services.mitm.socket_observation import SocketObservation, observe_socket
from services.wire.http1 import read_response_head
from tests.support.eventually import eventually
from tests.support.fixtures import Fixture, fixtures
from tests.support.mitm import Mitm, get
from tests.support.observing import Observing
from tests.support.raw_upstream import Script
from tests.support.splits import CUTS, cut_at
from tests.support.tls_end import CLOSE_NOTIFY, RESET, TlsEnd, unread_bytes

HOST = "api.openai.com"
FIELDS = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13")
DEFLATED = "permessage-deflate; server_max_window_bits=12"


def asking(model: str, **more: object) -> dict[str, object]:
    """Return the message that asks for a response."""
    return {"type": "response.create", "model": model, "input": [], **more}


def created(name: str, model: str = "m-1") -> dict[str, object]:
    """Return the first message of a response."""
    return {"type": "response.created", "response": {"id": name, "status": "in_progress", "model": model}}


def completed(name: str, model: str = "m-1", tokens: tuple[int, int] = (10, 5)) -> dict[str, object]:
    """Return the last message of a response."""
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    response = {"id": name, "status": "completed", "model": model, "usage": usage, "object": "response"}
    return {"type": "response.completed", "response": response}


class Speaker:
    """One side of a WebSocket: JSON to frames, by wsproto."""

    def __init__(self, *, is_client: bool, extensions: str = "") -> None:
        self._frames = FrameProtocol(client=is_client, extensions=_extension(extensions, is_client=is_client))

    def say(self, message: object, fragments: int = 1) -> bytes:
        """Write one message."""
        text = orjson.dumps(message).decode()
        size = max(1, -(-len(text) // fragments))
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        return b"".join(self._frames.send_data(piece, fin=n == len(pieces) - 1) for n, piece in enumerate(pieces))

    def close(self) -> bytes:
        """Write a close frame."""
        return self._frames.close(1000)


def _extension(extensions: str, *, is_client: bool) -> list[Any]:
    if not extensions:
        return []
    deflate = PerMessageDeflate()
    if is_client:
        deflate.finalize(extensions)
    else:
        deflate.accept(extensions)
    return [deflate]


def switching(extensions: str = "") -> bytes:
    """Write the response that opens the connection."""
    agreed = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    return f"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: upgrade\r\n{agreed}\r\n".encode()


# -- in memory -----------------------------------------------------------------------------------------------------


@dataclass
class Socket:
    """An observed connection without sockets; the clock stands until it is set."""

    path: str = "/v1/responses"
    extensions: str = ""
    now: float = 100.0
    bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        self.around = Observing(decoded_bytes_max=self.bytes_max)
        self.outbox = self.around.outbox
        self.observation = self.around.observe(HOST, get(HOST, self.path, *FIELDS), self.now)
        response = read_response_head(switching(self.extensions), request_method="GET")
        self.socket = observe_socket(self.observation, response, self.now, self.around.parts)
        self.client = Speaker(is_client=True)
        self.server = Speaker(is_client=False)

    @property
    def observed(self) -> SocketObservation:
        assert self.socket is not None
        return self.socket

    def ask(self, *messages: object) -> None:
        """The client sends messages."""
        for message in messages:
            self.observed.from_client(memoryview(self.client.say(message)), self.now)

    def answer(self, *messages: object) -> None:
        """The server sends messages."""
        for message in messages:
            self.observed.from_server(memoryview(self.server.say(message)), self.now)

    def end(self, by: Abort | None = None) -> None:
        """The connection is over."""
        self.observed.broken(by, "it broke", self.now)

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.outbox.records

    def drafts(self) -> dict[str, dict[str, Any]]:
        """Return the records that would stand if the process died now."""
        return self.around.drafts()


def test_each_response_leaves_one_record() -> None:
    """They share the exchange; each has its own id, model, times, and the bytes that passed since the one before."""
    it = Socket()
    it.ask(asking("a"))
    it.now = 100.25
    it.answer(created("r1"))
    it.now = 101.0
    it.answer(completed("r1"))
    it.now = 110.0
    it.ask(asking("b"))
    it.answer(completed("r2", "m-2", (20, 7)))
    it.end()
    first, second = it.records
    assert (first["request_model"], first["response_model"], first["response_id"]) == ("a", "m-1", "r1")
    assert first["usage"] == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    assert first["timing"] == {
        "started_at": "2023-11-14T22:15:00.000000Z",
        "first_byte_ms": 250.0,
        "duration_ms": 1000.0,
    }
    assert (second["model"], second["usage"]["input_tokens"], second["timing"]["duration_ms"]) == ("m-2", 20, 0.0)
    assert first["exchange_id"] == second["exchange_id"]
    assert len({first["event_id"], second["event_id"], first["exchange_id"]}) == 3
    assert {record["http_status"] for record in it.records} == {101}
    assert {record["outcome"] for record in it.records} == {"ok"}
    sent = Speaker(is_client=True).say(asking("b")), Speaker(is_client=False).say(completed("r2", "m-2", (20, 7)))
    assert second["bytes"] == {"up": len(sent[0]), "down": len(sent[1])}
    assert it.drafts() == {}


def test_a_response_has_a_draft_from_the_message_that_asks_for_it() -> None:
    """And none stands for the connection as such: an idle one that dies with the process has used nothing."""
    it = Socket()
    assert it.drafts() == {}
    it.ask(asking("a"))
    [(key, draft)] = it.drafts().items()
    assert (draft["event_id"], draft["outcome"], draft["aborted_by"]) == (key, "truncated", "proxy")
    assert (draft["request_model"], draft["response_id"]) == ("a", None)
    it.answer(created("r1"))
    assert it.drafts()[key]["response_id"] == "r1"
    assert it.drafts()[key]["model"] == "m-1"
    it.answer(completed("r1"))
    assert it.drafts() == {}
    assert it.records[0]["event_id"] == key


def test_responses_under_way_together_end_each_for_itself() -> None:
    """By their ids, in whatever order."""
    it = Socket()
    it.ask(asking("a"), asking("b"))
    it.answer(created("r1"), created("r2", "m-2"))
    started = list(it.drafts())
    it.answer(completed("r2", "m-2", (20, 7)))
    assert list(it.drafts()) == started[:1]
    it.answer(completed("r1"))
    assert [(each["event_id"], each["request_model"]) for each in it.records] == [(started[1], "b"), (started[0], "a")]


def test_a_refused_request_is_a_record_of_its_own() -> None:
    """An error event ends it, and not the connection."""
    it = Socket()
    it.ask(asking("a", previous_response_id="gone"))
    it.answer({"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}})
    it.ask(asking("a"))
    it.answer(completed("r1"))
    it.end()
    assert [record["outcome"] for record in it.records] == ["error", "ok"]
    assert it.records[0]["error_type"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("close", "broken_by", "expected", "reason"),
    [
        (None, Abort.CLIENT, "client", "it broke"),
        (None, Abort.UPSTREAM, "upstream", "it broke"),
        (None, Abort.PROXY, "proxy", "it broke"),
        (None, None, "upstream", "it broke"),
        ("client", Abort.UPSTREAM, "client", "the client closed the WebSocket"),
        ("server", Abort.CLIENT, "upstream", "upstream closed the WebSocket"),
    ],
)
def test_a_response_that_was_begun_is_truncated(
    close: str | None, broken_by: Abort | None, expected: str, reason: str
) -> None:
    """By whoever closed first, or else broke off."""
    it = Socket()
    it.ask(asking("a"))
    it.answer(created("r1"))
    if close == "client":
        it.observed.from_client(memoryview(it.client.close()), it.now)
    elif close == "server":
        it.observed.from_server(memoryview(it.server.close()), it.now)
    it.end(broken_by)
    [record] = it.records
    assert (record["outcome"], record["aborted_by"], record["response_id"]) == ("truncated", expected, "r1")
    assert record["reason"] == reason
    assert it.drafts() == {}


@pytest.mark.parametrize("messages", [[], [asking("a", generate=False)]])
def test_a_connection_that_used_nothing_is_only_counted(messages: list[object]) -> None:
    """A warm-up is no response."""
    it = Socket()
    it.ask(*messages)
    it.answer(*[completed("r1", tokens=(0, 0)) for _ in messages])
    assert (it.records, it.drafts()) == ([], {})
    it.end()
    [counted] = it.records
    assert (counted["schema"], counted["endpoint"]) == ("wiremeter.exchange/1", "(websocket)")
    assert counted["bytes"]["up"] == sum(len(Speaker(is_client=True).say(message)) for message in messages)


CONVERSATION: list[tuple[str, object]] = [
    ("client", asking("a", generate=False)),
    ("server", completed("w", tokens=(0, 0))),
    ("client", asking("a")),
    ("server", created("r1")),
    ("server", {"type": "response.output_text.delta", "delta": "x" * 300}),
    ("server", completed("r1")),
    ("client", asking("b")),
    ("server", {"type": "response.failed", "response": {"id": "r2", "status": "failed", "error": {"code": "e"}}}),
    ("client", asking("c")),
    ("server", created("r3")),
]


@settings(deadline=None)
@given(cuts=CUTS, fragments=st.integers(1, 4), is_deflated=st.booleans())
def test_records_do_not_depend_on_how_the_frames_were_cut(cuts: list[int], fragments: int, is_deflated: bool) -> None:
    """By TCP, by TLS, or into fragments; compressed or not."""
    it = Socket(extensions=DEFLATED if is_deflated else "")
    client = Speaker(is_client=True, extensions=it.extensions)
    server = Speaker(is_client=False, extensions=it.extensions)
    for sender, message in CONVERSATION:
        speaker, read = (client, it.observed.from_client) if sender == "client" else (server, it.observed.from_server)
        for piece in cut_at(speaker.say(message, fragments), cuts):
            read(memoryview(piece), it.now)
    it.end(Abort.CLIENT)
    assert [(each["request_model"], each["outcome"]) for each in it.records] == [
        ("a", "ok"),
        ("b", "error"),
        ("c", "truncated"),
    ]


# -- what cannot be read -------------------------------------------------------------------------------------------


def test_a_broken_frame_ends_the_reading_with_one_record() -> None:
    """It names the reason and, where a request was under way, its model; what follows is not looked at."""
    it = Socket()
    it.ask(asking("a"))
    it.observed.from_server(memoryview(b"\xff\xff"), it.now)
    it.ask(asking("b"))
    it.answer(completed("r1"))
    it.end()
    [record] = it.records
    assert (record["outcome"], record["request_model"], record["operation"]) == ("unreadable", "a", "chat")
    assert record["reason"] == "frame of the server is masked"
    assert it.drafts() == {}


def test_what_came_whole_before_a_broken_frame_is_recorded() -> None:
    """In the same read, too."""
    it = Socket()
    it.ask(asking("a"))
    it.observed.from_server(memoryview(it.server.say(completed("r1")) + b"\xff\x00"), it.now)
    it.end()
    assert [record["outcome"] for record in it.records] == ["ok", "unreadable"]
    assert "opcode 0xf is not known" in it.records[1]["reason"]


def test_a_message_past_the_limit_is_unreadable() -> None:
    """The limit is the smaller of ours and the configured one."""
    it = Socket(bytes_max=500)
    it.ask(asking("a", input="x" * 600))
    it.end()
    [record] = it.records
    assert (record["outcome"], record["reason"]) == ("unreadable", "message of more than 500 bytes")


def test_an_extension_that_is_not_known_is_unreadable() -> None:
    """And the exchange's own observation says so, at the end."""
    it = Socket(extensions="x-webkit-deflate-frame")
    assert it.socket is None
    it.observation.broken(None, "", it.now)
    [record] = it.records
    assert (record["outcome"], record["http_status"]) == ("unreadable", 101)
    assert record["reason"] == "extension 'x-webkit-deflate-frame' is not read"
    assert it.drafts() == {}


def test_a_socket_that_no_dialect_reads_is_unreadable() -> None:
    """Neither zero nor silence."""
    it = Socket(path="/v1/realtime")
    assert it.socket is None
    it.observation.broken(None, "", it.now)
    [record] = it.records
    assert (record["outcome"], record["reason"]) == ("unreadable", "upgrade to WebSocket is not read")


def test_a_bug_of_ours_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged; the traffic goes on, because nothing is raised."""

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("a bug")

    for method in ("feed_client", "feed_server", "pending", "end"):
        it = Socket()
        monkeypatch.setattr(openai_responses.ResponsesSocketReader, method, fail)
        it.ask(asking("a"))
        it.answer(created("r1"))
        it.end()
        monkeypatch.undo()
        [record] = it.records
        assert (record["outcome"], record["reason"]) == ("unreadable", "internal error, see the log")
        assert it.drafts() == {}
        assert [line["event"] for line in it.around.lines if line["level"] == "error"] == ["observation.failed"]


def test_a_journal_that_fails_stops_nothing() -> None:
    """Not even when the record of the failure cannot be written."""

    def fail(kind: str, content: Any) -> None:
        raise OSError("no room")

    it = Socket()
    it.outbox.on_write = fail
    it.ask(asking("a"))
    it.answer(completed("r1"))
    it.end()
    assert it.records == []


def test_it_shows_what_is_under_way() -> None:
    """For whoever debugs a connection."""
    it = Socket()
    it.ask(asking("a"))
    assert repr(it.observed).endswith("of chat at api.openai.com>: 1 responses under way>")
    it.answer("\x00")
    it.observed.from_server(memoryview(b"\xff\xff"), it.now)
    assert repr(it.observed).endswith("not read any more>")


# -- through mitm --------------------------------------------------------------------------------------------------


def opening(proxy: Mitm, host: str, path: str = "/v1/responses") -> bytes:
    """Write the request that opens the connection."""
    return get(host, path, *FIELDS, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")


@contextlib.contextmanager
def opened(proxy: Mitm, script: Script, *, extensions: str = "", ahead: bytes = b"") -> Iterator[tuple[str, TlsEnd]]:
    """Open a WebSocket to an upstream that runs `script` behind its 101; yield the host and the client's end."""

    def served(link: TlsEnd) -> None:
        assert link.read_head() == opening(proxy, host)
        link.send(switching(extensions) + ahead)
        script(link)

    host = proxy.upstream(served)
    with proxy.client(host) as client:
        client.send(opening(proxy, host))
        assert client.read_head() == switching(extensions)
        assert client.read(len(ahead)) == ahead
        yield host, client


def flat(record: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the members of a record that recordings expect."""
    said = {name: record[name] for name in record if record[name] not in (None, [])} | record["usage"]
    return {name: value for name, value in said.items() if name in names}


@pytest.mark.parametrize("extensions", ["", "permessage-deflate", DEFLATED], ids=["plain", "deflated", "small window"])
@pytest.mark.parametrize("fixture", fixtures("openai-responses-ws"))
def test_the_ledger_gets_what_the_recording_used(proxy: Mitm, fixture: Fixture, extensions: str) -> None:
    """Recorded conversations, over real TLS: every record, and every byte as it was sent."""
    lines = [orjson.loads(line) for line in fixture.body.splitlines()]
    client_says, server_says = (Speaker(is_client=each, extensions=extensions) for each in (True, False))
    said = [
        (line["from"], (client_says if line["from"] == "client" else server_says).say(line["data"], 1 + n % 3))
        for n, line in enumerate(lines)
    ]
    said += [("client", client_says.close()), ("server", server_says.close())]

    def script(link: TlsEnd) -> None:
        for sender, data in said:
            if sender == "client":
                assert link.read(len(data)) == data
            else:
                link.send(*cut_at(data, [7, 1000, 5000]))
        link.wait_gone()

    with opened(proxy, script, extensions=extensions) as (host, client):
        for sender, data in said:
            if sender == "client":
                client.send(*cut_at(data, [3, 8, 900]))
            else:
                assert client.read(len(data)) == data
        client.close()
        expected = [fixture.record, *fixture.extra_records]
        records = proxy.outbox.of(host, len(expected))
    names = {name for record in expected for name in record} - {"provider"}  # told by the host, which is a test's
    names |= {name for record in records for name in record["usage"]}
    assert [flat(record, names) for record in records] == [
        {name: value for name, value in record.items() if name != "provider"} for record in expected
    ]
    assert {record["dialect"] for record in records} == {"openai-responses-ws"}
    # A recording has one outcome, its connection's; a response has its own.
    assert [record["outcome"] for record in records] == ["error" if "error_type" in each else "ok" for each in expected]
    assert sum(record["bytes"]["down"] for record in records) <= sum(len(data) for who, data in said if who == "server")


def test_a_record_is_journaled_before_its_last_bytes_leave(proxy: Mitm) -> None:
    """Killed in between, we have counted what the client has not got; never the other way round."""
    server, asked = Speaker(is_client=False), threading.Event()
    before, last = server.say(created("r1")), server.say(completed("r1"))
    unread: list[int] = []

    def script(link: TlsEnd) -> None:
        link.send(before)
        assert asked.wait(10)
        link.send(last)
        link.wait_gone()

    with opened(proxy, script) as (host, client):
        client.send(Speaker(is_client=True).say(asking("a")))
        assert client.read(len(before)) == before
        proxy.outbox.on_write = lambda kind, content: (
            unread.append(unread_bytes(client.sock)) if kind == "finish" else None
        )
        try:
            asked.set()
            assert client.read(len(last)) == last
        finally:
            proxy.outbox.on_write = lambda kind, content: None
        proxy.outbox.of(host)
    assert unread == [0]


def test_frames_right_behind_the_101_are_read(proxy: Mitm) -> None:
    """They come in one read with the head of the response."""
    server = Speaker(is_client=False)
    ahead = server.say({"type": "session.created"}) + server.say(created("r1")) + server.say(completed("r1"))
    with opened(proxy, lambda link: link.close(), ahead=ahead) as (host, client):
        assert client.read_to_end() == b""
        assert client.ending == CLOSE_NOTIFY
        [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["response_id"]) == ("ok", "r1")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(up=st.binary(min_size=1, max_size=3000), down=st.binary(min_size=1, max_size=3000), is_deflated=st.booleans())
def test_garbage_passes_unchanged(proxy: Mitm, up: bytes, down: bytes, is_deflated: bool) -> None:
    """Whatever the two say to each other."""

    def script(link: TlsEnd) -> None:
        assert link.read(len(up)) == up
        link.send(down)
        link.wait_gone()

    with opened(proxy, script, extensions="permessage-deflate" if is_deflated else "") as (host, client):
        client.send(up)
        assert client.read(len(down)) == down
        client.close()
        assert len(proxy.outbox.of(host)) == 1


@pytest.mark.parametrize("extensions", ["", "permessage-deflate"], ids=["plain", "deflated"])
@pytest.mark.parametrize("method", ["feed_client", "feed_server", "pending", "end"])
def test_a_reader_that_fails_leaves_the_frames_alone(
    proxy: Mitm, method: str, extensions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before the failure, with it and behind it passes identical; the record says that it happened."""

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("this reader fails")

    monkeypatch.setattr(openai_responses.ResponsesSocketReader, method, fail)
    client_says, server_says = (Speaker(is_client=each, extensions=extensions) for each in (True, False))
    turns = [
        (client_says.say(asking("a"), 2), server_says.say(created(f"r{n}")) + server_says.say(completed(f"r{n}"), 3))
        for n in range(3)
    ]

    def script(link: TlsEnd) -> None:
        for asked, answered in turns:
            assert link.read(len(asked)) == asked
            link.send(*cut_at(answered, [1, 5, 90]))
        link.wait_gone()

    with opened(proxy, script, extensions=extensions) as (host, client):
        for asked, answered in turns:
            client.send(*cut_at(asked, [1, 4, 30]))
            assert client.read(len(answered)) == answered
        client.close()
        [record] = eventually(
            "a record of the failure",
            lambda: [each for each in proxy.outbox.of(host) if each["outcome"] == "unreadable"],
        )
    assert record["reason"] == "internal error, see the log"
    assert proxy.logged("observation.failed")
    proxy._sink.lines = [line for line in proxy._sink.lines if line["event"] != "observation.failed"]


def test_traffic_goes_on_behind_a_frame_that_cannot_be_read(proxy: Mitm) -> None:
    """A megabyte each way, byte for byte, and one record."""
    noise = b"\xff\xff" + bytes(range(256)) * 4096

    def script(link: TlsEnd) -> None:
        assert link.read(len(noise)) == noise
        link.send(noise)
        link.close()

    with opened(proxy, script) as (host, client):
        client.send(noise)
        assert client.read_to_end() == noise
        assert client.ending == CLOSE_NOTIFY
        [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"]) == ("unreadable", None)


LEAVING: dict[str, tuple[Callable[[TlsEnd], None], str]] = {
    "close frame and close_notify": (TlsEnd.close, CLOSE_NOTIFY),
    "reset": (TlsEnd.reset, RESET),
    "no close_notify": (TlsEnd.drop, RESET),
}


@pytest.mark.parametrize("how", LEAVING)
def test_an_upstream_that_dies_truncates_the_response(proxy: Mitm, how: str) -> None:
    """The client sees the end as upstream made it."""
    leave, ending = LEAVING[how]
    first = Speaker(is_client=False).say(created("r1"))
    asked = Speaker(is_client=True).say(asking("a"))

    def script(link: TlsEnd) -> None:
        assert link.read(len(asked)) == asked
        link.send(first)
        leave(link)

    with opened(proxy, script) as (host, client):
        client.send(asked)
        assert client.read_to_end() == first
        assert client.ending == ending
        [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"], record["request_model"]) == ("truncated", "upstream", "a")
    assert record["reason"] == "upstream closed the connection"


@pytest.mark.parametrize("how", LEAVING)
def test_a_client_that_dies_truncates_the_response(proxy: Mitm, how: str) -> None:
    """It has aborted it."""
    leave, _ = LEAVING[how]
    first = Speaker(is_client=False).say(created("r1"))
    asked = Speaker(is_client=True).say(asking("a"))

    def script(link: TlsEnd) -> None:
        assert link.read(len(asked)) == asked
        link.send(first)
        link.wait_gone()

    with opened(proxy, script) as (host, client):
        client.send(asked)
        assert client.read(len(first)) == first
        leave(client)
        [record] = proxy.outbox.of(host)
    assert (record["outcome"], record["aborted_by"], record["response_id"]) == ("truncated", "client", "r1")
    assert record["reason"] == "the client closed the connection"
