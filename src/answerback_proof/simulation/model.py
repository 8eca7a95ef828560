"""A model whose words name the request, and that says what it was asked and when."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from answerback.core.request import RequestKey
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode
from answerback_proof.simulation.faults import Dice, Faults
from answerback_proof.simulation.process import Process, current

WORDS_S = 0.35


@dataclass(slots=True, kw_only=True)
class ModelRun:
    """One attempt at the model. `ended_at` None: it runs, or its process died in the middle of it."""

    key: RequestKey
    attempt: int
    prompt: Prompt
    started_at: float
    process: Process | None
    ended_at: float | None = None
    has_failed: bool = False

    @property
    def is_live(self) -> bool:
        """Whether words still come."""
        return self.ended_at is None and (self.process is None or not self.process.is_dead)


class WordyModel:
    """Says a text that names its user, request and attempt, so that a foreign or stale word shows."""

    name = "wordy"
    context_tokens = 1_000_000
    concurrency = 1_000

    def __init__(self, dice: Dice, faults: Faults, *, watch: Callable[[ModelRun], None]) -> None:
        self._dice = dice
        self._faults = faults
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self.runs: list[ModelRun] = []

    @staticmethod
    def words(key: RequestKey) -> int:
        """How many it says to this request."""
        return 3 + sum(f"{key.user_id}{key.request_id}".encode()) * 7 % 13

    @classmethod
    def text(cls, key: RequestKey, attempt: int) -> str:
        """All that it says to this request in this attempt."""
        return " ".join(f"{key.user_id}/{key.request_id}/{attempt}/{n}가😀" for n in range(cls.words(key)))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """See ports.Model."""
        key = RequestKey(prompt.user_id, prompt.request_id)
        now = self._loop.time()
        run = ModelRun(key=key, attempt=prompt.attempt, prompt=prompt, started_at=now, process=current())
        self.runs.append(run)
        self._watch(run)
        try:
            run.has_failed = self._dice.strikes("model breaks off", self._faults.model_fails)
            words = self.text(key, prompt.attempt).split(" ")
            for number, word in enumerate(words):
                await asyncio.sleep(self._dice.pause_s("model", WORDS_S))
                if run.has_failed and number == len(words) // 2:
                    raise ModelError(ErrorCode.MODEL_FAILED)
                yield word if number == 0 else f" {word}"
            yield Finish(output_tokens=len(words), input_tokens=len(prompt.messages))
        finally:
            run.ended_at = self._loop.time()

    async def close(self) -> None:
        """See ports.Model."""
