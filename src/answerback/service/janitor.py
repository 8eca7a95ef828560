"""The janitor finds what no other part would notice. Every step checks again, in the same change, before it acts."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from answerback.core import defaults
from answerback.core import request as changes
from answerback.core.instants import LeaptSince, no_leaps
from answerback.core.request import Ended, Held, Policy, Record
from answerback.core.transitions import State
from answerback.ports import Connections, Files, History, Queue, Requests, Sender, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.service.delivery_sender import DeliverySender

log = logging.getLogger("answerback.janitor")

REQUEUE_AFTER_MS: Final = 10_000
"""An accepted request this old that was never queued is queued."""

LOST_AFTER_MS: Final = 60_000
"""A running request past its deadline whose lease is over for this long ends as `timeout`. Until then the queue's
redelivery is expected to bring it to its end."""

SETTLED_AFTER_MS: Final = 3_600_000
"""After the clock has leapt ahead nothing is deleted for so long: a clock that is wrong is set right in that time, and
what was deleted would not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorSettings:
    """`retention_ms`: how long ended records and deleted conversations stay. `queue_survives`: see FrontSettings.

    `keep_days`: after so many without a turn a conversation is deleted, unless it or its user has days of its own.
    `expire_every_ms`: how often that is looked for, which goes through all conversations.
    """

    policy: Policy = field(default_factory=Policy)
    idle_timeout_ms: int = defaults.IDLE_TIMEOUT_S * 1000
    retention_ms: int = defaults.RETENTION_MS
    keep_days: int = defaults.KEEP_FOREVER_DAYS
    expire_every_ms: int = 3_600_000
    queue_survives: bool = False


@dataclass(eq=False, kw_only=True)
class Janitor:
    """Repairs and deletes in sweeps. Raises nothing but CancelledError: what fails now is done by a later sweep.

    `last_active_ms`: when the network itself last saw a message of a connection. None: it is gone. May raise
    Unavailable. It is asked before a connection is closed as idle; without it the connection's record counts alone.
    `leapt`: time that this process alone counts, so deadlines do not; elsewhere `no_leaps`.
    """

    settings: JanitorSettings
    requests: Requests
    history: History
    connections: Connections
    sender: Sender
    queue: Queue
    delivery_sender: DeliverySender
    clock: Callable[[], int]
    last_active_ms: Callable[[str], Awaitable[int | None]] | None = None
    leapt: LeaptSince = no_leaps
    files: Files | None = None
    _expired_at_ms: int | None = field(default=None, init=False)

    async def sweep(self, *, stop_at_ms: int | None = None, leads: bool = True) -> None:
        """Go once through everything, or until `stop_at_ms` (epoch): the next sweep does what is left then.

        `leads`: of several gateways on one store one sees to what is stored, and each to its connections.
        """

        def is_late() -> bool:
            return stop_at_ms is not None and self.clock() >= stop_at_ms

        repair, close = partial(self._repair_requests, is_late), partial(self._close_idle, is_late)
        for step in (repair, close, self._forget_old) if leads else (close,):
            if is_late():
                log.warning("the sweep is out of time; the next one goes on")
                return
            try:
                await step()
            except Unavailable:
                log.warning("the store is unavailable; the next sweep tries again")
            except Exception:
                log.exception("a step of the sweep failed; the next sweep tries again")

    async def _close_idle(self, is_late: Callable[[], bool]) -> None:
        since_ms = self.clock() - self.settings.idle_timeout_ms
        since_ms -= self.leapt(since_ms)
        for connection in await self.connections.idle(since_ms=since_ms):
            if is_late():
                return
            now = await self.connections.get(connection.connection_id)
            if now is None or now.last_activity_ms >= since_ms:
                continue
            if self.last_active_ms is not None:
                seen_ms = await self.last_active_ms(connection.connection_id)
                if seen_ms is not None and seen_ms >= since_ms:
                    await self.connections.touch(connection.connection_id, now_ms=seen_ms)
                    continue
            log.info("an idle connection is closed", extra={"connectionId": connection.connection_id})
            await self.sender.close(connection.connection_id)
            await self.connections.remove(connection.connection_id)

    async def _repair_requests(self, is_late: Callable[[], bool]) -> None:
        for record in await self.requests.unfinished():
            if is_late():
                return
            now_ms = self.clock()
            if record.state is State.RUNNING and not self.settings.policy.lease_ms:
                await self._queue_again(record)
            elif now_ms >= changes.deadline_ms(record, policy=self.settings.policy, leapt=self.leapt):
                await self._expire(record, now_ms)
            elif record.state is State.ACCEPTED and self._may_not_be_queued(record, now_ms):
                await self._requeue(record)

    async def _queue_again(self, record: Record) -> None:
        """Put a running request on the queue: it is there until its ending was sent, unless its run was lost.

        Since the records were read it may have ended. Its ending would be sent once more.
        """
        poll = partial(changes.poll, owner=record.owner, attempt=record.attempt)
        if isinstance(await self.requests.change(record.key, poll), Held):
            await self.queue.put(record)

    async def _expire(self, record: Record, now_ms: int) -> None:
        expire = partial(changes.expire, now_ms=now_ms, code=ErrorCode.TIMEOUT, grace_ms=LOST_AFTER_MS)
        outcome = await self.requests.change(record.key, expire)
        if isinstance(outcome, Ended) and outcome.is_new:
            await self.delivery_sender.announce(outcome)
            await self.queue.forget(record.key)

    def _may_not_be_queued(self, record: Record, now_ms: int) -> bool:
        if now_ms - record.accepted_at_ms < REQUEUE_AFTER_MS:
            return False
        # A queue that is rebuilt from the store ignores what it already has: always put.
        return record.queue_no == 0 or not self.settings.queue_survives

    async def _requeue(self, record: Record) -> None:
        """Put it as the front did: a queue that has it drops the copy. The note keeps the next sweep from it."""
        await self.queue.put(record)
        if self.settings.queue_survives:
            await self.requests.change(record.key, partial(changes.queued, queue_no=record.queue_no + 1))

    async def _forget_old(self) -> None:
        now_ms = self.clock()
        if self.leapt(now_ms - SETTLED_AFTER_MS) > self.leapt(now_ms):
            return
        if self._expired_at_ms is None or abs(now_ms - self._expired_at_ms) >= self.settings.expire_every_ms:
            await self.history.delete_expired(now_ms=now_ms, keep_days=self.settings.keep_days)
            self._expired_at_ms = now_ms
        before_ms = now_ms - self.settings.retention_ms
        await self.requests.purge(ended_before_ms=before_ms, refused_before_ms=now_ms - defaults.REFUSAL_RETENTION_MS)
        await self.history.purge_deleted(before_ms=before_ms)
        if self.files is not None:
            await self.files.purge_files(now_ms=now_ms)
