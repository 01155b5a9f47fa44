"""Finding out where the language server can live, with real users, real sudo and the real redirect."""

import asyncio
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from services.lsrunner.lodging import Way
from services.lsrunner.probe import (
    NoLodging,
    current_account,
    find_account,
    find_lodging,
    forget_home,
    is_listening,
)
from tests.lsrunner.test_guard import has_gone
from tests.support.checkout import PROJECT, free_ports
from tests.support.lsrunner import running
from tests.support.netns import Machine, why_unavailable

# Another user that every Debian has, with a home that is not its own.
OTHER_USER = "games"
needs_other_user = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("sudo") is None, reason="needs root and sudo to become another user"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that another user can enter, with the scripts and a file to trust."""
    with tempfile.TemporaryDirectory(prefix="wm-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name in ("guard.py", "scout.py"):
            shutil.copy(PROJECT / "services" / "lsrunner" / name, path)
        (path / "bundle.pem").write_text("certificates")
        for file in path.iterdir():
            file.chmod(0o644)  # whatever umask an earlier test has left
        yield path


async def lodging_of(account, shared: Path, workspace: Path, *readable: Path, port: int = 1):
    """Look at the machine as that account."""
    return await find_lodging(
        account,
        scout=shared / "scout.py",
        workspace=workspace,
        readable=readable or (shared / "bundle.pem",),
        mitm_port=port,
    )


@pytest.mark.parametrize("user", ["", pwd.getpwuid(os.geteuid()).pw_name])
def test_the_current_user_needs_no_sudo(user):
    """Named or not."""
    assert uvloop.run(find_account(user)) == (current_account(), None)


def test_a_user_that_does_not_exist_is_named():
    """The current one takes its place."""
    assert uvloop.run(find_account("no-such-user")) == (current_account(), "the user no-such-user does not exist")


def test_the_current_user_lives_at_home_through_connect(shared, tmp_path):
    """With a workspace in the state directory."""
    lodging = uvloop.run(lodging_of(current_account(), shared, tmp_path / "workspace"))
    assert (lodging.way, lodging.missing) == (Way.CONNECT, ())
    assert lodging.workspace == tmp_path / "workspace"
    assert lodging.workspace.stat().st_mode & 0o777 == 0o700


def test_what_the_current_user_cannot_read_is_named_too(shared, tmp_path):
    """It is looked at without a process of its own."""
    with pytest.raises(NoLodging, match=f"cannot read {tmp_path / 'no.pem'}"):
        uvloop.run(lodging_of(current_account(), shared, tmp_path / "workspace", tmp_path / "no.pem"))
    assert not (tmp_path / "workspace").exists()


@pytest.mark.root
@needs_other_user
def test_another_user_without_the_redirect_goes_through_connect(shared, tmp_path):
    """Nothing listens at its port 443, so the canary is refused, and that is told."""

    async def story():
        account, problem = await find_account(OTHER_USER)
        assert (account.user, account.sudo, problem) == (OTHER_USER, True, None)
        lodging = await lodging_of(account, shared, tmp_path)
        assert lodging.way is Way.CONNECT
        assert [each.what for each in lodging.missing] == ["home", "redirect"]
        assert "IPv4 port 443 is not redirected to mitm" in lodging.missing[1].detail
        assert lodging.workspace.is_relative_to(lodging.home)
        assert lodging.home.stat().st_uid == account.uid
        assert lodging.home.stat().st_mode & 0o777 == 0o700
        await forget_home(lodging, shared / "scout.py")
        assert not lodging.home.exists()

    uvloop.run(story())


@pytest.mark.root
@needs_other_user
def test_what_the_other_user_cannot_read_is_named(shared, tmp_path):
    """A bundle in a private directory would be a language server without trust, and a riddle."""
    private = tmp_path / "bundle.pem"
    private.write_text("certificates")

    async def story():
        account, _ = await find_account(OTHER_USER)
        with pytest.raises(NoLodging, match=f"{OTHER_USER} cannot read {private}"):
            await lodging_of(account, shared, tmp_path, private)

    uvloop.run(story())


@pytest.mark.root
@needs_other_user
def test_a_user_who_can_execute_no_python_has_no_lodging(shared, tmp_path, monkeypatch):
    """Each interpreter that was tried is named."""
    monkeypatch.setattr("services.lsrunner.probe._SYSTEM_PYTHONS", ("/no/python3",))

    async def story():
        account, _ = await find_account(OTHER_USER)
        with pytest.raises(NoLodging, match=r"can execute no Python: /no/python3: .*No such file"):
            await lodging_of(account, shared, tmp_path)

    uvloop.run(story())


def test_a_port_is_asked_whether_someone_listens():
    """A refused connection is a no."""

    async def story():
        [port] = free_ports(1)
        assert not await is_listening(port)
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        async with server:
            assert await is_listening(port)

    uvloop.run(story())


def uid_of(pid: int) -> int:
    """Return whose process it is."""
    return os.stat(f"/proc/{pid}").st_uid


async def redirected_story() -> None:
    """Run inside a machine where `mitm-redirect.sh install` was done: see the test below."""
    settings = {
        "WIREMETER_LSRUNNER_PROFILE": "simulated",
        "WIREMETER_LSRUNNER_USER": "antigravity-ls",
        "WIREMETER_MITM_PORT": "8742",
    }
    async with running(settings) as (runner, asker):
        state = await runner.in_state("ready")
        uid = pwd.getpwnam("antigravity-ls").pw_uid
        assert (state["user"], state["uid"], state["way"]) == ("antigravity-ls", uid, "redirect"), state
        assert uid_of(state["pid"]) == uid
        await asker.ask("T1", "Hello")
        assert (await asker.end_of("T1"))["stop_reason"] == "end"
        assert not runner.tunnel.asked, "nothing came by CONNECT"
        # The canaries of both families, and the language server's own connections.
        assert runner.tunnel.redirected > 2
        pid = state["pid"]
        assert runner.process is not None
        runner.process.send_signal(signal.SIGKILL)
        await runner.process.wait()
        has_gone(pid)


@pytest.mark.root
@pytest.mark.skipif(why_unavailable() is not None, reason=why_unavailable() or "")
def test_a_redirected_user_is_proven_to_be_covered():
    """The real script, sudo, rules for IPv4 and IPv6: canaries arrive, a prompt is answered, kill -9 leaves nothing."""
    with Machine() as machine:
        machine.run([PROJECT / "scripts" / "mitm-redirect.sh", "install", "--runner", "root"], check=True)
        machine.run([sys.executable, "-m", "tests.lsrunner.test_probe"], cwd=PROJECT, env={"HOME": "/root"}, check=True)


@pytest.mark.root
@pytest.mark.skipif(why_unavailable() is not None, reason=why_unavailable() or "")
def test_a_redirect_of_one_family_only_is_no_coverage():
    """Go prefers IPv6: what is not redirected there would go past the meter."""
    with Machine() as machine:
        machine.run([PROJECT / "scripts" / "mitm-redirect.sh", "install", "--runner", "root"], check=True)
        machine.run(["sh", "-c", "ip6tables -t nat -F OUTPUT || nft flush ruleset"], check=True)
        result = machine.run([sys.executable, "-m", "tests.lsrunner.test_probe", "half"], cwd=PROJECT, check=True)
        assert "IPv6 port 443 is not redirected to mitm" in result.stdout
        assert "IPv4 port" not in result.stdout


async def half_covered_story() -> None:
    """Print what the probe says; see the test above."""
    account, problem = await find_account("antigravity-ls")
    assert problem is None
    shared = Path("/var/lib/wiremeter/root")
    for name in ("guard.py", "scout.py"):
        shutil.copy(PROJECT / "services" / "lsrunner" / name, shared)
    server = await asyncio.start_server(lambda _reader, _writer: None, ["127.0.0.1", "::1"], 8742)
    async with server:
        lodging = await lodging_of(account, shared, shared, shared / "scout.py", port=8742)
    assert lodging.way is Way.CONNECT
    print([each.detail for each in lodging.missing])


if __name__ == "__main__":
    uvloop.run(half_covered_story() if sys.argv[1:] == ["half"] else redirected_story())
