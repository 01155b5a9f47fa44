"""Run one mitm worker: `python -m services.mitm [N]`."""

import os
import sys

from services.mitm.app import mitm
from services.runtime.run import run

sys.exit(run(f"mitm-{next((word for word in sys.argv[1:] if word.isdigit()), '0')}", mitm, os.environ))
