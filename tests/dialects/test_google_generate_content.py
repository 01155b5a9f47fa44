"""Google's counts are cumulative, replaced as a whole, and the same however many events come together."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.answer import AnswerReader
from services.dialects.counts import COUNT_MAX
from services.dialects.google_generate_content import COUNT_FIELDS, WORTH_LOOKING_BYTES, GenerateContentTally
from services.dialects.recognise import Call, RequestFacts, counts_said, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.reading import reader_of

CALL = recognise("POST", "generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-flash:streamGenerateContent")

CLOUD_CODE = recognise("POST", "cloudcode-pa.googleapis.com", "/v1internal:streamGenerateContent?alt=sse")


def record_of_messages(*messages: dict[str, object]) -> ResponseUsage:
    tally = GenerateContentTally(CALL, RequestFacts())
    for message in messages:
        tally.read(message)
    return tally.record(Outcome.OK)


def counts_of(**usage: object) -> dict[str, int | float]:
    return dict(record_of_messages({"usageMetadata": usage}).counts)


# ---- what a usage object says


def test_tool_results_stand_beside_the_prompt_and_thoughts_beside_the_answer() -> None:
    assert counts_of(
        promptTokenCount=10,
        toolUsePromptTokenCount=100,
        candidatesTokenCount=5,
        thoughtsTokenCount=50,
        totalTokenCount=165,
    ) == {
        "input_tokens": 110,
        "output_tokens": 55,
        "tool_use_prompt_input_tokens": 100,
        "reasoning_output_tokens": 50,
        "total_tokens": 165,
    }


@pytest.mark.parametrize(
    "count",
    ["promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "cachedContentTokenCount"],
)
def test_beside_any_count_a_missing_prompt_or_answer_is_zero(count: str) -> None:
    """Protobuf drops zeros; nothing else is made up."""
    counts = counts_of(**{count: 7})
    assert {"input_tokens", "output_tokens"} <= counts.keys()
    assert sum(counts.values()) in (7, 14)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"trafficType": "ON_DEMAND"},
        {"promptTokenCount": None},
        {"promptTokenCount": "9"},
        {"totalTokenCount": COUNT_MAX + 1},
        {"totalTokenCount": -COUNT_MAX - 1, "promptTokenCount": True},
    ],
)
def test_usage_without_counts_is_none(usage: dict[str, object]) -> None:
    record = record_of_messages({"usageMetadata": {"totalTokenCount": 3}}, {"usageMetadata": usage})
    assert record.counts["total_tokens"] == 3
    assert record_of_messages({"usageMetadata": usage}).counts == {}


def test_modalities_are_added_up_by_name_or_number() -> None:
    counts = counts_of(
        totalTokenCount=1,
        promptTokensDetails=[
            {"modality": "TEXT", "tokenCount": 1},
            {"modality": 4, "tokenCount": 2},
            {"modality": "AUDIO"},
        ],
        toolUsePromptTokensDetails=[{"modality": "TEXT", "tokenCount": 4}, {"modality": "SMELL", "tokenCount": 8}],
        candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 16}, "nonsense"],
        cacheTokensDetails=[{"modality": "DOCUMENT", "tokenCount": 32}, {"modality": 9, "tokenCount": 64}],
    )
    assert counts == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 1,
        "text_input_tokens": 5,
        "audio_input_tokens": 2,
        "image_output_tokens": 16,
        "document_cache_read_input_tokens": 32,
    }


def test_the_tier_is_that_of_the_counts_in_force() -> None:
    alone = {"usageMetadata": {"trafficType": "ON_DEMAND"}}
    counted = {"usageMetadata": {"totalTokenCount": 3, "serviceTier": "priority"}}
    assert record_of_messages(alone).service_tier == "ON_DEMAND"
    assert record_of_messages(alone, counted, alone).service_tier == "priority"


# ---- what else a message says


def test_reasons_stand_in_the_order_of_the_choices_and_the_last_one_counts() -> None:
    record = record_of_messages(
        {"candidates": [{"index": 1, "finishReason": "STOP"}]},
        {"candidates": [{"finishReason": "OTHER"}, {"index": 2}]},
        {"candidates": [{"finishReason": 3}]},
        {"candidates": [{"finishReason": "A_NEW_ONE", "index": 7}, {"finishReason": 0, "index": 8}]},
    )
    assert record.finish_reasons == ("SAFETY", "STOP", "A_NEW_ONE")


def test_the_first_model_and_id_that_are_named_count() -> None:
    record = record_of_messages(
        {"modelVersion": "", "responseId": None}, {"modelVersion": "m", "responseId": "r"}, {"modelVersion": "n"}
    )
    assert (record.response_model, record.response_id) == ("m", "r")


@pytest.mark.parametrize(
    ("reason", "expected"), [("SAFETY", "SAFETY"), (4, "PROHIBITED_CONTENT"), (0, None), ("", None)]
)
def test_a_blocked_prompt_is_named(reason: object, expected: str | None) -> None:
    assert record_of_messages({"promptFeedback": {"blockReason": reason}}).block_reason == expected


# ---- leaving out what cannot matter

TEXTS = st.sampled_from(
    ["plain", "finishReason", '"finishReason": "NO"', "\\u0022", "é", '"error"', "consumedCredits", "\\", "x" * 900]
)
NAMES = st.sampled_from([None, "", "one", "two"])
USAGES = st.dictionaries(
    st.sampled_from(
        ["promptTokenCount", "candidatesTokenCount", "totalTokenCount", "trafficType", "thoughtsTokenCount"]
    ),
    st.integers(0, 3) | st.none() | st.just("ON_DEMAND"),
    max_size=4,
)
CANDIDATES = st.fixed_dictionaries(
    {"content": st.fixed_dictionaries({"parts": st.lists(st.fixed_dictionaries({"text": TEXTS}), max_size=1)})},
    optional={"finishReason": st.sampled_from(["STOP", "SAFETY", None, 2]), "index": st.integers(0, 2)},
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.lists(CANDIDATES, max_size=2),
        "usageMetadata": USAGES,
        "modelVersion": NAMES,
        "responseId": NAMES,
        "promptFeedback": st.fixed_dictionaries({"blockReason": st.sampled_from(["SAFETY", None])}),
        "error": st.sampled_from([None, {"status": "INTERNAL"}, {"code": 500}]),
    },
)
PLAIN = st.builds(
    lambda count, text: {
        "candidates": [{"content": {"parts": [{"text": text}]}}],
        "usageMetadata": {"totalTokenCount": count},
        "modelVersion": "m",
        "responseId": "r",
    },
    st.integers(0, 9),
    TEXTS,
)


def written(message: dict[str, object], as_ascii: bool, escape: str) -> bytes:
    """Write one message; `escape` is a letter that is spelt as an escape wherever it stands in a key."""
    text = json.dumps(message, ensure_ascii=as_ascii)
    if escape:
        text = re.sub(r'"(\w+)":', lambda key: key[0].replace(escape, f"\\u{ord(escape):04x}"), text)
    return text.encode()


WRITTEN = st.builds(written, MESSAGES | PLAIN, st.booleans(), st.sampled_from(["", "", "R", "e", "C"]))
BURSTS = st.lists(st.lists(WRITTEN | st.just(b"[DONE]") | st.just(b"{cut"), max_size=8), min_size=1, max_size=4)


@given(bursts=BURSTS, complete=st.booleans())
def test_events_that_come_together_are_worth_what_they_are_worth_alone(
    bursts: list[list[bytes]], complete: bool
) -> None:
    """Most of a burst is never parsed; the record is the one that parsing everything gives."""
    together, alone = (reader_of(CALL, 200, "text/event-stream") for _ in range(2))
    for burst in bursts:
        together.feed(b"".join(b"data: %b\r\n\r\n" % text for text in burst))
        for text in burst:
            alone.feed(b"data: %b\r\n\r\n" % text)
        assert together.progress() == alone.progress()
    assert together.end(complete=complete) == alone.end(complete=complete)


def test_most_of_a_burst_is_not_parsed() -> None:
    """The reason for looking first: without it this would only be slower, so say it here."""
    tally = GenerateContentTally(CALL, RequestFacts())
    texts = [
        b'{"candidates": [], "usageMetadata": {"totalTokenCount": %d}, "modelVersion": "m", "responseId": "r"}' % count
        for count in range(25)
    ]
    assert tally.worth_parsing(texts) == texts, "before model and id are known"
    tally.read(json.loads(texts[0]))
    assert tally.worth_parsing(texts) == texts[-1:]
    assert tally.worth_parsing(texts[:2]) == texts[:2]
    assert tally.worth_parsing([*texts, b"{}"]) == [*texts, b"{}"], "the last has no counts"
    telling = b'{"candidates": [{"finishReason": "STOP"}]}'
    assert tally.worth_parsing([*texts[:9], telling, *texts[9:]]) == [telling, texts[-1]]
    spelt = b'{"\\u0065rror": {}}'
    assert tally.worth_parsing([*texts[:9], spelt, *texts[9:]]) == [spelt, texts[-1]]
    long = b'{"text": "' + b"x" * WORTH_LOOKING_BYTES * 30 + b'"}'
    assert tally.worth_parsing([long, *texts]) == [long, *texts]


ODD = (
    st.none()
    | st.integers(-1, 1)
    | st.sampled_from(["", "finishReason", [], [1], [None], {}, {"error": 1}, 2**53 + 1, 1.0])
)
DETAILS = st.just([{"modality": "TEXT", "tokenCount": 2}]) | ODD
FULL_USAGES = st.dictionaries(st.sampled_from(COUNT_FIELDS), st.integers(0, 9) | ODD, max_size=6) | st.builds(
    lambda usage, details: usage | {"promptTokensDetails": details}, USAGES, DETAILS
)
ODD_MESSAGES = st.fixed_dictionaries(
    {"candidates": st.just([{"content": {}}]) | st.lists(CANDIDATES | ODD, max_size=2) | ODD},
    optional={"usageMetadata": FULL_USAGES | ODD, "modelVersion": NAMES, "responseId": NAMES, "error": ODD},
)
WRAPPED = st.builds(
    lambda response, rest: {"response": response} | rest,
    PLAIN | ODD_MESSAGES | ODD,
    st.just({"traceId": "t"})
    | st.fixed_dictionaries({}, optional={"consumedCredits": ODD, "error": ODD, "traceId": ODD}),
)


@pytest.mark.parametrize("call", [CALL, CLOUD_CODE], ids=["bare", "wrapped"])
@given(texts=st.lists(st.builds(written, ODD_MESSAGES | PLAIN | WRAPPED | ODD, st.booleans(), st.just("")), max_size=9))
def test_an_event_that_comes_alone_is_worth_the_same(call: Call, texts: list[bytes]) -> None:
    """It is read by a shorter way; what that journals, a list or not, stands for the counts in force."""
    plain, short = (reader_of(call, 200, "text/event-stream") for _ in range(2))
    assert isinstance(short, AnswerReader)
    read_event = short.event_reader()
    for text in texts:
        changed = plain.feed(b"data: %b\n\n" % text)
        told = read_event(text)
        assert (told is not None) == changed
        if told is not None:
            members = json.loads(told)
            usage = members["usage"]
            said = counts_said(call.dialect or "", usage) if isinstance(usage, list) else usage
            assert (said, members["response_model"]) == (plain.counts(), plain.response_model())
    assert short.end(complete=True) == plain.end(complete=True)


def event_of(usage: bytes) -> bytes:
    """Return an event of text and counts, as nearly all are."""
    return (
        b'{"response":{"candidates":[{}],"usageMetadata":%b,"modelVersion":"m","responseId":"r"},"traceId":"t"}' % usage
    )


def test_an_event_of_text_and_counts_is_journaled_as_it_was_said() -> None:
    """The reason for the shorter way: without it this would only be slower, so say it here."""
    reader = reader_of(CLOUD_CODE, 200, "text/event-stream")
    assert isinstance(reader, AnswerReader)
    read_event = reader.event_reader()
    usages = [
        b'{"totalTokenCount":%d,"promptTokensDetails":[{"modality":"TEXT","tokenCount":1}]}' % count for count in (1, 2)
    ]
    assert json.loads(read_event(event_of(usages[0])) or b"") == {
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 1, "text_input_tokens": 1},
        "response_model": "m",
    }
    assert read_event(event_of(usages[1])) == b'{"usage":[%b,null],"response_model":"m"}' % usages[1]
    assert read_event(event_of(usages[1])) is None


@pytest.mark.parametrize(
    "odd",
    [
        b'"note":"private"',
        b'"promptTokenCount":"private"',
        b'"promptTokensDetails":"private"',
        b'"promptTokensDetails":["private"]',
        b'"promptTokensDetails":[{"modality":"TEXT","tokenCount":1,"note":"private"}]',
        b'"promptTokensDetails":[{"modality":"my private text","tokenCount":1}]',
        b'"promptTokensDetails":[{"modality":"TEXT","tokenCount":"private"}]',
        b'"serviceTier":{"note":"private"}',
        b'"trafficType":"my private text"',
        b'"trafficType":%b"private"%b' % (b"[" * 500, b"]" * 500),  # orjson reads deeper nests than it writes
    ],
)
def test_what_nobody_knows_of_a_usage_object_is_not_journaled(odd: bytes) -> None:
    """It could be anything, a part of the prompt for one."""
    reader = reader_of(CLOUD_CODE, 200, "text/event-stream")
    assert isinstance(reader, AnswerReader)
    read_event = reader.event_reader()
    read_event(event_of(b'{"totalTokenCount":1}'))
    told = read_event(event_of(b'{"totalTokenCount":2,%b}' % odd))
    assert told is not None and b"private" not in told
    assert json.loads(told)["usage"]["total_tokens"] == 2
