"""What is found of an installed Antigravity."""

import json
import os
import struct
from pathlib import Path

from services.lsrunner.installation import help_of, installed_binary, installed_version


def test_the_version_is_that_of_the_installed_app(tmp_path: Path) -> None:
    """The provider refuses versions that are too old, so it is read from the app that the binary came with."""
    binary = tmp_path / "resources" / "bin" / "language_server"
    assert installed_version(binary) is None
    package = json.dumps({"name": "antigravity", "version": "2.10.0"}).encode()
    index = json.dumps(
        {"files": {"a.js": {"size": 3, "offset": "0"}, "package.json": {"size": len(package), "offset": "3"}}}
    )
    padded = index.encode() + b"\0" * (-len(index) % 4)
    head = struct.pack("<IIII", 4, len(padded) + 8, len(padded) + 4, len(index))
    binary.parent.mkdir(parents=True)
    (tmp_path / "resources" / "app.asar").write_bytes(head + padded + b"abc" + package)
    assert installed_version(binary) == "2.10.0"


def test_a_plain_package_counts_too(tmp_path: Path) -> None:
    binary = tmp_path / "resources" / "bin" / "language_server"
    (tmp_path / "resources" / "app").mkdir(parents=True)
    (tmp_path / "resources" / "app" / "package.json").write_text('{"version": "2.9.1"}')
    assert installed_version(binary) == "2.9.1"


def test_an_archive_of_nonsense_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "resources").mkdir()
    for content in (b"", b"\xff" * 15, b"\x04\0\0\0" * 4 + b"{}", b"\xff" * 4096):
        (tmp_path / "resources" / "app.asar").write_bytes(content)
        assert installed_version(tmp_path / "resources" / "bin" / "language_server") is None


def test_the_binary_of_a_users_own_archive_is_found(tmp_path: Path) -> None:
    binary = tmp_path / "Antigravity" / "resources" / "bin" / "language_server"
    binary.parent.mkdir(parents=True)
    binary.write_text("")
    assert installed_binary({"HOME": str(tmp_path)}) != str(binary)
    binary.chmod(0o755)
    assert installed_binary({"HOME": str(tmp_path)}) == str(binary)


def test_help_is_read_from_both_outputs(tmp_path: Path) -> None:
    program = tmp_path / "language_server"
    program.write_text("#!/bin/sh\necho '  -standalone'\necho '  -headless' >&2\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    assert help_of(str(program), os.geteuid()).split() == ["-standalone", "-headless"]


def test_help_that_cannot_be_had_is_empty(tmp_path: Path) -> None:
    assert help_of(str(tmp_path / "missing"), os.geteuid()) == ""
    (tmp_path / "language_server").write_text("no program")
    assert help_of(str(tmp_path / "language_server"), os.geteuid()) == ""
