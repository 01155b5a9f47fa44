"""A directory whose path leaves room for socket names, which pytest's own does not."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """Return a directory for sockets."""
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        yield Path(folder)
