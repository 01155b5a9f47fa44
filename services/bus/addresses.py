"""
Which socket is where: every endpoint and topic of the bus, and who binds it.

Whoever there is one of binds; whoever may be several, or comes and goes, connects. Each topic level ends in `.` or is
the whole word, so that a prefix subscription never catches a neighbour.
"""

from functools import lru_cache
from pathlib import Path

EXCHANGE_TOPIC = "exchange."  # + publisher: mitm -> accountant
MARK_TOPIC = "mark."  # + publisher: accountant -> mitm
HELLO_TOPIC = "hello."  # + publisher: mitm -> accountant
USAGE_TOPIC = "usage."  # + provider.model: accountant -> anyone
TURN_REQUEST_TOPIC = "turn.request"  # frontproxy -> lsrunner
TURN_CANCEL_TOPIC = "turn.cancel"  # frontproxy -> lsrunner
TURN_TOPIC = "turn."  # + turn id: lsrunner -> frontproxy, accountant
LS_STATE_TOPIC = "ls.state"  # lsrunner -> all
HEALTH_TOPIC = "health."  # + process: each -> frontproxy


class EndpointTaken(Exception):
    """An endpoint cannot be bound; the message names it."""


class Addresses:
    """Endpoints below one run directory."""

    def __init__(self, run: Path) -> None:
        self._run = run

    @property
    def exchange(self) -> str:
        """Accountant binds SUB, every mitm connects PUB: `exchange.` and `hello.`."""
        return f"ipc://{self._run}/exchange.ipc"

    @property
    def mark(self) -> str:
        """Accountant binds PUB, every mitm connects SUB: `mark.`."""
        return f"ipc://{self._run}/mark.ipc"

    @property
    def usage(self) -> str:
        """Accountant binds PUB beside its public endpoint: `usage.`."""
        return f"ipc://{self._run}/usage.ipc"

    @property
    def turn_request(self) -> str:
        """Lsrunner binds SUB, frontproxy connects PUB: `turn.request` and `turn.cancel`."""
        return f"ipc://{self._run}/turn-request.ipc"

    @property
    def turn(self) -> str:
        """Lsrunner binds PUB, frontproxy and accountant connect SUB: `turn.` and `ls.state`."""
        return f"ipc://{self._run}/turn.ipc"

    @property
    def health(self) -> str:
        """Frontproxy binds SUB, every process connects PUB: `health.`."""
        return f"ipc://{self._run}/health.ipc"


@lru_cache(maxsize=1024)
def usage_topic(provider: str, model: str | None) -> str:
    """Return the topic of a usage record."""
    return f"{USAGE_TOPIC}{topic_word(provider)}.{topic_word(model or '')}"


def topic_word(text: str) -> str:
    """Make `text` one level of a topic: a dot would be a border, white space would confuse people."""
    return "".join("_" if letter in "." or letter.isspace() else letter for letter in text) or "unknown"
