"""Apps that ask one question after the other, while something happens to their gateways."""

import asyncio
import time
from collections import Counter

from answerback import Client

TEXT = " ".join(f"단어{n}" for n in range(40))


class SteadyLoad:
    """Apps that ask all the while, and compare each streamed answer with its question."""

    def __init__(self) -> None:
        self.attempts: Counter[int] = Counter()
        self.longest_s = 0.0
        """Without a word, of an answer."""
        self._over = asyncio.Event()
        self._answered = asyncio.Condition()

    async def use(self, app: Client, name: str) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            stream = app.stream(f"{name} {turn} {TEXT}", conversation=name)
            text, last = "", time.monotonic()
            async for piece in stream:
                self.longest_s, last = max(self.longest_s, time.monotonic() - last), time.monotonic()
                text += piece
            assert text == f"{name} {turn} {TEXT}"
            attempt = (await stream.answer).attempt
            async with self._answered:
                self.attempts[attempt] += 1
                self._answered.notify_all()

    async def until(self, answers: int) -> None:
        """Wait for so many more."""
        answers += self.attempts.total()
        async with self._answered:
            await self._answered.wait_for(lambda: self.attempts.total() >= answers)

    def stop(self) -> None:
        self._over.set()
