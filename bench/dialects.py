"""
What the metering core costs for one event of each dialect: readers alone, in memory, on one core.

For each dialect the time per event with one event in a piece (a provider that flushes each) and with 25 (under load),
and per megabyte with 25; for one of them the same behind each content coding. A proxy adds its own cost to these.
"""

import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator

import brotli
import zstandard

from bench.figures import Figure, best_us
from services.dialects.framings import AWS_CONTENT_TYPE
from services.dialects.recognise import RequestFacts, ResponseReader, recognise, response_reader
from services.wire.content_encoding import content_decoder

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
    start = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return start + struct.pack(">I", zlib.crc32(start))


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
_BODY_BYTES_MAX = 1 << 30


def measure(events: int) -> Iterator[Figure]:
    """Read `events` events of each dialect, several times."""
    for name, (host, path, event) in STREAMS.items():
        made = [event(number) for number in range(events)]
        size_mb = sum(map(len, made)) / 1e6
        one_us = best_us(reading(name, host, path, made), events)
        burst_us = best_us(reading(name, host, path, bursts(made)), events)
        what = f"{name}, {len(made[0])} bytes"
        yield Figure(quantity=f"{what}: event, alone in its piece", value=one_us, unit="µs")
        yield Figure(quantity=f"{what}: event, {EVENTS_IN_A_BURST} in a piece", value=burst_us, unit="µs")
        yield Figure(quantity=f"{what}: per MB", value=burst_us * events / size_mb, unit="µs")
    yield from _measure_codings(events)


def _measure_codings(events: int) -> Iterator[Figure]:
    name = "google-cloudcode"
    host, path, event = STREAMS[name]
    made = [event(number) for number in range(events)]
    size_mb = sum(map(len, made)) / 1e6
    for coding, code in (("gzip", _gzipped), ("br", _brotlied), ("zstd", _zstandarded)):
        pieces = code(made)

        def read(coding: str = coding, pieces: list[bytes] = pieces) -> None:
            decode = content_decoder(coding, body_bytes_max=_BODY_BYTES_MAX).feed
            feed = reader_of(name, host, path).feed
            for piece in pieces:
                feed(decode(piece))

        took_us = best_us(read, events)
        yield Figure(quantity=f"{name} in {coding}: event, alone in its piece", value=took_us, unit="µs")
        yield Figure(quantity=f"{name} in {coding}: per MB decoded", value=took_us * events / size_mb, unit="µs")


# A provider that streams flushes after each event.
def _gzipped(events: list[bytes]) -> list[bytes]:
    coder = zlib.compressobj(wbits=31)
    return [coder.compress(event) + coder.flush(zlib.Z_SYNC_FLUSH) for event in events]


def _brotlied(events: list[bytes]) -> list[bytes]:
    coder = brotli.Compressor(quality=4)
    return [coder.process(event) + coder.flush() for event in events]


def _zstandarded(events: list[bytes]) -> list[bytes]:
    coder = zstandard.ZstdCompressor().compressobj()
    return [coder.compress(event) + coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for event in events]


def bursts(events: list[bytes]) -> list[bytes]:
    """Join events as a busy wire does."""
    return [b"".join(events[at : at + EVENTS_IN_A_BURST]) for at in range(0, len(events), EVENTS_IN_A_BURST)]


def reading(name: str, host: str, path: str, pieces: list[bytes]) -> Callable[[], None]:
    """Return the work of reading one stream."""

    def read() -> None:
        feed = reader_of(name, host, path).feed
        for piece in pieces:
            feed(piece)

    return read


def reader_of(name: str, host: str, path: str) -> ResponseReader:
    """Make a reader as the observer does."""
    content_type = CONTENT_TYPES.get(name, "text/event-stream")
    call = recognise("POST", host, path)
    reader = response_reader(call, status=200, content_type=content_type, facts=RequestFacts())
    assert reader is not None
    return reader
