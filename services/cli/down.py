"""`wiremeter down`: everything stops; no process and no socket is left."""

import contextlib
import os
import sys

from services.cli import kernel
from services.cli.process import ProcessTree, TreeFailed, wait_until
from services.runtime.state import RoleTaken, StateDirectory

# Four groups stop one after the other; each is killed after stopwaitsecs=20 (supervisord.conf), and a little beyond.
_STOP_TIMEOUT_S = 90.0


def down(state: StateDirectory, tree: ProcessTree) -> int:
    """Stop supervisord and all that descends from it; return the exit status."""
    supervisord = tree.pid()
    if supervisord is None:
        _remove_sockets(state, tree)
        print("Wiremeter is not running here.")
        return 0
    members = kernel.members_below(supervisord)
    try:
        tree.shut_down()
    except TreeFailed as error:
        print(error, file=sys.stderr)
        return 1
    print("stopping …", flush=True)
    if not wait_until(lambda: not kernel.still_there(members), _STOP_TIMEOUT_S):
        for member in kernel.still_there(members):
            print(f"still there after {_STOP_TIMEOUT_S:g} s: pid {member.pid} ({member.command})", file=sys.stderr)
        return 1
    _remove_sockets(state, tree)
    print("stopped; the ledger stays.")
    return 0


def _remove_sockets(state: StateDirectory, tree: ProcessTree) -> None:
    """Remove the sockets that nobody listens on any more; processes that were killed leave theirs."""
    stale = [path for path in tree.run.glob("supervisor.sock*") if path.is_socket()]
    with contextlib.ExitStack() as held:
        if state.run.is_dir() and _takes_every_role(state, held):
            stale += [path for path in state.run.iterdir() if path.is_socket()]
        for path in stale:
            path.unlink(missing_ok=True)


def _takes_every_role(state: StateDirectory, held: contextlib.ExitStack) -> bool:
    """Take the lock of each process that ever ran on this state directory; False if one of them runs."""
    for lock in state.run.glob("*.lock"):
        try:
            held.callback(os.close, state.take_role(lock.stem))
        except RoleTaken:
            return False
    return True
