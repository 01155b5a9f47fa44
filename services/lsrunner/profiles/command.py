"""
Any program, metered: it is started and watched, and answers no turns.

Its name is `command`; the program and its arguments are `[lsrunner] command`. It is ready as soon as the guard has
started it, and reads nothing: its standard input is /dev/null.
"""

from typing import ClassVar

from services.events.lifecycle import OfferedModel
from services.events.turn import FailureKind
from services.lsrunner.profiles import Child, Launch, Place, Report, Turn, TurnRefused, TurnResult


class CommandProfile:
    """See the module."""

    NAME: ClassVar[str] = "command"
    accepts_turns = False
    turns_at_once = 1

    def __init__(self, place: Place) -> None:
        self._command = place.settings.command

    def launch(self) -> Launch:
        """Start what the user said."""
        return Launch(program=self._command)

    async def ready(self, child: Child, report: Report) -> tuple[OfferedModel, ...]:
        """Wait until the program runs."""
        await child.started()
        return ()

    async def answer(self, turn: Turn) -> TurnResult:
        """Refuse: nobody knows how to speak to it."""
        raise TurnRefused(
            FailureKind.INVALID, "the profile command runs a program and meters it; it answers no prompts"
        )

    async def close(self) -> None:
        """Hold nothing."""
