"""The parts of one process, joined."""

import dataclasses

import pytest

from services.mitm.wiring import Wiring
from tests.support.mitm import Mitm


def test_the_parts_are_joined_once(proxy: Mitm) -> None:
    """Nobody swaps one while the process runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        proxy.wiring.pool = proxy.pool  # type: ignore[misc]
    assert isinstance(proxy.wiring, Wiring)
