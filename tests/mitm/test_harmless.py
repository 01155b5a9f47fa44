"""A step that raises is told to its owner and to nobody else."""

from services.mitm.harmless import harmless


class _Observer:
    def __init__(self) -> None:
        self.taken: list[tuple[int, int]] = []
        self.errors: list[Exception] = []

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    @harmless
    def step(self, number: int, *, divisor: int = 1) -> None:
        """Divide."""
        self.taken.append((number // divisor, divisor))


def test_a_step_that_works_is_as_if_it_were_not_guarded() -> None:
    """With whatever arguments."""
    observer = _Observer()
    observer.step(4)
    observer.step(4, divisor=2)
    assert observer.taken == [(4, 1), (2, 2)] and observer.errors == []
    assert observer.step.__doc__ == "Divide."


def test_a_step_that_raises_does_not() -> None:
    """Its owner is told."""
    observer = _Observer()
    observer.step(4, divisor=0)
    (error,) = observer.errors
    assert isinstance(error, ZeroDivisionError)
