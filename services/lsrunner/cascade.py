"""
What the Antigravity language server says about a conversation becomes the deltas and the end of one turn.

In: `Update`s, made from the messages of `StreamAgentStateUpdates` or from whole trajectories (`GetCascadeTrajectory`);
each names steps by index and gives them whole, so that the two can be mixed and repeated. Out: new text, thinking and
tool titles, and at last a stop reason or a failure, with the provider's response ids.

Rules, all observed on real servers rather than promised by the vendor:

* Text grows in `plannerResponse.modifiedResponse`; `response` appears when the step is done, and not in every stream.
* Right after a message the status may still be IDLE: a turn has begun at RUNNING, or at a step that answers.
* IDLE ends a turn. With sub-agents it comes early; then `fullyIdle` decides where it is ever said.
* An ERROR_MESSAGE step is passing while the turn runs (the server retries by itself); it counts if nothing follows it.
* 64-bit numbers are strings, zeros and false are absent, enums are names or numbers.

Whatever has an unexpected shape is taken as absent, never as an error: these messages change from build to build.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.events.turn import DeltaKind, FailureKind, StopReason

# Enum numbers of the vendor's protocol buffers, for builds that write numbers.
_RUN_STATUS = {1: "IDLE", 2: "RUNNING", 3: "CANCELING", 4: "BUSY"}
_STEP_STATUS = {
    1: "PENDING",
    2: "RUNNING",
    3: "DONE",
    4: "INVALID",
    5: "CLEARED",
    6: "CANCELED",
    7: "ERROR",
    8: "GENERATING",
    9: "WAITING",
    11: "QUEUED",
    12: "INTERRUPTED",
}
_STEP_TYPE = {
    2: "FINISH",
    5: "CODE_ACTION",
    7: "GREP_SEARCH",
    8: "VIEW_FILE",
    9: "LIST_DIRECTORY",
    14: "USER_INPUT",
    15: "PLANNER_RESPONSE",
    17: "ERROR_MESSAGE",
    21: "RUN_COMMAND",
    23: "CHECKPOINT",
    31: "READ_URL_CONTENT",
    33: "SEARCH_WEB",
    38: "MCP_TOOL",
    81: "TASK_BOUNDARY",
    82: "NOTIFY_USER",
    90: "EPHEMERAL_MESSAGE",
    91: "GENERATE_IMAGE",
    98: "CONVERSATION_HISTORY",
    101: "SYSTEM_MESSAGE",
    116: "KI_INSERTION",
    127: "INVOKE_SUBAGENT",
    132: "GENERIC",
}
_STOP_REASON = {2: "STOP_PATTERN", 3: "MAX_TOKENS", 10: "FUNCTION_CALL", 11: "CONTENT_FILTER", 13: "ERROR"}

# Steps that prepare or accompany an answer; anything else that is no planner's response is a tool at work.
_PREPARATION = frozenset({"USER_INPUT", "CONVERSATION_HISTORY", "EPHEMERAL_MESSAGE", "SYSTEM_MESSAGE", "KI_INSERTION"})
_SILENT = _PREPARATION | {"PLANNER_RESPONSE", "ERROR_MESSAGE", "CHECKPOINT", "FINISH", "TASK_BOUNDARY", "NOTIFY_USER"}
_STOPS = {
    "STOP_PATTERN": StopReason.END,
    "MAX_TOKENS": StopReason.LENGTH,
    "CONTENT_FILTER": StopReason.REFUSED,
    "CLIENT_CANCELED": StopReason.CANCELLED,
}
# Stop reasons after which there is no answer worth the name.
_FAILED_STOPS = frozenset(
    {"ERROR", "IMPROPER_FORMAT", "CLIENT_TOOL_PARSE_ERROR", "CLIENT_STREAM_ERROR", "CLIENT_LOOPING"}
)
_TOOL_TITLE_LENGTH_MAX = 80
_MESSAGE_LENGTH_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """
    News of a conversation.

    Attributes:
        status: `IDLE`, `RUNNING`, …; None when it was not said.
        fully_idle: None when it was not said; protocol buffers do not say false.
        steps: By index in the trajectory, each whole.
        length: Of the trajectory; None when it was not said.
    """

    status: str | None = None
    fully_idle: bool | None = None
    steps: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    length: int | None = None
    trajectory_id: str | None = None


def update_in_stream(message: object) -> Update:
    """Read one message of `StreamAgentStateUpdates`."""
    update = _object(_object(message).get("update"))
    changed = _object(_object(update.get("mainTrajectoryUpdate")).get("stepsUpdate"))
    indices = [number for number in map(_number, _list(changed.get("indices"))) if number is not None]
    return Update(
        status=_word(update.get("status"), _RUN_STATUS, "STATUS_"),
        fully_idle=True if update.get("fullyIdle") is True else None,
        steps={index: _object(step) for index, step in zip(indices, _list(changed.get("steps")), strict=False)},
        length=_number(changed.get("totalLength")),
        trajectory_id=_text(update.get("trajectoryId")) or None,
    )


def update_in_trajectory(answer: object) -> Update:
    """Read an answer of `GetCascadeTrajectory`."""
    trajectory = _object(_object(answer).get("trajectory"))
    steps = {index: _object(step) for index, step in enumerate(_list(trajectory.get("steps")))}
    length = _number(_object(answer).get("numTotalSteps"))
    return Update(
        status=_word(_object(answer).get("status"), _RUN_STATUS, "STATUS_"),
        steps=steps,
        length=len(steps) if length is None else length,
        trajectory_id=_text(trajectory.get("trajectoryId")) or None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New text of one kind."""

    kind: DeltaKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A step that waits for a person: `kinds` are the names of what it wants, such as `runCommand`."""

    step: int
    trajectory_id: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a turn has no answer, for people; `status` is the provider's HTTP status where it told one."""

    kind: FailureKind
    message: str
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn ended: either a reason or a failure, and the provider's responses that it used."""

    stop_reason: StopReason | None
    failure: Failure | None
    response_ids: tuple[str, ...]


class TurnReader:
    """
    Reads one turn of a conversation.

    Args:
        first_step: Length of the trajectory before the message was sent; earlier steps are none of its business.
    """

    __slots__ = (
        "_begun",
        "_first_step",
        "_fully_idle",
        "_said",
        "_status",
        "_steps",
        "_tells_fully_idle",
        "_trajectory",
    )

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._status: str | None = None
        self._begun = False
        self._fully_idle = False
        self._tells_fully_idle = False
        self._steps: dict[int, Mapping[str, object]] = {}
        # (step, kind) -> what has been said of it.
        self._said: dict[tuple[int, DeltaKind], str] = {}
        self._trajectory = ""

    def __repr__(self) -> str:
        stand = "over" if self.seems_over else "begun" if self._begun else "waiting"
        return f"<TurnReader {stand}, {self._status}, {len(self._steps)} steps>"

    def feed(self, update: Update) -> list[Delta]:
        """Take news; return what is new in the answer, in order."""
        self._trajectory = update.trajectory_id or self._trajectory
        if update.status is not None:
            self._status = update.status
            self._fully_idle = update.fully_idle is True
            self._tells_fully_idle = self._tells_fully_idle or self._fully_idle
        deltas: list[Delta] = []
        for index in sorted(update.steps):
            if index >= self._first_step:
                self._steps[index] = update.steps[index]
                deltas += self._news_of(index)
        if self._status not in (None, "IDLE") or any(self._type(i) not in _PREPARATION for i in self._steps):
            self._begun = True
        return deltas

    @property
    def has_begun(self) -> bool:
        """Whether the server has taken up the message."""
        return self._begun

    @property
    def has_steps(self) -> bool:
        """Whether the message has become a part of the conversation, answered or not."""
        return bool(self._steps)

    @property
    def seems_over(self) -> bool:
        """
        Whether the turn has ended, as far as this has been told.

        A stream may say IDLE before the last words: ask for the trajectory once more, feed it, and look again.
        """
        if not self._begun or self._status != "IDLE":
            return False
        has_subagents = any(self._type(index) == "INVOKE_SUBAGENT" for index in self._steps)
        return not (has_subagents and self._tells_fully_idle and not self._fully_idle)

    @property
    def waiting(self) -> Waiting | None:
        """The first step that waits for a person."""
        for index in sorted(self._steps):
            if self._step_status(index) == "WAITING":
                wanted = _object(self._steps[index].get("requestedInteraction"))
                return Waiting(step=index, trajectory_id=self._trajectory, kinds=tuple(sorted(wanted)))
        return None

    def ending(self) -> Ending:
        """Say how the turn ended; only sensible once it is over."""
        last = next((i for i in sorted(self._steps, reverse=True) if self._decides(i)), None)
        stop_reason: StopReason | None = None
        failure: Failure | None = None
        if last is None:
            failure = Failure(kind=FailureKind.UPSTREAM, message="the language server ended the turn without an answer")
        elif self._type(last) == "ERROR_MESSAGE":
            failure = _failure_in(_object(_object(self._steps[last].get("errorMessage")).get("error")))
        else:
            stop_reason, failure = self._stop_of(last)
        return Ending(stop_reason=stop_reason, failure=failure, response_ids=self._response_ids())

    def _decides(self, index: int) -> bool:
        return self._type(index) in ("PLANNER_RESPONSE", "ERROR_MESSAGE")

    def _stop_of(self, index: int) -> tuple[StopReason | None, Failure | None]:
        if self._step_status(index) in ("CANCELED", "INTERRUPTED"):
            return StopReason.CANCELLED, None
        reason = _word(
            _object(self._steps[index].get("plannerResponse")).get("stopReason"), _STOP_REASON, "STOP_REASON_"
        )
        if reason in _FAILED_STOPS:
            words = reason.lower().replace("_", " ")
            return None, Failure(kind=FailureKind.UPSTREAM, message=f"the model's answer broke off: {words}")
        return _STOPS.get(reason or "", StopReason.END), None

    def _news_of(self, index: int) -> list[Delta]:
        kind = self._type(index)
        if kind == "PLANNER_RESPONSE":
            planner = _object(self._steps[index].get("plannerResponse"))
            text = _text(planner.get("modifiedResponse")) or _text(planner.get("response"))
            return [
                *self._growth(index, DeltaKind.THINKING, _text(planner.get("thinking"))),
                *self._growth(index, DeltaKind.TEXT, text),
            ]
        if kind in _SILENT or (index, DeltaKind.TOOL) in self._said:
            return []
        title = _tool_title(kind, self._steps[index])
        self._said[index, DeltaKind.TOOL] = title
        return [Delta(kind=DeltaKind.TOOL, text=title)]

    def _growth(self, index: int, kind: DeltaKind, text: str) -> list[Delta]:
        said = self._said.get((index, kind), "")
        if text == said or (not text.startswith(said) and self._step_status(index) == "GENERATING"):
            # What was said cannot be unsaid: a text that is being rewritten is waited for.
            return []
        new = text[_common_length(said, text) :]
        if not new:
            return []
        self._said[index, kind] = text
        if not said and any(i != index and k is kind for i, k in self._said):
            new = "\n\n" + new  # another answer of the same turn, after a tool
        return [Delta(kind=kind, text=new)]

    def _type(self, index: int) -> str:
        return _word(self._steps[index].get("type"), _STEP_TYPE, "STEP_TYPE_") or "UNKNOWN"

    def _step_status(self, index: int) -> str | None:
        return _word(self._steps[index].get("status"), _STEP_STATUS, "STATUS_")

    def _response_ids(self) -> tuple[str, ...]:
        """Collect response ids; retries that merely repeat a step's usage collapse with it."""
        found: dict[str, None] = {}
        for index in sorted(self._steps):
            metadata = _object(self._steps[index].get("metadata"))
            retries = [_object(_object(retry).get("usage")) for retry in _list(metadata.get("retryInfos"))]
            for usage in (*retries, _object(metadata.get("modelUsage"))):
                response_id = _text(usage.get("responseId"))
                if response_id:
                    found[response_id] = None
        return tuple(found)


def _tool_title(kind: str, step: Mapping[str, object]) -> str:
    """Name a tool for people: `run command`, or what a generic step calls itself."""
    if kind == "GENERIC":
        generic = _object(step.get("generic"))
        kind = next(filter(None, (_text(generic.get(name)) for name in ("toolName", "name", "title"))), "tool")
    return kind.lower().replace("_", " ")[:_TOOL_TITLE_LENGTH_MAX]


def _failure_in(error: Mapping[str, object]) -> Failure:
    """Read the error of an ERROR_MESSAGE step; its full text holds headers and is left alone."""
    status = _number(error.get("errorCode"))
    short = next(
        filter(None, (_text(error.get(name)) for name in ("shortError", "userErrorMessage", "modelErrorMessage"))),
        "no reason given",
    )
    message = f"the provider refused: {short}"
    for detail in _list(error.get("rpcErrorDetails")):
        message += _hint_in(_text(detail))
    kind = FailureKind.NOT_READY if status == 401 or "not logged in" in short.lower() else FailureKind.UPSTREAM
    valid = status if status is not None and 100 <= status <= 599 else None
    return Failure(kind=kind, message=message[:_MESSAGE_LENGTH_MAX], status=valid)


# What a person has to do about it, by the reason in the error's details.
_HINTS = {
    "VALIDATION_REQUIRED": "; the account has to be validated with the vendor",
    "TOS_VIOLATION": "; the vendor sees a breach of its terms of service",
    "SUBSCRIPTION_REQUIRED": "; the account lacks a subscription",
    "QUOTA_EXHAUSTED": "; the account's quota is used up",
}


def _hint_in(detail: str) -> str:
    return next((hint for reason, hint in _HINTS.items() if f'"{reason}"' in detail), "")


def _common_length(one: str, other: str) -> int:
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _word(value: object, numbers: Mapping[int, str], marker: str) -> str | None:
    """Read an enum: by number, or by name without whatever the vendor puts before it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return numbers.get(value, f"NUMBER_{value}") if value else None
    return value.rpartition(marker)[2] if isinstance(value, str) and value else None


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else None
