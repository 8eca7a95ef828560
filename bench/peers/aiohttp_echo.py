"""A bare echo in aiohttp: the gateway's frames, and nothing else. No auth, store, order, limits or resume.

Usage: aiohttp_echo.py WORD_MS
"""

import asyncio
import re
import sys

import msgspec
import uvloop
from aiohttp import WSMsgType, web

WORD_S = float(sys.argv[1]) / 1000


async def serve(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    tasks: set[asyncio.Task[None]] = set()
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            continue
        frame = msgspec.json.decode(message.data)
        if frame["action"] == "sendMessage":
            task = asyncio.create_task(answer(socket, frame))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    return socket


async def answer(socket: web.WebSocketResponse, frame: dict[str, str]) -> None:
    async def send(action: str, **fields: object) -> None:
        values = {"action": action, "requestId": frame["requestId"], **fields}
        await socket.send_str(msgspec.json.encode(values).decode())

    await send("messageAccepted", conversationId="echo", position=0)
    words = re.findall(r"\S+\s*", frame["message"])
    if frame.get("stream"):
        await send("messageStarted", attempt=1)
        offset = 0
        for word in words:
            if WORD_S:
                await asyncio.sleep(WORD_S)
            await send("messageDelta", attempt=1, offset=offset, delta=word)
            offset += len(word)
    response = None if frame.get("stream") else "".join(words)
    usage = {"inputTokens": len(words), "outputTokens": len(words)}
    end = {"attempt": 1, "length": len(frame["message"]), "finishReason": "stop", "usage": usage, "model": "echo"}
    await send("messageResponse", status="completed", response=response, **end)


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(f"listening on ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
