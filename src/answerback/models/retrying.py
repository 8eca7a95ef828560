"""Retries a model's failure as long as no text was emitted."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import random
from typing import Final

from answerback.model_guard import checked_finish
from answerback.ports import Finish, Model, ModelError, ModelLimits, Piece, Prompt, limits_of
from answerback.protocol.errors import ErrorCode

TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 4.0


class RetryingModel:
    """A model that is asked again when it fails in a passing way before its first text.

    That is: a transient error, or `model_throttled`. At most `tries` in all. The pauses double from `first_pause_s`,
    each made between half and the whole of itself by `jitter()` (0 to 1), never shorter than the model asks for. A
    model that asks for more than `max_pause_s` is not waited for: the error goes to the caller. `sleep` takes seconds.
    """

    def __init__(
        self,
        model: Model,
        *,
        tries: int = TRIES,
        first_pause_s: float = FIRST_PAUSE_S,
        max_pause_s: float = MAX_PAUSE_S,
        jitter: Callable[[], float] = random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._tries = tries
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._jitter = jitter
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def context_tokens(self) -> int:
        return self._model.context_tokens

    @property
    def concurrency(self) -> int:
        return self._model.concurrency

    @property
    def limits(self) -> ModelLimits:
        return limits_of(self._model)

    @property
    def unread_documents(self) -> int | None:
        """How many documents of the model's server could not be read, by models.reader; None: it has no server."""
        return getattr(self._model, "unread_documents", None)

    async def check(self) -> str | None:
        """What is wrong with the model's server or its settings, if the model can find that out."""
        check = getattr(self._model, "check", None)
        return None if check is None else await check()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The pieces of the first try that gets as far as its first piece. Raises: ModelError: of the last try."""
        failed = 0
        while True:
            begun = False
            try:
                async with aclosing(self._model.stream(prompt)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Finish) and not begun:
                            checked_finish(piece, prompt)
                        begun = True
                        yield piece
                return
            except ModelError as error:
                failed += 1
                pause_s = self._pause_s(error, failed)
                if begun or pause_s is None:
                    raise
            await self._sleep(pause_s)

    async def close(self) -> None:
        await self._model.close()

    def _pause_s(self, error: ModelError, failed: int) -> float | None:
        """How long to wait after so many failures; None: give up."""
        if failed >= self._tries or not (error.transient or error.code == ErrorCode.MODEL_THROTTLED):
            return None
        asked_s = (error.retry_after_ms or 0) / 1000
        if asked_s > self._max_pause_s:
            return None
        pause_s = min(self._max_pause_s, self._first_pause_s * (1 << (failed - 1)))
        return max(asked_s, pause_s * (1 + self._jitter()) / 2)
