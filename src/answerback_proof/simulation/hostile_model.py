"""A model that does what a model must not do, in every way that was thought of. What it says stays recognisable."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

from answerback.ports import Finish, ModelError, Piece, Prompt

_LIES: Final[tuple[Any, ...]] = (-1, 2**53, 2**63, 10**400, 0.5, float("nan"), float("inf"), True, "7", None, b"7", [1])
"""Counts that are none. Others of the same kind: any object."""

_REASONS: Final[tuple[Any, ...]] = ("", None, 7, ["stop"], "other")
"""Reasons that say nothing."""

_FAILURES: Final = (
    "error",
    "ABORT",
    "finish_reason: cancelled",
    "x" * 33_000,
    "\ud800\0",
    "한국어",
    "a word of next year",
)

_RAISED: Final[tuple[type[BaseException], ...]] = (
    *(ValueError, RecursionError, MemoryError, TimeoutError, StopIteration, OSError),
    *(SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException),
)


class Misbehaviour(StrEnum):
    """What goes wrong, after half of the text if nothing else is said."""

    RAISES = "raises anything"
    RAISES_A_BAD_ERROR = "raises a ModelError with impossible facts"
    AWAITS_A_CANCELLED_TASK = "awaits a task that somebody else has cancelled"
    CANCELS_ITS_OWN_TASK = "cancels the task that runs it, by itself or from another"
    ENDS_IN_FAILURE = "ends with a word for a failure, or one that nobody knows"
    LIES = "lies about counts and reasons; the text is whole"
    SAYS_NOTHING = "ends without a word"
    YIELDS_NO_TEXT = "yields what is neither text nor Finish"
    YIELDS_RUBBISH = "says lone surrogates and zeros between its words; the text is whole without them"
    SAYS_A_MEGABYTE = "says 1 MB at once"
    NEVER_ENDS = "says half and then nothing more"
    SWALLOWS_CANCELLATION = "says half, and goes on when it is told to stop"
    GOES_ON = "says more after its Finish; the text is whole"
    RAISES_AFTER_THE_END = "raises after its Finish; the text is whole"
    HANGS_AFTER_THE_END = "does not return after its Finish; the text is whole"

    @property
    def is_whole(self) -> bool:
        """Whether the text is whole, so that the answer must be completed."""
        return self.value.endswith(("the text is whole", "without them"))


class HostileModel:
    """ports.Model. `choose` says how it misbehaves for a prompt, None: not at all; `text` what it has to say.

    `pick` gives a number from 0 to n - 1, for the ways that a misbehaviour has. Its waits pass on virtual time.
    """

    name = "hostile"
    context_tokens = 1_000_000
    concurrency = 1_000

    def __init__(
        self,
        choose: Callable[[Prompt], Misbehaviour | None],
        text: Callable[[Prompt], str],
        *,
        pick: Callable[[int], int],
    ) -> None:
        self._choose = choose
        self._text = text
        self._pick = pick

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Half of the text, what goes wrong, and the rest where the answer can still be whole."""
        misbehaviour = self._choose(prompt)
        text = self._text(prompt)
        if misbehaviour is not Misbehaviour.SAYS_NOTHING:
            yield text[: len(text) // 2]
        if misbehaviour is Misbehaviour.YIELDS_RUBBISH:
            yield "\ud800\0\udfff"
        await asyncio.sleep(0.01)
        await self._break(misbehaviour)
        if misbehaviour is Misbehaviour.YIELDS_NO_TEXT:
            yield self._one_of((None, 7, b"text", ["text"], object()))
        if misbehaviour is Misbehaviour.SAYS_A_MEGABYTE:
            yield "가" * 350_000
        if misbehaviour is not Misbehaviour.SAYS_NOTHING:
            yield text[len(text) // 2 :]
        yield self._finish(misbehaviour)
        if misbehaviour is Misbehaviour.GOES_ON:
            yield "too late"
            yield Finish(reason="error")
        if misbehaviour is Misbehaviour.RAISES_AFTER_THE_END:
            raise self._one_of(_RAISED)
        if misbehaviour is Misbehaviour.HANGS_AFTER_THE_END:
            await _never_cancelled()

    async def close(self) -> None:
        pass

    async def _break(self, misbehaviour: Misbehaviour | None) -> None:
        match misbehaviour:
            case Misbehaviour.RAISES:
                raise self._one_of(_RAISED)
            case Misbehaviour.RAISES_A_BAD_ERROR:
                code: Any = self._one_of(("unauthorized", "", None, 7))
                raise ModelError(code, "x" * 100_000, retry_after_ms=self._one_of(_LIES), transient=self._one_of(_LIES))
            case Misbehaviour.AWAITS_A_CANCELLED_TASK:
                task = asyncio.ensure_future(asyncio.sleep(10))
                await asyncio.sleep(0)
                task.cancel()
                await task
            case Misbehaviour.CANCELS_ITS_OWN_TASK:
                await self._cancel_own_task()
            case Misbehaviour.NEVER_ENDS:
                await asyncio.Event().wait()
            case Misbehaviour.SWALLOWS_CANCELLATION:
                await _never_cancelled()

    async def _cancel_own_task(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        match self._pick(4):
            case 0:
                task.cancel()  # it is delivered at the next await, whose ever that is
            case 1:
                task.cancel()
                task.cancel()
                await asyncio.sleep(0)
            case 2:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(10)
            case _:
                asyncio.get_running_loop().call_later(0.01, task.cancel)
                await asyncio.shield(asyncio.sleep(0.02))

    def _finish(self, misbehaviour: Misbehaviour | None) -> Finish:
        if misbehaviour is Misbehaviour.ENDS_IN_FAILURE:
            return Finish(reason=self._one_of(_FAILURES))
        if misbehaviour is not Misbehaviour.LIES:
            return Finish()
        lies = (self._one_of(_REASONS), self._one_of(_LIES), self._one_of(_LIES))
        return Finish(reason=lies[0], input_tokens=lies[1], output_tokens=lies[2])

    def _one_of(self, choices: tuple[Any, ...]) -> Any:
        return choices[self._pick(len(choices))]


async def _never_cancelled() -> None:
    """Until the process ends, as far as its task is concerned: an hour."""
    end = asyncio.get_running_loop().time() + 3600
    while (left_s := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left_s)
        except asyncio.CancelledError:
            pass
