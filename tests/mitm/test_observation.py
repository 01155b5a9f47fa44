"""What every exchange leaves behind, and those that nobody reads."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.codec import decode, encode
from services.events.exchange import Client, ExchangeCounted, UsageRecorded
from services.events.usage import Outcome
from services.events.verbatim import verbatim
from services.mitm.known_peer import KnownPeer
from services.mitm.observation import Abort, Observation
from services.mitm.observer import CallObservation, observe
from services.mitm.peer import Owner
from services.runtime.environment import ClientName
from services.wire.http1 import read_request_head, read_response_head
from tests.support.mitm import get, post
from tests.support.observing import Observing, peer_like

HOST = "api.anthropic.com"
UNKNOWN = get(HOST, "/nobody/knows?key=secret")
FREE = post(HOST, b"", "/v1/messages/count_tokens")
VERBATIM = verbatim(UsageRecorded, ())


class Writing:
    """An outbox that keeps bytes."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.started: list[str] = []

    def start(self, exchange_id: str, draft: bytes) -> None:
        self.started.append(exchange_id)

    def progress(self, exchange_id: str, members: bytes) -> None: ...

    def repeats(self, exchange_id: str) -> Callable[[bytes], None]:
        return lambda members: None

    def finish(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        self.records += records


def begin(head: bytes, client: Client, now: float = 10.0) -> tuple[Observation, Writing]:
    outbox = Writing()
    parts = replace(Observing().parts, outbox=outbox)
    return observe(HOST, read_request_head(head), peer_like(client), now, parts), outbox


def response(status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status


WORDS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SPANS = st.floats(0, 1e7)


@given(st.builds(Client, uid=st.none() | st.integers(0, 1 << 31), cwd=WORDS, label=WORDS), SPANS, SPANS, st.booleans())
def test_a_record_is_written_as_the_codec_would(client: Client, wait_s: float, span_s: float, has_begun: bool) -> None:
    """To the byte: by its bytes the accountant knows that it need not be parsed."""
    for head in (UNKNOWN, post(HOST, b"", "/v1/messages")):
        observation, outbox = begin(head, client)
        observation.bytes_up = 7
        if has_begun:
            observation.response_head(read_response_head(response(), request_method="GET"), 10.0 + wait_s)
            observation.response_content(b"hello")
        observation.broken(Abort.CLIENT, "gone", 10.0 + wait_s + span_s)
        [record] = outbox.records
        read = decode(UsageRecorded, record)
        assert encode(read) == record
        assert read.client == client and read.timing.started_at == "2023-11-14T22:13:30.000000Z"
        assert (read.bytes.up, read.bytes.down) == (7, 5 if has_begun else 0)
        first_byte_ms, duration_ms = read.timing.first_byte_ms, read.timing.duration_ms
        assert duration_ms == pytest.approx((wait_s + span_s) * 1000, abs=0.002)
        assert first_byte_ms == (pytest.approx(wait_s * 1000, abs=0.002) if has_begun else None)


def test_the_accountant_knows_the_record_of_an_unknown_call_by_its_bytes() -> None:
    """An agent's other calls outnumber those of models."""
    observation, outbox = begin(UNKNOWN, Client(uid=1000, cwd="/home/x"))
    observation.response_head(read_response_head(response(), request_method="GET"), 10.25)
    observation.ended(10.25)
    assert VERBATIM.fullmatch(outbox.records[0])
    record = decode(UsageRecorded, outbox.records[0])
    assert (record.outcome, record.reason) == (Outcome.UNREADABLE, "endpoint is not known")
    assert (record.operation, record.http_status, record.event_id) == ("unknown", 200, record.exchange_id)
    assert (record.timing.first_byte_ms, record.timing.duration_ms) == (250.0, 250.0)


def test_only_what_is_read_is_observed_closely() -> None:
    """A model call has a draft; what spends nothing, and what nobody knows, has none."""
    for head, is_read in [(UNKNOWN, False), (FREE, False), (post(HOST, b"", "/v1/messages"), True)]:
        observation, outbox = begin(head, Client())
        assert isinstance(observation, CallObservation) == bool(outbox.started) == is_read
        assert observation.reads_request == is_read
        observation.request_ended()
        observation.response_head(read_response_head(response(), request_method="GET"), 10.25)
        assert observation.reads_response == is_read
        assert is_read or observation.event_reading() is None
        observation.response_trailer({})


def test_what_spends_nothing_is_counted() -> None:
    """However it ends, and whoever answers."""
    for end in (
        lambda each: each.ended(11.0),
        lambda each: each.broken(Abort.CLIENT, "gone", 11.0),
        lambda each: each.refused(502, "upstream_closed", "gone", 11.0),
    ):
        observation, outbox = begin(FREE, Client(uid=1))
        end(observation)
        [record] = outbox.records
        assert encode(decode(ExchangeCounted, record)) == record


def test_what_we_answer_ourselves_is_an_error() -> None:
    """Of an unknown call too."""
    observation, outbox = begin(UNKNOWN, Client(uid=1))
    observation.refused(502, "upstream_closed", "gone", 11.0)
    record = decode(UsageRecorded, outbox.records[0])
    assert (record.outcome, record.error_type, record.reason) == (Outcome.ERROR, "upstream_closed", "gone")


def test_another_protocol_is_named() -> None:
    """It is not read."""
    observation, outbox = begin(UNKNOWN, Client(uid=1))
    head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    observation.upgraded(read_response_head(head, request_method="GET"), 11.0)
    observation.ended(12.0)
    record = orjson.loads(outbox.records[0])
    assert (record["http_status"], record["reason"]) == (101, "upgrade to h2c is not read")
    assert record["timing"]["first_byte_ms"] == 1000.0


def test_a_client_that_cannot_be_described_is_nobody() -> None:
    """Its exchange is recorded as one that could not be read, and the reason is in the log."""

    class Failing:
        def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
            raise RuntimeError("failed")

    around = Observing()
    observation = observe(
        HOST, read_request_head(UNKNOWN), KnownPeer(Owner(uid=0, inode=1), Failing()), 10.0, around.parts
    )
    observation.ended(11.0)
    [record] = around.outbox.records
    assert (record["reason"], record["client"]["uid"]) == ("internal error, see the log", None)
    assert [line["event"] for line in around.lines] == ["observation.failed"]
    assert repr(observation).endswith("of an unknown call at api.anthropic.com>")
