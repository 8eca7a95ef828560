"""ports.Users on AWS: the users and what they used are in Aurora; limits and unfinished requests on DynamoDB."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from answerback.clock import epoch_ms
from answerback.core.admission import is_locked, locked, unlocked
from answerback.core.budget import Budget, BudgetState, Period, encode_budgets
from answerback.core.request import Record, RequestKey, cancel, erase
from answerback.ports import DailyUsage, Requests, StoredUser
from answerback.stores import statements as sql
from answerback.stores.encoding import user_of
from answerback.stores.statements import Params
from answerback.stores.store import caps_row
from answerback.stores.user_data import line_of
from answerback_aws.runtime.aurora import operations
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.aurora.write_behind import WriteBehind
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import Value, decode, number_of, text_of
from answerback_aws.runtime.dynamodb.limits import RateLimits
from answerback_aws.runtime.dynamodb.tables import USER_DATA
from answerback_aws.runtime.s3_files import S3Files


class AwsUsers:
    """ports.Users in Aurora. Each call first brings to Aurora what it does not have yet, and so wakes it.

    `files` None: the stack takes none. `close_connection`: closes a socket; it may be gone already.
    """

    def __init__(
        self,
        *,
        database: Database,
        requests: Requests,
        write_behind: WriteBehind,
        api: DataApi,
        files: S3Files | None = None,
        close_connection: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._close_connection = close_connection
        self._limits = RateLimits(database)
        self._requests = requests
        self._write_behind = write_behind
        self._api = api
        self._files = files

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        """A user whose first question has not ended is in DynamoDB only."""
        unfinished = await self._requests.unfinished()  # first: what ends from here on is flushed
        await self._write_behind.flush()
        page: Params = {"after": after or "", "limit": limit}
        listed = await self._api.read(lambda statements: statements.execute(sql.SELECT_USERS, page))
        found = {user.user_id: user for user in map(user_of, listed.rows)}
        is_whole = len(found) < limit
        last = max(found, default="")
        for record in unfinished:
            user_id = record.user_id
            if (after is None or user_id > after) and (is_whole or user_id <= last):
                found[user_id] = _with_unfinished(found.get(user_id), record)
        return [found[user_id] for user_id in sorted(found)][:limit]

    async def user(self, user_id: str) -> StoredUser | None:
        unfinished = [record for record in await self._requests.unfinished() if record.user_id == user_id]
        await self._write_behind.flush(user_id)
        found = await self._found(user_id)
        for record in unfinished:
            found = _with_unfinished(found, record)
        return found

    async def _found(self, user_id: str) -> StoredUser | None:
        found = await self._api.read(lambda statements: statements.execute(sql.SELECT_USER, {"user_id": user_id}))
        return user_of(found.rows[0]) if found.rows else None

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        """Change Aurora first: if it cannot be reached, nothing has changed."""
        stored = locked(per_minute) if is_locked(await self._limits.own_limit(user_id)) else per_minute
        await self._show_limit(user_id, stored, now_ms)
        await self._limits.set_own_limit(user_id, stored)

    async def set_blocked(self, user_id: str, *, blocked: bool, now_ms: int) -> None:
        """Decide on DynamoDB first, where new frames look. Then end what runs, and close the sockets.

        block     mark on DynamoDB ──► cancel what is unfinished ──► forget and close connections ──► show it in Aurora
                                    ▲
                dies here: the user is locked out; the same command again does the rest
        """
        own_limit = unlocked(await self._limits.own_limit(user_id))
        stored = locked(own_limit) if blocked else own_limit
        await self._limits.set_own_limit(user_id, stored)
        if blocked:
            for record in await self._requests.unfinished():
                if record.user_id == user_id:
                    await self._requests.change(record.key, partial(cancel, refusal_record=record, now_ms=now_ms))
            for connection_id in await forget_connections(self._database, user_id):
                if self._close_connection is not None:
                    await self._close_connection(connection_id)
        await self._show_limit(user_id, stored, now_ms)

    async def _show_limit(self, user_id: str, stored: int | None, now_ms: int) -> None:
        row: Params = {"user_id": user_id, "per_minute": stored, "created_at_ms": now_ms}
        await self._api.write(lambda statements: statements.execute(sql.SET_LIMIT, row))

    async def set_retention(
        self, user_id: str, keep_days: int | None, *, now_ms: int, conversation_id: str | None = None
    ) -> bool:
        await self._write_behind.flush(user_id)  # a conversation may be there that Aurora does not have
        row: Params = {"user_id": user_id, "keep_days": keep_days, "created_at_ms": now_ms}
        statement = sql.SET_USER_RETENTION
        if conversation_id is not None:
            row = {"user_id": user_id, "keep_days": keep_days, "conversation_id": conversation_id}
            statement = sql.SET_CONVERSATION_RETENTION
        return (await self._api.write(lambda statements: statements.execute(statement, row))).changed > 0

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        """Set it on DynamoDB, where acceptance looks, then show it in Aurora. The same command again repairs either."""
        budgets = await self._limits.set_budget(holder, period, budget)
        statement, row = caps_row(holder, now_ms)
        row["caps"] = encode_budgets(budgets)
        await self._api.write(lambda statements: statements.execute(statement, row))

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        row: Params = {"user_id": user_id, "team": team, "created_at_ms": now_ms}
        await self._limits.set_team(user_id, team)
        await self._api.write(lambda statements: statements.execute(sql.SET_TEAM, row))

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._limits.states(holder, now_ms=now_ms)

    async def teams(self) -> Sequence[str]:
        found = await self._api.read(lambda statements: statements.execute(sql.SELECT_TEAMS))
        return [team for team, _ in found.rows]

    async def usage(
        self, user_id: str | None, *, since_day: str | None = None, by_model: bool = False
    ) -> Sequence[DailyUsage]:
        await self._write_behind.flush(user_id)
        return await self._api.read(
            lambda statements: operations.usage(statements, user_id, since_day=since_day, by_model=by_model)
        )

    async def export(self, user_id: str) -> AsyncIterator[bytes]:
        """What Aurora has, then every item of DynamoDB, then files. A turn of the last three months is in both."""
        await self._write_behind.flush(user_id)
        async for line in operations.export(self._api, user_id):
            yield line
        tables = self._database.tables
        for name in USER_DATA:
            key, values = "userId = :u", {":u": user_id}
            for item in await self._database.query(getattr(tables, name), key, values, ConsistentRead=True):
                yield line_of(f"dynamodb.{name}", decode(item))
                connection_id = text_of(item, "connectionId")
                if connection_id is not None:
                    found = await self._database.get(
                        tables.connections, {"connectionId": connection_id}, consistent=True
                    )
                    if found is not None:
                        yield line_of("dynamodb.connections", decode(found))
        if self._files is not None:
            async for name, data in self._files.objects(user_id):
                yield line_of("s3.files", {"key": name, "data": data})

    async def delete_user(self, user_id: str) -> bool:
        """Delete a user from both databases, in an order that no concurrent write can undo. A lock-out stays.

        delete      Aurora answers ──► everything on DynamoDB ──► files ──► [ lock the user ──► everything in Aurora ]
        write_behind    [ lock the user ──► is the entry there? ──► write it ]

        A record that the writer saw is written before the lock is ours, and deleted by us. Behind that there is none.
        A front that was writing bytes may leave an object that nothing names: a repeat or the lifecycle deletes it.
        """
        known = await self._found(user_id)  # a paused Aurora wakes before anything is erased

        async def erase(statements: Statements) -> bool:
            await operations.lock_users(statements, [user_id])
            return await operations.delete_user(statements, user_id)

        was_here = await erase_user(self._database, self._requests, user_id)
        if self._files is not None:
            was_here = await self._files.erase(user_id) or was_here
        was_there = await self._api.write(erase)
        return was_here or was_there or (known is not None and not known.blocked)


def _with_unfinished(user: StoredUser | None, record: Record) -> StoredUser:
    at_ms = record.accepted_at_ms
    if user is None:
        return StoredUser(
            user_id=record.user_id,
            per_minute=None,
            created_at_ms=at_ms,
            last_request_at_ms=at_ms,
            conversations=0,
            turns=0,
        )
    return replace(
        user,
        created_at_ms=min(at_ms, user.created_at_ms),
        last_request_at_ms=max(at_ms, user.last_request_at_ms or 0),
    )


async def forget_connections(database: Database, user_id: str) -> list[str]:
    """Delete the items of the user's connections, so that nothing they send counts; their ids. Raises: Unavailable."""
    tables = database.tables
    sessions = await database.query(tables.sessions, "userId = :u", {":u": user_id}, ConsistentRead=True)
    open_now = [connection for item in sessions if (connection := text_of(item, "connectionId")) is not None]
    await database.delete_many(tables.connections, [{"connectionId": connection} for connection in open_now])
    return open_now


async def erase_user(database: Database, requests: Requests, user_id: str) -> bool:
    """Delete every item of the user but a lock-out, for good; whether there was any. May be repeated.

    A request that holds some of a team's budget ends first, and so gives it back. Raises: Unavailable.

    erase     records ──► texts and turns ──► minutes and limit ──► sessions and their connections
                      ▲
    a worker that still runs an answer is fenced from here on: it has no record that it could end, so no turn is
    written behind the eraser's back, and the text that it had written is taken back
    """
    tables = database.tables
    found = False
    for name, sort_key in USER_DATA.items():
        table = getattr(tables, name)
        items = await database.query(
            table,
            "userId = :u",
            {":u": user_id},
            ProjectionExpression=f"#{sort_key}, connectionId, perMinute, #hold",
            ConsistentRead=True,
        )
        for item in items:
            if "hold" in item:
                await requests.change(RequestKey(user_id, item[sort_key]["S"]), partial(erase, now_ms=epoch_ms()))
        keys: list[dict[str, Value]] = [
            {"userId": user_id, sort_key: item[sort_key]["S"]}
            for item in items
            if not is_locked(number_of(item, "perMinute"))
        ]
        found = found or bool(keys)
        open_now = [text_of(item, "connectionId") for item in items]
        await database.delete_many(
            tables.connections, [{"connectionId": connection} for connection in open_now if connection is not None]
        )
        await database.delete_many(table, keys)
    return found
