"""The ports of a store over an SQL database: what SQLite and PostgreSQL share, and memory, which is SQLite as well."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Final, TypeVar

from answerback.core.admission import admit, admit_again
from answerback.core.instants import day_of
from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import (
    Accepted,
    Admission,
    DailyUsage,
    Quota,
    StoredConversation,
    StoredTurn,
    StoredUser,
    Unavailable,
)
from answerback.stores import statements as sql
from answerback.stores import writes
from answerback.stores.book import Book, Held
from answerback.stores.database import Connector, Database, DatabaseThread, Inline, Reader
from answerback.stores.encoding import (
    conversation_of,
    decode_question,
    decode_record,
    encode_record,
    turn_of,
    user_of,
    width_of,
)
from answerback.stores.group_commit import GroupCommit

T = TypeVar("T")

NO_BOUND: Final = 2**62
"""Above every position and every time; one statement then serves the first page as well."""

_AFTER_ANY_ID: Final = "\U0010ffff" * 2
_DAY_MS: Final = 86_400_000


class SqlStore:
    """ports.Requests, ports.History and ports.Users over one database that this process alone writes to.

    Every method raises ports.Unavailable while the database cannot be read or written. `open` before use.
    `max_queued`: writes that may wait; more raise Unavailable at once. `readers`: threads that read.
    """

    def __init__(self, connector: Connector, *, max_queued: int = 100_000, readers: int = 1) -> None:
        self._connector = connector
        self._group = GroupCommit(connector, max_queued=max_queued)
        self._reader_count = readers
        self._readers: list[Reader] = []
        self._next_reader = cycle(range(readers))

    # --- life

    async def open(self) -> None:
        """Take the lock, bring the tables up to date. Raises: StoreError: it says what to do."""
        self._start(DatabaseThread)
        try:
            await self._group.open()
        except BaseException:
            await self.close()
            raise

    def _start(self, thread: Callable[[str], DatabaseThread | Inline]) -> None:
        self._group.start(thread("answerback-writer"))
        self._readers = [Reader(self._connector, thread("answerback-reader")) for _ in range(self._reader_count)]

    async def close(self) -> None:
        """Finish what was called before, release everything. May be called twice."""
        await self._group.close()
        readers, self._readers = self._readers, []
        for reader in readers:
            await reader.close()

    async def _read(self, function: Callable[[Database], T]) -> T:
        if not self._readers:
            raise Unavailable("the store is not open")
        return await self._readers[next(self._next_reader)].read(function)

    async def store_id(self) -> str:
        """The name of the data: made once, the same for every gateway that serves them."""
        rows = await self._read(lambda database: database.execute(sql.SELECT_MARK, {"name": "store_id"}).fetchall())
        return str(rows[0][0])

    # --- ports.Durability

    @property
    def last_write_failed(self) -> bool:
        return self._group.last_write_failed

    async def probe(self, *, now_ms: int) -> None:
        await self._group.call(lambda _: partial(writes.put_mark, name="probe", value=str(now_ms)))

    # --- ports.Requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        """Store a new request, which may be claimed already: the lane and the slot that it runs in are its caller's."""
        # A text that the database would refuse is found here, before it is in a batch with others.
        for text in (question.message, question.system or "", question.replaces or ""):
            text.encode()
        return await self._group.decided(partial(self._accept, record, encode_record(record), question, quota, now_ms))

    async def _accept(self, record: Record, text: str, question: Question, quota: Quota, now_ms: int) -> Admission:
        group, key, user_id = self._group, record.key, record.user_id
        has_waited = False
        while True:
            book = await group.book()
            known = book.held.get(key)
            if known is not None:
                if not known.is_stored:  # its id may turn out to be taken
                    await group.commit()
                    continue
                position = book.position(known.record.ordering_key, known.n)
                existing = admit_again(known.record, position=position)
                await group.commit(known)
                return existing
            admission = admit(
                existing=None,
                position=book.position(record.ordering_key),
                pending=book.pending(user_id),
                counted=book.counted(user_id, now_ms),
                own_limit=book.limits.get(user_id),
                quota=quota,
                now_ms=now_ms,
            )
            if isinstance(admission, Accepted):
                held = self._hold(book, record, text, question, now_ms)
                await group.commit()
                if not held.is_taken:
                    return admission
            elif not has_waited and not group.is_settled:  # an id that turns out to be taken does not count
                has_waited = True
                await group.commit()
                continue
            found = await self._record(key)
            if found is not None:
                return admit_again(found, position=0)
            if not isinstance(admission, Accepted):
                return admission

    def _hold(self, book: Book, record: Record, text: str, question: Question, now_ms: int) -> Held:
        batch = self._group.batch
        width = width_of(text, question)
        held = Held(record, book.next_n(), question, width=width, counted_at_ms=now_ms)
        held.written_in = batch.number
        rows = batch.rows()
        if not book.is_known(record.user_id):
            rows.add_user(record.user_id, now_ms)
        rows.accept(held, question, text.ljust(width))
        batch.accepted.append(held)
        book.hold(held)
        book.count(record.user_id, now_ms)
        return held

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        return await self._group.decided(partial(self._change, key, change))

    async def _change(self, key: RequestKey, change: Change[T]) -> T:
        group = self._group
        while True:
            book = await group.book()
            held = book.held.get(key)
            if held is None:
                call = group.batch.call(partial(writes.change, key=key, step_of=change, n=book.next_n()))
                await group.commit()
                return call.result()
            if not held.is_stored:
                await group.commit()
                continue
            step = change(held.record)
            if step.record is not None:
                if held.record.ending is not None:  # soon it is not held any more
                    await group.commit(held)
                    continue
                self._put(book, held, step.record, step.text or "")
            await group.commit(held)
            return step.outcome

    def _put(self, book: Book, held: Held, record: Record, answer: str) -> None:
        text, batch = encode_record(record), self._group.batch
        answer.encode()
        held.record = record
        held.written_in = batch.number
        if record.ending is None:
            batch.rows().note(held, text.ljust(held.width))
        else:
            batch.rows().finish(held, record.ending, text, answer)
            batch.ended.append(held)
            book.release(held)

    async def read(self, key: RequestKey) -> Record | None:
        return await self._record(key)

    async def _record(self, key: RequestKey) -> Record | None:
        rows = await self._read(lambda database: database.execute(sql.SELECT_RECORD, key._asdict()).fetchall())
        return decode_record(*rows[0]) if rows else None

    async def question(self, key: RequestKey) -> Question | None:
        held = self._group.held.get(key)
        if held is not None and held.is_stored and held.question is not None:
            return held.question
        rows = await self._read(lambda database: database.execute(sql.SELECT_QUESTION, key._asdict()).fetchall())
        return decode_question(*rows[0]) if rows else None

    async def answer(self, key: RequestKey) -> str:
        rows = await self._read(lambda database: database.execute(sql.SELECT_ANSWER, key._asdict()).fetchall())
        return (rows[0][0] or "") if rows else ""

    async def unfinished(self) -> Sequence[Record]:
        select = sql.SELECT_UNFINISHED.format(users="1 = 1")
        rows = await self._read(lambda database: database.execute(select).fetchall())
        return [decode_record(text, schema) for _, text, schema, *_ in rows]

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        refusals = await self._purge(sql.SELECT_OLD_REFUSALS, refused_before_ms)
        return refusals + await self._purge(sql.SELECT_OLD, ended_before_ms)

    async def _purge(self, select: str, before_ms: int) -> int:
        """A bounded number a transaction, so that others are not kept waiting."""
        purged, count = 0, writes.STEP
        while count == writes.STEP:
            count = await self._group.call(
                lambda book: partial(writes.purge, before_ms=before_ms, select=select, last_n=book.last_n)
            )
            purged += count
        return purged

    # --- ports.History

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        where: dict[str, sql.Value] = {"user_id": user_id, "conversation_id": conversation_id}

        def read(database: Database) -> list[sql.Row]:
            before = None if before_request is None else _position(database, {**where, "request_id": before_request})
            page = {**where, "before": NO_BOUND if before is None else before, "limit": limit}
            return database.execute(sql.SELECT_RECENT_TURNS, page).fetchall()

        return [turn_of(row) for row in reversed(await self._read(read))]

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int
    ) -> Sequence[StoredTurn]:
        page: dict[str, sql.Value] = {
            "user_id": user_id,
            "conversation_id": conversation_id,
            "before": NO_BOUND if before is None else before,
            "limit": limit,
        }
        rows = await self._read(lambda database: database.execute(sql.SELECT_TURNS, page).fetchall())
        return [turn_of(row) for row in rows]

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        page = conversations_page(user_id, before=before, limit=limit)
        rows = await self._read(lambda database: database.execute(sql.SELECT_CONVERSATIONS, page).fetchall())
        return [conversation_of(row) for row in rows]

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        return await self._group.call(
            lambda _: partial(
                writes.update_conversation,
                user_id=user_id,
                conversation_id=conversation_id,
                title=title,
                deleted=deleted,
                now_ms=now_ms,
            )
        )

    async def purge_deleted(self, *, before_ms: int) -> int:
        """Erase the conversations that were deleted before then, with their turns; returns how many.

        The texts of a request whose record is still kept go when the record is purged. `before_ms` should lie further
        back than any request can take: a turn of an erased conversation that ends later creates it again.
        """
        erased = 0
        while count := await self._group.call(
            lambda book: partial(writes.purge_deleted, before_ms=before_ms, last_n=book.last_n)
        ):
            erased += count
        return erased

    # --- ports.Users

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        page: dict[str, sql.Value] = {"after": after or "", "limit": limit}
        rows = await self._read(lambda database: database.execute(sql.SELECT_USERS, page).fetchall())
        return [user_of(row) for row in rows]

    async def user(self, user_id: str) -> StoredUser | None:
        rows = await self._read(lambda database: database.execute(sql.SELECT_USER, {"user_id": user_id}).fetchall())
        return user_of(rows[0]) if rows else None

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        row: dict[str, sql.Value] = {"user_id": user_id, "per_minute": per_minute, "created_at_ms": now_ms}

        def decide(book: Book) -> Callable[[Database], object]:
            book.set_limit(user_id, per_minute)
            return lambda database: database.execute(sql.SET_LIMIT, row)

        user_id.encode()
        await self._group.call(decide)

    async def usage(self, user_id: str | None, *, since_day: str | None = None) -> Sequence[DailyUsage]:
        where: dict[str, sql.Value] = {"since_day": since_day or "", "since_ms": 0, "user_id": user_id}
        of_rows, counted = (
            (sql.SELECT_USED, sql.SELECT_USAGE) if user_id is None else (sql.SELECT_USED_BY, sql.SELECT_USER_USAGE)
        )

        def read(database: Database) -> list[sql.Row]:
            rows = database.execute(of_rows, where).fetchall()
            found = [(owner, day_of(day * _DAY_MS), *used[:3]) for owner, day, *used in rows]
            return [*database.execute(counted, where).fetchall(), *found]

        return sum_usage(await self._read(read), since_day=since_day or "")

    async def delete_user(self, user_id: str) -> bool:
        def decide(book: Book) -> Callable[[Database], bool]:
            book.forget_user(user_id)
            return partial(writes.delete_user, user_id=user_id, last_n=book.last_n)

        return await self._group.call(decide)


def conversations_page(user_id: str, *, before: tuple[int, str] | None, limit: int) -> sql.Params:
    """The parameters of SELECT_CONVERSATIONS."""
    before_ms, before_id = (NO_BOUND, _AFTER_ANY_ID) if before is None else before
    return {"user_id": user_id, "before_ms": before_ms, "before_id": before_id, "limit": limit}


def sum_usage(rows: Sequence[sql.Row], *, since_day: str) -> list[DailyUsage]:
    """Usage by day and user, of rows that may have several of a day and a user."""
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for user_id, day, *used in rows:
        if day >= since_day:
            requests, tokens_in, tokens_out = found.get((day, user_id), (0, 0, 0))
            found[day, user_id] = (requests + used[0], tokens_in + used[1], tokens_out + used[2])
    return [
        DailyUsage(user_id=user_id, day=day, requests=requests, input_tokens=tokens_in, output_tokens=tokens_out)
        for (day, user_id), (requests, tokens_in, tokens_out) in sorted(found.items())
    ]


def _position(database: Database, where: sql.Params) -> int | None:
    """Where the request stands in the conversation, superseded or not, ended or not."""
    rows = database.execute(sql.SELECT_POSITION, where).fetchall()
    if not rows:  # retention has freed its id, perhaps
        rows = database.execute(sql.SELECT_OLD_POSITION, where).fetchall()
    found: int | None = rows[0][0]
    return found
