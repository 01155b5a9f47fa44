"""
The whole of Wiremeter on a machine of the test's own, between a client on port 8741 and a provider on the "internet".

    with chain(profile="antigravity", command=["/run/ls/antigravity"]) as running:
        answer = running.ask("hello")
        ... running.records(), running.report(), running.provider.answers() ...

Real supervisord, the real redirect, default ports, real host names that the machine's DNS server answers with the
provider stand-in's addresses. Nothing of the computer that runs the tests changes (tests/support/netns.py).
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout, checkout
from tests.support.eventually import eventually
from tests.support.netns import PROVIDER, Machine
from tests.support.ordinary_user import make_virtual_environment
from tests.support.provider import NAMES, Provider, provider

LS_USER = "antigravity-ls"
FRONT_PORT = 8741
PROCESSES = frozenset({"mitm-0", "mitm-1", "accountant", "lsrunner", "frontproxy"})
PAGE_RECORDS = 1000
# Five interpreters start at once on a small machine that does other things too.
START_TIMEOUT_S = 90.0
ASK_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A running Wiremeter and what surrounds it."""

    machine: Machine
    provider: Provider
    copy: Checkout
    settings: Mapping[str, str]

    # -- asking ------------------------------------------------------------

    def request(self, method: str, path: str, body: object = None, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """Make a request to port 8741; return the JSON of the answer, whose status must be 200."""
        connection = http.client.HTTPConnection("127.0.0.1", FRONT_PORT, timeout=timeout_s)
        with self.machine.on("host"):
            connection.sock = socket.create_connection(("127.0.0.1", FRONT_PORT), timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        assert response.status == 200, (response.status, answer)
        return answer

    def ask(self, prompt: str, model: str | None = None) -> Any:
        """Send one prompt through the chat completions surface; return the whole completion."""
        model = model or self.models()[0]
        return self.request(
            "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": prompt}]}
        )

    def models(self) -> list[str]:
        """Return the ids of the models offered."""
        return [model["id"] for model in self.request("GET", "/v1/models")["data"]]

    # -- what was metered --------------------------------------------------

    def report(self) -> Any:
        """Return `GET /v1/usage`."""
        return self.request("GET", "/v1/usage")

    def records(self) -> list[dict[str, Any]]:
        """Return every record of the ledger, over HTTP."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            page = self.request("GET", f"/v1/usage/events?after={after}&limit={PAGE_RECORDS}")["events"]
            found += page
            if len(page) < PAGE_RECORDS:
                return found

    def records_of_all_answers(self, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        """Return the records once there is one for each response id that the provider has sent whole."""

        def all_there() -> list[dict[str, Any]] | None:
            sent = {answer["response_id"] for answer in self.provider.answers() if answer["complete"]} - {None, ""}
            records = self.records()
            return records if sent <= {record["response_id"] for record in records} else None

        return eventually("a record of every answer", all_there, timeout_s) or []

    @contextlib.contextmanager
    def topic(self) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Subscribe to the public usage topic as `wiremeter tail` does; gives what was heard so far."""
        with tempfile.TemporaryFile("w+") as heard:
            tail = self.machine.popen(
                [sys.executable, "-m", "services.cli", "tail", "--json"],
                cwd=self.copy.root,
                env=self.settings,
                stdout=heard,
            )
            try:
                yield lambda: _lines_of(heard.fileno())
            finally:
                tail.terminate()
                tail.wait(timeout=10)

    # -- processes ---------------------------------------------------------

    def status(self) -> dict[str, tuple[str, int]]:
        """Return `supervisorctl status`: name to state and pid (0 without one)."""
        found = {}
        for line in self.copy.supervisorctl("status").splitlines():
            name, state, *rest = line.split()
            pid = int(rest[1].rstrip(",")) if rest[:1] == ["pid"] else 0
            found[name.rpartition(":")[2]] = (state, pid)
        return found

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> Any:
        """Wait until each process that runs now says in `/health` that it lives, and the language server is ready."""

        def ready() -> Any:
            try:
                health = self.request("GET", "/health", timeout_s=5)
            except (OSError, AssertionError):
                return None
            server = health.get("language_server") or {}
            alive = {process["name"]: process for process in health["processes"] if process["is_alive"]}
            if server.get("state") != "ready" or not alive.keys() >= PROCESSES:
                return None
            # What a killed process said last is heard for a while.
            running = {name: ("RUNNING", alive[name]["pid"]) for name in PROCESSES}
            return health if server["at"] > alive["lsrunner"]["since"] and running == self.status() else None

        return eventually("a running system", ready, timeout_s)


def _lines_of(descriptor: int) -> list[dict[str, Any]]:
    whole, _, _ = Path(f"/proc/self/fd/{descriptor}").read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


@contextlib.contextmanager
def chain(
    *,
    profile: str,
    command: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    redirect: bool = True,
    runner: str | None = None,
    prepare: Callable[[Machine], None] | None = None,
    programs: Mapping[str, str | Path] | None = None,
    provider_flags: Sequence[str] = (),
) -> Iterator[Chain]:
    """
    Start everything, wait until it is ready, and stop and remove it at the end.

    Args:
        command: Of the language server, by its path inside the machine.
        settings: More `WIREMETER_…` variables.
        redirect: Whether `mitm-redirect.sh install` is run.
        runner: An ordinary user to make and to run Wiremeter as; root by default.
        prepare: Called when the redirect is in place and nothing has started yet.
        programs: Files or folders to put into the machine: path inside, below /run, to path outside.
    """
    with contextlib.ExitStack() as stack:
        machine = stack.enter_context(Machine())
        machine.names.update(dict.fromkeys(NAMES, PROVIDER))
        for inside, outside in (programs or {}).items():
            _put(machine.path(inside), Path(outside))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wm-chain-")))
        listen = [f"{PROVIDER[0]}:443", f"[{PROVIDER[1]}]:443"]
        stand_in = stack.enter_context(
            provider(folder, listen=listen, inside=machine.prefix("inet"), flags=provider_flags)
        )
        variables = {
            "HOME": str(folder),
            "WIREMETER_MITM_UPSTREAM_CA_FILE": str(stand_in.ca_file),
            "WIREMETER_LSRUNNER_PROFILE": profile,
            "WIREMETER_LSRUNNER_COMMAND": json.dumps(list(command)),
            **(settings or {}),
        }
        copy = stack.enter_context(checkout(variables))
        variables["WIREMETER_HOME"] = str(copy.home)
        runner_uid = 0 if runner is None else machine.add_user(runner)
        if redirect:
            for_whom = [] if runner is None else ["--runner", runner]
            machine.run([copy.root / "scripts" / "mitm-redirect.sh", "install", *for_whom], check=True)
        if prepare is not None:
            prepare(machine)
        if runner is not None:
            (copy.root / ".venv").unlink()
            make_virtual_environment(copy.root / ".venv")
            _give_to(runner_uid, folder, copy.root)
        supervisord = machine.popen(
            [copy.root / ".venv" / "bin" / "python", "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"],
            user=runner,
            cwd=copy.root,
            env=variables,
            stdout=stack.enter_context(open(folder / "supervisord.out", "w")),
        )
        stack.callback(_stop, supervisord)
        running = Chain(machine, stand_in, copy, variables)
        try:
            running.wait_until_ready()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_last_words(copy.root / 'run')}") from error
        yield running


def _put(inside: Path, outside: Path) -> None:
    inside.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    inside.parent.chmod(0o755)  # whatever the umask is
    if outside.is_dir():
        shutil.copytree(outside, inside, symlinks=True)
    else:
        shutil.copy2(outside, inside)
        inside.chmod(0o755)


def _give_to(uid: int, *folders: Path) -> None:
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)


def _stop(supervisord: Any) -> None:
    supervisord.terminate()
    supervisord.wait(timeout=60)


def _last_words(run: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(run.glob("*.log")))
