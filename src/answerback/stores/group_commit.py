"""Group commit: what is decided in memory meanwhile is written in one transaction, by one thread.

    decide ──► state (memory) and batch ──► writer's thread: BEGIN · rows · COMMIT ──► the callers return
                          ▲                                                       │
                          └── the next batch gathers while this one is written ◄──┘

The state is ahead of the disk, answers never are: a call returns after the COMMIT that has its write and all that it
rests on. Batches are written in order. When one fails the state is thrown away, with all that was decided upon it, and
is read again.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Final, Generic, TypeVar

from answerback.core.budget import Entry
from answerback.core.parts import Content
from answerback.core.request import Ending, Question, RequestKey
from answerback.core.transitions import State
from answerback.ports import Unavailable
from answerback.stores import statements as sql
from answerback.stores import writes
from answerback.stores.budgets import rows_of
from answerback.stores.database import Connection, Database, Undone, in_our_terms, once_more
from answerback.stores.encoding import encode_attachments, encode_marks, encode_options
from answerback.stores.writer_state import Tracked, WriterState

T = TypeVar("T")

_ACCEPTED: Final = attrgetter("user_id", "request_id", "accepted_at_ms", "schema")


class Rows:
    """The three kinds of write about requests: each kind is one statement that is run for many rows.

    Accepts come first and endings last. Nothing else about a request is written between its own.
    """

    ACCEPT: ClassVar = sql.ACCEPT
    more: ClassVar[Callable[[Any, Database], None] | None] = None
    """What a kind of store sends with them. No bound method is kept: it would be a cycle for each batch."""

    def __init__(self) -> None:
        self._users: list[tuple[str, int]] = []
        self._accepted: list[Tracked] = []
        self._accepts: list[sql.Row] = []
        self._notes: dict[int, sql.Row] = {}
        self._finishes: list[sql.Row] = []
        self._ended: list[Tracked] = []
        self._touches: dict[tuple[str, str], tuple[str, str, str, int, int]] = {}
        self._charges: list[tuple[Entry, Tracked | None]] = []

    def add_user(self, user_id: str, now_ms: int) -> None:
        """A user who may be new."""
        self._users.append((user_id, now_ms))

    def accept(self, tracked: Tracked, question: Question, text: str) -> None:
        """A new request. `text`: its record."""
        self._accepted.append(tracked)
        texts = (tracked.record.conversation_id, encode_options(question), question.system, question.message)
        files = encode_attachments(question.attachments) if question.attachments else None
        self._accepts.append((tracked.n, *_ACCEPTED(tracked.record), text, None, *texts, files))

    def refuse(self, tracked: Tracked, ending: Ending, text: str) -> None:
        """A refusal or an early cancellation: it ends where it begins, and has no question."""
        self._accepted.append(tracked)
        row = (*_ACCEPTED(tracked.record), text, ending.ended_at_ms)
        self._accepts.append((tracked.n, *row, None, None, None, None, None))

    def note(self, tracked: Tracked, text: str) -> None:
        """Another record of an unfinished request."""
        self._notes[tracked.n] = (tracked.record.schema, text, tracked.n)

    def finish(self, tracked: Tracked, ending: Ending, record_text: str, content: Content) -> None:
        """The ending of a request, its answer, and the conversation that it belongs to."""
        self._ended.append(tracked)
        code = ending.error_code and ending.error_code.value
        how = (ending.ended_at_ms, tracked.replaces, ending.status.value, ending.model, code)
        used = (ending.input_tokens, ending.output_tokens)
        answer = (content.text, encode_marks(content.marks))
        self._finishes.append((*how, *used, tracked.record.schema, record_text, *answer, tracked.n))
        pair, at_ms = _pair(tracked), ending.ended_at_ms
        _, _, title, created_at_ms, last_ms = self._touches.get(
            pair, (*pair, tracked.title, tracked.record.accepted_at_ms, at_ms)
        )
        self._touches[pair] = (*pair, title, created_at_ms, max(last_ms, at_ms))

    def charge(self, entries: Iterable[Entry], tracked: Tracked | None = None) -> None:
        """Change counters of budgets. `tracked`: only if this new request is stored."""
        self._charges += [(entry, tracked) for entry in entries]

    @property
    def has_taken(self) -> bool:
        """Whether an id, or a number, turned out to be taken."""
        return any(tracked.is_taken for tracked in self._accepted)

    def run(self, database: Database) -> None:
        with database.together():
            if self._users:
                database.executemany(sql.INSERT_USER, self._users)
            if self._accepts:
                accepted = database.executemany(self.ACCEPT, self._accepts)
            if self._notes:
                database.executemany(sql.NOTE, list(self._notes.values()))
            if self._finishes:
                database.executemany(sql.FINISH, self._finishes)
                touched = database.executemany(sql.TOUCH, list(self._touches.values()))
            if self.more is not None:
                self.more(database)
        if self._accepts and accepted.rowcount != len(self._accepts):
            for tracked in self._accepted:
                own_row: sql.Params = {"n": tracked.n, **tracked.key._asdict()}
                tracked.is_taken = not database.execute(sql.SELECT_NUMBER, own_row).fetchall()
        if self._charges:
            stored = [entry for entry, new in self._charges if new is None or not new.is_taken]
            database.executemany(sql.CHARGE, rows_of(stored))
        if self._finishes:
            if touched.rowcount != len(self._touches):
                self._end_in_deleted(database)
            for tracked in self._ended:
                if tracked.replaces is not None and tracked.record.state is State.COMPLETED:
                    where = {**writes.conversation_named(*_pair(tracked)), "request_id": tracked.record.request_id}
                    database.execute(sql.SUPERSEDE, {**where, "replaces": tracked.replaces, "n": tracked.n})

    def _end_in_deleted(self, database: Database) -> None:
        """Some of the conversations are deleted: what was asked before that is not kept in them.

        What was asked after it starts the conversation again.
        """
        deleted = {}
        for pair in self._touches:
            rows = database.execute(sql.SELECT_DELETED_AT, writes.conversation_named(*pair)).fetchall()
            if rows and rows[0][0] is not None:
                deleted[pair] = rows[0][0]
        for tracked in self._ended:
            if tracked.record.accepted_at_ms <= deleted.get(_pair(tracked), -1):
                database.execute(sql.UNLINK, {"n": tracked.n})
        for pair, at_ms in deleted.items():
            new = [one for one in self._ended if _pair(one) == pair and one.record.accepted_at_ms > at_ms]
            if new:
                writes.erase(database, *pair, deleted_at_ms=at_ms)
                row = (*pair, new[0].title, new[0].record.accepted_at_ms, self._touches[pair][-1])
                database.executemany(sql.TOUCH, [row])


class Call(Generic[T]):
    """A rare write: a function, with the effect of all or nothing. Its error is its caller's alone."""

    def __init__(self, function: Callable[[Database], T]) -> None:
        self._function = function
        self._value: T | None = None
        self._error: Exception | None = None

    def run(self, database: Database) -> None:
        database.execute("SAVEPOINT rare")
        try:
            self._value = self._function(database)
        except Exception as exc:
            if database.cause_of(exc) is not None:
                raise
            self._error = exc
            database.execute("ROLLBACK TO SAVEPOINT rare")
        database.execute("RELEASE SAVEPOINT rare")

    def result(self) -> T:
        """What the function returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value] # it has run


@dataclass(slots=True, eq=False)
class Batch:
    """What gathers for one transaction, and those who wait for its COMMIT."""

    number: int
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    accepted: list[Tracked] = field(default_factory=list)
    ended: list[Tracked] = field(default_factory=list)
    _steps: list[Rows | Call[Any]] = field(default_factory=list)

    def rows(self) -> Rows:
        """Where rows are put that come now: behind every rare write so far."""
        if not self._steps or not isinstance(last := self._steps[-1], Rows):
            self._steps.append(last := Rows())
        return last

    def call(self, function: Callable[[Database], T]) -> Call[T]:
        """Add a rare write, behind everything so far."""
        call = Call(function)
        self._steps.append(call)
        return call

    def write(self, database: Database) -> None:
        """Write everything in order and commit. Raises: Undone: it has no effect. Unavailable: nobody knows."""
        try:
            if self._steps:
                database.execute(database.BEGIN)
                for step in self._steps:
                    step.run(database)
        except Exception as exc:
            why = database.cause_of(exc) or "the store failed"
            raise (Undone if database.is_undone(exc) else Unavailable)(why) from exc
        try:
            database.commit()
        except Exception as exc:  # whether it took effect, and what a failing disk has kept, is not known
            raise Unavailable(database.cause_of(exc) or "the store failed") from exc


class GroupCommit:
    """The state of a store and the way from it to the disk. `max_queued`: writes that may wait."""

    def __init__(self, *, max_queued: int) -> None:
        self._max_queued = max_queued
        self._connection: Connection | None = None
        self._state: WriterState | None = None
        self._loading: asyncio.Future[Exception | None] | None = None
        self.batch = Batch(1)
        self._written = 0
        self._is_busy = False
        self.last_write_failed = False

    def start(self, connection: Connection) -> None:
        """Begin, over a connection that `close` closes."""
        self._connection = connection

    async def open(self) -> None:
        """Connect and read the state. Raises: StoreError, Unavailable."""
        if (error := await self._load()) is not None:
            raise error

    async def close(self) -> None:
        """Finish what was called before."""
        while self.batch.waiting or self._is_busy:
            await asyncio.gather(self.commit(), return_exceptions=True)
        if (connection := self._connection) is not None:
            self._connection, self._state = None, None
            await connection.close()

    # --- the state

    @property
    def tracked(self) -> Mapping[RequestKey, Tracked]:
        """The requests in memory; none while the state has to be read again."""
        return {} if self._state is None else self._state.tracked

    async def state(self) -> WriterState:
        """The state, to decide upon. Between this and `commit` nothing else may be awaited.

        Raises: Unavailable: it cannot be read now, or too much is waiting.
        """
        while (state := self._state) is None:
            if (error := await self._load()) is not None:
                self.last_write_failed = True
                raise own(error)
        if len(self.batch.waiting) >= self._max_queued:
            self.last_write_failed = True
            raise Unavailable("too many operations are waiting for the disk")
        return state

    async def _load(self) -> Exception | None:
        """Read the state, once for all who want it. Returns why it cannot be read."""
        if (loading := self._loading) is None:
            connection = self._opened()
            loading = self._loading = asyncio.get_running_loop().create_future()
            connection.submit(partial(in_our_terms, _load), partial(self._loaded, loading))
        if not loading.done():
            await asyncio.wait([loading])  # a caller that is cancelled here stops nobody else
        return loading.result()

    def _loaded(
        self, loading: "asyncio.Future[Exception | None]", state: WriterState | None, error: Exception | None
    ) -> None:
        self._state, self._loading = state, None
        loading.set_result(error)

    # --- the batch

    async def call(self, function: Callable[[Database], T], note: Callable[[WriterState], object] = bool) -> T:
        """Do a rare write, and return what it returned when that is on the disk. `note` changes the state."""

        async def decide() -> T:
            note(await self.state())
            call = self.batch.call(function)
            await self.commit()
            return call.result()

        return await once_more(decide)

    async def alone(self, function: Callable[[Database], T]) -> T:
        """Do what is done outside of a transaction, behind what is being written. Raises: Unavailable."""
        return await self._opened().read(function)

    async def written(self, tracked: Tracked) -> None:
        """Return when the newest record of a request is on the disk. Raises: as `commit`."""
        if tracked.written_in > self._written:
            await self.commit()

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._is_busy and not self.batch.waiting

    def _opened(self) -> Connection:
        if self._connection is None:
            raise Unavailable("the store is not open")
        return self._connection

    def commit(self) -> "asyncio.Future[None]":
        """Commit everything that was decided so far.

        The future raises Unavailable: it may be on the disk or not. Undone: it is not.
        """
        loop, connection = asyncio.get_running_loop(), self._connection
        assert connection is not None, "what is committed was decided upon a state"
        future: asyncio.Future[None] = loop.create_future()
        self.batch.waiting.append(future)
        if connection.is_inline:
            self._send()
        elif len(self.batch.waiting) == 1 and not self._is_busy:
            loop.call_soon(self._send)  # with whatever else is decided in this turn of the loop
        return future

    def _send(self) -> None:
        batch, self.batch = self.batch, Batch(self.batch.number + 1)
        self._is_busy = True
        assert self._connection is not None, "it is closed behind what is gathered"
        self._connection.submit(batch.write, partial(self._sent, batch))

    def _sent(self, batch: Batch, _: None, error: Exception | None) -> None:
        """A batch is on the disk, or has failed. Wake its callers, and go on with the next one."""
        self._is_busy = False
        self.last_write_failed = error is not None
        if error is None:
            self._written = batch.number
            self._settle(batch)
            for future in batch.waiting:
                if not future.done():  # its caller was cancelled; what it asked for happened all the same
                    future.set_result(None)
            if self.batch.waiting:  # callers that wake now may have more for it
                asyncio.get_running_loop().call_soon(self._send)
            return
        self._state = None
        gathered, self.batch = self.batch, Batch(self.batch.number + 1)
        _fail(batch, error)
        _fail(gathered, Undone(str(error)))

    def _settle(self, batch: Batch) -> None:
        state = self._state
        assert state is not None
        for tracked in batch.accepted:
            tracked.is_stored = True
            if tracked.is_taken:
                state.forget(tracked)
                state.budgets.take_back(tracked.record)
                if tracked.counted_at_ms is not None:
                    state.count(tracked.record.user_id, tracked.counted_at_ms, -1)
        for tracked in batch.ended:
            state.forget(tracked)


def _load(database: Database) -> WriterState:
    database.execute(sql.NAME_STORE, {"value": str(uuid.uuid4())})
    return WriterState.load(database)


def _fail(batch: Batch, error: Exception) -> None:
    for future in batch.waiting:
        if not future.done():
            future.set_exception(own(error))


def own(error: Exception) -> Unavailable:
    """An Unavailable for one that waits: a shared one would collect the tracebacks of all."""
    mine = (Undone if isinstance(error, Undone) else Unavailable)(str(error))
    mine.__cause__ = error
    return mine


def _pair(tracked: Tracked) -> tuple[str, str]:
    return tracked.record.user_id, tracked.record.conversation_id
