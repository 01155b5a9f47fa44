"""
`wiremeter up`: everything starts, one prompt goes through the whole chain, and what it cost is shown.

A second one finds the first and says so. When something does not come up, everything is left as it is, to be looked at.
"""

import sys
from dataclasses import dataclass
from typing import Any

from services.cli import kernel
from services.cli.process import ProcessTree, TreeFailed, last_lines, wait_until
from services.cli.readiness import Lack, lacks, sign_in_address
from services.cli.tables import usage_table
from services.cli.upstream import Api, ApiRefused, ApiUnreachable
from services.runtime.settings import Settings, loopback_tcp
from services.runtime.state import StateDirectory

PROMPT = "In one short sentence: what does a meter do?"
# Beside the language server's own start: four interpreters, keys, a ledger, and roles that a dying predecessor holds.
_START_TIMEOUT_S = 45.0
# A process lets its work drain for ten seconds.
_ENDING_TIMEOUT_S = 12.0
_LOG_LINES = 15


def up(settings: Settings, state: StateDirectory, tree: ProcessTree, api: Api) -> int:
    """Start Wiremeter and prove it; return the exit status."""
    running = tree.pid()
    if running is not None:
        print(f"Wiremeter is running here already (supervisord has pid {running}).")
        return _show_running(settings, tree, api)
    taken = ports_taken(settings) or state_taken(state)
    if taken:
        print("\n".join(taken), file=sys.stderr)
        return 1
    try:
        tree.start()
        start = Start(tree, api)
        wait_until(start.is_over, _START_TIMEOUT_S + settings.lsrunner.start_timeout_s)
    except TreeFailed as error:
        print(error, file=sys.stderr)
        return 1
    if start.lacks and not start.sign_in:
        _explain_failure(start, tree)
        return 1
    proven = _prove(settings, api, start)
    _show_status(settings, tree)
    return 0 if proven else 1


def ports_taken(settings: Settings) -> list[str]:
    """Name each of our ports that somebody holds, with the setting that moves it."""
    usage = loopback_tcp(settings.accountant.usage_endpoint)
    assert usage is not None  # the configuration was checked
    wanted = {
        "frontproxy.port": ("127.0.0.1", settings.frontproxy.port),
        "mitm.port": ("127.0.0.1", settings.mitm.port),
        "accountant.usage_endpoint": usage,
    }
    if settings.lsrunner.profile in ("auto", "simulated"):
        wanted["simulator.port"] = ("127.0.0.1", settings.simulator.port)
    return [
        f"port {port} is taken by {kernel.holder_of(port) or 'another program'}; stop that, or set {name}"
        for name, (host, port) in wanted.items()
        if kernel.is_taken(host, port)
    ]


def state_taken(state: StateDirectory) -> list[str]:
    """Name who works on our state directory, which is another checkout's; those of a dying one get time to end."""
    if not state.locks_held():
        return []
    print(f"waiting: {state.home} is in use, perhaps by what is about to end", flush=True)
    wait_until(lambda: not state.locks_held(), _ENDING_TIMEOUT_S)
    holders = list(dict.fromkeys(kernel.holder_of_lock(lock) or "another program" for lock in state.locks_held()))
    if not holders:
        return []
    others = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    stop = "stop the Wiremeter that it belongs to, or set WIREMETER_HOME"
    return [f"{state.home} is in use by {holders[0]}{others}; {stop}"]


@dataclass
class Start:
    """A start in progress: what is not there yet. Says so whenever it changes."""

    tree: ProcessTree
    api: Api
    lacks: list[Lack]
    health: dict[str, Any] | None = None
    sign_in: str | None = None

    def __init__(self, tree: ProcessTree, api: Api) -> None:
        self.tree = tree
        self.api = api
        self.lacks = []

    @property
    def guilty(self) -> Lack:
        """What to look at first; there must be a lack."""
        return next((lack for lack in self.lacks if lack.is_final), self.lacks[0])

    def look(self) -> None:
        """Find out what is not there."""
        try:
            self.health = self.api.health()
        except ApiUnreachable:
            self.health = None
        self.lacks = lacks(self.tree.processes(), self.health)
        self.sign_in = sign_in_address(self.health)

    def is_over(self) -> bool:
        """Look again; true when everything is there, or when waiting is of no use."""
        before = [lack.detail for lack in self.lacks]
        self.look()
        now = [lack.detail for lack in self.lacks]
        if now and now != before:
            print(f"waiting: {', '.join(now)}", flush=True)
        return not self.lacks or self.sign_in is not None or any(lack.is_final for lack in self.lacks)


def _show_running(settings: Settings, tree: ProcessTree, api: Api) -> int:
    """Show what runs; running is not working, so say too what does not work."""
    present = Start(tree, api)
    try:
        present.look()
    except TreeFailed as error:
        print(error, file=sys.stderr)
        return 1
    if present.sign_in:
        print(f"The language server waits for you to sign in at\n  {present.sign_in}")
    _show_status(settings, tree)
    if present.lacks and not present.sign_in:
        _explain(f"Wiremeter does not work yet: {present.guilty.detail}", present, tree)
        return 1
    return 0


def _explain_failure(start: Start, tree: ProcessTree) -> None:
    _explain(f"Wiremeter did not come up: {start.guilty.detail}", start, tree)
    print("It is left as it is, to be looked at; `make stop` stops it.", file=sys.stderr)


def _explain(problem: str, start: Start, tree: ProcessTree) -> None:
    print(f"\n{problem}", file=sys.stderr)
    for process in tree.processes():
        if process.name == start.guilty.process:
            print(f"the last lines of {process.log}:", file=sys.stderr)
            for line in last_lines(process.log, _LOG_LINES):
                print(f"  {line}", file=sys.stderr)


def _prove(settings: Settings, api: Api, start: Start) -> bool:
    """Send one prompt, if there is someone to answer it; print the answer and what was used."""
    server = (start.health or {}).get("language_server") or {}
    if server.get("profile") == "simulated":
        print(
            "\nThe language server is SIMULATED: it and the provider that it calls come with Wiremeter, so the figures"
            "\nbelow are of no account of yours. README.md says how to run a real one."
        )
    reason = _why_no_prompt(settings, server, start.sign_in)
    if reason:
        print(f"\nNo prompt was sent: {reason}")
        return True
    try:
        models = api.models()
        if not models:
            print("\nNo prompt was sent: the language server offers no model.")
            return True
        _ask(api, models[0], settings.lsrunner.turn_timeout_s)
        print(f"\nused so far, by model:\n{usage_table(api.usage())}")
    except (ApiRefused, ApiUnreachable) as error:
        print(f"\nthe prompt was not answered: {error}", file=sys.stderr)
        return False
    return True


def _why_no_prompt(settings: Settings, server: dict[str, Any], sign_in: str | None) -> str | None:
    if sign_in:
        return f"the language server waits for you to sign in at\n  {sign_in}"
    if not server.get("accepts_turns", True):
        return f"the profile {server.get('profile')} is metered only, it takes no prompts from us."
    if server.get("profile") == "antigravity" and not settings.lsrunner.terms_read:
        return (
            "whether other programs may use the login of Antigravity is for the vendor's terms to say. When you have"
            "\nread them and decided, set terms_read = true under [lsrunner] in wiremeter.toml. Metering works without."
        )
    return None


def _ask(api: Api, model: str, timeout_s: float) -> None:
    print(f"\n{model} is asked: {PROMPT}", flush=True)
    answer = api.ask(model, PROMPT, timeout_s)
    print(answer["choices"][0]["message"]["content"])
    usage = answer.get("usage")
    if usage:
        calls = answer.get("x_wiremeter", {}).get("calls", 1)
        over = f", {calls} calls" if calls > 1 else ""  # agents ask small models on the side
        print(f"(by the wire{over}: {usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out)")


def _show_status(settings: Settings, tree: ProcessTree) -> int:
    print(f"\n$ supervisorctl status\n{tree.status()}")
    print(
        "\nNow try:"
        f"\n  curl -s localhost:{settings.frontproxy.port}/v1/usage | jq ."
        "\n  .venv/bin/wiremeter tail"
        "\n  make stop"
    )
    return 0
