"""
Google's `generateContent` and `streamGenerateContent`: the Gemini API, and Vertex AI with Google's own models.

Source     `googleapis/python-genai:google/genai/types.py`, `GenerateContentResponseUsageMetadata`; counted over 1,699
           recordings, in all of which the sum below was exact.
Framing    An event stream with `alt=sse`, else one JSON array whose elements arrive one by one; one object for the
           call that does not stream. The model is in the path.

Counts     promptTokenCount          prompt, cached content included
           cachedContentTokenCount   part of the prompt
           toolUsePromptTokenCount   results of server-side tools fed back; beside the prompt
           candidatesTokenCount      answer, thinking excluded
           thoughtsTokenCount        thinking
           totalTokenCount           prompt + tool use + candidates + thoughts

           So input = prompt + tool use, output = candidates + thoughts. JSON made from protobuf drops zeros: beside any
           count a missing prompt or candidates count is 0. The modality lists need not add up to their count.

Replace    Counts are cumulative and the last object that has any is right as a whole. Never add, take the larger, or
           merge: prompts shrink (169 -> 79), and a last object may rightly lack what an earlier one had. An object
           without counts (`{"trafficType": "ON_DEMAND"}`, on Vertex) neither erases nor counts.
End        A finished stream names a `finishReason`, or blocks the prompt; counts may come in an event behind it, so
           that a transfer that broke off there is not complete.
Enums      May be numbers (`enum-encoding=int`). What is not in the tables passes through.
"""

import re
from typing import Any, ClassVar

from orjson import JSONDecodeError, dumps, loads

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader, EventReader
from services.dialects.counts import (
    COUNT_MAX,
    MODALITIES,
    anomalies_of,
    count_of,
    counts_of,
    error_name_of,
    json_of,
    json_or_none,
    name_of,
    object_of,
    objects_of,
)
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, ResponseReader
from services.dialects.hosts import provider_of
from services.dialects.request_body import path_alone
from services.events.usage import Counts, Outcome, ResponseUsage

NAME = "google-generate-content"
OPERATION = "generate_content"

COUNT_FIELDS = (
    "totalTokenCount",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "cachedContentTokenCount",
    "toolUsePromptTokenCount",
)

_USUAL_COUNTS = range(COUNT_MAX + 1)

# Where Gemini and Vertex number alike; beyond these they differ, and the number itself is the name.
FINISH_REASONS = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION", 5: "OTHER"}
BLOCK_REASONS = {1: "SAFETY", 2: "OTHER", 3: "BLOCKLIST", 4: "PROHIBITED_CONTENT", 5: "IMAGE_SAFETY"}
MODALITY_NUMBERS = {1: "text", 2: "image", 3: "video", 4: "audio", 5: "document"}

# List of a usage object -> what its modalities are parts of.
MODALITY_LISTS = {
    "promptTokensDetails": "input_tokens",
    "toolUsePromptTokensDetails": "input_tokens",
    "candidatesTokensDetails": "output_tokens",
    "cacheTokensDetails": "cache_read_input_tokens",
}
_MODALITY_FIELDS = frozenset(MODALITY_LISTS)
_COUNT_FIELDS = frozenset(COUNT_FIELDS)
_TIER_FIELDS = frozenset(("serviceTier", "trafficType"))
_MODALITY_MEMBERS = frozenset(("modality", "tokenCount"))
_NUMBERS = frozenset((int,))
_NAME_LETTERS_MAX = 64

# Looking at a message costs two or three searches in its bytes, parsing it a little more as long as it is short; in a
# long one the searches take longer than orjson does. Measured with bench/dialects.py.
WORTH_LOOKING_MESSAGES = 3
WORTH_LOOKING_BYTES = 800

# JSON may spell any letter as an escape, `\u0066inishReason`; all letters have numbers below 0x80.
ESCAPED_LETTER = b"\\u00"

# No request can ask for more answers than a handful.
CANDIDATES_MAX = 128

# Model calls that spend and that nobody here reads yet; the same paths with other verbs.
UNREAD_OPERATIONS = {
    "asyncBatchEmbedContent": "embeddings",
    "predictLongRunning": "predict",
    "batchGenerateContent": OPERATION,
}
FREE_OPERATIONS = frozenset({"countTokens", "computeTokens", "batchCountTokens"})

# Lists and stores of the Gemini API; their paths have no verb.
_FREE_PATH = re.compile(r"(?:/upload)?/v1\w*/(models|tunedModels|files|cachedContents|operations)(?:/[^:]*)?")
_MODEL_PATH = re.compile(r"/(?:models|tunedModels|endpoints)/([^/]+):(\w+)/?\Z")


class GenerateContentTally:
    """What one answer said so far."""

    # With these a message says more than counts: `finishReason` and `blockReason`, and an error.
    TELLING_WORDS: ClassVar[tuple[bytes, ...]] = (b'Reason"', b'"error"')
    # The member of a wrapper that the answer stands in, and those of wrapper and answer that say more than counts.
    ANSWER_MEMBER: ClassVar[str | None] = None
    TELLING_MEMBERS: ClassVar[frozenset[str]] = frozenset(("error", "promptFeedback"))

    def __init__(self, call: Call, facts: RequestFacts) -> None:
        self._call = call
        self._facts = facts
        self._usage: dict[str, object] = {}  # the last object that had counts, whole
        self._tier: str | None = None  # of the last object without counts, before there is one with
        self._model: str | None = None
        self._response_id: str | None = None
        self._is_named = False  # all names that are looked for are known
        # Only wrappers have these.
        self._trace_id: str | None = None
        self._credits: int | float | None = None
        self._finish_reasons: dict[int, str] = {}
        self._block_reason: str | None = None
        self.error_type: str | None = None

    @property
    def is_blocked(self) -> bool:
        return self._block_reason is not None

    @property
    def has_ended(self) -> bool:
        return bool(self._finish_reasons) or self.is_blocked

    def worth_parsing(self, texts: list[bytes]) -> list[bytes]:
        """
        Leave out what stands before counts that replace it, and says nothing else.

        That holds once model and ids are known, if the last message has counts, and for those before it in which no
        telling word can be found, nor an escape that could spell one.
        """
        if len(texts) < WORTH_LOOKING_MESSAGES or not self._is_named:
            return texts
        earlier = b"".join(texts[:-1])
        if len(earlier) > WORTH_LOOKING_BYTES * len(texts) or not self._has_counts_in(texts[-1]):
            return texts
        if not self._may_tell(earlier):
            return texts[-1:]
        return [*filter(self._may_tell, texts[:-1]), texts[-1]]

    def read(self, message: dict[str, object]) -> bool:
        return self._read_response(message)

    def event_reader(self) -> EventReader:
        """
        Return what reads the text of an event that came alone, as `read` does its message; see `AnswerReader`.

        Nearly all events of an answer bring text and counts, and nothing else that is not known by then: these are told
        in one go, and journaled as the provider said them (`counts_said`): most are replaced before anybody asks for
        them. What has another shape raises or falls through.
        """
        answer_member, telling_members = self.ANSWER_MEMBER, self.TELLING_MEMBERS

        def read_event(text: bytes) -> bytes | None:
            message: Any = None
            try:
                message = answer = loads(text)
                if self._is_named and telling_members.isdisjoint(message):
                    if answer_member is not None:
                        answer = message[answer_member]
                    usage = answer["usageMetadata"]
                    total = usage["totalTokenCount"]
                    if type(total) is int and total in _USUAL_COUNTS and telling_members.isdisjoint(answer):
                        [candidate] = answer["candidates"]
                        if "finishReason" not in candidate and _has_only_counts(usage):
                            if usage == self._usage:
                                return None
                            members = dumps({"usage": [usage, self._credits], "response_model": self._model})
                            self._usage = usage
                            return members
            except JSONDecodeError:
                message = json_or_none(text)  # what only the strict parser refuses
            except (LookupError, TypeError, ValueError):
                pass
            if type(message) is dict and self.read(message):
                return dumps({"usage": self.counts(), "response_model": self._model})
            return None

        return read_event

    def _read_response(self, message: dict[str, object]) -> bool:
        if not self._is_named:
            self._read_names(message)
        candidates = message.get("candidates")
        if type(candidates) is list:
            self._read_candidates(candidates)
        if "promptFeedback" in message:
            self._read_prompt_feedback(message["promptFeedback"])
        if "error" in message:
            self.fail(message["error"])
        usage = message.get("usageMetadata")
        return type(usage) is dict and self._read_usage(usage)

    def _read_names(self, message: dict[str, object]) -> None:
        self._model = self._model or name_of(message.get("modelVersion"))
        self._response_id = self._response_id or name_of(message.get("responseId"))
        self._is_named = self._knows_names()

    def counts(self) -> Counts:
        return _counts_of(self._usage, self._credits)

    def response_model(self) -> str | None:
        return self._model

    def fail(self, error: object) -> None:
        if error:
            self.error_type = error_name_of(error) or "error"

    def record(self, outcome: Outcome, reason: str | None = None) -> ResponseUsage:
        counts = self.counts()
        return ResponseUsage(
            outcome=outcome,
            operation=OPERATION,
            counts=counts,
            request_model=self._facts.model or self._call.request_model,
            response_model=self._model,
            response_id=self._response_id,
            trace_id=self._trace_id,
            conversation_id=self._facts.conversation_id,
            finish_reasons=tuple(reason for _, reason in sorted(self._finish_reasons.items())),
            error_type=self.error_type,
            service_tier=_tier_of(self._usage) if self._usage else self._tier,
            block_reason=self._block_reason,
            reason=reason,
            anomalies=anomalies_of(counts),
        )

    def extra_records(self, outcome: Outcome) -> tuple[ResponseUsage, ...]:
        return ()

    def _knows_names(self) -> bool:
        return self._model is not None and self._response_id is not None

    def _may_tell(self, text: bytes) -> bool:
        if b"\\" in text and ESCAPED_LETTER in text:
            return True
        return any(word in text for word in self.TELLING_WORDS)

    def _has_counts_in(self, text: bytes) -> bool:
        try:
            message = json_of(text)
        except ValueError:
            return False
        return _has_counts(object_of(self._answer_in(object_of(message)).get("usageMetadata")))

    def _answer_in(self, message: dict[str, object]) -> dict[str, object]:
        return message

    def _read_usage(self, usage: dict[str, object]) -> bool:
        # The first test alone nearly always decides.
        total = usage.get("totalTokenCount")
        if (type(total) is not int or total not in _USUAL_COUNTS) and not _has_counts(usage):
            if not self._usage:
                self._tier = _tier_of(usage) or self._tier
            return False
        if usage == self._usage:
            return False
        self._usage = usage
        return True

    def _read_candidates(self, candidates: list[object]) -> None:
        for position, candidate in enumerate(candidates):
            if type(candidate) is dict and "finishReason" in candidate:
                reason = _enum_name(candidate["finishReason"], FINISH_REASONS)
                index = count_of(candidate.get("index"))
                if reason is not None:
                    self._finish(position if index is None else index, reason)

    def _finish(self, index: int, reason: str) -> None:
        if index in self._finish_reasons or len(self._finish_reasons) < CANDIDATES_MAX:
            self._finish_reasons[index] = reason

    def _read_prompt_feedback(self, feedback: object) -> None:
        reason = _enum_name(object_of(feedback).get("blockReason"), BLOCK_REASONS)
        if reason is not None:
            self._block_reason = reason


def _has_only_counts(usage: dict[str, object]) -> bool:
    """
    Tell whether a usage object may be journaled as it came: counts, modalities and tiers, nothing else.

    What else a provider might say there nobody knows, and it could be a part of the prompt.
    """
    if _COUNT_FIELDS.issuperset(usage) and _NUMBERS.issuperset(map(type, usage.values())):
        return True
    for name, value in usage.items():
        if name in _MODALITY_FIELDS:
            if type(value) is not list or not all(map(_is_modality, value)):
                return False
        elif name in _TIER_FIELDS:
            if not _is_enum(value):
                return False
        elif name not in _COUNT_FIELDS or type(value) is not int:
            return False
    return True


def _is_modality(each: object) -> bool:
    return (
        type(each) is dict
        and _MODALITY_MEMBERS.issuperset(each)
        and _is_enum(each.get("modality", 0))
        and type(each.get("tokenCount", 0)) is int
    )


def _is_enum(value: object) -> bool:
    return type(value) is int or (type(value) is str and value.isidentifier() and len(value) <= _NAME_LETTERS_MAX)


def counts_said(said: list[object]) -> Counts:
    """
    Return the counts in what `GenerateContentTally.event_reader` journals in their place: usage object and credits.

    Raises:
        ValueError: It is something else.
    """
    usage, spent = said
    if not isinstance(usage, dict) or not (spent is None or isinstance(spent, int | float)):
        raise ValueError("neither a usage object nor credits")
    return _counts_of(usage, spent)


def _counts_of(usage: dict[str, object], spent: int | float | None) -> Counts:
    if not usage:
        return {} if spent is None else {"consumed_credits": spent}
    total, prompt, answer, thoughts, cached, tool_use = counts_of(map(usage.get, COUNT_FIELDS))
    counts: dict[str, int | float] = {
        "input_tokens": (prompt or 0) + (tool_use or 0),
        "output_tokens": (answer or 0) + (thoughts or 0),
    }
    if cached is not None:
        counts["cache_read_input_tokens"] = cached
    if tool_use is not None:
        counts["tool_use_prompt_input_tokens"] = tool_use
    if thoughts is not None:
        counts["reasoning_output_tokens"] = thoughts
    if total is not None:
        counts["total_tokens"] = total
    if not _MODALITY_FIELDS.isdisjoint(usage):
        for field, suffix in MODALITY_LISTS.items():
            add_by_modality(counts, usage.get(field), suffix)
    if spent is not None:
        counts["consumed_credits"] = spent
    return counts


def _has_counts(usage: dict[str, object]) -> bool:
    return any(count_of(usage.get(field)) is not None for field in COUNT_FIELDS)


def _tier_of(usage: dict[str, object]) -> str | None:
    """Return the tier that served: `serviceTier` on the Gemini API, `trafficType` on Vertex."""
    return name_of(usage.get("serviceTier")) or name_of(usage.get("trafficType"))


def add_by_modality(counts: dict[str, int | float], entries: object, suffix: str) -> None:
    """Add the entries of one list to the counts of their modalities, under names such as `text_input_tokens`."""
    for entry in objects_of(entries):
        modality, tokens = entry.get("modality"), count_of(entry.get("tokenCount"))
        known = MODALITY_NUMBERS.get(modality) if type(modality) is int else str(modality).lower()
        if known in MODALITIES and tokens is not None:
            name = f"{known}_{suffix}"
            counts[name] = counts.get(name, 0) + tokens


def _enum_name(value: object, names: dict[int, str]) -> str | None:
    """Return the name of an enum value; 0 and an empty text are protobuf's "not set"."""
    if type(value) is int:
        return names.get(value, str(value)) if 0 < value < 1000 else None
    return name_of(value)


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the end of the path, on any host: `…/models/{model}:generateContent` and its sister verbs."""
    provider = provider_of(endpoint.host)
    if provider == "gcp.gemini" and (free := _FREE_PATH.fullmatch(endpoint.path)):
        return Call(kind=CallKind.OTHER, provider=provider, operation=free[1])
    found = _MODEL_PATH.search(endpoint.path)
    if found is None or endpoint.method != "POST":
        return None
    model, verb = found.groups()
    if verb in ("generateContent", "streamGenerateContent"):
        return Call(
            kind=CallKind.MODEL_CALL,
            dialect=NAME,
            provider=provider,
            operation=OPERATION,
            request_model=model,
            is_streaming=verb == "streamGenerateContent",
        )
    if verb in UNREAD_OPERATIONS:
        operation = UNREAD_OPERATIONS[verb]
        return Call(kind=CallKind.MODEL_CALL, provider=provider, operation=operation, request_model=model)
    if verb in FREE_OPERATIONS:
        return Call(kind=CallKind.OTHER, provider=provider, operation=verb)
    return None


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    tally = GenerateContentTally(call, facts)
    return AnswerReader(tally, content_type, event_reader=tally.event_reader)


DIALECT = Dialect(
    name=NAME,
    recognise=recognise,
    request_reader=path_alone,
    response_reader=response_reader,
    counts_said=counts_said,
)
