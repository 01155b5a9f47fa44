"""Run one command: `wiremeter COMMAND`, or `python -m services.cli COMMAND`."""

import os
import sys
from datetime import UTC, datetime

from services.cli.app import command


def main() -> None:
    """Be the `wiremeter` program."""
    sys.exit(command(sys.argv[1:], os.environ, datetime.now(UTC)))


if __name__ == "__main__":
    main()
