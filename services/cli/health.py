"""`wiremeter health`: the processes, as they see themselves, and the language server."""

import sys
from collections.abc import Mapping
from typing import Any

from services.cli.process import ProcessTree
from services.cli.status import NOT_RUNNING, what_to_do
from services.cli.upstream import Api, ApiUnreachable


def health(tree: ProcessTree, api: Api) -> int:
    """Print the health report; return 0 when nothing is missing, 1 when something is."""
    try:
        report = api.health()
    except ApiUnreachable as error:
        print(f"{error}\n{what_to_do(tree)}", file=sys.stderr)
        return NOT_RUNNING
    print(described(report))
    return 1 if report["missing"] else 0


def described(report: Mapping[str, Any]) -> str:
    """Lay out a `wiremeter.health-report/1`."""
    lines = [_process_line(each) for each in report["processes"]]
    server = report.get("language_server")
    if server:
        way = f", traffic by {server['way']}" if server.get("way") else ""
        lines.append(f"language server: {server['profile']}, {server['state']}, as {server['user']}{way}")
    lines.append("missing:" if report["missing"] else "nothing is missing")
    lines += [f"  {each['what']}: {each['detail']}" for each in report["missing"]]
    return "\n".join(lines)


def _process_line(process: Mapping[str, Any]) -> str:
    life = "alive" if process["is_alive"] else "silent"
    facts = " ".join(f"{name}={_told(value)}" for name, value in (process.get("facts") or {}).items())
    return f"{process['name']:<12}{life:<8}pid {process['pid']:<8}{facts}".rstrip()


def _told(fact: object) -> str:
    if fact is None or fact == {}:
        return "-"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, Mapping):
        return ",".join(f"{name}:{value}" for name, value in fact.items())
    return str(fact)
