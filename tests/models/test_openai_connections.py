"""Connections to a server of the OpenAI protocol: used again, stale, silent, hung up."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest
from aiohttp import web

from answerback.models.openai import OpenAIModel
from answerback.models.retrying import RetryingModel
from answerback.ports import Finish, ModelError
from answerback.protocol.errors import ErrorCode
from openai_server import DONE, answers, chunk, model_of, serving, streams

pytestmark = pytest.mark.usefixtures("own_network")


async def test_connections_are_used_again(read: Callable, ask: Callable) -> None:
    ports = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await streams(chunk("a"), chunk(finish="stop"), DONE)(request)

    async with model_of(handler) as model:
        for _ in range(3):
            assert (await read(model, ask("?")))[1] is None
    assert len(ports) == 1


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
