"""What a metered program is started with."""

import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.environment import (
    LABEL_LETTERS_MAX,
    ClientName,
    client_name,
    foreign_proxy,
    java_variables,
    proxy_address,
    proxy_variables,
    redirected_variables,
    trust_variables,
)


def test_go_reads_our_bundle_and_nothing_else() -> None:
    """SSL_CERT_FILE alone would add the system's directory."""
    variables = trust_variables(Path("/bundle"), Path("/ca"))
    assert (variables["SSL_CERT_FILE"], variables["SSL_CERT_DIR"]) == ("/bundle", "/dev/null")


def test_who_adds_to_its_store_gets_ours_alone_and_who_replaces_it_gets_all() -> None:
    """Node would else read the system's twice, and requests would trust nobody but us."""
    variables = trust_variables(Path("/bundle"), Path("/ca"))
    assert {name for name, value in variables.items() if value == "/ca"} == {"NODE_EXTRA_CA_CERTS", "DENO_CERT"}
    assert variables["REQUESTS_CA_BUNDLE"] == variables["npm_config_cafile"] == "/bundle"


def test_local_ports_are_no_business_of_the_proxy() -> None:
    """In either spelling."""
    variables = proxy_variables("http://label:@127.0.0.1:1")
    assert variables["NO_PROXY"] == variables["no_proxy"] == "localhost,127.0.0.1,::1"
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == "http://label:@127.0.0.1:1"


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters=":"), min_size=1, max_size=64))
def test_a_name_comes_back_from_the_proxy_address(label: str) -> None:
    """Whatever letters it has."""
    parts = urllib.parse.urlsplit(proxy_address(8742, label, "01K"))
    credentials = f"{urllib.parse.unquote(parts.username or '')}:{parts.password}"
    assert (parts.hostname, parts.port) == ("127.0.0.1", 8742)
    cleaned = "".join(letter for letter in label if letter.isprintable())
    assert client_name(credentials) == ClientName(cleaned or None, "01K")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine:", ClientName("mine")),
        ("mine", ClientName("mine")),
        ("mine:01KAS", ClientName("mine", "01KAS")),
        ("mine:not an id", ClientName("mine")),
        ("mine:" + "x" * 65, ClientName("mine")),
        ("my\x00\nown:", ClientName("myown")),
        ("x" * 100, ClientName("x" * LABEL_LETTERS_MAX)),
        (":01K", ClientName(None, "01K")),
        (":", None),
        ("", None),
        ("\x00", None),
    ],
)
def test_a_name_is_cut_to_size(text: str, expected: ClientName | None) -> None:
    """Any local program can say anything."""
    assert client_name(text) == expected


@given(st.text())
def test_any_text_is_a_name_or_none(text: str) -> None:
    """Never an error."""
    found = client_name(text)
    assert found is None or len(found.label or "") <= LABEL_LETTERS_MAX


def test_java_is_told_in_its_own_way() -> None:
    """What the user had set stays in front; the later one counts."""
    options = java_variables(Path("/with space/store.p12"), 8742, "-Xmx1g")["JAVA_TOOL_OPTIONS"]
    assert options.startswith("-Xmx1g -D")
    assert '-Djavax.net.ssl.trustStore="/with space/store.p12"' in options
    assert "-Dhttps.proxyPort=8742" in options
    assert "https.proxy" not in java_variables(Path("/store.p12"), None)["JAVA_TOOL_OPTIONS"]


def test_another_user_gets_no_secret_of_ours() -> None:
    """Its environment stands on sudo's command line."""
    ours = {"ANTHROPIC_API_KEY": "k", "TERM": "xterm", "LC_ALL": "C", "PATH": "/bin", "HOME": "/root"}
    expected = {"TERM": "xterm", "LC_ALL": "C", "PATH": "/bin", "HOME": "/h", "USER": "u", "LOGNAME": "u"}
    assert redirected_variables(ours, "/h", "u") == expected


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "grpc_proxy"])
def test_another_proxy_is_found(name: str) -> None:
    """In every variable that HTTPS goes by; our own is none, whatever its label."""
    assert foreign_proxy({name: "http://proxy.example:3128"}, 8742) == name
    assert foreign_proxy({name: "http://127.0.0.1:3128"}, 8742) == name
    assert foreign_proxy({name: "socks5h://x"}, 8742) == name
    assert foreign_proxy({name: "http://mine:01K@127.0.0.1:8742"}, 8742) is None
    assert foreign_proxy({name: ""}, 8742) is None
    assert foreign_proxy({"http_proxy": "http://proxy.example:3128"}, 8742) is None
