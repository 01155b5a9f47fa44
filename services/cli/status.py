"""`wiremeter status`: the processes, as supervisord sees them, and where everything is."""

import sys

from services.cli.process import ProcessTree
from services.runtime.settings import Settings
from services.runtime.state import StateDirectory

NOT_RUNNING = 3  # as `supervisorctl status` and the LSB have it
HOW_TO_START = "Wiremeter is not running here; start it with: make run"
_RUNS_IN_PART = "Wiremeter runs here, but not all of it; `wiremeter status` tells more"


def status(settings: Settings, state: StateDirectory, tree: ProcessTree) -> int:
    """Print what `supervisorctl status` prints; return 0 when every process is up, 1 when one is not."""
    print(whereabouts(settings, state, tree))
    if tree.pid() is None:
        print(f"\n{HOW_TO_START}", file=sys.stderr)
        return NOT_RUNNING
    print(f"\n{tree.status()}")
    return 0 if all(process.state == "RUNNING" for process in tree.processes()) else 1


def what_to_do(tree: ProcessTree) -> str:
    """Say what helps where something of Wiremeter does not answer."""
    return HOW_TO_START if tree.pid() is None else _RUNS_IN_PART


def whereabouts(settings: Settings, state: StateDirectory, tree: ProcessTree) -> str:
    """Tell where everything is."""
    return "\n".join(
        (
            f"configuration  {settings.file or 'the defaults'}",
            f"ledger         {state.ledger}",
            f"logs           {tree.run}",
            f"HTTP API       http://127.0.0.1:{settings.frontproxy.port}",
            f"proxy          http://LABEL:@127.0.0.1:{settings.mitm.port}, for HTTPS_PROXY",
            f"usage topic    {settings.accountant.usage_endpoint}",
            f"our authority  {state.authority_certificate}, for NODE_EXTRA_CA_CERTS",
            f"trust bundle   {state.trust_bundle}, for SSL_CERT_FILE",
        )
    )
