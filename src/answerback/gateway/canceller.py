"""Cancels requests for an operator: one request, or all of a user who is about to be erased."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from answerback.core import request as changes
from answerback.core.keys import normal_id
from answerback.core.request import Conflict, Ended, Pending, Record
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.sockets import Sockets
from answerback.ports import Connections, Requests, Sender
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Error
from answerback.service.delivery_sender import DeliverySender

log = logging.getLogger("answerback.admin")

END_TIMEOUT_S: Final = 5.0
"""How long workers may take to end the running requests of a user. Then these are ended without their workers."""

POLL_EVERY_S: Final = 0.02


@dataclass(eq=False, kw_only=True)
class Canceller:
    """Cancels in the record, as an app's own cancellation does, and sees to it that the app receives the ending.

    `changed` is called with a record that was changed while its request runs.
    """

    requests: Requests
    connections: Connections
    sockets: Sockets
    sender: Sender
    queue: InProcessQueue
    delivery_sender: DeliverySender
    changed: Callable[[Record], None]
    clock: Callable[[], int]
    end_timeout_s: float = END_TIMEOUT_S

    async def cancel(self, record: Record) -> Pending | Ended | Conflict:
        """Cancel one request: a waiting one has then ended, a running one is about to. Raises: Unavailable."""
        cancel = partial(changes.cancel, refusal_record=record, now_ms=self.clock())
        outcome = await self.requests.change(record.key, cancel)
        if isinstance(outcome, Pending):
            self.changed(outcome.record)
        elif isinstance(outcome, Ended):
            await self._announce(outcome)
        return outcome

    async def end_sessions(self, user_id: str, *, why: Error | None = None) -> None:
        """End every request of a user, send the apps the endings and `why`, and close the user's connections.

        Raises: Unavailable: the store cannot be read or written; some requests may be cancelled then.
        """
        try:
            await self._end_requests(user_id)
        finally:
            await self.close_sessions(user_id, why)

    async def _end_requests(self, user_id: str) -> None:
        unfinished = [record for record in await self.requests.unfinished() if normal_id(record.user_id) == user_id]
        # The newest first: were a running one to end before them, the next of its ordering key would begin.
        outcomes = [await self.cancel(record) for record in reversed(unfinished)]
        running = [outcome.record for outcome in outcomes if isinstance(outcome, Pending)]
        await self._wait_for(running)
        for record in running:
            await self._end(record)

    async def close_sessions(self, user_id: str, why: Error | None = None) -> None:
        """Send `why` to the connections that a user has here, and close them."""
        for socket in self.sockets:
            connection = await self.connections.get(socket.connection_id)
            if connection is not None and connection.user_id == user_id:
                await self.sender.close(socket.connection_id, why)

    async def _wait_for(self, running: Sequence[Record]) -> None:
        """Return when the workers have stored and sent the endings, or after a while."""
        try:
            async with asyncio.timeout(self.end_timeout_s):
                while any(record.key in self.queue for record in running):  # noqa: ASYNC110 - rare and short
                    await asyncio.sleep(POLL_EVERY_S)
        except TimeoutError:
            log.warning("a cancelled answer does not end; the request ends without its worker")

    async def _end(self, record: Record) -> None:
        """End a cancelled request whose worker did not. That fences the worker."""
        expire = partial(changes.expire, now_ms=self.clock(), code=ErrorCode.TIMEOUT)
        outcome = await self.requests.change(record.key, expire)
        if isinstance(outcome, Ended):
            await self._announce(outcome)

    async def _announce(self, ended: Ended) -> None:
        if ended.is_new:
            await self.delivery_sender.announce(ended)
            await self.queue.forget(ended.record.key)
