"""Models whose other side follows a script: a server of the OpenAI protocol, Bedrock, llama.cpp, code of one's own."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from aiohttp import web
from botocore import UNSIGNED
from botocore.config import Config
from botocore.session import get_session

import bedrock_frames
from answerback.models.bedrock import BedrockModel
from answerback.models.local import LocalModel
from answerback.models.openai import OpenAIModel
from answerback.models.python import PythonModel
from answerback.ports import Finish, Model, Piece, Prompt

Then: TypeAlias = Literal["ends", "breaks", "is silent", "says more"]


@dataclass(kw_only=True)
class Script:
    """What the other side says to each question. `reason` in the words of the OpenAI protocol; None: no end is told.

    `asked` keeps what it got, as text. `refuses`: what a server has against a request, which it then refuses with 400.
    """

    texts: tuple[str, ...] = ("one ", "two")
    reason: str | None = "stop"
    then: Then = "ends"
    asked: list[str] = field(default_factory=list)
    refuses: Callable[[str], str | None] = lambda _: None


Upstream: TypeAlias = Callable[[Script], AbstractAsyncContextManager[Model]]

_BEDROCK_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}


def chunk(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    """A chunk of the OpenAI protocol."""
    return {"choices": [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}]}


def _chunks(script: Script) -> list[dict[str, Any]]:
    end = [] if script.reason is None else [chunk(finish=script.reason)]
    return [*map(chunk, script.texts), *end, *([chunk("more")] if script.then == "says more" else [])]


@asynccontextmanager
async def openai(script: Script) -> AsyncIterator[Model]:
    async def handle(request: web.Request) -> web.StreamResponse:
        script.asked.append(text := await request.text())
        if (message := script.refuses(text)) is not None:
            return web.json_response({"error": {"message": message}}, status=400)
        if "stream" not in json.loads(text):
            whole = {"message": {"content": "".join(script.texts)}, "finish_reason": script.reason}
            return web.json_response({"choices": [whole]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for one in _chunks(script):
            await response.write(f"data: {json.dumps(one)}\n\n".encode())
        if script.then == "is silent":
            await asyncio.Event().wait()
        if script.then == "breaks":
            assert request.transport is not None
            request.transport.abort()
        return response

    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    model = OpenAIModel(base_url=f"http://{host}:{port}/v1", model="m")
    yield model
    await model.close()
    await runner.cleanup()


@asynccontextmanager
async def bedrock(script: Script) -> AsyncIterator[Model]:
    async def handle(request: web.Request) -> web.StreamResponse:
        is_stream = request.path.endswith("-stream")
        body = await request.json() | ({"stream": True} if is_stream else {})  # as the other protocol has it
        script.asked.append(text := json.dumps(body))
        if (message := script.refuses(text)) is not None:
            return await bedrock_frames.refuses(400, "ValidationException", message)(request)
        if not is_stream:
            content = [{"text": text} for text in script.texts]
            reason = _BEDROCK_REASONS.get(script.reason or "", script.reason)
            return web.json_response(
                {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason}
            )
        parts = [bedrock_frames.delta(text) for text in script.texts]
        if script.reason is not None:
            parts.append(bedrock_frames.stop(_BEDROCK_REASONS.get(script.reason, script.reason)))
        if script.then == "says more":
            parts.append(bedrock_frames.delta("more"))
        ends = {"cut": script.then == "breaks", "hang": script.then == "is silent"}
        return await bedrock_frames.streams(*parts, **ends)(request)

    async with bedrock_frames.serving(handle) as endpoint:
        config = Config(signature_version=UNSIGNED, region_name="us-east-1", retries={"total_max_attempts": 1})
        client = get_session().create_client("bedrock-runtime", endpoint_url=endpoint, config=config)
        model = BedrockModel(client=client, model="m")
        yield model
        await model.close()


class _LlamaCpp:
    """What LocalModel needs of xllamacpp.Server."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.closing = threading.Event()

    def handle_chat_completions(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], bool]) -> None:
        self._script.asked.append(json.dumps(request))
        for one in _chunks(self._script):
            if emit(one):
                return
        # A chunk with nothing in it, as llama.cpp gives them while it reads a prompt.
        while self._script.then == "is silent" and not self.closing.wait(0.01):
            if emit({}):
                return
        if self._script.then == "breaks":
            raise RuntimeError("planted")


@asynccontextmanager
async def local(script: Script) -> AsyncIterator[Model]:
    model = LocalModel()
    model._server = server = _LlamaCpp(script)
    yield model
    server.closing.set()
    await model.close()


@asynccontextmanager
async def python_async(script: Script) -> AsyncIterator[Model]:
    async def answer(prompt: Prompt) -> AsyncGenerator[Piece, None]:
        script.asked.append(repr(prompt))
        for text in script.texts:
            yield text
        if script.reason is not None:
            yield Finish(reason=script.reason)
        if script.then == "says more":
            yield "more"
        if script.then == "is silent":
            await asyncio.Event().wait()
        if script.then == "breaks":
            raise ValueError("planted")

    yield PythonModel(answer, name="mine")


@asynccontextmanager
async def python_blocking(script: Script) -> AsyncIterator[Model]:
    closing = threading.Event()

    def answer(prompt: Prompt) -> Iterator[Piece]:
        script.asked.append(repr(prompt))
        yield from script.texts
        if script.reason is not None:
            yield Finish(reason=script.reason)
        if script.then == "says more":
            yield "more"
        if script.then == "is silent":
            closing.wait(0.1)  # nobody can stop it
        if script.then == "breaks":
            raise ValueError("planted")

    yield PythonModel(answer, name="mine")


REMOTE: dict[str, Upstream] = {"openai": openai, "bedrock": bedrock}
SERVERS: dict[str, Upstream] = {**REMOTE, "local": local}
UPSTREAMS: dict[str, Upstream] = {**SERVERS, "python, async": python_async, "python, blocking": python_blocking}
