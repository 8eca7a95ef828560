"""Another try only before the first text, and only where it can help."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from answerback.models.retrying import RetryingModel
from answerback.ports import Finish, ModelError, Piece, Prompt
from answerback.protocol.errors import ErrorCode

BUSY = ModelError(ErrorCode.MODEL_UNAVAILABLE, "busy", transient=True)
THROTTLED = ModelError(ErrorCode.MODEL_THROTTLED, "slow down", retry_after_ms=2500)
THROTTLED_LONG = ModelError(ErrorCode.MODEL_THROTTLED, "slow down", retry_after_ms=4001)
BROKEN = ModelError(ErrorCode.MODEL_FAILED, "broken")
WRONG_KEY = ModelError(ErrorCode.MODEL_UNAVAILABLE, "wrong key")
ANSWER: tuple[Piece, ...] = ("yes", Finish())


class Scripted:
    """Plays one script a try: pieces are yielded, errors raised."""

    name = "scripted"
    context_tokens = 100
    concurrency = 7

    def __init__(self, *scripts: tuple[Piece | ModelError, ...]) -> None:
        self.scripts = list(scripts)
        self.open_streams = 0
        self.is_closed = False

    async def stream(self, prompt: Prompt) -> AsyncIterator[Piece]:
        self.open_streams += 1
        try:
            for entry in self.scripts.pop(0):
                if isinstance(entry, ModelError):
                    raise entry
                yield entry
        finally:
            self.open_streams -= 1

    async def close(self) -> None:
        self.is_closed = True


class Pauses:
    """Sleeps that only note how long they were to be."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.mark.parametrize(
    ("scripts", "pieces", "error", "pauses"),
    [
        ([ANSWER], list(ANSWER), None, []),
        ([(BUSY,), ANSWER], list(ANSWER), None, [0.5]),
        ([(BUSY,), (BUSY,), ANSWER], list(ANSWER), None, [0.5, 1.0]),
        ([(BUSY,), (BUSY,), (BUSY,)], [], BUSY, [0.5, 1.0]),
        ([(THROTTLED,), ANSWER], list(ANSWER), None, [2.5]),
        ([(THROTTLED_LONG,)], [], THROTTLED_LONG, []),
        ([(BROKEN,)], [], BROKEN, []),
        ([(WRONG_KEY,)], [], WRONG_KEY, []),
        ([("y", BUSY)], ["y"], BUSY, []),
        ([("y", THROTTLED)], ["y"], THROTTLED, []),
    ],
)
async def test_tries(
    read: Callable, ask: Callable, scripts: list, pieces: list[Piece], error: ModelError | None, pauses: list[float]
) -> None:
    model, sleep = Scripted(*scripts), Pauses()
    got = await read(RetryingModel(model, jitter=lambda: 1.0, sleep=sleep), ask("?"))
    assert got == (pieces, error)
    assert sleep.seconds == pauses
    assert model.scripts == []
    assert model.open_streams == 0


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.5, 1.0, 2.0, 2.0]), (1.0, [1.0, 2.0, 4.0, 4.0])])
async def test_pauses_double_up_to_the_longest(read: Callable, ask: Callable, jitter: float, pauses: list) -> None:
    sleep = Pauses()
    model = Scripted(*[(BUSY,)] * 5)
    await read(RetryingModel(model, tries=5, first_pause_s=1, jitter=lambda: jitter, sleep=sleep), ask("?"))
    assert sleep.seconds == pauses


async def test_closing_closes_the_models_stream(ask: Callable) -> None:
    model = Scripted(("a", "b", Finish()))
    async with aclosing(RetryingModel(model).stream(ask("?"))) as stream:
        assert await anext(stream) == "a"
        assert model.open_streams == 1
    assert model.open_streams == 0


async def test_it_is_the_model_otherwise() -> None:
    model = Scripted()
    retrying = RetryingModel(model)
    assert (retrying.name, retrying.context_tokens, retrying.concurrency) == ("scripted", 100, 7)
    await retrying.close()
    assert model.is_closed
