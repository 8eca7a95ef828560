"""What an answer costs where it is read: CPU a frame and memory, printed as JSON.

Usage: clients.py sdk|engine URL COUNT ANSWERS WORDS
`sdk`: so many clients of `answerback.Client` in one process. `engine`: the desktop app's engine with its local store,
and answers in so many conversations at a time.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from uuid import uuid4

import uvloop

from answerback import Client
from answerback.client import Text
from answerback_proof.load.process import usage_of
from answerback_proof.workload import question

_POLL_S = 1 / 30
"""As often as the app looks for events."""


async def sdk(url: str, clients: int, answers: int, words: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Client(url, user="warm-up"))
        before = memory()
        opened = [await stack.enter_async_context(Client(url, user=f"user-{number}")) for number in range(clients)]
        after = memory()
        frames = count()

        async def ask(number: int, client: Client) -> None:
            for turn in range(answers):
                text, parts = question(f"{number}.{turn}", words), []
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


def engine(url: str, conversations: int, answers: int, words: int) -> dict[str, float]:
    from answerback_desktop.engine import Engine, Environment
    from answerback_desktop.engine.events import TextAppended, TurnChanged
    from answerback_desktop.profile import Profile
    from answerback_desktop.records import TurnStatus
    from answerback_desktop.settings import Settings, SettingsFile
    from answerback_desktop.signin.vault import MemoryVault

    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as folder:
        profile = Profile.named("bench", root=Path(folder))
        profile.folder.mkdir(parents=True)
        SettingsFile(profile.settings_path).save(Settings(server_url=url, user="desktop"))
        before = memory()
        app = Engine(Environment(profile=profile, vault=MemoryVault()))
        app.start()
        after, cpu_s, texts = memory(), time.process_time(), 0
        for turn in range(answers):
            asked = {str(uuid4()): question(f"{number}.{turn}", words) for number in range(conversations)}
            for number, (request_id, text) in enumerate(asked.items()):
                app.ask(f"conversation-{number}", request_id, text)
            while asked:
                time.sleep(_POLL_S)
                for event in app.drain():
                    texts += isinstance(event, TextAppended)
                    if isinstance(event, TurnChanged) and event.turn.status.is_over:
                        assert event.turn.status is TurnStatus.COMPLETED
                        assert event.turn.answer == asked.pop(event.turn.request_id)
        cpu_s = time.process_time() - cpu_s
        app.close()
        app.join()
    # Of each answer also the acceptance, the start and the ending.
    return {"frame_us": cpu_s / (texts + 3 * conversations * answers) * 1e6, "client_kb": (after - before) / 1000}


def memory() -> int:
    usage = usage_of(os.getpid())
    return 0 if usage is None else usage.rss_bytes


if __name__ == "__main__":
    kind, url, *numbers = sys.argv[1:]
    figures = uvloop.run(sdk(url, *map(int, numbers))) if kind == "sdk" else engine(url, *map(int, numbers))
    print(json.dumps(figures))
