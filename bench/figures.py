"""
What every measurement ends as: a quantity, its value, its unit, and the goal where there is one.

Processor time is the figure of choice: on a machine that others use too it is disturbed least. What is measured in a
process of its own is read from `/proc`, so that it is the kernel's word and not the process's.
"""

import os
import platform
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One measured quantity.

    Attributes:
        at_most, at_least: The goal.
    """

    quantity: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """None where there is no goal."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def goal(self) -> str:
        """The goal, and whether it was reached, in a word."""
        if self.is_reached is None:
            return ""
        bound = f"≤ {self.at_most:,g}" if self.at_most is not None else f"≥ {self.at_least:,g}"
        return bound if self.is_reached else f"{bound}, missed"


def table(figures: Iterable[Figure]) -> str:
    """Write figures as one table."""
    rows = [(figure.quantity, written(figure.value), figure.unit, figure.goal) for figure in figures]
    rows.insert(0, ("quantity", "value", "unit", "goal"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{what:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {goal}".rstrip()
        for what, value, unit, goal in rows
    )


def written(value: float) -> str:
    """Write a number with three significant digits, at least."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


def machine() -> dict[str, object]:
    """Describe the machine, without saying whose it is."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }


def best_us(work: Callable[[], object], count: int, rounds: int = ROUNDS) -> float:
    """Return microseconds of this thread's processor time per item, of the best round; `work` does `count` items."""
    best = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best / count * 1e6


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def processor_s(*pids: int) -> float:
    """Return the processor time that the living threads of processes have used, to the kernel's nanosecond."""
    files = [task / "schedstat" for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def environ_for(home: Path, **settings: object) -> dict[str, str]:
    """Return the environment for a process of ours: this one's, without settings that would change what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WIREMETER_")}
    ours = {f"WIREMETER_{name}".upper(): str(value) for name, value in settings.items()}
    return kept | {"WIREMETER_CONFIG": os.devnull, "WIREMETER_HOME": str(home)} | ours
