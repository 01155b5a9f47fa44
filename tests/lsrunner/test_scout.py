"""The scout: what a user sees of the machine. The other user's view is in test_probe."""

import json
import os
import socket
import subprocess
import sys

from services.lsrunner import scout
from tests.support.checkout import PROJECT

SCOUT = str(PROJECT / "services" / "lsrunner" / "scout.py")


def said(*arguments: str) -> dict:
    """Run it; return what it says."""
    run = subprocess.run([sys.executable, "-IS", SCOUT, *arguments], capture_output=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_it_tells_who_and_where(tmp_path):
    """And makes the workspace."""
    seen = said("look", str(tmp_path / "w"), SCOUT)
    assert (seen["uid"], seen["python"], seen["unreadable"]) == (os.geteuid(), list(sys.version_info[:2]), [])
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700


def test_files_that_are_missing_or_empty_cannot_be_read(tmp_path):
    """An empty bundle trusts nobody."""
    (tmp_path / "empty").touch()
    files = [str(tmp_path / "empty"), str(tmp_path / "none")]
    assert said("look", str(tmp_path), *files)["unreadable"] == files


def test_a_canary_without_an_answer_says_so():
    """The error in the kernel's words; what would be redirected is refused here."""
    seen = said("canary", "127.0.0.1")
    with socket.socket() as probe:
        served = probe.connect_ex(("127.0.0.1", 443)) == 0
    assert served or (seen["127.0.0.1"]["port"], seen["127.0.0.1"]["error"]) == (None, "Connection refused")
    assert seen["127.0.0.1"]["udp"] in ("open", "refused", "Connection refused")


def test_the_canary_names_itself():
    """mitm can tell it from a client in trouble."""
    hello = scout.client_hello()
    assert hello[0] == 22
    assert b"canary.wiremeter.invalid" in hello


def test_only_a_home_that_it_made_is_removed(tmp_path):
    """By its name, and never through a link."""
    made, other, link = tmp_path / "wiremeter-home-x", tmp_path / "other", tmp_path / "wiremeter-home-link"
    made.mkdir()
    other.mkdir()
    link.symlink_to(other)
    for path in (made, other, link):
        scout.forget(str(path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "wiremeter-home-link"]


def test_anything_else_is_a_mistake():
    """With the usage."""
    run = subprocess.run([sys.executable, "-IS", SCOUT, "fly"], capture_output=True)
    assert (run.returncode, run.stderr[:6]) == (64, b"usage:")
