"""
Whose a record is: the language server's label, and the prompt turn that caused it.

Told of the language server's state and of turns as lsrunner says them, and of no clock: times are those in the events.
A record belongs to a turn of its label by conversation id where both have one, by the response ids that the turn named,
else if exactly one turn of that label was under way when its exchange started, or had ended at most `GRACE` before.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, timedelta

from services.events.exchange import UsageMembers
from services.events.lifecycle import LanguageServerState
from services.events.turn import TurnAccepted, TurnDone, TurnFailed
from services.ledger.entry import CallNames, UsageEntry, VerbatimUsage, attributed, call_names

# A language server tidies up after a turn (titles, summaries) with calls of its own.
GRACE = timedelta(seconds=2)
# Turns remembered, and for how long a turn that never ended counts as under way: longer than any turn may take.
TURNS_MAX = 512
TURN_AGE_MAX = timedelta(hours=1)


@dataclass(slots=True)
class _Turn:
    label: str
    started_at: datetime
    ended_at: datetime | None
    conversation_id: str | None
    response_ids: tuple[str, ...]

    def is_under_way_at(self, at: datetime) -> bool:
        if self.ended_at is None:
            return self.started_at <= at <= self.started_at + TURN_AGE_MAX
        return self.started_at <= at <= self.ended_at + GRACE


class Attribution:
    """What is known of turns and of the language server."""

    def __init__(self) -> None:
        self._label_of_uid: dict[int | None, str] = {}
        self._turns: OrderedDict[str, _Turn] = OrderedDict()
        # To find them: those that have not ended; those that have, in the order of their ends; the turn of each answer.
        self._going_on: dict[str, None] = {}
        self._ended: list[tuple[datetime, str]] = []
        self._turn_of_response: dict[tuple[str | None, str | None], str] = {}
        self._labels_of_turns: set[str] = set()

    def hear(self, event: object) -> None:
        """Take note of what lsrunner said; other events, and times that are none, are passed over."""
        match event:
            case LanguageServerState():
                # There is one language server: a uid that it no longer runs as is somebody else's again. One that
                # shares its user with others names itself in its proxy credentials; who does not is somebody else.
                self._label_of_uid = {} if event.way == "connect" else {event.uid: event.label}
            case TurnAccepted():
                self._accept(event)
            case TurnDone() | TurnFailed():
                self._end(event)

    def attribute(self, record: UsageMembers) -> UsageMembers:
        """Return the record with its label and turn, where they are known and not already there."""
        client = record["client"]
        label, uid = client["label"], client["uid"]
        if label is None and uid is not None:
            label = self._label_of_uid.get(uid)
        turn_id = record["turn_id"]
        if not turn_id:
            call = CallNames(record["response_id"], record["conversation_id"], record["timing"]["started_at"])
            turn_id = self._turn_of(label, call) if label in self._labels_of_turns else None
        if label == client["label"] and turn_id == record["turn_id"]:
            return record
        return {**record, "client": {**client, "label": label}, "turn_id": turn_id}

    def attribute_verbatim(self, entry: UsageEntry, record: VerbatimUsage) -> UsageEntry:
        """Return the entry as `attribute` would have it, of a record that was not parsed and has no turn."""
        series = entry.series
        label = series.label
        if label is None:
            label = self._label_of_uid.get(series.uid)
        turn_id = self._turn_of(label, call_names(record)) if label in self._labels_of_turns else None
        if label == series.label and turn_id is None:
            return entry
        return attributed(entry, label, turn_id)

    def _accept(self, event: TurnAccepted) -> None:
        started_at = _moment(event.at)
        known = self._turns.get(event.turn_id)
        if known is not None:
            # Said again because the request was, or because the turn had waited for others and begins only now.
            if started_at is not None and known.ended_at is None:
                known.started_at = max(known.started_at, started_at)
            known.conversation_id = known.conversation_id or event.conversation_id
        elif started_at is not None:
            self._turns[event.turn_id] = _Turn(event.label, started_at, None, event.conversation_id, ())
            self._going_on[event.turn_id] = None
            if len(self._turns) > TURNS_MAX:
                self._forget(*self._turns.popitem(last=False))
            self._labels_of_turns = {turn.label for turn in self._turns.values()}

    def _end(self, event: TurnDone | TurnFailed) -> None:
        turn, ended_at = self._turns.get(event.turn_id), _moment(event.at)
        if turn is None or ended_at is None:
            return
        if turn.ended_at is None:
            turn.ended_at = ended_at
            del self._going_on[event.turn_id]
            insort(self._ended, (ended_at, event.turn_id))
        if isinstance(event, TurnDone):
            self._name_responses(event.turn_id, turn, event.response_ids)
            turn.conversation_id = turn.conversation_id or event.conversation_id

    def _name_responses(self, turn_id: str, turn: _Turn, response_ids: tuple[str, ...]) -> None:
        for each in turn.response_ids:
            if self._turn_of_response.get((turn.label, each)) == turn_id:
                del self._turn_of_response[turn.label, each]
        for each in response_ids:
            self._turn_of_response.setdefault((turn.label, each), turn_id)
        turn.response_ids = response_ids

    def _forget(self, turn_id: str, turn: _Turn) -> None:
        self._name_responses(turn_id, turn, ())
        if turn.ended_at is None:
            del self._going_on[turn_id]
        else:
            del self._ended[bisect_left(self._ended, (turn.ended_at, turn_id))]

    def _turn_of(self, label: str | None, call: CallNames) -> str | None:
        response_id, conversation_id, started = call
        named = self._turn_of_response.get((label, response_id))
        if named is not None:
            return named
        started_at = _moment(started)
        if started_at is None:
            return None
        under_way = self._under_way(label, started_at)
        if conversation_id is not None:
            same = [each for each, turn in under_way.items() if turn.conversation_id == conversation_id]
            if same:
                # Turns of one conversation follow each other: the grace of the last may reach into the next.
                return max(same, key=lambda each: under_way[each].started_at)
            # Turns of other conversations did not cause it.
            under_way = {each: turn for each, turn in under_way.items() if turn.conversation_id is None}
        return self._only(under_way)

    def _under_way(self, label: str | None, at: datetime) -> dict[str, _Turn]:
        # Of the turns that are over, nearly all were long before.
        first = bisect_left(self._ended, (at - GRACE,))
        names = [*self._going_on, *(turn_id for _, turn_id in self._ended[first:])]
        return {
            turn_id: turn
            for turn_id in names
            if (turn := self._turns[turn_id]).label == label and turn.is_under_way_at(at)
        }

    @staticmethod
    def _only(under_way: dict[str, _Turn]) -> str | None:
        # One that is still going on goes before those that are over.
        going_on = [turn_id for turn_id, turn in under_way.items() if turn.ended_at is None]
        candidates = going_on or list(under_way)
        return candidates[0] if len(candidates) == 1 else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    # A time without an offset is no moment, and of the first and last years nothing can be taken and nothing added.
    return moment if moment.tzinfo is not None and MINYEAR < moment.year < MAXYEAR else None
