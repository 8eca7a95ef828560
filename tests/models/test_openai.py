"""The OpenAI protocol: against the real server inside llama.cpp, and against a scripted one."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from aiohttp import web

from answerback.core.context import Message, Role
from answerback.models import build_model
from answerback.models.local import LocalModel
from answerback.models.openai import OpenAIModel
from answerback.ports import Finish, Prompt
from answerback.protocol.errors import ErrorCode
from embedded import api_key, base_url
from openai_server import DONE, USAGE, Handler, answers, chunk, model_of, streams

pytestmark = pytest.mark.usefixtures("own_network")


# --- the real one


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


# --- what is sent


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


# --- what comes back


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
