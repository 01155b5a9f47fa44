"""The parts of one process, joined."""

import dataclasses

import pytest

from services.events.exchange import Client
from services.mitm.wiring import Wiring
from services.wire.http1 import read_request_head
from tests.support.mitm import Mitm, get
from tests.support.observing import peer_like


def test_the_parts_are_joined_once(proxy: Mitm) -> None:
    """Nobody swaps one while the process runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        proxy.wiring.pool = proxy.pool  # type: ignore[misc]
    assert isinstance(proxy.wiring, Wiring)


def test_an_observation_begins_at_the_pollers_time(proxy: Mitm) -> None:
    """Which is what its end is measured against."""

    def observe() -> tuple[float, float]:
        observation = proxy.wiring.observe("h", read_request_head(get("h")), peer_like(Client()))
        return observation._started, proxy.poller.now

    started, now = proxy.call(observe)
    assert started == now
