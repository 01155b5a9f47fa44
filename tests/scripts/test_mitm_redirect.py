"""scripts/mitm-redirect.sh redirects one user's HTTPS, says what is missing, and leaves nothing behind."""

import json
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.netns import HOST, PROVIDER, Machine, why_unavailable

SCRIPT = Path(__file__).parents[2] / "scripts" / "mitm-redirect.sh"
LS_USER = "antigravity-ls"
PORT = 8742
BACKENDS = ("iptables", "nft")
FAMILIES = ("v4", "v6")

RULE_PARTS = [f"{family}-{rule}" for family in FAMILIES for rule in ("redirect", "udp-block", "fail-closed")]
PARTS = ["user", "home", "shared-directory", *RULE_PARTS, "rule-number", "sudo"]

needs_machine = [
    pytest.mark.root,
    pytest.mark.skipif(why_unavailable() is not None, reason=why_unavailable() or ""),
]


class Redirect:
    """The script on a machine of its own, run by root for alice unless told otherwise."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.script = "/run/mitm-redirect.sh"
        machine.path(self.script).write_text(SCRIPT.read_text())
        machine.path(self.script).chmod(0o755)
        machine.add_user("alice")

    def __call__(
        self, *arguments: str, runner: str = "alice", user: str | None = None, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return self.machine.run([self.script, *arguments, "--runner", runner], user=user, env=env)

    def install(self, *arguments: str) -> None:
        result = self("install", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr

    def uninstall(self, *arguments: str) -> None:
        result = self("uninstall", *arguments)
        assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr

    def parts(self, *arguments: str, user: str | None = None) -> dict[str, str]:
        """Return what status says of each part."""
        lines = self("status", *arguments, user=user).stdout.splitlines()
        return {part: state for state, part, *_ in map(str.split, lines)}

    def state_of_machine(self) -> dict[str, str]:
        """Return all that uninstall promises to put back."""
        rules = "iptables-save; ip6tables-save; nft list ruleset"
        files = (
            "find /etc /var/lib -xdev -printf '%p %y %m %U %G %l\\n' | grep -vE '^/etc/([a-z]+- |.pwd.lock )' | sort"
        )
        contents = "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/sudoers /etc/sudoers.d/*"
        commands = {"rules": rules, "files": files, "contents": contents}
        found = {what: self.machine.run(["sh", "-c", command]).stdout for what, command in commands.items()}
        found["rules"] = re.sub(r"\[\d+:\d+\]|^#.*$|packets \d+ bytes \d+", "", found["rules"], flags=re.MULTILINE)
        return found

    def our_rules(self) -> list[str]:
        listing = self.machine.run(["sh", "-c", "iptables-save; ip6tables-save; nft list ruleset"]).stdout
        return [line.strip() for line in listing.splitlines() if "wiremeter:" in line]


@pytest.fixture
def redirect() -> Iterator[Redirect]:
    with Machine() as machine:
        yield Redirect(machine)


def test_the_script_is_clean_for_shellcheck() -> None:
    """No finding, at any level, without configuration."""
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    result = subprocess.run(["shellcheck", "--norc", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# --- what it refuses


BAD_VALUES = [
    (["--user", "Bad Name"], "--user Bad Name: allowed is lower-case letters"),
    (["--user", "root"], "not root"),
    (["--user", "wiremeter"], "not root or wiremeter"),
    (["--user", "x" * 33], "at most 32 characters"),
    (["--user", "alice"], "other than the redirected one"),
    (["--port", "0"], "--port 0: allowed is 1 to 65535 without 443"),
    (["--port", "443"], "without 443"),
    (["--port", "65536"], "--port 65536"),
    (["--port", "http"], "--port http"),
    (["--runner", "nobody-here"], "--runner nobody-here: allowed is a user that exists"),
    (["--runner", "../etc"], "--runner ../etc: allowed is letters"),
    (["--backend", "pf"], "--backend pf: allowed are iptables and nft"),
    (["--backend="], "--backend: the value is empty"),
    (["--colour"], "'--colour' is unknown"),
    (["status"], "both install and status"),
]


class TestRefusals:
    pytestmark = needs_machine

    @pytest.mark.parametrize(
        ("arguments", "message"), BAD_VALUES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
    )
    def test_a_bad_value_is_named_with_what_is_allowed(
        self, redirect: Redirect, arguments: list[str], message: str
    ) -> None:
        """Status 64, one line, nothing changed."""
        before = redirect.state_of_machine()
        result = redirect.machine.run([redirect.script, "install", "--runner", "alice", *arguments])
        assert result.returncode == 64
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert redirect.state_of_machine() == before

    @pytest.mark.parametrize("command", ["install", "uninstall"])
    def test_who_is_not_root_is_told_so(self, redirect: Redirect, command: str) -> None:
        result = redirect(command, user="alice")
        assert result.returncode == 77
        assert "must run as root" in result.stderr

    def test_a_file_in_the_way_is_not_taken_over(self, redirect: Redirect) -> None:
        """A directory under our name with another owner is refused before anything is changed."""
        redirect.machine.run(["install", "-d", "-o", "alice", "/var/lib/antigravity-ls"], check=True)
        before = redirect.state_of_machine()
        result = redirect("install")
        assert result.returncode == 73
        assert "/var/lib/antigravity-ls exists, but no user antigravity-ls" in result.stderr
        assert redirect.state_of_machine() == before

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("user", [None, "alice"], ids=["root", "ordinary user"])
    def test_a_dry_run_shows_each_command_and_changes_nothing(
        self, redirect: Redirect, backend: str, user: str | None
    ) -> None:
        before = redirect.state_of_machine()
        result = redirect("install", "--dry-run", "--backend", backend, user=user)
        assert result.returncode == 0, result.stderr
        for expected in ("+ useradd --system", "443", "8742", "+ visudo -cqf", "NOPASSWD: /usr/bin/env"):
            assert expected in result.stdout
        assert redirect.state_of_machine() == before

    def test_a_dry_run_of_uninstall_changes_nothing(self, redirect: Redirect) -> None:
        redirect.install()
        before = redirect.state_of_machine()
        result = redirect("uninstall", "--dry-run")
        assert result.returncode == 0
        assert "+ userdel antigravity-ls" in result.stdout
        assert redirect.state_of_machine() == before


# --- install and uninstall


class TestInstallAndUninstall:
    pytestmark = needs_machine

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_install_twice_leaves_each_rule_once(self, redirect: Redirect, backend: str) -> None:
        redirect.install("--backend", backend)
        once = redirect.state_of_machine()
        redirect.install("--backend", backend)
        assert redirect.state_of_machine() == once
        assert len(redirect.our_rules()) == 6

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_uninstall_puts_everything_back(self, redirect: Redirect, backend: str) -> None:
        """Rules, tables, users, groups, sudo rules and directories are as they were."""
        before = redirect.state_of_machine()
        redirect.install("--backend", backend)
        redirect.machine.run(["sh", "-c", "echo login >/var/lib/antigravity-ls/token"], user=LS_USER, check=True)
        assert redirect.state_of_machine() != before
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    def test_rules_of_others_stay_in_place(self, redirect: Redirect) -> None:
        """A table that was there before stays, as do foreign rules in it, even very similar ones."""
        for table, rule in (("nat", "REDIRECT --to-ports 8742"), ("filter", "REJECT")):
            match = ["-p", "tcp", "--dport", "443", "-m", "owner", "--uid-owner", "4242"]
            mark = ["-m", "comment", "--comment", "wiremeter:antigravity-ls-2", "-j", *rule.split()]
            redirect.machine.run(["iptables", "-t", table, "-A", "OUTPUT", *match, *mark], check=True)
        before = redirect.state_of_machine()
        redirect.install()
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    def test_a_user_and_directories_that_existed_are_kept(self, redirect: Redirect) -> None:
        redirect.machine.add_user(LS_USER)
        redirect.machine.run(["install", "-d", "-o", "alice", "-g", "alice", "/var/lib/wiremeter/alice"], check=True)
        redirect.machine.run(["touch", "/var/lib/wiremeter/alice/bundle.pem"], check=True)
        before = redirect.state_of_machine()
        redirect.install()
        assert redirect.parts()["user"] == "ok"
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    def test_a_home_that_the_user_already_has_is_used(self, redirect: Redirect) -> None:
        redirect.machine.add_user(LS_USER)
        redirect.machine.run(["usermod", "--home", "/var/lib/of-his-own", LS_USER], check=True)
        redirect.machine.run(["install", "-d", "-o", LS_USER, "/var/lib/of-his-own"], check=True)
        redirect.install()
        assert "/var/lib/of-his-own" in redirect("status").stdout
        assert not redirect.machine.path("/var/lib/antigravity-ls").exists()

    def test_another_port_replaces_the_first(self, redirect: Redirect) -> None:
        redirect.install()
        redirect.install("--port", "9742")
        assert len(redirect.our_rules()) == 6
        assert redirect("status").returncode == 0
        result = redirect("status", "--port", "8742")
        assert result.returncode == 1
        assert "ours send to: 9742" in result.stdout

    @pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
    def test_another_backend_replaces_the_first(self, redirect: Redirect, first: str, second: str) -> None:
        before = redirect.state_of_machine()
        redirect.install("--backend", first)
        redirect.install("--backend", second)
        assert len(redirect.our_rules()) == 6
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    def test_a_second_runner_is_added_and_both_go_at_the_end(self, redirect: Redirect) -> None:
        redirect.machine.add_user("bob")
        before = redirect.state_of_machine()
        redirect.install()
        assert redirect("install", runner="bob").returncode == 0
        assert redirect("status").returncode == 0
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("last", [LS_USER, "other-ls"])
    def test_two_redirected_users_do_not_disturb_each_other(self, redirect: Redirect, backend: str, last: str) -> None:
        """Whichever goes first takes nothing from the other, and the last one takes the rest."""
        (first,) = {LS_USER, "other-ls"} - {last}
        before = redirect.state_of_machine()
        redirect.install("--backend", backend)
        redirect.install("--backend", backend, "--user", "other-ls", "--port", "8752")
        redirect.uninstall("--user", first)
        assert redirect("status", "--user", last).returncode == 0
        assert redirect("status", "--user", first).returncode == 1
        redirect.uninstall("--user", last)
        assert redirect.state_of_machine() == before

    def test_without_iptables_nft_is_used(self, redirect: Redirect) -> None:
        for tool in ("iptables", "ip6tables"):
            redirect.machine.path(f"/usr/sbin/{tool}").unlink()
        before = redirect.state_of_machine()
        redirect.install()
        assert len(redirect.our_rules()) == 6
        assert "table inet wiremeter-antigravity-ls" in redirect.state_of_machine()["rules"]
        redirect.uninstall()
        assert redirect.state_of_machine() == before

    def test_without_any_firewall_tool_nothing_is_begun(self, redirect: Redirect) -> None:
        for tool in ("iptables", "ip6tables", "nft"):
            redirect.machine.path(f"/usr/sbin/{tool}").unlink()
        before = redirect.state_of_machine()
        result = redirect("install")
        assert (result.returncode, result.stdout) == (69, "")
        assert "iptables not found" in result.stderr
        assert redirect.state_of_machine() == before

    def test_the_legacy_variant_of_iptables_works_too(self, redirect: Redirect) -> None:
        """No rule stays; the kernel keeps the empty tables, which nothing can remove."""
        if shutil.which("xtables-legacy-multi", path="/usr/sbin") is None:
            pytest.skip("needs iptables-legacy")
        for tool in ("iptables", "ip6tables"):
            redirect.machine.path(f"/usr/sbin/{tool}").unlink()
            redirect.machine.path(f"/usr/sbin/{tool}").symlink_to("xtables-legacy-multi")
        if redirect.machine.run(["iptables", "-t", "nat", "-S"]).returncode != 0:
            pytest.skip("needs a kernel with legacy iptables")
        before = redirect.state_of_machine()
        redirect.install()
        redirect.install()
        saved = redirect.machine.run(["sh", "-c", "iptables-legacy-save; ip6tables-legacy-save"]).stdout
        assert saved.count("wiremeter:antigravity-ls") == 6
        redirect.uninstall()
        assert (
            "wiremeter" not in redirect.machine.run(["sh", "-c", "iptables-legacy-save; ip6tables-legacy-save"]).stdout
        )
        assert redirect.state_of_machine() == before

    def test_it_does_not_go_while_processes_of_the_user_run(self, redirect: Redirect) -> None:
        """Without the rules they would go on unmetered; --force ends them, because the user goes too."""
        before = redirect.state_of_machine()
        redirect.install()
        installed = redirect.state_of_machine()
        running = redirect.machine.popen(["/bin/sleep", "600"], user=LS_USER)
        _wait_until(lambda: _owner(running.pid) != 0)
        result = redirect("uninstall")
        assert result.returncode == 75
        assert f"processes of antigravity-ls run: {running.pid};" in result.stderr
        assert redirect.state_of_machine() == installed
        redirect.uninstall("--force")
        assert running.wait(timeout=5) == -15
        assert redirect.state_of_machine() == before

    def test_uninstall_of_nothing_is_harmless(self, redirect: Redirect) -> None:
        before = redirect.state_of_machine()
        redirect.uninstall()
        assert redirect.state_of_machine() == before


# --- when it is killed in the middle


SHIM = """#!/bin/sh
# Stands before a tool that changes things; kills the script and itself at the chosen change.
tool=${0##*/}
PATH=/usr/sbin:/usr/bin:/sbin:/bin
case "$tool $*" in
*tables*" -I "* | *tables*" -D "* | "nft -f"* | "nft delete"*) ;;
*tables* | nft*) exec "$tool" "$@" ;;
esac
count=$(($(cat /run/shims/count) + 1))
echo $count >/run/shims/count
if [ $count = "$FAULT_AT" ]; then
	[ "$FAULT" = before ] || "$tool" "$@"
	kill -s KILL -- -"$SCRIPT_GROUP"
fi
exec "$tool" "$@"
"""
SHIMMED = ("iptables", "ip6tables", "nft", "useradd", "userdel", "groupdel", "install", "visudo", "mv", "rm", "rmdir")


class Faults:
    """Runs the script and kills it before or after its nth change."""

    def __init__(self, redirect: Redirect, fault: str) -> None:
        self.redirect = redirect
        self.fault = fault
        shims = redirect.machine.path("/run/shims")
        shims.mkdir()
        for tool in SHIMMED:
            (shims / tool).write_text(SHIM)
            (shims / tool).chmod(0o755)

    def kills(self, at: int, *arguments: str) -> bool:
        """Say whether there was an `at`th change to be killed at."""
        self.redirect.machine.path("/run/shims/count").write_text("0")
        begin = 'SCRIPT_GROUP=$$ exec "$@"'
        result = self.redirect.machine.run(
            ["setsid", "sh", "-c", begin, "sh", self.redirect.script, *arguments, "--runner", "alice"],
            env={"PATH": "/run/shims:/usr/sbin:/usr/bin", "FAULT": self.fault, "FAULT_AT": str(at)},
        )
        assert result.returncode in (0, -9), result.stderr
        return result.returncode == -9


@pytest.mark.parametrize("backend", BACKENDS)
class TestKilledInTheMiddle:
    pytestmark = needs_machine

    @pytest.mark.parametrize("fault", ["before", "after"])
    def test_uninstall_undoes_a_half_install(self, redirect: Redirect, backend: str, fault: str) -> None:
        faults = Faults(redirect, fault)
        before = redirect.state_of_machine()
        at = 1
        while faults.kills(at, "install", "--backend", backend):
            redirect.uninstall()
            assert redirect.state_of_machine() == before, f"killed {fault} change {at}"
            at += 1
        assert at > 8

    def test_install_completes_a_half_install(self, redirect: Redirect, backend: str) -> None:
        faults = Faults(redirect, "before")
        before = redirect.state_of_machine()
        at = 1
        while faults.kills(at, "install", "--backend", backend):
            redirect.install("--backend", backend)
            assert len(redirect.our_rules()) == 6
            redirect.uninstall()
            assert redirect.state_of_machine() == before, f"killed at change {at}"
            at += 1

    def test_uninstall_completes_a_half_uninstall(self, redirect: Redirect, backend: str) -> None:
        faults = Faults(redirect, "after")
        before = redirect.state_of_machine()
        redirect.install("--backend", backend)
        at = 1
        while faults.kills(at, "uninstall"):
            redirect.uninstall()
            assert redirect.state_of_machine() == before, f"killed at change {at}"
            redirect.install("--backend", backend)
            at += 1
        assert at > 6


# --- status


def _breakages() -> dict[str, str]:
    """Return for each part a command that breaks it."""
    commands = {
        "user": "userdel antigravity-ls",
        "home": "rm -r /var/lib/antigravity-ls",
        "shared-directory": "rm -r /var/lib/wiremeter/alice",
        "rule-number": "usermod -u 4343 antigravity-ls",
        "sudo": "rm /etc/sudoers.d/wiremeter-alice",
    }
    for family, tool in (("v4", "iptables"), ("v6", "ip6tables")):
        commands[f"{family}-redirect"] = f"{tool} -t nat -F OUTPUT"
        commands[f"{family}-udp-block"] = f"{tool} -D OUTPUT 1"
        commands[f"{family}-fail-closed"] = f"{tool} -D OUTPUT 2"
    return commands


class TestStatus:
    pytestmark = needs_machine

    def test_every_part_is_missing_before_install(self, redirect: Redirect) -> None:
        assert redirect("status").returncode == 1
        assert redirect.parts() == {**dict.fromkeys(PARTS, "MISSING"), "listener": "info"}

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_every_part_is_ok_after_install(self, redirect: Redirect, backend: str) -> None:
        redirect.install("--backend", backend)
        assert redirect("status").returncode == 0
        assert redirect.parts() == {**dict.fromkeys(PARTS, "ok"), "listener": "info"}

    @pytest.mark.parametrize("part", PARTS)
    def test_a_part_that_is_gone_is_missed_and_install_repairs_it(self, redirect: Redirect, part: str) -> None:
        redirect.install()
        redirect.machine.run(["sh", "-c", _breakages()[part]], check=True)
        assert redirect("status").returncode == 1
        assert redirect.parts()[part] == "MISSING"
        if part in RULE_PARTS:
            assert [name for name, state in redirect.parts().items() if state == "MISSING"] == [part]
        redirect.install()
        assert len(redirect.our_rules()) == 6

    @pytest.mark.parametrize("part", RULE_PARTS)
    def test_a_gone_nft_rule_is_missed_and_install_repairs_it(self, redirect: Redirect, part: str) -> None:
        redirect.install("--backend", "nft")
        listing = redirect.machine.run(["nft", "-a", "list", "table", "inet", f"wiremeter-{LS_USER}"]).stdout
        (handle,) = re.findall(rf'{part}" # handle (\d+)', listing)
        chain = "divert" if "redirect" in part else "guard"
        redirect.machine.run(
            ["nft", "delete", "rule", "inet", f"wiremeter-{LS_USER}", chain, "handle", handle], check=True
        )
        assert redirect("status").returncode == 1
        assert [name for name, state in redirect.parts().items() if state == "MISSING"] == [part]
        redirect.install("--backend", "nft")

    @pytest.mark.parametrize(
        "change",
        [
            "echo 'alice ALL=(ALL) ALL' >/etc/sudoers.d/zz-later && chmod 440 /etc/sudoers.d/zz-later",
            "echo 'alice ALL=(antigravity-ls) NOPASSWD: /usr/bin/id' >/etc/sudoers.d/wiremeter-alice",
            "echo nonsense >/etc/sudoers.d/wiremeter-alice",
            "mv /etc/sudoers.d/wiremeter-alice /etc/sudoers.d/wiremeter.alice",
        ],
        ids=["overridden later", "other program", "invalid", "ignored for its name"],
    )
    def test_a_sudo_rule_without_effect_is_missed(self, redirect: Redirect, change: str) -> None:
        redirect.install()
        redirect.machine.run(["sh", "-c", change], check=True)
        assert redirect.parts()["sudo"] == "MISSING"

    def test_an_ordinary_user_sees_what_can_be_seen(self, redirect: Redirect) -> None:
        """The rules need root: status 2, and the rest is judged."""
        redirect.install()
        assert redirect("status", user="alice").returncode == 2
        parts = redirect.parts(user="alice")
        assert {part: parts[part] for part in RULE_PARTS} == dict.fromkeys(RULE_PARTS, "unseen")
        assert parts["rule-number"] == "unseen"
        assert {parts[part] for part in ("user", "home", "shared-directory", "sudo")} == {"ok"}

    def test_an_ordinary_user_learns_what_is_missing(self, redirect: Redirect) -> None:
        assert redirect("status", user="alice").returncode == 1

    def test_a_kernel_without_ipv6_needs_no_ipv6_rules(self, redirect: Redirect) -> None:
        redirect.machine.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net/ipv6"], check=True)
        redirect.install()
        result = redirect("status")
        assert result.returncode == 0
        assert result.stdout.count("IPv6 not available in this kernel") == 3
        assert len(redirect.our_rules()) == 3

    def test_ipv6_without_its_tool_is_missing(self, redirect: Redirect) -> None:
        """A kernel that speaks IPv6 would let it pass unmetered: install says so and fails."""
        redirect.machine.path("/usr/sbin/ip6tables").unlink()
        result = redirect("install")
        assert result.returncode == 1
        assert "v6-redirect could not be added" in result.stderr
        assert redirect.parts()["v6-redirect"] == "MISSING"
        assert redirect.parts()["v4-redirect"] == "ok"

    def test_it_is_machine_readable(self, redirect: Redirect) -> None:
        redirect.install()
        status = json.loads(redirect("status", "--json").stdout)
        assert {key: status[key] for key in ("schema", "user", "runner", "port", "backend", "status")} == {
            "schema": "wiremeter.redirect-status/1",
            "user": LS_USER,
            "runner": "alice",
            "port": PORT,
            "backend": "iptables",
            "status": 0,
        }
        assert {part["part"] for part in status["parts"] if part["state"] == "ok"} == set(PARTS)

    def test_it_says_whether_something_listens(self, redirect: Redirect) -> None:
        with _listening(redirect.machine, "v6"):
            assert "listening on port 8742: IPv6" in redirect("status").stdout
        assert "listening on port 8742: nothing" in redirect("status").stdout

    def test_it_changes_nothing(self, redirect: Redirect) -> None:
        for install in (False, True):
            if install:
                redirect.install()
            before = redirect.state_of_machine()
            redirect("status")
            assert redirect.state_of_machine() == before


# --- the sudo rule


class TestSudo:
    pytestmark = needs_machine

    def test_the_runner_may_do_everything_as_the_redirected_user_and_nothing_as_root(self, redirect: Redirect) -> None:
        redirect.install()
        run = redirect.machine.run
        env = ["/usr/bin/env", "id", "-un"]
        assert run(["sudo", "-n", "-u", LS_USER, *env], user="alice", check=True).stdout == f"{LS_USER}\n"
        assert run(["sudo", "-n", *env], user="alice").returncode == 1
        assert run(["sudo", "-n", "-u", "nobody", *env], user="alice").returncode == 1
        mode = redirect.machine.path("/etc/sudoers.d/wiremeter-alice").stat()
        assert (mode.st_mode & 0o777, mode.st_uid) == (0o440, 0)

    def test_nobody_else_gains_anything(self, redirect: Redirect) -> None:
        redirect.machine.add_user("bob")
        redirect.install()
        assert redirect.machine.run(["sudo", "-n", "-u", LS_USER, "/usr/bin/env"], user="bob").returncode == 1

    def test_root_needs_no_rule(self, redirect: Redirect) -> None:
        result = redirect("install", runner="root")
        assert result.returncode == 0
        assert "no sudo rule added" in result.stdout
        assert not list(redirect.machine.path("/etc/sudoers.d").glob("wiremeter*"))

    def test_root_gets_one_where_it_lacks_one(self, redirect: Redirect) -> None:
        sudoers = redirect.machine.path("/etc/sudoers")
        sudoers.write_text(re.sub(r"(?m)^(root|%sudo).*$", "", sudoers.read_text()))
        assert redirect("install", runner="root").returncode == 0
        assert redirect.machine.path("/etc/sudoers.d/wiremeter-root").exists()

    @pytest.mark.parametrize("runner", ["john.doe", "john@example.org", "J_D-1"])
    def test_names_that_sudo_would_ignore_as_files_work(self, redirect: Redirect, runner: str) -> None:
        redirect.machine.add_user(runner)
        before = redirect.state_of_machine()
        result = redirect("install", runner=runner)
        assert result.returncode == 0, result.stdout + result.stderr
        redirect.machine.run(["sudo", "-n", "-u", LS_USER, "/usr/bin/env"], user=runner, check=True)
        redirect.uninstall()
        assert redirect.state_of_machine() == before


# --- real traffic


CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 443), 5).close()
    print("connected")
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
"""
SEND = """
import errno, socket, sys, time
began = time.monotonic()
udp = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
try:
    udp.sendto(b"x", (sys.argv[1], 443))
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno], "at once" if time.monotonic() - began < 1 else "late")
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
class TestTraffic:
    pytestmark = needs_machine

    def test_the_users_https_arrives_at_the_proxy_with_its_original_address(
        self, redirect: Redirect, backend: str, family: str
    ) -> None:
        """The peer is the machine's outer address, which a proxy must not reject."""
        redirect.install("--backend", backend)
        with _listening(redirect.machine, family) as proxy:
            assert _connect(redirect.machine, family, LS_USER) == "connected"
            connection, peer = proxy.accept()
            with connection:
                assert _original_destination(connection) == (_provider(family), 443)
                assert peer[0] == HOST[FAMILIES.index(family)]

    def test_other_users_reach_the_provider_directly(self, redirect: Redirect, backend: str, family: str) -> None:
        redirect.install("--backend", backend)
        with _listening_provider(redirect.machine, family) as provider:
            for user in ("alice", None):
                assert _connect(redirect.machine, family, user) == "connected"
                provider.accept()[0].close()

    def test_the_users_quic_is_refused_at_once(self, redirect: Redirect, backend: str, family: str) -> None:
        redirect.install("--backend", backend)
        assert _python(redirect.machine, SEND, _provider(family), LS_USER) == "EPERM at once"
        assert _python(redirect.machine, SEND, _provider(family), "alice") == "sent"

    def test_without_the_redirect_rule_the_user_is_refused(self, redirect: Redirect, backend: str, family: str) -> None:
        """Fails closed: what is not redirected does not leave."""
        redirect.install("--backend", backend)
        table = f"wiremeter-{LS_USER}"
        flush = {
            "iptables": "iptables -t nat -F OUTPUT; ip6tables -t nat -F OUTPUT",
            "nft": f"nft flush chain inet {table} divert",
        }[backend]
        redirect.machine.run(["sh", "-c", flush], check=True)
        with _listening_provider(redirect.machine, family):
            assert _connect(redirect.machine, family, "alice") == "connected"
            assert _connect(redirect.machine, family, LS_USER) == "ECONNREFUSED"

    def test_without_a_proxy_the_user_is_refused(self, redirect: Redirect, backend: str, family: str) -> None:
        redirect.install("--backend", backend)
        with _listening_provider(redirect.machine, family):
            assert _connect(redirect.machine, family, LS_USER) == "ECONNREFUSED"

    def test_exclusive_keeps_other_users_from_the_proxy(self, redirect: Redirect, backend: str, family: str) -> None:
        with _listening(redirect.machine, family):
            direct = CONNECT.replace("443", str(PORT))
            loopback = "127.0.0.1" if family == "v4" else "::1"
            redirect.install("--backend", backend, "--exclusive")
            assert redirect("status", "--exclusive").returncode == 0
            assert _python(redirect.machine, direct, loopback, "alice") == "ECONNREFUSED"
            assert _python(redirect.machine, direct, loopback, LS_USER) == "connected"
            assert _connect(redirect.machine, family, LS_USER) == "connected"
            redirect.install("--backend", backend)
            assert _python(redirect.machine, direct, loopback, "alice") == "connected"

    def test_two_users_go_each_to_their_own_proxy(self, redirect: Redirect, backend: str, family: str) -> None:
        redirect.install("--backend", backend)
        redirect.install("--backend", backend, "--user", "other-ls", "--port", "8752")
        with _listening(redirect.machine, family) as first, _listening(redirect.machine, family, 8752) as second:
            for user, proxy in ((LS_USER, first), ("other-ls", second)):
                assert _connect(redirect.machine, family, user) == "connected"
                proxy.accept()[0].close()


def _provider(family: str) -> str:
    return PROVIDER[FAMILIES.index(family)]


def _listening(machine: Machine, family: str, port: int = PORT) -> socket.socket:
    with machine.on("host"):
        return _listener("127.0.0.1" if family == "v4" else "::1", port)


def _listening_provider(machine: Machine, family: str) -> socket.socket:
    with machine.on("inet"):
        return _listener(_provider(family), 443)


def _listener(address: str, port: int) -> socket.socket:
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.settimeout(5)
    return listener


def _connect(machine: Machine, family: str, user: str | None) -> str:
    return _python(machine, CONNECT, _provider(family), user)


def _python(machine: Machine, program: str, address: str, user: str | None) -> str:
    # The system's interpreter: ours may lie where the redirected user cannot go.
    return machine.run(["/usr/bin/python3", "-c", program, address], user=user, check=True).stdout.strip()


def _original_destination(connection: socket.socket) -> tuple[str, int]:
    if connection.family == socket.AF_INET6:
        raw = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)  # IP6T_SO_ORIGINAL_DST
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]
    raw = connection.getsockopt(socket.SOL_IP, 80, 16)  # SO_ORIGINAL_DST
    return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]


def _owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def _wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
