"""A model of the operator's own: retrieval, tools, routing, any Python code that yields text."""

import importlib
import inspect
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

from answerback.models.spec import ModelSpecError, PythonSpec
from answerback.models.threads import DaemonThreads, Emit, from_thread
from answerback.ports import ModelLimits, Piece, Prompt, limits_of

Answer: TypeAlias = Callable[[Prompt], Any]
"""Gives an AsyncIterator[Piece] or an Iterator[Piece]; it is other people's code, so that is checked."""

CONTEXT_TOKENS: Final = 8192
CONCURRENCY: Final = 32
_MODEL_PARTS: Final = ("stream", "context_tokens", "concurrency", "close")
_SHAPE: Final = (
    "It must return an async generator function (`async def answer(prompt): yield ...`), a generator function, "
    "or a model (see answerback.ports.Model)."
)


class PythonModel:
    """Calls `answer(prompt)` for each question and passes on what it yields.

    `answer` returns an async iterator, which runs on the event loop and must not block it, or an iterator, which runs
    in a thread of its own and is stopped between two pieces. Pieces are text, and at the end perhaps one `Finish`;
    without it the answer is complete when the iterator is. `model_guard.ask` says what becomes of exceptions.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        name: str,
        context_tokens: int = CONTEXT_TOKENS,
        concurrency: int = CONCURRENCY,
        limits: ModelLimits | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._answer = answer
        self.name: Final = name
        self.context_tokens: Final = context_tokens
        self.concurrency: Final = concurrency
        self.limits: Final = limits or ModelLimits()
        self._close = close
        # The queue runs no more than `concurrency` answers, so there are no more threads than that, but for stuck ones.
        self._threads = DaemonThreads(f"answerback-{name}")

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """What `answer` yields, unchecked. Raises: what it raises."""
        answer = self._answer(prompt)
        if isinstance(answer, Iterator):
            answer = from_thread(self._threads, partial(_run, answer))
        elif not isinstance(answer, AsyncIterator):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(f"answer(prompt) must yield its text; it returned {type(answer).__name__}")
        try:
            async for piece in answer:
                yield piece
        finally:
            if (aclose := getattr(answer, "aclose", None)) is not None:
                await aclose()

    async def close(self) -> None:
        """Close the operator's model, if it can be."""
        if self._close is not None:
            await self._close()


def load_python_model(spec: PythonSpec) -> PythonModel:
    """Import the spec's module, call its function, and make a model of what it returns.

    The working directory is importable, after all else. Raises: ModelSpecError: with a sentence for the operator.
    """
    module, factory = spec.module, spec.factory
    where = f"python:{module}:{factory}"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made = importlib.import_module(module)
    except Exception as exc:
        raise ModelSpecError(
            f"{where}: cannot import {module} ({type(exc).__name__}: {exc}). "
            "Install its package, or start answerback in the folder that holds it."
        ) from exc
    try:
        for part in factory.split("."):
            made = getattr(made, part)
    except AttributeError:
        raise ModelSpecError(f"{where}: {module} has no {factory}. Name a function that returns the model.") from None
    if not callable(made):
        raise ModelSpecError(f"{where}: {factory} is not a function. Name one that returns the model.")
    if inspect.isasyncgenfunction(made) or inspect.isgeneratorfunction(made):
        raise ModelSpecError(
            f"{where}: {factory} itself yields. Name a function that returns it: `def make(): return {factory}`."
        )
    try:
        made = made()
    except Exception as exc:
        raise ModelSpecError(f"{where}: {factory}() failed ({type(exc).__name__}: {exc}). Repair it.") from exc
    return _as_model(made, where=where, spec=spec)


def _as_model(made: Any, *, where: str, spec: PythonSpec) -> PythonModel:
    if all(hasattr(made, part) for part in _MODEL_PARTS):
        return PythonModel(
            made.stream,
            name=spec.name,
            context_tokens=made.context_tokens,
            concurrency=made.concurrency,
            limits=limits_of(made) if spec.limits == ModelLimits() else spec.limits,
            close=made.close,
        )
    if inspect.iscoroutine(made):
        made.close()
        raise ModelSpecError(f"{where}: the function is async. Make it a plain `def`; open connections when asked.")
    if not callable(made):
        raise ModelSpecError(f"{where}: the function returned {type(made).__name__}. {_SHAPE}")
    return PythonModel(made, name=spec.name, limits=spec.limits)


def _run(pieces: Iterator[Any], emit: Emit[Any]) -> None:
    try:
        for piece in pieces:
            if emit(piece):
                return
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
