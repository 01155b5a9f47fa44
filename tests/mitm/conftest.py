"""One mitm for the tests of a module that need no limits of their own."""

from collections.abc import Iterator

import pytest

from tests.support.mitm import Mitm, mitm


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitm]:
    """A mitm with ordinary limits; each test gives its upstream a host name of its own."""
    with mitm(tmp_path_factory.mktemp("mitm")) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitm]:
    """A mitm that waits for nothing longer than half a second."""
    limits = {
        "client_hello_timeout_s": 0.3,
        "handshake_timeout_s": 0.5,
        "connect_timeout_s": 0.4,
        "head_timeout_s": 0.3,
        "response_timeout_s": 0.4,
        "idle_timeout_s": 0.5,
        "keep_alive_timeout_s": 0.3,
        "pool_idle_timeout_s": 0.3,
        "pool_size_max": 2,
        "head_bytes_max": 4096,
    }
    with mitm(tmp_path_factory.mktemp("mitm"), **limits) as running:
        yield running
