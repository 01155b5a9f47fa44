"""Keys and trust on disk: made once, replaced when they must be, never written through somebody's link."""

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

import services.mitm.keystore as keystore_module
from services.mitm.authority import (
    Pair,
    as_pem,
    certificates_in,
    make_authority,
    make_leaf_key,
    permitted_names,
    read_authority,
)
from services.mitm.config import SIMULATED_HOST
from services.mitm.keystore import CONTEXTS_MAX, Keystore, write_atomically
from services.runtime.logs import Logs
from services.runtime.run import StartRefused
from services.runtime.settings import ConfigInvalid
from tests.support.authority import foreign_authority, load_pair, plain_leaf, shake_hands
from tests.support.log_lines import LogText
from tests.support.mitm import INTERCEPT, mitm_config

DAY = timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def opened(folder: Path, clock: Clock | None = None, lines: LogText | None = None, **how: object) -> Keystore:
    logs = Logs("mitm-0", sink=lines or LogText())
    return Keystore(mitm_config(folder, **how), logs, clock or Clock())  # type: ignore[arg-type]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def leaf_of(keystore: Keystore, host: str) -> bytes:
    """Shake hands in memory and return the leaf that the server shows."""
    client_side = ssl.create_default_context(cadata=keystore.authority.certificate_pem().decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    found = shake_hands(client_side, keystore.server_context(host), host).getpeercert(binary_form=True)
    assert found is not None
    return found


# -- files ---------------------------------------------------------------------


def test_the_first_start_makes_everything(tmp_path: Path) -> None:
    """Keys are their owner's alone; what others must trust is readable."""
    keystore = opened(tmp_path)
    assert mode(tmp_path / "ca" / "key.pem") == 0o600
    assert mode(tmp_path / "ca" / "ca.pem") == 0o600
    assert mode(tmp_path / "shared" / "ca-bundle.pem") == 0o644
    assert mode(tmp_path / "shared" / "ca.pem") == 0o644
    assert mode(tmp_path / "simulator" / "provider.pem") == 0o600
    assert permitted_names(keystore.authority) == {"upstream.test", "api.anthropic.com", SIMULATED_HOST} | {
        "cloudcode-pa.googleapis.com",
        "generativelanguage.googleapis.com",
    }
    assert not list(tmp_path.rglob(".*"))  # no temporary file is left


def test_another_start_writes_nothing(tmp_path: Path) -> None:
    """So that a full disk keeps no worker from coming back, and readers of the bundle are left alone."""
    opened(tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    opened(tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["ca-bundle.pem", "ca-bundle.p12", "ca.pem"])
@pytest.mark.parametrize("how", ["gone", "private"])
def test_what_others_must_read_is_put_right(tmp_path: Path, name: str, how: str) -> None:
    """A file that is missing, or that others cannot read."""
    opened(tmp_path)
    path = tmp_path / "shared" / name
    if how == "gone":
        path.unlink()
    else:
        path.chmod(0o600)
    opened(tmp_path)
    assert mode(path) == 0o644


def test_the_bundle_is_the_systems_and_ours_and_every_reader_sees_all_of_it(tmp_path: Path) -> None:
    """OpenSSL loads as many as were written, ours at the end."""
    keystore = opened(tmp_path)
    bundle = (tmp_path / "shared" / "ca-bundle.pem").read_bytes()
    blocks = certificates_in(bundle)
    assert len(blocks) > 10 and blocks[-1] == keystore.authority.certificate_der()
    assert bundle.count(b"\n-----BEGIN CERTIFICATE-----\n") == len(blocks) - 1
    assert bundle.endswith(b"\n-----END CERTIFICATE-----\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tmp_path / "shared" / "ca-bundle.pem")
    assert len(context.get_ca_certs()) == len(set(blocks))
    assert certificates_in((tmp_path / "shared" / "ca.pem").read_bytes()) == blocks[-1:]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # of the system's own
def test_java_gets_the_same_as_a_store_of_its_own_kind(tmp_path: Path) -> None:
    """Public like the bundle, each certificate under a name of its own."""
    keystore = opened(tmp_path)
    place = tmp_path / "shared" / "ca-bundle.p12"
    assert mode(place) == 0o644
    found = pkcs12.load_pkcs12(place.read_bytes(), b"changeit").additional_certs
    assert len({each.friendly_name for each in found}) == len(found)
    blocks = certificates_in((tmp_path / "shared" / "ca-bundle.pem").read_bytes())
    stored = [each.certificate.public_bytes(Encoding.DER) for each in found]
    assert keystore.authority.certificate_der() in stored and set(stored) <= set(blocks)
    assert len(stored) >= len(blocks) - 3  # some old authority of the system's may be none that can be parsed


def test_our_own_authority_in_the_systems_store_is_left_out_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not doubled in the bundle."""
    ours = opened(tmp_path).authority
    other = make_authority(["other.example"], datetime.now(UTC))
    system = tmp_path / "system.pem"
    system.write_bytes(other.certificate_pem() + ours.certificate_pem())
    monkeypatch.setattr(keystore_module, "SYSTEM_BUNDLES", (str(tmp_path / "missing"), str(system)))
    keystore = opened(tmp_path)
    trusted = keystore.upstream_context.get_ca_certs(binary_form=True)
    assert other.certificate_der() in trusted and ours.certificate_der() not in trusted
    bundle = certificates_in((tmp_path / "shared" / "ca-bundle.pem").read_bytes())
    assert bundle == [other.certificate_der(), ours.certificate_der()]


def test_the_environment_has_no_say_in_what_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE may name a bundle that we wrote ourselves."""
    stranger = make_authority(["x.example"], datetime.now(UTC))
    path = tmp_path / "stranger.pem"
    path.write_bytes(stranger.certificate_pem())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    keystore = opened(tmp_path)
    assert stranger.certificate_der() not in keystore.upstream_context.get_ca_certs(binary_form=True)
    assert stranger.certificate_der() not in certificates_in((tmp_path / "shared" / "ca-bundle.pem").read_bytes())


def test_a_second_start_takes_what_is_there(tmp_path: Path) -> None:
    """No program has to be restarted."""
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.authority.certificate == second.authority.certificate
    assert second.authority.key_pem() == first.authority.key_pem()


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """One of them makes the authority, the others wait for it."""
    program = (
        "import sys,pathlib\n"
        "from datetime import UTC,datetime\n"
        "from services.mitm.keystore import Keystore\n"
        "from services.runtime.logs import Logs\n"
        "from tests.support.mitm import mitm_config\n"
        "config=mitm_config(pathlib.Path(sys.argv[1]),ca_file='')\n"
        "sys.stdin.readline()\n"
        "print(Keystore(config,Logs('x'),lambda:datetime.now(UTC)).authority.certificate.serial_number)\n"
    )
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    serials = {process.communicate(timeout=30)[0] for process in processes}
    stored = read_authority((tmp_path / "ca" / "ca.pem").read_bytes(), (tmp_path / "ca" / "key.pem").read_bytes())
    assert serials == {f"{stored.certificate.serial_number}\n"}


@pytest.mark.parametrize(
    ("after", "hosts", "reason"),
    [
        (timedelta(), (*INTERCEPT, "new.example.com"), b"the interception list changed: new.example.com"),
        (340 * DAY, INTERCEPT, b"it expires in 23 days"),
    ],
)
def test_an_authority_that_cannot_serve_any_more_is_replaced(
    tmp_path: Path, after: timedelta, hosts: tuple[str, ...], reason: bytes
) -> None:
    """With the bundle; the log says why."""
    clock, lines = Clock(), LogText()
    first = opened(tmp_path, clock)
    clock.now += after
    second = opened(tmp_path, clock, lines, hosts=hosts)
    assert second.authority.certificate != first.authority.certificate
    assert b"authority.made" in lines.text and reason in lines.text
    bundle = certificates_in((tmp_path / "shared" / "ca-bundle.pem").read_bytes())
    assert second.authority.certificate_der() in bundle and first.authority.certificate_der() not in bundle


@pytest.mark.parametrize("torn", ["key.pem", "ca.pem"])
def test_a_torn_authority_is_replaced_and_kept_aside(tmp_path: Path, torn: str) -> None:
    """A crash between the two files must heal by itself; a key that only we cannot read must not be destroyed."""
    first = opened(tmp_path)
    path = tmp_path / "ca" / torn
    path.write_bytes(path.read_bytes()[:50])
    second = opened(tmp_path)
    assert second.authority.certificate != first.authority.certificate
    assert (tmp_path / "ca" / f"{torn}.unusable").stat().st_size == 50


@pytest.mark.parametrize("missing", ["key.pem", "ca.pem"])
def test_half_an_authority_is_none(tmp_path: Path, missing: str) -> None:
    """The other half is made anew with it."""
    opened(tmp_path)
    (tmp_path / "ca" / missing).unlink()
    assert leaf_of(opened(tmp_path), "api.anthropic.com")


def test_the_users_own_authority_is_used_and_left_alone(tmp_path: Path) -> None:
    """With a warning, for it can vouch for everything."""
    config = mitm_config(tmp_path)
    own = foreign_authority(datetime.now(UTC), key_identifier=False)
    (config.ca_directory / "key.pem").write_bytes(own.key_pem())
    (config.ca_directory / "ca.pem").write_bytes(own.certificate_pem())
    lines = LogText()
    keystore = opened(tmp_path, lines=lines)
    assert keystore.authority.certificate == own.certificate
    assert b"authority.unconstrained" in lines.text
    assert b'"lacks":"key usage, subject key identifier"' in lines.text
    assert (config.ca_directory / "key.pem").read_bytes() == own.key_pem()
    clock = Clock()
    clock.now += 10 * DAY
    with pytest.raises(ConfigInvalid, match="this certificate authority is over on"):
        opened(tmp_path, clock)
    assert (config.ca_directory / "key.pem").read_bytes() == own.key_pem()


def test_upstream_an_older_authority_is_as_good_as_for_the_client_itself(tmp_path: Path) -> None:
    """Without key usage or identifiers, as companies have them, on every Python; what is wrong is still refused."""
    now = datetime.now(UTC)
    own, stranger = (foreign_authority(now, key_identifier=False) for _ in range(2))
    path = tmp_path / "company.pem"
    path.write_bytes(own.certificate_pem())
    keystore = opened(tmp_path, ca_file=str(path))

    def accepts(authority: Pair, name: str = "a.example", made: datetime = now) -> None:
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(server_side, plain_leaf(authority, name, made))
        for context in (keystore.upstream_context, keystore.http2_upstream_context):
            shake_hands(context, server_side, "a.example")

    accepts(own)
    for wrong in (
        lambda: accepts(own, "b.example"),
        lambda: accepts(own, made=now - 9 * DAY),
        lambda: accepts(stranger),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            wrong()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "holds no certificate authority"),
        (b"nonsense", "holds no certificate authority"),
        (as_pem(b"\x30\x03\x02\x01\x01"), "cannot be read"),
    ],
    ids=["missing", "empty", "nonsense", "no certificate inside"],
)
def test_an_upstream_ca_file_that_cannot_be_used_is_a_mistake_in_the_configuration(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """Named, with the file."""
    path = tmp_path / "extra.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=f"upstream_ca_file {path}.*{problem}"):
        opened(tmp_path, ca_file=str(path))


def test_files_are_never_written_through_a_link(tmp_path: Path) -> None:
    """Neither the file nor its temporary one: a link is replaced, its target is left alone."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "bundle.pem"
    target.symlink_to(victim)
    (tmp_path / f".bundle.pem.{os.getpid()}").symlink_to(victim)
    write_atomically(target, b"new", 0o644)
    assert victim.read_text() == "precious"
    assert target.read_bytes() == b"new" and not target.is_symlink() and mode(target) == 0o644


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """And no temporary one."""
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(StartRefused, match=f"{target} cannot be written: Is a directory"):
        write_atomically(target, b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# -- the simulated provider ----------------------------------------------------


def test_the_simulated_provider_has_an_authority_that_vouches_for_nothing_else(tmp_path: Path) -> None:
    """Its key is thrown away; real hosts are not verified against it."""
    keystore = opened(tmp_path)
    [anchor] = keystore.simulator_context.get_ca_certs(binary_form=True)
    assert anchor not in keystore.upstream_context.get_ca_certs(binary_form=True)
    assert anchor not in certificates_in((tmp_path / "shared" / "ca-bundle.pem").read_bytes())
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "simulator" / "provider.pem")
    assert shake_hands(keystore.simulator_context, server_side, SIMULATED_HOST)
    keystore.simulator_context.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter, too
    assert shake_hands(keystore.simulator_context, server_side, SIMULATED_HOST)


def test_the_simulated_providers_certificate_lasts_as_long_as_processes_do(tmp_path: Path) -> None:
    """It is made anew at a start when less than a month is left of it."""
    clock = Clock()
    opened(tmp_path, clock)
    path = tmp_path / "simulator" / "provider.pem"
    first = path.read_bytes()
    clock.now += 300 * DAY
    opened(tmp_path, clock)
    assert path.read_bytes() == first
    clock.now += 40 * DAY
    opened(tmp_path, clock)
    assert path.read_bytes() != first


# -- contexts ------------------------------------------------------------------


def test_leaves_are_made_on_demand_cached_and_renewed(tmp_path: Path) -> None:
    """By name; well before they expire."""
    clock = Clock()
    keystore = opened(tmp_path, clock)
    first = leaf_of(keystore, "a.upstream.test")
    assert leaf_of(keystore, "a.upstream.test") == first
    assert leaf_of(keystore, "b.upstream.test") != first
    clock.now += timedelta(hours=58)
    assert leaf_of(keystore, "a.upstream.test") == first
    before = keystore.server_context("a.upstream.test")
    clock.now += timedelta(hours=2)
    assert keystore.server_context("a.upstream.test") is not before
    renewed = keystore.server_context("a.upstream.test")
    clock.now += timedelta(hours=40)
    assert keystore.server_context("a.upstream.test") is renewed


def test_the_cache_of_leaves_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from clients; the ones used last are kept."""
    monkeypatch.setattr(keystore_module, "CONTEXTS_MAX", 3)
    keystore = opened(tmp_path)
    first = keystore.server_context("n0.upstream.test")
    for n in range(1, 5):
        keystore.server_context(f"n{n}.upstream.test")
        assert keystore.server_context("n0.upstream.test") is first
    assert len(keystore._contexts) == 3
    assert CONTEXTS_MAX >= 1000


def test_what_does_not_depend_on_the_name_is_made_when_nobody_waits(tmp_path: Path) -> None:
    """One context lies ready; names that come before it was made anew do not wait for it."""
    steps: list[Callable[[], None]] = []
    keystore = Keystore(mitm_config(tmp_path), Logs("mitm-0", sink=LogText()), Clock(), steps.append)
    ready = keystore._spare
    assert ready is not None and keystore.server_context("a.upstream.test") is ready
    others = [keystore.server_context(f"{letter}.upstream.test") for letter in "bc"]
    assert len({ready, *others}) == 3 and keystore._spare is None
    assert leaf_of(keystore, "a.upstream.test") != leaf_of(keystore, "b.upstream.test")
    assert len(steps) == 3
    for step in steps:
        step()
    ready = keystore._spare
    assert ready not in (None, *others)
    assert keystore.server_context("d.upstream.test") is ready


def test_only_strong_tls_is_spoken(tmp_path: Path) -> None:
    """TLS 1.2 with AEAD, and 1.3; HTTP/1.1 by name."""
    context = opened(tmp_path).server_context("a.upstream.test")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {cipher["aead"] for cipher in context.get_ciphers()} == {True}
    assert make_leaf_key().curve.name == "secp256r1"
