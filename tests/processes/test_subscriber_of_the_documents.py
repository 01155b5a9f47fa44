"""The documents' own subscriber, run as it stands there, and their tables against the code."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from services.bus.publisher import Publisher
from services.events.exchange import UsageRecorded
from services.events.usage import COUNT_MEANING, Outcome
from tests.support.checkout import PROJECT, free_ports
from tests.support.event_values import EVENTS
from tests.support.records import usage_json

DOCUMENT = (PROJECT / "docs" / "events.md").read_text(encoding="utf-8")


def test_the_subscriber_prints_what_is_published() -> None:
    """Ten lines, nothing but pyzmq."""
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert program.count("\n") <= 10
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    publisher = Publisher(bind=[endpoint])
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program.replace("tcp://127.0.0.1:8743", endpoint)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        printed = b""
        for _ in range(1000):
            publisher.send("usage.gcp_gen_ai.gemini-3-flash", usage_json())
            process_output = process.stdout.read()
            printed += process_output or b""
            if b"\n" in printed:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.02)
        assert printed.splitlines()[0] == b"gemini-3-flash {'input_tokens': 1514, 'output_tokens': 77}"
    finally:
        process.kill()
        process.communicate()
        publisher.close()


def test_every_member_of_a_record_is_explained() -> None:
    """And every outcome, count and schema."""
    explained = set(re.findall(r"`([a-z0-9_]+)`", DOCUMENT))
    assert {field.name for field in dataclasses.fields(UsageRecorded)} - explained == set()
    assert set(Outcome) - explained == set()
    kinds = r"(text|image|audio|video|document)_(?=input|output|cache_read)"
    assert {re.sub(kinds, "text_", name) for name in COUNT_MEANING} - explained == set()
    assert {f"`{kind.SCHEMA}`" for kind in EVENTS if f"`{kind.SCHEMA}`" not in DOCUMENT} == set()


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.SCHEMA)
def test_every_member_of_an_event_is_in_its_row(kind: type) -> None:
    """Of the table of the internal bus."""
    if kind is UsageRecorded:
        return
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{kind.SCHEMA}` |"))  # type: ignore[attr-defined]
    assert {field.name for field in dataclasses.fields(kind)} - set(re.findall(r"`(\w+)`", row)) == set()
