"""Run the HTTP API: `python -m services.frontproxy`."""

import os
import sys

from services.frontproxy.app import frontproxy
from services.runtime.run import run

sys.exit(run("frontproxy", frontproxy, os.environ))
