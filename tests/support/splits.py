"""Ways in which TCP may cut a body."""

import random
from collections.abc import Iterator

from hypothesis import strategies as st


def every_split(body: bytes) -> Iterator[list[bytes]]:
    """Yield `body` whole, byte by byte, and cut in two at each position."""
    yield [body]
    yield [body[i : i + 1] for i in range(len(body))]
    yield from ([body[:cut], body[cut:]] for cut in range(1, len(body)))


def random_splits(body: bytes, count: int, seed: int = 0) -> Iterator[list[bytes]]:
    """Yield `count` splits into pieces of random sizes, the same ones in every run."""
    chance = random.Random(f"{seed}/{len(body)}")
    for _ in range(count):
        largest = chance.choice((3, 20, 200, 2000, 20000))
        pieces, position = [], 0
        while position < len(body):
            size = chance.randint(1, largest)
            pieces.append(body[position : position + size])
            position += size
        yield pieces


def cut_at(body: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `body` at the positions `cuts`, which may repeat and may lie outside."""
    edges = sorted({0, len(body), *(cut for cut in cuts if 0 < cut < len(body))})
    return [body[start:end] for start, end in zip(edges, edges[1:], strict=False)]


CUTS = st.lists(st.integers(min_value=1, max_value=2000), max_size=12)
