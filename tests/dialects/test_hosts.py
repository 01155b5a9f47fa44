"""A host name says whose API it is, and only hosts of APIs are worth intercepting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.hosts import INTERCEPT_HOSTS, host_matches, host_name, provider_of


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("cloudcode-pa.googleapis.com", "gcp.gen_ai"),
        ("daily-cloudcode-pa.googleapis.com", "gcp.gen_ai"),
        ("daily-cloudcode-pa.sandbox.googleapis.com", "gcp.gen_ai"),
        ("autopush-cloudcode-pa.sandbox.googleapis.com", "gcp.gen_ai"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("aiplatform.eu.rep.googleapis.com", "gcp.vertex_ai"),
        ("firebasevertexai.googleapis.com", "gcp.vertex_ai"),
        ("API.ANTHROPIC.COM.", "anthropic"),
        ("api.openai.com:443", "openai"),
        ("eu.api.openai.com", "openai"),
        ("example.openai.azure.com", "azure.ai.openai"),
        ("example.openai.azure.us", "azure.ai.openai"),
        ("example.services.ai.azure.com", "azure.ai.inference"),
        ("model.eastus2.models.ai.azure.com", "azure.ai.inference"),
        ("us-east-1.api.x.ai", "x_ai"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "aws.bedrock"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("bedrock-mantle.us-east-1.api.aws", "aws.bedrock"),
        ("bedrock-runtime.us-east-1.api.aws", "aws.bedrock"),
        ("vpce-0a1b-2c3d.bedrock-runtime.us-east-1.vpce.amazonaws.com", "aws.bedrock"),
        ("dbc-0a1b-2c3d.cloud.databricks.com", "databricks"),
        ("adb-1234.5.azuredatabricks.net", "databricks"),
        ("us-south.ml.cloud.ibm.com", "ibm.watsonx.ai"),
        ("gateway-eu.pydantic.dev", "pydantic_gateway"),
        ("127.0.0.1:1234", "self_hosted"),
        ("localhost:11434", "ollama"),
        ("[::1]:11434", "ollama"),
        ("api.example.com:11434", "unknown"),
        ("[::1]:8080", "self_hosted"),
        ("localhost", "self_hosted"),
        ("www.example.com", "unknown"),
        ("api.anthropic.com.evil.example", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_host_names_its_provider(host: str, provider: str) -> None:
    assert provider_of(host) == provider


@pytest.mark.parametrize(
    "host",
    [
        "oauth2.googleapis.com",
        "www.googleapis.com",
        "play.googleapis.com",
        "accounts.google.com",
        "antigravity-unleash.goog",
        "evil.us-aiplatform.googleapis.com",
        "a.b.openai.azure.com",
        "xapi.anthropic.com",
        "api.anthropic.com.evil.example",
        "platform.openai.com",
        "dbc-0a1b-2c3d.cloud.databricks.com",
    ],
)
def test_sign_in_telemetry_and_neighbours_stay_closed(host: str) -> None:
    assert not host_matches(host, INTERCEPT_HOSTS)


def test_a_star_is_a_part_of_one_label() -> None:
    assert host_matches("a-x.example.com", ["*-x.example.com"])
    assert not host_matches("a.b-x.example.com", ["*-x.example.com"])
    assert not host_matches("-x.example.com", ["*-x.example.com"])
    assert not host_matches("aXexample.com", ["a.example.com", "a*"])


@pytest.mark.parametrize(
    ("authority", "name"),
    [("Host.Example:8443", "host.example"), ("[2001:DB8::1]:443", "2001:db8::1"), ("::1", "::1"), ("user@h:1", "h")],
)
def test_ports_and_brackets_are_taken_off(authority: str, name: str) -> None:
    assert host_name(authority) == name


@given(st.text(max_size=40))
def test_any_text_is_some_host(text: str) -> None:
    assert provider_of(text)
    host_matches(text, INTERCEPT_HOSTS)
