"""Our real process tree with services that only note that they were started."""

import shutil

from tests.support.checkout import Checkout

# Writes down its start, then does what its plan says: exit with a status, or wait for a signal.
STUB = """
import os, pathlib, signal, sys, time
name = "-".join([__spec__.parent.rpartition(".")[2], *sys.argv[1:]])
print("started", name, file=sys.stderr, flush=True)
with open(f"run/{name}.starts", "a") as starts:
    starts.write(f"{os.getpid()} {time.monotonic()} {sys.executable}\\n")
plan = pathlib.Path(f"run/{name}.plan")
if plan.exists():
    sys.exit(int(plan.read_text()))
signal.sigwait({signal.SIGTERM})
"""
PROCESSES = ["accountant", "frontproxy", "lsrunner", "mitm:mitm-0", "mitm:mitm-1"]


class Tree:
    """A checkout with stubs for services."""

    def __init__(self, copy: Checkout) -> None:
        self.copy = copy
        self.run = copy.root / "run"
        for service in ("accountant", "mitm", "lsrunner", "frontproxy"):
            shutil.rmtree(copy.root / "services" / service)
            (copy.root / "services" / service).mkdir()
            (copy.root / "services" / service / "__main__.py").write_text(STUB)

    def start(self) -> None:
        started = self.copy.python("-m", "supervisor.supervisord", "-c", "supervisord.conf")
        assert started.returncode == 0, started.stdout

    def states(self) -> dict[str, str]:
        """Return what `supervisorctl status` says: process to state."""
        rows = [line.split() for line in self.copy.supervisorctl("status").splitlines()]
        return {row[0]: row[1] for row in rows if len(row) > 1}

    def starts(self, name: str) -> list[tuple[int, float, str]]:
        """Return the starts of a process: pid, time, interpreter."""
        path = self.run / f"{name}.starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), float(at), python) for pid, at, python in (line.split(maxsplit=2) for line in lines)]

    def all_started(self) -> bool:
        return all(self.starts(name.rpartition(":")[2]) for name in PROCESSES)
