"""ULIDs."""

from hypothesis import given
from hypothesis import strategies as st

from services.events.identity import UlidSource

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def value_of(ulid: str) -> int:
    value = 0
    for letter in ulid:
        value = value * 32 + ALPHABET.index(letter)
    return value


@given(
    st.binary(min_size=10, max_size=10),
    st.lists(st.integers(0, 2**48 - 2**10), min_size=1, max_size=20),
)
def test_ids_sort_as_they_were_made(randomness: bytes, times_ms: list[int]) -> None:
    """Also within one millisecond, and when the clock goes backwards."""
    source = UlidSource(randomness)
    made = [source.make(now) for now in times_ms]
    assert made == sorted(set(made))
    assert all(len(each) == 26 and set(each) <= set(ALPHABET) for each in made)


@given(st.integers(0, 2**48 - 1))
def test_an_id_begins_with_its_time(now_ms: int) -> None:
    """48 bits of milliseconds (github.com/ulid/spec)."""
    assert value_of(UlidSource(bytes(10)).make(now_ms)) >> 80 == now_ms


@given(st.binary(min_size=10, max_size=10), st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=20).map(sorted))
def test_the_ids_of_a_process_differ_in_time_and_number_alone(randomness: bytes, times_ms: list[int]) -> None:
    """However far apart they are made: the upper 60 random bits stay, the lower 20 count within a millisecond."""
    source, last_ms, number = UlidSource(randomness), -1, 0
    for now_ms in times_ms:
        number = number + 1 if now_ms == last_ms else 0
        last_ms = now_ms
        random_bits = int.from_bytes(randomness) >> 20 << 20
        assert value_of(source.make(now_ms)) == now_ms << 80 | random_bits | number


def test_the_example_of_the_specification() -> None:
    """01ARZ3NDEK is 1469918176 s and 385 ms."""
    assert UlidSource(bytes(10)).make(1_469_918_176_385)[:10] == "01ARYZ6S41"


def test_a_clock_that_stands_still_does_not_end_the_ids() -> None:
    """A million of them in one millisecond borrow the next."""
    source = UlidSource(bytes(10))
    last = ""
    for _ in range((1 << 20) + 5):
        made = source.make(7)
        assert made > last
        last = made
    assert value_of(last) >> 80 == 8


def test_two_processes_have_different_ids() -> None:
    """At the same moment."""
    assert UlidSource(b"0123456789").make(5) != UlidSource(b"1123456789").make(5)
