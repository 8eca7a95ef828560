"""Jobs: operations that wait to be run in a batch, each with the future of its caller."""

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from answerback.ports import Unavailable

W = TypeVar("W")


class Job(Generic[W]):
    """Something to do, and what came of it: `value`, or `error` if that is not None."""

    __slots__ = ("error", "future", "is_repeated", "value", "work")

    def __init__(self, work: W, future: "asyncio.Future[Any]") -> None:
        self.work = work
        self.future = future
        self.is_repeated = False
        self.value: Any = None
        self.error: Exception | None = None


def fail(jobs: Sequence[Job[Any]], why: str, cause: Exception) -> None:
    """Give every job an Unavailable of its own: one that is raised many times would collect all their tracebacks."""
    for job in jobs:
        lost = Unavailable(why)
        lost.__cause__ = cause
        job.value, job.error = None, lost


def deliver(jobs: Sequence[Job[Any]]) -> None:
    """Resolve the futures of the callers, on their loop."""
    for job in jobs:
        if job.future.done():  # the caller was cancelled; what it asked for happened all the same
            continue
        if job.error is None:
            job.future.set_result(job.value)
        else:
            job.future.set_exception(job.error)
