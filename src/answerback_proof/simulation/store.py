"""The store and the table of connections, with latency, outages and calls that take effect late."""

import asyncio
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from msgspec.structs import replace

from answerback.core.budget import Budget, Counter, Period, Unit, team_holder
from answerback.core.request import Change, Question, Record, RequestKey, Step
from answerback.core.uploads import FileKey
from answerback.ports import Accepted, Admission, DailyUsage, Quota, StoredTurn, T, Unavailable
from answerback.stores.connections import MemoryConnections
from answerback.stores.encoding import turn_of
from answerback.stores.sqlite import MemoryDatabase, MemoryStore
from answerback.stores.statements import TURN
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.simulation.injector import FaultInjector
from answerback_proof.simulation.network import STALL_S

if TYPE_CHECKING:
    from answerback_proof.simulation.uploads import SimulatedUploads

P = ParamSpec("P")

TEAM: Final = "everybody"
"""The team of all users who have a budget."""


class FaultyChannel:
    """The way to a server: a call takes effect there even if its caller is dead by then."""

    def __init__(self, injector: FaultInjector, concern: str) -> None:
        self._injector = injector
        self._concern = concern
        self._context = Context()  # what is done at the other end belongs to no process of ours
        self._loop = asyncio.get_running_loop()

    def is_stale(self) -> bool:
        """Whether an index does not show yet what its table has."""
        return self._injector.occurs(FaultKind.STALE_INDEX)

    async def call(self, act: Callable[[], Coroutine[Any, Any, T]], *, may_stall: bool = False) -> T:
        """Raises: Unavailable: there is an outage; `act` has run or not."""
        injector = self._injector
        delay_s = injector.latency_s(self._concern)
        if may_stall and injector.occurs(FaultKind.STALLED_CALL):
            injector.on_death(FaultKind.STALLED_CALL)
            delay_s += STALL_S
        reply: asyncio.Future[T] = self._loop.create_future()
        self._loop.call_later(delay_s, self._arrive, act, reply, context=self._context)
        return await reply

    def _arrive(self, act: Callable[[], Coroutine[Any, Any, T]], reply: "asyncio.Future[T]") -> None:
        if self._injector.occurs(FaultKind.OUTAGE_BEFORE):
            answer: Callable[[], None] = lambda: reply.set_exception(Unavailable())  # noqa: E731
        else:
            try:
                value = now(act())
            except Exception as exc:
                error = exc
                answer = lambda: reply.set_exception(error)  # noqa: E731
            else:
                if self._injector.occurs(FaultKind.OUTAGE_AFTER):
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


class WatchedStore(MemoryStore):
    """A store that shows what it holds. `watch` sees every record that changes: before (None: new) and after."""

    def __init__(
        self, watch: Callable[[Record | None, Record], None], kind: type[MemoryDatabase] = MemoryDatabase
    ) -> None:
        super().__init__(kind)
        self._watch = watch
        self._seen: dict[RequestKey, Record] = {}
        self.caps: dict[str, int] = {}
        """Tokens a day, by holder of a budget."""
        self.is_watched_whole = True
        """Whether every change of the last transaction was watched: the counters say no less than the records."""

    @property
    def records(self) -> Mapping[RequestKey, Record]:
        """Every record, as it was seen to be written: looked at after each frame, so it is not read again."""
        return self._seen

    def _saw(self, record: Record) -> None:
        before = self._seen.get(record.key)
        self._seen[record.key] = record
        self._watch(before, record)

    def has_question(self, key: RequestKey) -> bool:
        """Whether the request was accepted: refusals and early cancellations have none."""
        return now(MemoryStore.question(self, key)) is not None

    def all_turns(self) -> list[tuple[str, StoredTurn]]:
        """Every turn with its user, superseded or not."""
        rows = self._database.execute(
            f"SELECT user_id, {TURN}, question, answer, marks FROM requests "  # noqa: S608 - the columns' names
            "WHERE conversation_id IS NOT NULL AND ended_at_ms IS NOT NULL ORDER BY n"
        )
        return [(user, turn_of(row)) for user, *row in rows]

    def all_usage(self) -> Sequence[DailyUsage]:
        return now(self.usage(None))

    def give_budgets(self, users: Sequence[str], tokens: int, *, now_ms: int) -> None:
        """Give each user a budget, and all of them a team with one."""
        for holder, limit in (*((user, tokens) for user in users), (team_holder(TEAM), tokens * 3 // 2)):
            now(self.set_budget(holder, Period.DAY, Budget(limit, Unit.TOKENS, Period.DAY), now_ms=now_ms))
            self.caps[holder] = limit
        for user in users:
            now(self.set_team(user, TEAM, now_ms=now_ms))

    def written_counters(self) -> dict[tuple[str, str], Counter]:
        return now(self.counters())


def over_the_channel(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """The method as it is over the channel of its object: it takes time, and may fail before or after its effect."""

    async def call(self: Any, /, *arguments: P.args, **named: P.kwargs) -> T:
        result: T = await self._channel.call(partial(method, self, *arguments, **named))
        return result

    return call


class FaultyStore(WatchedStore):
    """A store that takes time and is sometimes unavailable, before or after the write took effect."""

    def __init__(
        self, channel: FaultyChannel, *, watch: Callable[[Record | None, Record], None], files: "SimulatedUploads"
    ) -> None:
        super().__init__(watch)
        self._channel = channel
        self._files = files

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        async def accept() -> Admission:
            admission = await MemoryStore.accept(self, record, question, quota, now_ms=now_ms)
            if isinstance(admission, Accepted):
                self._saw(record if admission.hold is None else replace(record, hold=admission.hold))
            return admission

        return await self._channel.call(accept)

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        async def change_it() -> T:
            steps: list[Step[T]] = []

            def watched(before: Record | None) -> Step[T]:
                steps[:] = [change(before)]
                return steps[0]

            outcome = await MemoryStore.change(self, key, watched)
            record = steps[-1].record
            if steps[-1].otherwise is not None:  # which of the two it was, the store knows
                record = await MemoryStore.read(self, key)
            if record is not None:
                self._saw(record)
            return outcome

        return await self._channel.call(change_it, may_stall=True)

    read = over_the_channel(MemoryStore.read)
    question = over_the_channel(MemoryStore.question)
    answer = over_the_channel(MemoryStore.answer)
    unfinished = over_the_channel(MemoryStore.unfinished)
    recent_turns = over_the_channel(MemoryStore.recent_turns)
    upload = over_the_channel(MemoryStore.upload)
    begin = over_the_channel(MemoryStore.begin)
    discard = over_the_channel(MemoryStore.discard)
    examine = over_the_channel(MemoryStore.examine)
    read_range = over_the_channel(MemoryStore.read_range)
    read_file = over_the_channel(MemoryStore.read_file)

    async def unfinished_in(self, user_id: str, conversation_id: str) -> Sequence[Record]:
        found = await self._channel.call(partial(MemoryStore.unfinished_in, self, user_id, conversation_id))
        return () if self._channel.is_stale() else found

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        purged = await super().purge(ended_before_ms=ended_before_ms, refused_before_ms=refused_before_ms)
        if purged:
            self._seen = dict(super().records)
        return purged

    async def put(self, key: FileKey, name: str, number: int, data: bytes, *, now_ms: int) -> None:
        self._files.put(key, name, number, data)
        await self._channel.call(partial(MemoryStore.put, self, key, name, number, data, now_ms=now_ms))

    async def complete(self, key: FileKey, name: str, *, content: str, now_ms: int) -> None:
        async def complete() -> None:
            await MemoryStore.complete(self, key, name, content=content, now_ms=now_ms)
            known = await MemoryStore.upload(self, key)
            if known is not None and known.completed_at_ms is not None:
                self._files.completed(key, await MemoryStore.read_file(self, key))

        await self._channel.call(complete)


class Everyone(Container[str]):
    """Users of whom a process cannot know that they watch nothing."""

    def __contains__(self, user_id: object) -> bool:
        return True


class FaultyConnections(MemoryConnections):
    """The table of connections where it is a table: DynamoDB."""

    def __init__(self, channel: FaultyChannel) -> None:
        super().__init__()
        self._channel = channel

    add = over_the_channel(MemoryConnections.add)
    get = over_the_channel(MemoryConnections.get)
    bind = over_the_channel(MemoryConnections.bind)
    remove = over_the_channel(MemoryConnections.remove)
    watch = over_the_channel(MemoryConnections.watch)
    watchers = over_the_channel(MemoryConnections.watchers)

    @property
    def watched(self) -> Container[str]:
        return Everyone()
