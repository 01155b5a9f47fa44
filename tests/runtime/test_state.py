"""The state directory: where it is, and whose."""

import os
import pwd
import shutil
import stat
from pathlib import Path

import pytest

from services.runtime.state import RoleTaken, StateDirectory, StateUnusable


def test_where_it_is() -> None:
    """WIREMETER_HOME, else XDG_STATE_HOME, else ~/.local/state."""
    environ = {"HOME": "/h", "XDG_STATE_HOME": "/x", "WIREMETER_HOME": "/w"}
    assert StateDirectory.from_environ(environ).home == Path("/w")
    assert StateDirectory.from_environ({"HOME": "/h", "XDG_STATE_HOME": "/x"}).home == Path("/x/wiremeter")
    assert StateDirectory.from_environ({"HOME": "/h"}).home == Path("/h/.local/state/wiremeter")


@pytest.mark.parametrize("state_home", ["", "x", "./x", "~/x"])
def test_a_state_home_that_is_relative_is_ignored(state_home: str) -> None:
    """As its specification says: where would it be relative to?"""
    found = StateDirectory.from_environ({"HOME": "/h", "XDG_STATE_HOME": state_home})
    assert found.home == Path("/h/.local/state/wiremeter")


def test_it_is_nobody_elses(tmp_path: Path) -> None:
    """Directories are 0700, whatever the umask was."""
    before = os.umask(0)
    try:
        state = StateDirectory(home=tmp_path / "state")
        state.make()
        state.make()
    finally:
        os.umask(before)
    folders = [state.home, *(path for path in state.home.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert {state.ca, state.journal, state.run, state.simulator} < set(folders)


def test_a_path_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(StateUnusable, match="exceeds 107; set WIREMETER_HOME to a shorter one"):
        StateDirectory(home=tmp_path / ("d" * 100)).make()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(StateUnusable, match="cannot be made: Not a directory"):
        StateDirectory(home=tmp_path / "file" / "state").make()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another user's directory")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    """Its owner could read everything."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(StateUnusable, match="belongs to user 65534, not to 0"):
        StateDirectory(home=tmp_path).make()


def test_a_role_has_one_holder(tmp_path: Path) -> None:
    """Until it lets go; other roles are free."""
    state = StateDirectory(home=tmp_path)
    state.make()
    held = state.take_role("accountant")
    with pytest.raises(RoleTaken, match="another accountant is running in"):
        state.take_role("accountant")
    os.close(state.take_role("lsrunner"))
    os.close(held)
    os.close(state.take_role("accountant"))


def test_locks_that_are_held_are_known(tmp_path: Path) -> None:
    """By whose role they are, not by whether there is a file."""
    state = StateDirectory(home=tmp_path)
    assert state.locks_held() == []
    state.make()
    held = state.take_role("mitm-0")
    os.close(state.take_role("accountant"))
    assert state.locks_held() == [state.run / "mitm-0.lock"]
    os.close(held)
    assert state.locks_held() == []


def test_a_lock_is_never_a_link(tmp_path: Path) -> None:
    """Somebody else's file must not be opened in its place."""
    state = StateDirectory(home=tmp_path)
    state.make()
    (state.run / "accountant.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        state.take_role("accountant")
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def arranged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `mitm-redirect.sh install` makes."""
    monkeypatch.setattr("services.runtime.state.SHARED_ROOT", tmp_path / "lib")
    directory = tmp_path / "lib" / pwd.getpwuid(os.geteuid()).pw_name
    directory.mkdir(parents=True)
    return directory


def test_the_trust_bundle_is_shared_only_where_that_was_arranged(tmp_path: Path, arranged: Path) -> None:
    """Else it stays in the state directory."""
    state = StateDirectory(home=tmp_path / "state")
    state.make()
    assert state.trust_bundle == arranged / "ca-bundle.pem"
    arranged.joinpath("owner").unlink()
    arranged.rmdir()
    state.make()
    assert state.trust_bundle == tmp_path / "state" / "shared" / "ca-bundle.pem"


def test_the_shared_place_belongs_to_one_state_directory(tmp_path: Path, arranged: Path) -> None:
    """Another one, of a test or a bench, does not replace the authority that the first one's language server trusts."""
    first, second = StateDirectory(home=tmp_path / "first"), StateDirectory(home=tmp_path / "second")
    assert first.shared == tmp_path / "first" / "shared"  # not before it was made
    for state in (first, second, first):
        state.make()
    assert first.shared == arranged
    assert second.shared == tmp_path / "second" / "shared"


def test_the_shared_place_of_a_state_directory_that_has_gone_is_free(tmp_path: Path, arranged: Path) -> None:
    """What its mitm has written is gone; and a state directory is the same one by whatever path it is reached."""
    (tmp_path / "link").symlink_to(tmp_path / "new")
    old, new, linked = (StateDirectory(home=tmp_path / name) for name in ("old", "new", "link"))
    old.make()
    published = (old.trust_bundle, old.trust_store, old.authority_certificate)
    for path in published:
        path.write_bytes(b"the old one's")
    shutil.rmtree(old.home)
    new.make()
    assert not any(path.exists() for path in published)
    new.trust_bundle.write_bytes(b"the new one's")
    linked.make()
    assert new.shared == linked.shared == arranged
    assert new.trust_bundle.exists()


def test_a_shared_place_that_cannot_be_taken_is_named(tmp_path: Path, arranged: Path) -> None:
    """The process ends with that line, and nothing is published where nobody looks for it."""
    (arranged / "owner.new").mkdir()
    with pytest.raises(StateUnusable, match=f"{arranged} cannot be taken: Is a directory"):
        StateDirectory(home=tmp_path / "state").make()
