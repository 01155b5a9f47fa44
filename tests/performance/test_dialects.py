"""What reading an event takes, counted in calls: it stays what it is, and does not grow with the stream."""

import tracemalloc

import pytest

from bench.dialects import STREAMS, bursts, reader_of
from tests.support.call_counts import calls_of

# Dialect -> calls per event, alone in its piece and with others. A fifth more is a finding; so is a third less: then
# the numbers here are no guard any longer.
CALLS = {
    "google-cloudcode": (17.0, 3.0),
    "google-generate-content": (16.0, 2.8),
    "anthropic-messages": (14.0, 2.5),
    "openai-chat": (17.0, 1.9),
    "openai-responses": (14.0, 2.5),
    "cohere-chat": (14.0, 2.5),
    "google-interactions": (14.0, 1.5),
    "ollama-native": (12.0, 3.4),
    "bedrock-converse": (30.0, 19.5),
    "bedrock-invoke (Claude)": (28.0, 17.5),
    "bedrock-invoke (Llama)": (83.0, 73.5),
}
WARM = 100
EVENTS = 1000
# What a dictionary or a buffer may have grown to; events are hundreds of times as much.
GROWTH_BYTES_MAX = 32 * 1024


def test_every_dialect_that_is_measured_is_guarded() -> None:
    """Neither list is longer."""
    assert set(CALLS) == set(STREAMS)


@pytest.mark.parametrize("name", CALLS)
def test_an_event_takes_as_many_calls_as_ever(name: str) -> None:
    """Alone in its piece, and among others."""
    host, path, event = STREAMS[name]
    reader = reader_of(name, host, path)
    events = [event(number) for number in range(WARM + 2 * EVENTS)]
    for piece in events[:WARM]:
        reader.feed(piece)
    alone = calls_of(lambda: [reader.feed(piece) for piece in events[WARM : WARM + EVENTS]]) / EVENTS
    among = calls_of(lambda: [reader.feed(piece) for piece in bursts(events[WARM + EVENTS :])]) / EVENTS
    expected_alone, expected_among = CALLS[name]
    assert expected_alone * 0.67 < alone < expected_alone * 1.2
    assert expected_among * 0.67 < among < expected_among * 1.2


@pytest.mark.parametrize("name", CALLS)
def test_a_stream_takes_no_more_memory_the_longer_it_is(name: str) -> None:
    """Ten thousand events leave nothing behind."""
    host, path, event = STREAMS[name]
    reader = reader_of(name, host, path)
    pieces = bursts([event(number) for number in range(EVENTS)])
    for piece in pieces:
        reader.feed(piece)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            for piece in pieces:
                reader.feed(piece)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < GROWTH_BYTES_MAX
