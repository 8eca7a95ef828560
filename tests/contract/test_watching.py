"""Contract of ports.Watching. A further implementation joins with a name in WATCHING."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from answerback.ports import Bound, Connection, Connections, Place, Watcher, Watching
from answerback.stores.connections import MemoryConnections
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.connections import DynamoConnections
from answerback_aws.runtime.dynamodb.database import Database
from dynamo import own_tables

WATCHING = [
    "memory",
    pytest.param("fleet", marks=pytest.mark.postgres),
    pytest.param("dynamodb", marks=pytest.mark.emulator),
]

MOST = 3


class Store(Connections, Watching, Protocol):
    """Who watches is kept beside the connections."""


@dataclass
class Watched:
    """A store, and connections that say `watch` there."""

    store: Any
    now_ms: int = 1_000
    sees_closed: bool = True
    """Whether who is gone is known at once, and not only when a place is needed or something is sent there."""
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
        return {(one.connection_id, one.number) for one in found[conversation] if not one.off}


@pytest.fixture(params=WATCHING)
async def watched(request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    if request.param == "memory":
        yield Watched(MemoryConnections())
        return
    if request.param == "dynamodb":
        client = request.getfixturevalue("emulator").client("dynamodb")
        calls = Calls(threads=8)
        with own_tables(client) as tables:
            store = DynamoConnections(Database(client=client, calls=calls, tables=tables))
            yield Watched(store, sees_closed=False)
        calls.close()
        return
    from answerback.gateway.fleet import FleetConnections
    from answerback.stores.fleet import FleetStore

    fleet = FleetStore(request.getfixturevalue("postgres_server").url, node="a", schema=f"t_{uuid.uuid4().hex}")
    await fleet.open()
    yield Watched(FleetConnections(fleet))
    await fleet.close()


async def test_what_is_kept_is_found_as_it_was(watched: Watched) -> None:
    await watched.open("a1", session="a")
    assert await watched.watch("a1") is Place.KEPT
    found = await watched.store.watchers("ann", "c", "other", None, now_ms=watched.now_ms)
    assert found == {"c": [watched.watcher("a1")], "other": [], None: []}
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
    assert await watched.watch("a1", 3) is Place.KEPT, "it may come twice"
    assert await watched.watchers() == {("a1", 3)}
    assert await watched.watch("a1", 5, off=True) is Place.KEPT
    assert await watched.watch("a1", 4) is Place.OLDER
    assert await watched.watchers() == set()
    await watched.open("a2", session="a")
    assert await watched.watch("a2", 1) is Place.KEPT, "a connection begins to count again"
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


async def test_not_everything_is_watched_at_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stores.connections", "stores.fleet"):
        monkeypatch.setattr(f"answerback.{module}.MOST_WATCHED", 3)
    monkeypatch.setattr("answerback_aws.runtime.dynamodb.connections.MOST_WATCHED", 3)
    await watched.open("a1", session="a")
    for number in range(3):
        assert await watched.watch("a1", number, conversation=f"c{number}", off=number == 1) is Place.KEPT
    assert await watched.watch("a1", 7, conversation="c7") is Place.FULL
    assert await watched.watch("a1", 8, conversation="c0") is Place.KEPT
    watched.now_ms += 1_000
    assert await watched.watch("a1", 9, conversation="c7") is Place.KEPT
    assert await watched.watchers("c7") == {("a1", 9)}


async def test_a_closed_connection_watches_nothing(watched: Watched) -> None:
    await watched.open("a1", session="a")
    await watched.watch("a1")
    watcher = watched.watcher("a1", 2)
    await watched.store.remove("a1")
    late = await watched.store.watch("ann", "c", watcher, now_ms=watched.now_ms, most=MOST)
    outcome = (Place.OLDER, set()) if watched.sees_closed else (Place.KEPT, {("a1", 2)})
    assert (late, await watched.watchers()) == outcome, "its last frame was handled behind its end"


async def test_a_session_that_has_moved_is_shown_at_its_new_connection(watched: Watched) -> None:
    await watched.open("a1", session="a")
    await watched.open("b1", session="b")
    assert await watched.watch("a1") is Place.KEPT
    await watched.open("a2", session="a")
    assert await watched.watch("a2") is Place.KEPT
    await watched.store.remove("a1")
    assert await watched.watchers() == {("a2", 1)}
    assert await watched.watch("b1") is Place.KEPT
