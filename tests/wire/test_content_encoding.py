"""Whatever the codings of a body, its bytes are read as they come, and no bomb gets more memory than it is given."""

import gzip
import random
import tracemalloc
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from services.wire.content_encoding import CodingInvalid, CodingUnknown, DecodedTooLarge, content_decoder
from tests.support.codings import CODERS, coded
from tests.support.splits import CUTS, cut_at

TEXT = b'data: {"usageMetadata": {"promptTokenCount": 12}}\r\n\r\n' * 40


def decoded(content_encoding: str, pieces: list[bytes]) -> bytes:
    decoder = content_decoder(content_encoding)
    return b"".join(decoder.feed(piece) for piece in pieces)


@pytest.mark.parametrize("coding", CODERS)
@given(body=st.binary(max_size=400) | st.just(TEXT), cuts=CUTS)
def test_a_coded_body_is_read_however_it_is_cut(coding: str, body: bytes, cuts: list[int]) -> None:
    name, data = coded(coding, body)
    assert decoded(name, cut_at(data, cuts)) == body


@pytest.mark.parametrize("coding", CODERS)
def test_a_coded_body_is_read_byte_by_byte(coding: str) -> None:
    name, data = coded(coding, TEXT)
    assert decoded(name, [data[i : i + 1] for i in range(len(data))]) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "deflate", "deflate, raw", "br", "zstd"])
def test_every_flushed_piece_is_read_at_once(coding: str) -> None:
    """A stream shows its counts while it runs, and after an abort too: nobody waits for a trailer."""
    name, flush = _flushing(coding)
    decoder = content_decoder(name)
    for number in range(5):
        event = b'data: {"n": %d}\n\n' % number
        assert decoder.feed(flush(event)) == event


@given(st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), max_size=4), CUTS)
def test_of_several_codings_the_last_is_undone_first(names: list[str], cuts: list[int]) -> None:
    data = TEXT
    for name in names:
        data = coded(name, data)[1]
    assert decoded(", ".join(names), cut_at(data, cuts)) == TEXT


@pytest.mark.parametrize("nothing", ["", "identity", " , ", "Identity, identity"])
def test_without_a_coding_bytes_are_what_they_are(nothing: str) -> None:
    assert decoded(nothing, [b"a", b"", b"b"]) == b"ab"


def test_names_of_codings_know_no_case() -> None:
    assert decoded(" GZip ", [gzip.compress(b"x")]) == b"x"
    assert decoded("x-gzip", [gzip.compress(b"x")]) == b"x"


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), CUTS)
def test_gzip_may_have_several_members(members: list[bytes], cuts: list[int]) -> None:
    data = b"".join(gzip.compress(member) for member in members)
    assert decoded("gzip", cut_at(data, cuts)) == b"".join(members)


@pytest.mark.parametrize("behind", [b"\0" * 40, b"\x1f", b"\x1fxx", b"garbage"])
def test_what_stands_behind_the_last_gzip_member_is_ignored(behind: bytes) -> None:
    data = gzip.compress(b"text") + behind
    for cut in range(len(data)):
        assert decoded("gzip", [data[:cut], data[cut:]]) == b"text"


def test_zstd_may_have_several_frames() -> None:
    compress = zstandard.ZstdCompressor().compress
    assert decoded("zstd", [compress(b"one "), compress(b"two")]) == b"one two"


@pytest.mark.parametrize("level", range(10))
def test_raw_deflate_is_recognised_whatever_its_first_bytes(level: int) -> None:
    chance = random.Random(level)
    for size in (1, 2, 10, 1000, 100_000):
        body = chance.randbytes(size)
        compressor = zlib.compressobj(level, wbits=-15)
        data = compressor.compress(body) + compressor.flush()
        assert decoded("deflate", [data[:1], data[1:2], data[2:]]) == body


@pytest.mark.parametrize("coding", CODERS)
def test_a_bomb_is_refused_before_it_takes_memory(coding: str) -> None:
    name, bomb = coded(coding, bytes(64 * 1024 * 1024))
    decoder = content_decoder(name, feed_bytes_max=1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(DecodedTooLarge, match="decode to more than 1048576 bytes"):
            decoder.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("coding", CODERS)
def test_a_body_has_a_limit_too(coding: str) -> None:
    name, data = coded(coding, bytes(100_000))
    assert len(content_decoder(name, body_bytes_max=100_000).feed(data)) == 100_000
    decoder = content_decoder(name, body_bytes_max=99_999)
    with pytest.raises(DecodedTooLarge, match="body decodes to more than 99999 bytes"):
        for i in range(len(data)):
            decoder.feed(data[i : i + 1])


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "deflate"])
def test_a_body_that_is_not_what_it_says_is_refused(name: str) -> None:
    decoder = content_decoder(name)
    with pytest.raises(CodingInvalid):
        for _ in range(100):
            decoder.feed(b"\xff this is plain text and nothing else")


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "deflate"])
@settings(max_examples=50)
@given(noise=st.binary(max_size=200), cuts=CUTS)
def test_noise_is_decoded_or_refused_and_nothing_else(name: str, noise: bytes, cuts: list[int]) -> None:
    decoder = content_decoder(name)
    try:
        for piece in cut_at(noise, cuts):
            decoder.feed(piece)
    except (CodingInvalid, DecodedTooLarge):
        pass


@pytest.mark.parametrize("name", ["compress", "aes128gcm", "gzip, something"])
def test_an_unknown_coding_is_named(name: str) -> None:
    with pytest.raises(CodingUnknown, match="is not known"):
        content_decoder(name)


def test_more_codings_than_anybody_needs_are_refused() -> None:
    with pytest.raises(CodingUnknown, match="5 content codings exceed 4"):
        content_decoder("gzip, gzip, gzip, gzip, gzip")


def _flushing(coding: str):
    """Return the name of a coding, and a function that codes a piece so that it can be read at once."""
    if coding == "br":
        compressor = brotli.Compressor()
        return "br", lambda data: compressor.process(data) + compressor.flush()
    if coding == "zstd":
        stream = zstandard.ZstdCompressor().compressobj()
        return "zstd", lambda data: stream.compress(data) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    bits = {"gzip": 31, "deflate": 15, "deflate, raw": -15}[coding]
    deflater = zlib.compressobj(wbits=bits)
    return coding.partition(",")[0], lambda data: deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)
