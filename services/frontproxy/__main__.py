"""Run the HTTP API: `python -m services.frontproxy`."""

import os
import sys

# aiohttp reads the system's authorities when it is imported: 40 ms and 2 MiB, for TLS that this process never speaks.
os.environ["SSL_CERT_FILE"] = os.devnull

from services.frontproxy.app import frontproxy
from services.runtime.run import run

sys.exit(run("frontproxy", frontproxy, os.environ))
