"""The store and the table of connections, with latency, outages and calls that take effect late."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import (
    Admission,
    Bound,
    Connection,
    DailyUsage,
    Quota,
    StoredTurn,
    Superseded,
    T,
    Unavailable,
)
from answerback.stores.connections import MemoryConnections
from answerback.stores.memory import MemoryStore
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector, Faults
from answerback_proof.simulation.network import STALL_S


class FaultyChannel:
    """The way to a server: a call takes effect there even if its caller is dead by then."""

    def __init__(self, injector: FaultInjector, faults: Faults, concern: str) -> None:
        self._injector = injector
        self._faults = faults
        self._concern = concern
        self._context = Context()  # what is done at the other end belongs to no process of ours
        self._loop = asyncio.get_running_loop()

    async def call(self, act: Callable[[], Coroutine[Any, Any, T]], *, may_stall: bool = False) -> T:
        """Raises: Unavailable: there is an outage; `act` has run or not."""
        injector, faults = self._injector, self._faults
        delay_s = injector.latency_s(self._concern)
        if may_stall and injector.occurs(FaultKind.STALLED_CALL, faults.stall):
            injector.on_death(FaultKind.STALLED_CALL)
            delay_s += STALL_S
        reply: asyncio.Future[T] = self._loop.create_future()
        self._loop.call_later(delay_s, self._arrive, act, reply, context=self._context)
        return await reply

    def _arrive(self, act: Callable[[], Coroutine[Any, Any, T]], reply: "asyncio.Future[T]") -> None:
        if self._injector.occurs(FaultKind.OUTAGE_BEFORE, self._faults.outage_before):
            answer: Callable[[], None] = lambda: reply.set_exception(Unavailable())  # noqa: E731
        else:
            try:
                value = now(act())
            except Exception as exc:
                error = exc
                answer = lambda: reply.set_exception(error)  # noqa: E731
            else:
                if self._injector.occurs(FaultKind.OUTAGE_AFTER, self._faults.outage_after):
                    answer = lambda: reply.set_exception(Unavailable())  # noqa: E731
                else:
                    answer = lambda: reply.set_result(value)  # noqa: E731
        self._loop.call_later(self._injector.latency_s(self._concern), _unless_dead, reply, answer)


def _unless_dead(reply: "asyncio.Future[Any]", answer: Callable[[], None]) -> None:
    if not reply.done():
        answer()


def now(act: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        act.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("it waits")


class FaultyStore(MemoryStore):
    """A store that takes time and is sometimes unavailable, before or after the write took effect.

    `watch` sees every record that changes: before (None: new) and after.
    """

    def __init__(self, channel: FaultyChannel, *, watch: Callable[[Record | None, Record], None]) -> None:
        super().__init__()
        self._channel = channel
        self._watch = watch

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        return await self._channel.call(partial(MemoryStore.accept, self, record, question, quota, now_ms=now_ms))

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        return await self._channel.call(partial(MemoryStore.change, self, key, change), may_stall=True)

    async def read(self, key: RequestKey) -> Record | None:
        return await self._channel.call(partial(MemoryStore.read, self, key))

    async def question(self, key: RequestKey) -> Question | None:
        return await self._channel.call(partial(MemoryStore.question, self, key))

    async def answer(self, key: RequestKey) -> str:
        return await self._channel.call(partial(MemoryStore.answer, self, key))

    async def unfinished(self) -> Sequence[Record]:
        return await self._channel.call(partial(MemoryStore.unfinished, self))

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        read = partial(
            MemoryStore.recent_turns, self, user_id, conversation_id, limit=limit, before_request=before_request
        )
        return await self._channel.call(read)

    def has_question(self, key: RequestKey) -> bool:
        """Whether the request was accepted: refusals and early cancellations have none."""
        return key in self._questions

    def all_turns(self) -> list[tuple[str, StoredTurn]]:
        """Every turn with its user, superseded or not."""
        return [(user, turn) for user, by in self._turns.items() for turns in by.values() for turn in turns]

    def all_usage(self) -> list[DailyUsage]:
        return list(self._usage.values())

    def _store(self, record: Record) -> None:
        before = self.records.get(record.key)
        super()._store(record)
        self._watch(before, record)


class FaultyConnections(MemoryConnections):
    """The table of connections where it is a table: DynamoDB."""

    def __init__(self, channel: FaultyChannel) -> None:
        super().__init__()
        self._channel = channel

    async def add(self, connection: Connection) -> None:
        await self._channel.call(partial(MemoryConnections.add, self, connection))

    async def get(self, connection_id: str) -> Connection | None:
        return await self._channel.call(partial(MemoryConnections.get, self, connection_id))

    async def bind(self, connection_id: str, user_id: str) -> Bound | Superseded:
        return await self._channel.call(partial(MemoryConnections.bind, self, connection_id, user_id))

    async def remove(self, connection_id: str) -> None:
        await self._channel.call(partial(MemoryConnections.remove, self, connection_id))
