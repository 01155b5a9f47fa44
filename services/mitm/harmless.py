"""Whatever an observer meets, a bug of its own included, the traffic goes on."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

_Arguments = ParamSpec("_Arguments")
_Observer = TypeVar("_Observer", bound="Fallible")


class Fallible(Protocol):
    """What may have a bug."""

    def failed(self, error: Exception) -> None:
        """A step has raised. Never raises."""


def harmless(
    step: Callable[Concatenate[_Observer, _Arguments], None],
) -> Callable[Concatenate[_Observer, _Arguments], None]:
    """Keep a bug in `step` from the traffic: it is logged, and nothing is read any more."""

    @wraps(step)
    def guarded(self: _Observer, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            step(self, *args, **kwargs)
        except Exception as error:
            self.failed(error)

    return guarded
