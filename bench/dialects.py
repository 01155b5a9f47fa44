"""
How long the metering core takes for one event: `python -m bench.dialects`.

Prints microseconds per event, for each dialect, with one event and with 25 events in a piece, and for the reader of
server-sent events alone. Best of several rounds, on one core, all in memory. A proxy adds its own cost to these.
"""

import sys
from collections.abc import Callable
from time import perf_counter

from services.dialects.recognise import RequestFacts, recognise, response_reader
from services.wire.sse import ServerSentEventReader

EVENTS_PER_ROUND = 5000
ROUNDS = 7
EVENTS_IN_A_BURST = 25
TEXT = "the quick brown fox jumps over the lazy dog and says: "


def gemini_event(number: int) -> bytes:
    """Return one event of a Gemini stream, about 400 bytes long."""
    return b"data: %b\r\n\r\n" % _generate_content(number)


def cloudcode_event(number: int) -> bytes:
    """Return one event of a Cloud Code stream, about 450 bytes long."""
    return b'data: {"response":%b,"traceId":"310bdec659f4103c","metadata":{}}\r\n\r\n' % _generate_content(number)


def anthropic_event(number: int) -> bytes:
    """Return one event of an Anthropic stream, the kind that nearly all of them are."""
    delta = f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{TEXT * 2}{number}"}}}}'
    return f"event: content_block_delta\ndata: {delta}\n\n".encode()


def _generate_content(number: int) -> bytes:
    total = 64122 + number
    return (
        f'{{"candidates":[{{"content":{{"role":"model","parts":[{{"text":"{TEXT}"}}]}}}}],"usageMetadata":'
        f'{{"promptTokenCount":63888,"candidatesTokenCount":{number},"thoughtsTokenCount":234,'
        f'"cachedContentTokenCount":61440,"totalTokenCount":{total}}},"modelVersion":"gemini-3.8-flash","responseId":"VBCoabc"}}'
    ).encode()


STREAMS: dict[str, tuple[str, str, Callable[[int], bytes]]] = {
    "google-cloudcode": ("cloudcode-pa.googleapis.com", "/v1internal:streamGenerateContent?alt=sse", cloudcode_event),
    "google-generate-content": (
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
        gemini_event,
    ),
    "anthropic-messages": ("api.anthropic.com", "/v1/messages", anthropic_event),
}


def us_per_event(feed: Callable[[bytes], object], pieces: list[bytes], events: int) -> float:
    """Return the best of several rounds of feeding all `pieces`, which hold `events` events."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = perf_counter()
        for piece in pieces:
            feed(piece)
        best = min(best, perf_counter() - began)
    return best / events * 1e6


def main() -> int:
    print(f"{'':26}{'bytes':>7}{'one per piece':>16}{f'{EVENTS_IN_A_BURST} per piece':>16}   µs per event")
    for name, (host, path, event) in STREAMS.items():
        events = [event(number) for number in range(EVENTS_PER_ROUND)]
        bursts = [
            b"".join(events[start : start + EVENTS_IN_A_BURST]) for start in range(0, len(events), EVENTS_IN_A_BURST)
        ]
        call = recognise("POST", host, path)
        for label, pieces_of in (("", None), ("  events alone", ServerSentEventReader)):
            figures = []
            for pieces in (events, bursts):
                if pieces_of is None:
                    reader = response_reader(call, status=200, content_type="text/event-stream", facts=RequestFacts())
                    assert reader is not None
                    feed: Callable[[bytes], object] = reader.feed
                else:
                    feed = pieces_of().feed_data
                figures.append(us_per_event(feed, pieces, len(events)))
            print(f"{label or name:26}{len(events[0]):7}{figures[0]:16.2f}{figures[1]:16.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
