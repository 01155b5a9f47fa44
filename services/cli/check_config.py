"""`wiremeter check-config`: every mistake in the configuration, or that there is none."""

import sys
from collections.abc import Sequence
from pathlib import Path

from services.runtime.settings import EXIT_CONFIG


def report(problems: Sequence[str], file: Path | None = None) -> int:
    """Print each mistake on a line of its own; return the exit status."""
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return EXIT_CONFIG
    print(f"no mistake in {file or 'the environment; there is no configuration file'}")
    return 0
