"""A client is described once for each connection, and written once for all."""

import orjson

from services.events.exchange import Client
from services.mitm.known_peer import KnownPeer, written
from services.mitm.peer import Owner
from services.runtime.environment import ClientName

CLIENT = Client(uid=1000, pid=4711, executable="agent", cwd="/home/x")
OWNER = Owner(uid=1000, inode=7)


class _Directory:
    def __init__(self) -> None:
        self.asked: list[tuple[Owner, ClientName | None]] = []

    def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
        self.asked.append((owner, name))
        return CLIENT


def test_a_peer_is_looked_up_when_it_is_first_wanted() -> None:
    """That costs system calls, and not every connection makes a request."""
    directory = _Directory()
    known = KnownPeer(OWNER, directory)
    assert not directory.asked
    assert orjson.loads(orjson.dumps(known.written())) == orjson.loads(orjson.dumps(CLIENT))
    assert known.written() is known.written()
    assert directory.asked == [(OWNER, None)]


def test_a_peer_is_called_what_it_said() -> None:
    """Behind a CONNECT with credentials, for whatever it is described."""
    directory = _Directory()
    known = KnownPeer(OWNER, directory)
    known.name = ClientName("said")
    assert known.client() == CLIENT
    known.written()
    assert directory.asked == [(OWNER, ClientName("said"))] * 2


def test_connections_of_one_client_share_what_is_written() -> None:
    """Hundreds of them take the memory of one."""
    first, second = (KnownPeer(OWNER, _Directory()) for _ in range(2))
    assert first.written() is second.written() is written(CLIENT)


def test_a_peer_that_cannot_be_described_is_looked_up_again() -> None:
    """The exchange goes on without; the next one may have more luck."""

    class Failing(_Directory):
        def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
            if super().client_of(owner, name) and len(self.asked) == 1:
                raise RuntimeError("failed")
            return CLIENT

    known = KnownPeer(OWNER, Failing())
    try:
        known.written()
    except RuntimeError:
        pass
    assert known.written() is written(CLIENT)
