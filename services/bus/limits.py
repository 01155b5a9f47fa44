"""How much a journal may take, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """
    The limits of one journal.

    Attributes:
        segment_bytes: A segment is left when it has this size; deletion goes by segments.
        total_bytes_max: Of all epochs of the publisher; past it nothing more is recorded until something is committed.
        retained_bytes_max: Of segments that are committed and kept, so that an older copy of the ledger can catch up.
        retained_s: How long such segments are kept.
        waiting_bytes_max: Finished records that wait in memory for room on the disk; further ones are dropped.
    """

    segment_bytes: int = 4 * 1024 * 1024
    total_bytes_max: int = 1024 * 1024 * 1024
    retained_bytes_max: int = 128 * 1024 * 1024
    retained_s: float = 24 * 3600.0
    waiting_bytes_max: int = 16 * 1024 * 1024

    def has_expired(self, covered_at_unix_s: float | None, now_unix_s: float, size_bytes: int) -> bool:
        """
        Say whether something need not be kept any longer.

        Args:
            covered_at_unix_s: Since when it is known to be committed; None if it is not.
            size_bytes: What the whole journal takes by now.
        """
        if covered_at_unix_s is None:
            return False
        return now_unix_s - covered_at_unix_s > self.retained_s or size_bytes > self.retained_bytes_max
