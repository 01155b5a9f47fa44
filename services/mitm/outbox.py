"""Where the data path writes what it has observed."""

from collections.abc import Callable, Sequence
from typing import Protocol

from services.dialects.recognise import counts_said


class Outbox(Protocol):
    """Where an observation writes; services.bus.publisher keeps it."""

    def start(self, exchange_id: str, draft: bytes) -> None:
        """A model call begins: `draft` is its record if this process dies now."""

    def progress(self, exchange_id: str, members: bytes) -> None:
        """`members` replace those of the draft."""

    def repeats(self, exchange_id: str) -> Callable[[bytes], None]:
        """Return what takes progress that has the same members each time."""
        ...

    def finish(self, exchange_id: str | None, records: Sequence[bytes]) -> None:
        """The exchange is over; these are its records."""


def restored(draft: dict[str, object]) -> dict[str, object]:
    """Make a record of a draft: counts may stand there as the provider said them, because that is quicker to write."""
    said = draft.get("usage")
    if not isinstance(said, list):
        return draft
    try:
        counts = counts_said(str(draft.get("dialect")), said)
    except ValueError:
        counts = {}  # who wrote it listed other counts; raising would keep all that it left from the ledger for ever
    return draft | {"usage": counts}
