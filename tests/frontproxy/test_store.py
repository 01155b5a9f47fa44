"""The ledger as frontproxy asks it, over HTTP and behind it."""

import asyncio
import dataclasses
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.events.exchange import Client, Timing, UsageRecorded
from services.events.usage import Outcome
from services.frontproxy import store
from services.frontproxy.queries import CompletionsAsked, EventsAsked, ReportAsked
from services.frontproxy.store import LedgerDesk
from services.ledger.entry import Arrival, Source, usage_entry
from services.ledger.store import LedgerStore, LedgerUnusable
from tests.support.front import Front, front
from tests.support.records import members_of

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
RECORD = UsageRecorded(
    event_id="e1",
    at="2026-11-23T12:00:00.000000Z",
    exchange_id="x1",
    provider="gcp.gen_ai",
    dialect="google-cloudcode",
    operation="generate_content",
    host="simulated.wiremeter.invalid",
    model="gemini",
    outcome=Outcome.OK,
    usage={"input_tokens": 10, "output_tokens": 3, "cache_read_input_tokens": 4},
    timing=Timing(started_at="2026-11-23T12:00:00.000000Z"),
    client=Client(uid=1000, label="simulated"),
)


def fill(path: Path, count: int) -> None:
    """Commit records as the accountant does."""
    ledger = LedgerStore(path)
    source = Source("mitm-0", "0" * 32)
    records = [dataclasses.replace(RECORD, event_id=f"e{number}") for number in range(1, count + 1)]
    ledger.commit(
        [Arrival(source=source, seq=n, entry=usage_entry(members_of(each))) for n, each in enumerate(records, 1)]
    )
    ledger.close()


def asked_of(subject: Front, path: str) -> "asyncio.Future[dict[str, object]]":
    async def ask() -> dict[str, object]:
        async with subject.http.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    return ask()


def test_the_usage_api_tells_what_is_in_the_ledger():
    """The report, the records by number, OpenAI's page through its SDK, the metrics."""

    async def story() -> None:
        async with front(hears_runner=False) as subject:
            assert (await asked_of(subject, "/v1/usage/events"))["events"] == []
            fill(subject.state.ledger, 5)
            report = await asked_of(subject, "/v1/usage?since=2026-11-23&until=2026-11-24&group_by=model,client")
            assert report["schema"] == "wiremeter.usage-report/1"
            assert report["totals"]["requests"] == 5
            assert report["totals"]["usage"]["input_tokens"] == 50
            assert report["by_model"][0]["model"] == "gemini"
            assert (await asked_of(subject, "/v1/usage?until=2026-11-23"))["totals"]["requests"] == 0

            page = await asked_of(subject, "/v1/usage/events?after=2&limit=2")
            assert [each["seq"] for each in page["events"]] == [3, 4]
            assert page["next_after"] == 4

            completions = await subject.client.admin.organization.usage.completions(
                start_time=NOON, end_time=NOON + 3600, bucket_width="1h", group_by=["model"]
            )
            (bucket,) = completions.data
            assert (bucket.start_time, bucket.end_time) == (NOON, NOON + 3600)
            (result,) = bucket.results
            assert result.model == "gemini"
            assert (result.input_tokens, result.output_tokens, result.num_model_requests) == (50, 15, 5)

            async with subject.http.get("/metrics") as response:
                text = await response.text()
                assert response.headers["Content-Type"].startswith("text/plain")
            line = 'wiremeter_usage_total{provider="gcp.gen_ai",model="gemini",count="input_tokens"} 50'
            assert line in text.splitlines()

    asyncio.run(story())


def test_a_ledger_that_cannot_be_read_is_a_clear_503_and_is_missing_in_health():
    """Garbage in the file breaks no other answer."""

    async def story() -> None:
        async with front() as subject:
            subject.state.ledger.write_bytes(b"no database at all" * 100)
            async with subject.http.get("/v1/usage") as response:
                assert response.status == 503
                assert "cannot be read" in (await response.json())["error"]["message"]
            async with subject.http.get("/v1/models") as response:
                assert response.status == 200
            async with asyncio.timeout(5):
                while True:
                    health = await asked_of(subject, "/health")
                    if any(each["what"] == "ledger" for each in health["missing"]):
                        return
                    await asyncio.sleep(0.05)

    asyncio.run(story())


def test_a_ledger_that_is_slow_is_given_up_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A question has a limit, the next one is answered."""
    fill(tmp_path / "ledger.sqlite3", 1)
    monkeypatch.setattr(store, "ANSWER_TIMEOUT_S", 0.1)
    released = threading.Event()

    async def story() -> None:
        desk = LedgerDesk(tmp_path / "ledger.sqlite3")
        desk._thread.submit(released.wait, 10)
        with pytest.raises(LedgerUnusable, match=r"did not answer within 0.1 s"):
            await desk.report(ReportAsked())
        assert [each.what for each in desk.missing()] == ["ledger"]
        released.set()
        monkeypatch.setattr(store, "ANSWER_TIMEOUT_S", 10)
        assert (await desk.events(EventsAsked(after=0, limit=10)))["next_after"] == 1
        assert desk.missing() == ()
        desk.close()

    asyncio.run(story())


def test_questions_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A flood of them is refused, not queued."""
    monkeypatch.setattr(store, "QUESTIONS_MAX", 1)
    released = threading.Event()
    asked = CompletionsAsked(start_time=NOON, end_time=None, bucket_width="1d", limit=None, page=None, group_by=())

    async def story() -> None:
        desk = LedgerDesk(tmp_path / "ledger.sqlite3")
        desk._thread.submit(released.wait, 10)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(desk.completions(asked))
            await asyncio.sleep(0)
            with pytest.raises(LedgerUnusable, match="1 questions to the ledger are waiting, which is the limit"):
                await desk.report(ReportAsked())
            released.set()
        assert first.result()["object"] == "page"
        desk.close()

    asyncio.run(story())


def test_reading_never_writes(tmp_path: Path):
    """The accountant is the only writer: without it no ledger appears."""

    async def story() -> None:
        desk = LedgerDesk(tmp_path / "ledger.sqlite3")
        assert (await desk.report(ReportAsked()))["totals"]["requests"] == 0
        desk.close()

    asyncio.run(story())
    assert list(tmp_path.iterdir()) == []
