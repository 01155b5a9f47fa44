"""
A running Wiremeter for `wiremeter run`, without root: own ports, and a provider stand-in that the host names lead to.

    with metered() as system:
        done = system.run("curl", "-s", f"https://{GEMINI}/…", label="mine")
        ... done.returncode, done.stdout, system.summary_of(done) ...
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.ledger.store import LedgerReader
from tests.support.checkout import Checkout, checkout, own_ports
from tests.support.eventually import eventually
from tests.support.provider import NAMES, Provider, provider

GEMINI = "generativelanguage.googleapis.com"
ANTHROPIC = "api.anthropic.com"
RUN_TIMEOUT_S = 120.0
# What a developer's shell may have set, and would change what is tested.
_FOREIGN = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "JAVA_TOOL_OPTIONS")


@dataclass(frozen=True, slots=True)
class Metered:
    """The running system."""

    copy: Checkout
    provider: Provider

    @property
    def environ(self) -> dict[str, str]:
        """What `wiremeter` is started with."""
        return self.copy.environ

    def command(self, *program: str, label: str | None = None, options: Sequence[str] = ()) -> list[str]:
        """Write a `wiremeter run`."""
        labelled = ["--label", label] if label is not None else []
        return [sys.executable, "-m", "services.cli", "run", *labelled, *options, "--", *program]

    def run(
        self,
        *program: str,
        label: str | None = None,
        options: Sequence[str] = ("--json",),
        environ: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program metered, to its end."""
        return subprocess.run(
            self.command(*program, label=label, options=options),
            cwd=cwd or self.copy.root,
            env={**self.environ, "PYTHONPATH": str(self.copy.root), **(environ or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )

    def records_of(self, run: str) -> list[dict[str, Any]]:
        """Return the ledger's records of a run."""
        with contextlib.closing(LedgerReader(self.copy.home / "ledger.sqlite3")) as reader:
            events: Any = reader.events()["events"]
        return [event for event in events if event["client"]["run"] == run]


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the summary, the last line of standard output."""
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def metered(
    names: Sequence[str] = NAMES, *, settings: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> Iterator[Metered]:
    """
    Start everything that metering takes, and stop it at the end.

    Args:
        settings: More `WIREMETER_…` variables.
        flags: Of the provider stand-in.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wm-metered-")))
        stand_in = stack.enter_context(provider(folder, names=names, flags=flags))
        variables = own_ports() | {
            "WIREMETER_MITM_UPSTREAM_CA_FILE": str(stand_in.ca_file),
            "WIREMETER_MITM_UPSTREAM_MAP": json.dumps(dict.fromkeys(names, stand_in.address)),
            "WIREMETER_LSRUNNER_PROFILE": "command",
            "WIREMETER_LSRUNNER_COMMAND": json.dumps(["sleep", "86400"]),
            "WIREMETER_LSRUNNER_USER": "",
            **(settings or {}),
        }
        copy = stack.enter_context(checkout(variables))
        for name in _FOREIGN:
            copy.environ.pop(name, None)
        started = copy.python("-m", "supervisor.supervisord", "-c", "supervisord.conf")
        assert started.returncode == 0, started.stdout
        system = Metered(copy, stand_in)
        try:
            eventually("a running system", lambda: _is_up(copy), timeout_s=90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_last_words(copy.root / 'run')}") from error
        yield system


def _is_up(copy: Checkout) -> bool:
    health = copy.python("-m", "services.cli", "health").stdout
    return all(f"{name:<12}alive" in health for name in ("mitm-0", "mitm-1", "accountant"))


def _last_words(run: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(run.glob("*.log")))
