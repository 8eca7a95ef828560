"""Processes that die as real ones do: at any await, and nothing of theirs runs any more, no `finally`.

A task that is cancelled cleans up after itself; a process that is killed does not. So every task that is made inside a
`Process` is driven through a `_ProcessCoroutine`, which after the death leaves the coroutine where it is.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from aiohttp import web_protocol

T = TypeVar("T")

_current: ContextVar["Process | None"] = ContextVar("process", default=None)
_UNWIND_STEPS = 100


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of `loop` belong to the process that makes them.

    From Python 3.12 on aiohttp's server starts its tasks at once, and passes by the loop's factory. Here it must not:
    such a task would outlive its process.
    """
    loop.set_task_factory(_make_task)
    if sys.version_info >= (3, 12):
        asked_of_the_loop = SimpleNamespace(**{**vars(asyncio), "Task": _through_the_loop})
        web_protocol.asyncio = asked_of_the_loop  # type: ignore[attr-defined]


def _through_the_loop(coroutine: Any, *, loop: asyncio.AbstractEventLoop, eager_start: bool) -> "asyncio.Task[Any]":
    return loop.create_task(coroutine)


def spawn_outside(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task that belongs to the simulation itself, whichever process makes it."""
    context = copy_context()
    context.run(_current.set, None)
    return asyncio.get_running_loop().create_task(coroutine, context=context)


def current() -> "Process | None":
    """The process whose code runs now."""
    return _current.get()


class Process:
    """`on_death` is called once, at the moment of the death."""

    def __init__(self, on_death: Callable[[], object] | None = None) -> None:
        self.is_dead = False
        self._on_death = on_death
        self._awaits_left: int | None = None
        self.is_frozen = False
        self._held: list[asyncio.Future[None]] = []
        self._calls: list[Callable[[], object]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dead: list[Coroutine[Any, Any, Any]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of this process; it ends as cancelled if the process dies."""
        return asyncio.get_running_loop().create_task(coroutine, context=self.context())

    def context(self) -> Context:
        """A context for calls into this process: the tasks that they make are its own."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    def kill_after(self, awaits: int) -> None:
        """Die right after so many more awaits have come back, instead of going on."""
        self._awaits_left = awaits

    def kill(self) -> None:
        if self.is_dead:
            return
        self.is_dead = True
        for task in list(self._tasks):
            task.cancel()
        if self._on_death is not None:
            self._on_death()

    def freeze(self) -> None:
        """Go no step further until `thaw`. What comes in waits."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)
        calls, self._calls = self._calls, []
        for call in calls:
            self.call(call)

    def call(self, call: Callable[[], object]) -> None:
        """Call into this process from outside: now, when it thaws, or never if it is dead."""
        if self.is_frozen:
            self._calls.append(call)
        elif not self.is_dead:
            call()

    def hold(self) -> "asyncio.Future[None]":
        """What a task of a frozen process waits for."""
        future = asyncio.get_running_loop().create_future()
        future._asyncio_future_blocking = True  # as `await` would set it
        self._held.append(future)
        return future

    def dispose(self) -> None:
        """Unwind the coroutines of the dead. Only at the end of a run, for it runs their clean-up."""
        for coroutine in self._dead:
            _unwind(coroutine)
        self._dead.clear()

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Let a task die with this process."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def goes_on(self) -> bool:
        """Count an await that has returned; false if the process is dead, or dies of it."""
        if self._awaits_left is not None and not self.is_dead:
            self._awaits_left -= 1
            if self._awaits_left < 0:
                self.kill()
        return not self.is_dead

    def abandon(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Keep a coroutine of the dead as it is: to drop it would run its clean-up."""
        self._dead.append(coroutine)


class _ProcessCoroutine(Coroutine[Any, Any, T]):
    __slots__ = ("_coroutine", "_held", "_process")

    def __init__(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> None:
        self._process = process
        self._coroutine = coroutine
        self._held: Callable[[], Any] | None = None
        """The step that the coroutine was to go when the process was frozen."""

    def send(self, value: Any, /) -> Any:
        return self._step(self._held or partial(self._coroutine.send, value))

    def throw(self, *error: Any) -> Any:
        return self._step(partial(self._coroutine.throw, *error))

    def _step(self, step: Callable[[], Any]) -> Any:
        if not self._process.goes_on():
            self._process.abandon(self._coroutine)
            raise asyncio.CancelledError
        if self._process.is_frozen:
            self._held = step
            return self._process.hold()
        self._held = None
        return step()

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None, **more: Any
) -> "asyncio.Task[Any]":
    process = _current.get() if context is None else context.get(_current)
    if process is None:
        return asyncio.Task(coroutine, loop=loop, context=context, **more)
    task = asyncio.Task(_ProcessCoroutine(process, coroutine), loop=loop, context=context, **more)
    process.keep(task)
    return task


def _unwind(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run its clean-up. The run is over, and its errors mean nothing."""
    with suppress(BaseException):
        for _ in range(_UNWIND_STEPS):
            coroutine.throw(asyncio.CancelledError())
    with suppress(BaseException):  # a hostile model swallows all of that
        coroutine.close()
