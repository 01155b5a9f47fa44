"""
Publishes files that the language server's user must read and execute: into the shared directory, whole or not at all.

Each is written beside its place under a name that nobody knows and renamed; 0644, in a directory of ours. A name that
exists is never opened for writing, so a symbolic link there is replaced and not followed.
"""

import os
import secrets
from pathlib import Path


def publish(source: Path, directory: Path) -> Path:
    """
    Copy a file into `directory`, if it is not there already with this content.

    Raises:
        OSError: The directory cannot be made or written.
    """
    # 0755 for the scripts' reader; where the directory lies below a private one that changes nothing.
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(0o755)
    content = source.read_bytes()
    target = directory / source.name
    if not target.is_symlink() and target.is_file() and target.read_bytes() == content:
        return target
    passing = directory / f".{source.name}.{secrets.token_hex(8)}"
    descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)
    passing.rename(target)
    return target
