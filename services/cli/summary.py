"""What one `wiremeter run` used, for people and for scripts. A core."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.cli.tables import usage_table

SCHEMA = "wiremeter.run/1"


@dataclass(frozen=True, slots=True)
class End:
    """How a program ended: its exit status, and the signal if one ended it."""

    status: int
    signal: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One run that is over.

    Attributes:
        run: Its id, the `client.run` of its records.
        user: Whose redirect it went by; None through CONNECT.
        under_way: Exchanges of it that are not over; None when nobody could tell.
    """

    run: str
    label: str
    program: str
    user: str | None
    started_at: datetime
    ended_at: datetime
    end: End
    under_way: int | None


def as_object(run: Run, report: Mapping[str, Any]) -> dict[str, object]:
    """Write the summary for scripts; `totals` and `by_model` are those of a `wiremeter.usage-report/1`."""
    return {
        "schema": SCHEMA,
        "run": run.run,
        "label": run.label,
        "program": run.program,
        "user": run.user,
        "started_at": _text(run.started_at),
        "ended_at": _text(run.ended_at),
        "exit_status": run.end.status,
        "signal": run.end.signal,
        "is_complete": run.under_way == 0,
        "under_way": run.under_way,
        "totals": report["totals"],
        "by_model": report["by_model"],
    }


def as_text(run: Run, report: Mapping[str, Any]) -> str:
    """Write the summary for people."""
    if report["totals"]["requests"]:
        lines = [f"wiremeter: {run.program} used, as {run.label}:", usage_table(report)]
    else:
        lines = [f"wiremeter: nothing of {run.program} was metered: {_why_nothing(run)}"]
    if run.under_way:
        lines.append(f"{run.under_way} still under way, not in the sums; `wiremeter usage` will have them")
    elif run.under_way is None:
        lines.append("this may not be all: nobody could say whether everything is over")
    if run.user is not None:
        lines.append(f"whatever else ran as {run.user} meanwhile and could not be told apart is in the sums")
    return "\n".join(lines)


def _why_nothing(run: Run) -> str:
    way = "does not go through the proxy" if run.user is None else "had no traffic that was redirected"
    return f"it called no model, or {way} (docs/agents.md)"


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
