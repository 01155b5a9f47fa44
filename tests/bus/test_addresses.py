"""Endpoints and topics."""

from pathlib import Path

import pytest

from services.bus.addresses import Addresses, topic_word, usage_topic


def test_every_endpoint_is_a_socket_of_its_own_in_the_run_directory() -> None:
    """Two roles on one path would take each other's place without an error."""
    addresses = Addresses(Path("/run/of/ours"))
    endpoints = [getattr(addresses, name) for name, value in vars(Addresses).items() if isinstance(value, property)]
    assert len(set(endpoints)) == len(endpoints) == 6
    assert all(endpoint.startswith("ipc:///run/of/ours/") for endpoint in endpoints)


@pytest.mark.parametrize(
    ("text", "word"),
    [("gcp.gen_ai", "gcp_gen_ai"), ("claude 3\tbeta", "claude_3_beta"), ("", "unknown"), ("gemini-3", "gemini-3")],
)
def test_a_name_is_one_level_of_a_topic(text: str, word: str) -> None:
    """Dots would be borders."""
    assert topic_word(text) == word


def test_the_topic_of_a_record_names_provider_and_model() -> None:
    """An unknown model has a name too."""
    assert usage_topic("gcp.gen_ai", "gemini-2.5-pro") == "usage.gcp_gen_ai.gemini-2_5-pro"
    assert usage_topic("openai", None) == "usage.openai.unknown"
