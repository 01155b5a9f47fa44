"""What the accountant needs to know."""

from dataclasses import dataclass
from pathlib import Path

from services.runtime.settings import Settings
from services.runtime.state import StateDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountantConfig:
    """
    The values that the parts receive.

    Attributes:
        usage_endpoint: Where the public usage topic is bound.
        commit_interval_s: Commits begin at least this far apart, so that records that come close together share one.
        batch_records_max: Records in one transaction.
    """

    ledger: Path
    run_directory: Path
    usage_endpoint: str
    commit_interval_s: float
    batch_records_max: int

    @classmethod
    def from_settings(cls, settings: Settings, state: StateDirectory) -> "AccountantConfig":
        """Choose them."""
        return cls(
            ledger=state.ledger,
            run_directory=state.run,
            usage_endpoint=settings.accountant.usage_endpoint,
            commit_interval_s=settings.accountant.commit_interval_ms / 1000,
            batch_records_max=settings.accountant.batch_records_max,
        )
