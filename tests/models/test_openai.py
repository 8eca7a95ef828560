"""The OpenAI protocol: against the real server inside llama.cpp, and against a scripted one that goes wrong."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from answerback.core.context import Message, Role
from answerback.models import ModelSpecError, build_model
from answerback.models.local import LocalModel
from answerback.models.openai import OpenAIModel
from answerback.models.retrying import RetryingModel
from answerback.ports import Finish, ModelError, Prompt
from answerback.protocol.errors import ErrorCode
from embedded import api_key, base_url

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server on loopback whose `POST /v1/chat/completions` is `handler`; yields its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def model_of(handler: Handler, **more: object) -> AsyncIterator[OpenAIModel]:
    async with serving(handler) as base_url:
        model = OpenAIModel(base_url=base_url, model="m", **more)
        try:
            yield model
        finally:
            await model.close()


def chunk(text: str | None = None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"


def streams(*parts: bytes, cut: bool = False) -> Handler:
    """Sends the parts as an event stream; `cut` then drops the connection."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if cut:
            request.transport.abort()
        return response

    return handler


def answers(status: int, body: str = "", **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, text=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return handler


# --- the real one -------------------------------------------------------------------------------------------


@pytest.fixture
async def real(local_model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[object]:
    monkeypatch.setenv("EMBEDDED_KEY", api_key(local_model))
    model = build_model(f"openai:{base_url(local_model)}?api_key_env=EMBEDDED_KEY#local")
    yield model
    await model.close()


@pytest.mark.local_llm
async def test_a_real_server_answers(real: OpenAIModel, read: Callable, ask: Callable) -> None:
    assert real.name == "local"
    pieces, error = await read(real, ask("What is the sea?", max_tokens=20))
    assert error is None
    assert "".join(pieces[:-1]).strip()
    assert pieces[-1].reason in {"stop", "length"}
    assert pieces[-1].input_tokens > 5
    assert 1 <= pieces[-1].output_tokens <= 20


@pytest.mark.local_llm
async def test_closing_stops_a_real_server(
    real: OpenAIModel, local_model: LocalModel, busy_slots: Callable, generated_tokens: Callable, ask: Callable
) -> None:
    before = await generated_tokens(local_model)
    async with aclosing(real.stream(ask("Tell me a very long story.", max_tokens=3500))) as stream:
        await anext(stream)
        assert await busy_slots(local_model) == 1
    # The server sees the closed connection a moment later. The whole story has thousands of tokens.
    while await busy_slots(local_model):
        pass
    assert await generated_tokens(local_model) - before < 1000


@pytest.mark.local_llm
async def test_a_real_server_refuses(local_model: LocalModel, read: Callable, ask: Callable) -> None:
    model = OpenAIModel(base_url=base_url(local_model), model="local", api_key="wrong")
    _, error = await read(model, ask("hi"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_UNAVAILABLE, False)
    await model.close()
    model = OpenAIModel(base_url=base_url(local_model), model="local", api_key=api_key(local_model))
    _, error = await read(model, ask("word " * 5000))
    assert error.code is ErrorCode.MODEL_FAILED
    await model.close()


# --- what is sent -------------------------------------------------------------------------------------------


async def test_the_request(read: Callable) -> None:
    seen: list[tuple[str, str | None, object]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path_qs, request.headers.get("Authorization"), await request.json()))
        return await streams(chunk("a", "stop"), DONE)(request)

    prompt = Prompt(
        messages=(Message(Role.USER, "a"), Message(Role.ASSISTANT, "b"), Message(Role.USER, "c\ud800")),
        system="s",
        max_tokens=5,
    )
    async with model_of(handler, api_key="k", query={"api-version": "1"}) as model:
        await read(model, prompt)
    async with model_of(handler) as model:
        await read(model, Prompt(messages=prompt.messages[:1]))
    path, key, body = seen[0]
    assert path == "/v1/chat/completions?api-version=1"
    assert key == "Bearer k"
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    path, key, body = seen[1]
    assert (path, key) == ("/v1/chat/completions", None)
    assert body["messages"] == [{"role": "user", "content": "a"}]


async def test_connections_are_used_again(read: Callable, ask: Callable) -> None:
    ports = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await streams(chunk("a"), chunk(finish="stop"), DONE)(request)

    async with model_of(handler) as model:
        for _ in range(3):
            assert (await read(model, ask("?")))[1] is None
    assert len(ports) == 1


# --- what comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "pieces"),
    [
        (
            [chunk("One"), chunk(" two"), chunk(finish="stop"), USAGE, DONE],
            ["One", " two", Finish(reason="stop", input_tokens=7, output_tokens=2)],
        ),
        ([chunk("a", "length"), DONE], ["a", Finish(reason="length")]),
        ([chunk("a"), chunk(finish="content_filter")], ["a", Finish(reason="content_filter")]),
        ([b": keep-alive\r\n\r\n", chunk(""), chunk("a"), chunk(finish="stop"), DONE], ["a", Finish()]),
        ([b'data: {"choices":null}\n\n', chunk("a"), b"data: {}\n\n", chunk(finish="stop"), DONE], ["a", Finish()]),
        ([chunk("한🙂")[:24], chunk("한🙂")[24:], chunk(finish="stop"), DONE], ["한🙂", Finish()]),
        ([chunk("a"), chunk(finish="stop"), DONE, b"data: not json\n\n"], ["a", Finish()]),
    ],
)
async def test_answers(read: Callable, ask: Callable, parts: list[bytes], pieces: list) -> None:
    async with model_of(streams(*parts)) as model:
        assert await read(model, ask("?")) == (pieces, None)


async def test_a_server_that_does_not_stream(read: Callable, ask: Callable) -> None:
    whole = {
        "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    async with model_of(answers(200, json.dumps(whole), Content_Type="application/json")) as model:
        assert await read(model, ask("?")) == (["hello", Finish(input_tokens=3, output_tokens=1)], None)


@pytest.mark.parametrize("encoding", ["br", "x-secret"])
async def test_an_encoding_that_was_not_asked_for(read: Callable, ask: Callable, encoding: str) -> None:
    async with model_of(answers(200, "?", Content_Encoding=encoding, Content_Type="text/event-stream")) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert error.code in {ErrorCode.MODEL_FAILED, ErrorCode.MODEL_UNAVAILABLE}
    assert encoding in error.detail


@pytest.mark.parametrize(
    ("handler", "code", "transient", "retry_after_ms"),
    [
        (answers(401, "no"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(403, "no"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(404, "no such model"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(302, "", Location="/elsewhere"), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(400, "too long"), ErrorCode.MODEL_FAILED, False, None),
        (answers(429), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="2"), ErrorCode.MODEL_THROTTLED, True, 2000),
        (answers(429, "", Retry_After="inf"), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="soon"), ErrorCode.MODEL_THROTTLED, True, None),
        (answers(429, "", Retry_After="2", retry_after_ms="150"), ErrorCode.MODEL_THROTTLED, True, 150),
        (
            answers(429, "", Retry_After="Wed, 01 Jan 2025 00:00:09 GMT", Date="Wed, 01 Jan 2025 00:00:00 GMT"),
            ErrorCode.MODEL_THROTTLED,
            True,
            9000,
        ),
        (answers(429, '{"error":{"code":"insufficient_quota"}}'), ErrorCode.MODEL_UNAVAILABLE, False, None),
        (answers(500, "x" * 100_000), ErrorCode.MODEL_UNAVAILABLE, True, None),
        (answers(503, "", Retry_After="1"), ErrorCode.MODEL_UNAVAILABLE, True, 1000),
    ],
)
async def test_refusals(
    read: Callable, ask: Callable, handler: Handler, code: ErrorCode, transient: bool, retry_after_ms: int | None
) -> None:
    async with model_of(handler) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert (error.code, error.transient, error.retry_after_ms) == (code, transient, retry_after_ms)
    assert error.detail.startswith("HTTP ")
    assert len(error.detail) < 3000


@pytest.mark.parametrize(
    "handler",
    [
        streams(chunk("a")),
        streams(chunk("a"), DONE),
        streams(chunk("a"), cut=True),
        streams(chunk("a"), b"data: not json\n\n"),
        streams(chunk("a"), b'data: {"choices": 5}\n\n'),
        streams(chunk("a"), b'data: {"error": {"message": "boom", "code": 400}}\n\n'),
        streams(chunk("a"), b'data: {"error": "boom"}\n\n'),
        streams(chunk("a"), b'data: {"object": "error", "message": "boom", "code": 400}\n\n'),
        streams(chunk("a"), b'event: error\ndata: {"error": {"message": "boom"}}\n\n'),
    ],
)
async def test_broken_streams(read: Callable, ask: Callable, handler: Handler) -> None:
    async with model_of(handler) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == ["a"]
    assert (error.code, error.transient) == (ErrorCode.MODEL_FAILED, False)


async def test_an_endless_event_is_not_gathered(read: Callable, ask: Callable) -> None:
    async with model_of(streams(b"data: ", *[b"x" * 65536] * 40)) as model:
        _, error = await read(model, ask("?"))
    assert error.code is ErrorCode.MODEL_FAILED


async def test_a_throttling_inside_the_stream(read: Callable, ask: Callable) -> None:
    async with model_of(streams(b'data: {"error": {"message": "slow down", "code": 429}}\n\n')) as model:
        _, error = await read(model, ask("?"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_THROTTLED, True)


async def test_no_server_there(read: Callable, ask: Callable) -> None:
    async with serving(answers(200)) as base_url:
        pass
    model = OpenAIModel(base_url=base_url, model="m")
    _, error = await read(model, ask("?"))
    await model.close()
    assert (error.code, error.transient) == (ErrorCode.MODEL_UNAVAILABLE, True)


async def test_a_server_that_hangs_up_before_it_answers(read: Callable, ask: Callable) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    async with model_of(handler) as model:
        _, error = await read(model, ask("?"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_UNAVAILABLE, True)


@pytest.mark.parametrize(("parts", "code"), [([], ErrorCode.MODEL_UNAVAILABLE), ([chunk("a")], ErrorCode.MODEL_FAILED)])
async def test_a_silent_server(ask: Callable, pass_time: Callable, parts: list[bytes], code: ErrorCode) -> None:
    asked = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.set()
        if parts:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for part in parts:
                await response.write(part)
        await asyncio.Event().wait()
        raise AssertionError

    async with model_of(handler, silence_timeout_s=30) as model:
        stream = model.stream(ask("?"))
        for _ in parts:
            assert await anext(stream) == "a"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await asked.wait()
        pass_time(60)
        with pytest.raises(ModelError) as caught:
            await waiting
    assert (caught.value.code, caught.value.transient) == (code, False)


async def test_a_stale_connection_costs_no_try_and_no_pause(read: Callable, ask: Callable) -> None:
    used: list[asyncio.BaseTransport | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.transport in used:
            request.transport.abort()
        used.append(request.transport)
        return await streams(chunk("a", "stop"), DONE)(request)

    async with model_of(handler) as model:
        once = RetryingModel(model, tries=1)
        for _ in range(3):
            assert await read(once, ask("?")) == (["a", Finish()], None)
    assert len(used) > 3


async def test_closing_hangs_up(ask: Callable) -> None:
    hung_up = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk("a"))
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError

    async with model_of(handler) as model:
        async with aclosing(model.stream(ask("?"))) as stream:
            assert await anext(stream) == "a"
            assert not hung_up.is_set()
        await hung_up.wait()


async def test_a_model_from_a_spec_tries_again(read: Callable, ask: Callable) -> None:
    tries = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        good = streams(chunk("a", "stop"), DONE)
        return await (answers(503) if tries == 1 else good)(request)

    async with serving(handler) as base_url:
        model = build_model(f"fast=openai:{base_url}#m")
        assert await read(model, ask("?")) == (["a", Finish()], None)
        await model.close()
    assert tries == 2
    assert model.name == "fast"


@pytest.mark.parametrize("url", ["http://256.1.1.1/v1", "http://xn--/v1"])
def test_a_url_that_cannot_be_used_is_explained(url: str) -> None:
    with pytest.raises(ModelSpecError, match="cannot be used"):
        build_model(f"openai:{url}#m")


def test_a_proxy_that_cannot_be_used_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ModelSpecError, match="ALL_PROXY"):
        build_model("openai:http://models.example/v1#m")


def test_a_key_that_is_no_key_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-12\n34")
    with pytest.raises(ModelSpecError) as caught:
        build_model("openai:http://127.0.0.1/v1#m")
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "34" not in str(caught.value)


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "answerback.models.http")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ModelSpecError, match=r"pip install 'answerback\[openai\]'"):
        build_model("openai:http://127.0.0.1/v1#m")
