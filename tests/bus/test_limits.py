"""What a journal may take."""

from services.bus.limits import JournalLimits

LIMITS = JournalLimits(retained_s=100.0, retained_bytes_max=1000)


def test_what_is_not_committed_is_kept() -> None:
    """However old it is, and whatever it takes."""
    assert not LIMITS.has_expired(None, 1e9, 1 << 40)


def test_what_is_committed_is_kept_for_a_while() -> None:
    """Unless all of it takes more than it may."""
    assert not LIMITS.has_expired(50.0, 150.0, 1000)
    assert LIMITS.has_expired(50.0, 150.1, 1000)
    assert LIMITS.has_expired(50.0, 50.0, 1001)
