"""A model that follows a script."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeAlias

from answerback.ports import Finish, Part, Piece, Prompt

Line: TypeAlias = str | Part | float | Finish | Exception
"""Text or a part to say, seconds to wait, the finish, or an error to raise."""


class ScriptedModel:
    """ports.Model that answers with what `script` returns; it keeps every prompt, so that a test can count runs."""

    def __init__(
        self, script: Callable[[Prompt], Iterable[Line]], *, name: str = "scripted", context_tokens: int = 4096
    ) -> None:
        self._script = script
        self._name = name
        self._context_tokens = context_tokens
        self.prompts: list[Prompt] = []
        self.running = 0
        self.stopped = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def concurrency(self) -> int:
        return 1_000

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        self.running += 1
        finished = False
        try:
            for line in self._script(prompt):
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, float):
                    await asyncio.sleep(line)
                else:
                    yield line
            finished = True
        finally:
            self.running -= 1
            self.stopped += not finished

    async def close(self) -> None:
        pass


def say_question(prompt: Prompt) -> Iterable[Line]:
    """A script: the question's own words, one a piece, 10 ms apart."""
    question = prompt.messages[-1].text
    words = question.split(" ")
    for number, word in enumerate(words):
        yield word if number == 0 else f" {word}"
        yield 0.01
    yield Finish(input_tokens=len(words), output_tokens=len(words))
