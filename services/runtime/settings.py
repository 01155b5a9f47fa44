"""
What a user can set: `wiremeter.toml` and `WIREMETER_<SECTION>_<KEY>` become typed, frozen values.

The file is looked for at `$WIREMETER_CONFIG`, then beside the package (the checkout), then in
`~/.config/wiremeter/`. Every mistake is reported at once: an unknown section or key, a wrong type, a value out of
bounds, a contradiction. Lists and tables in the environment are written as JSON.
"""

import dataclasses
import ipaddress
import json
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# sysexits.h EX_CONFIG: supervisord.conf names it as the one status that is not worth a restart.
EXIT_CONFIG = 78
CHECKOUT = Path(__file__).resolve().parents[2]
# Variables of ours that are no settings of a section.
_OTHER_VARIABLES = frozenset({"WIREMETER_HOME", "WIREMETER_CONFIG", "WIREMETER_FIXTURES", "WIREMETER_RUN"})


class ConfigInvalid(Exception):
    """The configuration has mistakes; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class MitmSettings:
    """
    The intercepting proxy.

    Attributes:
        port: Redirected TLS and HTTP CONNECT, on 127.0.0.1 and ::1.
        intercept_hosts: Host names to read, `*.` in front for any name below; empty takes the built-in list.
        upstream_map: Host name to `address:port`: connect there instead, the certificate is still verified.
        upstream_ca_file: PEM file of certificate authorities trusted for upstreams beside the system's.
        http2: `when_needed` speaks HTTP/2 with clients that offer nothing else, `prefer` with all that offer it.
        admit_users: Users who may connect; empty admits the one who runs Wiremeter, the language server's and root.
        client_hello_timeout_s: From accept to a whole ClientHello or CONNECT head.
        handshake_timeout_s: For TLS on either side.
        connect_timeout_s: For one upstream address.
        head_timeout_s: From the first byte of a request head to its last.
        response_timeout_s: From the end of a request to the response's head.
        idle_timeout_s: Without a byte in either direction, inside an exchange or a tunnel.
        keep_alive_timeout_s: A client connection between two requests.
        pool_idle_timeout_s: An upstream connection between two requests.
        pool_size_max: Idle upstream connections kept per host.
        connections_max: Client connections at once.
        head_bytes_max: Request or response head.
        event_bytes_max: One server-sent event or JSON element, decoded.
        decoded_bytes_max: A whole body, decoded; past it the metering ends, never the traffic.
    """

    port: int = 8742
    intercept_hosts: tuple[str, ...] = ()
    upstream_map: Mapping[str, str] = field(default_factory=dict)
    upstream_ca_file: str = ""
    http2: str = "when_needed"
    admit_users: tuple[str, ...] = ()
    client_hello_timeout_s: float = 10.0
    handshake_timeout_s: float = 15.0
    connect_timeout_s: float = 10.0
    head_timeout_s: float = 30.0
    response_timeout_s: float = 600.0
    idle_timeout_s: float = 600.0
    keep_alive_timeout_s: float = 600.0
    pool_idle_timeout_s: float = 30.0
    pool_size_max: int = 64
    connections_max: int = 8192
    head_bytes_max: int = 256 * 1024
    event_bytes_max: int = 16 * 1024 * 1024
    decoded_bytes_max: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountantSettings:
    """
    The ledger's writer and publisher.

    Attributes:
        usage_endpoint: Where the public usage topic is bound, a loopback `tcp://` address.
        commit_interval_ms: Commits begin at least this far apart, so that records that come close together share one.
        batch_records_max: Records in one transaction.
    """

    usage_endpoint: str = "tcp://127.0.0.1:8743"
    commit_interval_ms: int = 5
    batch_records_max: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LsrunnerSettings:
    """
    The language server.

    Attributes:
        profile: `auto`, `antigravity`, `acp`, `command` or `simulated`.
        user: The UNIX user that the language server runs as; without it, the current one, through CONNECT.
        command: Program and arguments, for the profiles `acp`, `command` and a non-standard `antigravity`.
        environment: More variables for the language server; no secrets, every local user can read them.
        label: Name of its exchanges in the records; empty takes the profile's.
        terms_read: The user has read the vendor's terms for using the `antigravity` login from other programs.
        start_timeout_s: From start to ready.
        turn_timeout_s: Longest turn.
        queue_max: Turns waiting; one more is refused as busy.
    """

    profile: str = "auto"
    user: str = "antigravity-ls"
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    terms_read: bool = False
    start_timeout_s: float = 60.0
    turn_timeout_s: float = 600.0
    queue_max: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontproxySettings:
    """
    The HTTP API.

    Attributes:
        port: On 127.0.0.1.
        body_bytes_max: Request body.
        usage_wait_s: How long an answer waits for the wire's own usage after its last word.
    """

    port: int = 8741
    body_bytes_max: int = 8 * 1024 * 1024
    usage_wait_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """
    The stand-in of a provider that the `simulated` profile talks to.

    Attributes:
        port: Of its HTTPS endpoint on 127.0.0.1.
    """

    port: int = 8744


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, and where it came from."""

    mitm: MitmSettings = field(default_factory=MitmSettings)
    accountant: AccountantSettings = field(default_factory=AccountantSettings)
    lsrunner: LsrunnerSettings = field(default_factory=LsrunnerSettings)
    frontproxy: FrontproxySettings = field(default_factory=FrontproxySettings)
    simulator: SimulatorSettings = field(default_factory=SimulatorSettings)
    file: Path | None = None


# (section, key) -> lowest and highest value; every other number must be above zero.
_BOUNDS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("mitm", "port"): (1, 65535),
    ("frontproxy", "port"): (1, 65535),
    ("simulator", "port"): (1, 65535),
    ("mitm", "connections_max"): (1, 1_000_000),
    ("mitm", "head_bytes_max"): (1024, 16 * 1024 * 1024),
    ("accountant", "commit_interval_ms"): (0, 1000),
}
_HTTP2 = ("when_needed", "prefer")
_PROFILES = ("auto", "antigravity", "acp", "command", "simulated")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """
    Read the configuration file, if there is one, and the environment.

    Raises:
        ConfigInvalid: With every mistake found.
    """
    path = _find_file(environ)
    problems: list[str] = []
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigInvalid([f"{path} cannot be read: {error.strerror}"]) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigInvalid([f"{path}: {error}"]) from error
    settings = settings_from(tables, environ, problems, source=str(path))
    if problems:
        raise ConfigInvalid(problems)
    return dataclasses.replace(settings, file=path)


def _find_file(environ: Mapping[str, str]) -> Path | None:
    if "WIREMETER_CONFIG" in environ:
        return Path(environ["WIREMETER_CONFIG"])
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    for path in (CHECKOUT / "wiremeter.toml", home / ".config" / "wiremeter" / "wiremeter.toml"):
        if path.is_file():
            return path
    return None


def settings_from(
    tables: Mapping[str, Any], environ: Mapping[str, str], problems: list[str], *, source: str = "wiremeter.toml"
) -> Settings:
    """Build settings from parsed tables and the environment; mistakes are appended to `problems`."""
    sections = {f.name: typing.cast(type[Any], f.type) for f in dataclasses.fields(Settings) if f.name != "file"}
    for name in tables:
        if name not in sections:
            problems.append(f"{source}: [{name}] is no section; allowed: {', '.join(sections)}")
    _report_unknown_variables(environ, sections, problems)
    home = environ.get("WIREMETER_HOME")
    if home and not Path(home).is_absolute():
        # Processes and commands are started in different directories, and must mean the same one.
        problems.append(f"WIREMETER_HOME is {home!r}; an absolute path is allowed")
    built = {}
    for name, kind in sections.items():
        table = tables.get(name, {})
        if not isinstance(table, dict):
            problems.append(f"{source}: {name} is {table!r}, not a section")
            table = {}
        built[name] = _section(name, kind, table, environ, problems, source)
    settings = Settings(**built)
    _report_contradictions(settings, problems)
    return settings


def _report_unknown_variables(environ: Mapping[str, str], sections: Mapping[str, type], problems: list[str]) -> None:
    known = {f"WIREMETER_{s}_{f.name}".upper() for s, kind in sections.items() for f in dataclasses.fields(kind)}
    for variable in sorted(environ):
        if variable.startswith("WIREMETER_") and variable not in known | _OTHER_VARIABLES:
            problems.append(f"{variable} is no setting; allowed: {_variables_like(variable, sections)}")


def _variables_like(variable: str, sections: Mapping[str, type]) -> str:
    for name, kind in sections.items():
        prefix = f"WIREMETER_{name}_".upper()
        if variable.startswith(prefix):
            return ", ".join(prefix + field.name.upper() for field in dataclasses.fields(kind))
    return ", ".join(f"WIREMETER_{name}_…".upper() for name in sections)


def _section(
    name: str, kind: type[Any], table: dict[str, Any], environ: Mapping[str, str], problems: list[str], source: str
) -> Any:
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            problems.append(f"{source}: {name}.{key} is no setting; allowed: {', '.join(hints)}")
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        variable = f"WIREMETER_{name}_{key}".upper()
        if variable in environ:
            where, raw = variable, _from_text(hint, environ[variable])
        elif key in table:
            where, raw = f"{source}: {name}.{key}", table[key]
        else:
            continue
        problem = _problem_with(hint, raw, (name, key))
        if problem:
            problems.append(f"{where} is {raw!r}; {problem}")
        else:
            values[key] = tuple(raw) if isinstance(raw, list) else float(raw) if hint is float else raw
    return kind(**values)


def _from_text(hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if typing.get_origin(hint) is tuple and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _problem_with(hint: Any, value: Any, setting: tuple[str, str]) -> str | None:
    origin = typing.get_origin(hint)
    assert not isinstance(hint, types.UnionType)
    if origin is tuple:
        return (
            None if isinstance(value, list) and all(isinstance(v, str) for v in value) else "a list of words is allowed"
        )
    if origin is not None:
        fine = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        return None if fine else "a table of words is allowed"
    if hint is str:
        return None if isinstance(value, str) else "a word is allowed"
    if hint is bool:
        return None if isinstance(value, bool) else "true or false is allowed"
    if isinstance(value, bool) or not isinstance(value, int if hint is int else int | float):
        return f"{'a whole number' if hint is int else 'a number'} is allowed"
    if setting not in _BOUNDS:
        return None if 0 < value < float("inf") else "a number above 0 is allowed"
    low, high = _BOUNDS[setting]
    return None if low <= value <= high else f"{low:.12g} to {high:.12g} is allowed"


def _report_contradictions(settings: Settings, problems: list[str]) -> None:
    if settings.mitm.http2 not in _HTTP2:
        problems.append(f"mitm.http2 is {settings.mitm.http2!r}; allowed: {', '.join(_HTTP2)}")
    if settings.lsrunner.profile not in _PROFILES:
        problems.append(f"lsrunner.profile is {settings.lsrunner.profile!r}; allowed: {', '.join(_PROFILES)}")
    if settings.lsrunner.profile in ("command", "acp") and not settings.lsrunner.command:
        problems.append(f"lsrunner.profile is {settings.lsrunner.profile!r}; it needs lsrunner.command")
    _report_shared_ports(settings, problems)
    if loopback_tcp(settings.accountant.usage_endpoint) is None:
        problems.append(
            f"accountant.usage_endpoint is {settings.accountant.usage_endpoint!r};"
            " tcp:// with a loopback address and a port is allowed"
        )
    for host, address in settings.mitm.upstream_map.items():
        if split_address(address) is None:
            problems.append(f"mitm.upstream_map.{host} is {address!r}; address:port is allowed")


def _report_shared_ports(settings: Settings, problems: list[str]) -> None:
    usage = loopback_tcp(settings.accountant.usage_endpoint)
    ports = {
        "mitm.port": settings.mitm.port,
        "frontproxy.port": settings.frontproxy.port,
        "simulator.port": settings.simulator.port,
        "accountant.usage_endpoint": usage[1] if usage else 0,
    }
    names = list(ports)
    for n, name in enumerate(names):
        for other in names[:n]:
            if ports[name] == ports[other]:
                problems.append(f"{name} is {ports[name]}; {other} has that port already")


def loopback_tcp(endpoint: str) -> tuple[str, int] | None:
    """Split `tcp://<loopback address>:<port>`; None for anything else."""
    if not endpoint.startswith("tcp://"):
        return None
    address = split_address(endpoint.removeprefix("tcp://"))
    if address is None or not _is_ip_address(address[0]) or not ipaddress.ip_address(address[0]).is_loopback:
        return None
    return address


def split_address(text: str) -> tuple[str, int] | None:
    """Split `address:port` or `[v6 address]:port`; None if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
