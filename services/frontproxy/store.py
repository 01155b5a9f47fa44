"""
The ledger as frontproxy asks it: read only, on a thread of its own, so that a slow disk holds up no other answer.

Resources: one thread, one connection (services.ledger.store.LedgerReader). A question whose asker has gone is finished
and thrown away.

Raises, wherever it is asked: `LedgerQueryInvalid` for what has no answer, `LedgerUnusable` for a ledger that cannot be
read, has too many questions waiting, or does not answer in time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from services.events.lifecycle import Missing
from services.frontproxy.queries import CompletionsAsked, EventsAsked, ReportAsked
from services.ledger.store import LedgerReader, LedgerUnusable

ANSWER_TIMEOUT_S: Final = 10.0
QUESTIONS_MAX: Final = 64
_Answer = dict[str, object]


class LedgerDesk:
    """Asks the ledger off the event loop, one question after the other."""

    def __init__(self, path: Path) -> None:
        self._reader = LedgerReader(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting = 0
        self._problem: str | None = None

    def missing(self) -> tuple[Missing, ...]:
        """Tell what the last question found wrong with the ledger."""
        return (Missing(what="ledger", detail=self._problem),) if self._problem is not None else ()

    async def report(self, asked: ReportAsked) -> _Answer:
        """Return the usage report."""
        return await self._ask(lambda: self._reader.report(asked.since, asked.until, asked.group_by))

    async def events(self, asked: EventsAsked) -> _Answer:
        """Return records."""
        return await self._ask(lambda: self._reader.events(asked.after, asked.limit))

    async def completions(self, asked: CompletionsAsked) -> _Answer:
        """Return OpenAI's page of buckets."""
        return await self._ask(
            lambda: self._reader.completions(
                asked.start_time,
                asked.end_time,
                asked.bucket_width,
                limit=asked.limit,
                page=asked.page,
                group_by=asked.group_by,
            )
        )

    def close(self) -> None:
        """Close the file, after the question that is being answered."""
        self._thread.shutdown(cancel_futures=True)
        self._reader.close()

    async def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        if self._waiting >= QUESTIONS_MAX:
            raise LedgerUnusable(f"{self._waiting} questions to the ledger are waiting, which is the limit")
        self._waiting += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await asyncio.get_running_loop().run_in_executor(self._thread, question)
        except TimeoutError as error:
            self._problem = f"the ledger did not answer within {ANSWER_TIMEOUT_S:g} s"
            raise LedgerUnusable(self._problem) from error
        except LedgerUnusable as error:
            self._problem = str(error)
            raise
        finally:
            self._waiting -= 1
        self._problem = None
        return answer
