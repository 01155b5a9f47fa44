"""
The metrics page: the health report and the ledger's totals as Prometheus text, format version 0.0.4.

Source: prometheus.io/docs/instrumenting/exposition_formats. Counts are what providers reported; a count that none
reported has no line.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from services.events.lifecycle import ServerState
from services.frontproxy.health import HealthReport

_Labels = Mapping[str, object]
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def metrics_text(health: HealthReport, report: Mapping[str, object]) -> str:
    """
    Write the page.

    Args:
        health: The state of everything.
        report: A usage report over all time, `wiremeter.usage-report/1`.
    """
    models = _objects(report.get("by_model"))
    server = health.language_server
    lines = [
        *_family(
            "wiremeter_process_up",
            "gauge",
            "1 while the process is heard.",
            (({"process": each["name"]}, int(bool(each["is_alive"]))) for each in health.processes),
        ),
        *_family("wiremeter_missing", "gauge", "Things that are missing.", [({}, len(health.missing))]),
        *_family(
            "wiremeter_language_server_ready",
            "gauge",
            "1 while the language server takes prompts.",
            [({}, int(server is not None and server.state is ServerState.READY and health.is_serving))],
        ),
        *_family("wiremeter_responses_total", "counter", "Responses of providers.", _outcomes(models)),
        *_family(
            "wiremeter_usage_total",
            "counter",
            "What providers reported; some counts are parts of others (docs/events.md).",
            _counts(models),
        ),
    ]
    return "\n".join(lines) + "\n"


def _outcomes(models: Iterable[Mapping[str, object]]) -> Iterable[tuple[_Labels, object]]:
    for each in models:
        for outcome, count in _object(each.get("outcomes")).items():
            yield _names(each) | {"outcome": outcome}, count


def _counts(models: Iterable[Mapping[str, object]]) -> Iterable[tuple[_Labels, object]]:
    for each in models:
        for name, count in _object(each.get("usage")).items():
            yield _names(each) | {"count": name}, count


def _names(each: Mapping[str, object]) -> dict[str, object]:
    return {"provider": each.get("provider"), "model": each.get("model")}


def _family(name: str, kind: str, help_text: str, samples: Iterable[tuple[_Labels, object]]) -> Iterable[str]:
    found = [f"{name}{_label_text(labels)} {value}" for labels, value in samples if isinstance(value, int | float)]
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *found] if found else []


def _label_text(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels.items()) + "}"


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list | tuple) else []
