"""An authority that can vouch for the interception list and nothing else, and its short-lived leaves."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from services.mitm.authority import (
    AuthorityInvalid,
    Pair,
    as_pem,
    certificates_in,
    constraint_of,
    gaps_in,
    has_expired,
    make_authority,
    make_leaf,
    make_leaf_key,
    permitted_names,
    read_authority,
    reason_to_replace,
)
from tests.support.authority import foreign_authority, load_pair, shake_hands

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOSTS = ("api.anthropic.com", "*-cloudcode-pa.googleapis.com", "bedrock-runtime.*.amazonaws.com", "*.openai.azure.com")
PERMITTED = {"api.anthropic.com", "googleapis.com", "amazonaws.com", "openai.azure.com"}


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority(HOSTS, NOW)


def test_the_authority_has_this_profile(authority: Pair) -> None:
    """RFC 5280, asserted once."""
    certificate = authority.certificate
    assert certificate.version is x509.Version.v3
    assert certificate.subject == certificate.issuer
    assert [a.value for a in certificate.subject] == ["Wiremeter local authority"]
    assert isinstance(authority.key.curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.not_valid_before_utc == NOW - HOUR
    assert 300 * DAY < certificate.not_valid_after_utc - certificate.not_valid_before_utc <= 365 * DAY
    extensions = {type(e.value): (e.critical, e.value) for e in certificate.extensions}
    assert extensions[x509.BasicConstraints] == (True, x509.BasicConstraints(ca=True, path_length=0))
    critical, usage = extensions[x509.KeyUsage]
    assert critical and usage.key_cert_sign and usage.crl_sign and not usage.digital_signature
    assert extensions[x509.ExtendedKeyUsage] == (False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
    critical, constraints = extensions[x509.NameConstraints]
    assert critical
    assert {name.value for name in constraints.permitted_subtrees} == PERMITTED
    assert [str(name.value) for name in constraints.excluded_subtrees] == ["0.0.0.0/0", "::/0"]
    assert x509.SubjectKeyIdentifier in extensions
    assert len(extensions) == 5


def test_a_leaf_has_this_profile(authority: Pair) -> None:
    """An empty subject, one name, three days at most."""
    key = make_leaf_key()
    leaf = make_leaf(authority, key, "api.anthropic.com", NOW).certificate
    assert list(leaf.subject) == [] and leaf.issuer == authority.certificate.subject
    assert leaf.not_valid_before_utc == NOW - HOUR
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(hours=72)
    assert leaf.public_key() == key.public_key()
    extensions = {type(e.value): (e.critical, e.value) for e in leaf.extensions}
    names = x509.SubjectAlternativeName([x509.DNSName("api.anthropic.com")])
    assert extensions[x509.SubjectAlternativeName] == (True, names)
    assert extensions[x509.BasicConstraints] == (True, x509.BasicConstraints(ca=False, path_length=None))
    critical, usage = extensions[x509.KeyUsage]
    assert critical and usage.digital_signature and not usage.key_cert_sign
    assert extensions[x509.ExtendedKeyUsage] == (False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
    _, identifier = extensions[x509.AuthorityKeyIdentifier]
    subject = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier.key_identifier == subject.digest
    assert len(extensions) == 5


def test_serial_numbers_differ(authority: Pair) -> None:
    """Two leaves of one authority must not share theirs."""
    key = make_leaf_key()
    assert len({make_leaf(authority, key, "a", NOW).certificate.serial_number for _ in range(20)}) == 20


def test_a_leaf_does_not_outlive_its_authority(authority: Pair) -> None:
    """Some clients look at both."""
    late = authority.certificate.not_valid_after_utc - DAY
    leaf = make_leaf(authority, make_leaf_key(), "api.anthropic.com", late).certificate
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


def handshake(authority: Pair, host: str) -> None:
    """Let OpenSSL verify a leaf for `host` against the authority."""
    now = datetime.now(UTC)
    leaf = make_leaf(authority, make_leaf_key(), host, now)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(server_side, leaf)
    client_side = ssl.create_default_context(cadata=authority.certificate_pem().decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    shake_hands(client_side, server_side, host)


@pytest.mark.parametrize(
    "host", ["api.anthropic.com", "daily-cloudcode-pa.googleapis.com", "bedrock-runtime.eu-1.amazonaws.com"]
)
def test_openssl_accepts_a_permitted_name(host: str) -> None:
    """Under its strict rules, too."""
    handshake(make_authority(HOSTS, datetime.now(UTC)), host)


@pytest.mark.parametrize("host", ["example.com", "anthropic.com", "evilapi.anthropic.com.example", "azure.com"])
def test_openssl_refuses_a_name_outside_the_list(host: str) -> None:
    """A stolen key is worth nothing elsewhere."""
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(make_authority(HOSTS, datetime.now(UTC)), host)


VERIFIER = """
package main

import ("crypto/x509"; "encoding/pem"; "fmt"; "os")

func main() {
	read := func(path string) *x509.Certificate {
		data, _ := os.ReadFile(path)
		block, _ := pem.Decode(data)
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil { panic(err) }
		return certificate
	}
	roots := x509.NewCertPool()
	roots.AddCert(read(os.Args[1]))
	_, err := read(os.Args[2]).Verify(x509.VerifyOptions{Roots: roots, DNSName: os.Args[3]})
	fmt.Println(err)
}
"""


@pytest.mark.go
def test_go_enforces_the_constraints(tmp_path: Path) -> None:
    """The language server is a Go program."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain on PATH (apt-get install golang-go)")
    (tmp_path / "main.go").write_text(VERIFIER)
    now = datetime.now(UTC)
    authority = make_authority(HOSTS, now)
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem())
    program = tmp_path / "verifier"
    environment = {**os.environ, "GOFLAGS": "", "GO111MODULE": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run([go, "build", "-o", program, "main.go"], cwd=tmp_path, env=environment, check=True, timeout=300)

    def verdict(host: str) -> str:
        (tmp_path / "leaf.pem").write_bytes(make_leaf(authority, make_leaf_key(), host, now).certificate_pem())
        command = [program, tmp_path / "ca.pem", tmp_path / "leaf.pem", host]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert verdict("api.anthropic.com") == "<nil>"
    assert verdict("x-cloudcode-pa.googleapis.com") == "<nil>"
    assert "not authorized to sign for this name" in verdict("example.com")


@pytest.mark.parametrize(
    ("pattern", "constraint"),
    [
        ("api.anthropic.com", "api.anthropic.com"),
        ("*.openai.azure.com", "openai.azure.com"),
        ("*-cloudcode-pa.googleapis.com", "googleapis.com"),
        ("bedrock-runtime.*.amazonaws.com", "amazonaws.com"),
        ("API.Example.COM", "api.example.com"),
    ],
)
def test_a_constraint_is_what_follows_the_last_star(pattern: str, constraint: str) -> None:
    """And all names below it."""
    assert constraint_of(pattern) == constraint


# -- a stored authority --------------------------------------------------------


def test_a_stored_authority_is_read_back(authority: Pair) -> None:
    """Both directions; the key is in no `repr`."""
    stored = read_authority(authority.certificate_pem(), authority.key_pem())
    assert stored.certificate == authority.certificate
    assert permitted_names(stored) == PERMITTED
    assert "PRIVATE" not in repr(stored) and len(repr(stored)) < 60


def rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_what_cannot_be_used_is_said_so(authority: Pair) -> None:
    """Torn files, the key of another, a key of another kind."""
    certificate, key = authority.certificate_pem(), authority.key_pem()
    for bad in (
        (b"", key),
        (certificate[:200], key),
        (certificate, b""),
        (certificate, key[:100]),
        (certificate, make_authority(HOSTS, NOW).key_pem()),
        (certificate, rsa_key()),
    ):
        with pytest.raises(AuthorityInvalid):
            read_authority(*bad)


@pytest.mark.parametrize(
    ("hosts", "after", "reason"),
    [
        (HOSTS, timedelta(), None),
        (tuple(reversed(HOSTS)), 300 * DAY, None),
        (HOSTS, 335 * DAY, "it expires in 29 days"),
        (HOSTS, 400 * DAY, "it expires in -36 days"),
        ((*HOSTS, "a.example"), timedelta(), "the interception list changed: a.example"),
        (HOSTS[1:], timedelta(), "the interception list changed: api.anthropic.com"),
        ((*HOSTS, "x-cloudcode-pa.googleapis.com"), timedelta(), "list changed: x-cloudcode-pa.googleapis.com"),
    ],
)
def test_an_authority_is_replaced_when_it_cannot_serve_any_more(
    authority: Pair, hosts: tuple[str, ...], after: timedelta, reason: str | None
) -> None:
    """Before it expires, and when the list has changed."""
    found = reason_to_replace(authority, hosts, NOW + after)
    assert found is None if reason is None else reason in (found or "")


def test_the_users_own_authority_is_left_alone() -> None:
    """It has no constraints, so that it is none of ours, however soon it expires."""
    own = foreign_authority(NOW)
    assert permitted_names(own) is None
    assert reason_to_replace(own, HOSTS, NOW) is None
    assert reason_to_replace(own, HOSTS, NOW + 9 * DAY) is None


@pytest.mark.parametrize("key_identifier", [True, False])
def test_leaves_of_the_users_own_authority_work(key_identifier: bool) -> None:
    """With or without the extensions that ours has."""
    own = foreign_authority(datetime.now(UTC), key_identifier=key_identifier)
    leaf = make_leaf(own, make_leaf_key(), "anything.example", datetime.now(UTC)).certificate
    leaf.verify_directly_issued_by(own.certificate)


def test_what_strict_clients_miss_is_named(authority: Pair) -> None:
    """Ours lacks nothing; a user's may."""
    assert gaps_in(authority) == []
    assert gaps_in(foreign_authority(NOW)) == ["key usage"]
    assert gaps_in(foreign_authority(NOW, key_identifier=False)) == ["key usage", "subject key identifier"]


def test_expiry_of_a_file_is_told() -> None:
    """Unreadable is as good as expired."""
    pair = make_authority(HOSTS, NOW)
    end = pair.certificate.not_valid_after_utc
    assert not has_expired(pair.certificate_pem(), end - HOUR)
    assert has_expired(pair.certificate_pem(), end)
    assert has_expired(b"nonsense", NOW)


# -- bundles -------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_what_is_written_as_pem_is_read_back(certificates: list[bytes]) -> None:
    """Each block ends its own line, so that none swallows the next."""
    assert certificates_in(b"".join(map(as_pem, certificates))) == certificates


@pytest.mark.parametrize(
    ("bundle", "count"),
    [
        (lambda a, b: a.rstrip(b"\n") + b, 2),  # joined without a newline between them
        (lambda a, b: a.replace(b"\n", b"\r\n") + b, 2),
        (lambda a, b: b"\x00\xffgarbage\n" + a + b"# a comment\n" + b, 2),
        (lambda a, b: a[: len(a) // 2] + b"\n" + b, 1),
        (lambda a, b: a + b[: len(b) // 2], 1),
        (lambda a, b: b"", 0),
    ],
    ids=["no newline", "CRLF", "garbage", "first one cut", "last one cut", "empty"],
)
def test_bundles_are_read_as_clients_should_but_do_not(
    authority: Pair, bundle: Callable[[bytes, bytes], bytes], count: int
) -> None:
    """Reading is generous; writing is what clients need."""
    pem = authority.certificate_pem()
    found = certificates_in(bundle(pem, pem))
    assert found == [authority.certificate_der()] * count


@given(st.binary(max_size=500))
def test_noise_in_a_bundle_is_no_certificate(noise: bytes) -> None:
    """And no error."""
    certificates_in(b"-----BEGIN CERTIFICATE-----" + noise + b"-----END CERTIFICATE-----")
