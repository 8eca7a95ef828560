"""Calls of one kind that are done together: thousands of apps come at once when a gateway has died."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from answerback.ports import Unavailable
from answerback.stores.group_commit import own

C = TypeVar("C")
T = TypeVar("T")


class Gathered(Generic[C, T]):
    """`do` gets the calls of one turn of the loop, or all that came while it was busy, at most so many."""

    def __init__(self, do: Callable[[Sequence[C]], Awaitable[Sequence[T]]], *, most: int) -> None:
        self._do = do
        self._most = most
        self._waiting: list[tuple[C, asyncio.Future[T]]] = []
        self._doing: asyncio.Task[None] | None = None

    async def __call__(self, call: C) -> T:
        """What `do` returns for the call. Raises: what `do` raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._doing is None:
            self._doing = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while together := self._waiting[: self._most]:
                del self._waiting[: self._most]
                try:
                    values = await self._do([call for call, _ in together])
                except Exception as exc:
                    for _, future in together:
                        if not future.done():  # its caller may have been cancelled
                            future.set_exception(own(exc) if isinstance(exc, Unavailable) else exc)
                    continue
                for (_, future), value in zip(together, values, strict=True):
                    if not future.done():
                        future.set_result(value)
        finally:
            self._doing = None
