"""
The first bytes of a TLS connection -> the server name and the protocols that the client offers.

RFC 8446 §4.1.2 (ClientHello), §5.1 (records); RFC 6066 §3 (server_name); RFC 7301 §3.1 (ALPN). The message may be cut
over several records and arrive byte by byte: 1,541 bytes is an ordinary size today. Nothing is decided on a part of it,
and what follows it (early data, for one) is left alone. What two readers could take differently, such as a second name
or bytes left over, is refused: the TLS library behind us must see the same name.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from services.wire.errors import WireError

# With its record headers. Go 1.27 with a post-quantum key share sends 1,541 bytes; nobody sends ten times as much.
CLIENT_HELLO_BYTES_MAX = 16 * 1024
HANDSHAKE_RECORD = 22  # RFC 8446 §5.1
_MAJOR_VERSION = 3  # of all of TLS
_RECORD_START = bytes((HANDSHAKE_RECORD, _MAJOR_VERSION))
_RECORD_HEADER = 5
_RECORD_BYTES_MAX = 2**14
_CLIENT_HELLO = 1  # RFC 8446 §4
_MESSAGE_HEADER = 4
# Both headers together: type, version (its minor part is anything), length; type, and length in 8 and 16 bits.
_HEADERS = struct.Struct("!BBxHBBH")
_VERSION_AND_RANDOM = 2 + 32  # RFC 8446 §4.1.2
# legacy_session_id, cipher_suites and legacy_compression_methods begin with their lengths, of so many bytes each.
_SIZES_OF_LENGTHS = (1, 2, 1)
_EXTENSION = struct.Struct("!HH")  # RFC 8446 §4.2, before its body
_SERVER_NAME = 0  # RFC 6066 §1.1
_ALPN = 16  # RFC 7301 §3.1
_HOST_NAME = 0  # RFC 6066 §3
# The name goes into certificates, logs and look-ups: only what a DNS name is made of may pass, in labels of a length
# that resolvers take. The underscore is in use, whatever RFC 952 says.
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
# What clients asked for lately: nearly all connections are to few hosts. No entry is larger than a hello.
_REMEMBERED_MAX = 64


class ClientHelloInvalid(WireError):
    """Bytes that are no ClientHello."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """
    What a client says first.

    Attributes:
        server_name: Lower case, without a closing dot; None when the client names none, or an address: RFC 6066 §3
            allows no addresses, and one says nothing that the connection's own does not.
        protocols: The offered application protocols, most wanted first; empty without ALPN.
    """

    server_name: str | None
    protocols: tuple[str, ...]


class ClientHelloReader:
    """Collects TLS records until the ClientHello is whole; `read_whole_hello` is for one that comes at once."""

    __slots__ = ("_awaited", "_consumed", "_message", "_received")

    def __init__(self) -> None:
        self._received = bytearray()
        self._consumed = 0
        self._message = bytearray()
        self._awaited = _MESSAGE_HEADER  # then what that says

    def feed(self, data: bytes | memoryview) -> ClientHello | None:
        """
        Take the next bytes of the connection.

        Returns:
            The ClientHello once it is whole, else None.

        Raises:
            ClientHelloInvalid: Not a TLS handshake, malformed, or larger than `CLIENT_HELLO_BYTES_MAX`.
        """
        self._received += data
        message = self._message
        while len(message) < self._awaited:
            record = self._next_record()
            if record is None:
                break
            message += record
            if len(message) >= _MESSAGE_HEADER:
                self._awaited = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
        self._check_message()
        if len(message) < self._awaited:
            return None
        return _parsed(bytes(message[_MESSAGE_HEADER : self._awaited]))

    def _next_record(self) -> bytearray | None:
        received, at = self._received, self._consumed
        if not received.startswith(_RECORD_START, at):
            start = received[at : at + 2]
            if _RECORD_START.startswith(start):
                return None
            raise ClientHelloInvalid(f"record starts with {start.hex(' ')}, not with a TLS handshake")
        at += _RECORD_HEADER
        if len(received) < at:
            return None
        length = received[at - 2] << 8 | received[at - 1]
        if not 0 < length <= _RECORD_BYTES_MAX:
            raise ClientHelloInvalid(f"record of {length} bytes; 1 to {_RECORD_BYTES_MAX} are allowed")
        end = at + length
        if len(received) < end:
            return None
        self._consumed = end
        return received[at:end]

    def _check_message(self) -> None:
        message = self._message
        if message and message[0] != _CLIENT_HELLO:
            raise ClientHelloInvalid(f"handshake message is of type {message[0]}, not {_CLIENT_HELLO}")
        is_whole = len(message) >= self._awaited
        size = self._consumed if is_whole else max(len(self._received), self._awaited - _MESSAGE_HEADER)
        if size > CLIENT_HELLO_BYTES_MAX:
            raise ClientHelloInvalid(f"client hello of {size} bytes or more exceeds {CLIENT_HELLO_BYTES_MAX}")


def read_whole_hello(data: bytes) -> ClientHello | None:
    """
    Read a hello that is all that has come, in a record of its own, as nearly all are.

    Returns:
        None if it is not: a `ClientHelloReader` can tell more.

    Raises:
        ClientHelloInvalid: It is malformed.
    """
    layout = _layouts.get(len(data))
    if layout is not None and layout.headers_in(data) == layout.headers:
        names, protocols = layout.names, layout.protocols
    elif _is_one_record(data):
        bodies = _bodies_of_extensions(data, _HEADERS.size)
        names, protocols = bodies.get(_SERVER_NAME), bodies.get(_ALPN)
        if layout is None and len(_layouts) < _REMEMBERED_MAX:
            _layouts[len(data)] = _layout_of(data, bodies)
    else:
        return None
    return _hello_of(None if names is None else data[names], None if protocols is None else data[protocols])


# A hello has some twenty fields and every connection one hello: positions are counted up, and nothing is made for a
# field that nobody asks for.


def _is_one_record(data: bytes) -> bool:
    size = len(data)
    return _HEADERS.size <= size <= CLIENT_HELLO_BYTES_MAX and _HEADERS.unpack_from(data) == (
        HANDSHAKE_RECORD,
        _MAJOR_VERSION,
        size - _RECORD_HEADER,
        _CLIENT_HELLO,
        0,
        size - _HEADERS.size,
    )


def _parsed(message: bytes) -> ClientHello:
    bodies = _bodies_of_extensions(message, 0)
    names, protocols = bodies.get(_SERVER_NAME), bodies.get(_ALPN)
    return _hello_of(None if names is None else message[names], None if protocols is None else message[protocols])


def _bodies_of_extensions(data: bytes, start: int) -> dict[int, slice]:
    """Return where what is in each extension lies; `data[start:]` is the body of a hello."""
    at, size = start + _VERSION_AND_RANDOM, len(data)
    try:
        at += 1 + data[at]  # legacy_session_id
        at += 2 + (data[at] << 8 | data[at + 1])  # cipher_suites
        at += 1 + data[at]  # legacy_compression_methods
    except IndexError:
        raise _cut_off(data, start) from None
    if at > size:
        raise _cut_off(data, start)
    if at == size:
        return {}  # one of TLS 1.2 may end here, without extensions
    at = _last_vector(data, at)
    found: dict[int, slice] = {}
    header_at = _EXTENSION.unpack_from
    try:
        while at < size:
            kind, length = header_at(data, at)
            begin = at + 4
            at = begin + length
            if kind in found and at <= size:
                raise ClientHelloInvalid(f"extension {kind} is there twice")  # RFC 8446 §4.2
            found[kind] = slice(begin, at)
    except struct.error:
        raise _misfit(at + 2 if at + 2 > size else at + 4, at, size) from None
    if at > size:
        raise _misfit(at, at, size)
    return found


def _cut_off(data: bytes, start: int) -> ClientHelloInvalid:
    """Say where the body of a hello, `data[start:]`, ends within the fields that each has."""
    start = at = start + _VERSION_AND_RANDOM
    for size_of_length in _SIZES_OF_LENGTHS:
        if at > len(data):
            break
        start = at + size_of_length
        at = start + int.from_bytes(data[at:start])
    return _misfit(start, at, len(data))


@lru_cache(maxsize=_REMEMBERED_MAX)
def _hello_of(server_names: bytes | None, protocols: bytes | None) -> ClientHello:
    """Read what is in the two extensions; None where there is none."""
    return ClientHello(
        server_name=None if server_names is None else _server_name(server_names),
        protocols=() if protocols is None else _protocol_names(protocols),
    )


class _Layout(NamedTuple):
    """
    How a whole hello is laid out, record header and all.

    All hellos of a client are laid out alike, and only what is in their fields differs. That another one of the same
    size is laid out like this is shown by its having the same headers and lengths in the same places: each says where
    the next one stands.
    """

    headers_in: Callable[[bytes], tuple[bytes, ...]]
    headers: tuple[bytes, ...]
    names: slice | None
    protocols: slice | None


# By size; who comes first is remembered.
_layouts: dict[int, _Layout] = {}


def _layout_of(data: bytes, bodies: dict[int, slice]) -> _Layout:
    at = _HEADERS.size + _VERSION_AND_RANDOM
    # All headers but the minor version, which may be any.
    fields = [f"=2sx6s{_VERSION_AND_RANDOM}x"]
    for size_of_length in _SIZES_OF_LENGTHS:
        length = int.from_bytes(data[at : at + size_of_length])
        fields.append(f"{size_of_length}s{length}x")
        at += size_of_length + length
    if at < len(data):
        fields.append("2s")  # the length of all extensions
    fields += (f"4s{body.stop - body.start}x" for body in bodies.values())
    headers = struct.Struct("".join(fields))
    return _Layout(headers.unpack, headers.unpack(data), bodies.get(_SERVER_NAME), bodies.get(_ALPN))


def _server_name(body: bytes) -> str | None:
    at, size = _last_vector(body, 0), len(body)
    found: dict[int, bytes] = {}
    while at < size:
        kind = body[at]
        start = at + 3
        at = start + int.from_bytes(body[at + 1 : start])
        if at > size:
            raise _misfit(start, at, size)
        if kind in found:
            raise ClientHelloInvalid(f"server name of type {kind} is there twice")  # RFC 6066 §3
        found[kind] = body[start:at]
    if not found:
        raise ClientHelloInvalid("list of server names is empty")
    return _checked_host_name(found[_HOST_NAME]) if _HOST_NAME in found else None


def _checked_host_name(name: bytes) -> str | None:
    text = name.decode("latin-1").lower().removesuffix(".")
    is_name = _NAME.fullmatch(text)
    # Of what has a name's letters only an IPv4 address is an address, which ends in a digit; hardly a name does.
    if is_name and not text[-1].isdigit():
        return text
    if _is_address(text):
        return None
    if not is_name:
        raise ClientHelloInvalid(f"server name {text[:80]!r} is no host name")
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _protocol_names(body: bytes) -> tuple[str, ...]:
    at, size = _last_vector(body, 0), len(body)
    found = []
    while at < size:
        start = at + 1
        at = start + body[at]
        found.append(body[start:at].decode("latin-1"))
    if at > size:
        raise _misfit(at, at, size)
    if not found or not all(found):
        raise ClientHelloInvalid("list of protocols is empty or holds an empty name")  # RFC 7301 §3.1
    return tuple(found)


def _last_vector(data: bytes, at: int) -> int:
    """Return where the vector begins whose length, of two bytes, stands at `at`, and which fills the rest."""
    start = at + 2
    end = start + int.from_bytes(data[at:start])
    if end != len(data):
        raise _misfit(start, end, len(data))
    return start


def _misfit(start: int, end: int, size: int) -> ClientHelloInvalid:
    """Say how a vector from `start` to `end` does not fit into `size` bytes: to end early or late is a mistake."""
    if start > size or end > size:
        return ClientHelloInvalid(f"client hello ends {(start if start > size else end) - size} bytes early")
    return ClientHelloInvalid(f"client hello has {size - end} bytes left over")
