"""Bedrock as the judge's witness: it echoes, enters each of its runs into the book, and fails as Bedrock does."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Final

from answerback.models.echo import echo_deltas
from answerback.ports import Finish, Piece
from answerback_aws.emulator.bedrock import Asked, Broken, Cut, Refused
from answerback_proof.chaos.book import Book, Kind

THROTTLED: Final = "Bedrock throttled"
OVERLOADED: Final = "Bedrock unavailable"
BROKEN: Final = "Bedrock broken in mid-stream"
CUT: Final = "Bedrock's connection cut in mid-stream"
STALLED: Final = "Bedrock stalled in mid-stream"
MODEL_FAULTS: Final = (THROTTLED, OVERLOADED, BROKEN, CUT, STALLED)

_WELL: Final = ""
_FATES: Final = (_WELL, *MODEL_FAULTS)
_WEIGHTS: Final = (85, 5, 2, 3, 2, 3)
_STALL_S: Final = (1.0, 8.0)


class StruckModel:
    """A script of `BedrockServer`. It runs on that server's event loop.

    `attempt_of`: the attempt that runs a request now, by request id; what Bedrock is asked does not name it.
    """

    def __init__(self, book: Book, *, seed: int, delay_ms: float, attempt_of: Callable[[str], int]) -> None:
        self._book = book
        self._seed = seed
        self._delay_s = delay_ms / 1000
        self._attempt_of = attempt_of
        self._calls: Counter[str] = Counter()
        self._is_calm = False
        self.running = 0

    def calm(self) -> None:
        """From now on every answer comes whole."""
        self._is_calm = True

    async def __call__(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """See Script."""
        question: str = asked.body["messages"][-1]["content"][-1]["text"]
        request_id = question.partition(":")[0]
        self._calls[request_id] += 1
        rng = random.Random(f"{self._seed} model {request_id} {self._calls[request_id]}")  # noqa: S311
        fate = _WELL if self._is_calm else rng.choices(_FATES, _WEIGHTS)[0]
        if fate is not _WELL:
            self._book.struck(fate)
        if fate == THROTTLED:
            raise Refused(429, "ThrottlingException")
        if fate == OVERLOADED:
            raise Refused(503, "ServiceUnavailableException")
        await self._ran(request_id)
        self.running += 1
        try:
            async for piece in self._answer(question, fate, rng):
                yield piece
        finally:
            self.running -= 1

    async def _answer(self, question: str, fate: str, rng: random.Random) -> AsyncGenerator[Piece, None]:
        pieces = list(echo_deltas(question))
        strikes_at = rng.randint(1, len(pieces))
        for number, piece in enumerate(pieces, 1):
            yield piece
            await asyncio.sleep(self._delay_s)
            if number == strikes_at:
                await self._strike(fate, rng)
        yield Finish(input_tokens=len(pieces), output_tokens=len(pieces))

    @staticmethod
    async def _strike(fate: str, rng: random.Random) -> None:
        if fate == BROKEN:
            raise Broken(rng.choice(("modelStreamErrorException", "throttlingException", "internalServerException")))
        if fate == CUT:
            raise Cut
        if fate == STALLED:
            await asyncio.sleep(rng.uniform(*_STALL_S))

    async def _ran(self, request_id: str) -> None:
        book = self._book
        asked = book.asked.get(request_id)
        if asked is None:
            book.violate(Kind.FOREIGN, request_id, "the model was run for a question that nobody asked")
            return
        attempt = await asyncio.to_thread(self._attempt_of, request_id)
        book.runs[request_id].append(attempt)
        book.run_order.append(request_id)
        asked.note(model="run", attempt=attempt)
