"""Every capture gives exactly its records, however it was cut and coded, and none of them is ever counted by half."""

import pytest

from services.dialects.answer import EVENT_STREAM, FIRST_ERROR_STATUS, AnswerReader
from services.dialects.recognise import recognise
from services.events.usage import Outcome
from services.wire.sse import ServerSentEventReader
from tests.support.captures import CAPTURES, Capture, captures
from tests.support.codings import CODERS, coded
from tests.support.reading import facts_of, flat, read, reader_of
from tests.support.slow_reader import COMPARED, counts_in, is_stream
from tests.support.splits import every_split, random_splits

ALL = [
    pytest.param(capture, id=f"{folder.name}/{capture}")
    for folder in sorted(CAPTURES.iterdir())
    for capture in captures(folder.name)
]


def records_of(
    capture: Capture, pieces: list[bytes], *, complete: bool = True, content_encoding: str = ""
) -> tuple[dict[str, object], ...]:
    call = recognise(capture.method, capture.host, capture.target)
    facts = facts_of(call, [capture.request_body])
    reader = reader_of(call, capture.status, capture.content_type, facts, capture.headers)
    return tuple(
        flat(record, call.provider)
        for record in read(
            reader, pieces, complete=complete, content_encoding=content_encoding, trailer=capture.trailer
        )
    )


@pytest.mark.parametrize("capture", ALL)
def test_a_response_costs_the_same_however_tcp_cut_it(capture: Capture) -> None:
    for pieces in every_split(capture.response_body):
        assert records_of(capture, pieces) == capture.expected


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("capture", ALL)
def test_a_response_costs_the_same_in_every_coding(capture: Capture, coding: str) -> None:
    name, data = coded(coding, capture.response_body)
    for pieces in random_splits(data, count=4):
        assert records_of(capture, pieces, content_encoding=name) == capture.expected


@pytest.mark.parametrize("capture", ALL)
def test_a_request_says_the_same_however_tcp_cut_it(capture: Capture) -> None:
    call = recognise(capture.method, capture.host, capture.target)
    expected = facts_of(call, [capture.request_body])
    assert expected.model == capture.expected[0]["request_model"]
    for pieces in every_split(capture.request_body):
        assert facts_of(call, pieces) == expected


EVENT_STREAMS = [
    param
    for param in ALL
    if param.values[0].content_type.startswith(EVENT_STREAM) and param.values[0].status < FIRST_ERROR_STATUS
]


@pytest.mark.parametrize("capture", EVENT_STREAMS)
def test_a_stream_costs_the_same_if_its_events_come_alone(capture: Capture) -> None:
    """They are read by the shorter way wherever that is allowed, and told when the counts have changed."""
    call = recognise(capture.method, capture.host, capture.target)
    facts = facts_of(call, [capture.request_body])
    plain, short = (reader_of(call, capture.status, capture.content_type, facts, capture.headers) for _ in range(2))
    assert isinstance(short, AnswerReader)
    read_event = short.event_reader()
    for text in ServerSentEventReader().feed_data(capture.response_body):
        event = b"".join(b"data: %b\n" % line for line in text.split(b"\n")) + b"\n"
        changed = plain.feed(event)
        if short.takes_events and b"\n" not in text:
            assert (read_event(text) is not None) == changed
        else:
            short.feed(event)
        assert short.progress() == plain.progress()
    assert short.end(complete=True) == plain.end(complete=True)


STREAMS = [param for param in ALL if is_stream(param.values[0].content_type) and param.values[0].status == 200]


@pytest.mark.parametrize("capture", STREAMS)
def test_a_stream_cut_at_any_byte_has_the_counts_of_its_last_whole_event(capture: Capture) -> None:
    call = recognise(capture.method, capture.host, capture.target)
    for cut in range(len(capture.response_body) + 1):
        body = capture.response_body[:cut]
        reader = reader_of(call, capture.status, capture.content_type)
        reader.feed(body)
        record = reader.end(complete=False)[0]
        found = {name: record.counts[name] for name in COMPARED if name in record.counts}
        assert found == counts_in(call.dialect or "", body, call.provider, capture.content_type), cut


@pytest.mark.parametrize("capture", ALL)
def test_a_response_that_breaks_off_is_never_called_complete_too_early(capture: Capture) -> None:
    """Behind the last word of Anthropic and OpenAI nothing comes: there a cut changes nothing."""
    for cut in range(len(capture.response_body)):
        main = records_of(capture, [capture.response_body[:cut]], complete=False)[0]
        if main["outcome"] in (Outcome.OK, Outcome.NO_USAGE):
            assert main == capture.expected[0]
