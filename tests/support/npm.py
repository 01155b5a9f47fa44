"""Real agents from npm, installed once into a cache of the user's own; a test that needs one is skipped without."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

# What today's agents ask for; Debian 12 has 18, so an own one is installed beside the agent there.
NODE_MAJOR_MIN = 20
_OWN_NODE = "node@20.9.0"
_INSTALL_TIMEOUT_S = 300.0


def program_from_npm(package: str, version: str, folder: Path | None = None) -> tuple[str, ...]:
    """
    Install a package of that exact version, unless it is there; return the command that starts its program.

    Args:
        folder: Where to install it; by default the user's cache, outside the checkout.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node.js and npm are not installed")
    place = folder or _cache() / f"{package.replace('/', '+')}@{version}"
    installed = place / "node_modules" / package / "package.json"
    if not installed.exists():
        _install(place, package, version)
    about = json.loads(installed.read_text())
    programs = about["bin"]
    script = programs if isinstance(programs, str) else next(iter(programs.values()))
    own_node = place / "node_modules" / ".bin" / "node"
    node = str(own_node) if own_node.exists() else shutil.which("node")
    assert node is not None
    return node, str((installed.parent / script).resolve())


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wiremeter-tests" / "npm"


def _install(place: Path, package: str, version: str) -> None:
    # A half-made one must never look like a whole one: made beside it, then renamed.
    making = place.with_name(f"{place.name}.{os.getpid()}")
    making.mkdir(parents=True)
    wanted = [f"{package}@{version}"] + ([_OWN_NODE] if _node_major() < NODE_MAJOR_MIN else [])
    try:
        done = subprocess.run(
            ["npm", "install", "--prefix", str(making), "--no-audit", "--no-fund", "--loglevel=error", *wanted],
            cwd=making,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm cannot install {wanted[0]}: {done.stderr.strip()[-300:]}")
        if not place.exists():
            making.rename(place)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {wanted[0]} within {_INSTALL_TIMEOUT_S:g} s")
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _node_major() -> int:
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(shown.strip().removeprefix("v").partition(".")[0])
