"""Which connection is its session's address: the newer one wins. In memory."""

from answerback.ports import Bound, Connection, Superseded
from answerback.stores.connections import MemoryConnections


def connection(connection_id: str, at_ms: int) -> Connection:
    return Connection(
        connection_id=connection_id, session_id="s", user_id="kim", connected_at_ms=at_ms, last_activity_ms=at_ms
    )


async def test_the_newer_connection_wins_whichever_speaks_first() -> None:
    connections = MemoryConnections()
    await connections.add(connection("older", 1))
    await connections.add(connection("newer", 2))
    first = await connections.bind("newer", "kim")
    assert isinstance(first, Bound)
    assert isinstance(await connections.bind("older", "kim"), Superseded)
    again = await connections.bind("newer", "kim")
    assert again == Bound(first.connection, None), "binding again changes nothing"


async def test_the_end_of_the_older_connection_leaves_the_newer_binding_alone() -> None:
    connections = MemoryConnections()
    await connections.add(connection("older", 1))
    await connections.add(connection("newer", 2))
    await connections.bind("older", "kim")
    bound = await connections.bind("newer", "kim")
    assert isinstance(bound, Bound)
    assert bound.replaced == "older"
    await connections.remove("older")
    await connections.add(connection("late", 1))
    assert isinstance(await connections.bind("late", "kim"), Superseded), "the newer one still has the session"


async def test_generations_rise_also_after_a_session_was_forgotten() -> None:
    connections = MemoryConnections()
    await connections.add(connection("a", 1))
    first = await connections.bind("a", "kim")
    await connections.remove("a")
    await connections.add(connection("b", 2))
    second = await connections.bind("b", "kim")
    assert isinstance(first, Bound)
    assert isinstance(second, Bound)
    assert (second.connection.generation or 0) > (first.connection.generation or 0)
