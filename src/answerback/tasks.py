"""Tasks that nobody awaits: kept until they end, named, and their failures logged.

A task that its maker awaits needs none of this: asyncio.create_task makes it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

log = logging.getLogger("answerback.tasks")


CANCEL_S: Final = 2.0
"""How long a cancelled task may take to end. One that does not is left behind: it could hold up a stop for ever."""


class Tasks:
    """A set of running tasks."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a coroutine as a task that is kept until it ends; a failure is logged."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def settle(self, *, grace_s: float | None) -> None:
        """Wait for every task up to `grace_s` (None: without limit), then cancel the rest and wait until they end."""
        running = self._others()
        if running and grace_s != 0:
            await asyncio.wait(running, timeout=grace_s)
        self.cancel()
        running = self._others()
        if running:
            _, left = await asyncio.wait(running, timeout=CANCEL_S)
            for task in left:
                log.error("task %s does not stop when it is asked to", task.get_name())

    def cancel(self) -> None:
        for task in self._others():
            task.cancel()

    def _others(self) -> set[asyncio.Task[Any]]:
        return self._running - {asyncio.current_task()}

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("task %s failed", task.get_name(), exc_info=exc)
