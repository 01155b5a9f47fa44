"""The language server's placeholder names are shown as names of models, the wire's word before the table's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.model_names import CATALOGUE_BYTES_MAX, ModelCatalogueReader, ModelNames
from tests.support.splits import CUTS, cut_at

CATALOGUE = json.dumps(
    {
        "models": {
            "gemini-4-flash": {"model": "MODEL_PLACEHOLDER_M18", "displayName": "Gemini 4 Flash"},
            "gemini-4-flash-alias": {"model": "MODEL_PLACEHOLDER_M18"},
            "claude-opus-5": {"model": "MODEL_PLACEHOLDER_M900", "quotaInfo": {"remainingFraction": 1}},
            "odd": {"model": "not an enum name"},
            "none": {},
            "MODEL_PLACEHOLDER_M5": {"model": "MODEL_PLACEHOLDER_M5"},
        },
        "defaultAgentModelId": "gemini-4-flash",
    }
).encode()
LEARNED = {"MODEL_PLACEHOLDER_M18": "gemini-4-flash", "MODEL_PLACEHOLDER_M900": "claude-opus-5"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("MODEL_PLACEHOLDER_M18", "gemini-3-flash"),
        ("1018", "gemini-3-flash"),
        ("MODEL_CLAUDE_4_5_SONNET", "claude-sonnet-4-5"),
        ("333", "claude-sonnet-4-5"),
        ("MODEL_PLACEHOLDER_M322", "gemini-3.8-flash-tiered"),
        ("MODEL_PLACEHOLDER_M99999", "MODEL_PLACEHOLDER_M99999"),
        ("999", "999"),
        ("gemini-2.5-pro", "gemini-2.5-pro"),
        ("", ""),
    ],
)
def test_the_table_resolves_what_it_knows_and_leaves_the_rest(model: str, name: str) -> None:
    assert ModelNames().resolve(model) == name


@given(CUTS)
def test_a_catalogue_is_learned_however_it_was_cut(cuts: list[int]) -> None:
    reader = ModelCatalogueReader()
    for piece in cut_at(CATALOGUE, cuts):
        reader.feed(piece)
    assert reader.end() == LEARNED


def test_the_wire_counts_more_than_the_table() -> None:
    names = ModelNames()
    names.learn(LEARNED)
    assert names.resolve("MODEL_PLACEHOLDER_M18") == "gemini-4-flash"
    assert names.resolve("1900") == "claude-opus-5"
    assert names.resolve("MODEL_PLACEHOLDER_M26") == "claude-opus-4-6-thinking"
    assert ModelNames().resolve("MODEL_PLACEHOLDER_M18") == "gemini-3-flash", "what one process learned is its own"


def test_the_catalogue_of_the_local_api_is_the_same_inside_response() -> None:
    reader = ModelCatalogueReader()
    reader.feed(b'{"response": ' + CATALOGUE + b"}")
    assert reader.end() == LEARNED


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'{"models": []}', b'{"models": {"a": 1}}', b'{"models": {', b"{,}"]
)
def test_what_is_no_catalogue_teaches_nothing(body: bytes) -> None:
    reader = ModelCatalogueReader()
    reader.feed(body)
    reader.feed(b"")
    assert reader.end() == {}


def test_a_catalogue_beyond_the_limit_teaches_nothing() -> None:
    reader = ModelCatalogueReader()
    reader.feed(b'{"models": {"')
    for _ in range(0, CATALOGUE_BYTES_MAX + 1, 65536):
        reader.feed(b"x" * 65536)
    reader.feed(b'": {"model": "MODEL_X"}}}')
    assert reader.end() == {}


@given(st.binary(max_size=100))
def test_noise_teaches_nothing(noise: bytes) -> None:
    reader = ModelCatalogueReader()
    reader.feed(noise)
    assert reader.end() == {}
