"""What mitm is built with: the user's settings, with the built-in host list and the paths of the state directory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.dialects.hosts import INTERCEPT_HOSTS, host_matches
from services.runtime.settings import ConfigInvalid, MitmSettings, Settings, split_address
from services.runtime.state import StateDirectory

# The provider that the `simulated` profile talks to; `.invalid` never resolves (RFC 6761 §6.4).
SIMULATED_HOST = "simulated.wiremeter.invalid"
# What lsrunner's canary connections say in their ClientHello (services/lsrunner/scout.py).
CANARY_HOST = "canary.wiremeter.invalid"
_HOST_PATTERN = re.compile(r"([a-z0-9_*-]+\.)+[a-z0-9-]+")
_REMEMBERED_HOSTS_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class MitmConfig:
    """
    Plain values for the parts of mitm.

    Attributes:
        intercept_hosts: Lower-case patterns, the simulated provider's host among them.
        upstream_map: Host name to (address, port).
        language_server_user: Admitted beside the user who runs this process.
        limits: The waits and sizes of `MitmSettings`.
    """

    port: int
    intercept_hosts: tuple[str, ...]
    upstream_map: Mapping[str, tuple[str, int]]
    upstream_ca_file: str
    admit_users: tuple[str, ...]
    language_server_user: str
    limits: MitmSettings
    ca_directory: Path
    simulator_directory: Path
    journal_directory: Path
    run_directory: Path
    trust_bundle: Path
    trust_store: Path
    authority_certificate: Path

    @classmethod
    def from_settings(cls, settings: Settings, state: StateDirectory) -> "MitmConfig":
        """
        Combine settings and paths.

        Raises:
            ConfigInvalid: With every host pattern that is none.
        """
        mitm = settings.mitm
        hosts = tuple(host.lower() for host in mitm.intercept_hosts or INTERCEPT_HOSTS)
        problems = [
            f"mitm.intercept_hosts has {host!r}; a host name is allowed, with '*' before its last two labels"
            for host in hosts
            if not _HOST_PATTERN.fullmatch(host) or constraint_labels(host) < 2
        ]
        if problems:
            raise ConfigInvalid(problems)
        upstream_map = {host.lower(): split_address(address) for host, address in mitm.upstream_map.items()}
        upstream_map.setdefault(SIMULATED_HOST, ("127.0.0.1", settings.simulator.port))
        return cls(
            port=mitm.port,
            intercept_hosts=(*hosts, SIMULATED_HOST),
            upstream_map={host: address for host, address in upstream_map.items() if address is not None},
            upstream_ca_file=mitm.upstream_ca_file,
            admit_users=mitm.admit_users,
            language_server_user=settings.lsrunner.user,
            limits=mitm,
            ca_directory=state.ca,
            simulator_directory=state.simulator,
            journal_directory=state.journal,
            run_directory=state.run,
            trust_bundle=state.trust_bundle,
            trust_store=state.trust_store,
            authority_certificate=state.authority_certificate,
        )


def constraint_labels(pattern: str) -> int:
    """Count the labels after the last star: with fewer than two, the authority could vouch for a whole top level."""
    return len(pattern.rpartition("*")[2].lstrip("-.").split(".")) if "*" in pattern else len(pattern.split("."))


class HostList:
    """Decides by name which hosts are read and which are passed through unopened."""

    __slots__ = ("_known", "_patterns")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = patterns
        self._known: dict[str, bool] = {}

    def __contains__(self, host: str) -> bool:
        known = self._known.get(host)
        if known is None:
            known = host_matches(host, self._patterns)
            if len(self._known) < _REMEMBERED_HOSTS_MAX:
                self._known[host] = known
        return known
