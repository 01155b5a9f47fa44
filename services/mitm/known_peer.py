"""Who is at the other end of a client's connection, in: what records say of it, out. Found and written once for all."""

from functools import lru_cache
from typing import Protocol

import orjson

from services.events.exchange import Client
from services.mitm.peer import Owner
from services.runtime.environment import ClientName


class Directory(Protocol):
    """Who knows the processes; `PeerDirectory`."""

    def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
        """Describe the process that holds a socket."""


class KnownPeer:
    """
    A connection's peer, as the records of all its exchanges have it; looked up when it is first wanted.

    Attributes:
        name: What the client has said that it is; otherwise it is called what it was started with.
    """

    __slots__ = ("_directory", "_owner", "_written", "name")

    def __init__(self, owner: Owner, directory: Directory) -> None:
        self._owner = owner
        self._directory = directory
        self._written: orjson.Fragment | None = None
        self.name: ClientName | None = None

    def client(self) -> Client:
        """Describe the client; looked up each time."""
        return self._directory.client_of(self._owner, self.name)

    def written(self) -> orjson.Fragment:
        """Return the client as JSON; looked up once."""
        found = self._written
        if found is None:
            found = self._written = written(self._directory.client_of(self._owner, self.name))
        return found


@lru_cache(maxsize=256)
def written(client: Client) -> orjson.Fragment:
    """Write a client as JSON, once for all its connections."""
    return orjson.Fragment(orjson.dumps(client))
