"""Run the language server's runner: `python -m services.lsrunner`."""

import os
import sys

from services.lsrunner.app import lsrunner
from services.runtime.run import run

if __name__ == "__main__":
    sys.exit(run("lsrunner", lambda process: lsrunner(process, os.environ), os.environ))
