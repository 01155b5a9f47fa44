"""One end of an HTTP/2 connection: what the peer says comes out as parts, and costs it what it may cost."""

import struct
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from services.wire.http2 import (
    CONNECTION_WINDOW_BYTES,
    HELD_BYTES_MAX,
    PIECE_BYTES_MAX,
    PREFACE,
    STREAM_WINDOW_BYTES,
    STREAMS_BEFORE_SETTINGS,
    STREAMS_MAX,
    Budget,
    Http2End,
)
from services.wire.http2_parts import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    LAST_STREAM_ID_MAX,
    NO_ERROR,
    REFUSED_STREAM,
    Data,
    GoneAway,
    Head,
    HeadKind,
    Http2Invalid,
    Part,
    Reset,
    WindowOpened,
)
from tests.support.splits import every_split

HEAD_BYTES_MAX = 16_384
REQUEST = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/")]
RESPONSE = [(b":status", b"200"), (b"b", b"1"), (b"a", b""), (b"b", b"2")]
GOAWAY = 7


def library(*, is_client: bool, **initial: int) -> h2.connection.H2Connection:
    """Return an end of the library's own making, which has said its preface."""
    made = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=is_client, header_encoding=None, normalize_outbound_headers=False)
    )
    values = {h2.settings.SettingCodes[name.upper()]: value for name, value in initial.items()}
    made.local_settings = h2.settings.Settings(client=is_client, initial_values=values)
    made.initiate_connection()
    return made


class Talk:
    """An end of ours with a peer of the library's."""

    def __init__(self, *, is_client: bool = False, **initial: int) -> None:
        self.end = Http2End(is_client=is_client, head_bytes_max=HEAD_BYTES_MAX)
        self.peer = library(is_client=not is_client, **initial)
        self.heard: list[h2.events.Event] = []
        self.said()
        self.hears()

    def said(self, now: float = 0.0) -> list[Part]:
        """Pass on what the peer has to say; return its parts."""
        return list(self.end.feed(self.peer.data_to_send(), now))

    def hears(self) -> list[h2.events.Event]:
        """Pass on what we have to say, and what that makes the peer say."""
        events = self.peer.receive_data(self.end.output())
        self.heard += events
        return events


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream_id) + body


SETTINGS = frame(4, 0, 0)


def opened(*frames: bytes) -> Http2End:
    """Return a server's end that has heard the preface and these frames."""
    end = Http2End(is_client=False, head_bytes_max=HEAD_BYTES_MAX)
    list(end.feed(PREFACE + SETTINGS + b"".join(frames), 0.0))
    return end


def refusal_of(end: Http2End, data: bytes, now: float = 0.0) -> tuple[str, int]:
    """Feed what must be refused; return the reason and the code of our GOAWAY."""
    with pytest.raises(Http2Invalid) as caught:
        list(end.feed(data, now))
    output = end.output()
    start = output.rindex(b"\x07\x00\x00\x00\x00\x00")
    return str(caught.value), int.from_bytes(output[start + 10 : start + 14], "big")


# -- parts ---------------------------------------------------------------------


def conversation() -> tuple[bytes, list[Part]]:
    """What a client says in a small conversation, and what that means."""
    client = library(is_client=True)
    client.send_headers(1, [*REQUEST, (b"x", b"1"), (b"x", b"2")])
    client.send_data(1, b"hello")
    client.send_headers(3, [*REQUEST, (b"cookie", b"a"), (b"cookie", b"b")], end_stream=True)
    client.send_data(1, b"")
    client.ping(b"12345678")
    client.send_data(1, b" world", pad_length=9)
    client.send_headers(1, [(b"trailer", b"1")], end_stream=True)
    client.reset_stream(3, CANCEL)
    data = (
        client.data_to_send() + frame(0xFA, 0, 0, b"unknown") + frame(GOAWAY, 0, 0, struct.pack("!II", 0, 2) + b"why")
    )
    return data, [
        WindowOpened(stream_id=0),
        Head(stream_id=1, kind=HeadKind.REQUEST, fields=[*REQUEST, (b"x", b"1"), (b"x", b"2")], ended=False),
        Data(stream_id=1, content=b"hello", ended=False),
        Head(
            stream_id=3,
            kind=HeadKind.REQUEST,
            fields=[*REQUEST, (b"cookie", b"a"), (b"cookie", b"b")],
            ended=True,
        ),
        Data(stream_id=1, content=b" world", ended=False),
        Head(stream_id=1, kind=HeadKind.TRAILER, fields=[(b"trailer", b"1")], ended=True),
        Reset(stream_id=3, code=CANCEL),
        GoneAway(last_stream_id=0, code=2, debug=b"why"),
    ]


def test_what_is_said_does_not_depend_on_how_it_was_cut() -> None:
    """Whole, byte by byte, and cut in two anywhere."""
    data, expected = conversation()
    for pieces in every_split(data):
        end = Http2End(is_client=False, head_bytes_max=HEAD_BYTES_MAX)
        assert [part for piece in pieces for part in end.feed(piece, 0.0)] == expected


def test_a_response_comes_in_its_parts() -> None:
    """Interim heads, the head, content, trailers."""
    talk = Talk(is_client=True)
    stream_id = talk.end.open_stream(REQUEST, ended=True)
    assert stream_id == 1
    talk.hears()
    talk.peer.send_headers(1, [(b":status", b"103"), (b"link", b"x")])
    talk.peer.send_headers(1, RESPONSE)
    talk.peer.send_data(1, b"abc")
    talk.peer.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    assert talk.said() == [
        Head(stream_id=1, kind=HeadKind.INTERIM, fields=[(b":status", b"103"), (b"link", b"x")], ended=False),
        Head(stream_id=1, kind=HeadKind.RESPONSE, fields=RESPONSE, ended=False),
        Data(stream_id=1, content=b"abc", ended=False),
        Head(stream_id=1, kind=HeadKind.TRAILER, fields=[(b"grpc-status", b"0")], ended=True),
    ]


def test_fields_that_must_not_be_indexed_stay_so() -> None:
    """From one connection to the next."""
    client, server = Talk(), Talk(is_client=True)
    client.peer.send_headers(1, [*REQUEST, NeverIndexedHeaderTuple(b"authorization", b"secret"), (b"x", b"y")])
    [head] = client.said()
    assert isinstance(head, Head)
    server.end.open_stream(head.fields, ended=True)
    [event] = [each for each in server.hears() if isinstance(each, h2.events.RequestReceived)]
    assert [type(field) is NeverIndexedHeaderTuple for field in event.headers] == [*[False] * 4, True, False]


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=400), preface=st.booleans())
def test_noise_is_refused_or_understood(noise: bytes, preface: bool) -> None:
    """Nothing else can happen."""
    end = Http2End(is_client=False, head_bytes_max=HEAD_BYTES_MAX)
    try:
        list(end.feed((PREFACE + SETTINGS if preface else b"") + noise, 0.0))
    except Http2Invalid as error:
        assert str(error)
    end.output()


@settings(max_examples=200, deadline=None)
@given(
    frames=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5]), st.binary(max_size=40)),
        max_size=12,
    ),
    is_client=st.booleans(),
)
def test_frames_of_any_kind_are_refused_or_understood(
    frames: list[tuple[int, int, int, bytes]], is_client: bool
) -> None:
    """In any order, on any stream, with any flags."""
    end = Http2End(is_client=is_client, head_bytes_max=HEAD_BYTES_MAX)
    if is_client:
        end.open_stream(REQUEST, ended=False)
    try:
        list(end.feed((b"" if is_client else PREFACE) + SETTINGS + b"".join(frame(*each) for each in frames), 0.0))
    except Http2Invalid:
        pass
    for stream_id in (1, 3, 5):
        end.reset(stream_id, CANCEL)
    end.output()


# -- the end of a connection ---------------------------------------------------


def test_streams_go_on_after_goaway_in_either_direction() -> None:
    """RFC 9113 §6.8: it refuses new ones."""
    talk = Talk()
    talk.peer.send_headers(1, REQUEST)
    talk.said()
    assert list(talk.end.feed(frame(GOAWAY, 0, 0, struct.pack("!II", LAST_STREAM_ID_MAX, 0)), 0.0)) == [
        GoneAway(last_stream_id=LAST_STREAM_ID_MAX, code=NO_ERROR, debug=b"")
    ]
    talk.end.go_away(talk.end.last_stream_id, NO_ERROR, b"bye")
    assert talk.end.output() == frame(GOAWAY, 0, 0, struct.pack("!II", 1, 0) + b"bye")
    talk.peer.send_data(1, b"more", end_stream=True)
    assert talk.said() == [Data(stream_id=1, content=b"more", ended=True)]
    talk.end.send_head(1, RESPONSE, ended=True)
    assert any(isinstance(event, h2.events.ResponseReceived) for event in talk.hears())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(GOAWAY, 0, 1, bytes(8)), "GOAWAY on stream 1"),
        (frame(GOAWAY, 0, 0, bytes(7)), "GOAWAY frame of 16 bytes is too short"),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", "frame of 16385 bytes exceeds 16384"),
        (frame(0, 0, 1, b"x"), "protocol error"),
        (frame(1, 0, 1, b"\x82") + frame(GOAWAY, 0, 0, bytes(8)), "protocol error"),
        (frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), "protocol error"),
        (frame(5, 4, 1, bytes(8)), "protocol error"),
        (frame(8, 0, 0, bytes(4)), "protocol error"),
    ],
)
def test_what_breaks_the_rules_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    """A frame that is too large before it has come."""
    told, code = refusal_of(opened(), data)
    assert reason in told or told.endswith("error")
    assert code != NO_ERROR


def test_the_first_bytes_must_be_the_preface() -> None:
    """Said at the first byte that is not."""
    for first in (b"G", b"PRI * HTTP/1"):
        end = Http2End(is_client=False, head_bytes_max=HEAD_BYTES_MAX)
        assert "preface" in refusal_of(end, first)[0]


def test_what_came_before_a_mistake_is_told() -> None:
    """Also when it came in the same bytes."""
    data, expected = conversation()
    end = Http2End(is_client=False, head_bytes_max=HEAD_BYTES_MAX)
    found: list[Part] = []
    with pytest.raises(Http2Invalid):
        found.extend(end.feed(data + frame(0, 0, 99, b"x"), 0.0))
    assert found == expected


def test_after_the_end_nothing_happens() -> None:
    """Whoever still has something to say need not know."""
    talk = Talk()
    talk.peer.send_headers(1, REQUEST)
    talk.peer.send_data(1, b"x" * 1000)
    talk.said()
    refusal_of(talk.end, frame(GOAWAY, 0, 1, bytes(8)))
    talk.end.release(1, 1000)
    talk.end.send_head(1, RESPONSE, ended=False)
    talk.end.send_data(1, b"x", ended=True)
    talk.end.reset(1, CANCEL)
    talk.end.go_away(1, NO_ERROR)
    assert talk.end.room(1) == 0
    assert talk.end.output() == b""


def test_a_message_of_an_error_quotes_no_field() -> None:
    """It could be a key."""
    talk = Talk()
    talk.peer.config.validate_outbound_headers = False
    talk.peer.send_headers(1, [*REQUEST, (b"Authorization", b"secret")])
    with pytest.raises(Http2Invalid) as caught:
        talk.said()
    assert "secret" not in str(caught.value) and str(caught.value) == "protocol error"


# -- streams -------------------------------------------------------------------


def test_one_stream_too_many_is_refused() -> None:
    """And only that one, also when the peer has not seen our SETTINGS yet."""
    talk = Talk()
    talk.peer.remote_settings = h2.settings.Settings(client=False)
    for number in range(STREAMS_MAX):
        talk.peer.send_headers(2 * number + 1, REQUEST)
    assert len(talk.said()) == STREAMS_MAX
    talk.peer.send_headers(2 * STREAMS_MAX + 1, REQUEST)
    assert talk.said() == []
    [event] = talk.hears()
    assert isinstance(event, h2.events.StreamReset)
    assert (event.stream_id, event.error_code) == (2 * STREAMS_MAX + 1, REFUSED_STREAM)
    talk.end.reset(1, CANCEL)
    talk.peer.send_headers(2 * STREAMS_MAX + 3, REQUEST)
    assert len(talk.said()) == 1


def test_no_more_streams_are_opened_than_the_peer_takes() -> None:
    """A hundred before it has said how many."""
    end = Http2End(is_client=True, head_bytes_max=HEAD_BYTES_MAX)
    ids = [end.open_stream(REQUEST, ended=True) for _ in range(STREAMS_BEFORE_SETTINGS + 1)]
    assert ids == [*range(1, 2 * STREAMS_BEFORE_SETTINGS, 2), None]
    talk = Talk(is_client=True, max_concurrent_streams=2)
    assert [talk.end.open_stream(REQUEST, ended=True) for _ in range(3)] == [1, 3, None]
    talk.hears()
    talk.peer.send_headers(1, RESPONSE, end_stream=True)
    talk.said()
    assert talk.end.open_stream(REQUEST, ended=True) == 5


def test_a_head_that_is_too_large_ends_the_connection() -> None:
    """Decompressed: a few bytes can stand for many."""
    talk = Talk()
    talk.peer.send_headers(1, [*REQUEST, (b"x", b"y" * HEAD_BYTES_MAX)])
    assert "denial of service" in refusal_of(talk.end, talk.peer.data_to_send())[0]


def test_a_peer_may_not_make_our_compression_table_large() -> None:
    """SETTINGS_HEADER_TABLE_SIZE is what it would take, not what we must use."""
    end = opened(frame(4, 0, 0, struct.pack("!HI", 1, 2**32 - 1)))
    assert end._library.encoder.header_table_size == 65_536


# -- credit --------------------------------------------------------------------


def send_all(talk: Talk, stream_id: int) -> int:
    """Let the peer send as much as it may on a stream; return how much that was."""
    total = 0
    while room := min(talk.peer.local_flow_control_window(stream_id), PIECE_BYTES_MAX):
        talk.peer.send_data(stream_id, bytes(room))
        total += room
        talk.said()
        talk.hears()
    return total


def test_a_stream_gets_credit_for_what_has_gone_on() -> None:
    """And none before."""
    talk = Talk()
    talk.peer.send_headers(1, REQUEST)
    talk.said()
    assert send_all(talk, 1) == STREAM_WINDOW_BYTES == talk.end.held_bytes
    talk.end.release(1, STREAM_WINDOW_BYTES // 2)
    talk.hears()
    assert send_all(talk, 1) == STREAM_WINDOW_BYTES // 2
    talk.end.release(1, talk.end.held_bytes)
    assert talk.end.held_bytes == 0


def test_a_stalled_stream_does_not_stop_the_others() -> None:
    """The connection's credit is given back at once, until too much is held."""
    talk = Talk()
    held = 0
    for number in range(20):
        talk.peer.send_headers(2 * number + 1, REQUEST)
        talk.said()
        held += send_all(talk, 2 * number + 1)
    assert HELD_BYTES_MAX <= held <= HELD_BYTES_MAX + CONNECTION_WINDOW_BYTES
    assert talk.end.held_bytes == held
    for number in range(20):
        talk.end.release(2 * number + 1, min(held, STREAM_WINDOW_BYTES))
        held -= min(held, STREAM_WINDOW_BYTES)
    talk.hears()
    assert send_all(talk, 1) >= STREAM_WINDOW_BYTES // 2


def test_padding_is_credit_given_back_at_once() -> None:
    """It goes nowhere."""
    talk = Talk()
    talk.peer.send_headers(1, REQUEST)
    talk.peer.send_data(1, b"x", pad_length=255)
    talk.said()
    assert talk.end.held_bytes == 1


def test_room_is_what_the_peer_takes() -> None:
    """On the stream, on the connection, in one frame; none on a stream that is over."""
    talk = Talk(initial_window_size=20_000)
    talk.peer.send_headers(1, REQUEST)
    talk.peer.send_headers(3, REQUEST)
    talk.said()
    talk.end.send_head(1, RESPONSE, ended=False)
    assert talk.end.room(1) == PIECE_BYTES_MAX
    talk.end.send_data(1, bytes(PIECE_BYTES_MAX), ended=False)
    assert talk.end.room(1) == 20_000 - PIECE_BYTES_MAX
    talk.hears()
    talk.peer.increment_flow_control_window(5, 1)
    assert talk.said() == [WindowOpened(stream_id=1)]
    assert talk.end.room(1) == 20_005 - PIECE_BYTES_MAX
    talk.end.reset(1, CANCEL)
    assert talk.end.room(1) == 0
    talk.end.send_head(3, RESPONSE, ended=True)
    assert talk.end.room(3) == 0


# -- floods --------------------------------------------------------------------


def open_and_reset(number: int) -> bytes:
    head = b"\x82\x87\x84\x01\x01h"  # GET, https, /, :authority h
    return frame(1, 5, number, head) + frame(3, 0, number, struct.pack("!I", CANCEL))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "resets": lambda number: open_and_reset(2 * number + 1),
    "pings": lambda number: frame(6, 0, 0, bytes(8)),
    "settings": lambda number: SETTINGS,
    "priorities": lambda number: frame(2, 0, 3, bytes(5)),
    "unknown frames": lambda number: frame(0xF0, 0, 0),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_refused(flood: str) -> None:
    """ENHANCE_YOUR_CALM."""
    end = opened()
    data = b"".join(FLOODS[flood](number) for number in range(10_100))
    assert refusal_of(end, data)[1] == ENHANCE_YOUR_CALM


def test_what_is_no_flood_is_not() -> None:
    """The same frames, over a longer time."""
    end = opened()
    for number in range(5_000):
        list(end.feed(open_and_reset(2 * number + 1) + frame(6, 0, 0, bytes(8)), number / 150))


def test_a_budget_is_filled_again_with_time() -> None:
    """Up to what it was."""
    budget = Budget(3, 1.0)
    assert [budget.spend(100.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(103.0)
    assert [budget.spend(1_000.0) for _ in range(4)] == [True, True, True, False]
