"""Where messages begin and end is followed however they are cut, and the observer is told what passes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mitm.exchange import Exchange
from services.mitm.observation import Abort
from services.mitm.outbox import restored
from services.wire.http1 import HttpInvalid, ResponseHead, read_request_head
from services.wire.usual_head import usual_response_head
from tests.support.mitm import get, post
from tests.support.observing import Observing

HOST = "api.anthropic.com"
HEAD_BYTES_MAX = 4096
BODY = b'{"model": "claude-x"}'
ANSWER = b'{"id": "msg_1", "type": "message", "model": "claude-x-2", "usage": {"input_tokens": 25, "output_tokens": 9}}'
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)


class Passing:
    """An exchange that is fed bytes, as the relay feeds it."""

    def __init__(self, request: bytes, host: str = HOST) -> None:
        self.around = Observing()
        self.exchange = Exchange()
        head = request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        observation = self.around.observe(host, head, 10.0)
        data = bytearray(request)
        self.request_end = self.exchange.begin(
            read_request_head(head), observation, data, memoryview(data), len(head), len(data)
        )

    def begin_response(self, piece: bytes, now: float = 11.0) -> tuple[int, bytes]:
        """Begin with what was kept and `piece`; return how far that may be forwarded, and all of it."""
        data: bytearray | None = bytearray(piece)
        if self.exchange.response_ahead:
            data = self.exchange.head_continued(memoryview(piece), HEAD_BYTES_MAX)
            if data is None:
                return 0, b""
        assert data is not None
        return self.exchange.begin_response(data, memoryview(data), len(data), HEAD_BYTES_MAX, now), bytes(data)

    def follow_request(self, piece: bytes) -> int:
        """Follow the rest of the request's body."""
        data = bytearray(piece)
        return self.exchange.follow_request(data, memoryview(data), 0, len(data))

    def follow(self, piece: bytes, now: float = 11.0) -> int:
        """Follow the body of the response."""
        data = bytearray(piece)
        return self.exchange.follow_response(data, memoryview(data), 0, len(data), now)

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.around.outbox.records


@given(cut=st.integers(0, len(INTERIM * 2 + FINAL)))
def test_heads_may_be_cut_anywhere(cut: int) -> None:
    """Interim ones are passed over, the final one is found, and where its body begins."""
    heads = INTERIM * 2 + FINAL
    passing = Passing(post(HOST, BODY))
    end, _ = passing.begin_response(heads[:cut])
    assert end == (cut if cut == len(heads) else len(INTERIM) * min(2, cut // len(INTERIM)))
    if passing.exchange.response is None:
        assert heads[:cut].endswith(passing.exchange.response_ahead)
        end, data = passing.begin_response(heads[cut:] + ANSWER)
        assert data[:end].endswith(FINAL + ANSWER)
    assert passing.exchange.response is not None and passing.exchange.response.status == 200


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_a_head_that_drips_in_is_read_once(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """Not at each piece from its start."""
    heads, looks = INTERIM + FINAL, []

    def look(data: bytearray, size: int, bytes_max: int) -> tuple[ResponseHead, int] | None:
        looks.append(size)
        return usual_response_head(data, size, bytes_max)

    monkeypatch.setattr("services.mitm.exchange.usual_response_head", look)
    passing = Passing(post(HOST, BODY))
    for start in range(0, len(heads), pieces):
        passing.begin_response(heads[start : start + pieces])
    assert passing.exchange.response is not None
    # The first piece, and each head where it ends.
    assert len(looks) <= 4


def test_a_head_without_an_end_has_a_limit() -> None:
    """However it comes."""
    passing = Passing(post(HOST, BODY))
    with pytest.raises(HttpInvalid, match=f"exceeds {HEAD_BYTES_MAX} bytes"):
        passing.begin_response(b"HTTP/1.1 200 OK\r\nx: ")
        for _ in range(HEAD_BYTES_MAX):
            passing.begin_response(b"x")


def test_an_exchange_ends_with_its_record() -> None:
    """Written when the last byte is there, before it is forwarded; what lies behind is another message's."""
    passing = Passing(post(HOST, BODY))
    assert passing.request_end == len(post(HOST, BODY))
    passing.begin_response(FINAL, 10.5)
    assert passing.follow(ANSWER[:50]) == 50
    assert passing.records == []
    assert passing.follow(ANSWER[50:] + b"HTTP/1.1 ") == len(ANSWER) - 50
    assert passing.exchange.response_body.done
    [record] = passing.records
    assert (record["request_model"], record["usage"]["input_tokens"]) == ("claude-x", 25)
    assert record["bytes"] == {"up": len(BODY), "down": len(ANSWER)}


@pytest.mark.parametrize("cut", [len(ANSWER), 50], ids=["whole", "in two"])
def test_counts_that_come_with_the_end_are_journaled_with_it(cut: int) -> None:
    """The record has them: an entry of their own would say nothing more."""
    passing = Passing(post(HOST, BODY))
    passing.begin_response(FINAL + ANSWER[:cut])
    if cut < len(ANSWER):
        passing.follow(ANSWER[cut:])
    entries = passing.around.outbox.entries
    assert [kind for kind, _, _ in entries] == ["start", "progress", "finish"]
    assert "usage" not in entries[1][2] and entries[2][2][0]["usage"]["output_tokens"] == 9


@pytest.mark.parametrize(
    "heads",
    [b"HTTP/1.1 200 OK\nx: y\r\n\r\n", b"x" * (HEAD_BYTES_MAX + 1), INTERIM + b"x" * (HEAD_BYTES_MAX + 1)],
    ids=["malformed", "endless", "endless behind an interim one"],
)
def test_nonsense_is_named(heads: bytes) -> None:
    """The relay decides what the client is told."""
    with pytest.raises(HttpInvalid):
        Passing(get(HOST)).begin_response(heads)


def test_a_malformed_body_is_named() -> None:
    """A request's, too."""
    with pytest.raises(HttpInvalid):
        Passing(get(HOST, "/v1/messages", "Transfer-Encoding: chunked", method="POST") + b"nonsense\r\n")


@pytest.mark.parametrize("target", ["/v1/messages", "/unknown", "/v1/models"], ids=["read", "unread", "counted"])
@given(
    request_cut=st.integers(0, len(BODY) + 1),
    response_cut=st.integers(0, len(ANSWER) + 1),
    behind=st.sampled_from([b"", b"GET / HTTP/1.1\r\n"]),
)
def test_a_body_that_comes_whole_is_followed_as_any_other(
    target: str, request_cut: int, response_cut: int, behind: bytes
) -> None:
    """Whatever was there with the head, the same is told and the same end is found; what lies behind is left alone."""
    written = []
    for request_first, response_first in ((len(BODY), len(ANSWER)), (request_cut, response_cut)):
        request = post(HOST, BODY, target) + behind
        head_end = len(request) - len(BODY + behind)
        first = request[: head_end + request_first] if request_first < len(BODY) else request
        passing = Passing(first)
        assert passing.request_end == min(len(first), len(request) - len(behind))
        if request_first < len(BODY):
            assert not passing.exchange.request_body.done
            assert passing.follow_request(request[len(first) :]) == len(BODY) - request_first
        assert passing.exchange.request_body.done
        if response_first < len(ANSWER):
            assert passing.begin_response(FINAL + ANSWER[:response_first])[0] == len(FINAL) + response_first
            assert not passing.exchange.response_body.done
            assert passing.follow(ANSWER[response_first:] + behind) == len(ANSWER) - response_first
        else:
            assert passing.begin_response(FINAL + ANSWER + behind)[0] == len(FINAL + ANSWER)
        assert passing.exchange.response_body.done
        written.append(passing.around.outbox.entries)
    assert written[0] == written[1]


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@given(cuts=st.lists(st.integers(1, len(ANSWER) - 1), max_size=6))
def test_chunks_that_come_alone_are_followed_as_any_others(cuts: list[int]) -> None:
    """Whoever follows them, the record is the same; what is no single chunk is left alone."""
    edges = [0, *sorted(set(cuts)), len(ANSWER)]
    pieces = [chunk(ANSWER[first:last]) for first, last in zip(edges, edges[1:], strict=False)]
    records = []
    for follow_alone in (False, True):
        passing = Passing(post(HOST, BODY))
        passing.begin_response(CHUNKED)
        follow = passing.exchange.chunk_follower()
        assert follow is not None
        for piece in pieces:
            assert not follow(piece[:-1])
            if not follow_alone:
                assert passing.follow(piece) == len(piece)
            else:
                assert follow(piece)
        last = b"0\r\n\r\n"
        assert not follow(last)
        passing.follow(last, 12.0)
        [record] = passing.records
        assert record["bytes"]["down"] == len(ANSWER)
        records.append({name: value for name, value in record.items() if name not in ("event_id", "exchange_id")})
    assert records[0] == records[1]
    assert records[0]["usage"]["output_tokens"] == 9


STREAM_HEAD = CHUNKED.replace(b"application/json", b"text/event-stream")
STREAMS = {
    ("generativelanguage.googleapis.com", "/v1beta/models/m:streamGenerateContent?alt=sse"): [
        '{"candidates":[{}],"usageMetadata":{"totalTokenCount":%d},"modelVersion":"m","responseId":"r"}',
        '{"candidates":[{}],"usageMetadata":{"promptTokenCount":%d,"totalTokenCount":9,"promptTokensDetails":[{"modality":1,"tokenCount":2}]}}',
        '{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"totalTokenCount":%d}}',
        '{"error":{"code":%d}}',
    ],
    ("api.openai.com", "/v1/chat/completions"): [
        '{"id":"r","model":"m","choices":[{"index":%d,"finish_reason":null}],"usage":null}',
        '{"id":"r","model":"m","choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":2}}',
        '{"id":"r","choices":[{"index":%d,"finish_reason":"stop"}]}',
        "[DONE]%.0d",
    ],
    (HOST, "/v1/messages"): [
        '{"type":"message_start","message":{"model":"m","usage":{"input_tokens":%d,"output_tokens":1}}}',
        '{"type":"content_block_delta","index":%d}',
        '{"type":"message_delta","usage":{"output_tokens":%d}}',
        '{"type":"message_stop"}%.0d',
    ],
    ("api.openai.com", "/v1/responses"): [
        '{"type":"response.output_text.delta","delta":"%d"}',
        '{"type":"response.completed","response":{"model":"m","usage":{"input_tokens":%d,"output_tokens":1}}}',
    ],
}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: str(stream[1]))
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from(["", "", "", "with the next", "in two"]))),
    st.sampled_from(["data: {}\n\n", "event: e\r\ndata: {}\r\n\r\n", "data: {{\ndata: {}\n\n", "data: {}{{\n\n"]),
)
def test_a_stream_whose_events_come_alone_is_read_as_any_other(
    stream: tuple[str, str], coming: list[tuple[int, int, str]], odd: str
) -> None:
    """Entry for entry, once what was journaled as it was said is made counts; the last event of all is an odd one."""
    host, target = stream
    events = [(STREAMS[stream][kind % len(STREAMS[stream])] % number, how) for kind, number, how in coming]
    pieces = [b""]
    for text, how in events:
        content = f"data: {text}\n\n".encode()
        if how == "in two":
            pieces += [chunk(content[:9]), chunk(content[9:]), b""]
        else:
            pieces[-1] += chunk(content)
            pieces += [b""] if not how else []
    pieces.append(chunk(odd.format("{}").encode()))
    told: list[list[object]] = []
    for alone in (False, True):
        passing = Passing(post(host, BODY, target), host)
        passing.begin_response(STREAM_HEAD)
        follow = passing.exchange.chunk_follower()
        assert follow is not None
        for piece in filter(None, pieces):
            if not alone or not follow(piece):
                assert passing.follow(piece) == len(piece)
        passing.follow(b"0\r\n\r\n", 12.0)
        dialect = passing.records[0]["dialect"]
        told.append([])
        for kind, _, content in passing.around.outbox.entries:
            members = content if isinstance(content, dict) else content[0] | {"event_id": "", "exchange_id": ""}
            if kind != "start":
                told[-1].append((kind, restored({"dialect": dialect} | members)))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("request_", "head"), [(post(HOST, BODY), FINAL), (get(HOST, "/unknown"), CHUNKED)], ids=["length", "unread"]
)
def test_only_chunks_that_are_read_come_alone(request_: bytes, head: bytes) -> None:
    """A length tells where the end is in another way, and what nobody reads is not copied."""
    passing = Passing(request_)
    passing.begin_response(head)
    assert passing.exchange.chunk_follower() is None


@pytest.mark.parametrize("upgrade", ["websocket", "noise"])
def test_another_protocol_is_told_to_whoever_reads_it(upgrade: str) -> None:
    """A socket that nobody reads leaves one record at its end."""
    fields = (f"Upgrade: {upgrade}", "Connection: upgrade")
    passing = Passing(get(HOST, "/socket", *fields))
    passing.begin_response(f"HTTP/1.1 101 Switching Protocols\r\nupgrade: {upgrade}\r\n\r\n".encode())
    passing.exchange.upgrade(11.0, passing.around.parts)
    passing.exchange.upgraded_up(memoryview(b"up"), 11.0)
    passing.exchange.upgraded_down(memoryview(b"down"), 11.0)
    assert passing.records == []
    passing.exchange.broken(None, "it ended", 12.0)
    [record] = passing.records
    assert (record["outcome"], record["reason"]) == ("unreadable", f"upgrade to {upgrade} is not read")


def test_an_end_is_told_once() -> None:
    """Whatever the relay says behind it."""
    for end in ("broken", "refused"):
        passing = Passing(post(HOST, BODY))
        if end == "broken":
            passing.exchange.broken(Abort.CLIENT, "the client closed the connection", 11.0)
        else:
            passing.exchange.refused(502, "upstream_dns", "no such host", 11.0)
        passing.exchange.broken(Abort.PROXY, "the proxy stopped", 12.0)
        [record] = passing.records
        assert record["outcome"] == ("truncated" if end == "broken" else "error")
    Exchange().broken(Abort.PROXY, "nothing was under way", 1.0)
    Exchange().refused(400, "request_invalid", "no head", 1.0)
