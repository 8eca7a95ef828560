"""The ports of a store over an SQL database: what SQLite and PostgreSQL share, and memory, which is SQLite as well."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import add, attrgetter
from typing import Final, TypeVar

from msgspec.structs import replace

from answerback.core.admission import admit_again
from answerback.core.budget import KEPT_MS, Budget, BudgetState, Counter, Period, encode_budgets, reserved
from answerback.core.parts import NOTHING, Content
from answerback.core.request import Change, Question, Record, RequestKey
from answerback.core.uploads import FileKey, NoRoom, Upload, examine
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
from answerback.protocol.limits import PIECE_BYTES
from answerback.stores import statements as sql
from answerback.stores import writes
from answerback.stores.database import Connection, Connector, Database, Undone
from answerback.stores.encoding import (
    content_of,
    conversation_of,
    decode_question,
    decode_record,
    encode_record,
    turn_of,
    user_of,
    width_of,
)
from answerback.stores.group_commit import GroupCommit
from answerback.stores.user_data import USER_DATA, Part, line_of
from answerback.stores.writer_state import Tracked, WriterState

T = TypeVar("T")

READERS: Final = 2
"""Threads that read. An operator may ask for the usage of all users, and answers are read meanwhile."""

NO_BOUND: Final = 2**62
"""Above every position and every time; one statement then serves the first page as well."""

_AFTER_ANY_ID: Final = "\U0010ffff" * 2


class SqlStore:
    """ports.Requests, History, Users and Files over one database that this process alone writes to.

    Every method raises ports.Unavailable while the database cannot be read or written. `open` before use.
    `max_queued`: writes that may wait; more raise Unavailable at once.
    """

    def __init__(self, connector: Connector, *, max_queued: int = 100_000) -> None:
        self._connector = connector
        self._group = GroupCommit(max_queued=max_queued)
        self._readers: list[Connection] = []
        self._is_log_to_clear = False
        self._store_id: str | None = None

    # --- life

    async def open(self) -> None:
        """Take the lock, bring the tables up to date. Raises: StoreError: it says what to do."""
        self._start("answerback-writer", "answerback-reader")
        try:
            await self._group.open()
        except BaseException:
            await self.close()
            raise

    def _start(self, writer: str | None = None, reader: str | None = None) -> None:
        self._group.start(Connection(self._connector.connect_writer, writer))
        self._readers = [Connection(self._connector.connect_reader, reader) for _ in range(READERS)]

    async def close(self) -> None:
        """Finish what was called before, release everything. May be called twice."""
        await self._group.close()
        readers, self._readers = self._readers, []
        for reader in readers:
            await reader.close()

    async def _read(self, function: Callable[[Database], T]) -> T:
        if not self._readers:
            raise Unavailable("the store is not open")
        return await min(self._readers, key=attrgetter("waiting")).read(function)

    async def _rows(self, statement: str, params: sql.Params | None = None) -> list[sql.Row]:
        return await self._read(lambda database: database.execute(statement, params or {}).fetchall())

    async def store_id(self) -> str:
        """The name of the data: made once, the same for every gateway that serves them."""
        if self._store_id is None:
            await self._group.state()  # the first to load it names the store
            rows = await self._rows(sql.SELECT_MARK, {"name": "store_id"})
            self._store_id = str(rows[0][0])
        return self._store_id

    # --- ports.Durability

    @property
    def last_write_failed(self) -> bool:
        return self._group.last_write_failed

    async def probe(self, *, now_ms: int) -> None:
        mark: sql.Params = {"name": "probe", "value": str(now_ms)}
        await self._group.call(lambda database: database.execute(sql.PUT_MARK, mark))

    # --- ports.Requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        """Store a new request, which may be claimed already. Its slot in the queue is then its caller's affair."""
        # A text that the database would refuse is found here, before it is in a batch with others.
        for text in (question.message, question.system or "", question.replaces or ""):
            text.encode()
        try:
            return await self._accept(record, question, quota, now_ms)
        except Undone:
            return await self._accept(record, question, quota, now_ms)

    async def _accept(self, record: Record, question: Question, quota: Quota, now_ms: int) -> Admission:
        group, key = self._group, record.key
        has_waited = False
        while True:
            state = await group.state()
            known = state.tracked.get(key)
            if known is not None:
                if not known.is_stored:  # its id may turn out to be taken
                    await group.commit()
                    continue
                position = state.position(known.record.ordering_key, known.n)
                existing = admit_again(known.record, position=position)
                await group.written(known)
                return existing
            admission = state.admit(record, question, quota, now_ms)
            if isinstance(admission, Accepted):
                if admission.hold is not None:
                    record = replace(record, hold=admission.hold)
                tracked = self._track(state, key, record, question, now_ms)
                await group.commit()
                if not tracked.is_taken:
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

    def _track(self, state: WriterState, key: RequestKey, record: Record, question: Question, now_ms: int) -> Tracked:
        batch, text = self._group.batch, encode_record(record)
        width = width_of(text, question)
        tracked = state.track(key, record, question, width=width, counted_at_ms=now_ms)
        state.count(record.user_id, now_ms)
        rows = batch.rows()
        if not state.is_known(record.user_id):
            rows.add_user(record.user_id, now_ms)
        rows.accept(tracked, question, text.ljust(width))
        if record.hold is not None:
            entries = reserved(record.hold, record.user_id)
            state.budgets.post(entries)
            rows.charge(entries, tracked)
        batch.accepted.append(tracked)
        tracked.written_in = batch.number
        return tracked

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        try:
            return await self._change(key, change)
        except Undone:
            return await self._change(key, change)

    async def _change(self, key: RequestKey, change: Change[T]) -> T:
        group = self._group
        while True:
            state = await group.state()
            tracked = state.tracked.get(key)
            if tracked is None:
                before = await self._record(key)
                if key in (state := await group.state()).tracked:
                    continue
                step = change(before)
                if step.record is None:
                    return step.outcome
                if before is not None:
                    changed = await group.call(partial(writes.change, key=key, step_of=change))
                    if changed is None:  # it was erased meanwhile
                        continue
                    return changed[0]
                tracked = self._track_refusal(state, key, step.record)
                await group.commit()
                if tracked.is_taken:
                    continue
                return step.outcome
            if not tracked.is_stored:
                await group.commit()
                continue
            step = change(tracked.record)
            if step.record is not None:
                if tracked.record.ending is not None:  # soon it is not tracked any more
                    await group.written(tracked)
                    continue
                if step.charge:
                    step = state.budgets.charged(step)
                    group.batch.rows().charge(step.charge)
                assert step.record is not None
                self._put(state, tracked, step.record, step.content)
            await group.written(tracked)
            return step.outcome

    def _track_refusal(self, state: WriterState, key: RequestKey, record: Record) -> Tracked:
        if record.ending is None:
            raise ValueError("a request without a question cannot be unfinished")
        text, batch = encode_record(record), self._group.batch
        tracked = state.track_refusal(key, record)
        batch.rows().refuse(tracked, record.ending, text)
        batch.accepted.append(tracked)
        batch.ended.append(tracked)
        tracked.written_in = batch.number
        return tracked

    def _put(self, state: WriterState, tracked: Tracked, record: Record, content: Content) -> None:
        text, batch = encode_record(record), self._group.batch
        content.text.encode()
        tracked.record = record
        tracked.written_in = batch.number
        if record.ending is None:
            batch.rows().note(tracked, text.ljust(tracked.width))
        else:
            batch.rows().finish(tracked, record.ending, text, content)
            batch.ended.append(tracked)
            state.release(tracked)

    async def read(self, key: RequestKey) -> Record | None:
        return await self._record(key)

    async def _record(self, key: RequestKey) -> Record | None:
        rows = await self._rows(sql.SELECT_RECORD, key._asdict())
        return decode_record(*rows[0]) if rows else None

    async def question(self, key: RequestKey) -> Question | None:
        tracked = self._group.tracked.get(key)
        if tracked is not None and tracked.is_stored and tracked.question is not None:
            return tracked.question
        rows = await self._rows(sql.SELECT_QUESTION, key._asdict())
        return decode_question(*rows[0]) if rows else None

    async def answer(self, key: RequestKey) -> Content:
        rows = await self._rows(sql.SELECT_ANSWER, key._asdict())
        return content_of(*rows[0]) if rows else NOTHING

    async def unfinished(self) -> Sequence[Record]:
        select = sql.SELECT_UNFINISHED.format(users=sql.ALL_USERS)
        rows = await self._rows(select)
        return [decode_record(text, schema) for _, text, schema, *_ in sorted(rows)]

    async def unfinished_in(self, user_id: str, conversation_id: str) -> Sequence[Record]:
        rows = await self._rows(sql.SELECT_UNFINISHED.format(users="user_id = :user_id"), {"user_id": user_id})
        found = [decode_record(text, schema) for _, text, schema, *_ in sorted(rows)]
        return [record for record in found if record.conversation_id == conversation_id]

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        refusals = partial(writes.purge, before_ms=refused_before_ms, select=sql.SELECT_OLD_REFUSALS)
        ended = partial(writes.purge, before_ms=ended_before_ms, select=sql.SELECT_OLD)
        count = await self._repeat(refusals) + await self._repeat(ended)
        await self._forget_counters(refused_before_ms - KEPT_MS)
        if self._is_log_to_clear:
            await self._clear_log()
        return count

    async def _forget_counters(self, before_ms: int) -> None:
        """Those of windows that ended before then."""
        if (await self._group.state()).budgets.forget_windows(before_ms):
            await self._group.call(lambda database: database.execute(sql.FORGET_COUNTERS, {"before_ms": before_ms}))

    async def _repeat(self, step: Callable[[Database], int]) -> int:
        """A bounded number a transaction."""
        total = 0
        while count := await self._group.call(step):
            total += count
            if count < writes.STEP:
                break
        return total

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
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int, superseded: bool = False
    ) -> Sequence[StoredTurn]:
        where: dict[str, sql.Value] = {"user_id": user_id, "conversation_id": conversation_id}
        page = {**where, "before": NO_BOUND if before is None else before, "limit": limit}
        rows = await self._rows(sql.SELECT_ALL_TURNS if superseded else sql.SELECT_TURNS, page)
        return [turn_of(row) for row in rows]

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        page = conversations_page(user_id, before=before, limit=limit)
        rows = await self._rows(sql.SELECT_CONVERSATIONS, page)
        return [conversation_of(row) for row in rows]

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        return await self._write_of(
            user_id,
            lambda database: writes.update_conversation(
                database, user_id, conversation_id, title=title, deleted=deleted, now_ms=now_ms
            ),
        )

    async def _write_of(self, user_id: str, function: Callable[[Database], T]) -> T:
        """Do a rare write about one user, and nothing else about that user meanwhile."""
        del user_id  # this process alone writes
        return await self._group.call(function)

    async def delete_expired(self, *, now_ms: int, keep_days: int) -> int:
        page: dict[str, sql.Value] = {"now_ms": now_ms, "keep_days": keep_days, "limit": writes.STEP}
        total = 0
        while rows := await self._rows(sql.SELECT_EXPIRED, page):  # a reader looks through all of them
            total += await self._expire(rows)
        return total

    async def _expire(self, rows: Sequence[sql.Row]) -> int:
        return await self._group.call(partial(writes.expire, rows=rows))

    async def purge_deleted(self, *, before_ms: int) -> int:
        """Erase the conversations that were deleted before then, with their turns; returns how many.

        The texts of a request whose record is still kept go when the record is purged. `before_ms` should lie further
        back than any request can take: a turn of an erased conversation that ends later creates it again.
        """
        if count := await self._repeat(partial(writes.purge_deleted, before_ms=before_ms)):
            await self._clear_log()
        return count

    # --- ports.Users

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        page: dict[str, sql.Value] = {"after": after or "", "limit": limit}
        rows = await self._rows(sql.SELECT_USERS, page)
        return [user_of(row) for row in rows]

    async def user(self, user_id: str) -> StoredUser | None:
        rows = await self._rows(sql.SELECT_USER, {"user_id": user_id})
        return user_of(rows[0]) if rows else None

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        await self._store_limit(user_id, now_ms, lambda state: state.set_limit(user_id, per_minute))

    async def set_blocked(self, user_id: str, *, blocked: bool, now_ms: int) -> None:
        await self._store_limit(user_id, now_ms, lambda state: state.set_blocked(user_id, blocked=blocked))

    async def _store_limit(self, user_id: str, now_ms: int, change: Callable[[WriterState], int | None]) -> None:
        row: dict[str, sql.Value] = {"user_id": user_id, "created_at_ms": now_ms}
        await self._group.call(
            lambda database: database.execute(sql.SET_LIMIT, row), lambda state: row.update(per_minute=change(state))
        )

    async def set_retention(
        self, user_id: str, keep_days: int | None, *, now_ms: int, conversation_id: str | None = None
    ) -> bool:
        row: sql.Params = {"user_id": user_id, "keep_days": keep_days, "created_at_ms": now_ms}
        statement = sql.SET_USER_RETENTION
        if conversation_id is not None:
            row = {"user_id": user_id, "keep_days": keep_days, "conversation_id": conversation_id}
            statement = sql.SET_CONVERSATION_RETENTION
        return await self._group.call(lambda database: database.execute(statement, row).rowcount) > 0

    async def is_blocked(self, user_id: str) -> bool:
        """Whether the user is locked out; from memory."""
        return (await self._group.state()).is_blocked(user_id)

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        await self._store_caps(holder, now_ms, lambda state: state.budgets.set_budget(holder, period, budget))

    async def _store_caps(self, holder: str, now_ms: int, change: Callable[[WriterState], tuple[Budget, ...]]) -> None:
        statement, row = caps_row(holder, now_ms)
        await self._group.call(
            lambda database: database.execute(statement, row),
            lambda state: row.update(caps=encode_budgets(change(state))),
        )

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        row: sql.Params = {"user_id": user_id, "team": team, "created_at_ms": now_ms}
        await self._group.call(
            lambda database: database.execute(sql.SET_TEAM, row), lambda state: state.budgets.set_team(user_id, team)
        )

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        return (await self._group.state()).budgets.states(holder, now_ms)

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]:
        """Those that a question of the user is counted in, from memory. `team`: as the token has it."""
        return (await self._group.state()).budgets.states_of_user(user_id, team, now_ms)

    async def teams(self) -> Sequence[str]:
        return [team for team, _ in await self._rows(sql.SELECT_TEAMS)]

    async def counters(self) -> dict[tuple[str, str], Counter]:
        """Every counter of a budget by holder and window, as it is written."""
        rows = await self._rows(sql.SELECT_COUNTERS)
        return {(holder, window): Counter(used, reserved) for holder, window, used, reserved in rows}

    async def has_money_budgets(self) -> bool:
        """Whether anybody has a budget in money."""
        return bool(await self._rows(sql.SELECT_MONEY_CAPS))

    async def usage(
        self, user_id: str | None, *, since_day: str | None = None, by_model: bool = False
    ) -> Sequence[DailyUsage]:
        users = sql.ALL_USERS if user_id is None else "user_id = :user_id"
        select = sql.SELECT_MODEL_USAGE if by_model else sql.SELECT_USAGE
        rows = await self._rows(select.format(condition=users), {"user_id": user_id})
        return sum_usage(rows, since_day=since_day, by_model=by_model)

    async def _user_data(self) -> Sequence[Part]:
        """The tables that have something of users."""
        return USER_DATA

    async def export(self, user_id: str) -> AsyncIterator[bytes]:
        for part in await self._user_data():
            for statement in part.reading():
                after: sql.Value = part.first
                while rows := await self._rows(statement, {"user_id": user_id, "after": after}):
                    for row in rows:
                        yield line_of(part.table, dict(zip(part.shown, row[1:], strict=True)))
                    after = rows[-1][0]

    async def delete_user(self, user_id: str) -> bool:
        def forget(state: WriterState) -> None:
            if entries := state.settle_user(user_id):
                self._group.batch.rows().charge(entries)
            state.forget_user(user_id)

        erase = partial(writes.delete_user, user_id=user_id, parts=await self._user_data())
        was_there = await self._group.call(erase, forget)
        await self._clear_log()
        return was_there

    # --- ports.Files

    async def upload(self, key: FileKey) -> Upload | None:
        return await self._read(partial(writes.upload, key=key))

    async def begin(self, key: FileKey, name: str, *, now_ms: int) -> Upload | NoRoom:
        return await self._write_of(key.user_id, partial(writes.begin_upload, key=key, name=name, now_ms=now_ms))

    async def put(self, key: FileKey, name: str, number: int, data: bytes, *, now_ms: int) -> None:
        piece = {"user_id": key.user_id, "upload": name, "piece": number, "data": data, "now_ms": now_ms}
        await self._write_of(key.user_id, partial(writes.put_piece, piece=piece))

    async def complete(self, key: FileKey, name: str, *, content: str, now_ms: int) -> None:
        row = {**writes.file_named(key), "upload": name, "content": content, "completed_at_ms": now_ms}
        await self._group.call(lambda database: database.execute(sql.COMPLETE_UPLOAD, row))

    async def discard(self, key: FileKey, name: str) -> None:
        await self._group.call(partial(writes.forget_upload, user_id=key.user_id, name=name))

    async def examine(self, key: FileKey) -> str | None:
        return await self._read(lambda database: examine(key, _file(database, key) or b""))

    async def read_file(self, key: FileKey) -> bytes | None:
        return await self._read(partial(_file, key=key))

    async def read_range(self, key: FileKey, offset: int, count: int) -> bytes | None:
        first, skipped = divmod(offset, PIECE_BYTES)
        wanted = {**writes.file_named(key), "first": first, "last": (offset + count - 1) // PIECE_BYTES}
        rows = await self._rows(sql.SELECT_RANGE, wanted)
        return b"".join(data for (data,) in rows)[skipped : skipped + count] if rows else None

    async def purge_files(self, *, now_ms: int) -> int:
        count = await self._group.call(partial(writes.forget_uploads, now_ms=now_ms))
        if count:
            await self._clear_log()
        return count

    async def _clear_log(self) -> None:
        """Leave nothing of what was erased in the database's log. If somebody reads it now, the next purge does it."""
        self._is_log_to_clear = True
        with suppress(Unavailable):
            self._is_log_to_clear = not await self._group.alone(lambda database: database.clear_log())


def conversations_page(user_id: str, *, before: tuple[int, str] | None, limit: int) -> sql.Params:
    """The parameters of SELECT_CONVERSATIONS."""
    before_ms, before_id = (NO_BOUND, _AFTER_ANY_ID) if before is None else before
    return {"user_id": user_id, "before_ms": before_ms, "before_id": before_id, "limit": limit}


def caps_row(holder: str, now_ms: int) -> tuple[str, dict[str, sql.Value]]:
    """The statement that stores a holder's budgets, and its parameters but `caps`."""
    _, is_team, team = holder.rpartition(" ")
    if is_team:
        return sql.SET_TEAM_CAPS, {"team": team}
    return sql.SET_CAPS, {"user_id": holder, "created_at_ms": now_ms}


def sum_usage(rows: Sequence[sql.Row], *, since_day: str | None, by_model: bool = False) -> list[DailyUsage]:
    """Usage by day and user, of rows that may have several of a day and a user, and the day as a number."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for user_id, day, model, *used in rows:
        name = day if "-" in day else writes.day_named(day)
        if since_day is None or name >= since_day:
            sums = found.setdefault((name, user_id, model if by_model else ""), [0, 0, 0])
            sums[:] = map(add, sums, used)
    return [
        DailyUsage(
            user_id=user_id,
            day=day,
            requests=requests,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            model=model or None,
        )
        for (day, user_id, model), (requests, tokens_in, tokens_out) in sorted(found.items())
    ]


def _file(database: Database, key: FileKey) -> bytes | None:
    """What is there of a file."""
    found = database.execute(sql.SELECT_UPLOAD, writes.file_named(key)).fetchall()
    if not found:
        return None
    return b"".join(data for (data,) in database.execute(sql.SELECT_DATA, {"upload": found[0][0]}).fetchall())


def _position(database: Database, where: sql.Params) -> int | None:
    """Where the request stands in the conversation: superseded or not, ended or not, perhaps erased from it."""
    position: int | None
    for position, record, schema in database.execute(sql.SELECT_POSITION, where).fetchall():
        if decode_record(record, schema).conversation_id == where["conversation_id"]:
            return position
    ((position,),) = database.execute(sql.SELECT_OLD_POSITION, where).fetchall()  # retention has freed its id, perhaps
    return position
