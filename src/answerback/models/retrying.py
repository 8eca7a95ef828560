"""Retries a model's failure as long as no text was emitted."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass
from random import random
from typing import Final

from answerback.model_guard import checked_finish
from answerback.ports import Finish, Model, ModelError, Piece, Prompt, limits_of
from answerback.protocol.errors import ErrorCode

TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 4.0


@dataclass(eq=False)
class RetryingModel:
    """A model that is asked again when it fails in a passing way before its first text.

    That is: a transient error, or `model_throttled`. At most `tries` in all. The pauses double from `first_pause_s`,
    each made between half and the whole of itself by `jitter()` (0 to 1), never shorter than the model asks for. A
    model that asks for more than `max_pause_s` is not waited for: the error goes to the caller. `sleep` takes seconds.
    """

    model: Model
    _: KW_ONLY
    tries: int = TRIES
    first_pause_s: float = FIRST_PAUSE_S
    max_pause_s: float = MAX_PAUSE_S
    jitter: Callable[[], float] = random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        self.name, self.limits = self.model.name, limits_of(self.model)
        self.context_tokens, self.concurrency = self.model.context_tokens, self.model.concurrency

    @property
    def unread_documents(self) -> int | None:
        """How many documents of the model's server could not be read, by models.reader; None: it has no server."""
        return getattr(self.model, "unread_documents", None)

    async def check(self) -> str | None:
        """What is wrong with the model's server or its settings, if the model can find that out."""
        check = getattr(self.model, "check", None)
        return None if check is None else await check()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The pieces of the first try that gets as far as its first piece. Raises: ModelError: of the last try."""
        failed = 0
        while True:
            begun = False
            try:
                async with aclosing(self.model.stream(prompt)) as pieces:
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
            await self.sleep(pause_s)

    async def close(self) -> None:
        await self.model.close()

    def _pause_s(self, error: ModelError, failed: int) -> float | None:
        """How long to wait after so many failures; None: give up."""
        if failed >= self.tries or not (error.transient or error.code == ErrorCode.MODEL_THROTTLED):
            return None
        asked_s = (error.retry_after_ms or 0) / 1000
        if asked_s > self.max_pause_s:
            return None
        pause_s = min(self.max_pause_s, self.first_pause_s * (1 << (failed - 1)))
        return max(asked_s, pause_s * (1 + self.jitter()) / 2)
