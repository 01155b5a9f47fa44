"""
Whatever a provider answers, in whichever framing and coding, its bytes pass identical, observed or not.

Every capture, and every recording where there are some (tests/support/fixtures.py), goes through a running mitm: over
HTTP/1.1 with a length, in chunks and to the end of the connection, and over HTTP/2, in each content coding, in pieces
of one byte, of random sizes, and whole. The same again with a reader that fails in the middle.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import services.mitm.observer as observer_module
from services.dialects.recognise import ResponseReader, recognise, response_reader
from services.events.usage import COUNT_MEANING, Outcome
from services.wire.content_encoding import content_decoder
from tests.support.captures import CAPTURES, captures
from tests.support.codings import CODERS, coded
from tests.support.eventually import eventually
from tests.support.fixtures import FIXTURES, Fixture, fixtures
from tests.support.http2 import Http2Peer, Stream, serving
from tests.support.mitm import Mitm, post
from tests.support.splits import random_splits
from tests.support.tls_end import TlsEnd

BYTE_BY_BYTE_BYTES_MAX = 1024
PIECES_MAX = 400  # each is a TLS record of its own
FRAMINGS = ("length", "chunked", "close")
STACKED = "gzip of br"
CODINGS = ("", *CODERS, STACKED)
# Of captures: how a file is written, and what the wire says itself.
NO_HEADERS = frozenset({"content-type", "line-ends", "last-line", "cut", "content-encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One exchange, and what its records are to say."""

    name: str
    host: str
    target: str
    request_body: bytes
    status: int
    fields: tuple[tuple[str, str], ...]
    trailer: tuple[tuple[str, str], ...] = ()  # with one it is gRPC, and not of HTTP/1.1
    body: bytes
    expected: tuple[tuple[str, dict[str, object]], ...]  # outcome and counts of each record


def counts_in(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name in COUNT_MEANING}


def captured() -> Iterator[Any]:
    for folder in sorted(CAPTURES.iterdir()):
        for capture in captures(folder.name):
            named = {name: value for name, value in capture.headers.items() if name not in NO_HEADERS}
            transcript = Transcript(
                name=f"{folder.name}/{capture}",
                host=capture.host,
                target=capture.target,
                request_body=capture.request_body,
                status=capture.status,
                fields=(("content-type", capture.content_type), *named.items()),
                trailer=tuple(capture.trailer.items()),
                body=capture.response_body,
                expected=tuple((str(record["outcome"]), counts_in(record)) for record in capture.expected),
            )
            yield pytest.param(transcript, id=transcript.name)


def recorded() -> Iterator[Any]:
    folders = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()) if FIXTURES.is_dir() else ["none"]
    for param in fixtures(*(name for name in folders if not name.endswith("-ws"))):
        fixture: Fixture | None = param.values[0]  # type: ignore[assignment]
        yield pytest.param(_transcript_of(fixture), id=param.id) if fixture else param


def _transcript_of(fixture: Fixture) -> Transcript:
    asked = {"model": fixture.request_model, "stream": fixture.request_stream}
    main = (fixture.outcome, counts_in(fixture.record))
    return Transcript(
        name=fixture.name,
        host=fixture.host,
        target=fixture.path,
        request_body=json.dumps({name: value for name, value in asked.items() if value is not None}).encode(),
        status=fixture.status,
        fields=tuple((name, value) for name, value in fixture.headers if name.lower() != "content-encoding"),
        body=content_decoder(fixture.header("content-encoding")).feed(fixture.body),
        expected=(main, *((fixture.outcome, counts_in(record)) for record in fixture.extra_records)),
    )


TRANSCRIPTS = [*captured(), *recorded()]


@dataclass(slots=True)
class Stage:
    """
    An upstream that answers a request with what it names, and clients that ask for that.

    Attributes:
        answers: By the number in the request's field `x-answer`: fields and pieces of the answer.
    """

    proxy: Mitm
    host: str = ""
    http2_host: str = ""
    answers: dict[int, "Answer"] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def put(self, answer: "Answer") -> int:
        number = next(self.numbers)
        self.answers[number] = answer
        return number

    def records_of(self, host: str, ask: Callable[[], int]) -> list[list[dict[str, Any]]]:
        """Return the records of so many exchanges as `ask` says it made, exchange by exchange."""
        entries = self.proxy.outbox.entries
        before = len(entries)
        count = ask()

        def found() -> list[list[dict[str, Any]]] | None:
            finished = [records for kind, _, records in entries[before:] if kind == "finish"]
            exchanges = [records for records in finished if records[0]["host"] == host]
            return exchanges if len(exchanges) >= count else None

        return eventually(f"the records of {count} exchanges at {host}", found) if count else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response in pieces; `ends` with its connection or before."""

    transcript: Transcript
    coding: str
    framing: str
    body: bytes  # coded

    def fields(self) -> list[tuple[str, str]]:
        more = [("content-encoding", self.coding)] if self.coding else []
        return [*self.transcript.fields, *more]

    def pieces(self, chance: random.Random) -> list[bytes]:
        if self.framing == "bytes":
            return [self.body[n : n + 1] for n in range(len(self.body))]
        splits = [[self.body] if self.body else [], *random_splits(self.body, 4, seed=chance.randint(0, 1000))]
        return chance.choice([pieces for pieces in splits if len(pieces) <= PIECES_MAX])

    def on_the_wire(self) -> list[bytes]:
        chance = random.Random(f"{self.transcript.name}/{self.coding}/{self.framing}")
        how = {"length": f"content-length: {len(self.body)}", "close": "connection: close"}
        fields = [f"{name}: {value}" for name, value in self.fields()]
        fields.append(how.get(self.framing, "transfer-encoding: chunked"))
        head = "\r\n".join([f"HTTP/1.1 {self.transcript.status} Any", *fields, "", ""]).encode("latin-1")
        pieces = self.pieces(chance)
        if self.framing in how:
            return [head, *pieces]
        return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


def answer_of(transcript: Transcript, coding: str, framing: str) -> Answer:
    if not transcript.body:
        coding = ""  # who has nothing to say has no coding for it
    name, body = coding, transcript.body
    if coding == STACKED:
        name, body = "br, gzip", coded("gzip", coded("br", body)[1])[1]
    elif coding:
        name, body = coded(coding, body)
    return Answer(transcript=transcript, coding=name, framing=framing, body=body)


@pytest.fixture(scope="module")
def stage(proxy: Mitm) -> Stage:
    built = Stage(proxy)

    def script(link: TlsEnd) -> None:
        while link.has_more():  # mitm keeps the connection, and may close it only when it stops itself
            fields = dict(line.lower().split(b": ", 1) for line in link.read_head().split(b"\r\n")[1:-2])
            link.read(int(fields[b"content-length"]))
            answer = built.answers[int(fields[b"x-answer"])]
            link.send(*answer.on_the_wire())
            if answer.framing == "close":
                link.close()
                return

    def answer_stream(peer: Http2Peer, stream: Stream) -> None:
        answer = built.answers[int(stream.field(b"x-answer"))]
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.fields()]
        status = b"%d" % answer.transcript.status
        trailer = [(name.encode(), value.encode()) for name, value in answer.transcript.trailer]
        ended = not answer.body and not trailer
        peer.library.send_headers(stream.number, [(b":status", status), *fields], end_stream=ended)
        peer.flush()
        pieces = answer.pieces(random.Random(f"{answer.transcript.name}/{answer.coding}"))
        for number, piece in enumerate(pieces, start=1):
            peer.send_body(stream.number, piece, end=number == len(pieces) and not trailer)
        if trailer:
            peer.send_trailers(stream.number, *trailer)

    built.host = proxy.upstream(script)
    built.http2_host = proxy.http2_upstream(serving(answer_stream))
    return built


def framed(transcript: Transcript) -> list[Answer]:
    """Return the transcript in every coding, each in another framing; byte by byte last. None of gRPC."""
    if transcript.trailer:
        return []
    framings = itertools.islice(itertools.cycle(FRAMINGS), len(transcript.name) % len(FRAMINGS), None)
    answers = [answer_of(transcript, coding, framing) for coding, framing in zip(CODINGS, framings, strict=False)]
    if len(transcript.body) <= BYTE_BY_BYTE_BYTES_MAX:
        answers.append(answer_of(transcript, "", "bytes"))
    return answers


def ask_over_http1(stage: Stage, answers: list[Answer]) -> int:
    """Ask for each, over as few connections as there can be; what comes is what was sent."""
    client: TlsEnd | None = None
    try:
        for answer in answers:
            client = client or stage.proxy.client(stage.host)
            asked = answer.transcript
            client.send(post(stage.host, asked.request_body, asked.target, f"x-answer: {stage.put(answer)}"))
            expected = b"".join(answer.on_the_wire())
            assert client.read(len(expected)) == expected
            if answer.framing == "close":
                assert client.read_to_end() == b""
                client.drop()
                client = None
    finally:
        if client is not None:
            client.close()
    return len(answers)


def ask_over_http2(stage: Stage, answers: list[Answer]) -> int:
    """Ask for all at once, each on its own stream."""
    with stage.proxy.http2_client(stage.http2_host) as client:
        streams = [
            client.request(
                (b"x-answer", b"%d" % stage.put(answer)),
                path=answer.transcript.target.encode(),
                body=answer.transcript.request_body,
            )
            for answer in answers
        ]
        client.wait_over(*streams)
        for stream, answer in zip(streams, answers, strict=True):
            assert stream.ended and bytes(stream.body) == answer.body
    return len(answers)


def see_as(transcript: Transcript, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's upstream has a name of its own; the observer is to take it for the provider's."""
    monkeypatch.setattr(
        observer_module, "recognise", lambda method, _, target: recognise(method, transcript.host, target)
    )


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_every_transcript_passes_identical_and_is_counted(
    stage: Stage, transcript: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those that were sent, and the records do not depend on how."""
    see_as(transcript, monkeypatch)
    over_http2 = [answer_of(transcript, coding, "http2") for coding in CODINGS]
    exchanges = [
        *stage.records_of(stage.host, lambda: ask_over_http1(stage, framed(transcript))),
        *stage.records_of(stage.http2_host, lambda: ask_over_http2(stage, over_http2)),
    ]
    for records in exchanges:
        assert [(record["outcome"], record["usage"]) for record in records] == list(transcript.expected)


class _FailsAt:
    """A reader that raises what no reader should when it is fed for the n-th time, or at the end."""

    def __init__(self, reader: ResponseReader, when: int) -> None:
        self._reader = reader
        self._when = when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def feed(self, data: bytes) -> bool:
        self._when -= 1
        if self._when == 0:
            raise RuntimeError("this reader fails")
        return self._reader.feed(data)

    def end(self, *, complete: bool) -> object:
        raise RuntimeError("this reader fails at the end")


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_every_transcript_passes_identical_when_its_reader_fails(
    stage: Stage, transcript: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first piece, in a later one, or at the end: the traffic does not notice, and the record says it."""
    see_as(transcript, monkeypatch)
    chance = random.Random(transcript.name)
    monkeypatch.setattr(
        observer_module,
        "response_reader",
        lambda call, **how: _FailsAt(response_reader(call, **how), chance.randint(1, 9)),
    )
    over_http1, over_http2 = framed(transcript)[::2], [answer_of(transcript, "", "http2")]
    exchanges = [
        *stage.records_of(stage.host, lambda: ask_over_http1(stage, over_http1)),
        *stage.records_of(stage.http2_host, lambda: ask_over_http2(stage, over_http2)),
    ]
    for records in exchanges:
        [record] = records
        assert record["outcome"] == Outcome.UNREADABLE or (record["outcome"], transcript.status >= 400) == (
            "error",
            True,
        )
        assert record["reason"] == observer_module.INTERNAL
    forget_failures(stage.proxy)


@pytest.mark.parametrize("coding", [*CODERS, STACKED])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_coding_that_is_broken_in_the_middle_passes_identical(
    stage: Stage, coding: str, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metering ends with the reason, and keeps what came before."""
    transcript = next(param.values[0] for param in TRANSCRIPTS if param.id == "anthropic_messages/compaction")
    see_as(transcript, monkeypatch)
    whole = answer_of(transcript, coding, framing)
    half = len(whole.body) // 2
    broken = Answer(
        transcript=transcript, coding=whole.coding, framing=framing, body=whole.body[:half] + b"\xff" * half
    )
    [[record]] = stage.records_of(stage.host, lambda: ask_over_http1(stage, [broken]))
    assert record["outcome"] == Outcome.UNREADABLE and record["reason"]


@pytest.mark.parametrize("coding", [*CODERS, STACKED])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_bomb_ends_the_metering_and_not_the_traffic(
    stage: Stage, coding: str, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some kilobytes that decode to more than one piece may."""
    start = next(param.values[0] for param in TRANSCRIPTS if param.id == "anthropic_messages/gateway")
    see_as(start, monkeypatch)
    bomb = Transcript(
        name="bomb",
        host=start.host,
        target=start.target,
        request_body=start.request_body,
        status=200,
        fields=start.fields,
        body=b"data: " + bytes(40 * 1024 * 1024),
        expected=(),
    )
    [[record]] = stage.records_of(stage.host, lambda: ask_over_http1(stage, [answer_of(bomb, coding, framing)]))
    assert (record["outcome"], record["usage"]) == (Outcome.UNREADABLE, {})
    assert "more than" in record["reason"] or "exceeds" in record["reason"]


def forget_failures(proxy: Mitm) -> None:
    """Take the logged failures out of the log, which must otherwise be free of errors."""
    proxy._sink.lines = [line for line in proxy._sink.lines if line["event"] != "observation.failed"]
