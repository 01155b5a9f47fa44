"""
A provider to measure against: answers over TLS with streams of events as Cloud Code writes them.

    POST /v1internal:streamGenerateContent?n=EVENTS&size=BYTES&every=SECONDS    a stream; 0 seconds: as fast as it goes
    POST anything else                                                        a small answer

The last event has the counts, `STOP`, and as its `responseId` the clock (`time.monotonic_ns`) at which it was sent.
Each event is a chunk and, with `every`, a write of its own. Run as a process: `python -m bench.provider CERTIFICATE`.
"""

import asyncio
import contextlib
import json
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import uvloop

_SMALL = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n{"x":"%b"}' % (b"x" * 192)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_FAST_AT_ONCE = 25


async def serve(certificate: Path) -> None:
    """Listen on a free port and print it; until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(_connected, "127.0.0.1", 0, ssl=context, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length_of(head))
            target = urlsplit(head.split(b" ", 2)[1].decode())
            if target.path.endswith("streamGenerateContent"):
                asked = {name: float(values[0]) for name, values in parse_qs(target.query).items() if name != "alt"}
                await _stream(writer, int(asked["n"]), int(asked["size"]), asked["every"])
            else:
                writer.write(_SMALL)
            await writer.drain()
    writer.close()


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _stream(writer: asyncio.StreamWriter, count: int, size: int, every_s: float) -> None:
    writer.write(_STREAM)
    event = chunk(event_of(size))
    loop = asyncio.get_running_loop()
    next_at_s = loop.time()
    sent = 0
    while sent < count - 1:
        if every_s:
            next_at_s += every_s
            await asyncio.sleep(next_at_s - loop.time())
            writer.write(event)
            sent += 1
        else:
            some = min(_FAST_AT_ONCE if size < 65536 else 1, count - 1 - sent)
            writer.write(event * some)
            sent += some
        await writer.drain()
    if every_s:
        await asyncio.sleep(every_s)
    writer.write(chunk(last_event(str(time.monotonic_ns()))) + _END)


def chunk(data: bytes) -> bytes:
    """Frame one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event_of(size: int) -> bytes:
    """Return an event of about `size` bytes that is not the last."""
    counts = '"usageMetadata":{"promptTokenCount":1514,"candidatesTokenCount":7,"totalTokenCount":1521}'
    tail = f'"}}],"role":"model"}}}}],{counts},"modelVersion":"gemini-3-flash"}},"traceId":"310bdec659f4103c"}}\r\n\r\n'
    head = 'data: {"response":{"candidates":[{"content":{"parts":[{"text":"'
    return (head + "x" * max(1, size - len(head) - len(tail)) + tail).encode()


def last_event(response_id: str) -> bytes:
    """Return the event that ends an answer."""
    answer = {
        "candidates": [{"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1514, "candidatesTokenCount": 77, "totalTokenCount": 1591},
        "modelVersion": "gemini-3-flash",
        "responseId": response_id,
    }
    return b"data: %b\r\n\r\n" % json.dumps({"response": answer, "traceId": "310bdec659f4103c"}).encode()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
