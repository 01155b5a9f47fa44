"""The hub's words: arguments, log lines, models, requests."""

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.lifecycle import OfferedModel
from services.lsrunner.hub import (
    HubModel,
    Port,
    flags_in_help,
    hub_arguments,
    is_signed_in,
    login_url_in,
    message_request,
    metadata,
    models_in,
    package_place_in_asar,
    port_in,
    refusal_request,
    slug_of,
    start_request,
    trouble_in,
    version_in_package,
)

FLASH = HubModel(
    offered=OfferedModel(id="gemini-3-flash", name="Gemini 3 Flash"),
    reference={"model": "MODEL_PLACEHOLDER_M18"},
    recommended=True,
)


# --- starting it


def test_the_hub_is_started_standalone_with_its_token_and_the_apps_version() -> None:
    arguments = hub_arguments("secret", "2.10.0", frozenset())
    assert arguments[0] == "--standalone"
    assert {"--subclient_type=hub", "--csrf_token=secret", "--override_ide_version=2.10.0"} <= set(arguments)


def test_an_unknown_version_is_not_invented() -> None:
    assert not [a for a in hub_arguments("secret", None, frozenset()) if "version" in a]


def test_only_flags_that_the_build_knows_are_passed() -> None:
    known = flags_in_help(
        "Usage of language_server:\n  -standalone\n    \tx\n  --csrf_token string\n    \tsays -headless\n"
    )
    assert known == {"standalone", "csrf_token"}
    assert hub_arguments("secret", "2.10.0", known) == ("--standalone", "--csrf_token=secret")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b'{"version": "2.10.0"}', "2.10.0"),
        (b'{"version": "2.10.0-beta.1"}', "2.10.0-beta.1"),
        (b'{"version": "latest"}', None),
        (b'{"version": 2}', None),
        (b"{}", None),
        (b"[]", None),
        (b"\xff", None),
    ],
)
def test_the_version_is_taken_from_a_package(text: bytes, version: str | None) -> None:
    assert version_in_package(text) == version


@given(st.binary(max_size=100))
def test_an_archive_of_noise_holds_no_package(noise: bytes) -> None:
    assert package_place_in_asar(noise) is None


# --- its log


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("I0520 08:43:26.307459 3140 s.go:9] Language server listening on random port at 43210 for HTTPS (gRPC)",
         Port(number=43210, scheme="https")),
        ("Language server listening on fixed port at 42100 for HTTP", Port(number=42100, scheme="http")),
        ("Language server listening on random port at 42101 for LSP", None),
        ("Language server listening on port at 8080 for HTTP", Port(number=8080, scheme="http")),
        ("listening on random port at 99999 for HTTP", None),
        ("Language server will attempt to listen on host localhost", None),
        ("", None),
    ],
)  # fmt: skip
def test_ports_are_found_in_log_lines(line: str, port: Port | None) -> None:
    assert port_in(line) == port


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("Please visit the following URL: https://accounts.google.com/o/oauth2/v2/auth?a=b&c=d",
         "https://accounts.google.com/o/oauth2/v2/auth?a=b&c=d"),
        ("https://accounts.google.com/x y", "https://accounts.google.com/x"),
        ("https://accounts.google.com.evil.example/x", None),
        ("http://accounts.google.com/x", None),
        ("https://example.com/?https://accounts.google.co/", None),
    ],
)  # fmt: skip
def test_only_the_vendors_page_is_a_place_to_sign_in(text: str, url: str | None) -> None:
    assert login_url_in(text) == url


def test_troubles_are_told_in_our_words() -> None:
    """Log lines may hold what is nobody's business."""
    line = 'E0520 server.go:7] Get "https://h/?token=s": tls: x509: certificate signed by unknown authority'
    assert trouble_in(line) == "it does not trust mitm's certificate (unknown authority)"
    assert trouble_in("dial tcp 127.0.0.1:8742: connect: connection refused") is not None
    assert trouble_in("I0520 server.go:8] all is well") is None


@given(st.text(max_size=200))
def test_no_log_line_is_an_error(line: str) -> None:
    port_in(line)
    login_url_in(line)
    trouble_in(line)


# --- its models


def status(*configs: object) -> dict[str, object]:
    return {"userStatus": {"cascadeModelConfigData": {"clientModelConfigs": list(configs)}}}


def test_models_are_named_by_their_labels_the_recommended_first() -> None:
    found = models_in(
        status(
            {"label": "Claude Sonnet 4.6 (Thinking)", "modelOrAlias": {"model": "MODEL_PLACEHOLDER_M35"}},
            {"label": "Gemini 3 Flash", "modelOrAlias": {"model": "MODEL_PLACEHOLDER_M18"}, "isRecommended": True},
            {"label": "Auto", "modelOrAlias": {"alias": "MODEL_ALIAS_AUTO"}},
        )
    )
    assert [model.offered.id for model in found] == ["gemini-3-flash", "auto", "claude-sonnet-4.6-thinking"]
    assert found[0] == FLASH
    assert found[1].reference == {"alias": "MODEL_ALIAS_AUTO"}


def test_two_models_of_one_label_stay_apart() -> None:
    found = models_in(status(*({"label": "Flash", "modelOrAlias": {"model": f"MODEL_M{n}"}} for n in (1, 2))))
    assert [model.offered.id for model in found] == ["flash", "flash-model-m2"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"label": "x"},
        {"label": "", "modelOrAlias": {"model": "M"}},
        {"label": "x", "modelOrAlias": {"model": 0}},
        5,
    ],
)
def test_rows_that_name_no_model_are_left_out(config: object) -> None:
    assert models_in(status(config)) == ()


@pytest.mark.parametrize("answer", [{}, {"userStatus": 1}, {"userStatus": {"cascadeModelConfigData": []}}])
def test_a_status_without_models_has_none(answer: dict[str, object]) -> None:
    assert models_in(answer) == ()


@given(st.text(max_size=30))
def test_an_id_is_never_empty_and_safe_in_an_address(label: str) -> None:
    slug = slug_of(label)
    assert slug
    assert all(character in "abcdefghijklmnopqrstuvwxyz0123456789.-" for character in slug)


def test_being_signed_in_is_said_plainly() -> None:
    assert is_signed_in({"authResult": {"hasValidAuth": True}})
    for answer in ({}, {"authResult": {}}, {"authResult": {"hasValidAuth": "yes"}}, {"authResult": 1}):
        assert not is_signed_in(answer)


# --- what it is asked


def test_a_message_lets_nothing_be_executed() -> None:
    request = json.loads(json.dumps(message_request("c", "hello", FLASH, metadata("2.10.0"))))
    planner = request["cascadeConfig"]["plannerConfig"]
    policy = planner["toolConfig"]["runCommand"]["autoCommandConfig"]["autoExecutionPolicy"]
    assert policy == "CASCADE_COMMANDS_AUTO_EXECUTION_OFF"
    assert planner["conversational"] == {"plannerMode": 2, "agenticMode": False}
    assert planner["requestedModel"] == {"model": "MODEL_PLACEHOLDER_M18"}
    assert request["items"] == [{"text": "hello"}]


def test_a_conversation_has_a_source_and_an_id_of_ours() -> None:
    request = start_request("c", PurePosixPath("/empty"), metadata(None))
    assert (request["cascadeId"], request["source"], request["workspaceUris"]) == ("c", 1, ["file:///empty"])
    assert request["metadata"] == {
        "ideName": "antigravity", "extensionName": "antigravity", "ideVersion": "unknown", "locale": "en",
    }  # fmt: skip


def test_what_asks_for_permission_is_told_no() -> None:
    assert refusal_request("c", "t", 7, ("runCommand",)) == {
        "cascadeId": "c",
        "interaction": {"trajectoryId": "t", "stepIndex": 7, "runCommand": {"confirm": False}},
    }
    assert refusal_request("c", "t", 7, ("askQuestion",)) is None
    assert refusal_request("c", "t", 7, ()) is None
