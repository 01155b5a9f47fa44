"""Who is at the other end of a client's connection, in: what records say of it, out. Found and written once for all."""

from functools import lru_cache
from typing import Protocol

import orjson

from services.events.exchange import Client


class Peer(Protocol):
    """Who is at the other end of the client's connection."""

    def client(self) -> Client:
        """Describe it; looked up once."""


class KnownPeer:
    """A peer, as the records of all exchanges on its connection have it."""

    __slots__ = ("_peer", "_written")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._written: orjson.Fragment | None = None

    def written(self) -> orjson.Fragment:
        """Return the client as JSON; its peer is asked when that is first wanted."""
        if self._written is None:
            self._written = written(self._peer.client())
        return self._written


@lru_cache(maxsize=256)
def written(client: Client) -> orjson.Fragment:
    """Write a client as JSON, once for all its connections."""
    return orjson.Fragment(orjson.dumps(client))
