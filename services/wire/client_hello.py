"""
The first bytes of a TLS connection -> the server name and the protocols that the client offers.

RFC 8446 §4.1.2 (ClientHello), §5.1 (records); RFC 6066 §3 (server_name); RFC 7301 §3.1 (ALPN). The message may be cut
over several records and arrive byte by byte: 1,541 bytes is an ordinary size today. Nothing is decided on a part of it,
and what follows it (early data, for one) is left alone. What two readers could take differently, such as a second name
or bytes left over, is refused: the TLS library behind us must see the same name.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from services.wire.errors import WireError

# With its record headers. Go 1.27 with a post-quantum key share sends 1,541 bytes; nobody sends ten times as much.
CLIENT_HELLO_BYTES_MAX = 16 * 1024
HANDSHAKE_RECORD = 22  # RFC 8446 §5.1
_RECORD_START = bytes((HANDSHAKE_RECORD, 3))  # the major version of all of TLS
_RECORD_HEADER = 5
_RECORD_BYTES_MAX = 2**14
_CLIENT_HELLO = 1  # RFC 8446 §4
_SERVER_NAME = 0  # RFC 6066 §1.1
_ALPN = 16  # RFC 7301 §3.1
_HOST_NAME = 0  # RFC 6066 §3
# The name goes into certificates, logs and look-ups: only what a DNS name is made of may pass, in labels of a length
# that resolvers take. The underscore is in use, whatever RFC 952 says.
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


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
    """Collects TLS records until the ClientHello is whole."""

    __slots__ = ("_consumed", "_message", "_received")

    def __init__(self) -> None:
        self._received = bytearray()
        self._consumed = 0
        self._message = bytearray()

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
        while not _is_whole(message):
            record = self._next_record()
            if record is None:
                break
            message += record
        self._check_message()
        if not _is_whole(message):
            return None
        return _parsed(bytes(message[4 : 4 + _length_of(message)]))

    def _next_record(self) -> bytearray | None:
        header = self._received[self._consumed : self._consumed + _RECORD_HEADER]
        if not _RECORD_START.startswith(header[:2]):
            raise ClientHelloInvalid(f"record starts with {header[:2].hex(' ')}, not with a TLS handshake")
        if len(header) < _RECORD_HEADER:
            return None
        length = int.from_bytes(header[3:5])
        if not 0 < length <= _RECORD_BYTES_MAX:
            raise ClientHelloInvalid(f"record of {length} bytes; 1 to {_RECORD_BYTES_MAX} are allowed")
        start = self._consumed + _RECORD_HEADER
        if len(self._received) < start + length:
            return None
        self._consumed = start + length
        return self._received[start : self._consumed]

    def _check_message(self) -> None:
        message = self._message
        if message and message[0] != _CLIENT_HELLO:
            raise ClientHelloInvalid(f"handshake message is of type {message[0]}, not {_CLIENT_HELLO}")
        size = self._consumed if _is_whole(message) else max(len(self._received), _length_of(message))
        if size > CLIENT_HELLO_BYTES_MAX:
            raise ClientHelloInvalid(f"client hello of {size} bytes or more exceeds {CLIENT_HELLO_BYTES_MAX}")


def _length_of(message: bytearray) -> int:
    """Return the length that a handshake message says to have, 0 before it has said so."""
    return int.from_bytes(message[1:4]) if len(message) >= 4 else 0


def _is_whole(message: bytearray) -> bool:
    return len(message) >= 4 and len(message) >= 4 + _length_of(message)


class _Fields:
    """Walks through length-prefixed fields; to end early or late is a mistake of the peer's."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ClientHelloInvalid(f"client hello ends {size - len(taken)} bytes early")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size_of_length: int) -> bytes:
        return self.take(self.number(size_of_length))

    def last_vector(self, size_of_length: int) -> "_Fields":
        """Go into the vector that fills the rest."""
        vector = _Fields(self.vector(size_of_length))
        if self.more():
            raise ClientHelloInvalid(f"client hello has {len(self._data) - self._at} bytes left over")
        return vector


def _parsed(message: bytes) -> ClientHello:
    fields = _Fields(message)
    fields.take(2 + 32)  # legacy_version, random
    fields.vector(1)  # legacy_session_id
    fields.vector(2)  # cipher_suites
    fields.vector(1)  # legacy_compression_methods
    # A hello of TLS 1.2 may end here, without extensions.
    extensions = _extensions(fields.last_vector(2)) if fields.more() else {}
    return ClientHello(
        server_name=_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        protocols=_protocol_names(extensions[_ALPN]) if _ALPN in extensions else (),
    )


def _extensions(fields: _Fields) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while fields.more():
        kind, body = fields.number(2), fields.vector(2)
        if kind in found:
            raise ClientHelloInvalid(f"extension {kind} is there twice")  # RFC 8446 §4.2
        found[kind] = body
    return found


def _server_name(body: bytes) -> str | None:
    names = _Fields(body).last_vector(2)
    found: dict[int, bytes] = {}
    while names.more():
        kind, name = names.number(1), names.vector(2)
        if kind in found:
            raise ClientHelloInvalid(f"server name of type {kind} is there twice")  # RFC 6066 §3
        found[kind] = name
    if not found:
        raise ClientHelloInvalid("list of server names is empty")
    return _checked_host_name(found[_HOST_NAME]) if _HOST_NAME in found else None


def _checked_host_name(name: bytes) -> str | None:
    text = name.decode("latin-1").lower().removesuffix(".")
    if _is_address(text):
        return None
    if not _NAME.fullmatch(text):
        raise ClientHelloInvalid(f"server name {text[:80]!r} is no host name")
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _protocol_names(body: bytes) -> tuple[str, ...]:
    names = _Fields(body).last_vector(2)
    found = []
    while names.more():
        found.append(names.vector(1).decode("latin-1"))
    if not found or not all(found):
        raise ClientHelloInvalid("list of protocols is empty or holds an empty name")  # RFC 7301 §3.1
    return tuple(found)
