"""An observation without a mitm around it: what it writes and what it logs is kept, and its clock is the test's."""

from typing import Any

from services.dialects.model_names import ModelNames
from services.events.exchange import Client
from services.events.identity import UlidSource
from services.mitm.known_peer import KnownPeer
from services.mitm.observation import Observation, ObserverParts
from services.mitm.observer import observe
from services.mitm.peer import Owner
from services.runtime.environment import ClientName
from services.runtime.logs import Logs
from services.wire.http1 import read_request_head
from tests.support.log_lines import LogLines
from tests.support.mitm import RememberingOutbox

# The monotonic time 0 of these tests: 2023-11-14T22:13:20Z.
EPOCH_OFFSET_S = 1_700_000_000.0


class _Directory:
    """Finds the same client behind every socket."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def client_of(self, owner: Owner, name: ClientName | None = None) -> Client:
        return self._client


def peer_like(client: Client) -> KnownPeer:
    """Return a peer that turns out to be `client`."""
    return KnownPeer(Owner(uid=client.uid or 0, inode=1), _Directory(client))


class Observing:
    """
    What observations need.

    Attributes:
        outbox: What they wrote.
        lines: What they logged.
    """

    def __init__(self, *, decoded_bytes_max: int = 1 << 20) -> None:
        self.outbox = RememberingOutbox()
        self.lines: list[dict[str, Any]] = []
        self.parts = ObserverParts(
            outbox=self.outbox,
            logs=Logs("mitm-0", sink=LogLines(self.lines)),
            ids=UlidSource(bytes(10)),
            model_names=ModelNames(),
            epoch_offset_s=lambda: EPOCH_OFFSET_S,
            decoded_bytes_max=decoded_bytes_max,
        )

    def observe(self, host: str, head: bytes, now: float) -> Observation:
        """Begin to observe an exchange."""
        return observe(host, read_request_head(head), peer_like(Client(uid=1000)), now, self.parts)

    def drafts(self) -> dict[str, dict[str, Any]]:
        """Return the records that would stand if the process died now."""
        standing: dict[str, dict[str, Any]] = {}
        for kind, key, content in self.outbox.entries:
            if kind == "start":
                assert key is not None and key not in standing
                standing[key] = content
            elif kind == "progress":
                assert key is not None
                standing[key].update(content)
            elif key is not None:
                standing.pop(key, None)
        return standing
