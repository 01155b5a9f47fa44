"""An interpreter with our packages that an ordinary user may run, also where the tests' own is below root's home."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

_SYSTEM_PYTHON = Path("/usr/bin/python3")
# Large, and of no use to the product.
_LEFT_OUT = ("mypy*", "ruff*", "hypothesis*", "openai*", "pip*", "pytest*", "_pytest*", "__pycache__")


def make_virtual_environment(place: Path) -> None:
    """
    Make a virtual environment that anybody may run, with copies of the packages of the one that runs the tests.

    Skips the test where no interpreter of this version is there for everybody.
    """
    python = _interpreter_for_everybody()
    if python is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        pytest.skip(f"no Python {version} that an ordinary user may run")
    subprocess.run([python, "-m", "venv", "--without-pip", place], check=True)
    [packages] = place.glob("lib/python*/site-packages")
    shutil.copytree(
        sysconfig.get_path("platlib"), packages, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_OUT)
    )
    subprocess.run(["chmod", "-R", "a+rX", place], check=True)


def _interpreter_for_everybody() -> Path | None:
    for python in (Path(sys.executable).resolve(), _SYSTEM_PYTHON):
        if python.exists() and _is_open_to_all(python.resolve()) and _version_of(python) == sys.version_info[:2]:
            return python
    return None


def _is_open_to_all(program: Path) -> bool:
    return all(os.stat(part).st_mode & 0o005 == 0o005 for part in (program, *program.parents))


def _version_of(python: Path) -> tuple[int, ...]:
    shown = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
    return tuple(int(number) for number in shown.stdout.split())
