"""
Go programs of tests/fakes, built once per test session into a temporary directory.

    binary = built("provider")      # skips the test, with the reason, where there is no Go toolchain

Nothing is fetched: they use the standard library only, save those without a go.mod, which use the sources that Debian
has as packages.

A lock lets one thread build while the others wait. Mark such tests `@pytest.mark.go`.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

FAKES = Path(__file__).resolve().parents[1] / "fakes"
BUILD_TIMEOUT_S = 300.0
_DEBIAN_SOURCES = Path("/usr/share/gocode")
_building = threading.RLock()


@functools.cache
def built(name: str) -> Path:
    """
    Build `tests/fakes/<name>` and return the program; other users may execute it.

    Raises:
        pytest.skip.Exception: There is no Go toolchain, or not what the program is made from.
        AssertionError: It does not build.
    """
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"no Go toolchain on PATH, so tests/fakes/{name} cannot be built (apt-get install golang-go)")
    if not (FAKES / name / "go.mod").exists() and not (_DEBIAN_SOURCES / "src/google.golang.org/grpc").exists():
        pytest.skip("Debian's source of grpc-go is not installed (apt-get install golang-google-grpc-dev)")
    program = _folder() / name
    with _building:
        if not program.exists():
            _build(go, FAKES / name, program)
    return program


def _build(go: str, source: Path, program: Path) -> None:
    environment = {**os.environ, "GOFLAGS": "", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    if not (source / "go.mod").exists():
        environment |= {"GO111MODULE": "off", "GOPATH": str(_DEBIAN_SOURCES)}
    if not os.environ.get("HOME"):
        environment.setdefault("GOCACHE", str(_folder() / "cache"))
    temporary = program.with_suffix(".new")
    command = [go, "build", "-o", str(temporary), "."]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, timeout=BUILD_TIMEOUT_S)
    assert done.returncode == 0, f"{source} does not build: {done.stderr.decode()}"
    temporary.chmod(0o755)
    temporary.rename(program)


@functools.cache
def _folder() -> Path:
    """Return the folder of this run of the tests, which other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="wiremeter-go-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
