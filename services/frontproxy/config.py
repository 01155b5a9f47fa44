"""What the HTTP API is told at its start."""

from dataclasses import dataclass
from pathlib import Path

from services.events.codec import EVENT_BYTES_MAX
from services.runtime.settings import ConfigInvalid, Settings
from services.runtime.state import StateDirectory

# A conversation travels to the runner in one event; JSON of the same text is hardly longer there than it was here.
BODY_BYTES_LIMIT = EVENT_BYTES_MAX * 3 // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontproxyConfig:
    """
    The values that the parts receive.

    Attributes:
        run: Directory of the bus's sockets.
        ledger: The database.
        terms_read: See `LsrunnerSettings`.
    """

    port: int
    body_bytes_max: int
    usage_wait_s: float
    turn_timeout_s: float
    terms_read: bool
    run: Path
    ledger: Path

    @classmethod
    def from_settings(cls, settings: Settings, state: StateDirectory) -> "FrontproxyConfig":
        """
        Choose what the HTTP API needs.

        Raises:
            ConfigInvalid: A body limit that the bus cannot carry.
        """
        if settings.frontproxy.body_bytes_max > BODY_BYTES_LIMIT:
            found = settings.frontproxy.body_bytes_max
            raise ConfigInvalid([f"frontproxy.body_bytes_max is {found}; at most {BODY_BYTES_LIMIT} is allowed"])
        return cls(
            port=settings.frontproxy.port,
            body_bytes_max=settings.frontproxy.body_bytes_max,
            usage_wait_s=settings.frontproxy.usage_wait_s,
            turn_timeout_s=settings.lsrunner.turn_timeout_s,
            terms_read=settings.lsrunner.terms_read,
            run=state.run,
            ledger=state.ledger,
        )
