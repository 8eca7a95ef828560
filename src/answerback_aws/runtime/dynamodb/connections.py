"""ports.Connections and ports.Watching on DynamoDB.

Open connections, which one is the address of each session, and which sessions watch what.
"""

import asyncio
import secrets
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from answerback.core.camel import row_as_json, snake
from answerback.core.instants import iso
from answerback.core.watching import placed
from answerback.ports import Bound, Connection, Place, Superseded, Unavailable, Watcher
from answerback_aws.runtime.dynamodb.database import TRIES, Database
from answerback_aws.runtime.dynamodb.items import Item, Value, decode, encode, number_of, text_of, update_of
from answerback_aws.runtime.dynamodb.tables import TTL_ATTRIBUTE, WATCH, watch_key

STATUS: Final = "active"

CONNECTION_S: Final = 2 * 3_600 + 600
"""API Gateway closes a connection after two hours; an item that `$disconnect` did not remove goes soon after."""

SESSION_S: Final = 90 * 24 * 3_600
"""How long the item of a session stays after it was opened: far beyond the retention of records, whose targets name its
generation."""


MOST_WATCHED: Final = 100
"""Conversations of one user that are watched at a time. All are read at once, by every answer of theirs."""

_decode_watchers: Final = msgspec.json.Decoder(tuple[Watcher, ...])
_encode_watchers: Final = msgspec.json.Encoder()


class _Everyone(Container[str]):
    """Who watches stands in the table alone."""

    def __contains__(self, _: object) -> bool:
        return True


class DynamoConnections:
    """ports.Connections and ports.Watching in two DynamoDB tables.

    Those who watch a conversation are one item, which is written if it still is as it was read. It names connections
    that are closed, too: a post to one finds it gone.
    """

    watched: Final[Container[str]] = _Everyone()

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connections = database.tables.connections
        self._sessions = database.tables.sessions

    async def add(self, connection: Connection) -> None:
        expires_at = connection.connected_at_ms // 1000 + CONNECTION_S
        await self._database.put(self._connections, _encode(connection) | encode({TTL_ATTRIBUTE: expires_at}))

    async def get(self, connection_id: str) -> Connection | None:
        """Strongly consistent: it may have been added or bound milliseconds ago."""
        found = await self._database.get(self._connections, _key(connection_id), consistent=True)
        return None if found is None else _decode(found)

    async def bind(self, connection_id: str, user_id: str) -> Bound | Superseded:
        """Bind a connection to a user, and its session to the connection, in one transaction.

        front    read connection and session ──► transaction: connection bound if as read, session its if as read
                                               ▲                                                                 ▲
                           dies here: nothing, the next frame binds              bound; binding again changes nothing

        older and newer at once    older: read g1 ─────── write g2 if g1: refused ─ read: the newer has it ─► Superseded
                                   newer: read g1 ─ write g2 if g1 ─► Bound(g2)

        two first frames of one connection, naming two users    the second transaction is refused: it is bound
        """
        for attempt in range(TRIES):
            found = await self._database.get(self._connections, _key(connection_id), consistent=True)
            if found is None:
                return Superseded()
            connection = _decode(found)
            if connection.generation is not None and connection.user_id is not None:
                user_id = connection.user_id
            key = {"userId": user_id, "sessionId": connection.session_id}
            session = await self._database.get(self._sessions, key, consistent=True)
            holder = None if session is None else text_of(session, "connectionId")
            if session is not None and holder is not None:
                if holder == connection_id and connection.generation == number_of(session, "generation"):
                    return Bound(connection, None)
                if holder == connection_id:
                    continue  # another frame of it has bound it between the two reads
                held_at_ms = number_of(session, "connectedAtMs") or 0
                # Of one millisecond: the one that had the session and lost it is the older one.
                if connection.connected_at_ms < held_at_ms + (connection.generation is not None):
                    return Superseded()
            bound = replace(connection, user_id=user_id, generation=_next_generation(connection, session))
            if await self._take(connection, bound, session):
                return Bound(bound, holder)
            await self._database.pause(attempt)
        raise Unavailable("other connections of the session were in the way again and again")

    async def _take(self, before: Connection, bound: Connection, session: Item | None) -> bool:
        """Write both items if they are as they were read."""
        as_read = "attribute_not_exists(generation)" if before.generation is None else "generation = :was"
        connection = update_of(
            self._connections,
            _key(bound.connection_id),
            "SET userId = :u, generation = :g",
            f"attribute_exists(connectionId) AND {as_read}",
            u=bound.user_id,
            g=bound.generation,
            was=before.generation,
        )
        seen = None if session is None else number_of(session, "generation")
        address = update_of(
            self._sessions,
            {"userId": bound.user_id or "", "sessionId": bound.session_id},
            "SET connectionId = :c, connectedAtMs = :at, generation = :g, expiresAt = :e",
            "attribute_not_exists(userId)" if seen is None else "generation = :seen",
            c=bound.connection_id,
            at=bound.connected_at_ms,
            g=bound.generation,
            e=bound.connected_at_ms // 1000 + SESSION_S,
            seen=seen,
        )
        refused = await self._database.transact([connection, address])
        return refused is None

    async def touch(self, connection_id: str, *, now_ms: int) -> None:
        await self._set(connection_id, {"lastActivity": _iso(now_ms), "lastActivityMs": now_ms})

    async def renew(self, connection_id: str, *, token_expires_at_ms: int | None) -> None:
        await self._set(connection_id, {"tokenExpiresAtMs": token_expires_at_ms})

    async def _set(self, connection_id: str, values: Mapping[str, Value | None]) -> None:
        """Set or remove (None) attributes of a connection that is there; an update alone would bring it back."""
        kept = [name for name, value in values.items() if value is not None]
        removed = [name for name, value in values.items() if value is None]
        change = ["SET " + ", ".join(f"{name} = :{name}" for name in kept)] if kept else []
        change += ["REMOVE " + ", ".join(removed)] if removed else []
        exists = "attribute_exists(connectionId)"
        await self._database.update(self._connections, _key(connection_id), " ".join(change), exists, **values)

    async def remove(self, connection_id: str) -> None:
        """Remove a connection. The session keeps its generation.

        $disconnect (late)     delete connection ──► session: address off, if it still is this connection
                                                   ▲
                                    dies here: the address leads nowhere (410), the next connection takes it
        newer connection                bind ─► session: address is the newer ── the condition fails, it stays
        """
        item = await self._database.delete(self._connections, _key(connection_id))
        if item is None:
            return
        connection = _decode(item)
        if connection.user_id is None or connection.generation is None:
            return
        address = {"userId": connection.user_id, "sessionId": connection.session_id}
        off = "REMOVE connectionId, connectedAtMs"
        await self._database.update(self._sessions, address, off, "connectionId = :c", c=connection_id)

    # --- ports.Watching

    async def watch(
        self, user_id: str, conversation_id: str | None, watcher: Watcher, *, now_ms: int, most: int
    ) -> Place:
        key = watch_key(user_id, conversation_id)
        for attempt in range(TRIES):
            watched = await self._watched(user_id)
            before, known = watched.get(key["sessionId"], (None, ()))
            others = sum(any(one.until_ms > now_ms for one in all_) for _, all_ in watched.values())
            if not known and others >= MOST_WATCHED:
                return Place.FULL
            found = placed(known, watcher, now_ms=now_ms, most=most)
            if found is Place.FULL:
                open_now = await asyncio.gather(*(self.get(one.connection_id) for one in known))
                known = [one for one, connection in zip(known, open_now, strict=True) if connection is not None]
                found = placed(known, watcher, now_ms=now_ms, most=most)
            if isinstance(found, Place):
                return found
            version = secrets.token_hex(6)
            kept: dict[str, Value] = {
                "watchers": _encode_watchers.encode(found).decode(),
                "version": version,
                TTL_ATTRIBUTE: max(one.until_ms for one in found) // 1000 + 1,
            }
            condition = "attribute_not_exists(userId)" if before is None else "version = :seen"
            refused = await self._database.put(self._sessions, encode({**key, **kept}), condition, seen=before)
            if refused is None or _version(refused.items[0]) == version:
                return Place.KEPT
            await self._database.pause(attempt)
        raise Unavailable("others began to watch again and again")

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        watched = await self._watched(user_id)
        found = {name: watched.get(watch_key(user_id, name)["sessionId"], (None, ()))[1] for name in conversations}
        return {name: [one for one in all_ if one.until_ms > now_ms] for name, all_ in found.items()}

    async def _watched(self, user_id: str) -> Mapping[Value, tuple[str | None, Sequence[Watcher]]]:
        """All that is watched of the user, by sort key, with the version of each item.

        Of one who watches nothing, or a few things, that is one read unit.
        """
        condition = "userId = :u AND begins_with(sessionId, :w)"
        items = await self._database.query(self._sessions, condition, {":u": user_id, ":w": WATCH}, ConsistentRead=True)
        return {
            item["sessionId"]["S"]: (_version(item), _decode_watchers.decode(item["watchers"]["S"])) for item in items
        }

    async def idle(self, *, since_ms: int) -> Sequence[Connection]:
        """Scan the table: about 500 read units for 10,000 connections (6 cents for 1,000 sweeps).

        An index on the last activity would cost a write unit for each sign of life.
        """
        found = await self._database.scan(
            self._connections,
            FilterExpression="lastActivityMs < :since",
            ExpressionAttributeValues=encode({":since": since_ms}),
        )
        return [_decode(item) for item in found]


def _version(item: Item | None) -> str | None:
    return None if item is None else text_of(item, "version")


def _next_generation(connection: Connection, session: Item | None) -> int:
    """Higher than any before. The time is only the floor of a session that nothing is known of any more."""
    seen = 0 if session is None else number_of(session, "generation") or 0
    return seen + 1 if seen else max(1, connection.connected_at_ms)


def _key(connection_id: str) -> dict[str, Value]:
    return {"connectionId": connection_id}


def _encode(connection: Connection) -> dict[str, dict[str, Any]]:
    times = {"connectedAt": _iso(connection.connected_at_ms), "lastActivity": _iso(connection.last_activity_ms)}
    # `connectedAtMs` and `lastActivityMs` are ours; these three are those that the two-frame client's stack has.
    return encode({**row_as_json(connection), **times, "status": STATUS})


def _decode(item: Item) -> Connection:
    return msgspec.convert({snake(name): value for name, value in decode(item).items()}, Connection)


def _iso(epoch_ms: int) -> str:
    """In whole seconds, as the item's form has it: `2025-01-01T00:00:00Z`."""
    return iso(epoch_ms, "seconds")
