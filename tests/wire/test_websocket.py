"""What one side of a WebSocket says is read as wsproto reads it, however it is cut; what is broken only raises."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from services.wire.errors import WireError
from services.wire.websocket import (
    FINAL_BLOCKS_MAX,
    NO_STATUS,
    PermessageDeflate,
    WebSocketInvalid,
    WebSocketReader,
    agreed_compression,
)
from tests.support.splits import cut_at

MIB = 1024 * 1024
CUTS = st.lists(st.integers(min_value=1, max_value=400), max_size=8)
# Text that deflates, in all sizes of a frame's length, beside text that does not.
TEXTS = st.one_of(
    st.text(max_size=30),
    st.builds(lambda word, times: word * times, st.text(min_size=1, max_size=8), st.integers(0, 3000)),
    st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(70_000).hex()),
)
# What the client offers; the server's answer is what counts.
OFFERS = st.fixed_dictionaries(
    {
        "client_no_context_takeover": st.booleans(),
        "server_no_context_takeover": st.booleans(),
        "client_max_window_bits": st.integers(9, 15),
        "server_max_window_bits": st.integers(9, 15),
    }
)
DEFLATE = PermessageDeflate(client_keeps_context=True, server_keeps_context=True)


def agreement(offer: dict[str, int] | None) -> tuple[PerMessageDeflate | None, PerMessageDeflate | None, str]:
    """Return the extension of client and of server, and the header that says so."""
    if offer is None:
        return None, None, ""
    client, server = PerMessageDeflate(**offer), PerMessageDeflate(**offer)
    asked = client.offer()
    answer = server.accept(f"permessage-deflate; {asked}" if asked is not True else "permessage-deflate")
    assert answer is not None and answer is not False
    header = "permessage-deflate" if answer is True else f"permessage-deflate; {answer}"
    client.finalize(header)
    return client, server, header


def frames_of(
    messages: list[tuple[str, bool, int, bool]], *, is_client: bool, extension: PerMessageDeflate | None
) -> bytes:
    """Write messages as (text, is binary, fragments, with pings between them), with wsproto."""
    kind = ConnectionType.CLIENT if is_client else ConnectionType.SERVER
    connection = Connection(kind, [extension] if extension else [])
    sent = b""
    for text, is_binary, fragments, has_pings in messages:
        size = max(1, -(-len(text) // fragments))
        pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]
        for n, piece in enumerate(pieces):
            is_last = n == len(pieces) - 1
            message: Event = (
                BytesMessage(data=piece.encode(), message_finished=is_last)
                if is_binary
                else TextMessage(data=piece, message_finished=is_last)
            )
            sent += connection.send(message)
            if has_pings:
                sent += connection.send(Ping(payload=b"\x81\x00ping")) + connection.send(Pong(payload=b""))
    return sent + connection.send(CloseConnection(code=1000, reason="enough"))


def read_by_wsproto(data: bytes, *, is_client: bool, extension: PerMessageDeflate | None) -> tuple[list[bytes], bool]:
    """Return the text messages in `data`, and whether wsproto accepts all of it up to a close frame."""
    protocol = FrameProtocol(client=not is_client, extensions=[extension] if extension else [])
    texts: list[bytes] = []
    text = ""
    protocol.receive_bytes(data)
    try:
        for frame in protocol.received_frames():
            if frame.opcode is Opcode.CLOSE:
                break
            if frame.opcode is Opcode.TEXT:
                text += frame.payload  # type: ignore[operator]  # wsproto has decoded it
                if frame.message_finished:
                    texts.append(text.encode())
                    text = ""
    except (ParseFailed, zlib.error):
        return texts, False
    return texts, True


MESSAGES = st.lists(st.tuples(TEXTS, st.booleans(), st.integers(1, 5), st.booleans()), max_size=6)


@settings(deadline=None, max_examples=150)
@given(messages=MESSAGES, offer=st.none() | OFFERS, is_client=st.booleans(), cuts=CUTS)
def test_whole_text_messages_come_out_however_they_were_cut(
    messages: list[tuple[str, bool, int, bool]], offer: dict[str, int] | None, is_client: bool, cuts: list[int]
) -> None:
    """Masked or not, fragmented, with control frames in between, under every agreement on compression."""
    client, server, header = agreement(offer)
    data = frames_of(messages, is_client=is_client, extension=client if is_client else server)
    reader = WebSocketReader(is_client=is_client, compression=agreed_compression(header))
    texts = [text for piece in cut_at(data, cuts) for text in reader.feed(piece)]
    assert texts == [text.encode() for text, is_binary, _, _ in messages if not is_binary]
    assert reader.close_code == 1000
    # wsproto 1.3 takes a control frame between compressed fragments for the end of the message.
    if offer is None or not any(has_pings for *_, has_pings in messages):
        assert read_by_wsproto(data, is_client=is_client, extension=server if is_client else client)[0] == texts


@settings(deadline=None, max_examples=60)
@given(offer=st.none() | OFFERS, is_client=st.booleans(), texts=st.lists(st.text(max_size=300), max_size=4))
def test_bytes_may_come_one_by_one(offer: dict[str, int] | None, is_client: bool, texts: list[str]) -> None:
    """Each message is there with its last byte, not before and not after."""
    client, server, header = agreement(offer)
    connection = FrameProtocol(client=is_client, extensions=[e] if (e := client if is_client else server) else [])
    reader = WebSocketReader(is_client=is_client, compression=agreed_compression(header))
    for text in texts:
        data = connection.send_data(text, fin=True)
        assert [reader.feed(data[n : n + 1]) for n in range(len(data) - 1)] == [[]] * (len(data) - 1)
        assert reader.feed(data[-1:]) == [text.encode()]
        assert reader.is_between_messages


@settings(deadline=None)
@given(messages=MESSAGES, is_client=st.booleans(), keep=st.floats(0, 1))
def test_what_breaks_off_has_given_the_messages_before_it(
    messages: list[tuple[str, bool, int, bool]], is_client: bool, keep: float
) -> None:
    """Nothing is raised for what is missing."""
    data = frames_of(messages, is_client=is_client, extension=None)
    kept = data[: int(len(data) * keep)]
    assert (
        WebSocketReader(is_client=is_client).feed(kept) == read_by_wsproto(kept, is_client=is_client, extension=None)[0]
    )


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=400), is_client=st.booleans(), is_deflated=st.booleans(), cuts=CUTS)
def test_noise_raises_nothing_but_its_own_error(
    data: bytes, is_client: bool, is_deflated: bool, cuts: list[int]
) -> None:
    """Whatever comes, and however."""
    reader = WebSocketReader(is_client=is_client, compression=DEFLATE if is_deflated else None)
    try:
        for piece in cut_at(data, cuts):
            reader.feed(piece)
    except WireError as error:
        assert str(error)


@settings(deadline=None, max_examples=300)
@given(
    messages=st.lists(st.tuples(st.text(max_size=40), st.booleans(), st.integers(1, 3), st.booleans()), max_size=4),
    offer=st.none() | OFFERS,
    is_client=st.booleans(),
    where=st.integers(0, 10_000),
    bit=st.integers(0, 7),
)
def test_what_wsproto_accepts_is_accepted_and_read_alike(
    messages: list[tuple[str, bool, int, bool]], offer: dict[str, int] | None, is_client: bool, where: int, bit: int
) -> None:
    """One flipped bit: either both read the same, or wsproto refuses it (and we may be more patient)."""
    client, server, header = agreement(offer)
    if offer is not None:  # see above
        messages = [(text, is_binary, fragments, False) for text, is_binary, fragments, _ in messages]
    data = bytearray(frames_of(messages, is_client=is_client, extension=client if is_client else server))
    data[where % len(data)] ^= 1 << bit
    expected, is_good = read_by_wsproto(bytes(data), is_client=is_client, extension=server if is_client else client)
    reader = WebSocketReader(is_client=is_client, compression=agreed_compression(header))
    try:
        texts = reader.feed(bytes(data))
    except WireError:
        assert not is_good
    else:
        assert texts[: len(expected)] == expected
        assert texts == expected or not is_good


# -- the rules of frames, RFC 6455 §5 ------------------------------------------------------------------------------


def server_frame(first: int, payload: bytes) -> bytes:
    """Write a frame as a server would."""
    size = len(payload)
    length = (
        bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    )
    return bytes((first,)) + length + payload


@pytest.mark.parametrize(
    ("broken", "why"),
    {
        "a reserved bit": (b"\xa1\x00", "reserved bits"),
        "an unknown opcode": (b"\x83\x00", "opcode 0x3 is not known"),
        "compression that nobody agreed on": (b"\xc1\x01a", "no compression was agreed on"),
        "a masked frame of a server": (b"\x81\x81abcdA", "frame of the server is masked"),
        "a continuation of nothing": (b"\x80\x00", "continues nothing"),
        "a message inside a message": (b"\x01\x01a\x81\x01b", "inside another one"),
        "a long ping": (b"\x89\x7e\x00\x7e", "control frame 0x89 of 126 bytes"),
        "a ping in fragments": (b"\x09\x00", "control frame 0x09"),
        "a length of two bytes that fits in one": (b"\x81\x7e\x00\x7d", "length 125 in 2 bytes"),
        "a length of eight bytes that fits in two": (b"\x81\x7f" + (65535).to_bytes(8), "length 65535 in 8 bytes"),
        "a negative length": (b"\x82\x7f" + b"\xff" * 8, "in 8 bytes is malformed"),
    }.values(),
)
def test_a_broken_frame_is_named(broken: bytes, why: str) -> None:
    """Behind it no frame could be found."""
    with pytest.raises(WebSocketInvalid, match=why):
        WebSocketReader(is_client=False).feed(broken)


def test_the_messages_before_a_broken_frame_are_not_lost() -> None:
    """They came in the same read, and the error brings them."""
    with pytest.raises(WebSocketInvalid) as raised:
        WebSocketReader(is_client=False).feed(server_frame(0x81, b"1") + server_frame(0x81, b"2") + b"\xff\x00")
    assert raised.value.texts == (b"1", b"2")


def test_an_unmasked_frame_of_a_client_is_refused() -> None:
    """RFC 6455 §5.1."""
    with pytest.raises(WebSocketInvalid, match="frame of the client is not masked"):
        WebSocketReader(is_client=True).feed(b"\x81\x01a")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (FrameProtocol(client=False, extensions=[]).close(), NO_STATUS),
        (FrameProtocol(client=False, extensions=[]).close(CloseReason.GOING_AWAY, "bye"), 1001),
        (b"\x88\x01\x03", NO_STATUS),
        (b"\x88\x02\x00\x00", 0),
    ],
)
def test_nothing_is_read_behind_a_close_frame(frame: bytes, code: int) -> None:
    """Its code is told, an odd one too; what follows has no meaning and raises nothing."""
    reader = WebSocketReader(is_client=False)
    assert reader.feed(server_frame(0x81, b"1") + frame + b"\xff" * 20) == [b"1"]
    assert reader.close_code == code
    assert reader.feed(server_frame(0x81, b"2")) == []


def test_text_that_is_no_utf_8_is_the_two_ends_own_affair() -> None:
    """They will close; the framing is sound, and the next message can be read."""
    data = server_frame(0x81, b"\xff\xfe") + server_frame(0x81, b"{}")
    assert WebSocketReader(is_client=False).feed(data) == [b"\xff\xfe", b"{}"]


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_text_message_has_a_limit_however_it_is_cut() -> None:
    """It is known from the head of the frame, before anything is kept."""
    head = server_frame(0x01, b"a" * 60) + b"\x80\x29"
    with pytest.raises(WebSocketInvalid, match="more than 100 bytes"):
        WebSocketReader(is_client=False, message_bytes_max=100).feed(head)
    exact = server_frame(0x01, b"a" * 60) + server_frame(0x80, b"a" * 40)
    assert WebSocketReader(is_client=False, message_bytes_max=100).feed(exact) == [b"a" * 100]


def test_binary_messages_have_none() -> None:
    """They are counted over: 2^40 bytes would fit in no memory."""
    reader = WebSocketReader(is_client=False, message_bytes_max=100)
    assert reader.feed(b"\x82\x7f" + (1 << 40).to_bytes(8) + b"x" * 1000) == []
    assert not reader.is_between_messages
    frame = server_frame(0x82, b"x" * 70_000)
    assert WebSocketReader(is_client=False, message_bytes_max=100).feed(frame + server_frame(0x81, b"1")) == [b"1"]


@pytest.mark.parametrize("first", [0xC1, 0xC2])
def test_a_bomb_costs_no_more_than_the_limit(first: int) -> None:
    """A message of either kind that inflates to a gigabyte ends the reading."""
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(b"\x00" * 20 * MIB) + deflater.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(WebSocketInvalid, match="inflates to more"):
        WebSocketReader(is_client=False, compression=DEFLATE, message_bytes_max=MIB).feed(server_frame(first, bomb))


def test_the_limit_is_for_each_message() -> None:
    """A connection may last for days."""
    deflater = zlib.compressobj(wbits=-15)
    reader = WebSocketReader(is_client=False, compression=DEFLATE, message_bytes_max=100)
    for _ in range(10):
        message = (deflater.compress(b"a" * 100) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert reader.feed(server_frame(0xC1, message)) == [b"a" * 100]


# -- permessage-deflate, RFC 7692 ----------------------------------------------------------------------------------


def test_the_examples_of_rfc_7692_are_read() -> None:
    """§7.2.3: one block, two frames, a reference to the message before, no compression, a final block, two blocks."""
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    examples = [
        "c1 07 f2 48 cd c9 c9 07 00",
        "41 03 f2 48 cd 80 04 c9 c9 07 00",
        "c1 05 f2 00 11 00 00",
        "c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00",
        "c1 08 f3 48 cd c9 c9 07 00 00",
        "c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
        "81 05 48 65 6c 6c 6f",
    ]
    for example in examples:
        assert reader.feed(bytes.fromhex(example)) == [b"Hello"]


def test_the_context_outlives_a_final_block() -> None:
    """§7.2.3.5 ends a stream, and not what later messages may refer to."""
    final = zlib.compressobj(wbits=-15)
    first = final.compress(b"one two three four") + final.flush() + b"\x00"
    following = zlib.compressobj(wbits=-15, zdict=b"one two three four")
    second = (following.compress(b"two three four five") + following.flush(zlib.Z_SYNC_FLUSH))[:-4]
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    assert reader.feed(server_frame(0xC1, first)) == [b"one two three four"]
    assert reader.feed(server_frame(0xC1, second)) == [b"two three four five"]


def test_the_byte_behind_a_final_block_may_be_missing() -> None:
    """Senders forget it, and there is no doubt about what they mean."""
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    for _ in range(2):
        assert reader.feed(bytes.fromhex("c1 07 f3 48 cd c9 c9 07 00")) == [b"Hello"]


def test_final_blocks_have_a_limit() -> None:
    """Each costs a new stream."""
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    with pytest.raises(WebSocketInvalid, match="final blocks"):
        reader.feed(server_frame(0xC1, b"\x03\x00" * (FINAL_BLOCKS_MAX + 1)))


def test_a_binary_message_is_inflated_only_where_others_may_refer_to_it() -> None:
    """Then what it says is forgotten."""
    deflater = zlib.compressobj(wbits=-15)
    binary = (deflater.compress(b"some words") + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    text = (deflater.compress(b"some words") + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    assert reader.feed(server_frame(0xC2, binary) + server_frame(0xC1, text)) == [b"some words"]
    apart = PermessageDeflate(client_keeps_context=True, server_keeps_context=False)
    assert WebSocketReader(is_client=False, compression=apart).feed(server_frame(0xC2, b"\xff" * 9)) == []


def test_without_context_no_message_may_refer_back() -> None:
    """What was agreed is what is held to."""
    deflater = zlib.compressobj(wbits=-15)
    reader = WebSocketReader(
        is_client=False, compression=PermessageDeflate(client_keeps_context=True, server_keeps_context=False)
    )
    messages = [(deflater.compress(b"words " * 9) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2)]
    assert reader.feed(server_frame(0xC1, messages[0])) == [b"words " * 9]
    with pytest.raises(WebSocketInvalid, match="not deflated"):
        reader.feed(server_frame(0xC1, messages[1]))


def test_a_message_may_be_left_uncompressed() -> None:
    """The mark is on each message."""
    connection = FrameProtocol(client=False, extensions=[])
    reader = WebSocketReader(is_client=False, compression=DEFLATE)
    assert reader.feed(connection.send_data("plain", fin=True)) == [b"plain"]


@pytest.mark.parametrize(
    ("extensions", "agreed"),
    [
        ("", None),
        (" , ", None),
        ("permessage-deflate", DEFLATE),
        ('permessage-deflate; server_max_window_bits="10";client_max_window_bits = 8', DEFLATE),
        (
            "Permessage-Deflate; server_no_context_takeover",
            PermessageDeflate(client_keeps_context=True, server_keeps_context=False),
        ),
        (
            "permessage-deflate;client_no_context_takeover; server_no_context_takeover",
            PermessageDeflate(client_keeps_context=False, server_keeps_context=False),
        ),
    ],
)
def test_the_agreement_is_read(extensions: str, agreed: PermessageDeflate | None) -> None:
    """The size of the window does not matter to who inflates with the largest."""
    assert agreed_compression(extensions) == agreed


@pytest.mark.parametrize(
    "extensions",
    [
        "x-webkit-deflate-frame",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; what",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ";",
    ],
)
def test_an_extension_that_is_not_known_ends_the_reading(extensions: str) -> None:
    """It may have changed what a frame means."""
    with pytest.raises(WebSocketInvalid, match="is not read"):
        agreed_compression(extensions)


def test_it_shows_where_it_stands() -> None:
    """For whoever debugs a connection."""
    reader = WebSocketReader(is_client=False)
    assert repr(reader) == "<WebSocketReader between messages>"
    reader.feed(b"\x81\x05He")
    assert repr(reader) == "<WebSocketReader inside messages>"
    reader.feed(b"llo" + b"\x88\x02\x03\xe8")
    assert repr(reader) == "<WebSocketReader closed with 1000>"
