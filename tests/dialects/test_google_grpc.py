"""What Google's two APIs write in protobuf is read as what they write in JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dialects.recognise import CallKind, recognise
from services.events.usage import Outcome, ResponseUsage
from tests.support.protobuf import Message, grpc_message, message
from tests.support.reading import facts_of, read, reader_of
from tests.support.splits import CUTS, cut_at

GEMINI, VERTEX = "generativelanguage.googleapis.com", "us-central1-aiplatform.googleapis.com"
GENERATIVE = "/google.ai.generativelanguage.v1beta.GenerativeService"
PREDICTION = "/google.cloud.aiplatform.v1.PredictionService"
GEMINI_CALL = recognise("POST", GEMINI, f"{GENERATIVE}/StreamGenerateContent")
VERTEX_CALL = recognise("POST", VERTEX, f"{PREDICTION}/StreamGenerateContent")

# Member of the JSON API -> its number in the usage of the Gemini API, and of Vertex AI.
COUNT_NUMBERS = {
    "promptTokenCount": (1, 1),
    "candidatesTokenCount": (2, 2),
    "totalTokenCount": (3, 3),
    "cachedContentTokenCount": (4, 5),
    "toolUsePromptTokenCount": (8, 13),
    "thoughtsTokenCount": (10, 14),
}
LIST_NUMBERS = {
    "promptTokensDetails": (5, 9),
    "cacheTokensDetails": (6, 10),
    "candidatesTokensDetails": (7, 11),
    "toolUsePromptTokensDetails": (9, 12),
}
MODALITIES = ("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT")

Usage = dict[str, object]
TOKENS = st.integers(1, 2**31 - 1)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(COUNT_NUMBERS, TOKENS),
        **{
            name: st.lists(
                st.fixed_dictionaries({"modality": st.sampled_from(MODALITIES[1:]), "tokenCount": TOKENS}),
                min_size=1,
                max_size=3,
            )
            for name in LIST_NUMBERS
        },
    },
)


def usage_message(usage: Usage, which: int) -> Message:
    counts = {COUNT_NUMBERS[name][which]: value for name, value in usage.items() if name in COUNT_NUMBERS}
    lists = {
        LIST_NUMBERS[name][which]: [{1: MODALITIES.index(each["modality"]), 2: each["tokenCount"]} for each in value]  # type: ignore[attr-defined]
        for name, value in usage.items()
        if name in LIST_NUMBERS
    }
    return {**counts, **lists}  # type: ignore[dict-item]


def in_protobuf(usages: list[Usage], which: int, cuts: list[int]) -> ResponseUsage:
    number, call = (3, GEMINI_CALL) if which == 0 else (4, VERTEX_CALL)
    body = b"".join(grpc_message(message({number: usage_message(usage, which)})) for usage in usages)
    (record,) = read(reader_of(call, 200, "application/grpc"), cut_at(body, cuts), trailer={"grpc-status": "0"})
    return record


@pytest.mark.parametrize("which", [0, 1], ids=["gemini", "vertex"])
@given(usages=st.lists(USAGES, max_size=3), cuts=CUTS)
def test_counts_are_those_of_the_same_answer_in_json(which: int, usages: list[Usage], cuts: list[int]) -> None:
    call = recognise("POST", (GEMINI, VERTEX)[which], "/v1beta/models/m:streamGenerateContent")
    body = json.dumps([{"usageMetadata": usage} for usage in usages]).encode()
    (expected,) = read(reader_of(call, 200, "application/json"), [body])
    found = in_protobuf(usages, which, cuts)
    assert (found.counts, found.anomalies) == (expected.counts, expected.anomalies)
    assert found.outcome is (Outcome.OK if found.counts else Outcome.NO_USAGE)


def test_an_explicit_zero_is_what_a_missing_count_is() -> None:
    """Decoders of proto3 cannot tell the two apart."""
    zeros = grpc_message(message({3: {1: 5, 2: 0, 3: 5, 4: 0, 10: 0}}))
    (record,) = read(reader_of(GEMINI_CALL, 200, "application/grpc"), [zeros], trailer={"grpc-status": "0"})
    assert record.counts == {"input_tokens": 5, "output_tokens": 0, "total_tokens": 5}


def test_a_negative_count_is_an_anomaly_and_not_a_large_one() -> None:
    body = grpc_message(message({3: {1: -5, 2: 1}}))
    (record,) = read(reader_of(GEMINI_CALL, 200, "application/grpc"), [body], trailer={"grpc-status": "0"})
    assert (record.counts["input_tokens"], record.anomalies) == (-5, ("negative_count",))


@given(st.binary(max_size=300), CUTS)
def test_noise_stops_nothing(noise: bytes, cuts: list[int]) -> None:
    for call in (GEMINI_CALL, VERTEX_CALL):
        assert len(read(reader_of(call, 200, "application/grpc"), cut_at(noise, cuts))) == 1
        facts_of(call, cut_at(noise, cuts))


def test_an_error_of_http_is_one() -> None:
    (record,) = read(reader_of(GEMINI_CALL, 503, "text/html"), [b"<html>"])
    assert (record.outcome, record.error_type) == (Outcome.ERROR, "503")


# ---- whose requests these are


@pytest.mark.parametrize(
    ("call", "members", "model"),
    [
        (GEMINI_CALL, {1: "models/gemini-2.5-pro"}, "gemini-2.5-pro"),
        (GEMINI_CALL, {1: "gemini-2.5-pro", 2: ["x"]}, "gemini-2.5-pro"),
        (GEMINI_CALL, {1: "tunedModels/mine"}, "mine"),
        (
            VERTEX_CALL,
            {2: ["x"], 5: "projects/p/locations/l/publishers/google/models/gemini-2.5-pro"},
            "gemini-2.5-pro",
        ),
        (VERTEX_CALL, {1: "models/not-this"}, None),
        (GEMINI_CALL, {}, None),
    ],
)
def test_the_model_is_the_last_of_its_path(call: object, members: Message, model: str | None) -> None:
    assert facts_of(call, [grpc_message(message(members))]).model == model  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_every_version_of_the_api_is_read(version: str) -> None:
    call = recognise("POST", GEMINI, f"/google.ai.generativelanguage.{version}.GenerativeService/GenerateContent")
    assert (call.dialect, call.is_streaming, call.provider) == ("google-gemini-grpc", False, "gcp.gemini")
    call = recognise("POST", VERTEX, f"/google.cloud.aiplatform.{version}.PredictionService/GenerateContent")
    assert (call.dialect, call.is_streaming, call.provider) == ("google-vertex-grpc", False, "gcp.vertex_ai")


@pytest.mark.parametrize(
    ("host", "target", "kind", "operation"),
    [
        (GEMINI, f"{GENERATIVE}/CountTokens", CallKind.OTHER, "CountTokens"),
        (GEMINI, "/google.ai.generativelanguage.v1beta.ModelService/ListModels", CallKind.OTHER, "ListModels"),
        (VERTEX, "/google.cloud.aiplatform.v1.LlmUtilityService/ComputeTokens", CallKind.OTHER, "ComputeTokens"),
        (GEMINI, f"{GENERATIVE}/BatchEmbedContents", CallKind.MODEL_CALL, "embeddings"),
        (GEMINI, f"{GENERATIVE}/BidiGenerateContent", CallKind.MODEL_CALL, "generate_content"),
        (VERTEX, f"{PREDICTION}/StreamRawPredict", CallKind.MODEL_CALL, "StreamRawPredict"),
        (VERTEX, "/google.cloud.aiplatform.v1.JobService/CreateBatchPredictionJob", CallKind.UNKNOWN, None),
        (GEMINI, "/google.ai.generativelanguage.v1beta.GenerativeService", CallKind.UNKNOWN, None),
    ],
)
def test_other_methods_are_known_by_name(host: str, target: str, kind: CallKind, operation: str | None) -> None:
    call = recognise("POST", host, target)
    assert (call.kind, call.dialect, call.operation) == (kind, None, operation)


def test_only_post_calls() -> None:
    assert recognise("GET", GEMINI, f"{GENERATIVE}/GenerateContent").kind is CallKind.UNKNOWN
