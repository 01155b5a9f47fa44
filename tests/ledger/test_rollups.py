"""Adding up: each level has the same sums, and what was not reported is not zero."""

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.entry import ExchangeEntry, ExchangeSeries, Series
from services.ledger.periods import KEPT, KEPT_OF_EXCHANGES, Level, period_of
from services.ledger.rollups import Sum, add_up, add_up_alike, add_up_at, add_up_exchanges
from tests.support.records import measures

SERIES = st.builds(
    Series,
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, "m"]),
    st.none(),
    st.sampled_from([None, 998]),
    st.sampled_from(["ok", "truncated", "no_usage"]),
)
USAGE = st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "x"]), st.integers(-5, 10**12), max_size=3)
# Months apart, or within some tens of minutes.
TIMES = st.integers(10**15, 10**15 + 10**13) | st.integers(10**15, 10**15 + 10**10)
ROWS = st.lists(st.tuples(TIMES, SERIES, USAGE), max_size=30)


@given(ROWS)
def test_every_level_has_the_sums_of_its_rows(rows: list[tuple[int, Series, dict[str, int]]]) -> None:
    """Ten minutes, hours, days and months, for every series and measure; whether or not they share any of these."""
    found = add_up(rows)
    for level in KEPT:
        expected: dict[tuple[int, Series], dict[str, Sum]] = {}
        for at, series, usage in rows:
            sums = expected.setdefault((period_of(level, at), series), {})
            for measure, value in measures(series.outcome, usage):
                sums[measure] = sums.get(measure, Sum(0, 0)).plus(Sum(value, 1))
        of_level = {key[1:]: value for key, value in found.items() if key[0] is level}
        assert of_level == expected
        assert of_level == add_up_at(level, rows)


def test_a_record_says_what_its_counts_are_worth() -> None:
    """A lower bound when it was broken off, unknown when it reported nothing."""
    one = Sum(1, 1)
    assert add_up_alike("ok", [{"input_tokens": 0}]) == {"#responses": one, "input_tokens": Sum(0, 1)}
    assert add_up_alike("truncated", [{"x": 5}]) == {"#responses": one, "#bounds": one, "x": Sum(5, 1)}
    assert add_up_alike("truncated", [{}]) == {"#responses": one, "#unknown": one}
    assert add_up_alike("no_usage", [{}]) == {"#responses": one, "#unknown": one}


def test_a_count_that_was_not_reported_has_no_sum() -> None:
    """Zero that was reported has one."""
    series = Series("p", None, None, None, "ok")
    found = add_up_at(Level.HOUR, [(10**15, series, {"output_tokens": 0}), (10**15, series, {"input_tokens": 3})])
    sums = found[period_of(Level.HOUR, 10**15), series]
    assert (sums["output_tokens"], sums["input_tokens"]) == (Sum(0, 1), Sum(3, 1))
    assert "cost" not in sums


def test_exchanges_are_counted_with_their_bytes() -> None:
    """For every level, down to the hour."""
    series = ExchangeSeries("h", "e", 2)
    entry = ExchangeEntry(at_unix_us=10**15, series=series, bytes_up=2, bytes_down=3)
    found = add_up_exchanges([entry, entry])
    assert found == {(level, period_of(level, 10**15), series): (2, 4, 6) for level in KEPT_OF_EXCHANGES}
