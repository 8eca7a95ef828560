"""Bedrock's side of ConverseStream: frames of its event stream, and a server on loopback that sends them."""

import asyncio
import json
import ssl
from binascii import crc32
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from struct import pack

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def event(kind: str, payload: object, *, message_type: str = "event") -> bytes:
    """One frame; `message_type` exception: the stream breaks with that error."""
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


def delta(text: str) -> bytes:
    """A piece of text."""
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})


def reasoning(text: str) -> bytes:
    """A piece of what the model thinks."""
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": text}}})


def uses(block: int, name: str, *pieces: str) -> list[bytes]:
    """The call of a tool, its arguments in pieces."""
    start = {"contentBlockIndex": block, "start": {"toolUse": {"toolUseId": f"t{block}", "name": name}}}
    deltas = ({"contentBlockIndex": block, "delta": {"toolUse": {"input": piece}}} for piece in pieces)
    return [event("contentBlockStart", start), *(event("contentBlockDelta", piece) for piece in deltas)]


def cites(citation: dict[str, object]) -> bytes:
    """A source of the text before it."""
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"citation": citation}})


def stop(reason: str = "end_turn") -> bytes:
    """The end of the answer, before its usage."""
    return event("contentBlockStop", {"contentBlockIndex": 0}) + event("messageStop", {"stopReason": reason})


def usage(input_tokens: int, output_tokens: int, **more: int) -> bytes:
    """The last frame."""
    counts = {"inputTokens": input_tokens, "outputTokens": output_tokens, "totalTokens": input_tokens + output_tokens}
    return event("metadata", {"usage": counts | more, "metrics": {"latencyMs": 1}})


def broken(kind: str, message: str = "planted") -> bytes:
    """An error in the middle of a stream."""
    return event(kind, {"message": message}, message_type="exception")


START = event("messageStart", {"role": "assistant"})


def streams(*parts: bytes, cut: bool = False, hang: bool = False) -> Handler:
    """Sends the parts; `cut` then drops the connection, `hang` says nothing more."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        for part in (START, *parts):
            await response.write(part)
        if hang:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


def refuses(status: int, code: str, message: str = "planted", **headers: str) -> Handler:
    """Answers the call with an error."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": message}, status=status, headers={"x-amzn-ErrorType": code, **headers})

    return handler


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A Bedrock on loopback whose Converse and ConverseStream are `handler`; yields its endpoint."""
    app = web.Application()
    for call in ("converse-stream", "converse"):
        app.router.add_post("/model/{model:.+}/" + call, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
