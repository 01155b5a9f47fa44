"""Run the accountant: `python -m services.accountant`."""

import os
import sys

from services.accountant.app import accountant
from services.runtime.run import run

sys.exit(run("accountant", accountant, os.environ))
