"""A ClientHello read field by field, as its description in RFC 8446 §4.1.2 goes: to judge the quick reader by."""

from services.wire.client_hello import ClientHello, ClientHelloInvalid


class _Fields:
    """Walks through length-prefixed fields; each is taken, so that it must be there."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, size: int) -> bytes:
        if size > len(self._left):
            raise ClientHelloInvalid(f"client hello ends {size - len(self._left)} bytes early")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size_of_length: int) -> bytes:
        return self.take(self.number(size_of_length))

    def last_vector(self, size_of_length: int) -> "_Fields":
        vector = self.vector(size_of_length)
        if self:
            raise ClientHelloInvalid(f"client hello has {len(self._left)} bytes left over")
        return _Fields(vector)


def plainly_read(body: bytes) -> ClientHello:
    """
    Read the body of a ClientHello message; names are taken as they are.

    Raises:
        ClientHelloInvalid: It is malformed, in the words in which the reader says so.
    """
    fields = _Fields(body)
    fields.take(2 + 32)
    for size_of_length in (1, 2, 1):
        fields.vector(size_of_length)
    extensions = _distinct(fields.last_vector(2) if fields else _Fields(b""), 2, "extension {} is there twice")
    name, protocols = None, []
    if 0 in extensions:
        names = _distinct(_Fields(extensions[0]).last_vector(2), 1, "server name of type {} is there twice")
        if not names:
            raise ClientHelloInvalid("list of server names is empty")
        name = names[0].decode("latin-1") if 0 in names else None
    if 16 in extensions:
        offered = _Fields(extensions[16]).last_vector(2)
        while offered:
            protocols.append(offered.vector(1).decode("latin-1"))
        if not protocols or "" in protocols:
            raise ClientHelloInvalid("list of protocols is empty or holds an empty name")
    return ClientHello(server_name=name, protocols=tuple(protocols))


def _distinct(fields: _Fields, size_of_kind: int, problem: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while fields:
        kind, content = fields.number(size_of_kind), fields.vector(2)
        if kind in found:
            raise ClientHelloInvalid(problem.format(kind))
        found[kind] = content
    return found
