"""Who says something again and again says it together with the others."""

import pytest

from services.bus.rhythm import pause_s


@pytest.mark.parametrize(
    ("now_s", "pause"),
    [(1000.0, 1.0), (1000.25, 0.75), (1000.5, 0.5), (999.999, 1.001), (1000.001, 0.999), (1000.89, 0.11)],
)
def test_everybody_wakes_up_at_whole_periods(now_s: float, pause: float) -> None:
    """Whenever they began; and a timer that rings too early makes nobody speak twice."""
    assert pause_s(now_s, 1.0) == pytest.approx(pause)


def test_a_longer_period_meets_a_shorter_one() -> None:
    """So that both are one wake-up."""
    assert 1003.2 + pause_s(1003.2, 5.0) == pytest.approx(1005.0)
