"""
Background responses: which later report of a past OpenAI response is its first, and thus has to be counted.

A response that was asked for with `background: true` answers at once and without usage; so does one whose stream broke
off. The counts come with a `GET /responses/{id}`, perhaps after many that say "in progress", and again with each later
one. So a report counts if its response is one that this process saw without counts, and counts once. Of responses that
it never saw nothing is counted: they may have been counted elsewhere.

Limits  The newest RESPONSES_MAX responses are remembered.
"""

from dataclasses import replace

from services.events.usage import Outcome, ResponseUsage

RESPONSES_MAX = 1024


class BackgroundResponses:
    """Remembers responses that have not reported yet."""

    def __init__(self) -> None:
        self._awaited: dict[str, ResponseUsage] = {}

    def note(self, usage: ResponseUsage) -> None:
        """Take in the record of a response of the dialect openai-responses."""
        if usage.response_id is None or usage.counts or usage.outcome not in (Outcome.NO_USAGE, Outcome.TRUNCATED):
            return
        self._awaited[usage.response_id] = usage
        if len(self._awaited) > RESPONSES_MAX:
            del self._awaited[next(iter(self._awaited))]

    def first_report(self, usage: ResponseUsage) -> ResponseUsage | None:
        """
        Return the record to publish for what a retrieval said, or None if it is to be ignored.

        Args:
            usage: What `retrieval_reader` read. The request's own words are those of the first request.
        """
        if not usage.counts or usage.outcome is Outcome.TRUNCATED or usage.response_id not in self._awaited:
            return None
        first = self._awaited.pop(usage.response_id)
        return replace(usage, request_model=first.request_model, conversation_id=first.conversation_id)
