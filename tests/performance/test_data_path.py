"""What mitm does for each piece that it forwards, counted: system calls and calls. It stays what it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.call_counts import calls_of, is_as_ever, system_calls_of
from tests.support.data_path import DataPath, data_path, events
from tests.support.tls_end import CLOSE_NOTIFY

REQUEST = (
    b"POST /v1internal:streamGenerateContent?alt=sse HTTP/1.1\r\nhost: daily-cloudcode-pa.googleapis.com\r\n"
    b"content-type: application/json\r\ncontent-length: 20\r\n\r\n"
    b'{"model":"gemini-3"}'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNKNOWN = (
    b"POST /small HTTP/1.1\r\nhost: daily-cloudcode-pa.googleapis.com\r\ncontent-type: application/json\r\n"
    b"content-length: 2\r\n\r\n{}"
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

MODEL_CALL = REQUEST.replace(b"streamGenerateContent?alt=sse", b"generateContent")
MODEL_ANSWER_BODY = (
    b'{"response":{"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}],"usageMetadata":'
    b'{"promptTokenCount":1234,"candidatesTokenCount":5,"totalTokenCount":1239},"modelVersion":"gemini-3"}}'
)
MODEL_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(MODEL_ANSWER_BODY)
) + MODEL_ANSWER_BODY

# Python's and built-in calls for one event with counts that comes alone, for each of three clients', for each of 25
# that come together, and for one exchange that nobody reads.
EVENT_CALLS = 52
SHARED_EVENT_CALLS = 36
CROWDED_EVENT_CALLS = 8.9
EXCHANGE_CALLS = 120
# The same for a call of a model with a short request and its answer in one piece, from draft to record.
MODEL_CALL_CALLS = 401
CROWD = 25


@pytest.fixture
def path(tmp_path: Path) -> Iterator[DataPath]:
    with data_path(tmp_path) as opened:
        yield opened


class Streaming:
    """A stream whose first event has passed, so that names are known."""

    def __init__(self, path: DataPath) -> None:
        self._path = path
        self._coming = events()
        pass_on(path, REQUEST, up=True)
        pass_on(path, HEAD, up=False)
        self.wake_up_for(1)
        self.dispatch()

    def wake_up_for(self, count: int) -> None:
        self._path.provider.send(b"".join(next(self._coming) for _ in range(count)))
        self._path.await_bytes()

    def dispatch(self) -> None:
        self._path.dispatch()


def pass_on(path: DataPath, data: bytes, *, up: bool) -> int:
    """Send `data` one way and see that it arrives; return how many calls that took mitm."""
    path.client.send(data) if up else path.provider.send(data)
    path.await_bytes()
    calls = calls_of(path.dispatch)
    assert (path.provider if up else path.client).read(len(data)) == data
    return calls


@pytest.mark.parametrize("count", [1, CROWD])
def test_events_are_heard_of_read_journaled_and_sent_once(path: DataPath, count: int) -> None:
    """However many come together: four system calls, nothing is asked twice."""
    stream = Streaming(path)
    stream.wake_up_for(count)
    assert system_calls_of(stream.dispatch) == {"poll": 1, "recv": 1, "write": 1, "send": 1}


def test_what_comes_at_once_is_written_at_once(path: DataPath) -> None:
    """Events of three clients in one wake-up: one write for all, and fewer calls for each."""
    streams = [Streaming(each) for each in (path, path.another(), path.another())]
    for stream in streams:
        stream.wake_up_for(1)
    assert system_calls_of(path.dispatch) == {"poll": 1, "recv": 3, "write": 1, "send": 3}
    for stream in streams:
        stream.wake_up_for(1)
    assert is_as_ever(calls_of(path.dispatch) / 3, SHARED_EVENT_CALLS)


def test_an_event_takes_as_many_calls_as_ever(path: DataPath) -> None:
    """Alone, and in a crowd."""
    stream = Streaming(path)
    stream.wake_up_for(1)
    assert is_as_ever(calls_of(stream.dispatch), EVENT_CALLS)
    stream.wake_up_for(CROWD)
    assert is_as_ever(calls_of(stream.dispatch) / CROWD, CROWDED_EVENT_CALLS)


def test_an_exchange_takes_as_many_calls_as_ever(path: DataPath) -> None:
    """Request and response of a call that nobody can read, with its record, on connections that are there."""
    for _ in range(2):
        calls = pass_on(path, UNKNOWN, up=True) + pass_on(path, ANSWER, up=False)
    assert is_as_ever(calls, EXCHANGE_CALLS)


def test_a_call_of_a_model_takes_as_many_calls_as_ever(path: DataPath) -> None:
    """With its draft, what its request says, and its record."""
    for _ in range(2):
        calls = pass_on(path, MODEL_CALL, up=True) + pass_on(path, MODEL_ANSWER, up=False)
    assert is_as_ever(calls, MODEL_CALL_CALLS)


def test_a_client_that_leaves_is_answered_and_closed(path: DataPath) -> None:
    """Nothing more: closing a socket shuts it and takes it from the epoll."""
    pass_on(path, UNKNOWN, up=True)
    pass_on(path, ANSWER, up=False)
    path.client.say_close()
    path.await_bytes()
    # `fileno` asks nobody.
    assert system_calls_of(path.dispatch) == dict.fromkeys(("poll", "recv_into", "send", "fileno", "close"), 1)
    assert path.client.wait_gone() == CLOSE_NOTIFY
