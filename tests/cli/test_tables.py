"""Usage reports, laid out for people."""

from services.cli.tables import columns, shown, usage_table

REPORT = {
    "totals": {"requests": 3, "usage": {"input_tokens": 1514, "output_tokens": 77}, "outcomes": {"ok": 3}},
    "by_model": [
        {
            "model": "gemini-3-flash",
            "provider": "gcp.gen_ai",
            "requests": 2,
            "usage": {"input_tokens": 1514, "output_tokens": 77, "cache_read_input_tokens": 0},
            "outcomes": {"ok": 2},
        },
        {"model": "tab-model", "provider": "gcp.gen_ai", "requests": 1, "usage": {}, "outcomes": {"ok": 1}},
    ],
}


def test_a_row_per_model_and_the_totals_last() -> None:
    """Counts that nobody reported are `-`, those reported as none are 0."""
    assert usage_table(REPORT).splitlines() == [
        "model           provider    requests  input  cached  output  reasoning",
        "gemini-3-flash  gcp.gen_ai         2  1,514       0      77          -",
        "tab-model       gcp.gen_ai         1      -       -       -          -",
        "all                                3  1,514       -      77          -",
    ]


def test_what_the_sums_leave_open_is_said() -> None:
    """Bounds and unknowns are named below the table, never counted as zero."""
    totals = REPORT["totals"] | {"bounds": 2, "unknown": 4}
    assert usage_table(REPORT | {"totals": totals}).splitlines()[-1] == (
        "2 broken off, counted up to there; 4 without a count, not in the sums"
    )


def test_an_empty_ledger_is_an_empty_table() -> None:
    """Nothing was spent: one row of totals."""
    table = usage_table({"totals": {"requests": 0, "usage": {}, "outcomes": {}}, "by_model": []})
    assert table.splitlines()[-1].split() == ["all", "0", "-", "-", "-", "-"]


def test_a_model_without_a_name_is_unknown() -> None:
    """A record may say neither model."""
    row = {"model": None, "provider": None, "requests": 1, "usage": {}, "outcomes": {}}
    table = usage_table({"totals": row, "by_model": [row]})
    assert table.splitlines()[1].split()[:2] == ["unknown", "-"]


def test_numbers_stand_under_each_other() -> None:
    """Two columns of words to the left, numbers to the right."""
    assert columns(["a", "b", "n"], [["long", "x", "5"], ["s", "y", "1234"]]) == (
        "a     b     n\nlong  x     5\ns     y  1234"
    )


def test_counts_may_be_fractions() -> None:
    """Cost and credits are no whole numbers."""
    assert [shown(None), shown(0), shown(1234567), shown(0.25)] == ["-", "0", "1,234,567", "0.25"]
