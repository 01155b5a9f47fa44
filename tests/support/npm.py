"""Real agents from npm, installed once into a cache of the user's own; a test that needs one is skipped without."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

# What today's agents ask for; Debian 12 has 18, so they get one from npm there, too.
NODE_MAJOR_MIN = 20
# One whose own `fetch` can go through a proxy.
NODE_VERSION = "24.21.0"
_INSTALL_TIMEOUT_S = 300.0


def program_from_npm(package: str, version: str, folder: Path | None = None) -> tuple[str, ...]:
    """
    Install a package of that exact version, unless it is there; return the command that starts its program.

    Args:
        folder: Where to install it; by default the user's cache, outside the checkout.
    """
    _need_npm()
    script = _installed(package, version, folder)
    return _node(), str(script)


def node_from_npm() -> str:
    """Return a Node.js of exactly `NODE_VERSION`, whatever this machine has."""
    _need_npm()
    return str(_installed("node", NODE_VERSION))


def _need_npm() -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node.js and npm are not installed")


def _node() -> str:
    """Return this machine's Node.js, or one that is new enough."""
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(shown.strip().removeprefix("v").partition(".")[0]) < NODE_MAJOR_MIN:
        return node_from_npm()
    node = shutil.which("node")
    assert node is not None
    return node


def _installed(package: str, version: str, folder: Path | None = None) -> Path:
    """Install a package, unless it is there, and return its program."""
    place = folder or _cache() / f"{package.replace('/', '+')}@{version}"
    installed = place / "node_modules" / package / "package.json"
    if not installed.exists():
        _install(place, package, version)
    programs = json.loads(installed.read_text())["bin"]
    script = programs if isinstance(programs, str) else next(iter(programs.values()))
    return (installed.parent / script).resolve()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wiremeter-tests" / "npm"


def _install(place: Path, package: str, version: str) -> None:
    # A half-made one must never look like a whole one: made beside it, then renamed.
    making = place.with_name(f"{place.name}.{os.getpid()}")
    making.mkdir(parents=True)
    wanted = f"{package}@{version}"
    # Several of these put their native program in place by a script, which a user's settings may forbid.
    options = ["--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts=false"]
    try:
        done = subprocess.run(
            ["npm", "install", "--prefix", str(making), *options, wanted],
            cwd=making,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm cannot install {wanted}: {done.stderr.strip()[-300:]}")
        if not place.exists():
            making.rename(place)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {wanted} within {_INSTALL_TIMEOUT_S:g} s")
    finally:
        shutil.rmtree(making, ignore_errors=True)
