"""
The state directory: what lives where, with which rights.

`$WIREMETER_HOME`, else `$XDG_STATE_HOME/wiremeter`, else `~/.local/state/wiremeter`. Directories are 0700 and files
0600: the ledger, the journals, the sockets and the certificate authority's key are nobody else's.

What the language server's user must read is elsewhere, in a place of which there is one per machine and user. It
belongs to the state directory that first had it made, for as long as that exists; a second one, of a test say, keeps
its own to itself, and does not replace the authority that the first one's language server trusts.
"""

import fcntl
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un.sun_path has 108 bytes with the closing zero (unix(7)); libzmq refuses 108.
SOCKET_PATH_BYTES_MAX = 107
# Where `mitm-redirect.sh install` makes a directory that the language server's user can read.
SHARED_ROOT = Path("/var/lib/wiremeter")
# In it, the path of the state directory that it belongs to.
_OWNER = "owner"
_BUNDLE = "ca-bundle.pem"
_STORE = "ca-bundle.p12"
_AUTHORITY = "ca.pem"


class StateUnusable(Exception):
    """The state directory cannot serve; the message says why."""


class RoleTaken(Exception):
    """Another process has this role in this state directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDirectory:
    """Paths below one state directory; `make` creates those that are directories."""

    home: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "StateDirectory":
        """Choose the directory; nothing is touched yet. A relative `WIREMETER_HOME` has been refused as a setting."""
        if environ.get("WIREMETER_HOME"):
            return cls(home=Path(environ["WIREMETER_HOME"]).absolute())
        # "All paths set in these environment variables must be absolute. If an implementation encounters a relative
        # path [...] it should consider the path invalid and ignore it." (XDG Base Directory Specification)
        state_home = Path(environ.get("XDG_STATE_HOME", ""))
        if state_home.is_absolute():
            return cls(home=state_home / "wiremeter")
        return cls(home=Path(environ.get("HOME") or os.path.expanduser("~")) / ".local" / "state" / "wiremeter")

    @property
    def ca(self) -> Path:
        """The certificate authority: key and certificate."""
        return self.home / "ca"

    @property
    def journal(self) -> Path:
        """One folder per publisher."""
        return self.home / "journal"

    @property
    def ledger(self) -> Path:
        """The SQLite database."""
        return self.home / "ledger.sqlite3"

    @property
    def run(self) -> Path:
        """Sockets and locks."""
        return self.home / "run"

    @property
    def shared(self) -> Path:
        """Where the trust bundle is published: readable by the language server's user where that was arranged."""
        arranged = _arranged()
        return arranged if arranged is not None and _owner_of(arranged) == self._name else self.home / "shared"

    @property
    def trust_bundle(self) -> Path:
        """The system's certificate authorities and ours in one PEM file, for `SSL_CERT_FILE`; written by mitm."""
        return self.shared / _BUNDLE

    @property
    def trust_store(self) -> Path:
        """The same certificates as a PKCS #12 trust store, for Java; written by mitm."""
        return self.shared / _STORE

    @property
    def authority_certificate(self) -> Path:
        """Our certificate authority alone, for `NODE_EXTRA_CA_CERTS`; written by mitm."""
        return self.shared / _AUTHORITY

    @property
    def simulator(self) -> Path:
        """Certificate, key and authority of the simulated provider; written by mitm."""
        return self.home / "simulator"

    def make(self) -> None:
        """
        Create the directories, and take the shared place if nobody has it.

        Raises:
            StateUnusable: Not writable, not ours, or too deep for a socket.
        """
        for path in (self.home, self.ca, self.journal, self.run, self.simulator):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StateUnusable(f"{path} cannot be made: {error.strerror}") from error
        status = self.home.stat()
        if status.st_uid != os.geteuid():
            raise StateUnusable(f"{self.home} belongs to user {status.st_uid}, not to {os.geteuid()}")
        # The longest name that anything puts there.
        longest = len(os.fsencode(self.run / "turn-request.ipc"))
        if longest > SOCKET_PATH_BYTES_MAX:
            raise StateUnusable(
                f"{self.run} is too deep: a socket path of {longest} bytes exceeds {SOCKET_PATH_BYTES_MAX};"
                " set WIREMETER_HOME to a shorter one"
            )
        self._claim_shared()

    @property
    def _name(self) -> str:
        return os.path.realpath(self.home)

    def _claim_shared(self) -> None:
        arranged = _arranged()
        if arranged is None:
            return
        try:
            directory = os.open(arranged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                owner = _owner_of(arranged)
                if owner is None or not os.path.isdir(owner):
                    # What lies there is another authority's: better nothing, until mitm has written ours.
                    for name in (_BUNDLE, _STORE, _AUTHORITY):
                        (arranged / name).unlink(missing_ok=True)
                    fresh = arranged / f"{_OWNER}.new"
                    fresh.write_text(self._name)
                    fresh.replace(arranged / _OWNER)
            finally:
                os.close(directory)
        except OSError as error:
            raise StateUnusable(f"{arranged} cannot be taken: {error.strerror}") from error

    def take_role(self, role: str) -> int:
        """
        Hold the lock of a role for the life of this process; two processes with one role would corrupt each other.

        Returns:
            The descriptor that holds the lock; keep it open.

        Raises:
            RoleTaken: Another process holds it.
        """
        descriptor = os.open(self.run / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RoleTaken(f"another {role} is running in {self.home}") from error
        return descriptor

    def locks_held(self) -> list[Path]:
        """Return the locks in the directory that processes hold now, those of roles among them."""
        held = []
        for lock in sorted(self.run.glob("*.lock")):
            try:
                os.close(self.take_role(lock.stem))
            except RoleTaken:
                held.append(lock)
        return held


def _arranged() -> Path | None:
    """Return the place that the language server's user can read, if there is one and it is ours."""
    arranged = SHARED_ROOT / pwd.getpwuid(os.geteuid()).pw_name
    if arranged.is_dir() and os.access(arranged, os.W_OK) and arranged.stat().st_uid == os.geteuid():
        return arranged
    return None


def _owner_of(arranged: Path) -> str | None:
    try:
        return (arranged / _OWNER).read_text() or None
    except OSError:
        return None
