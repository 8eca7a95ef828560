"""A model server of the OpenAI protocol that answers with the question, a word a chunk.

Usage: upstream.py WORD_MS    the time for a word; GET /streams counts those that are open, those that were cut off, and
                              the tokens that a provider would bill: a word is one, and what was sent is paid for
"""

import asyncio
import json
import re
import sys
import time

import uvloop
from aiohttp import web

WORD_S = float(sys.argv[1]) / 1000
STREAMS = {"open": 0, "stopped": 0, "last_stopped_at": 0.0, "billed": 0}


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def complete(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    question = asked["messages"][-1]["content"]
    sent, taken = 0, sum(len(message["content"].split()) for message in asked["messages"])
    STREAMS["billed"] += taken
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    STREAMS["open"] += 1
    try:
        await response.prepare(request)
        for word in re.findall(r"\S+\s*", question):
            if WORD_S:
                await asyncio.sleep(WORD_S)
            sent, STREAMS["billed"] = sent + 1, STREAMS["billed"] + 1
            await response.write(event({"content": word}))
        await response.write(event({}, "stop"))
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": taken, "completion_tokens": sent, "total_tokens": taken + sent}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": []}
            await response.write(b"data: " + json.dumps({**chunk, "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        STREAMS["stopped"] += 1
        STREAMS["last_stopped_at"] = time.time()
        raise
    finally:
        STREAMS["open"] -= 1
    return response


async def streams(_: web.Request) -> web.Response:
    return web.json_response(STREAMS)


async def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/streams", streams)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(f"listening on ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
