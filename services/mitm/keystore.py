"""
Keys, certificates and trust on disk and in TLS contexts.

    ca/key.pem, ca/ca.pem        the authority, 0600, made at the first start, under a lock: workers start together
    <shared>/ca-bundle.pem       the system's authorities and ours, for the language server's SSL_CERT_FILE, 0644
    <shared>/ca-bundle.p12       the same for Java, 0644
    <shared>/ca.pem              ours alone, for NODE_EXTRA_CA_CERTS, 0644
    simulator/provider.pem       certificate and key of the simulated provider, 0600; simulator/ca.pem vouches for it

The upstream context trusts the system's authorities and `upstream_ca_file`, and never ours: a loop through ourselves
ends with a verification error instead of running out of descriptors.
"""

import fcntl
import os
import ssl
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from services.mitm.authority import (
    AUTHORITY_LEFT_MIN,
    AUTHORITY_LIFETIME,
    LEAF_LEFT_MIN,
    AuthorityInvalid,
    Issuer,
    Pair,
    as_java_store,
    as_pem,
    certificates_in,
    gaps_in,
    has_expired,
    make_authority,
    make_leaf,
    make_leaf_key,
    permitted_names,
    read_authority,
    reason_to_replace,
)
from services.mitm.config import SIMULATED_HOST, MitmConfig
from services.runtime.environment import JAVA_STORE_PASSWORD
from services.runtime.logs import Logs
from services.runtime.run import StartRefused
from services.runtime.settings import ConfigInvalid

# Where distributions keep their bundle; never from the environment, which may name a bundle that we wrote ourselves.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine
)
CONTEXTS_MAX = 1024
# AEAD only: CBC suites are the ones that Python's default still leaves in TLS 1.2.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Keystore:
    """
    The authority, its leaves as server contexts, and the upstream context.

    Opened once per process. `server_context` is called for each connection and answers from memory but for the first
    connection to a name, which costs a signature and its loading (under a millisecond). What does not depend on the
    name waits ready; its successor is made when `call_soon`, an event loop's, says so, which nobody waits for.
    """

    def __init__(
        self,
        config: MitmConfig,
        logs: Logs,
        clock: Callable[[], datetime],
        call_soon: Callable[[Callable[[], None]], object] = lambda step: step(),
    ) -> None:
        self._config = config
        self._logs = logs
        self._clock = clock
        self._contexts: OrderedDict[tuple[str, bool], tuple[ssl.SSLContext, datetime]] = OrderedDict()
        with _locked(config.ca_directory / "lock"):
            self.authority = self._open_authority()
            self._system = self._system_certificates()
            self._publish_bundle(self._system)
            self._open_simulator()
        self._issuer = Issuer(self.authority, make_leaf_key())
        self._call_soon = call_soon
        self._spare: ssl.SSLContext | None = _server_context()
        self.upstream_context = self._make_upstream_context(["http/1.1"])
        self.simulator_context = _client_context()
        self.simulator_context.load_verify_locations(config.simulator_directory / "ca.pem")

    @cached_property
    def http2_upstream_context(self) -> ssl.SSLContext:
        """The same for HTTP/2. Most processes never need it, and it costs 25 ms and two megabytes."""
        return self._make_upstream_context(["h2", "http/1.1"])

    def server_context(self, host: str, http2: bool = False) -> ssl.SSLContext:
        """Return the context that shows a valid leaf for `host` and speaks HTTP/2, or HTTP/1.1."""
        now = self._clock()
        name = host, http2
        found = self._contexts.get(name)
        if found is not None and found[1] > now:
            self._contexts.move_to_end(name)
            return found[0]
        leaf = self._issuer.leaf(host, now)
        context = self._make_server_context(leaf, "h2" if http2 else "http/1.1")
        renew_at = leaf.certificate.not_valid_after_utc - LEAF_LEFT_MIN
        self._contexts[name] = (context, max(renew_at, now + timedelta(minutes=1)))
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
        return context

    # -- the authority -----------------------------------------------------

    def _open_authority(self) -> Pair:
        directory = self._config.ca_directory
        key_path, certificate_path = directory / "key.pem", directory / "ca.pem"
        now = self._clock()
        reason = None
        if key_path.exists() and certificate_path.exists():
            try:
                authority = read_authority(certificate_path.read_bytes(), key_path.read_bytes())
                problem = reason_to_replace(authority, self._config.intercept_hosts, now)
                if problem is None:
                    if permitted_names(authority) is None:
                        self._accept_foreign(authority, certificate_path)
                    return authority
                reason = problem
            except AuthorityInvalid as error:
                reason = str(error)
                # It may be one that the user has made and that only we cannot use.
                for path in (key_path, certificate_path):
                    os.replace(path, path.with_name(f"{path.name}.unusable"))
        authority = make_authority(self._config.intercept_hosts, now)
        write_atomically(key_path, authority.key_pem(), 0o600)
        write_atomically(certificate_path, authority.certificate_pem(), 0o600)
        if reason is None:
            self._logs.info("authority.made", reason="there is none")
        else:
            self._logs.warning("authority.made", reason=reason, hint="restart programs that trusted the one before")
        return authority

    def _accept_foreign(self, authority: Pair, path: Path) -> None:
        expires = authority.certificate.not_valid_after_utc
        if expires - self._clock() < LEAF_LEFT_MIN:
            raise ConfigInvalid([f"{path}: this certificate authority is over on {expires:%Y-%m-%d %H:%M} UTC"])
        self._logs.warning("authority.unconstrained", path=str(path))
        if gaps := gaps_in(authority):
            hint = "clients that verify strictly, as Python does since 3.13, will refuse us"
            self._logs.warning("authority.incomplete", path=str(path), lacks=", ".join(gaps), hint=hint)

    def _system_certificates(self) -> list[bytes]:
        path = next((Path(name) for name in SYSTEM_BUNDLES if Path(name).is_file()), None)
        if path is None:
            raise ConfigInvalid([f"no bundle of certificate authorities found; looked at {', '.join(SYSTEM_BUNDLES)}"])
        # Ours may stand in the system's store if a user put it there; upstream it must not be trusted.
        ours = self.authority.certificate_der()
        return [certificate for certificate in certificates_in(path.read_bytes()) if certificate != ours]

    def _publish_bundle(self, system: list[bytes]) -> None:
        """Write the combined bundle, each certificate as a block of its own, and read it back."""
        path = self._config.trust_bundle
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        certificates = [*system, self.authority.certificate_der()]
        combined = b"".join(as_pem(certificate) for certificate in certificates)
        # Written last of the three: where it is as it should be, so are the others. Then nothing is written, so that a
        # start does not need room on the disk.
        others = (self._config.trust_store, self._config.authority_certificate)
        if all(_is_public(each) for each in (path, *others)) and path.read_bytes() == combined:
            return
        write_atomically(self._config.trust_store, as_java_store(certificates, JAVA_STORE_PASSWORD), 0o644)
        write_atomically(self._config.authority_certificate, self.authority.certificate_pem(), 0o644)
        write_atomically(path, combined, 0o644)
        assert certificates_in(path.read_bytes()) == certificates

    def _open_simulator(self) -> None:
        """Make the simulated provider's certificate, from an authority whose key is thrown away."""
        directory = self._config.simulator_directory
        now = self._clock()
        if (directory / "ca.pem").exists() and (directory / "provider.pem").exists():
            if not has_expired((directory / "provider.pem").read_bytes(), now + AUTHORITY_LEFT_MIN):
                return
        authority = make_authority([SIMULATED_HOST], now, "Wiremeter simulated provider")
        # As long as its authority: nobody makes another one while the processes that have read it run.
        leaf = make_leaf(authority, make_leaf_key(), SIMULATED_HOST, now, lifetime=AUTHORITY_LIFETIME)
        write_atomically(directory / "ca.pem", authority.certificate_pem(), 0o600)
        write_atomically(directory / "provider.pem", leaf.certificate_pem() + leaf.key_pem(), 0o600)

    # -- contexts ----------------------------------------------------------

    def _make_server_context(self, leaf: Pair, protocol: str) -> ssl.SSLContext:
        context, self._spare = self._spare or _server_context(), None
        self._call_soon(self._prepare)
        context.set_alpn_protocols([protocol])
        with _in_memory_file(self._issuer.key_pem + leaf.certificate_pem()) as path:
            context.load_cert_chain(path)
        return context

    def _prepare(self) -> None:
        self._spare = self._spare or _server_context()

    def _make_upstream_context(self, protocols: list[str]) -> ssl.SSLContext:
        context = _client_context()
        context.set_alpn_protocols(protocols)
        context.load_verify_locations(cadata=b"".join(as_pem(c) for c in self._system).decode("ascii"))
        if self._config.upstream_ca_file:
            path = Path(self._config.upstream_ca_file)
            try:
                found = certificates_in(path.read_bytes())
            except OSError as error:
                raise ConfigInvalid([f"mitm.upstream_ca_file {path}: {error.strerror}"]) from error
            extra = [c for c in found if c != self.authority.certificate_der()]
            if not extra:
                raise ConfigInvalid([f"mitm.upstream_ca_file {path} holds no certificate authority"])
            try:
                context.load_verify_locations(cadata=b"".join(as_pem(c) for c in extra).decode("ascii"))
            except ssl.SSLError as error:
                raise ConfigInvalid([f"mitm.upstream_ca_file {path} cannot be read: {error.reason}"]) from error
        return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # Tickets would be good for this process and one leaf only, and cost a write and two seals per connection.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    # The client knows which cipher its machine is fast at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _client_context() -> ssl.SSLContext:
    # Not ssl.create_default_context: since Python 3.13 that sets VERIFY_X509_STRICT, under which authorities without
    # key usage or identifier, as companies still have them, vouch for nothing. Neither Go nor Node is so strict. What
    # the client itself would accept must not fail here, and not because of the Python that runs us.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_public(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o644


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """
    Write a file that is either the old one or the whole new one, never through a link that somebody left there.

    Raises:
        StartRefused: It cannot be written; the old one is as it was.
    """
    try:
        _replace(path, data, mode)
    except OSError as error:
        raise StartRefused(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _in_memory_file(data: bytes) -> Iterator[str]:
    """Give `data` a path that is on no disk: ssl takes certificates and keys from files only."""
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
