"""
Measure everything that Wiremeter itself costs; print one table, write it as JSON.

    python -m bench [--quick] [--rows N] [--only NAME,…] [--json FILE]

    dialects     readers, per event and per megabyte
    ledger       codec, journal, bus, commits, per record
    accountant   the whole way of a record into the ledger, in a process of its own
    usage_api    what the usage API answers with, over HTTP, from a large ledger
    delay        from the provider's last byte to the public topic
    frontproxy   a streamed piece of an answer
    processes    start-up, memory, rest

How cost grows has a command of its own, `python -m bench.growth`. Figures are of this machine as it is now: compare
those of one run, on a machine that does nothing else.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import accountant, delay, dialects, frontproxy, ledger, processes, usage_api
from bench.figures import Figure, machine, table


def parts(quick: bool, rows: int) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return what is measured, in order."""
    return {
        "dialects": lambda: dialects.measure(500 if quick else 5000),
        "ledger": lambda: ledger.measure(2000 if quick else 50_000),
        "accountant": lambda: accountant.measure(5000 if quick else 100_000),
        "usage_api": lambda: usage_api.measure(rows, 50 if quick else 300),
        "delay": lambda: delay.measure(64 if quick else 480),
        "frontproxy": lambda: frontproxy.measure(2000 if quick else 20_000, 4),
        "processes": lambda: processes.measure(2.0 if quick else 20.0),
    }


def main() -> int:
    """Measure what was chosen."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What Wiremeter itself costs.")
    parser.add_argument("--quick", action="store_true", help="a minute instead of some; less exact")
    parser.add_argument("--rows", type=int, help="records in the ledger that the usage API is asked about")
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument("--json", type=Path, default=Path("run", "bench.json"))
    chosen = parser.parse_args()
    every = parts(chosen.quick, chosen.rows or (20_000 if chosen.quick else 1_000_000))
    names = [name for name in chosen.only.split(",") if name] or list(every)
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += every[name]()
    print(table(figures))
    chosen.json.parent.mkdir(exist_ok=True)
    members = [
        {"quantity": each.quantity, "value": each.value, "unit": each.unit, "goal": each.goal or None}
        for each in figures
    ]
    chosen.json.write_text(json.dumps({"machine": machine(), "figures": members}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
