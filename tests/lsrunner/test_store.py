"""Files for the other user."""

import os

from services.lsrunner.store import publish


def test_a_file_is_published_for_everyone_to_read(tmp_path):
    """Whatever umask the process has."""
    source = tmp_path / "script.py"
    source.write_text("one")
    umask = os.umask(0o077)
    try:
        target = publish(source, tmp_path / "shared")
    finally:
        os.umask(umask)
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("one", 0o644)
    assert target.parent.stat().st_mode & 0o777 == 0o755


def test_only_what_has_changed_is_written(tmp_path):
    """A running program's script is not touched without need."""
    source = tmp_path / "script.py"
    source.write_text("one")
    first = publish(source, tmp_path / "shared").stat().st_ino
    assert publish(source, tmp_path / "shared").stat().st_ino == first
    source.write_text("two")
    target = publish(source, tmp_path / "shared")
    assert (target.read_text(), list(target.parent.iterdir())) == ("two", [target])


def test_a_symbolic_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    """Someone else may have put it there."""
    source, victim, shared = tmp_path / "script.py", tmp_path / "victim", tmp_path / "shared"
    source.write_text("one")
    victim.write_text("precious")
    shared.mkdir()
    (shared / "script.py").symlink_to(victim)
    assert publish(source, shared).read_text() == "one"
    assert victim.read_text() == "precious"
