"""An asyncio event loop on virtual time: a sleep takes no time, and equal inputs give equal runs."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing is scheduled and the main coroutine is not done: it waits for something that will never come."""


class _Leaping(selectors.SelectSelector):
    """Instead of waiting it moves the clock to the next timer. It asks the system for events only when it is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events = super().select(0)
            if not events:
                raise Deadlock("nothing is scheduled any more")
            return events
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and leaps from timer to timer. For code without sockets or subprocesses."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._leaping.now

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """Do it here and now: a thread would take real time, and another one in each run."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:
            future.set_exception(exc)
        return future


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on virtual time. Raises: Deadlock: the coroutine can never finish."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
