"""
The words of the Antigravity hub language server: what it is started with, what its log lines say, what it is asked.

Pure text and JSON. In: the help text, log lines, answers. Out: arguments, ports, models, request bodies. All of it is
from public material about builds 2.0 to 2.10, none from a specification, so reading is tolerant throughout.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from services.events.lifecycle import OfferedModel
from services.lsrunner.envelopes import JsonObject

SERVICE = "exa.language_server_pb.LanguageServerService"
CSRF_HEADER = "x-codeium-csrf-token"
# Where the vendor's packages put the hub's binary on Linux.
BINARIES = (
    "/opt/Antigravity/resources/bin/language_server",
    "/usr/share/antigravity/resources/bin/language_server",
    "/usr/lib/antigravity/resources/bin/language_server",
)
# Consumers' accounts. An account under cloud terms sets another with `lsrunner.command`.
CLOUD_CODE_ENDPOINT = "https://daily-cloudcode-pa.googleapis.com"
API_SERVER_URL = "https://generativelanguage.googleapis.com"


def hub_arguments(csrf_token: str, app_version: str | None, known: frozenset[str]) -> tuple[str, ...]:
    """
    Write the arguments that make the binary a hub without a desktop.

    The token is the vendor's own design and stands on the command line, where every local user can read it: it keeps
    web pages out, not people. It is new at each start.

    Args:
        app_version: Of the installed app. The provider refuses versions that are too old, so none is invented.
        known: Flags that the binary has, by its own help; empty when that could not be had, which drops none.
    """
    wanted: list[tuple[str, str | None]] = [
        ("standalone", None),
        ("subclient_type", "hub"),
        ("override_ide_name", "antigravity"),
        ("override_ide_version", app_version),
        ("override_user_agent_name", "antigravity"),
        ("https_server_port", "0"),
        ("csrf_token", csrf_token),
        ("app_data_dir", "antigravity"),
        ("api_server_url", API_SERVER_URL),
        ("cloud_code_endpoint", CLOUD_CODE_ENDPOINT),
        ("enable_sidecars", None),
        ("headless", None),
    ]
    arguments = []
    for name, value in wanted:
        if (known and name not in known) or (name == "override_ide_version" and value is None):
            continue
        # `--name=value`: the one spelling that Go takes for booleans as well.
        arguments.append(f"--{name}" if value is None else f"--{name}={value}")
    return tuple(arguments)


_FLAG_IN_HELP = re.compile(r"^\s+--?([a-zA-Z][a-zA-Z0-9_.-]*)", re.MULTILINE)


def flags_in_help(text: str) -> frozenset[str]:
    """Read the names of the flags in what `--help` prints, Go's own form or the double-dashed one."""
    return frozenset(_FLAG_IN_HELP.findall(text))


def version_in_package(text: bytes) -> str | None:
    """Read the version in a package.json."""
    try:
        version = json.loads(text).get("version")
    except (ValueError, AttributeError, RecursionError):
        return None
    return version if isinstance(version, str) and re.fullmatch(r"\d+(\.\d+)+[\w.+-]*", version) else None


_ASAR_HEAD = struct.Struct("<IIII")


def package_place_in_asar(head: bytes) -> tuple[int, int] | None:
    """
    Find package.json in the head of an Electron archive (app.asar): its offset in the file and its size.

    The archive begins with a Chromium pickle that holds a JSON index, whose offsets count from the pickle's end
    (github.com/electron/asar).
    """
    if len(head) < _ASAR_HEAD.size:
        return None
    _, pickle_bytes, _, index_bytes = _ASAR_HEAD.unpack_from(head)
    try:
        index = json.loads(head[_ASAR_HEAD.size : _ASAR_HEAD.size + index_bytes])
        entry = index["files"]["package.json"]
        offset, size = int(entry["offset"]), int(entry["size"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (8 + pickle_bytes + offset, size) if offset >= 0 and 0 < size < 1024 * 1024 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that the language server says it listens on."""

    number: int
    scheme: str


# The vendor's own launcher is as tolerant: https first, because HTTP is its beginning.
_PORT_LINE = re.compile(r"listening on (?:\w+ )?port at (\d{1,5}) for (HTTPS|HTTP)\b")


def port_in(line: str) -> Port | None:
    """Find the port in a log line."""
    found = _PORT_LINE.search(line)
    if found is None or not 0 < int(found[1]) < 65536:
        return None
    return Port(number=int(found[1]), scheme=found[2].lower())


_LOGIN_URL = re.compile(r"https://accounts\.google\.com/[!-~]{1,8000}")


def login_url_in(text: str) -> str | None:
    """Find the address at which the user signs in; no other host is ever shown to people as that."""
    found = _LOGIN_URL.search(text)
    return found[0] if found else None


# Causes worth telling, by what the log says. The lines themselves are not passed on: they may hold tokens.
_TROUBLES = (
    (
        re.compile(r"certificate signed by unknown authority"),
        "it does not trust mitm's certificate (unknown authority)",
    ),
    (re.compile(r"failed to load system roots|x509: "), "it could not verify the provider's certificate"),
    (re.compile(r"connection refused"), "it was refused a connection to the provider or to mitm"),
    (re.compile(r"no such host|server misbehaving"), "it cannot resolve the provider's name"),
    (re.compile(r"proxyconnect|Proxy Authentication"), "mitm did not let it through"),
    (re.compile(r"no longer supported"), "the vendor no longer supports this version"),
    (re.compile(r"User location is not supported"), "the provider does not serve this location"),
    (re.compile(r"^panic: |fatal error: |unexpected fault address"), "it crashed"),
)


def trouble_in(line: str) -> str | None:
    """Say in our words what a log line complains about, if it is something that keeps the server from being ready."""
    return next((words for pattern, words in _TROUBLES if pattern.search(line)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """
    A model of the hub.

    Attributes:
        offered: Id (made from the label) and label.
        reference: What its requests name it by: `{"model": "MODEL_PLACEHOLDER_M18"}` or `{"alias": …}`.
    """

    offered: OfferedModel
    reference: JsonObject
    recommended: bool


def models_in(status: JsonObject) -> tuple[HubModel, ...]:
    """Read the models in an answer of `GetUserStatus`, the recommended ones first."""
    found: dict[str, HubModel] = {}
    for config in _rows(status, "userStatus", "cascadeModelConfigData", "clientModelConfigs"):
        label, choice = config.get("label"), config.get("modelOrAlias")
        reference = _reference_in(choice)
        if not isinstance(label, str) or not label or reference is None:
            continue
        name = slug_of(label)
        if name in found:  # two of one name: the vendor's own word tells them apart
            name = f"{name}-{slug_of(str(next(iter(reference.values()))))}"
        found[name] = HubModel(
            offered=OfferedModel(id=name, name=label),
            reference=reference,
            recommended=config.get("isRecommended") is True,
        )
    return tuple(sorted(found.values(), key=lambda model: (not model.recommended, model.offered.id)))


def _reference_in(choice: object) -> JsonObject | None:
    members = choice if isinstance(choice, dict) else {}
    for name in ("model", "alias"):
        value = members.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value:
            return {name: value}
    return None


def _rows(value: object, *path: str) -> Iterable[JsonObject]:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def slug_of(label: str) -> str:
    """Make an id of a label: `Gemini 3.1 Pro (High)` is `gemini-3.1-pro-high`."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.") or "model"


def is_signed_in(answer: JsonObject) -> bool:
    """Read an answer of `GetAuthStatus`."""
    result = answer.get("authResult")
    return isinstance(result, dict) and result.get("hasValidAuth") is True


def metadata(app_version: str | None) -> JsonObject:
    """Say who asks, in the members that every client of this service sends."""
    return {
        "ideName": "antigravity",
        "extensionName": "antigravity",
        "ideVersion": app_version or "unknown",
        "locale": "en",
    }


# CascadeSource CASCADE_CLIENT. Numbers where the names are known from one build only; proto3 JSON takes both.
_SOURCE_CASCADE_CLIENT = 1
_PLANNER_MODE_READ_ONLY = 2
_VERBOSITY_UI = 2


def start_request(conversation_id: str, workspace: PurePath, about: JsonObject) -> JsonObject:
    """Write `StartCascade`: a conversation of its own, in a directory that has nothing in it."""
    return {
        "metadata": about,
        "source": _SOURCE_CASCADE_CLIENT,
        "cascadeId": conversation_id,
        "workspaceUris": [f"file://{workspace}"],
    }


def message_request(conversation_id: str, text: str, model: HubModel, about: JsonObject) -> JsonObject:
    """Write `SendUserCascadeMessage`: nothing is executed by itself, nothing is written."""
    return {
        "cascadeId": conversation_id,
        "items": [{"text": text}],
        "metadata": about,
        "cascadeConfig": {
            "plannerConfig": {
                "conversational": {"plannerMode": _PLANNER_MODE_READ_ONLY, "agenticMode": False},
                "requestedModel": model.reference,
                "toolConfig": {
                    "runCommand": {"autoCommandConfig": {"autoExecutionPolicy": "CASCADE_COMMANDS_AUTO_EXECUTION_OFF"}},
                    "notifyUser": {"artifactReviewMode": "ARTIFACT_REVIEW_MODE_ALWAYS"},
                },
            }
        },
    }


def trajectory_request(conversation_id: str) -> JsonObject:
    """Write `GetCascadeTrajectory`."""
    return {"cascadeId": conversation_id, "verbosity": _VERBOSITY_UI}


# How each kind of question is answered with no.
_REFUSALS: Mapping[str, JsonObject] = {
    "runCommand": {"confirm": False},
    "filePermission": {"allow": False},
    "permission": {"allow": False},
}


def refusal_request(conversation_id: str, trajectory_id: str, step: int, kinds: Sequence[str]) -> JsonObject | None:
    """Write `HandleCascadeUserInteraction` that says no; None for a question that no is not an answer to."""
    kind = next((kind for kind in kinds if kind in _REFUSALS), None)
    if kind is None:
        return None
    interaction = {"trajectoryId": trajectory_id, "stepIndex": step, kind: _REFUSALS[kind]}
    return {"cascadeId": conversation_id, "interaction": interaction}
