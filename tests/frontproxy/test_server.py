"""The HTTP API: judged by the official SDK where that speaks, by plain HTTP where it does not."""

import asyncio
import dataclasses
import gzip
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
import uvloop
from openai.types.chat import ChatCompletionChunk

from services.events.lifecycle import ServerState
from services.events.turn import DeltaKind, FailureKind, Message, Role, StopReason
from services.events.usage import Outcome
from services.frontproxy import server
from services.frontproxy.openai_chat import ChatAnswer
from services.runtime.settings import LsrunnerSettings
from tests.support.front import STATE, Front, PretendedTurn, Script, eventually, front

HELLO: Any = [{"role": "user", "content": "hello"}]


def played(script: Script, story: Callable[[Front], Awaitable[None]], **settings: Any) -> None:
    """Run a story against a frontproxy whose language server follows the script."""

    async def play() -> None:
        async with front(script, **settings) as subject:
            await story(subject)

    # The loop of the real process: what it tells of a lost connection, and when, is its own.
    uvloop.run(play())


async def hello_world(turn: PretendedTurn) -> None:
    """Answer in two pieces, after a thought."""
    turn.accept()
    turn.piece("hm", DeltaKind.THINKING)
    turn.piece("Hello, ")
    turn.piece("world")
    turn.done("r1")


async def slow_hello(turn: PretendedTurn) -> None:
    """Answer as slowly as a language server does: its first word takes longer than a socket to connect again."""
    turn.accept()
    await asyncio.sleep(0.5)
    await hello_world(turn)


async def chunks_of(subject: Front, **members: Any) -> list[ChatCompletionChunk]:
    stream = await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=True, **members)
    return [chunk async for chunk in stream]


async def refused(subject: Front, **members: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await subject.client.chat.completions.create(**{"model": "model-a", "messages": HELLO} | members)
    return caught.value


# -- the official SDK ------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_its_text_and_the_wires_usage():
    """One turn, two calls of different models, and their sum."""

    async def story(subject: Front) -> None:
        async def script(turn: PretendedTurn) -> None:
            turn.accept()
            turn.piece("Hello, world")
            details = {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 60}
            subject.accountant.publish(turn.request.turn_id, response_id="r1", usage=details)
            subject.accountant.publish("another turn", usage={"input_tokens": 9999})
            subject.accountant.publish(None, usage={"input_tokens": 9999})
            turn.done("r1", "r2")
            details = {"input_tokens": 10, "output_tokens": 3, "reasoning_output_tokens": 2}
            subject.accountant.publish(turn.request.turn_id, response_id="r2", usage=details, model="small")

        subject.runner.script = script
        answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO)
        assert answer.choices[0].message.content == "Hello, world"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.model_dump(exclude_none=True) == {
            "prompt_tokens": 110,
            "completion_tokens": 23,
            "total_tokens": 133,
            "prompt_tokens_details": {"cached_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        details = answer.to_dict()["x_wiremeter"]
        assert details["complete"] is True
        assert details["calls"] == 2
        assert {each["model"] for each in details["by_model"]} == {"gemini", "small"}
        assert details["turn_id"] == subject.runner.turn.request.turn_id == answer._request_id
        assert subject.runner.cancelled == {}

    played(hello_world, story)


def test_a_stream_arrives_piece_by_piece():
    """The first piece is read before the last is written."""

    async def story(subject: Front) -> None:
        stream = await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=True)
        first = await anext(stream)
        assert first.choices[0].delta.role == "assistant"
        thought = await anext(stream)
        assert thought.choices[0].delta.to_dict() == {"reasoning_content": "hm"}
        assert (await anext(stream)).choices[0].delta.content == "one"
        subject.runner.turn.piece("two")
        assert (await anext(stream)).choices[0].delta.content == "two"
        subject.runner.turn.done(stop_reason=StopReason.LENGTH)
        last = await anext(stream)
        assert last.choices[0].finish_reason == "length"
        assert last.usage is None
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.piece("hm", DeltaKind.THINKING)
        turn.piece("one")

    played(script, story)


def test_a_stream_ends_with_usage_when_it_is_asked_for():
    """`stream_options.include_usage`: one more chunk, without choices."""

    async def story(subject: Front) -> None:
        async def script(turn: PretendedTurn) -> None:
            await hello_world(turn)
            subject.accountant.publish(turn.request.turn_id, response_id="r1")

        subject.runner.script = script
        chunks = await chunks_of(subject, stream_options={"include_usage": True})
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 13

    played(hello_world, story)


def test_usage_that_never_comes_is_null():
    """Unknown is told as unknown, after a wait with a limit."""

    async def story(subject: Front) -> None:
        answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO)
        assert answer.usage is None
        assert answer.to_dict()["x_wiremeter"]["complete"] is False

    played(hello_world, story, usage_wait_s=0.2)


def test_a_truncated_call_makes_the_usage_a_bound():
    """`complete` is false, the counts are what was seen."""

    async def story(subject: Front) -> None:
        async def script(turn: PretendedTurn) -> None:
            subject.accountant.publish(turn.request.turn_id, outcome=Outcome.TRUNCATED)
            turn.done()

        subject.runner.script = script
        answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO)
        assert answer.usage is not None
        assert answer.to_dict()["x_wiremeter"]["complete"] is False

    played(hello_world, story)


def test_a_conversation_goes_on_with_the_messages_that_the_sdk_hands_back():
    """The answer's own message object is accepted as history."""

    async def story(subject: Front) -> None:
        messages = list(HELLO)
        answer = await subject.client.chat.completions.create(model="model-a", messages=messages)
        messages.append(answer.choices[0].message)
        messages.append({"role": "user", "content": "and again"})
        await subject.client.chat.completions.create(model="model-a", messages=messages)
        last = list(subject.runner.turns.values())[-1].request
        assert last.model == "model-a"
        assert last.messages == (
            Message(role=Role.USER, text="hello"),
            Message(role=Role.ASSISTANT, text="Hello, world"),
            Message(role=Role.USER, text="and again"),
        )

    played(hello_world, story, usage_wait_s=0.05)


def test_parameters_without_effect_are_named_in_a_header():
    """The client can learn that they did nothing."""

    async def story(subject: Front) -> None:
        for stream in (False, True):
            response = await subject.client.chat.completions.with_raw_response.create(
                model="model-a", messages=HELLO, temperature=0.5, max_tokens=10, stream=stream
            )
            assert response.headers["x-wiremeter-ignored"] == "max_tokens, temperature"
            assert response.headers["cache-control"] == "no-store"

    played(hello_world, story, usage_wait_s=0.05)


def test_the_sdk_lists_models():
    """`client.models.list()` and `.retrieve()`."""

    async def story(subject: Front) -> None:
        assert [model.id async for model in subject.client.models.list()] == ["model-a", "model-b"]
        assert (await subject.client.models.retrieve("model-b")).to_dict()["x_name"] == "Model B"
        with pytest.raises(openai.NotFoundError, match="offered: model-a, model-b"):
            await subject.client.models.retrieve("model-c")

    played(hello_world, story)


@pytest.mark.parametrize(
    ("kind", "provider_status", "error", "status"),
    [
        (FailureKind.UNKNOWN_MODEL, None, openai.NotFoundError, 404),
        (FailureKind.INVALID, None, openai.BadRequestError, 400),
        (FailureKind.NOT_READY, None, openai.InternalServerError, 503),
        (FailureKind.BUSY, None, openai.RateLimitError, 429),
        (FailureKind.UPSTREAM, 429, openai.RateLimitError, 429),
        (FailureKind.UPSTREAM, 403, openai.PermissionDeniedError, 403),
        (FailureKind.UPSTREAM, 503, openai.InternalServerError, 503),
        (FailureKind.UPSTREAM, None, openai.InternalServerError, 502),
        (FailureKind.TIMEOUT, None, openai.InternalServerError, 504),
        (FailureKind.INTERNAL, None, openai.InternalServerError, 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_failure_before_the_first_word_is_an_http_status(
    kind: FailureKind, provider_status: int | None, error: type[openai.APIStatusError], status: int, stream: bool
):
    """Each kind becomes the SDK's own exception, also for a stream."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.fail(kind, "the reason", provider_status)

    async def story(subject: Front) -> None:
        with pytest.raises(error, match="the reason") as caught:
            await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=stream)
        assert caught.value.status_code == status
        assert subject.runner.cancelled == {}

    played(script, story)


def test_a_failure_in_the_middle_of_a_stream_is_an_error_event():
    """What was said stays, the SDK raises, nothing looks complete."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.piece("one")
        turn.fail(FailureKind.UPSTREAM, "quota exceeded", 429)

    async def story(subject: Front) -> None:
        said = []
        with pytest.raises(openai.APIError, match="quota exceeded"):
            async for chunk in await subject.client.chat.completions.create(
                model="model-a", messages=HELLO, stream=True
            ):
                said.append(chunk.choices[0].delta.content)
        assert said == ["", "one"]

    played(script, story)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_lost_piece_fails_the_turn_and_cancels_it(stream: bool):
    """An answer with a hole is never told as whole."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.piece("one")
        turn.lose()
        turn.piece("three")

    async def story(subject: Front) -> None:
        with pytest.raises(openai.APIError, match="pieces 2 to 2 of the answer were lost on the way"):
            answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=stream)
            async for _ in answer:
                pass
        turn = subject.runner.turn
        await eventually("the turn is cancelled", turn.cancelled.is_set)

    played(script, story)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pieces", [0, 1], ids=["before the first word", "in the middle"])
def test_a_client_that_hangs_up_cancels_its_turn(stream: bool, pieces: int):
    """The language server does not go on for nobody."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        for _ in range(pieces):
            turn.piece("word")

    async def story(subject: Front) -> None:
        body = {"model": "model-a", "messages": HELLO, "stream": stream}
        reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
        writer.write(request_bytes(subject.port, json.dumps(body).encode()))
        await eventually("the turn begins", lambda: len(subject.runner.turns) == 1)
        if stream and pieces:
            await reader.readuntil(b"word")
        writer.close()
        await writer.wait_closed()
        await eventually("the turn is cancelled", subject.runner.turn.cancelled.is_set)
        assert list(subject.runner.cancelled.values()) == ["the client has gone"]
        await eventually("the request is logged", lambda: bool(turn_lines(subject)))
        assert turn_lines(subject)[0]["status"] == 499

    played(script, story)


def test_a_turn_that_ended_well_is_not_cancelled():
    """A cancel would stop somebody else's work in a runner that counts on it."""

    async def story(subject: Front) -> None:
        await chunks_of(subject)
        await chunks_of(subject)
        assert subject.runner.cancelled == {}

    played(hello_world, story)


def test_twenty_turns_at_once_do_not_mix():
    """Each client gets its own answer and its own usage."""

    async def story(subject: Front) -> None:
        async def script(turn: PretendedTurn) -> None:
            turn.accept()
            word = turn.request.messages[-1].text
            for letter in word:
                turn.piece(letter)
                await asyncio.sleep(0)
            subject.accountant.publish(turn.request.turn_id, response_id=word, usage={"input_tokens": int(word)})
            turn.done(word)

        async def ask(number: int) -> None:
            messages: Any = [{"role": "user", "content": str(number)}]
            answer = await subject.client.chat.completions.create(model="model-a", messages=messages)
            assert answer.choices[0].message.content == str(number)
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == number

        subject.runner.script = script
        async with asyncio.TaskGroup() as tasks:
            for number in range(1000, 1020):
                tasks.create_task(ask(number))

    played(hello_world, story)


def test_turns_beyond_the_limit_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch):
    """Memory is bounded; the SDK sees a rate limit."""
    monkeypatch.setattr(server, "TURNS_MAX", 1)

    async def script(turn: PretendedTurn) -> None:
        turn.accept()

    async def story(subject: Front) -> None:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(subject.client.chat.completions.create(model="model-a", messages=HELLO))
            await eventually("the turn begins", lambda: len(subject.runner.turns) == 1)
            error = await refused(subject)
            assert isinstance(error, openai.RateLimitError)
            assert error.response.headers["retry-after"] == "2"
            subject.runner.turn.done()
            await first

    played(script, story, usage_wait_s=0.05)


# -- the runner comes and goes ---------------------------------------------------------------------------------------


def test_without_a_runner_the_client_learns_it_within_seconds():
    """503, and the rest of the API works."""

    async def story(subject: Front) -> None:
        error = await refused(subject)
        assert (error.status_code, error.code) == (503, "not_ready")
        assert "the language server runner does not answer" in error.message
        assert (await subject.client.models.list()).data == []

    played(hello_world, story, hears_runner=False)


def test_a_runner_that_does_not_take_the_turn_is_asked_again_and_then_given_up():
    """Repeated every 200 ms, five seconds long, and cancelled in case it comes late."""

    async def script(turn: PretendedTurn) -> None:
        """Hear and say nothing."""

    async def story(subject: Front) -> None:
        subject.runner.accepts_again = False
        error = await refused(subject)
        assert error.status_code == 503
        assert 5 <= subject.runner.requests <= 26
        await eventually("the turn is cancelled", subject.runner.turn.cancelled.is_set)

    played(script, story)


def test_a_runner_that_is_restarted_in_the_middle_fails_the_turn_and_serves_the_next():
    """The client is told at the new runner's first heartbeat."""

    async def half(turn: PretendedTurn) -> None:
        turn.accept()
        turn.piece("one")

    async def story(subject: Front) -> None:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(subject.runner.run())
            await subject.until_heard()
            asking = tasks.create_task(refused(subject))
            await eventually("the turn begins", lambda: len(subject.runner.turns) == 1)
            first.cancel()
            await asyncio.wait([first])
            subject.runner.script = slow_hello
            subject.runner.turns.clear()
            second = tasks.create_task(subject.runner.run())
            error = await asking
            assert error.status_code == 502
            assert "restarted in the middle" in error.message
            answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO)
            assert answer.choices[0].message.content == "Hello, world"
            second.cancel()

    played(half, story, hears_runner=False, usage_wait_s=0.05)


def test_an_answer_whose_end_was_lost_fails_within_seconds():
    """A runner that works on nothing any more has ended the turn; nobody waits for its end until the deadline."""

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        turn.piece("one")
        turn.is_over = True

    async def story(subject: Front) -> None:
        error = await refused(subject)
        assert error.status_code == 502
        assert "the end of the answer was lost on the way" in error.message
        assert subject.runner.cancelled == {}

    played(script, story)


def test_a_request_that_comes_while_the_runner_restarts_is_answered():
    """The repetition carries it over."""

    async def story(subject: Front) -> None:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(subject.runner.run())
            await subject.until_heard()
            first.cancel()
            await asyncio.wait([first])
            asking = tasks.create_task(subject.client.chat.completions.create(model="model-a", messages=HELLO))
            second = tasks.create_task(subject.runner.run())
            assert (await asking).choices[0].message.content == "Hello, world"
            second.cancel()

    played(slow_hello, story, hears_runner=False, usage_wait_s=0.05)


# -- what may be asked -----------------------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_with_what_is_offered():
    """Before the runner is asked."""

    async def story(subject: Front) -> None:
        error = await refused(subject, model="gpt-99")
        assert isinstance(error, openai.NotFoundError)
        assert error.code == "model_not_found"
        assert "offered: model-a, model-b" in error.message
        assert subject.runner.requests == 0

    played(hello_world, story)


@pytest.mark.parametrize("terms_read", [False, True])
def test_the_antigravity_profile_serves_others_only_when_its_terms_were_read(terms_read: bool):
    """Metering needs no such setting; other programs on that login do."""

    async def story(subject: Front) -> None:
        subject.runner.state = dataclasses.replace(STATE, profile="antigravity")
        await eventually_profile(subject, "antigravity")
        if terms_read:
            await subject.client.chat.completions.create(model="model-a", messages=HELLO)
            return
        error = await refused(subject)
        assert isinstance(error, openai.PermissionDeniedError)
        assert "lsrunner.terms_read = true" in error.message
        assert subject.runner.requests == 0

    played(hello_world, story, lsrunner=LsrunnerSettings(terms_read=terms_read), usage_wait_s=0.05)


def test_a_profile_that_takes_no_turns_says_so():
    """The `command` profile is metered only."""

    async def story(subject: Front) -> None:
        subject.runner.state = dataclasses.replace(STATE, profile="command", accepts_turns=False)
        await eventually_profile(subject, "command")
        error = await refused(subject)
        assert isinstance(error, openai.BadRequestError)
        assert "takes no prompts" in error.message

    played(hello_world, story)


def test_whoever_must_sign_in_is_told_where():
    """The login's address is in the error."""

    async def script(turn: PretendedTurn) -> None:
        turn.fail(FailureKind.NOT_READY, "the language server is not signed in")

    async def story(subject: Front) -> None:
        subject.runner.state = dataclasses.replace(
            STATE, state=ServerState.SIGNING_IN, profile="login", models=(), login_url="https://login.example/x"
        )
        await eventually_profile(subject, "login")
        error = await refused(subject)
        assert error.status_code == 503
        assert "sign in at https://login.example/x" in error.message

    played(script, story)


async def eventually_profile(subject: Front, profile: str) -> None:
    async with asyncio.timeout(10):
        while True:
            async with subject.http.get("/health") as response:
                if (await response.json())["language_server"]["profile"] == profile:
                    return
            await asyncio.sleep(0.02)


# -- plain HTTP ------------------------------------------------------------------------------------------------------


def request_bytes(port: int, body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def turn_lines(subject: Front) -> list[dict[str, Any]]:
    return [line for line in subject.lines("request.finished") if line["path"] == "/v1/chat/completions"]


PATHS = "/v1/organization/usage/completions, /v1/usage, /v1/usage/events"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        (
            "POST",
            "/v1/chat/completions",
            b"{",
            {},
            400,
            "is not JSON: unexpected end of data: line 1 column 2 (char 1)",
        ),
        ("POST", "/v1/chat/completions", b"", {}, 400, "the request body is empty"),
        ("POST", "/v1/chat/completions", b"[]", {}, 400, "the request body is an array"),
        ("POST", "/v1/chat/completions", b"x" * 3000, {}, 413, "request body of 3000 bytes exceeds 2000"),
        ("POST", "/v1/chat/completions", b"junk", {"Content-Encoding": "gzip"}, 400, "the request body is broken"),
        ("GET", "/v1/chat/completions", None, {}, 405, "GET is not allowed for /v1/chat/completions; allowed: POST"),
        ("DELETE", "/health", None, {}, 405, "DELETE is not allowed for /health; allowed: GET, HEAD"),
        ("OPTIONS", "/v1/models", None, {}, 405, "OPTIONS is not allowed"),
        ("GET", "/nope", None, {}, 404, PATHS),
        ("GET", "/", None, {}, 404, "'/' is no path here; there are /health, /metrics"),
        ("GET", "/health", None, {"Host": "evil.example"}, 421, "host is 'evil.example'"),
        ("GET", "/health", None, {"Origin": "https://evil.example"}, 403, "web pages of other sites are refused"),
        ("POST", "/v1/chat/completions", b"{}", {"Origin": "null"}, 403, "web pages of other sites are refused"),
        ("GET", "/v1/usage?since=yesterday", None, {}, 400, "'yesterday' is no time"),
        ("GET", "/v1/usage?group_by=mood", None, {}, 400, "'mood' is no group"),
        ("GET", "/v1/usage/events?after=-1", None, {}, 400, "after is '-1'; a whole number from 0"),
        ("GET", "/v1/organization/usage/completions", None, {}, 400, "start_time is missing"),
    ],
)
def test_bad_input_is_answered_with_its_reason(
    method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, message: str
):
    """A clear error in OpenAI's shape, never ours, and the next request is served."""

    async def story(subject: Front) -> None:
        async with subject.http.request(method, path, data=body, headers=headers) as response:
            found = await response.json()
            assert response.status == status
            assert message in found["error"]["message"]
            assert response.headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in response.headers
            if status == 405:
                assert response.headers["Allow"] in found["error"]["message"]
        async with subject.http.get("/health") as response:
            assert response.status == 200
        assert subject.lines("request.failed") == []

    played(hello_world, story, body_bytes_max=2000)


def test_a_small_body_that_unpacks_to_a_large_one_is_cut_at_the_limit():
    """The limit counts what is decoded."""
    packed = gzip.compress(b"x" * 50_000_000)

    async def story(subject: Front) -> None:
        headers = {"Content-Encoding": "gzip"}
        async with subject.http.post("/v1/chat/completions", data=packed, headers=headers) as response:
            assert response.status == 413
            assert "exceeds 100000" in (await response.json())["error"]["message"]

    played(hello_world, story, body_bytes_max=100_000)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_mistake_of_ours_is_told_as_an_internal_error_with_the_id_to_find_it_by(
    stream: bool, monkeypatch: pytest.MonkeyPatch
):
    """By status, or in the middle of a stream by its last event; never by its details."""

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(ChatAnswer, "end", broken)
    monkeypatch.setattr(ChatAnswer, "whole", broken)

    async def story(subject: Front) -> None:
        with pytest.raises(openai.APIError, match="internal error, request 01") as caught:
            answer = await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=stream)
            async for _ in answer:
                pass
        assert "secret" not in str(caught.value)
        (line,) = subject.lines("request.failed")
        assert line["request"] == subject.runner.turn.request.turn_id

    played(hello_world, story, usage_wait_s=0.05)


def test_a_body_without_a_length_is_cut_at_the_limit():
    """A chunked body is counted as it comes."""

    async def pieces() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    async def story(subject: Front) -> None:
        async with subject.http.post("/v1/chat/completions", data=pieces()) as response:
            assert response.status == 413
            assert "exceeds 2000" in (await response.json())["error"]["message"]

    played(hello_world, story, body_bytes_max=2000)


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX" + b"y" * 70000],
)
def test_garbage_ends_its_own_connection(garbage: bytes):
    """TLS, nonsense, an endless header: 400 or the end, and our log says it in one line without the bytes."""

    async def story(subject: Front) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
        writer.write(garbage)
        writer.write_eof()
        answer = await reader.read()
        assert not answer or answer.startswith(b"HTTP/1.0 400") or answer.startswith(b"HTTP/1.1 400")
        writer.close()
        async with subject.http.get("/health") as response:
            assert response.status == 200
        assert subject.lines("request.failed") == []

    played(hello_world, story)


def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch):
    """A slow loris holds nothing for long."""
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.2)

    async def story(subject: Front) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: local")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    played(hello_world, story)


def test_a_body_that_does_not_come_is_a_timeout(monkeypatch: pytest.MonkeyPatch):
    """408, in our shape."""
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.2)

    async def story(subject: Front) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
        writer.write(request_bytes(subject.port, b"x" * 100)[:-50])
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()

    played(hello_world, story)


def test_a_client_that_reads_slowly_gets_everything():
    """Pieces wait for it, in order, until the last."""
    piece = "x" * 100_000

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        for _ in range(100):
            turn.piece(piece)
            await asyncio.sleep(0)
        turn.done()

    async def story(subject: Front) -> None:
        stream = await subject.client.chat.completions.create(model="model-a", messages=HELLO, stream=True)
        await eventually("everything was said", lambda: subject.runner.turn.number == 101)
        length = 0
        async for chunk in stream:
            length += len(chunk.choices[0].delta.content or "")
        assert length == 100 * len(piece)

    played(script, story)


def test_a_client_that_does_not_read_at_all_is_one_that_has_gone(monkeypatch: pytest.MonkeyPatch):
    """Its turn is cancelled and its memory freed."""
    monkeypatch.setattr(server, "WRITE_TIMEOUT_S", 0.3)

    async def script(turn: PretendedTurn) -> None:
        turn.accept()
        while not turn.cancelled.is_set():
            turn.piece("x" * 100_000)
            await asyncio.sleep(0.001)

    async def story(subject: Front) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", subject.port))
            body = json.dumps({"model": "model-a", "messages": HELLO, "stream": True}).encode()
            client.sendall(request_bytes(subject.port, body))
            await eventually("the turn begins", lambda: len(subject.runner.turns) == 1)
            await eventually("the turn is cancelled", subject.runner.turn.cancelled.is_set)

    played(script, story)


def test_each_request_is_one_line_without_its_query_and_without_a_word_of_the_conversation():
    """Method, path, status, milliseconds, id."""

    async def story(subject: Front) -> None:
        await chunks_of(subject)
        async with subject.http.get("/v1/usage?since=secret"):
            pass
        (line,) = turn_lines(subject)
        assert {name: line[name] for name in ("level", "method", "status")} == {
            "level": "info",
            "method": "POST",
            "status": 200,
        }
        assert line["request"] == subject.runner.turn.request.turn_id
        assert line["ms"] > 0
        log = subject.log.getvalue()
        assert b"secret" not in log
        assert b"hello" not in log
        assert b"world" not in log

    played(hello_world, story)


# -- health ----------------------------------------------------------------------------------------------------------


def test_health_tells_what_is_missing_and_strict_says_it_by_status():
    """200 for a look, 503 for those who ask whether it serves."""

    async def story(subject: Front) -> None:
        async with subject.http.get("/health") as response:
            report = await response.json()
            assert response.status == 200
        assert report["schema"] == "wiremeter.health-report/1"
        assert report["language_server"]["state"] == "ready"
        async with subject.http.get("/health?strict=1") as response:
            assert response.status == 200
        subject.runner.state = dataclasses.replace(STATE, state=ServerState.BACKING_OFF, profile="p", detail="it died")
        await eventually_profile(subject, "p")
        async with subject.http.get("/health?strict=1") as response:
            report = await response.json()
            assert response.status == 503
        assert report["status"] == "degraded"
        assert report["missing"][0]["detail"] == "the language server is backing off: it died"

    played(hello_world, story)


def test_health_answers_by_ipv6_too():
    """Where the machine has it, `localhost` may mean ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")

    async def story(subject: Front) -> None:
        async with subject.http.get(f"http://[::1]:{subject.port}/health") as response:
            assert response.status == 200

    played(hello_world, story)
