"""
Google Cloud Code, `v1internal`: the wrapper around answers for the Antigravity language server and the Gemini CLI.

Source     `google-gemini/gemini-cli:packages/core/src/code_assist/converter.ts` (`CaGenerateContentResponse`) and
           `server.ts`; `NoeFabris/opencode-antigravity-auth:docs/ANTIGRAVITY_API_SPEC.md`.
Framing    As `generateContent`, whose answer stands in `response`:
           `{"response": {…}, "traceId": …, "consumedCredits": […], "remainingCredits": […]}`, members in any order,
           each of them optional: an event may have credits alone. The official client joins consecutive `data:` lines,
           so an event may be spread over many.
Ids        `response.responseId` when present; the client itself takes `traceId`, so both are kept.
Models     Claude and GPT-OSS come in the same wrapper and with the same counts. Whether Claude's prompt count includes
           cached tokens is not known; where the total says it does not, the record names the mismatch.
Credits    `consumedCredits` is a list of amounts, as text; the last list stands.
Requests   Body members `model`, and `requestId`: "agent/<conversation>/<ms>/<trajectory>/<step>" (older clients:
           "agent-<uuid>", which names no conversation).
"""

import math
import re

from services.dialects.answer import FIRST_ERROR_STATUS, AnswerReader, ErrorAnswerReader
from services.dialects.counts import COUNT_MAX, name_of, object_of, objects_of
from services.dialects.dialect import Call, CallKind, Dialect, Endpoint, RequestFacts, RequestReader, ResponseReader
from services.dialects.google_generate_content import OPERATION, GenerateContentTally, counts_said
from services.dialects.request_body import MODEL, Members, RequestBodyReader
from services.wire.json_members import Path

NAME = "google-cloudcode"
PROVIDER = "gcp.gen_ai"  # the only one who serves these paths

CATALOGUE_VERB = "fetchAvailableModels"
STREAM_VERB, WHOLE_VERB = "streamGenerateContent", "generateContent"

# Code completion, in shapes of their own that nobody recorded: they spend, and nobody here reads them.
UNREAD_VERBS = frozenset({"tabChat", "completeCode", "generateCode", "transformCode"})

# Endpoints that spend nothing, by the name that stands in the path.
FREE_VERBS = frozenset(
    {
        "agentPlugins",
        "cascadeNuxes",
        "checkEntitlement",
        "countTokens",
        "fetchAdminControls",
        CATALOGUE_VERB,
        "fetchUserInfo",
        "fetchUserQuota",
        "getCodeAssistGlobalUserSetting",
        "health",
        "listExperiments",
        "listModelConfigs",
        "loadCodeAssist",
        "onboardUser",
        "operations",
        "recordCodeAssistMetrics",
        "recordTrajectoryAnalytics",
        "retrieveUserQuota",
        "retrieveUserQuotaSummary",
        "setCodeAssistGlobalUserSetting",
        "setUserSettings",
        "webDocsOptions",
        "writeTrajectoryAcls",
    }
)

REQUEST_ID: Path = ("requestId",)

_PATH = re.compile(r"/v1internal[:/](?:\{name=)?(\w+)")
_CONVERSATION = re.compile(r"agent/([^/]{1,128})/")


class CloudCodeTally(GenerateContentTally):
    """What one wrapped answer said so far."""

    TELLING_WORDS = (*GenerateContentTally.TELLING_WORDS, b'"consumedCredits"')
    ANSWER_MEMBER = "response"
    TELLING_MEMBERS = GenerateContentTally.TELLING_MEMBERS | {"consumedCredits"}

    def read(self, message: dict[str, object]) -> bool:
        if self._trace_id is None:
            self._trace_id = name_of(message.get("traceId"))
        changed = False
        if "consumedCredits" in message:
            changed = self._read_credits(message["consumedCredits"])
        if "error" in message:
            self.fail(message["error"])
        response = message.get("response")
        if type(response) is dict:
            changed = self._read_response(response) or changed
        return changed

    def _knows_names(self) -> bool:
        return self._trace_id is not None and super()._knows_names()

    def _answer_in(self, message: dict[str, object]) -> dict[str, object]:
        return object_of(message.get("response"))

    def _read_credits(self, spent: object) -> bool:
        amounts = [amount for entry in objects_of(spent) if (amount := _amount_of(entry)) is not None]
        if not amounts or sum(amounts) == self._credits:
            return False
        self._credits = sum(amounts)
        return True


def _amount_of(entry: dict[str, object]) -> int | float | None:
    """Return the amount of one entry: whole as int, and nothing that is no number or as large as no amount is."""
    amount = entry.get("creditAmount")
    try:
        number = float(amount) if type(amount) in (str, int, float) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    if not -COUNT_MAX <= number <= COUNT_MAX:
        return None
    return int(number) if number.is_integer() else number


def recognise(endpoint: Endpoint) -> Call | None:
    """Recognise by the path `/v1internal:{verb}`; some older endpoints are written `/v1internal/{name}`."""
    found = _PATH.match(endpoint.path)
    if found is None:
        return None
    verb = found[1]
    if endpoint.method == "POST" and verb in (STREAM_VERB, WHOLE_VERB):
        return Call(
            kind=CallKind.MODEL_CALL,
            dialect=NAME,
            provider=PROVIDER,
            operation=OPERATION,
            is_streaming=verb == STREAM_VERB,
        )
    if endpoint.method == "POST" and verb in UNREAD_VERBS:
        return Call(kind=CallKind.MODEL_CALL, provider=PROVIDER, operation=verb)
    kind = CallKind.OTHER if verb in FREE_VERBS else CallKind.UNKNOWN
    return Call(kind=kind, provider=PROVIDER, operation=verb)


def request_reader(call: Call) -> RequestReader:
    """Return a reader for one request body."""
    return RequestBodyReader(call, (MODEL, REQUEST_ID), _conversation_of)


def _conversation_of(members: Members) -> str | None:
    request_id = members.get(REQUEST_ID)
    found = _CONVERSATION.match(request_id) if isinstance(request_id, str) else None
    return found[1] if found else None


def response_reader(call: Call, status: int, content_type: str, facts: RequestFacts) -> ResponseReader:
    """Return a reader for one answer. An error answer to a stream is plain JSON, whatever its content type says."""
    if status >= FIRST_ERROR_STATUS:
        return ErrorAnswerReader(call, status, facts)
    tally = CloudCodeTally(call, facts)
    return AnswerReader(tally, content_type, event_reader=tally.event_reader)


DIALECT = Dialect(
    name=NAME,
    recognise=recognise,
    request_reader=request_reader,
    response_reader=response_reader,
    counts_said=counts_said,
)
