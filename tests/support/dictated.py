"""A model that says what the test dictates, when it dictates it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

from answerback.ports import Finish, Piece, Prompt


class DictatedModel:
    """`say` and `end` go to the question of these very words, whether or not it has been asked yet."""

    def __init__(self, name: str = "dictated") -> None:
        self.name = name
        self.context_tokens = 100_000
        self.concurrency = 1_000
        self.prompts: list[Prompt] = []
        self._lines: dict[str, asyncio.Queue[Piece | Exception]] = defaultdict(asyncio.Queue)

    def say(self, question: str, *pieces: str) -> None:
        for piece in pieces:
            self._lines[question].put_nowait(piece)

    def end(self, question: str, *pieces: str, reason: str = "stop") -> None:
        self.say(question, *pieces)
        self._lines[question].put_nowait(Finish(reason=reason, input_tokens=3, output_tokens=5))

    def fail(self, question: str, error: Exception) -> None:
        self._lines[question].put_nowait(error)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        lines = self._lines[prompt.messages[-1].text]
        while True:
            line = await lines.get()
            if isinstance(line, Exception):
                raise line
            yield line
            if isinstance(line, Finish):
                return

    async def close(self) -> None:
        pass
