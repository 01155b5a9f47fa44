"""
What is installed of Antigravity: where its hub's binary is, which version the app has, which flags the binary knows.

Looks at files and runs the binary with `--help`, nothing else. Blocks for as long as that takes, once for each build.
"""

import contextlib
import functools
import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from services.lsrunner.hub import BINARIES, package_place_in_asar, version_in_package
from services.lsrunner.lodging import SYSTEM_PATH

_HELP_TIMEOUT_S = 10.0
_ASAR_HEAD_BYTES_MAX = 4 * 1024 * 1024


def installed_binary(environ: Mapping[str, str]) -> str | None:
    """Return the hub's binary where the vendor's packages or a user's own archive put it."""
    own = Path(environ.get("HOME", "/")) / "Antigravity" / "resources" / "bin" / "language_server"
    return next((path for path in (*BINARIES, str(own)) if os.access(path, os.X_OK)), None)


def installed_version(binary: Path) -> str | None:
    """Read the version of the app that the binary belongs to, beside its `bin` directory; None if it does not say."""
    resources = binary.resolve().parent.parent
    with contextlib.suppress(OSError):
        return version_in_package((resources / "app" / "package.json").read_bytes())
    with contextlib.suppress(OSError), (resources / "app.asar").open("rb") as archive:
        place = package_place_in_asar(archive.read(_ASAR_HEAD_BYTES_MAX))
        if place is not None:
            archive.seek(place[0])
            return version_in_package(archive.read(place[1]))
    return None


def help_of(binary: str, uid: int) -> str:
    """Read the binary's help, once for each installed build; empty when it cannot be had."""
    try:
        installed = os.stat(binary)
    except OSError:
        return ""
    return _read_help(binary, installed.st_mtime_ns, installed.st_size, uid)


@functools.lru_cache(maxsize=8)
def _read_help(binary: str, _changed_ns: int, _size: int, uid: int) -> str:
    # Root does not run the vendor's binary as root, not even for its help.
    is_root = os.geteuid() == 0
    try:
        done = subprocess.run(
            [binary, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": SYSTEM_PATH, "HOME": "/nonexistent"},
            cwd="/",
            timeout=_HELP_TIMEOUT_S,
            check=False,
            user=uid if is_root else None,
            group=pwd.getpwuid(uid).pw_gid if is_root else None,
            extra_groups=[] if is_root else None,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")
