"""gRPC messages come out as they were written, in any split and coding, and nothing else passes for one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire.content_encoding import CodingInvalid, CodingUnknown, DecodedTooLarge
from services.wire.errors import WireError
from services.wire.grpc import GrpcInvalid, GrpcMessageReader, status_name, status_of
from tests.support.protobuf import CODERS, grpc_message
from tests.support.splits import CUTS, cut_at, every_split

grpc = pytest.importorskip("grpc", reason="grpcio is not installed (pip install grpcio)")


def read(pieces: list[bytes], reader: GrpcMessageReader | None = None) -> tuple[list[bytes], bool]:
    """Return the messages in `pieces`, and whether what is behind them was refused."""
    reader = reader or GrpcMessageReader()
    found: list[bytes] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
        reader.end()
    except WireError:
        return found, True
    return found, False


def by_sentence(body: bytes) -> tuple[list[bytes], bool]:
    """Read a body whose messages are all plain in one go, as the document says it: the oracle."""
    found = []
    while len(body) >= 5:
        if body[0] > 1 or body[0] == 1 or int.from_bytes(body[1:5], "big") > 16 * 2**20:
            return found, True
        length = int.from_bytes(body[1:5], "big")
        if len(body) < 5 + length:
            return found, False
        found.append(body[5 : 5 + length])
        body = body[5 + length :]
    return found, False


CONTENTS = st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=5)


@pytest.mark.parametrize("coding", CODERS)
@given(CONTENTS, CUTS)
def test_messages_are_those_that_were_written_however_they_are_cut(
    coding: str, contents: list[tuple[bytes, bool]], cuts: list[int]
) -> None:
    """Each of them says whether it is compressed."""
    body = b"".join(grpc_message(content, coding if is_coded else "") for content, is_coded in contents)
    reader = GrpcMessageReader(coding)
    assert read(cut_at(body, cuts), reader) == ([content for content, _ in contents], False)
    assert reader.is_between_messages


@given(st.lists(st.binary(max_size=40), max_size=4), CUTS, st.data())
def test_a_cut_body_gives_its_whole_messages(contents: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    whole = b"".join(map(grpc_message, contents))
    body = whole[: data.draw(st.integers(0, len(whole)))]
    reader = GrpcMessageReader()
    found, refused = read(cut_at(body, cuts), reader)
    assert (found, refused) == by_sentence(body)
    assert reader.is_between_messages == (sum(len(each) + 5 for each in found) == len(body))


@given(st.binary(max_size=200), CUTS)
def test_noise_gives_what_the_document_reads_in_it(noise: bytes, cuts: list[int]) -> None:
    assert read(cut_at(noise, cuts)) == by_sentence(noise)


def test_a_message_is_read_however_it_was_cut() -> None:
    for pieces in every_split(grpc_message(b"hello") + grpc_message(b"") + grpc_message(b"x", "gzip")):
        assert read(pieces, GrpcMessageReader(" GZIP ")) == ([b"hello", b"", b"x"], False)


def test_an_error_waits_until_what_came_before_it_is_read() -> None:
    reader = GrpcMessageReader()
    assert reader.feed(grpc_message(b"a") + b"\x80\0\0\0\0") == [b"a"]
    for step in (reader.end, lambda: reader.feed(b"")):
        with pytest.raises(GrpcInvalid, match="message begins with 128"):
            step()


@pytest.mark.parametrize(
    ("encoding", "body", "error", "problem"),
    [
        ("", b"\2\0\0\0\0", GrpcInvalid, "message begins with 2, neither plain nor compressed"),
        ("", struct.pack(">BI", 0, 1001), GrpcInvalid, "message of 1001 bytes exceeds 1000"),
        ("", struct.pack(">BI", 0, 2**32 - 1), GrpcInvalid, "message of 4294967295 bytes exceeds 1000"),
        ("", grpc_message(b"x", "gzip"), GrpcInvalid, "no coding is named"),
        ("identity", grpc_message(b"x", "gzip"), GrpcInvalid, "no coding is named"),
        ("snappy", grpc_message(b"x", "gzip"), CodingUnknown, "'snappy' is not known"),
        ("gzip", b"\1\0\0\0\3abc", CodingInvalid, "body is not gzip"),
        ("gzip", grpc_message(bytes(1001), "gzip"), DecodedTooLarge, "decode to more than 1000 bytes"),
        ("gzip", grpc_message(bytes(900), "gzip") * 3, DecodedTooLarge, "decodes to more than"),
    ],
)
def test_what_is_refused_says_why(encoding: str, body: bytes, error: type[WireError], problem: str) -> None:
    """A length is judged as soon as it is known: nothing of that size is ever kept, nor decompressed."""
    reader = GrpcMessageReader(encoding, message_bytes_max=1000, decoded_bytes_max=2000)
    with pytest.raises(error, match=problem):
        for position in range(len(body)):
            reader.feed(body[position : position + 1])


def test_a_message_at_the_limit_passes() -> None:
    for coding in ("", *CODERS):
        reader = GrpcMessageReader(coding, message_bytes_max=1000, decoded_bytes_max=1000)
        assert reader.feed(grpc_message(bytes(1000), coding)) == [bytes(1000)]


def test_an_unknown_coding_of_what_is_not_compressed_is_nothing() -> None:
    assert GrpcMessageReader("snappy").feed(grpc_message(b"x")) == [b"x"]


def test_the_names_of_statuses_are_those_of_grpcio() -> None:
    for status in grpc.StatusCode:
        number, _ = status.value
        assert status_name(status_of(str(number))) == status.name


@pytest.mark.parametrize(("value", "name"), [("17", "17"), ("", "UNKNOWN"), ("-1", "UNKNOWN"), ("²", "UNKNOWN")])
def test_a_status_that_is_none_has_a_name_all_the_same(value: str, name: str) -> None:
    assert status_name(status_of(value)) == name
