"""Bedrock's ConverseStream over HTTP on this machine, answered by a script: one of our models, or what a test wants.

Real frames of `application/vnd.amazon.eventstream`, each sent as the script yields it.
"""

import asyncio
import json
import threading
from binascii import crc32
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from struct import pack
from typing import Any, Final, Self, TypeAlias, TypeVar
from urllib.parse import unquote

from aiohttp import web

from answerback.core import defaults
from answerback.core.context import Message, Role
from answerback.ports import Finish, Model, ModelError, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode

T = TypeVar("T")

EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_START_S: Final = 10.0
_MAX_BODY_BYTES: Final = 25 * 1024 * 1024
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call. `question`: text of the last message. `number`: counts the calls from 1. `body`: the whole request."""

    model_id: str
    question: str
    number: int
    body: dict[str, Any]


class Refused(Exception):
    """Raised by a script before its first text: the call fails, as with `ThrottlingException` and status 429."""

    def __init__(self, status: int, code: str, message: str = "Refused by the script") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


class Broken(Exception):
    """Raised by a script after text: the stream ends with an exception, as `modelStreamErrorException`."""

    def __init__(self, code: str, message: str = "Broken by the script") -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Cut(Exception):
    """Raised by a script: the connection is dropped in mid-stream."""


Script: TypeAlias = Callable[[Asked], AsyncGenerator[Piece, None]]
"""What is answered: pieces of text, and at most one Finish at the end. May raise Refused, Broken and Cut."""


OpenApp: TypeAlias = Callable[[], AbstractAsyncContextManager[web.Application]]
"""Makes the application on the server's event loop, and ends what it used."""


class ThreadedServer:
    """Serves an application on 127.0.0.1 from a thread of its own, as a context manager of blocking code.

    It may be stopped and started again, then on the same port. `cancels`: a request whose client has gone is cancelled.
    """

    def __init__(self, name: str, open_app: OpenApp, *, cancels: bool = False) -> None:
        self._name = name
        self._open_app = open_app
        self._cancels = cancels
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start serving. Raises: OSError: no port."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=self._name, daemon=True)
        self._thread.start()
        ready.wait(_START_S)
        if self._failure is not None:
            raise self._failure

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's event loop, and wait for it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as exc:  # raised in the thread that waits for the start
            self._failure = exc
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._open_app() as app:
            runner = web.AppRunner(app, handler_cancellation=self._cancels, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", self._port).start()
                self._port = runner.addresses[0][1]
                ready.set()
                await self._stop.wait()
            finally:
                await runner.cleanup()


class BedrockServer(ThreadedServer):
    """Answers by `script`, which may be changed at any time. `asked` are the calls so far, in the order of arrival."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__("bedrock", self._app, cancels=True)
        self.script = script or _silent
        self.asked: list[Asked] = []

    @asynccontextmanager
    async def _app(self) -> AsyncIterator[web.Application]:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/model/{model:.+}/converse-stream", self._converse)
        yield app

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        asked = Asked(
            model_id=unquote(request.match_info["model"]),
            question=_text(body["messages"][-1]),
            number=len(self.asked) + 1,
            body=body,
        )
        self.asked.append(asked)
        response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM})
        finish, blocks = Finish(), _Blocks()
        try:
            async with aclosing(self.script(asked)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        finish = piece
                        break
                    await self._begin(request, response)
                    await response.write(blocks.frames(piece))
        except Refused as refused:
            headers = {"x-amzn-ErrorType": refused.code}
            return web.json_response({"message": refused.message}, status=refused.status, headers=headers)
        except Broken as broken:
            await self._begin(request, response)
            await response.write(_frame(broken.code, {"message": broken.message}, message_type="exception"))
            return response
        except Cut:
            await self._begin(request, response)
            if request.transport is not None:
                request.transport.abort()
            return response
        await self._begin(request, response)
        await response.write(blocks.end() + _ending(finish))
        return response

    async def _begin(self, request: web.Request, response: web.StreamResponse) -> None:
        if not response.prepared:
            await response.prepare(request)
            await response.write(_frame("messageStart", {"role": "assistant"}))


@dataclass(slots=True)
class _Blocks:
    """The content blocks of an answer: each part is one. Bedrock knows no results and no status."""

    number: int = -1
    kind: str = ""

    def frames(self, piece: str | Part) -> bytes:
        part = Part("text", piece) if isinstance(piece, str) else piece
        said: dict[str, Callable[[], object]] = {
            "text": lambda: {"text": part.text},
            "reasoning": lambda: {"reasoningContent": {"text": part.text}},
            "tool": lambda: {"toolUse": {"input": part.text}},
            "citation": lambda: {"citation": json.loads(part.text)},
        }
        if part.kind not in said:
            return b""
        begun = b""
        if part.kind != self.kind or part.new:
            begun, self.number, self.kind = self.end(), self.number + 1, part.kind
            if part.kind == "tool":
                use = {"toolUseId": f"call-{self.number}", "name": part.name}
                start = {"contentBlockIndex": self.number, "start": {"toolUse": use}}
                begun += _frame("contentBlockStart", start)
        delta = {"contentBlockIndex": self.number, "delta": said[part.kind]()}
        return begun + _frame("contentBlockDelta", delta)

    def end(self) -> bytes:
        return _frame("contentBlockStop", {"contentBlockIndex": max(0, self.number)})


async def _silent(_asked: Asked) -> AsyncGenerator[Piece, None]:
    """Nothing, until there is a script."""
    yield Finish()


def of_model(model: Model) -> Script:
    """Answers as `model` does. Its errors become Bedrock's."""

    async def script(asked: Asked) -> AsyncGenerator[Piece, None]:
        began = False
        try:
            async with aclosing(model.stream(_prompt(asked.body))) as pieces:
                async for piece in pieces:
                    began = True
                    yield piece
        except ModelError as exc:
            name, status = _ERRORS.get(exc.code, ("ModelErrorException", 424))
            if began:
                raise Broken(name[0].lower() + name[1:]) from exc
            raise Refused(status, name) from exc

    return script


_ERRORS: Final = {
    ErrorCode.MODEL_THROTTLED: ("ThrottlingException", 429),
    ErrorCode.MODEL_UNAVAILABLE: ("ServiceUnavailableException", 503),
    ErrorCode.MODEL_FAILED: ("ModelStreamErrorException", 424),
}


def _prompt(body: dict[str, Any]) -> Prompt:
    system = "\n".join(part["text"] for part in body.get("system", ()) if "text" in part)
    return Prompt(
        messages=tuple(Message(Role(message["role"]), _text(message)) for message in body["messages"]),
        system=system or None,
        max_tokens=body.get("inferenceConfig", {}).get("maxTokens", defaults.MAX_TOKENS),
    )


def _text(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def _ending(finish: Finish) -> bytes:
    tokens_in, tokens_out = finish.input_tokens or 0, finish.output_tokens or 0
    usage = {"inputTokens": tokens_in, "outputTokens": tokens_out, "totalTokens": tokens_in + tokens_out}
    return _frame("messageStop", {"stopReason": _STOP_REASONS.get(finish.reason, finish.reason)}) + _frame(
        "metadata", {"usage": usage, "metrics": {"latencyMs": 1}}
    )


def _frame(kind: str, payload: object, *, message_type: str = "event") -> bytes:
    """One frame of the event stream: prelude, headers, payload, each length and checksum."""
    headers = b""
    for name, value in (
        (f":{message_type}-type", kind),
        (":content-type", "application/json"),
        (":message-type", message_type),
    ):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + pack(">I", crc32(prelude)) + headers + body
    return message + pack(">I", crc32(message))
