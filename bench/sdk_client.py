"""Many clients of the SDK in one process: CPU a frame and memory a client, printed as JSON.

Usage: sdk_client.py URL CLIENTS ANSWERS WORDS
"""

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from itertools import count

import uvloop

from answerback import Client
from answerback.client import Text
from answerback_proof.load.load import question
from answerback_proof.load.process import usage_of


async def main(url: str, clients: int, answers: int, words: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Client(url, user="warm-up"))
        before = memory()
        opened = [await stack.enter_async_context(Client(url, user=f"user-{number}")) for number in range(clients)]
        after = memory()
        frames = count()

        async def ask(number: int, client: Client) -> None:
            for turn in range(answers):
                text, parts = question(number, turn, words=words), []
                async with client.stream(text) as stream:
                    async for event in stream.events():
                        next(frames)
                        if isinstance(event, Text):
                            parts.append(event.delta)
                assert "".join(parts) == text

        cpu_s = time.process_time()
        await asyncio.gather(*(ask(number, client) for number, client in enumerate(opened)))
        cpu_s = time.process_time() - cpu_s
    return {"frame_us": cpu_s / next(frames) * 1e6, "client_kb": (after - before) / clients / 1000}


def memory() -> int:
    usage = usage_of(os.getpid())
    return 0 if usage is None else usage.rss_bytes


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:])))))
