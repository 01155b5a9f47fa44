"""
The certificate authority: makes itself, short-lived leaves, and the simulated provider's certificate.

RFC 5280. Everything is P-256 with SHA-256: OpenSSL 3, Go, Node and Python accept it, and it costs a fifteenth of RSA.
The authority is constrained to the interception list (§4.2.1.10, critical), so that its key, stolen, is worth nothing
for any other name. Time is an argument.
"""

import base64
import binascii
import contextlib
import ipaddress
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=365)
# Replaced when less than this is left, so that a language server that runs for weeks never meets an expired one.
AUTHORITY_LEFT_MIN = timedelta(days=30)
LEAF_LIFETIME = timedelta(hours=72)
LEAF_LEFT_MIN = timedelta(hours=12)
# Clocks differ, and Go refuses a certificate that begins in the future.
BACKDATED = timedelta(hours=1)

_CERTIFICATE_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


class AuthorityInvalid(Exception):
    """A stored authority that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_der(self) -> bytes:
        """Return the certificate as DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def certificate_pem(self) -> bytes:
        """Return the certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the private key as PEM, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"<Pair {self.certificate.serial_number:x}>"


def constraint_of(pattern: str) -> str:
    """Return the name constraint for a host pattern: what follows its last label with a star, and all below that."""
    labels = pattern.lower().split(".")
    starred = max((n for n, label in enumerate(labels) if "*" in label), default=-1)
    return ".".join(labels[starred + 1 :])


def make_authority(hosts: Iterable[str], now: datetime, common_name: str = "Wiremeter local authority") -> Pair:
    """Make a new authority that can vouch for `hosts` (patterns) and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    permitted = sorted({constraint_of(host) for host in hosts})
    builder = (
        _valid(_builder(name, name, key.public_key()), now - BACKDATED, now + AUTHORITY_LIFETIME - timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[x509.DNSName(host) for host in permitted],
                # Constraints bind only the kinds of name that they mention: shut out addresses as well.
                excluded_subtrees=[
                    x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
                    x509.IPAddress(ipaddress.ip_network("::/0")),
                ],
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


class Issuer:
    """
    Makes leaves of one authority that share a key; what they have in common is put together once.

    Attributes:
        key_pem: Their private key as PEM, unencrypted; of SEC 1, RFC 5915, which OpenSSL reads sooner than PKCS #8.
    """

    def __init__(self, authority: Pair, key: ec.EllipticCurvePrivateKey) -> None:
        self.key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self._key = key
        self._authority = authority
        self._expires = authority.certificate.not_valid_after_utc
        # An empty subject: a common name over 64 characters cannot be built.
        self._begun = (
            _builder(x509.Name([]), authority.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_authority_identifier(authority), critical=False)
        )

    def leaf(self, host: str, now: datetime, *, lifetime: timedelta = LEAF_LIFETIME) -> Pair:
        """Make a certificate for one host name, which is over when its authority is."""
        builder = _valid(self._begun, now - BACKDATED, min(now + lifetime - BACKDATED, self._expires))
        named = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
        return Pair(named.sign(self._authority.key, hashes.SHA256()), self._key)


def make_leaf(
    authority: Pair,
    key: ec.EllipticCurvePrivateKey,
    host: str,
    now: datetime,
    *,
    lifetime: timedelta = LEAF_LIFETIME,
) -> Pair:
    """Make a certificate for one host name, alone; see `Issuer`."""
    return Issuer(authority, key).leaf(host, now, lifetime=lifetime)


def gaps_in(authority: Pair) -> list[str]:
    """
    Name what RFC 5280 asks of an authority's certificate and this one, a user's own, has not.

    Without it, clients that verify strictly refuse every leaf; those in Python do so since 3.13.
    """
    found = {type(each.value): each for each in authority.certificate.extensions}
    constraints = found.get(x509.BasicConstraints)
    has = {
        "critical basic constraints": constraints is not None and constraints.critical,
        "key usage": x509.KeyUsage in found,
        "subject key identifier": x509.SubjectKeyIdentifier in found,
    }
    return [name for name, is_there in has.items() if not is_there]


def _authority_identifier(authority: Pair) -> x509.AuthorityKeyIdentifier:
    try:
        found = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # an authority that the user has made
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def make_leaf_key() -> ec.EllipticCurvePrivateKey:
    """Make the key that the leaves of one process share; it never leaves its memory."""
    return ec.generate_private_key(ec.SECP256R1())


def read_authority(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """
    Read a stored authority.

    Raises:
        AuthorityInvalid: Not PEM, not P-256, or key and certificate do not belong together.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise AuthorityInvalid(f"authority cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise AuthorityInvalid("authority's key and certificate do not belong together")
    return Pair(certificate, key)


def reason_to_replace(authority: Pair, hosts: Iterable[str], now: datetime) -> str | None:
    """
    Say why a stored authority cannot serve `hosts` any more; None while it can.

    An authority without name constraints is none of ours: the user has put it there and it is left alone.
    """
    permitted = permitted_names(authority)
    if permitted is None:
        return None
    left = authority.certificate.not_valid_after_utc - now
    if left < AUTHORITY_LEFT_MIN:
        return f"it expires in {left.days} days"
    wanted = {constraint_of(host) for host in hosts}
    if permitted != wanted:
        changed = sorted(permitted ^ wanted)
        return f"the interception list changed: {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}"
    return None


def permitted_names(authority: Pair) -> set[str] | None:
    """Return the names that the authority may vouch for, with all below them; None when it is not constrained."""
    try:
        constraints = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    return {str(name.value) for name in constraints.permitted_subtrees or ()}


def has_expired(certificate_pem: bytes, at: datetime) -> bool:
    """Tell whether the first certificate of a PEM file is over, or unreadable, at a time."""
    try:
        return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc <= at
    except ValueError:
        return True


def certificates_in(bundle: bytes) -> list[bytes]:
    """Return the certificates of a PEM bundle as DER; a malformed block is left out, nothing is judged."""
    found = []
    for match in _CERTIFICATE_BLOCK.finditer(bundle):
        try:
            found.append(base64.b64decode(b"".join(match[1].split()), validate=True))
        except binascii.Error:
            continue
    return found


def as_pem(certificate: bytes) -> bytes:
    """Return a DER certificate as a PEM block with its closing newline."""
    lines = (base64.b64encode(certificate[n : n + 48]) for n in range(0, len(certificate), 48))
    return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"


def as_java_store(certificates: Iterable[bytes], password: str) -> bytes:
    """Return DER certificates as a PKCS #12 trust store that Java reads; those that cannot be parsed are left out."""
    entries = []
    for number, certificate in enumerate(certificates):
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            # Every system's store has old authorities that break some rule; those are the system's affair.
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(certificate)
            # Java wants names, and takes entries of one name for the same.
            entries.append(pkcs12.PKCS12Certificate(parsed, f"authority-{number}".encode()))
    return pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(password.encode()))


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)


def _valid(builder: x509.CertificateBuilder, begins: datetime, expires: datetime) -> x509.CertificateBuilder:
    """Say how long, and give it a number, which no two certificates share."""
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(expires)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
