"""A small server that does a peer's job, or lies about it in one way: what bench's check of peers must tell apart.

Usage: durable_stub.py FOLDER WAY    WAY: honest, early-acceptance, early-ending, forgets, another-text, fewer-fields
"""

import asyncio
import json
import sqlite3
import sys
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

FOLDER, WAY = sys.argv[1:]
DATABASE = sqlite3.connect(f"{FOLDER}/stub.db", isolation_level=None)
DATABASE.execute("PRAGMA journal_mode = WAL")
DATABASE.execute("PRAGMA synchronous = FULL")
DATABASE.execute("CREATE TABLE requests (id TEXT PRIMARY KEY, question TEXT, answer TEXT)")


async def talk(connection: ServerConnection) -> None:
    async def send(action: str, **fields: Any) -> None:
        await connection.send(json.dumps({"action": action, "requestId": request_id, **fields}))

    async for text in connection:
        frame = json.loads(text)
        request_id, question = frame["requestId"], frame["message"]
        answer = question[:-1] if WAY == "another-text" else question
        if WAY == "early-acceptance":
            await send("messageAccepted", conversationId="c", position=0)
        DATABASE.execute("INSERT INTO requests (id, question) VALUES (?, ?)", (request_id, question))
        if WAY != "early-acceptance":
            await send("messageAccepted", conversationId="c", position=0)
        if frame.get("stream"):
            await send("messageStarted", attempt=1)
            await send("messageDelta", attempt=1, offset=0, delta=answer)
        kept = "" if WAY == "forgets" else answer
        update = ("UPDATE requests SET answer = ? WHERE id = ?", (kept, request_id))
        if WAY != "early-ending":
            DATABASE.execute(*update)
        usage = {} if WAY == "fewer-fields" else {"usage": {"inputTokens": 1, "outputTokens": 1}}
        response = None if frame.get("stream") else answer
        end = {"attempt": 1, "length": len(answer), "finishReason": "stop", "model": "echo", **usage}
        await send("messageResponse", status="completed", response=response, **end)
        if WAY == "early-ending":
            DATABASE.execute(*update)


async def main() -> None:
    async with serve(talk, "127.0.0.1", 0) as server:
        print(f"listening on ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
