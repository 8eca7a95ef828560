"""A bare echo in aiohttp: the two frames, words as deltas, and nothing else. No auth, store, order, limits or resume.

Usage: aiohttp_echo.py DELAY_MS
"""

import asyncio
import sys

import msgspec
from aiohttp import WSMsgType, web


def encode(frame: dict[str, object]) -> str:
    return msgspec.json.encode(frame).decode()


async def serve(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    tasks: set[asyncio.Task[None]] = set()
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            continue
        frame = msgspec.json.decode(message.data)
        if frame.get("stream"):
            task = asyncio.create_task(stream(socket, frame))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            await socket.send_str(ending(frame, frame["message"]))
    return socket


async def stream(socket: web.WebSocketResponse, frame: dict[str, str]) -> None:
    words = frame["message"].split(" ")
    offset = 0
    for number, word in enumerate(words):
        if DELAY_S:
            await asyncio.sleep(DELAY_S)
        delta = word if number == len(words) - 1 else word + " "
        fields = {"requestId": frame["requestId"], "attempt": 1, "offset": offset, "delta": delta}
        await socket.send_str(encode({"action": "messageDelta", **fields}))
        offset += len(delta)
    await socket.send_str(ending(frame, None))


def ending(frame: dict[str, str], response: str | None) -> str:
    fields = {"requestId": frame["requestId"], "status": "completed", "response": response}
    return encode({"action": "messageResponse", **fields, "attempt": 1, "length": len(frame["message"])})


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    port = runner.addresses[0][1]
    print(f"listening on ws://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    DELAY_S = float(sys.argv[1]) / 1000
    import uvloop

    uvloop.run(main())
