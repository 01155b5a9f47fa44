"""A client is described once for each connection, and written once for all."""

import orjson

from services.events.exchange import Client
from services.mitm.known_peer import KnownPeer, written

CLIENT = Client(uid=1000, pid=4711, executable="agent", cwd="/home/x")


class _Peer:
    def __init__(self) -> None:
        self.asked = 0

    def client(self) -> Client:
        self.asked += 1
        return CLIENT


def test_a_peer_is_asked_when_it_is_first_wanted() -> None:
    """Asking costs system calls, and not every connection makes a request."""
    peer = _Peer()
    known = KnownPeer(peer)
    assert peer.asked == 0
    assert orjson.loads(orjson.dumps(known.written())) == orjson.loads(orjson.dumps(CLIENT))
    assert known.written() is known.written()
    assert peer.asked == 1


def test_connections_of_one_client_share_what_is_written() -> None:
    """Hundreds of them take the memory of one."""
    assert KnownPeer(_Peer()).written() is KnownPeer(_Peer()).written() is written(CLIENT)


def test_a_peer_that_cannot_be_described_is_asked_again() -> None:
    """The exchange goes on without; the next one may have more luck."""

    class Failing(_Peer):
        def client(self) -> Client:
            if super().client() and self.asked == 1:
                raise RuntimeError("failed")
            return CLIENT

    known = KnownPeer(Failing())
    try:
        known.written()
    except RuntimeError:
        pass
    assert known.written() is written(CLIENT)
