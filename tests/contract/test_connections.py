"""Contract of ports.Connections. A further implementation joins with a name in CONNECTIONS."""

from collections.abc import Iterator

import pytest

from answerback.ports import Bound, Connection, Connections, Superseded
from answerback.stores.connections import MemoryConnections
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.connections import DynamoConnections
from answerback_aws.runtime.dynamodb.database import Database
from dynamo import own_tables

CONNECTIONS = ["memory", pytest.param("dynamodb", marks=pytest.mark.emulator)]


@pytest.fixture(params=CONNECTIONS)
def connections(request: pytest.FixtureRequest) -> Iterator[Connections]:
    if request.param == "memory":
        yield MemoryConnections()
        return
    client = request.getfixturevalue("emulator").client("dynamodb")
    calls = Calls(threads=8)
    with own_tables(client) as tables:
        yield DynamoConnections(Database(client=client, calls=calls, tables=tables))
    calls.close()


def connection(connection_id: str, *, session: str = "s1", at_ms: int = 1_000, user: str | None = None) -> Connection:
    return Connection(
        connection_id=connection_id,
        session_id=session,
        connected_at_ms=at_ms,
        last_activity_ms=at_ms,
        user_id=user,
        source_ip="127.0.0.1",
        user_agent="test",
    )


async def bound(connections: Connections, connection_id: str, user_id: str = "ann") -> Bound:
    outcome = await connections.bind(connection_id, user_id)
    assert isinstance(outcome, Bound)
    return outcome


async def test_what_was_added_is_there_until_it_is_removed(connections: Connections) -> None:
    assert await connections.get("a") is None
    await connections.add(connection("a"))
    assert await connections.get("a") == connection("a")
    await connections.remove("a")
    assert await connections.get("a") is None
    await connections.remove("a")


async def test_binding_names_the_user_and_gives_a_generation(connections: Connections) -> None:
    await connections.add(connection("a"))
    outcome = await bound(connections, "a")
    assert (outcome.connection.user_id, outcome.replaced) == ("ann", None)
    assert outcome.connection.generation is not None
    assert await connections.get("a") == outcome.connection


async def test_binding_again_changes_nothing_and_the_first_user_stays(connections: Connections) -> None:
    await connections.add(connection("a"))
    first = await bound(connections, "a", "ann")
    assert await bound(connections, "a", "bob") == first
    assert await connections.get("a") == first.connection


async def test_the_newer_connection_wins_with_a_higher_generation(connections: Connections) -> None:
    await connections.add(connection("old", at_ms=1_000))
    await connections.add(connection("new", at_ms=1_001))
    old = await bound(connections, "old")
    new = await bound(connections, "new")
    assert new.replaced == "old"
    assert (new.connection.generation or 0) > (old.connection.generation or 0)


async def test_the_newer_connection_wins_in_any_order_of_binding(connections: Connections) -> None:
    await connections.add(connection("old", at_ms=1_000))
    await connections.add(connection("new", at_ms=1_001))
    new = await bound(connections, "new")
    assert await connections.bind("old", "ann") == Superseded()
    assert await connections.get("new") == new.connection


async def test_of_two_of_one_millisecond_the_one_wins_that_comes_later(connections: Connections) -> None:
    for old, new in (("b", "a"), ("c", "d")):  # whatever their ids are
        await connections.add(connection(old, session=old))
        await connections.add(connection(new, session=old))
        await bound(connections, old)
        assert (await bound(connections, new)).replaced == old
        assert await connections.bind(old, "ann") == Superseded()
        assert (await bound(connections, new)).replaced is None


async def test_a_connection_that_is_gone_is_superseded(connections: Connections) -> None:
    assert await connections.bind("never", "ann") == Superseded()
    await connections.add(connection("a"))
    await connections.remove("a")
    assert await connections.bind("a", "ann") == Superseded()


async def test_equal_sessions_of_two_users_are_two(connections: Connections) -> None:
    await connections.add(connection("a", at_ms=1_000))
    await connections.add(connection("b", at_ms=2_000))
    await bound(connections, "a", "ann")
    assert (await bound(connections, "b", "bob")).replaced is None


async def test_names_that_are_glued_together_alike_are_different_sessions(connections: Connections) -> None:
    await connections.add(connection("a", session="b:c", at_ms=1_000))
    await connections.add(connection("b", session="c", at_ms=2_000))
    await bound(connections, "a", "a")
    assert (await bound(connections, "b", "a:b")).replaced is None


async def test_generations_go_up_also_after_the_address_was_forgotten(connections: Connections) -> None:
    await connections.add(connection("a", at_ms=1_000))
    first = await bound(connections, "a")
    await connections.remove("a")
    await connections.add(connection("b", at_ms=500))
    second = await bound(connections, "b")
    assert second.replaced is None
    assert (second.connection.generation or 0) > (first.connection.generation or 0)


async def test_removing_an_older_connection_does_not_touch_the_newer_binding(connections: Connections) -> None:
    await connections.add(connection("old", at_ms=1_000))
    await connections.add(connection("new", at_ms=2_000))
    await bound(connections, "old")
    new = await bound(connections, "new")
    await connections.remove("old")
    assert await bound(connections, "new") == Bound(new.connection, None)
    await connections.add(connection("late", at_ms=1_500))
    assert await connections.bind("late", "ann") == Superseded()


async def test_a_sign_of_life_keeps_it_from_the_idle_ones(connections: Connections) -> None:
    await connections.add(connection("a", at_ms=1_000))
    await connections.add(connection("b", at_ms=1_000))
    await connections.touch("b", now_ms=5_000)
    assert [found.connection_id for found in await connections.idle(since_ms=2_000)] == ["a"]
    assert await connections.idle(since_ms=1_000) == []
    assert (await connections.get("b")).last_activity_ms == 5_000


async def test_touch_and_renew_keep_the_binding_and_ignore_what_is_gone(connections: Connections) -> None:
    await connections.add(connection("a"))
    outcome = await bound(connections, "a")
    await connections.touch("a", now_ms=9_000)
    await connections.renew("a", token_expires_at_ms=77_000)
    found = await connections.get("a")
    assert found is not None
    assert (found.generation, found.user_id) == (outcome.connection.generation, "ann")
    assert (found.last_activity_ms, found.token_expires_at_ms) == (9_000, 77_000)
    await connections.touch("never", now_ms=1)
    await connections.renew("never", token_expires_at_ms=None)
    assert await connections.get("never") is None
