"""Contract of ports.Watching. A further implementation joins with a name in WATCHING."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from answerback.ports import Bound, Connection, Connections, Place, Watcher, Watching
from answerback.stores.connections import MemoryConnections

WATCHING = ["memory"]

MOST = 3


class Store(Connections, Watching, Protocol):
    """Who watches is kept beside the connections."""


@dataclass
class Watched:
    """A store, and connections that say `watch` there."""

    store: Any
    now_ms: int = 1_000
    connections: dict[str, Connection] = field(default_factory=dict)

    async def open(self, connection_id: str, *, session: str, user: str = "ann") -> None:
        self.now_ms += 10
        connection = Connection(
            connection_id=connection_id,
            session_id=session,
            connected_at_ms=self.now_ms,
            last_activity_ms=self.now_ms,
            user_id=user,
        )
        await self.store.add(connection)
        bound = await self.store.bind(connection_id, user)
        assert isinstance(bound, Bound)
        self.connections[connection_id] = bound.connection

    async def watch(
        self, connection_id: str, number: int = 1, *, conversation: str | None = "c", off: bool = False
    ) -> Place:
        watcher = self.watcher(connection_id, number, off=off)
        user = self.connections[connection_id].user_id
        place: Place = await self.store.watch(user, conversation, watcher, now_ms=self.now_ms, most=MOST)
        return place

    def watcher(self, connection_id: str, number: int = 1, *, off: bool = False) -> Watcher:
        connection = self.connections[connection_id]
        return Watcher(
            session_id=connection.session_id,
            connection_id=connection_id,
            generation=connection.generation or 0,
            number=number,
            off=off,
            until_ms=self.now_ms + 1_000,
        )

    async def watchers(self, conversation: str | None = "c", *, user: str = "ann") -> set[tuple[str, int]]:
        found = await self.store.watchers(user, conversation, now_ms=self.now_ms)
        return {(one.connection_id, one.number) for one in found if not one.off}


@pytest.fixture(params=WATCHING)
def watched(request: pytest.FixtureRequest) -> Watched:
    assert request.param == "memory"
    return Watched(MemoryConnections())


async def test_what_is_kept_is_found_as_it_was(watched: Watched) -> None:
    await watched.open("a1", session="a")
    assert await watched.watch("a1") is Place.KEPT
    assert await watched.store.watchers("ann", "c", now_ms=watched.now_ms) == [watched.watcher("a1")]
    assert "ann" in watched.store.watched
    assert await watched.watchers(None) == await watched.watchers("other") == set()
    assert await watched.watch("a1", 2, conversation=None) is Place.KEPT
    assert (await watched.watchers(None), await watched.watchers()) == ({("a1", 2)}, {("a1", 1)})


async def test_users_are_kept_apart(watched: Watched) -> None:
    await watched.open("a1", session="s")
    await watched.open("b1", session="s", user="bob")
    assert await watched.watch("a1") is Place.KEPT
    assert await watched.watchers(user="bob") == set()
    assert await watched.watch("b1") is Place.KEPT
    assert (await watched.watchers(), await watched.watchers(user="bob")) == ({("a1", 1)}, {("b1", 1)})


async def test_an_older_frame_changes_nothing(watched: Watched) -> None:
    await watched.open("a1", session="a")
    assert await watched.watch("a1", 3) is Place.KEPT
    assert await watched.watch("a1", 2, off=True) is Place.OLDER
    assert await watched.watchers() == {("a1", 3)}
    assert await watched.watch("a1", 5, off=True) is Place.KEPT
    assert await watched.watch("a1", 4) is Place.OLDER
    assert await watched.watchers() == set()
    await watched.open("a2", session="a")
    assert await watched.watch("a2", 1) is Place.KEPT, "a connection begins to count anew"
    assert await watched.watch("a1", 9) is Place.OLDER
    assert await watched.watchers() == {("a2", 1)}


async def test_a_place_is_kept_for_a_while(watched: Watched) -> None:
    await watched.open("a1", session="a")
    assert await watched.watch("a1") is Place.KEPT
    watched.now_ms += 999
    assert await watched.watchers() == {("a1", 1)}
    watched.now_ms += 1
    assert await watched.watchers() == set()


async def test_the_places_are_counted(watched: Watched) -> None:
    for name in "abcd":
        await watched.open(f"{name}1", session=name)
    for name in "abc":
        assert await watched.watch(f"{name}1") is Place.KEPT
    assert await watched.watch("d1") is Place.FULL
    assert await watched.watch("d1", 2, conversation="other") is Place.KEPT
    assert await watched.watch("a1", 2) is Place.KEPT, "it has a place"
    assert await watched.watch("b1", 2, off=True) is Place.KEPT
    assert await watched.watch("d1", 3) is Place.KEPT
    assert await watched.watchers() == {("a1", 2), ("c1", 1), ("d1", 3)}


async def test_the_places_of_closed_connections_are_given_away(watched: Watched) -> None:
    for name in "abcd":
        await watched.open(f"{name}1", session=name)
    for name in "abc":
        assert await watched.watch(f"{name}1") is Place.KEPT
    await watched.store.remove("b1")
    assert await watched.watch("d1") is Place.KEPT
    assert await watched.watchers() >= {("a1", 1), ("c1", 1), ("d1", 1)}


async def test_a_session_that_has_moved_is_shown_at_its_new_connection(watched: Watched) -> None:
    await watched.open("a1", session="a")
    await watched.open("b1", session="b")
    assert await watched.watch("a1") is Place.KEPT
    await watched.open("a2", session="a")
    assert await watched.watch("a2") is Place.KEPT
    await watched.store.remove("a1")
    assert await watched.watchers() == {("a2", 1)}
    assert await watched.watch("b1") is Place.KEPT
