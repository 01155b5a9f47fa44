"""
The recorded responses that other people's projects published, where a checkout has them beside it.

They are not part of this repository. `WIREMETER_FIXTURES` names their directory; without it, `../shared/fixtures`
beside the checkout is taken. Tests that need them are skipped, with the reason shown, where there are none.
"""

import base64
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from services.events.usage import ResponseUsage

CHECKOUT = Path(__file__).resolve().parents[2]
FIXTURES = Path(os.environ.get("WIREMETER_FIXTURES") or CHECKOUT.parent / "shared" / "fixtures")

# Attributes whose flat name is shorter in our records than the rule makes it.
FLAT_NAMES = {
    "operation_name": "operation",
    "response_finish_reasons": "finish_reasons",
    "provider_name": "provider",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """One recorded exchange, and what a right reader gets out of it."""

    name: str
    dialect: str
    tags: frozenset[str]
    method: str
    host: str
    path: str
    request_model: str | None
    request_stream: bool | None
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    outcome: str
    record: dict[str, object]
    extra_records: tuple[dict[str, object], ...]

    def header(self, name: str) -> str:
        """Return the value of a header, or an empty text."""
        return ", ".join(value for key, value in self.headers if key.lower() == name)

    def __str__(self) -> str:
        return self.name


def fixtures(*directories: str) -> list[ParameterSet]:
    """Return the fixtures of `directories` as pytest parameters; where there are none, one that is skipped."""
    if not FIXTURES.is_dir():
        reason = f"no recordings at {FIXTURES}; WIREMETER_FIXTURES names another place"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    paths = [path for directory in directories for path in sorted((FIXTURES / directory).glob("*.json"))]
    return [pytest.param(read_fixture(path), id=f"{path.parent.name}/{path.stem}") for path in paths]


@cache
def read_fixture(path: Path) -> Fixture:
    """Read one fixture file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    request, response, expected = document["request"], document["response"], document["expected"]
    coded = response.get("body_base64")
    return Fixture(
        name=document["name"],
        dialect=document["dialect"],
        tags=frozenset(document["tags"]),
        method=request["method"],
        host=request["host"],
        path=request["path"],
        request_model=request.get("model"),
        request_stream=request.get("stream"),
        status=response["status"],
        headers=tuple((name, value) for name, value in response["headers"]),
        body=base64.b64decode(coded) if coded is not None else response["body_text"].encode(),
        outcome=expected["outcome"],
        record=_flat(expected["record"]),
        extra_records=tuple(_flat(record) for record in expected["extra_records"]),
    )


def record_of(usage: ResponseUsage, provider: str) -> dict[str, object]:
    """Return a record in the flat names in which fixtures expect it: only what was reported."""
    named = {
        "provider": provider,
        "operation": usage.operation,
        "request_model": usage.request_model,
        "response_model": usage.response_model,
        "response_id": usage.response_id,
        "trace_id": usage.trace_id,
        "finish_reasons": list(usage.finish_reasons) or None,
        "error_type": usage.error_type,
        "error_code": usage.error_code,
        "service_tier": usage.service_tier,
        "block_reason": usage.block_reason,
        "iteration_type": usage.iteration_type,
    }
    return {name: value for name, value in named.items() if value is not None} | dict(usage.counts)


def _flat(record: dict[str, object]) -> dict[str, object]:
    """Apply the one rule of names: drop `gen_ai.usage.`, `gen_ai.` or `ext.`, turn dots into underscores."""
    flat = {}
    for attribute, value in record.items():
        for prefix in ("gen_ai.usage.", "gen_ai.", "ext."):
            if attribute.startswith(prefix):
                attribute = attribute.removeprefix(prefix)
                break
        name = attribute.replace(".", "_")
        flat[FLAT_NAMES.get(name, name)] = value
    return flat
