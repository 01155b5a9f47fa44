"""Certificates for tests of certificates: a user's own authority, and handshakes without sockets."""

import os
import ssl
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.mitm.authority import Pair

_DAY = timedelta(days=1)


def foreign_authority(now: datetime, *, key_identifier: bool = True) -> Pair:
    """Make an authority as a user or a company might: no constraints or key usage, ten days, perhaps no identifier."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "my own")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 10 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if key_identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def plain_leaf(authority: Pair, host: str, made: datetime) -> Pair:
    """Make a certificate with a name and two days, and nothing else that RFC 5280 asks for."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made - _DAY)
        .not_valid_after(made + _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """Let a context show a certificate; ssl takes files only."""
    descriptor = os.memfd_create("leaf")
    try:
        os.write(descriptor, pair.certificate_pem() + pair.key_pem())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def shake_hands(client_side: ssl.SSLContext, server_side: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """Complete a handshake in memory and return the client's end; raises what the client makes of the server."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(down, up, server_hostname=host)
    server = server_side.wrap_bio(up, down, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert client.version() == "TLSv1.3"
    return client
