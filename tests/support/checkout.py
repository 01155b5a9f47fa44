"""A checkout of its own for tests that run the real supervisord: the project's files, its own ports and state."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.eventually import eventually

PROJECT = Path(__file__).resolve().parents[2]
_FILES = (
    "supervisord.conf",
    "wiremeter.toml",
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "README.md",
)
_FOLDERS = ("services", "scripts")
# Above what services and people like to use.
_LOWEST_PORT = 10_000
_WORKERS_MAX = 64
# Settings of whoever runs the tests would change what is tested.
_FOREIGN = ("WIREMETER_", "XDG_STATE_HOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


class Checkout:
    """A copy of the project in `root`, with the environment in which its commands run."""

    def __init__(self, root: Path, settings: Mapping[str, str]) -> None:
        self.root = root
        self.home = root / "state"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self.environ = kept | {"WIREMETER_HOME": str(self.home)} | dict(settings)

    def python(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run this interpreter in the checkout."""
        return self.command(sys.executable, *arguments, timeout_s=timeout_s)

    def command(self, *command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout, its output as text, standard error included."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def supervisorctl(self, *arguments: str) -> str:
        """Run `supervisorctl` as the README tells people to: no option, no environment."""
        return self.python("-m", "supervisor.supervisorctl", *arguments).stdout

    def processes(self) -> dict[int, str]:
        """Return the processes whose working directory is this checkout: pid to command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and Path(os.readlink(folder / "cwd")) == self.root:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if line:  # a zombie has none
                        found[int(folder.name)] = line
        return found


@contextlib.contextmanager
def checkout(settings: Mapping[str, str] | None = None) -> Iterator[Checkout]:
    """Make a copy of the project; at the end stop what still runs there and remove it."""
    # Not pytest's tmp_path: its depth leaves no room for socket paths, which have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wm-", ignore_cleanup_errors=True) as folder:
        root = Path(folder).resolve()
        for name in _FOLDERS:
            # With what is compiled, which stays valid: PYTHONDONTWRITEBYTECODE would have each process do it anew.
            shutil.copytree(PROJECT / name, root / name)
        for name in _FILES:
            if (PROJECT / name).exists():
                shutil.copy2(PROJECT / name, root / name)
        (root / "run").mkdir()
        (root / ".venv").symlink_to(sys.prefix)
        copy = Checkout(root, settings or {})
        try:
            yield copy
        finally:
            stop(copy)


def stop(copy: Checkout) -> None:
    """Shut the supervisord of a checkout down and wait until nothing runs there."""
    if (copy.root / "run" / "supervisor.sock").exists():
        copy.supervisorctl("shutdown")
    eventually(f"processes left in {copy.root}", lambda: not copy.processes(), timeout_s=60)


def free_ports(count: int) -> list[int]:
    """
    Return ports of 127.0.0.1 that nobody listens on, and that nobody gets from the kernel before they are used.

    Not from the range out of which it gives ports to whoever does not choose; and each worker of pytest-xdist has ports
    of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS_MAX
    lowest_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ours = range(_LOWEST_PORT + worker, lowest_of_kernel, _WORKERS_MAX)
    found: list[int] = []
    for port in random.sample(ours, len(ours)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} free ports from {_LOWEST_PORT} to {lowest_of_kernel}")


def own_ports() -> dict[str, str]:
    """Return settings that give a checkout ports of its own."""
    mitm, front, usage, simulator = free_ports(4)
    return {
        "WIREMETER_MITM_PORT": str(mitm),
        "WIREMETER_FRONTPROXY_PORT": str(front),
        "WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": f"tcp://127.0.0.1:{usage}",
        "WIREMETER_SIMULATOR_PORT": str(simulator),
    }
