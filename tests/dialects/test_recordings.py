"""
Recorded responses of real providers give exactly the records they should, however they were cut and coded.

The recordings are not in the repository: see tests/support/fixtures.py.
"""

import json

import pytest

from services.dialects.recognise import CallKind, RequestFacts, recognise, socket_reader
from services.wire.content_encoding import content_decoder
from tests.support.codings import CODERS, coded
from tests.support.fixtures import Fixture, fixtures, record_of
from tests.support.reading import read, reader_of
from tests.support.slow_reader import COMPARED, counts_in, is_stream
from tests.support.splits import random_splits

RECORDINGS = fixtures(
    "google-cloudcode",
    "google-gemini",
    "google-vertex",
    "anthropic-messages",
    "anthropic-messages-bedrock",
    "bedrock-converse",
    "bedrock-invoke",
    "cohere-chat",
    "cohere-embed",
    "google-embeddings",
    "google-interactions",
    "ollama-native",
    "openai-chat",
    "openai-chat-azure",
    "openai-chat-deepseek",
    "openai-chat-gemini",
    "openai-chat-groq",
    "openai-chat-mistral",
    "openai-chat-ollama",
    "openai-chat-openrouter",
    "openai-chat-other",
    "openai-chat-xai",
    "openai-completions",
    "openai-embeddings",
    "openai-images",
    "openai-responses",
    "openai-responses-azure",
    "openai-responses-other",
)
SOCKETS = fixtures("openai-responses-ws")
BYTE_BY_BYTE_BYTES_MAX = 32 * 1024  # the random splits cover what is longer
EVERY_CUT_BYTES_MAX = 6 * 1024

SMALL = [param for param in RECORDINGS if not param.values[0] or len(param.values[0].body) < BYTE_BY_BYTE_BYTES_MAX]
STREAMS = [
    param
    for param in RECORDINGS
    if not param.values[0] or (is_stream(param.values[0].header("content-type")) and param.values[0].status < 400)
]


def check(fixture: Fixture, pieces: list[bytes], content_encoding: str) -> None:
    """Read `pieces` and compare everything with what the fixture expects."""
    call = recognise(fixture.method, fixture.host, fixture.path)
    assert call.kind is CallKind.MODEL_CALL
    assert call.dialect == fixture.dialect
    # The name of a deployment is no model, and gives way to the one that the body names.
    assert call.request_model in (None, fixture.request_model) or "/deployments/" in fixture.path
    facts = RequestFacts(model=fixture.request_model, stream=fixture.request_stream)
    headers = {name.lower(): value for name, value in fixture.headers}
    reader = reader_of(call, fixture.status, fixture.header("content-type"), facts, headers)
    main, *extra = read(reader, pieces, content_encoding=content_encoding)
    assert main.outcome == fixture.outcome
    assert record_of(main, call.provider) == fixture.record
    assert [record_of(record, call.provider) for record in extra] == list(fixture.extra_records)


@pytest.mark.parametrize("fixture", RECORDINGS)
def test_a_recording_gives_exactly_its_records(fixture: Fixture) -> None:
    check(fixture, [fixture.body], fixture.header("content-encoding"))


@pytest.mark.parametrize("fixture", SMALL)
def test_a_recording_costs_the_same_byte_by_byte(fixture: Fixture) -> None:
    check(fixture, [fixture.body[i : i + 1] for i in range(len(fixture.body))], fixture.header("content-encoding"))


@pytest.mark.parametrize("fixture", RECORDINGS)
def test_a_recording_costs_the_same_however_tcp_cut_it(fixture: Fixture) -> None:
    for pieces in random_splits(fixture.body, count=12):
        check(fixture, pieces, fixture.header("content-encoding"))


@pytest.mark.parametrize("coding", [*CODERS, "gzip of br"])
@pytest.mark.parametrize("fixture", RECORDINGS)
def test_a_recording_costs_the_same_in_every_coding(fixture: Fixture, coding: str) -> None:
    body = content_decoder(fixture.header("content-encoding")).feed(fixture.body)
    if coding == "gzip of br":
        name, data = "br, gzip", coded("gzip", coded("br", body)[1])[1]
    else:
        name, data = coded(coding, body)
    for pieces in random_splits(data, count=3):
        check(fixture, pieces, name)


@pytest.mark.parametrize("fixture", STREAMS)
def test_a_recording_cut_at_any_byte_has_the_counts_of_its_last_whole_event(fixture: Fixture) -> None:
    body = content_decoder(fixture.header("content-encoding")).feed(fixture.body)
    content_type = fixture.header("content-type")
    if len(body) > EVERY_CUT_BYTES_MAX and "amazon" not in content_type:
        body = body[-EVERY_CUT_BYTES_MAX:]  # from the middle of an event on: a stream like another
    call = recognise(fixture.method, fixture.host, fixture.path)
    for cut in range(len(body) + 1):
        reader = reader_of(call, 200, content_type)
        reader.feed(body[:cut])
        record = reader.end(complete=False)[0]
        found = {name: record.counts[name] for name in COMPARED if name in record.counts}
        assert found == counts_in(fixture.dialect, body[:cut], call.provider, content_type), cut


@pytest.mark.parametrize("fixture", RECORDINGS)
def test_a_recording_cut_at_any_byte_breaks_nothing(fixture: Fixture) -> None:
    """Whatever its framing, and although nobody says that it was cut."""
    body = content_decoder(fixture.header("content-encoding")).feed(fixture.body)
    call = recognise(fixture.method, fixture.host, fixture.path)
    for cut in range(0, len(body), max(1, len(body) // 500)):
        reader = reader_of(call, fixture.status, fixture.header("content-type"))
        reader.feed(body[:cut])
        reader.end(complete=True)


@pytest.mark.parametrize("fixture", SOCKETS)
def test_a_recorded_socket_gives_exactly_its_records(fixture: Fixture) -> None:
    call = recognise(fixture.method, fixture.host, fixture.path)
    assert (call.kind, call.dialect) == (CallKind.MODEL_CALL, fixture.dialect)
    reader = socket_reader(call, RequestFacts())
    assert reader is not None
    found = []
    for line in fixture.body.splitlines():
        message = json.loads(line)
        feed = reader.feed_client if message["from"] == "client" else reader.feed_server
        found.extend(feed(json.dumps(message["data"], ensure_ascii=False).encode()))
    assert reader.pending() == reader.end(complete=True) == ()
    assert [record_of(record, call.provider) for record in found] == [fixture.record, *fixture.extra_records]
