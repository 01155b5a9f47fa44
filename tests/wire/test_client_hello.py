"""
A ClientHello is read for its server name and its protocols once it is whole, from any library and in any pieces.

Real ones come from Python's ssl, the OpenSSL command and Go; literal ones show each rule.
"""

import ipaddress
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.wire import client_hello as module
from services.wire.client_hello import (
    CLIENT_HELLO_BYTES_MAX,
    HANDSHAKE_RECORD,
    ClientHello,
    ClientHelloInvalid,
    ClientHelloReader,
    read_whole_hello,
)
from tests.support.go import built
from tests.support.plain_client_hello import plainly_read
from tests.support.splits import cut_at, every_split


def read(*pieces: bytes) -> ClientHello | None:
    """Feed `pieces` until the hello is whole."""
    reader = ClientHelloReader()
    for piece in pieces:
        hello = reader.feed(piece)
        if hello is not None:
            return hello
    return None


# ---------------------------------------------------------------- hellos of real libraries


def python_hello(
    name: str | None, protocols: Sequence[str] = (), newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> bytes:
    """Let Python's ssl say hello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = newest
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1")], ids=repr)
@pytest.mark.parametrize("name", [None, "a.example", "api-1.a_b.example"])
def test_a_hello_of_python_is_read(name: str | None, protocols: tuple[str, ...], newest: ssl.TLSVersion):
    """With and without a name, with and without protocols, of both versions of TLS."""
    assert read(python_hello(name, protocols, newest)) == ClientHello(server_name=name, protocols=protocols)


def test_a_real_hello_is_read_however_it_was_cut():
    """Byte by byte and in two at each position; no part of it is ever taken for the whole."""
    hello = python_hello("a.example", ["h2", "http/1.1"])
    for pieces in every_split(hello):
        assert read(*pieces) == ClientHello(server_name="a.example", protocols=("h2", "http/1.1"))
        assert read(*pieces[:-1]) is None


def test_nothing_is_decided_on_a_part():
    """Each beginning of a hello awaits the rest."""
    hello = python_hello("a.example")
    for length in range(len(hello)):
        assert read(hello[:length]) is None


def test_an_address_is_not_named_by_python_and_not_read_as_a_name():
    """RFC 6066 §3 forbids it; libraries leave the extension out."""
    assert read(python_hello("127.0.0.1")) == ClientHello(server_name=None, protocols=())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on PATH")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_hello_of_the_openssl_command_is_read(version: str):
    """Over a real connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", version]
        command += ["-servername", "A.Example", "-alpn", "h2,http/1.1"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                reader, hello = ClientHelloReader(), None
                while hello is None:
                    data = connection.recv(100)
                    assert data, "openssl hung up before its hello was whole"
                    hello = reader.feed(data)
            client.wait(timeout=20)
    assert hello == ClientHello(server_name="a.example", protocols=("h2", "http/1.1"))


@pytest.mark.go
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1")], ids=repr)
@pytest.mark.parametrize("name", ["a.example", "127.0.0.1"])
def test_a_hello_of_go_is_read(name: str, protocols: tuple[str, ...], version: str):
    """The library of the language servers; it names no addresses."""
    done = subprocess.run(
        [built("client_hello"), name, version, *protocols], capture_output=True, timeout=60, check=True
    )
    expected = ClientHello(server_name=None if name == "127.0.0.1" else name, protocols=protocols)
    assert read(done.stdout) == expected
    assert read(*cut_at(done.stdout, range(len(done.stdout)))) == expected


# ---------------------------------------------------------------- literal hellos


def vector(size_of_length: int, content: bytes) -> bytes:
    return len(content).to_bytes(size_of_length) + content


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, body)


def names(*entries: tuple[int, bytes]) -> bytes:
    """Make a server_name extension of (type, name) entries."""
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in entries)))


def named(name: bytes) -> bytes:
    return names((0, name))


def offering(*protocols: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))


def message(*extensions: bytes, rest: bytes | None = None) -> bytes:
    """Make a ClientHello message; `rest` stands in the place of the extensions."""
    body = b"\x03\x03" + bytes(32)  # legacy_version, random
    body += vector(1, b"")  # legacy_session_id
    body += vector(2, b"\x13\x01")  # cipher_suites
    body += vector(1, b"\x00")  # legacy_compression_methods
    body += vector(2, b"".join(extensions)) if rest is None else rest
    return b"\x01" + vector(3, body)


def records(data: bytes, *, size: int = 2**14, version: bytes = b"\x03\x01") -> bytes:
    """Cut a message into records of at most `size` bytes."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(bytes([HANDSHAKE_RECORD]) + version + vector(2, part) for part in parts)


LITERAL = bytes.fromhex(
    "16 0301 0003"  # a record of three bytes: less than the header of the message
    "01 0000"
    "16 0303 0027"  # the second of three
    "4b 0303"  # 75 bytes; legacy_version
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"  # random
    "00 0002 13"  # no session id; two bytes of cipher suites, the second of them
    "16 0301 0025"  # in the third
    "01 01 00 0020"  # no compression; 32 bytes of extensions
    "0a0a 0000"  # GREASE, RFC 8701
    "0000 000d 000b 00 0008"  # server_name: a list of 11 bytes, a host_name of 8
    "612e422e 432e642e"  # "a.B.C.d."
    "0010 0007 0005 02 6832 01 78"  # ALPN: "h2", "x"
)


def test_a_hello_may_be_cut_over_several_records():
    """RFC 8446 §5.1; within them it is cut by TCP again."""
    for pieces in every_split(LITERAL):
        assert read(*pieces) == ClientHello(server_name="a.b.c.d", protocols=("h2", "x"))


def test_the_size_of_the_records_does_not_matter():
    """From one byte each to all in one."""
    hello = message(named(b"a.example"), offering(b"h2"))
    for size in range(1, len(hello) + 1):
        assert read(records(hello, size=size)) == ClientHello(server_name="a.example", protocols=("h2",))


def test_a_hello_may_come_as_a_memoryview():
    """A shell reads into a buffer of its own."""
    assert ClientHelloReader().feed(memoryview(LITERAL)) == read(LITERAL)


def test_a_hello_may_have_no_extensions():
    """TLS 1.2 lets it end before them; an empty list of them says as little."""
    assert read(records(message(rest=b""))) == read(records(message())) == ClientHello(server_name=None, protocols=())


def test_extensions_that_nobody_knows_are_skipped():
    """GREASE, RFC 8701, with a body and without; a protocol may be GREASE as well."""
    hello = message(extension(0x1A1A, b""), named(b"a"), extension(0xFAFA, b"\x00\xff"), offering(b"\xca\xca", b"h2"))
    assert read(records(hello)) == ClientHello(server_name="a", protocols=("\xca\xca", "h2"))


@pytest.mark.parametrize(
    "after",
    [
        b"\x14\x03\x03\x00\x01\x01",  # a change of cipher spec, RFC 8446 §D.4
        b"\x17\x03\x03\x00\x05early",
        b"\x17\x03\x03\x40\x00" + bytes(2**14),  # as much early data as a record holds
        b"\x16\x03\x03\x00\x00",
        b"no TLS at all",
    ],
    ids=["cipher-spec", "early-data", "much-early-data", "empty-record", "noise"],
)
def test_what_follows_a_hello_is_left_alone(after: bytes):
    """Whether it comes with the hello or later is up to TCP, so it must not count."""
    hello = python_hello("a.example")
    assert read(hello + after) == read(hello, after) == ClientHello(server_name="a.example", protocols=())


def test_bytes_behind_a_hello_in_its_own_record_are_left_alone():
    """They are another message's, which is for the TLS library to judge."""
    assert read(records(message(named(b"a")) + b"\x0b\x00\x00\x00")) == ClientHello(server_name="a", protocols=())


# ---------------------------------------------------------------- server names


@pytest.mark.parametrize(
    ("name", "read_as"),
    [
        (b"a.example", "a.example"),
        (b"A.EXAMPLE", "a.example"),
        (b"a.example.", "a.example"),
        (b"localhost", "localhost"),
        (b"_a.b-c.--.1", "_a.b-c.--.1"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"1.2.3", "1.2.3"),
        (b"a" * 63 + b".example", "a" * 63 + ".example"),
        (b".".join([b"a" * 49] * 5) + b".abc", ".".join(["a" * 49] * 5) + ".abc"),  # 253 bytes
    ],
)
def test_a_server_name_is_lower_case_without_a_closing_dot(name: bytes, read_as: str):
    """So that one host has one name."""
    assert read(records(message(named(name)))) == ClientHello(server_name=read_as, protocols=())


@pytest.mark.parametrize(
    "name",
    [b"192.0.2.1", b"192.0.2.1.", b"::1", b"2001:DB8::1", b"[2001:db8::1]", b"::ffff:192.0.2.1", b"fe80::1%eth0"],
)
def test_an_address_is_no_server_name(name: bytes):
    """RFC 6066 §3 forbids it, some clients send it all the same, and the connection has an address of its own."""
    assert read(records(message(named(name)))) == ClientHello(server_name=None, protocols=())


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b"a..",
        b".a",
        b"a..b",
        b"a" * 64,
        b".".join([b"a" * 49] * 5) + b".abcd",  # 254 bytes
        b"a b",
        b"a\x00.example",
        b"a\n",
        b"a\r\nb",
        b"a/b",
        b"a:443",
        b"*.example",
        b"a@b",
        b"%61",
        b"b\xfccher.example",
        b"b\xc3\xbccher.example",
        b"\xe2\x84\xaa.example",  # the sign for Kelvin, which Unicode lowers to "k"
        b"1.2.3.4:443",
        b"[a]",
    ],
)
def test_a_server_name_of_anything_else_is_refused(name: bytes):
    """It goes into certificates, logs and look-ups."""
    with pytest.raises(ClientHelloInvalid, match="^server name .* is no host name$"):
        read(records(message(named(name))))


def test_names_of_other_types_are_skipped():
    """RFC 6066 §3 defines one type of name and leaves room for more."""
    for extensions, expected in (
        (names((1, b"\x00"), (0, b"a")), "a"),
        (names((0, b"a"), (7, b"")), "a"),
        (names((7, b"b")), None),
    ):
        assert read(records(message(extensions))) == ClientHello(server_name=expected, protocols=())


def test_many_names_are_each_read_as_what_they_are():
    """More than are remembered, and the first ones again."""
    hellos = [(f"h{number}.example", records(message(named(f"h{number}.example".encode())))) for number in range(200)]
    for name, hello in [*hellos, *hellos[:20]]:
        assert read(hello) == ClientHello(server_name=name, protocols=())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("hello", "problem"),
    [
        (message(named(b"a"), named(b"a")), "extension 0 is there twice"),
        (message(extension(0x0A0A, b""), extension(0x0A0A, b"")), "extension 2570 is there twice"),
        (message(names((0, b"a"), (0, b"b"))), "server name of type 0 is there twice"),
        (message(names()), "list of server names is empty"),
        (message(extension(0, b"")), "client hello ends 2 bytes early"),
        (message(named(b"a") + b"\x00"), "client hello ends 1 bytes early"),
        (message(extension(0, b"\x00\x04\x00\x00\x01aa")), "client hello has 1 bytes left over"),
        (message(extension(0, b"\x00\x04\x00\x00\x02a")), "client hello ends 1 bytes early"),
        (message(offering()), "list of protocols is empty or holds an empty name"),
        (message(offering(b"h2", b"")), "list of protocols is empty or holds an empty name"),
        (message(extension(16, b"\x00\x03\x02h2h2")), "client hello has 2 bytes left over"),
        (message(extension(16, b"\x00\x02\x02h")), "client hello ends 1 bytes early"),
        (message(rest=b"\x00"), "client hello ends 1 bytes early"),
        (message(rest=b"\x00\x04\x0a\x0a\x00"), "client hello ends 1 bytes early"),
        (message(rest=b"\x00\x05"), "client hello ends 5 bytes early"),
        (message(extension(0x0A0A, b"") + b"\x0a\x0a\x00\x05"), "client hello ends 5 bytes early"),
        (message(rest=b"\x00\x00\x00"), "client hello has 1 bytes left over"),
        (b"\x01\x00\x00\x00", "client hello ends 34 bytes early"),
        (b"\x01" + vector(3, bytes(34)), "client hello ends 1 bytes early"),
        (b"\x02" + vector(3, b""), "handshake message is of type 2, not 1"),
        (b"\x00", "handshake message is of type 0, not 1"),
    ],
)
def test_a_malformed_hello_is_refused(hello: bytes, problem: str):
    """Also where some reader would find a name in it: the TLS library behind us might find another."""
    for pieces in every_split(records(hello)):
        with pytest.raises(ClientHelloInvalid, match=f"^{problem}$"):
            read(*pieces)


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"GET / HTTP/1.1\r\n", "47 45"),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", "43 4f"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "53 53"),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "80 2e"),  # SSLv2
        (b"\x15\x03\x01\x00\x02\x02\x28", "15 03"),  # an alert
        (b"\x17\x03\x03\x00\x05early", "17 03"),
        (b"\x16\xfe\xff\x00\x00", "16 fe"),  # DTLS
        (b"\x16\x02\x00\x00\x05\x01", "16 02"),
        (b"\x00", "00"),
    ],
)
def test_what_is_no_handshake_is_refused_at_its_first_bytes(data: bytes, start: str):
    """Nobody is kept waiting for a hello that cannot come."""
    with pytest.raises(ClientHelloInvalid, match=f"^record starts with {start}, not with a TLS handshake$"):
        read(data)
    with pytest.raises(ClientHelloInvalid):
        read(*cut_at(data[:2], [1]))


def test_another_record_in_the_middle_of_a_hello_is_refused():
    """RFC 8446 §5.1: nothing may stand between the records of one message."""
    parts = records(message(named(b"a")), size=40)
    with pytest.raises(ClientHelloInvalid, match="^record starts with 17 03, not with a TLS handshake$"):
        read(parts[:45] + b"\x17\x03\x03\x00\x01x" + parts[45:])


@pytest.mark.parametrize("length", [0, 2**14 + 1, 2**16 - 1])
def test_a_record_of_a_forbidden_size_is_refused_by_its_header(length: int):
    """RFC 8446 §5.1: no empty ones, and none over 2**14 bytes."""
    with pytest.raises(ClientHelloInvalid, match=f"^record of {length} bytes; 1 to 16384 are allowed$"):
        read(b"\x16\x03\x01" + length.to_bytes(2))


def hello_of(size: int, record_size: int) -> bytes:
    """Make a hello that takes `size` bytes on the wire."""
    made = (records(message(extension(21, bytes(padding))), size=record_size) for padding in range(size, 0, -1))
    return next(data for data in made if len(data) == size)


@pytest.mark.parametrize("record_size", [2**14, 1000])
def test_a_hello_has_a_limit(record_size: int):
    """In bytes on the wire, and the same one whether it comes whole or in parts."""
    largest = hello_of(CLIENT_HELLO_BYTES_MAX, record_size)
    assert read(largest) == read(*cut_at(largest, range(len(largest)))) == read(largest[:-1], largest[-1:] + b"more")
    assert read(largest) == ClientHello(server_name=None, protocols=())
    too_large = hello_of(CLIENT_HELLO_BYTES_MAX + 1, record_size)
    for pieces in ([too_large], [too_large[:-1], too_large[-1:]], [too_large + b"more"]):
        with pytest.raises(ClientHelloInvalid, match=r"^client hello of \d+ bytes or more exceeds 16384$"):
            read(*pieces)


def test_a_hello_that_says_to_be_too_large_is_refused_at_once():
    """Before the rest of it has come."""
    with pytest.raises(ClientHelloInvalid, match="^client hello of 16385 bytes or more exceeds 16384$"):
        read(records(b"\x01" + (CLIENT_HELLO_BYTES_MAX + 1).to_bytes(3)))


def test_records_too_small_to_ever_make_a_hello_have_the_limit_too():
    """What is kept is bounded by what is received, not by what is said."""
    with pytest.raises(ClientHelloInvalid, match=r"^client hello of \d+ bytes or more exceeds 16384$"):
        read(records(b"\x01\x00\x3f\xff" + bytes(4000), size=1))


# ---------------------------------------------------------------- any hello, and noise


NAMES = st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z][a-z0-9_-]{0,20}){1,4}", fullmatch=True)
PROTOCOLS = st.lists(st.text(st.characters(max_codepoint=255), min_size=1, max_size=255), min_size=1, max_size=4)
CUTS = st.lists(st.integers(1, 400), max_size=8)


def verdict(pieces: Sequence[bytes]) -> ClientHello | type[ClientHelloInvalid] | None:
    try:
        return read(*pieces)
    except ClientHelloInvalid:
        return ClientHelloInvalid


@given(
    NAMES | st.none(), PROTOCOLS | st.none(), st.lists(st.binary(max_size=30), max_size=3), st.integers(1, 300), CUTS
)
def test_what_is_written_is_read(
    name: str | None, protocols: list[str] | None, others: list[bytes], record_size: int, cuts: list[int]
):
    """Any name, any protocols, other extensions around them, any records, any pieces."""
    extensions = [extension(1000 + number, body) for number, body in enumerate(others)]
    if name is not None:
        extensions.insert(len(extensions) // 2, named(name.encode()))
    if protocols is not None:
        extensions.insert(len(extensions) // 3, offering(*(protocol.encode("latin-1") for protocol in protocols)))
    data = records(message(*extensions), size=record_size)
    assert read(*cut_at(data, cuts)) == ClientHello(server_name=name, protocols=tuple(protocols or ()))


@given(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=3), CUTS)
def test_the_verdict_on_a_spoiled_hello_does_not_depend_on_how_it_was_cut(
    spoilt: list[tuple[int, bytes, int]], cuts: list[int]
):
    """Read, awaited or refused alike, and refused in our own words only."""
    data = LITERAL
    for at, inserted, gone in spoilt:
        data = data[:at] + inserted + data[at + gone :]
    whole = verdict([data])
    assert verdict(cut_at(data, cuts)) == verdict(cut_at(data, range(len(data)))) == whole


@given(
    st.lists(
        st.sampled_from(
            [named(b"a"), named(b"b.example"), names((7, b"x"), (0, b"a")), names((0, b"a"), (0, b"a")), names()]
            + [offering(b"h2", b"http/1.1"), offering(b"h2"), offering(b""), offering(), extension(0x0A0A, b"")]
        ),
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=2), st.integers(0, 2)), max_size=2),
    st.booleans(),
)
def test_a_hello_is_judged_as_if_it_were_read_field_by_field(
    extensions: list[bytes], spoilt: list[tuple[int, bytes, int]], fits: bool
):
    """Spoilt anywhere, whatever does not fit then: the same is read, or refused for the same reason."""
    data = b"".join(extensions)
    if not fits:  # else the length of all extensions is right, and what is spoilt is inside
        data = message(*extensions)[4:]
    for at, inserted, gone in spoilt:
        data = data[:at] + inserted + data[at + gone :]
    body = message(data)[4:] if fits else data
    try:
        expected: ClientHello | str = plainly_read(body)
    except ClientHelloInvalid as problem:
        expected = str(problem)
    try:
        found: ClientHello | str | None = read(records(b"\x01" + vector(3, body)))
    except ClientHelloInvalid as problem:
        found = str(problem)
    if isinstance(expected, ClientHello) and isinstance(found, str):
        assert found == f"server name {(expected.server_name or '').lower().removesuffix('.')!r} is no host name"
    elif isinstance(expected, ClientHello) and expected.server_name is not None:
        assert isinstance(found, ClientHello) and found.protocols == expected.protocols
        assert found.server_name in (expected.server_name.lower().removesuffix("."), None)
    else:
        assert found == expected


EXTENSIONS = st.lists(
    st.tuples(st.sampled_from([0, 16, 43, 51, 0x0A0A]), st.binary(max_size=12))
    | st.tuples(st.just(0), st.sampled_from([named(b"a.b")[4:], named(b"b.example")[4:]]))
    | st.tuples(st.just(16), st.sampled_from([offering(b"h2")[4:], offering(b"a", b"b")[4:]])),
    max_size=5,
)


@given(EXTENSIONS, st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=3), EXTENSIONS)
def test_what_was_learnt_from_one_hello_is_right_for_the_next(
    first: list[tuple[int, bytes]], changes: list[tuple[int, int]], second: list[tuple[int, bytes]]
):
    """Of the same length: laid out alike with other contents, or with a byte changed anywhere, or not alike at all."""
    hello, other = (records(message(*(extension(*each) for each in extensions))) for extensions in (first, second))
    changed = bytearray(hello)
    for at, value in changes:
        changed[at % len(hello)] = value
    fitted = records(b"\x01" + vector(3, other[9:].ljust(len(hello) - 9, b"\0")[: len(hello) - 9]))
    hellos = [hello, bytes(changed), other, fitted, hello]
    alone = []
    for each in hellos:
        module._layouts.clear()
        alone.append(judged(each))
    module._layouts.clear()
    assert [judged(each) for each in hellos] == alone


def judged(hello: bytes, by: Callable[[bytes], ClientHello | None] = read_whole_hello) -> ClientHello | str | None:
    try:
        return by(hello)
    except ClientHelloInvalid as problem:
        return str(problem)


@given(EXTENSIONS, st.integers(1, 80))
def test_a_whole_hello_is_read_as_the_reader_would(extensions: list[tuple[int, bytes]], cut: int):
    """The first time and again; what is more or less than a hello in one record is left to the reader."""
    hello = records(message(*(extension(*each) for each in extensions)))
    module._layouts.clear()
    expected = judged(hello, by=read)
    for _ in range(2):
        assert judged(hello) == expected
        for other in (hello[:-1], hello + b"\x16", hello[:cut], records(hello[5:], size=cut), b""):
            if other != hello:
                assert read_whole_hello(other) is None


@given(
    st.integers(0, 3), st.integers(0, 300), st.integers(0, 9), st.sampled_from(["", "1", "01", "a", "0x7f", "_", "-"])
)
def test_only_addresses_are_taken_for_addresses(dots: int, number: int, other: int, odd: str):
    """A name may look like one, and must not be lost by that: tried against what `ipaddress` says."""
    text = ".".join([str(number), odd or str(other), str(other), str(number)][: dots + 1])
    try:
        expected = None if ipaddress.ip_address(text) else text
    except ValueError:
        expected = text
    assert read(records(message(named(text.encode())))) == ClientHello(server_name=expected, protocols=())


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03"])
)
def test_noise_is_refused_in_our_own_words(noise: bytes, start: bytes):
    """Nothing but ClientHelloInvalid is ever raised, whatever a peer sends."""
    verdict([start + noise])
    verdict([records(message(rest=noise))])
    verdict([records(message(extension(0, noise), extension(16, noise)))])
