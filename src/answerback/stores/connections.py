"""The open connections of a gateway, which of them is the address of its session, and what they watch.

In memory: they die with it.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from answerback.core.watching import MOST_WATCHED, placed
from answerback.ports import Bound, Connection, Place, Superseded, Watcher


class MemoryConnections:
    """ports.Connections and ports.Watching in dicts. Its methods never wait, so each is atomic."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._sessions: dict[tuple[str, str], tuple[int, int, str]] = {}
        """(user, session) -> (generation, connected_at_ms, connection id); kept while the address is open."""
        self._generation = 0
        self._watched: dict[str, dict[str | None, tuple[Watcher, ...]]] = {}
        """user -> conversation -> who watches it. A connection that is closed watches nothing."""

    async def add(self, connection: Connection) -> None:
        self._connections[connection.connection_id] = connection

    async def get(self, connection_id: str) -> Connection | None:
        return self._connections.get(connection_id)

    async def bind(self, connection_id: str, user_id: str) -> Bound | Superseded:
        connection = self._connections.get(connection_id)
        if connection is None:
            return Superseded()
        if connection.generation is not None and connection.user_id is not None:
            user_id = connection.user_id
        session = (user_id, connection.session_id)
        address = self._sessions.get(session)
        if address is not None:
            _, connected_at_ms, holder = address
            if holder == connection_id:
                return Bound(connection, None)
            if connection.connected_at_ms < connected_at_ms + (connection.generation is not None):
                return Superseded()
        # One counter for all sessions: higher than any before also after a session was forgotten.
        self._generation += 1
        bound = replace(connection, user_id=user_id, generation=self._generation)
        self._connections[connection_id] = bound
        self._sessions[session] = (self._generation, connection.connected_at_ms, connection_id)
        return Bound(bound, None if address is None else address[2])

    async def touch(self, connection_id: str, *, now_ms: int) -> None:
        if connection := self._connections.get(connection_id):
            self._connections[connection_id] = replace(connection, last_activity_ms=now_ms)

    async def renew(self, connection_id: str, *, token_expires_at_ms: int | None) -> None:
        if connection := self._connections.get(connection_id):
            self._connections[connection_id] = replace(connection, token_expires_at_ms=token_expires_at_ms)

    async def remove(self, connection_id: str) -> None:
        connection = self._connections.pop(connection_id, None)
        if connection is None or connection.user_id is None:
            return
        session = (connection.user_id, connection.session_id)
        address = self._sessions.get(session)
        if address is not None and address[2] == connection_id:
            del self._sessions[session]
        watched = self._watched.pop(connection.user_id, {})
        left = {
            name: tuple(one for one in all_ if one.connection_id != connection_id) for name, all_ in watched.items()
        }
        if left := {name: watchers for name, watchers in left.items() if watchers}:
            self._watched[connection.user_id] = left

    async def idle(self, *, since_ms: int) -> Sequence[Connection]:
        return [c for c in self._connections.values() if c.last_activity_ms < since_ms]

    @property
    def watched(self) -> Container[str]:
        return self._watched

    async def watch(
        self, user_id: str, conversation_id: str | None, watcher: Watcher, *, now_ms: int, most: int
    ) -> Place:
        if watcher.connection_id not in self._connections:
            return Place.OLDER
        watched = self._watched.get(user_id, {})
        if conversation_id not in watched and len(watched) >= MOST_WATCHED:
            for name in [name for name, all_ in watched.items() if all(one.until_ms <= now_ms for one in all_)]:
                del watched[name]
            if len(watched) >= MOST_WATCHED:
                return Place.FULL
        found = placed(watched.get(conversation_id, ()), watcher, now_ms=now_ms, most=most)
        if isinstance(found, Place):
            return found
        self._watched.setdefault(user_id, watched)[conversation_id] = found
        return Place.KEPT

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        watched = self._watched.get(user_id, {})
        return {name: [one for one in watched.get(name, ()) if one.until_ms > now_ms] for name in conversations}
