"""What DynamoConnections does beyond the contract: the two-frame client's item, races, lost calls."""

import asyncio
import uuid
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from answerback.core.watching import MOST
from answerback.ports import Bound, Connection, Place, Superseded, Unavailable, Watcher
from answerback.protocol.frames import is_id
from answerback_aws.runtime.aurora.users import erase_user

pytestmark = pytest.mark.emulator

AT_MS = 1_735_689_600_000


def connection(connection_id: str = "L0S9aeCap5sA92b=", *, at_ms: int = AT_MS, **fields: Any) -> Connection:
    return Connection(
        connection_id=connection_id,
        session_id="session_abc123",
        connected_at_ms=at_ms,
        last_activity_ms=at_ms,
        **fields,
    )


def only(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return item


async def test_the_item_has_the_form_of_the_two_frame_client(world) -> None:
    connections = world.connections()
    await connections.add(connection())
    bound = await connections.bind("L0S9aeCap5sA92b=", "user_001")
    assert isinstance(bound, Bound)
    await connections.touch("L0S9aeCap5sA92b=", now_ms=AT_MS + 61_500)
    item = only(world.items(world.tables.connections))
    item_of_the_client = {name: item.pop(name) for name in list(item) if name in TWO_FRAME_ITEM}
    assert item_of_the_client == TWO_FRAME_ITEM
    assert set(item) == {"connectedAtMs", "lastActivityMs", "generation", "expiresAt"}
    assert item["expiresAt"] == {"N": str(AT_MS // 1000 + 2 * 3_600 + 600)}


TWO_FRAME_ITEM = {
    "connectionId": {"S": "L0S9aeCap5sA92b="},
    "userId": {"S": "user_001"},
    "sessionId": {"S": "session_abc123"},
    "connectedAt": {"S": "2025-01-01T00:00:00Z"},
    "lastActivity": {"S": "2025-01-01T00:01:01Z"},
    "status": {"S": "active"},
}


async def test_every_field_comes_back(world) -> None:
    whole = connection(
        user_id="ann", authenticated=True, token_expires_at_ms=7, source_ip="203.0.113.9", user_agent="가나 1.0"
    )
    await world.connections().add(whole)
    assert await world.connections().get(whole.connection_id) == whole


async def test_two_first_frames_at_once_bind_it_once(world) -> None:
    """API Gateway runs the messages of one connection side by side; here they even name two users."""
    await world.connections().add(connection("a"))
    outcomes = await asyncio.gather(*(world.connections().bind("a", f"user{n % 2}") for n in range(6)))
    assert len({(bound.connection.user_id, bound.connection.generation) for bound in outcomes}) == 1
    assert len(world.items(world.tables.sessions)) == 1


async def test_of_many_connections_that_bind_at_once_the_newest_has_the_session(world) -> None:
    for n in range(6):
        await world.connections().add(connection(f"k{n}", at_ms=AT_MS + n))
    outcomes = await asyncio.gather(*(world.connections().bind(f"k{n}", "ann") for n in range(6)))
    assert isinstance(outcomes[5], Bound)
    generations = [bound.connection.generation for bound in outcomes if isinstance(bound, Bound)]
    assert len(set(generations)) == len(generations)
    assert outcomes[5].connection.generation == max(generations)
    session = only(world.items(world.tables.sessions))
    assert session["connectionId"] == {"S": "k5"}
    assert session["generation"] == {"N": str(max(generations))}


async def test_a_late_disconnect_does_not_remove_a_newer_binding(world, faulty) -> None:
    """Between the two writes of the removal the app comes back."""
    connections = world.connections(faulty)
    await connections.add(connection("old"))
    await connections.bind("old", "ann")
    await connections.add(connection("new", at_ms=AT_MS + 1))
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(world.connections().bind("new", "ann"), loop).result()

    faulty.plan["update_item"] = [meanwhile]
    await connections.remove("old")
    assert only(world.items(world.tables.sessions))["connectionId"] == {"S": "new"}


async def test_a_connection_that_goes_while_it_is_bound_is_not_brought_back(world, faulty) -> None:
    connections = world.connections(faulty)
    await connections.add(connection("a"))
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(world.connections().remove("a"), loop).result()

    faulty.plan["transact_write_items"] = [meanwhile]
    assert await connections.bind("a", "ann") == Superseded()
    assert world.items(world.tables.connections) == []
    assert world.items(world.tables.sessions) == []


@pytest.mark.parametrize("method", ["touch", "renew"])
async def test_a_connection_that_is_gone_is_not_brought_back(world, method) -> None:
    connections = world.connections()
    await connections.add(connection("a"))
    await connections.remove("a")
    await {
        "touch": lambda: connections.touch("a", now_ms=AT_MS),
        "renew": lambda: connections.renew("a", token_expires_at_ms=5),
    }[method]()
    assert world.items(world.tables.connections) == []


@pytest.mark.parametrize("fate", ["lost", "cut"])
async def test_a_binding_whose_answer_is_lost_can_be_repeated(world, faulty, fate) -> None:
    connections = world.connections(faulty)
    await connections.add(connection("a"))
    faulty.plan["transact_write_items"] = [fate]
    with pytest.raises(Unavailable):
        await connections.bind("a", "ann")
    bound = await connections.bind("a", "ann")
    assert isinstance(bound, Bound)
    session = only(world.items(world.tables.sessions))
    assert session["generation"] == {"N": str(bound.connection.generation)}


async def test_a_removal_that_died_half_way_bars_no_later_connection(world, faulty) -> None:
    connections = world.connections(faulty)
    await connections.add(connection("a"))
    first = await connections.bind("a", "ann")
    faulty.plan["update_item"] = ["cut"]
    with pytest.raises(Unavailable):
        await connections.remove("a")
    await connections.add(connection("b", at_ms=AT_MS + 1))
    second = await connections.bind("b", "ann")
    assert isinstance(second, Bound)
    assert second.connection.generation > first.connection.generation


async def test_generations_rise_also_when_the_session_was_forgotten(world) -> None:
    connections = world.connections()
    await connections.add(connection("a"))
    first = await connections.bind("a", "ann")
    world.client.delete_item(
        TableName=world.tables.sessions, Key={"userId": {"S": "ann"}, "sessionId": {"S": "session_abc123"}}
    )
    await connections.add(connection("b", at_ms=AT_MS + 60_000))
    second = await connections.bind("b", "ann")
    assert second.connection.generation > first.connection.generation


async def test_the_session_outlives_everything_that_holds_its_generation(world) -> None:
    connections = world.connections()
    await connections.add(connection("a"))
    await connections.bind("a", "ann")
    await connections.remove("a")
    session = only(world.items(world.tables.sessions))
    assert "connectionId" not in session
    assert int(session["expiresAt"]["N"]) - AT_MS // 1000 == 90 * 86_400


async def test_the_idle_ones_are_found_on_every_page(world) -> None:
    """A scan's page is 1 MB."""
    connections = world.connections()
    await asyncio.gather(*(connections.add(connection(f"k{n}", user_agent="x" * 60_000)) for n in range(40)))
    assert len(await connections.idle(since_ms=AT_MS + 1)) == 40
    assert list(await connections.idle(since_ms=AT_MS)) == []


# --- who watches


def watcher(session: str, number: int = 1) -> Watcher:
    return Watcher(session_id=session, connection_id=session, generation=1, number=number, until_ms=AT_MS + 600_000)


async def test_who_watches_is_one_item_that_goes_with_the_last_of_them(world) -> None:
    connections = world.connections()
    for one in (watcher("a"), watcher("b")):
        assert await connections.watch("ann", "c", one, now_ms=AT_MS, most=8) is Place.KEPT
    item = only(world.items(world.tables.sessions))
    assert set(item) == {"userId", "sessionId", "watchers", "version", "expiresAt"}
    assert int(item["expiresAt"]["N"]) == AT_MS // 1000 + 601
    assert not is_id(item["sessionId"]["S"]), "no session of the user is called so"


async def test_a_full_house_of_long_names_is_a_small_item(world) -> None:
    connections = world.connections()
    for number in range(2 * MOST):
        names = {"session_id": str(uuid.uuid4()), "connection_id": "L0S9aeCap5sA92b=", "generation": AT_MS}
        one = replace(watcher("", 2**31), **names, off=number >= MOST)
        assert await connections.watch("ann", "c", one, now_ms=AT_MS, most=MOST) is Place.KEPT
    assert len(only(world.items(world.tables.sessions))["watchers"]["S"]) < 4_000


async def test_of_sessions_that_begin_to_watch_at_once_none_is_lost(world) -> None:
    fronts = [world.connections() for _ in range(6)]
    for number, front in enumerate(fronts):
        await front.add(connection(str(number)))
    outcomes = await asyncio.gather(
        *(front.watch("ann", "c", watcher(str(n)), now_ms=AT_MS, most=4) for n, front in enumerate(fronts))
    )
    assert Counter(outcomes) == {Place.KEPT: 4, Place.FULL: 2}
    found = (await fronts[0].watchers("ann", "c", now_ms=AT_MS))["c"]
    assert {one.session_id for one in found} == {str(n) for n, kept in enumerate(outcomes) if kept is Place.KEPT}


async def test_a_watch_whose_answer_is_lost_is_kept_once(world, faulty) -> None:
    faulty.plan["put_item"] = ["lost"]
    with pytest.raises(Unavailable):
        await world.connections(faulty).watch("ann", "c", watcher("a"), now_ms=AT_MS, most=8)
    connections = world.connections()
    assert await connections.watch("ann", "c", watcher("a"), now_ms=AT_MS, most=8) is Place.KEPT
    assert (await connections.watchers("ann", "c", now_ms=AT_MS))["c"] == [watcher("a")]


async def test_erasing_a_user_erases_what_it_watches(world) -> None:
    await world.connections().watch("ann", "c", watcher("a"), now_ms=AT_MS, most=8)
    assert await erase_user(world.database(), world.requests(), "ann")
    assert world.items(world.tables.sessions) == []
