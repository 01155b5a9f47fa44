"""Values from JSON are taken for what they are or not at all, and sums that do not add up are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.counts import (
    COUNT_MAX,
    NAME_CHARACTERS_MAX,
    anomalies_of,
    cost_of,
    count_of,
    counts_of,
    error_name_of,
    json_of,
    name_of,
    object_of,
    objects_of,
    without_absent,
)
from services.ledger import entry


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, "\xc3\xa9"]}', {"a": [1, 2.5, "\u00e9"]}),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"x\ud83d"', "x\ufffd"),
        (b'"x\xff"', "x\ufffd"),
        (b"[NaN, Infinity, -Infinity, 1e999]", [None] * 4),
    ],
)
def test_json_is_read_leniently(text: bytes, value: object) -> None:
    assert json_of(text) == value


@pytest.mark.parametrize("text", [b"", b"[DONE]", b"{", b'{"a": 1,}', b"[" * 100_000, b"NaN " * 2, b"<html>"])
def test_what_is_no_json_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        json_of(text)


def test_a_cost_is_a_number() -> None:
    assert [cost_of(value) for value in (0, 0.25, "1", {"total_cost": 1}, True, None)] == [0, 0.25] + [None] * 4
    assert [cost_of(value) for value in (1e300, -1e300, float("nan"), 10**30)] == [None] * 4


def test_what_is_a_count_here_is_one_to_the_ledger() -> None:
    """Also where several are added up: a record that the ledger refuses is a record that is lost."""
    assert 100 * COUNT_MAX <= entry.COUNT_MAX


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (0, 0),
        (12, 12),
        (12.0, 12),
        (-1, -1),
        (12.5, None),
        (True, None),
        ("12", None),
        (None, None),
        ([], None),
        (float("inf"), None),
        (float("nan"), None),
        (COUNT_MAX + 1, None),
        (1e300, None),
    ],
)
def test_a_count_is_a_whole_number(value: object, count: int | None) -> None:
    assert count_of(value) == count


@pytest.mark.parametrize(
    ("value", "name"), [("m", "m"), ("", None), (5, None), (None, None), ("x" * (NAME_CHARACTERS_MAX + 1), None)]
)
def test_a_name_is_a_text_of_reasonable_length(value: object, name: str | None) -> None:
    assert name_of(value) == name


def test_objects_are_objects() -> None:
    assert object_of([]) == {}
    assert objects_of([{"a": 1}, 2, None, {}]) == [{"a": 1}, {}]
    assert objects_of({"a": 1}) == []


def test_absent_is_not_zero() -> None:
    assert without_absent({"a": 0, "b": None, "c": 1}) == {"a": 0, "c": 1}


@pytest.mark.parametrize(
    ("counts", "anomalies"),
    [
        ({}, ()),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, ()),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 16}, ("total_mismatch",)),
        ({"input_tokens": 10, "total_tokens": 16}, ()),
        ({"input_tokens": 10, "cache_read_input_tokens": 6, "cache_write_input_tokens": 4}, ()),
        ({"input_tokens": 10, "cache_read_input_tokens": 6, "cache_write_input_tokens": 5}, ("cache_exceeds_input",)),
        ({"cache_read_input_tokens": 6}, ()),
        ({"output_tokens": 10, "reasoning_output_tokens": 11}, ("reasoning_exceeds_output",)),
        ({"input_tokens": 10, "text_input_tokens": 6, "video_input_tokens": 5}, ("modalities_exceed_input",)),
        ({"output_tokens": 10, "image_output_tokens": 11}, ("modalities_exceed_output",)),
        ({"output_tokens": -1}, ("negative_count",)),
    ],
)
def test_broken_sums_are_named(counts: dict[str, int | float], anomalies: tuple[str, ...]) -> None:
    assert anomalies_of(counts) == anomalies


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ({"code": 503, "status": "UNAVAILABLE"}, "UNAVAILABLE"),
        ({"type": "api_error", "code": "x"}, "api_error"),
        ({"code": "x"}, "x"),
        ({"code": 429}, "429"),
        ({}, None),
        ("text", None),
    ],
)
def test_an_error_has_the_providers_own_name(error: object, name: str | None) -> None:
    assert error_name_of(error) == name


@given(st.lists(st.none() | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text(max_size=3)))
def test_several_values_are_taken_as_each_of_them(values: list[object]) -> None:
    """`counts_of` is `count_of`, faster."""
    assert counts_of(values) == tuple(map(count_of, values))
