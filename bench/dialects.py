"""
How long the metering core takes for one event: `python -m bench.dialects`.

Prints microseconds per event, for each dialect, with one event and with 25 events in a piece, and for the reader of
server-sent events alone. Best of several rounds, on one core, all in memory. A proxy adds its own cost to these.
"""

import struct
import sys
from base64 import b64encode
from collections.abc import Callable
from time import perf_counter
from zlib import crc32

from services.dialects.framings import AWS_CONTENT_TYPE
from services.dialects.recognise import RequestFacts, recognise, response_reader
from services.wire.eventstream import EventStreamReader
from services.wire.json_stream import JsonLineReader
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


def chat_event(number: int) -> bytes:
    """Return one chunk of an OpenAI chat stream, the kind that nearly all of them are."""
    return (
        'data: {"id":"chatcmpl-BwoiPTGRbKkY5rncfaM0s9KtWrq5N","object":"chat.completion.chunk","created":1763900000,'
        '"model":"gpt-5-2025-08-07","service_tier":"default","system_fingerprint":"fp_51e1070cf2","choices":[{"index":0,'
        f'"delta":{{"content":"{TEXT}{number}"}},"logprobs":null,"finish_reason":null}}],"usage":null}}\n\n'
    ).encode()


def responses_event(number: int) -> bytes:
    """Return one event of an OpenAI Responses stream, the kind that nearly all of them are."""
    delta = f'"item_id":"msg_0108ce40c6fb22bd","output_index":0,"content_index":0,"delta":"{TEXT}","logprobs":[]'
    return (
        "event: response.output_text.delta\n"
        f'data: {{"type":"response.output_text.delta","sequence_number":{number},{delta}}}\n\n'
    ).encode()


def cohere_event(number: int) -> bytes:
    """Return one event of a Cohere chat stream, the kind that nearly all of them are."""
    delta = f'"index":0,"delta":{{"message":{{"content":{{"text":"{TEXT}{number}"}}}}}}'
    return f'event: content-delta\ndata: {{"type":"content-delta",{delta}}}\n\n'.encode()


def interactions_event(number: int) -> bytes:
    """Return one event of a stream of Google's interactions, the kind that nearly all of them are."""
    delta = f'"index":{number},"delta":{{"text":"{TEXT}","type":"text"}}'
    return f'event: step.delta\ndata: {{{delta},"event_type":"step.delta","type":"step.delta"}}\n\n'.encode()


def ollama_line(number: int) -> bytes:
    """Return one line of an Ollama chat, the kind that nearly all of them are."""
    message = f'"message":{{"role":"assistant","content":"{TEXT}{number}"}}'
    return f'{{"model":"gemma3:1b","created_at":"2025-08-20T13:48:23.241046Z",{message},"done":false}}\n'.encode()


def converse_event(number: int) -> bytes:
    """Return one message of a Converse stream, the kind that nearly all of them are."""
    payload = f'{{"contentBlockIndex":0,"delta":{{"text":"{TEXT}{number}"}},"p":"abcdefghijklmnopqrstuv"}}'
    return _aws_message("contentBlockDelta", payload.encode())


def claude_chunk(number: int) -> bytes:
    """Return one message of Claude's stream through InvokeModel, the kind that nearly all of them are."""
    delta = f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{TEXT}{number}"}}}}'
    return _aws_message("chunk", b'{"bytes":"%b","p":"abcdefghijkl"}' % b64encode(delta.encode()))


def llama_chunk(number: int) -> bytes:
    """Return one message of Llama's stream through InvokeModel, each of which has counts."""
    said = f'{{"generation":"{TEXT}","prompt_token_count":null,"generation_token_count":{number},"stop_reason":null}}'
    return _aws_message("chunk", b'{"bytes":"%b","p":"abcdefghijkl"}' % b64encode(said.encode()))


def _aws_message(event_type: str, payload: bytes) -> bytes:
    named = {":event-type": event_type, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack(f">B{len(name)}sBH{len(value)}s", len(name), name.encode(), 7, len(value), value.encode())
        for name, value in named.items()
    )
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    start = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return start + struct.pack(">I", crc32(start))


def _generate_content(number: int) -> bytes:
    total = 64122 + number
    return (
        f'{{"candidates":[{{"content":{{"role":"model","parts":[{{"text":"{TEXT}"}}]}}}}],"usageMetadata":'
        f'{{"promptTokenCount":63888,"candidatesTokenCount":{number},"thoughtsTokenCount":234,'
        f'"cachedContentTokenCount":61440,"totalTokenCount":{total}}},"modelVersion":"gemini-3.8-flash","responseId":"VBCoabc"}}'
    ).encode()


BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"

STREAMS: dict[str, tuple[str, str, Callable[[int], bytes]]] = {
    "google-cloudcode": ("cloudcode-pa.googleapis.com", "/v1internal:streamGenerateContent?alt=sse", cloudcode_event),
    "google-generate-content": (
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
        gemini_event,
    ),
    "anthropic-messages": ("api.anthropic.com", "/v1/messages", anthropic_event),
    "openai-chat": ("api.openai.com", "/v1/chat/completions", chat_event),
    "openai-responses": ("api.openai.com", "/v1/responses", responses_event),
    "cohere-chat": ("api.cohere.com", "/v2/chat", cohere_event),
    "google-interactions": ("generativelanguage.googleapis.com", "/v1beta/interactions", interactions_event),
    "ollama-native": ("localhost", "/api/chat", ollama_line),
    "bedrock-converse": (BEDROCK, "/model/m/converse-stream", converse_event),
    "bedrock-invoke (Claude)": (BEDROCK, "/model/m/invoke-with-response-stream", claude_chunk),
    "bedrock-invoke (Llama)": (BEDROCK, "/model/m/invoke-with-response-stream", llama_chunk),
}

# Of the streams that are no event streams.
CONTENT_TYPES = {
    "ollama-native": "application/x-ndjson",
    "bedrock-converse": AWS_CONTENT_TYPE,
    "bedrock-invoke (Claude)": AWS_CONTENT_TYPE,
    "bedrock-invoke (Llama)": AWS_CONTENT_TYPE,
}
FRAMING_ALONE = {
    AWS_CONTENT_TYPE: lambda: EventStreamReader().feed,
    "application/x-ndjson": lambda: JsonLineReader().feed,
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
        content_type = CONTENT_TYPES.get(name, "text/event-stream")
        alone = FRAMING_ALONE.get(content_type, lambda: ServerSentEventReader().feed_data)
        for label, feed_alone in (("", None), ("  events alone", alone)):
            figures = []
            for pieces in (events, bursts):
                if feed_alone is None:
                    reader = response_reader(call, status=200, content_type=content_type, facts=RequestFacts())
                    assert reader is not None
                    feed: Callable[[bytes], object] = reader.feed
                else:
                    feed = feed_alone()
                figures.append(us_per_event(feed, pieces, len(events)))
            print(f"{label or name:26}{len(events[0]):7}{figures[0]:16.2f}{figures[1]:16.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
