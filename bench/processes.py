"""
The whole system under supervisord: how long until it is ready, what it holds in memory, what it uses when idle.

Memory is counted twice: as the sum of what each process has resident, where shared pages count for each, and by the
kernel's proportional share (PSS), where they count once. The language server is the simulated one, in the sums too.
"""

import compileall
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, processor_s
from services.cli.process import ProcessTree, wait_until
from tests.support.checkout import Checkout, checkout, own_ports

_NAMES = {"mitm-0", "mitm-1", "accountant", "lsrunner", "frontproxy"}
_LOOK_EVERY_S = 0.01
_READY_TIMEOUT_S = 60.0
_SETTLE_S = 5.0
_MIB = 1024


def measure(idle_s: float) -> Iterator[Figure]:
    """Start everything, wait until it is ready, look at it at rest for `idle_s`, and stop it."""
    with _system() as (copy, root, began_s):
        # supervisord sleeps for a second before it starts anything, unless somebody asks it something.
        wait_until(lambda: ProcessTree(copy.root).pid() is not None, _READY_TIMEOUT_S)
        _await_ready(copy)
        yield Figure(quantity="system, start to ready, as make run", value=time.monotonic() - began_s, unit="s")
    with _system() as (copy, root, began_s):
        _await_ready(copy)
        yield Figure(quantity="system, start to ready", value=time.monotonic() - began_s, unit="s", at_most=2)
        time.sleep(_SETTLE_S)
        yield from _memory(root)
        yield from _rest(root, idle_s)
        # The idle system is no neighbour that would be noticed.
        yield from _start_up(copy)


@contextlib.contextmanager
def _system() -> Iterator[tuple[Checkout, int, float]]:
    """Start everything in a checkout of its own; give supervisord's pid, and when that was."""
    settings = own_ports() | {"WIREMETER_LSRUNNER_USER": "", "WIREMETER_LSRUNNER_PROFILE": "simulated"}
    with checkout(settings) as copy:
        # A first start compiles; what is measured is any other.
        compileall.compile_dir(copy.root / "services", quiet=2)
        began_s = time.monotonic()
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"]
        supervisord = subprocess.Popen(command, cwd=copy.root, env=copy.environ, stdout=subprocess.DEVNULL)
        try:
            yield copy, supervisord.pid, began_s
        finally:
            supervisord.terminate()
            supervisord.wait()


def _await_ready(copy: Checkout) -> None:
    port = int(copy.environ["WIREMETER_FRONTPROXY_PORT"])
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            health = json.loads(connection.getresponse().read())
            connection.close()
            server = health.get("language_server") or {}
            if {each["name"] for each in health["processes"]} >= _NAMES and server.get("state") == "ready":
                return
        time.sleep(_LOOK_EVERY_S)
    raise TimeoutError("the system does not become ready")


def _memory(root: int) -> Iterator[Figure]:
    resident = shared_out = 0.0
    for pid, name in _tree(root).items():
        fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        rss_mib, pss_mib = (int(fields[field].split()[0]) / _MIB for field in ("Rss", "Pss"))
        resident, shared_out = resident + rss_mib, shared_out + pss_mib
        yield Figure(quantity=f"{name}, idle: proportional share of memory", value=pss_mib, unit="MiB")
        yield Figure(quantity=f"{name}, idle: resident", value=rss_mib, unit="MiB")
    yield Figure(quantity="system, idle: proportional shares together", value=shared_out, unit="MiB", at_most=180)
    yield Figure(quantity="system, idle: resident together", value=resident, unit="MiB", at_most=180)


def _rest(root: int, idle_s: float) -> Iterator[Figure]:
    tree = _tree(root)
    before_s = {pid: processor_s(pid) for pid in tree}
    time.sleep(idle_s)
    used = {pid: (processor_s(pid) - before_s[pid]) / idle_s * 100 for pid in tree}
    for pid, percent in used.items():
        # 0 % to the nearest percent.
        yield Figure(quantity=f"{tree[pid]}, idle: processor", value=percent, unit="%", at_most=0.5)
    yield Figure(quantity="system, idle: processor together", value=sum(used.values()), unit="%")


def _start_up(copy: Checkout) -> Iterator[Figure]:
    """What the interpreter and its imports take, a process alone: most of a start."""
    for name in ("accountant", "mitm", "lsrunner", "frontproxy", "cli"):
        taken_s = []
        for _ in range(3):
            began_s = time.perf_counter()
            imports = [sys.executable, "-c", f"import services.{name}.app"]
            subprocess.run(imports, cwd=copy.root, env=copy.environ, check=True)
            taken_s.append(time.perf_counter() - began_s)
        yield Figure(quantity=f"{name}: interpreter and imports", value=min(taken_s), unit="s")


def _tree(root: int) -> dict[int, str]:
    """Return a process and all that descend from it, with what people call them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit():
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        found[pid] = _name_of(pid)
        waiting += children.get(pid, [])
    return found


def _name_of(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    ours = next((each for each in words if each.startswith(("services.", "supervisor."))), None)
    if ours is None:
        return f"language server ({Path(words[2]).name if len(words) > 2 else words[0]})"
    number = next((each for each in words if each.isdigit()), None)
    return ours.rpartition(".")[2] + (f"-{number}" if number else "")
