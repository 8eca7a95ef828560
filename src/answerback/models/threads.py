"""Streams of models: items that blocking code makes in a thread."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Emit: TypeAlias = Callable[[T], bool]
"""Emits one item. Returns true when the reader has gone and the job has to stop."""


class DaemonThreads(Executor):
    """A daemon thread for each job. Unlike those of ThreadPoolExecutor none is waited for when the interpreter exits:
    it may be stuck in code that is not ours. The caller must limit how many there are.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """The job begins at once."""
        job: Future[Any] = Future()
        job.set_running_or_notify_cancel()

        def run() -> None:
            try:
                job.set_result(fn(*args, **kwargs))
            except BaseException as exc:
                job.set_exception(exc)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return job


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


async def from_thread(
    executor: Executor, produce: Callable[[Emit[T]], None], *, capacity: int = 256, stop_timeout_s: float = 5.0
) -> AsyncGenerator[T, None]:
    """Run `produce(emit)` in a thread of `executor`; yield what it emits, raise what it raises.

    `emit` waits while `capacity` items are unread. Closing makes `emit` return true and waits until `produce` has
    returned, but at most `stop_timeout_s`. A job that has not begun is taken back.
    """
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[_Item[T] | _End] = asyncio.Queue()
    room = threading.Semaphore(capacity)
    stopped = threading.Event()

    def put(entry: _Item[T] | _End) -> None:
        try:
            loop.call_soon_threadsafe(inbox.put_nowait, entry)
        except RuntimeError:  # The loop is closed.
            stopped.set()

    def emit(value: T) -> bool:
        if not stopped.is_set():
            room.acquire()
        if not stopped.is_set():
            put(_Item(value))
        return stopped.is_set()

    def run() -> None:
        try:
            produce(emit)
        except BaseException as exc:
            put(_End(exc))
        else:
            put(_End(None))

    job = executor.submit(run)
    try:
        while isinstance(entry := await inbox.get(), _Item):
            room.release()
            yield entry.value
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        room.release()
        if not job.cancel() and not job.done():
            await asyncio.wait({asyncio.wrap_future(job)}, timeout=stop_timeout_s)
