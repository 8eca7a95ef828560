"""The OpenAI protocol: against the real server inside llama.cpp, and against a scripted one that goes wrong."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from answerback.core.context import Message, Role
from answerback.model_guard import ask as ask_guarded
from answerback.models import ModelSpecError, build_model
from answerback.models.local import LocalModel
from answerback.models.openai import Dialect, OpenAIModel
from answerback.models.retrying import RetryingModel
from answerback.ports import FinalModelError, Finish, ModelError, ModelFault, Prompt
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


# --- shapes that servers have and the protocol does not ---------------------------------------------


def data(document: object) -> bytes:
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def delta(**members: object) -> bytes:
    return data({"choices": [{"index": 0, "delta": members}]})


END = chunk(finish="stop")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        # Parts of text are text, thoughts are not.
        ([delta(content=[{"type": "text", "text": "One"}, {"type": "text", "text": " two."}]), END], "One two."),
        ([delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), chunk("a"), END], "a"),
        ([delta(content={"type": "text", "text": "a"}), END], "a"),
        ([delta(reasoning_content="hm", content=None), chunk("a"), END], "a"),
        ([delta(refusal="I cannot help with that."), END], "I cannot help with that."),
        ([data({"choices": [{"text": "an older protocol", "finish_reason": "stop"}]})], "an older protocol"),
        # Events with nothing in them.
        ([b"data:\n\n", b"data\n\n", data({}), data([]), data(b"null"), data(b"7"), chunk("a"), END], "a"),
        ([data({"message": "busy, please wait"}), data({"status": "queued"}), chunk("a"), END], "a"),
        ([data(b"not json"), data(b'{"choices": '), chunk("a"), END], "a"),
        ([data({"choices": 5}), data({"choices": [5]}), data({"choices": [{"delta": 5}]}), chunk("a"), END], "a"),
        ([data({"choices": {"delta": {"content": "a"}}}), END], "a"),
        # Halves of a character.
        (
            [
                data(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}'),
                data(b'{"choices":[{"delta":{"content":"\\ude00b"}}]}'),
                END,
            ],
            "a😀b",
        ),
        ([data(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}'), chunk("b"), END], "ab"),
        (
            [
                data(b'{"choices":[{"delta":{"content":"a\xed\x95"}}]}'),
                data(b'{"choices":[{"delta":{"content":"\x9cb"}}]}'),
                END,
            ],
            "a한b",
        ),
        ([data(b'{"choices":[{"delta":{"content":"a\xff"}}]}'), chunk("b"), END], "a\ufffdb"),
        # No text is taken twice.
        ([chunk("ab"), data({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]})], "ab"),
        ([data({"choices": [{"delta": {"content": "a"}, "message": {"content": "a"}, "text": "a"}]}), END], "a"),
        (
            [
                data({"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}),
                END,
            ],
            "a",
        ),
        # What nobody reads may be anything.
        (
            [data(b'{"x": NaN, "y": 1e999, "z": ' + b"9" * 5000 + b', "choices": [{"delta": {"content": "a"}}]}'), END],
            "a",
        ),
        ([data(b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b', "choices": [{"delta": {"content": "a"}}]}'), END], "a"),
        ([data(b'{"x": "\x01\\ud800\xff", "choices": [{"delta": {"content": "a"}}]}'), END], "a"),
        # Framing: the last event has no blank line, or not even an end of line.
        ([chunk("a"), END.rstrip()], "a"),
        ([chunk("a"), END.rstrip() + b"\n"], "a"),
    ],
)
async def test_odd_documents_cost_nothing_but_themselves(
    read: Callable, ask: Callable, parts: list[bytes], text: str
) -> None:
    async with model_of(streams(*parts)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert ("".join(pieces[:-1]), pieces[-1]) == (text, Finish())


async def test_what_cannot_be_read_is_counted(read: Callable, ask: Callable) -> None:
    parts = [
        data(b"not json"),
        data({"choices": 5}),
        data(b'{"choices":[{"delta":{"content":"\xff"}}]}'),
        chunk("a"),
        END,
    ]
    async with model_of(streams(*parts)) as model:
        await read(model, ask("?"))
        assert model.unread_documents == 3


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3.0, "completion_tokens": 2}, (3, 2)),
        ({"prompt_tokens": -1, "completion_tokens": 2**63}, (None, None)),
        ({"prompt_tokens": 2**53, "completion_tokens": "2"}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": None}, (None, None)),
        ([1, 2], (None, None)),
        ("none", (None, None)),
    ],
)
async def test_counts_are_read_each_by_itself(read: Callable, ask: Callable, usage: object, counts: tuple) -> None:
    last = data({"choices": [], "usage": usage})
    async with model_of(streams(chunk("a"), END, last, DONE)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert pieces == ["a", Finish(input_tokens=counts[0], output_tokens=counts[1])]


async def test_a_byte_now_and_then_does_not_hold_the_end_back(read: Callable, ask: Callable) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streams(chunk("a"), END)(request)
        for _ in range(10_000):
            await response.write(b": ping\n\n")
            await asyncio.sleep(0.01)
        raise AssertionError("nobody hung up")

    async with model_of(handler, usage_timeout_s=0.1) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain", ""])
@pytest.mark.parametrize("cut", [False, True])
async def test_a_whole_completion_is_known_by_its_first_byte(
    read: Callable, ask: Callable, content_type: str, cut: bool
) -> None:
    whole = {
        "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type} if content_type else {})
        await response.prepare(request)
        await response.write(b"\r\n" + json.dumps(whole, indent=2).encode())
        if cut:
            request.transport.abort()
        return response

    async with model_of(handler) as model:
        assert await read(model, ask("?")) == (["hello", Finish(input_tokens=3, output_tokens=1)], None)


async def test_events_that_call_themselves_json(read: Callable, ask: Callable) -> None:
    body = (chunk("a") + END + DONE).decode()
    async with model_of(answers(200, body, Content_Type="application/json")) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


async def test_a_document_on_each_line(read: Callable, ask: Callable) -> None:
    body = "".join(part.decode().removeprefix("data: ").strip() + "\n" for part in (chunk("a"), chunk("b"), END))
    async with model_of(answers(200, body, Content_Type="application/x-ndjson")) as model:
        assert await read(model, ask("?")) == (["a", "b", Finish()], None)


async def test_a_body_that_is_no_answer_is_named_by_its_first_bytes(read: Callable, ask: Callable) -> None:
    async with model_of(answers(200, "<!DOCTYPE html><title>Sign in</title>", Content_Type="text/html")) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert "<!DOCTYPE html>" in error.detail


# --- errors, in every spelling ----------------------------------------------------------------------------------------

UNAVAILABLE, THROTTLED, FAILED = ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_THROTTLED, ErrorCode.MODEL_FAILED
_ERRORS = [
    ({"error": {"code": 429, "message": "x"}}, THROTTLED, True),
    ({"error": {"code": "429", "message": "x"}}, THROTTLED, True),
    ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, THROTTLED, True),
    ({"error": {"type": "rate_limit_error", "message": "x"}}, THROTTLED, True),
    ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, THROTTLED, True),
    ({"error": "Rate limit exceeded, slow down"}, THROTTLED, True),
    ({"error": {"type": "tooManyRequests"}}, THROTTLED, True),
    ({"object": "error", "message": "x", "code": 503}, UNAVAILABLE, True),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"code": "502", "message": "x"}}, UNAVAILABLE, True),
    ({"error": {"message": "The server is overloaded"}}, UNAVAILABLE, True),
    ({"error": {"type": "server_error", "code": None, "message": "x"}}, UNAVAILABLE, True),
    ({"choices": [{"delta": {}, "error": {"code": 504, "message": "x"}, "finish_reason": "error"}]}, UNAVAILABLE, True),
    ({"code": 500, "message": "x"}, UNAVAILABLE, True),
    ({"error": {"code": "insufficient_quota", "message": "x"}}, UNAVAILABLE, False),
    ({"error": {"code": "invalid_api_key", "message": "x"}}, UNAVAILABLE, False),
    ({"error": {"type": "invalid_request_error", "message": "x"}}, FAILED, False),
    ({"error": "boom"}, FAILED, False),
    ({"error": True}, FAILED, False),
    ({"error": {"code": "context_length_exceeded", "message": "x"}}, FAILED, False),
]


@pytest.mark.parametrize(("document", "code", "transient"), _ERRORS)
async def test_an_error_inside_a_stream_means_the_same_in_every_spelling(
    read: Callable, ask: Callable, document: object, code: ErrorCode, transient: bool
) -> None:
    async with model_of(streams(data(document))) as model:
        pieces, error = await read(model, ask("?"))
    assert (pieces, error.code, error.transient) == ([], code, transient)


@pytest.mark.parametrize("empty", [None, False, "", {}, []])
async def test_no_error_is_no_error(read: Callable, ask: Callable, empty: object) -> None:
    parts = [data({"error": empty, "choices": [{"delta": {"content": "a"}}]}), END]
    async with model_of(streams(*parts)) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, ModelFault.SETUP),
        (403, "forbidden", ModelFault.SETUP),
        (404, {"error": "model 'm' not found"}, ModelFault.SETUP),
        (429, {"error": {"code": "insufficient_quota"}}, ModelFault.SETUP),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ModelFault.TOO_LONG),
        (400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}, ModelFault.TOO_LONG),
        (400, {"error": {"type": "exceed_context_size_error", "message": "x"}}, ModelFault.TOO_LONG),
        (500, {"error": "the request exceeds the available context size. try increasing it"}, ModelFault.TOO_LONG),
        (413, "", ModelFault.TOO_LONG),
        (400, {"error": {"message": "prompt is too long: 200 tokens > 100 maximum"}}, ModelFault.TOO_LONG),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}, ModelFault.REFUSED),
        (418, "", ModelFault.REFUSED),
    ],
)
async def test_what_trying_again_does_not_cure(
    read: Callable, ask: Callable, status: int, body: object, fault: ModelFault
) -> None:
    async with model_of(answers(status, body if isinstance(body, str) else json.dumps(body))) as model:
        _, error = await read(model, ask("?"))
    assert isinstance(error, FinalModelError)
    assert error.fault is fault


async def test_a_refused_key_names_where_it_comes_from(read: Callable, ask: Callable, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-12345")
    async with serving(answers(401, '{"error":{"message":"no such key: sk-12345"}}')) as base_url:
        model = build_model(f"openai:{base_url}?api_key_env=MY_KEY#m")
        _, error = await read(model, ask("?"))
        await model.close()
    assert "MY_KEY, which is set" in error.detail
    assert "no such key: KEY" in error.detail


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 418, 422, 429, 500, 503])
@pytest.mark.parametrize("shape", ["fastapi", "message", "code", "text", "escaped", "cut"])
async def test_the_question_is_not_logged_in_any_error(
    ask: Callable, caplog: pytest.LogCaptureFixture, status: int, shape: str
) -> None:
    question = 'my password is "hunter2", 비밀번호'

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bodies = {
            "fastapi": json.dumps({"detail": [{"type": "x", "loc": ["body"], "msg": "bad", "input": body}]}),
            "message": json.dumps({"error": {"message": f"cannot do {question!r}", "code": question}}),
            "code": json.dumps({"code": question, "type": question, "status": status, "param": question}),
            "text": f"cannot do {question}",
            "escaped": json.dumps({"error": json.dumps({"input": question})}),
            "cut": f"cannot do {question}"[:-7],
        }
        return web.Response(status=status, text=bodies[shape])

    with caplog.at_level("DEBUG", "answerback"):
        async with model_of(handler) as model:
            with pytest.raises(ModelError) as caught:
                async for _ in ask_guarded(model, ask(question)):
                    pass
    for text in (str(caught.value), caplog.text):
        assert "hunter2" not in text
        assert "password" not in text
        assert "비밀" not in text
        assert "\\ube44" not in text


# --- dialects ---------------------------------------------------------------------------------------------------------

_UNSUPPORTED = {"error": {"message": "Unsupported parameter: '{}' is not supported.", "param": "{}", "code": "x"}}
_EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "{}"], "msg": "Extra inputs are not permitted"}]}


def dialect(refuses: Callable[[dict], str | None], seen: list[dict]) -> Handler:
    """A server that refuses a body with what `refuses` says of it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        if (refusal := refuses(body)) is not None:
            return await answers(422 if "detail" in refusal else 400, refusal)(request)
        return await streams(chunk("a"), END, DONE)(request)

    return handler


@pytest.mark.parametrize("shape", [_UNSUPPORTED, _EXTRA, "unknown field: {}"])
@pytest.mark.parametrize("known", ["max_tokens", "max_completion_tokens", None])
@pytest.mark.parametrize("knows_options", [True, False])
async def test_members_that_a_server_refuses_are_left_out_and_that_is_remembered(
    read: Callable, ask: Callable, shape: object, known: str | None, knows_options: bool
) -> None:
    text = shape if isinstance(shape, str) else json.dumps(shape)

    def refuses(body: dict) -> str | None:
        unknown = {"max_tokens", "max_completion_tokens"} - {known} | (set() if knows_options else {"stream_options"})
        return next((text.replace("{}", name) for name in body if name in unknown), None)

    seen: list[dict] = []
    async with model_of(dialect(refuses, seen)) as model:
        assert await read(model, ask("?", max_tokens=7)) == (["a", Finish()], None)
        tries = len(seen)
        assert await read(model, ask("?", max_tokens=7)) == (["a", Finish()], None)
    assert len(seen) == tries + 1
    assert ("stream_options" in seen[-1]) is knows_options
    assert {name: seen[-1][name] for name in seen[-1] if "max" in name} == ({known: 7} if known else {})


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("max_tokens is too large: 9000. This model supports at most 4096 completion tokens.", 4096),
        ("max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens", 8192),
        ("Range of max_tokens should be [1, 2048]", 2048),
    ],
)
async def test_a_limit_of_tokens_that_is_too_high_is_lowered(
    read: Callable, ask: Callable, message: str, sent: int
) -> None:
    seen: list[dict] = []
    refusal = json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    async with model_of(dialect(lambda body: refusal if body["max_tokens"] > sent else None, seen)) as model:
        assert (await read(model, ask("?", max_tokens=9000)))[1] is None
    assert [body["max_tokens"] for body in seen] == [9000, sent]


async def test_a_template_without_a_system_role(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    refusal = json.dumps({"error": {"message": "System role not supported", "code": 400}})

    def refuses(body: dict) -> str | None:
        return refusal if body["messages"][0]["role"] == "system" else None

    async with model_of(dialect(refuses, seen)) as model:
        assert (await read(model, ask("Hi", system="Be kind.")))[1] is None
    assert seen[-1]["messages"] == [{"role": "user", "content": "Be kind.\n\nHi"}]


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    refusal = "no stream_options, no max_tokens, no max_completion_tokens, no stream, no system role"
    async with model_of(dialect(lambda body: refusal, seen)) as model:
        _, error = await read(model, ask("?", system="s"))
        assert isinstance(error, FinalModelError)
        assert len(seen) <= 8
        assert model._dialect == Dialect(), "what did not help is not remembered"


async def test_a_question_cannot_teach_a_dialect(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    question = "What are stream_options and max_tokens?"
    async with model_of(dialect(lambda body: f"not allowed: {question}", seen)) as model:
        await read(model, ask(question))
    assert len(seen) == 1


async def test_the_spec_may_say_it_outright(read: Callable, ask: Callable) -> None:
    seen: list[dict] = []
    async with serving(dialect(lambda body: None, seen)) as base_url:
        model = build_model(f"openai:{base_url}?max_tokens_field=none&stream_options=0&system_role=user#m")
        assert (await read(model, ask("?", system="s")))[1] is None
        await model.close()
    assert set(seen[0]) == {"model", "messages", "stream"}
    assert [one["role"] for one in seen[0]["messages"]] == ["user"]


# --- what is checked before the first question ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, {"data": [{"id": "m"}]}, None),
        (200, {"data": [{"id": "other"}]}, "other"),
        (200, {"data": "?"}, None),
        (200, "", None),
        (404, "", None),
        (401, "", "OPENAI_API_KEY, which is not set"),
        (403, "", "OPENAI_API_KEY, which is not set"),
    ],
)
async def test_the_list_of_models_tells_what_is_wrong(status: int, body: object, says: str | None) -> None:
    app = web.Application()
    app.router.add_get("/v1/models", answers(status, body if isinstance(body, str) else json.dumps(body)))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model = build_model(f"openai:http://127.0.0.1:{runner.addresses[0][1]}/v1#m")
    problem = await model.check()
    await model.close()
    await runner.cleanup()
    assert problem is None if says is None else says in problem


async def test_a_server_that_is_not_there_is_told_before_the_first_question() -> None:
    async with serving(answers(200)) as base_url:
        pass
    model = build_model(f"openai:{base_url}#m")
    assert "does not answer" in await model.check()
    await model.close()


def test_a_key_from_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    model = build_model(f"openai:http://127.0.0.1/v1?api_key_file={file}#m")
    assert model._model._http._headers["Authorization"] == "Bearer sk-1"
    with pytest.raises(ModelSpecError, match="cannot be read"):
        build_model(f"openai:http://127.0.0.1/v1?api_key_file={tmp_path / 'absent'}#m")


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
    monkeypatch.delitem(sys.modules, "answerback.models.openai")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ModelSpecError, match=r"pip install '\.\[openai\]'"):
        build_model("openai:http://127.0.0.1/v1#m")
