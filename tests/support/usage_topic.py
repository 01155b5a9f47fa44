"""A publisher like the accountant's, that loses records and says nonsense between them."""

import contextlib
import json
import threading
from collections.abc import Iterator

import zmq

RECORD = {"schema": "wiremeter.usage/1", "at": "2026-11-23T17:40:11.123456Z", "model": "m", "outcome": "ok"}


@contextlib.contextmanager
def usage_topic(endpoint: str = "tcp://127.0.0.1:*") -> Iterator[str]:
    """Publish records 1, 4, 7, 8, 11, … until the end; give the endpoint."""
    context, stopping = zmq.Context(), threading.Event()
    publisher = context.socket(zmq.PUB)
    publisher.bind(endpoint)
    bound = publisher.get_string(zmq.LAST_ENDPOINT)

    def publish() -> None:
        # Again and again, because a subscriber is never there from the first one on.
        seq = 0
        while not stopping.wait(0.01):
            seq += 1 if seq % 4 < 1 else 3
            publisher.send_multipart([b"usage.p.m", json.dumps(RECORD | {"seq": seq}).encode()])
            publisher.send_multipart([b"usagex.other", b"{}"])
            publisher.send_multipart([b"usage.p.m", b"no JSON"])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield bound
    finally:
        stopping.set()
        thread.join()
        publisher.close(linger=0)
        context.term()
