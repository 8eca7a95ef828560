"""A model whose words name the request, and that keeps what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from answerback.core.request import RequestKey
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults

WORDS_S = 0.35


@dataclass(slots=True, kw_only=True)
class GeneratedAnswer:
    """One attempt at the model."""

    key: RequestKey
    attempt: int
    prompt: Prompt
    has_failed: bool = False


class WordyModel:
    """ports.Model whose text names its user, request and attempt, so that a foreign or stale word is recognised."""

    name = "wordy"
    context_tokens = 1_000_000
    concurrency = 1_000

    def __init__(self, injector: FaultInjector, faults: Faults, *, watch: Callable[[GeneratedAnswer], None]) -> None:
        self._injector = injector
        self._faults = faults
        self._watch = watch
        self.runs: list[GeneratedAnswer] = []

    @staticmethod
    def words(key: RequestKey) -> int:
        """How many it says to this request."""
        return 3 + sum(f"{key.user_id}{key.request_id}".encode()) * 7 % 13

    @classmethod
    def text(cls, key: RequestKey, attempt: int) -> str:
        """All that it says to this request in this attempt."""
        return " ".join(f"{key.user_id}/{key.request_id}/{attempt}/{n}가😀" for n in range(cls.words(key)))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        key = RequestKey(prompt.user_id, prompt.request_id)
        run = GeneratedAnswer(key=key, attempt=prompt.attempt, prompt=prompt)
        self.runs.append(run)
        self._watch(run)
        run.has_failed = self._injector.occurs(FaultKind.MODEL_FAILS, self._faults.model_fails)
        words = self.text(key, prompt.attempt).split(" ")
        for number, word in enumerate(words):
            await asyncio.sleep(self._injector.pause_s("model", WORDS_S))
            if run.has_failed and number == len(words) // 2:
                raise ModelError(ErrorCode.MODEL_FAILED)
            yield word if number == 0 else f" {word}"
        yield Finish(output_tokens=len(words), input_tokens=len(prompt.messages))

    async def close(self) -> None:
        pass
