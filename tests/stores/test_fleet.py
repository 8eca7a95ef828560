"""Two gateways' stores on one PostgreSQL schema, called at the same time."""

import asyncio
import time
from collections import Counter
from functools import partial

import psycopg
import pytest
from msgspec.structs import replace as with_fields

from answerback.clock import epoch_ms
from answerback.core.budget import MESSAGE_TOKENS, Budget, Period, Tariff, Terms, Unit, team_holder
from answerback.core.request import (
    SCHEMA,
    Busy,
    Claimed,
    Ended,
    Pending,
    RequestKey,
    Step,
    Unknown,
    cancel,
    expire,
    retarget,
    watch,
)
from answerback.core.uploads import MAX_OPEN, FileKey
from answerback.gateway.fleet import FleetQueue
from answerback.ports import (
    Accepted,
    Bound,
    Connection,
    Existing,
    Limited,
    OverBudget,
    Superseded,
    Unavailable,
    Watcher,
)
from answerback.protocol.errors import ErrorCode
from answerback.stores import StoreError, StoreInUse
from answerback.stores.fleet import FleetStore
from answerback.stores.fleet_commit import MAX_USERS, Changed, Freed, Transaction
from answerback.stores.migrations import Migration, lock_key, shipped
from answerback.stores.nodes import FORGET_MS, Nodes, connect_nodes, offset_between
from answerback.stores.notices import Notices
from answerback.stores.postgres import LOCK_WAIT_S, PostgresDatabase, PostgresStore, apply_migrations, connect
from asking import Actor

NONE = {"is_alive": lambda _: False}

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(60)]


@pytest.fixture
async def stores(postgres_server, schema):
    """Those of the gateways a and b."""
    stores = [FleetStore(postgres_server.url, node=node, schema=schema) for node in "ab"]
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
def actors(stores):
    return [Actor(store) for store in stores]


def connection(number: int, node: str, *, at_ms: int, session: str = "s", user: str = "ann") -> Connection:
    return Connection(
        connection_id=f"{user}{number}@{node}",
        session_id=session,
        user_id=user,
        connected_at_ms=at_ms,
        last_activity_ms=at_ms,
    )


async def test_the_rate_counts_over_both(actors):
    asked = (actor.accept(f"r{n}-{actor.store.node}", per_minute=10) for n in range(20) for actor in actors)
    admissions = Counter(type(admission) for admission in await asyncio.gather(*asked))
    assert admissions == {Accepted: 10, Limited: 30}


async def test_who_watches_is_known_where_an_answer_begins_and_ends(stores, actors):
    """Nothing is read of a user whom nobody watches, and the write of a request says who that is."""
    watcher = Watcher(session_id="s", connection_id="ann1@b", generation=1, number=1, until_ms=9_000)
    await actors[0].accept("r1")
    assert "ann" not in stores[0].watched
    await stores[1].watch("ann", "c", watcher, now_ms=0, most=8)
    await actors[0].accept("r2", user="bob")
    assert "ann" not in stores[0].watched
    await actors[0].claim("r1")
    assert "ann" in stores[0].watched
    assert await stores[0].watchers("ann", "c", now_ms=0) == {"c": [watcher]}
    await stores[0].purge(ended_before_ms=0, refused_before_ms=0)  # its time is over
    await actors[0].finish("r1")
    assert "ann" not in stores[0].watched
    # A user whose first question this is has no row yet.
    await stores[1].watch("eve", "c", watcher, now_ms=0, most=8)
    await actors[0].accept("r3", user="eve")
    assert "eve" in stores[0].watched


async def test_one_id_is_accepted_once(actors):
    asked = [actor.accept(f"r{n}") for n in range(50) for actor in actors]
    admissions = Counter(type(admission) for admission in await asyncio.gather(*asked))
    assert admissions == {Accepted: 50, Existing: 50}


async def test_a_question_that_came_twice_stays_at_home(actors):
    """The frame that came first is stored last."""
    a = actors[0]
    do, may_go_on = a.store._fleet.do, asyncio.Event()

    async def late(*arguments, **options):
        a.store._fleet.do = do
        await may_go_on.wait()
        return await do(*arguments, **options)

    a.store._fleet.do = late
    first = asyncio.create_task(a.accept("r1"))
    await asyncio.sleep(0)
    assert isinstance(await a.accept("r1"), Accepted)
    may_go_on.set()
    assert isinstance(await first, Existing)
    assert RequestKey("ann", "r1") in a.store.mine
    assert isinstance(await actors[1].accept("r1"), Existing)
    assert not actors[1].store.mine


async def test_a_question_that_comes_again_as_its_answer_ends_is_at_home_nowhere(actors):
    a = actors[0]
    await a.accept("r1")
    await a.claim("r1")
    await asyncio.gather(a.finish("r1"), a.accept("r1"))
    assert not a.store.mine


async def test_positions_count_over_both_and_only_the_first_may_be_claimed(actors):
    asked = [actor.accept(f"r{n}-{actor.store.node}") for n in range(10) for actor in actors]
    positions = [admission.position for admission in await asyncio.gather(*asked)]
    assert sorted(positions) == list(range(20))
    a, b = actors
    first, other = (a, b) if positions[0] == 0 else (b, a)
    name = f"r0-{first.store.node}"
    assert isinstance(await first.claim(name), Claimed)
    assert not isinstance(await other.claim(f"r0-{other.store.node}"), Claimed)  # something of its key is before it
    assert not isinstance(await other.claim(name, owner="w2"), Claimed)  # it is at home elsewhere


async def test_of_two_that_take_over_at_once_one_gets_each_request(actors, postgres_server, schema):
    dead = FleetStore(postgres_server.url, node="dead", schema=schema)
    await dead.open()
    for n in range(60):
        await Actor(dead).accept(f"r{n}", user=f"u{n % 7}", conversation=f"c{n}")
    await dead.close()
    taken = await asyncio.gather(*(actor.store.take_over(["dead"], **NONE) for actor in actors for _ in range(3)))
    counts = Counter(record.key for records in taken for record in records)
    assert len(counts) == 60
    assert set(counts.values()) == {1}


async def test_the_newer_connection_of_a_session_wins_whichever_gateway_has_it(stores):
    a, b = stores
    first = await a.bind(connection(1, "a", at_ms=1_000), "ann")
    second = await b.bind(connection(2, "b", at_ms=2_000), "ann")
    assert isinstance(first, Bound)
    assert isinstance(second, Bound)
    assert second.replaced == "ann1@a"
    assert second.connection.generation > first.connection.generation
    again = await b.bind(connection(2, "b", at_ms=2_000), "ann")
    assert again == Bound(second.connection, None)  # doing it again changes nothing
    assert await a.bind(connection(1, "a", at_ms=1_000), "ann") == Superseded()


async def test_a_closed_connection_waits_for_the_lock_of_its_user(stores):
    a, b = stores
    await a.bind(connection(1, "a", at_ms=1), "ann")
    loop = asyncio.get_running_loop()

    def decide(transaction: Transaction) -> bool:
        unbinding = asyncio.run_coroutine_threadsafe(a.unbind(connection(1, "a", at_ms=1)), loop)
        waiting: list[object] = []
        while not waiting and not unbinding.done():
            transaction.database.execute("SELECT pg_sleep(0.01)")
            waiting = transaction.database.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall()
        return unbinding.done()

    assert not await b._fleet.do(decide, users=("ann",))


async def test_many_apps_move_at_once_and_no_gateway_waits_for_the_other(stores):
    """The new gateway binds in one order, the old one lets go in another: rows are locked in the order of users."""
    a, b = stores
    old = [connection(n, "a", at_ms=n, user=f"u{n}") for n in range(150)]
    await asyncio.gather(*(a.bind(one, one.user_id) for one in old))
    for turn in range(4):
        new = [connection(n + 1_000 * turn, "b", at_ms=n + 10 + turn, user=f"u{n}") for n in range(150)]
        unbound = [a.unbind(one) for one in reversed(old)]
        bound = [b.bind(one, one.user_id) for one in new]
        outcomes = await asyncio.gather(*unbound, *bound, return_exceptions=True)
        assert not [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
        assert all(isinstance(outcome, Bound) for outcome in outcomes[len(old) :])
        old = new
        a, b = b, a


async def test_a_user_who_is_blocked_at_one_is_blocked_at_the_other(stores):
    a, b = stores
    assert not await b.is_blocked("ann")
    await a.set_blocked("ann", blocked=True, now_ms=1)
    assert await b.is_blocked("ann")


async def test_the_old_home_may_not_claim_what_was_taken_over(actors):
    a, b = actors
    await a.accept("r")
    await b.store.take_over(["a"], **NONE)
    assert not isinstance(await a.claim("r"), Claimed)
    assert isinstance(await b.claim("r", owner="w2"), Claimed)
    assert [record.key for record in await a.store.changed([RequestKey("ann", "r")])] == [RequestKey("ann", "r")]


@pytest.mark.parametrize("by", [0, 1], ids=["at home", "elsewhere"])
async def test_what_waits_behind_another_may_be_cancelled_and_expire(actors, by):
    a, by = actors[0], actors[by]
    told = []
    by.store.on_effects = told.extend
    for name in ("r1", "r2", "r3"):
        await a.accept(name)
    await a.claim("r1")
    stop = partial(cancel, refusal_record=a.record("r2"), now_ms=a.now_ms)
    give_up = partial(expire, now_ms=a.now_ms, code=ErrorCode.TIMEOUT)
    for name, change in (("r2", stop), ("r3", give_up)):
        assert isinstance(await by.store.change(RequestKey("ann", name), change), Ended)
    assert [record.request_id for record in await a.store.unfinished()] == ["r1"]
    freed = Freed("a", a.record("r1").ordering_key)  # r1 is at home there, and may be next
    ended = [told for name in ("r2", "r3") for told in (Changed("a", RequestKey("ann", name)), freed)]
    assert told == ([] if by is a else ended)
    changed = await a.store.changed([RequestKey("ann", name) for name in ("r1", "r2", "r3")])
    assert {record.request_id for record in changed} == (set() if by is a else {"r2", "r3"})


async def test_a_gateway_that_starts_again_takes_up_what_it_left(actors, postgres_server, schema):
    """Its own name is the home of all that, before and after."""
    a, _ = actors
    for n in range(60):
        await a.accept(f"r{n}", user=f"u{n}")
    await a.store.close()
    again = FleetStore(postgres_server.url, node="a", schema=schema)
    await again.open()
    async with asyncio.timeout(20):
        again.order_by(lambda _: False)
        records = await again.take_over(["a"], **NONE)
    assert len(records) == 60
    await again.close()


async def test_a_gateway_that_starts_again_goes_on_for_apps_that_have_moved(actors, postgres_server, schema):
    a, b = actors
    await a.store.bind(connection(1, "a", at_ms=1), "ann")
    for name, node in (("r1", "b"), ("r2", "a"), ("r3", "dead")):
        await a.accept(name, conversation=name)
        await a.claim(name)
        there = connection(2, node, at_ms=2)
        moved = partial(retarget, connection_id=there.connection_id, generation=2, session_id="s1", attempt=1, offset=7)
        await b.store.change(RequestKey("ann", name), moved)
    await a.store.close()
    again = FleetStore(postgres_server.url, node="a", schema=schema)
    await again.open()
    queue = FleetQueue(store=again, is_alive=lambda node: node == "b", slots={"echo": 9}, clock=lambda: 0)
    assert await queue.recover(again) == 3
    found = {name: (await again.read(RequestKey("ann", name))).target for name in ("r1", "r2", "r3")}
    assert found["r1"].connection_id.endswith("@b")
    assert found["r2"] is found["r3"] is None
    await again.close()


async def test_what_was_taken_over_while_the_database_failed_is_not_forgotten(actors, monkeypatch):
    a, b = actors
    for n in range(60):
        await a.accept(f"r{n}", user=f"u{n}")
    do, calls = b.store._fleet.do, 0

    async def fails_later(*args, **more):
        nonlocal calls
        calls += 1
        outcome = await do(*args, **more)
        if calls == 1:
            raise Unavailable("the answer of the COMMIT was lost")
        return outcome

    monkeypatch.setattr(b.store._fleet, "do", fails_later)
    with pytest.raises(Unavailable):
        await b.store.take_over(["a"], **NONE)
    b.store.order_by(lambda _: False)
    assert len(await b.store.take_over(["a", "b"], **NONE)) == 60
    b.store.order_by(lambda _: True)
    assert not await b.store.take_over(["b"], **NONE)


@pytest.mark.parametrize(
    ("before_ms", "shown_ms", "after_ms", "ahead_ms"),
    [
        (1_000, 1_000, 1_001, 0),
        (1_000, 1_080, 1_100, 0),  # the answer took 0.1 s: nothing says that the clocks differ
        (1_000, 9_000, 1_100, 7_900),
        (9_000, 1_000, 9_100, -8_000),
    ],
)
def test_a_clock_is_ahead_by_what_is_certain(before_ms: int, shown_ms: int, after_ms: int, ahead_ms: int) -> None:
    assert offset_between(before_ms, shown_ms, after_ms) == ahead_ms


async def test_gateways_of_one_machine_have_one_clock_and_others_take_the_database_s(stores, postgres_server, schema):
    for name, skew_ms in (("a", 0), ("b", 50_000), ("c", -50_000)):
        clock = partial(lambda skew_ms: epoch_ms() + skew_ms, skew_ms)
        nodes = Nodes(
            lambda: connect_nodes(postgres_server.url, schema), schema, node=name, incarnation="1", clock=clock
        )
        for _ in range(3):
            await nodes.beat("serving", reads_schema=1, version="1", facts={})
        error_ms = nodes.offset_ms + skew_ms
        assert abs(error_ms) < 10_000 if skew_ms else error_ms == 0
        await nodes.close()


async def test_one_that_was_seen_dead_and_came_back_keeps_what_it_has(actors, postgres_server, schema):
    """Whoever saw it was frozen, and wakes up only now."""
    a, b = actors
    nodes = Nodes(lambda: connect_nodes(postgres_server.url, schema), schema, node="a", incarnation="1")
    looks = Nodes(lambda: connect_nodes(postgres_server.url, schema), schema, node="b", incarnation="1")
    await nodes.beat("gone", reads_schema=1, version="1", facts={})
    beats = {node.name: node.beat_at_ms for node in await looks.beat("serving", reads_schema=1, version="1", facts={})}
    assert beats.keys() == {"a"}
    await a.accept("r1")
    await nodes.beat("serving", reads_schema=1, version="1", facts={})
    assert not await b.store.take_over(["a"], beats=beats, **NONE)
    beats = {node.name: node.beat_at_ms for node in await looks.beat("serving", reads_schema=1, version="1", facts={})}
    assert len(await b.store.take_over(["a"], beats=beats, **NONE)) == 1
    for one in (nodes, looks):
        await one.close()


async def test_what_is_taken_over_stands_before_what_was_accepted_later(actors):
    a, b = actors
    for actor, request_id in ((a, "r1"), (b, "r2"), (a, "r3")):
        await actor.accept(request_id)
    records = await b.store.take_over(["a"], **NONE)
    assert [record.request_id for record in records] == ["r1", "r2", "r3"]
    assert not isinstance(await b.claim("r2"), Claimed)
    assert isinstance(await b.claim("r1"), Claimed)
    await b.finish("r1")
    assert RequestKey("ann", "r1") not in b.store._fleet._taken  # it is not kept for ever


async def test_what_a_user_may_begin_is_bounded_over_both(stores):
    keys = [FileKey("ann", f"{number:064x}", 10) for number in range(4 * MAX_OPEN)]
    await asyncio.gather(*(stores[n % 2].begin(key, key.sha256, now_ms=1_000) for n, key in enumerate(keys)))
    rows = await stores[0]._rows("SELECT count(*) FROM uploads")
    assert rows == [(MAX_OPEN,)]


async def test_a_gateway_goes_on_beside_a_newer_one_whose_tables_have_more(actors, postgres_server, schema):
    """As in a rolling upgrade: the newer gateway migrates first, and then even the database restarts."""
    a, b = actors
    await a.accept("r1")
    with psycopg.connect(postgres_server.url, autocommit=True) as newer:
        newer.execute(f"SET search_path = {schema}")
        newer.execute("ALTER TABLE requests ADD COLUMN of_the_future text")
        newer.execute("ALTER TABLE sessions ADD COLUMN of_the_future text")
        newer.execute("INSERT INTO schema_migrations SELECT max(version) + 1, 'future', 0 FROM schema_migrations")
        newer.execute("UPDATE marks SET value = CAST(CAST(value AS integer) + 1 AS text) WHERE name = 'fleet'")
        ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'answerback'"
        newer.execute(ends)
    assert isinstance(await a.accept("r2"), Accepted)
    assert isinstance(await a.claim("r1"), Claimed)
    await a.finish("r1")
    assert [turn.request_id for turn in await b.store.recent_turns("ann", "c1", limit=5)] == ["r1"]
    assert isinstance(await b.store.bind(connection(1, "b", at_ms=1_000), "ann"), Bound)
    older = FleetStore(postgres_server.url, node="c", schema=schema)
    with pytest.raises(StoreError, match="Upgrade"):  # one that starts now has to be upgraded
        await older.open()


async def test_a_gateway_that_died_a_day_ago_is_forgotten_when_nothing_is_at_home_there(
    stores, actors, postgres_server, schema
):
    nodes = {
        name: Nodes(lambda: connect_nodes(postgres_server.url, schema), schema, node=name, incarnation=name)
        for name in "abc"
    }
    for one in nodes.values():
        await one.beat("serving", reads_schema=1, version="1", facts={})
    await actors[1].accept("unfinished")
    with psycopg.connect(postgres_server.url, autocommit=True) as database:
        old = "UPDATE {}.nodes SET beat_at_ms = beat_at_ms - {}"
        database.execute(old.format(schema, FORGET_MS + 1_000))
    others = await nodes["a"].beat("serving", reads_schema=1, version="1", facts={})
    assert [one.name for one in others] == ["b"]
    for one in nodes.values():
        await one.close()


async def test_a_record_is_written_as_every_living_gateway_reads_it(
    stores, actors, postgres_server, schema, monkeypatch
):
    older, newer = (
        Nodes(lambda: connect_nodes(postgres_server.url, schema), schema, node=name, incarnation=name) for name in "ab"
    )
    held = {"parts": ("tool",), "traceparent": "00-x"}
    await older.beat("serving", reads_schema=SCHEMA - 1, version="1", facts={})
    await newer.beat("serving", reads_schema=SCHEMA, version="2", facts={})
    stores[1].write_schema(await newer.agree(SCHEMA, dead=[]))
    await actors[1].accept("r1", **held)
    record = await stores[0].read(RequestKey("ann", "r1"))
    assert (record.schema, record.parts, record.traceparent) == (SCHEMA - 1, None, None)

    assert await newer.agree(SCHEMA, dead=["a"]) == SCHEMA - 1  # it was just heard
    await older.beat("gone", reads_schema=SCHEMA - 1, version="1", facts={})
    assert await newer.agree(SCHEMA, dead=["a"]) == SCHEMA
    stores[1].write_schema(SCHEMA)
    await actors[1].accept("r2", **held)
    assert (await stores[0].read(RequestKey("ann", "r2"))).parts == ("tool",)

    await older.beat("serving", reads_schema=SCHEMA - 1, version="1", facts={})
    assert await older.agree(SCHEMA - 1, dead=[]) == SCHEMA  # and it knows that it has to stop
    monkeypatch.setattr("answerback.stores.fleet.SCHEMA", SCHEMA - 1)
    with pytest.raises(StoreError, match="Upgrade"):
        await FleetStore(postgres_server.url, node="c", schema=schema).open()
    for one in (older, newer):
        await one.close()


async def test_a_watcher_that_an_older_gateway_would_lose_is_not_noted(stores, actors):
    """The end of the answer brings it to them all the same."""
    watcher = Watcher(session_id="s2", connection_id="ann2@b", generation=1, number=1)
    for store, written in ((stores[0], ()), (stores[1], (watcher,))):
        store.write_schema(1 if store is stores[0] else SCHEMA)
        await actors[0].accept(store.node)
        step = partial(watch, conversation_id="c1", watcher=watcher)
        assert isinstance(await store.change(RequestKey("ann", store.node), step), Pending)
        record = await store.read(RequestKey("ann", store.node))
        assert (record.watchers, record.schema) == (written, 2 if written else 1)


async def test_a_hold_that_an_older_gateway_would_lose_is_not_taken(stores, actors):
    a, store = actors[0], stores[0]
    tariff = Tariff(models={"echo": Terms(max_tokens=7)})
    await store.set_budget("ann", Period.MONTH, Budget(1_000_000, Unit.TOKENS, Period.MONTH), now_ms=1)
    store.write_schema(1)
    assert (await a.accept("r1", tariff=tariff)).hold is None
    store.write_schema(SCHEMA)
    assert (await a.accept("r2", tariff=tariff)).hold is not None


async def test_a_team_spends_its_budget_once_over_both(stores, actors):
    team, tariff = team_holder("design"), Tariff(models={"echo": Terms(max_tokens=7, context_tokens=0)})
    one = len("What is it?") + MESSAGE_TOKENS + 7
    await stores[0].set_budget(team, Period.DAY, Budget(10 * one, Unit.TOKENS, Period.DAY), now_ms=actors[0].now_ms)
    asked = (actors[n % 2].accept("r", user=f"u{n}", team="design", tariff=tariff) for n in range(40))
    admissions = Counter(type(admission) for admission in await asyncio.gather(*asked))
    assert admissions == {Accepted: 10, OverBudget: 30}


async def test_nothing_is_decided_about_a_user_of_whom_a_newer_gateway_has_written(actors, postgres_server, schema):
    a, _ = actors
    await a.accept("r1")
    with psycopg.connect(postgres_server.url, autocommit=True) as newer:
        newer.execute(f"UPDATE {schema}.requests SET record_schema = 99")
    asked = (a.accept("r2"), a.accept("r3", user="bob"))
    refused, accepted = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, StoreError)
    assert isinstance(accepted, Accepted)


async def test_tables_are_upgraded_while_another_program_reads_them_for_long(actors, postgres_server, schema):
    """A backup, for example. The gateways that wait behind the upgrade must not wait for as long."""
    a, _ = actors
    await a.accept("r0")
    table = Migration(version=9_999, name="next", statements=(
        "ALTER TABLE conversations ADD COLUMN of_next text", "ALTER TABLE requests ADD COLUMN of_next text",
    ))  # fmt: skip
    with connect(postgres_server.url, schema) as dump, connect(postgres_server.url, schema) as upgrade:
        dump.execute("BEGIN")
        dump.execute("SELECT count(*) FROM requests")
        upgrading = asyncio.create_task(
            asyncio.to_thread(apply_migrations, upgrade, schema, [*shipped(), table], now_ms=1)
        )
        longest = 0.0
        for n in range(1, 10):
            began = time.monotonic()
            assert isinstance(await a.accept(f"r{n}"), Accepted)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.1)
        assert not upgrading.done()
        dump.execute("COMMIT")
        assert await upgrading == 1
    assert longest < 2 * LOCK_WAIT_S + 1


async def test_an_upgrade_waits_for_a_transaction_before_it_locks_a_table(stores, postgres_server, schema, caplog):
    """The upgrade changes conversations and then requests, the transaction has read requests and writes the others."""
    tables = ("conversations", "requests")
    one = Migration(
        version=9_000, name="next", statements=tuple(f"ALTER TABLE {table} ADD COLUMN next text" for table in tables)
    )
    loop, upgrading, runs = asyncio.get_running_loop(), [], []

    def upgrade() -> int:
        with connect(postgres_server.url, schema) as connection:
            return apply_migrations(connection, schema, [*shipped(), one], now_ms=1)

    def decide(transaction: Transaction) -> None:
        runs.append(transaction)
        if len(runs) == 1:
            upgrading.append(asyncio.run_coroutine_threadsafe(asyncio.to_thread(upgrade), loop))
            while transaction.database.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall() == []:
                transaction.database.execute("SELECT pg_sleep(0.01)")
        transaction.database.execute("SELECT * FROM conversations")

    await stores[0]._fleet.do(decide, users=("ann",))
    assert await asyncio.wrap_future(upgrading[0]) == 1
    assert len(runs) == 1
    assert "the tables are in use" not in caplog.text


async def test_a_gateway_that_finds_the_tables_up_to_date_starts_beside_a_transaction(stores, postgres_server, schema):
    """So the others need not wait for it either, when it comes back after a crash and they have much to do."""
    loop, third = asyncio.get_running_loop(), FleetStore(postgres_server.url, node="c", schema=schema)

    def decide(_: Transaction) -> None:
        asyncio.run_coroutine_threadsafe(third.open(), loop).result(20)

    await stores[0]._fleet.do(decide, users=("ann",))
    await third.close()


async def test_tables_are_upgraded_under_load(actors, postgres_server, schema):
    """A transaction reads requests and then users, the upgrade changes users and then requests."""
    over = False

    async def ask(actor: Actor, name: str) -> None:
        n = 0
        while not over:
            n += 1
            assert isinstance(await actor.accept(f"{name}{n}", user=name, conversation=f"{n}"), Accepted)

    asking = [asyncio.create_task(ask(actor, f"u{n}-{actor.store.node}-")) for n in range(8) for actor in actors]
    with connect(postgres_server.url, schema) as upgrade:
        for turn in range(4):
            tables = ("usage", "users", "conversations", "requests")
            statements = tuple(
                f"ALTER TABLE {table} ADD COLUMN next_{turn} text" for table in tables[:: 1 - turn % 2 * 2]
            )
            one = Migration(version=9_000 + turn, name="next", statements=statements)
            assert await asyncio.to_thread(apply_migrations, upgrade, schema, [*shipped(), one], now_ms=1) == 1
    over = True
    await asyncio.gather(*asking)


async def test_what_is_claimed_before_it_is_stored_is_at_home_where_it_is_accepted(actors):
    """Its first acceptance failed, its turn came all the same, and it is accepted again just then."""
    a, key = actors[0], RequestKey("ann", "r1")
    claimed, accepted = await asyncio.gather(a.claim("r1"), a.accept("r1"))
    assert isinstance(claimed, Unknown)
    assert isinstance(accepted, Accepted)
    assert key in a.store.mine
    await a.claim("r1")
    await a.finish("r1")
    assert key not in a.store.mine


async def test_calls_of_one_transaction_see_what_those_before_them_did(actors):
    a, _ = actors
    _, claimed = await asyncio.gather(a.accept("r1"), a.claim("r1"))
    assert isinstance(claimed, Claimed)
    _, again, later = await asyncio.gather(a.finish("r1"), a.accept("r1"), a.accept("r2"))
    assert isinstance(again, Existing)
    assert later.position == 0
    stop = partial(cancel, refusal_record=a.record("r3"), now_ms=a.now_ms)
    stopped = await asyncio.gather(*(a.store.change(RequestKey("ann", "r3"), stop) for _ in range(2)))
    assert all(isinstance(outcome, Ended) for outcome in stopped)

    def move(record):
        return Step(with_fields(record, session_id=record.session_id + "+"), None)

    key = RequestKey("ann", "r1")
    await asyncio.gather(a.store.change(key, move), a.store.change(key, move))
    assert (await a.store.read(key)).session_id == "s1++"


async def test_a_transaction_is_about_so_many_users_and_no_more(stores):
    names = [f"u{n}" for n in range(MAX_USERS + 1)]
    asked = (tuple(names[:-1]), (names[0],), (names[-1],))
    full, known, new = await asyncio.gather(*(stores[0]._fleet.do(lambda one: one, users=users) for users in asked))
    assert full is known is not new


async def test_too_many_waiting_operations_are_unavailable_at_once(postgres_server, schema):
    store = FleetStore(postgres_server.url, node="a", schema=schema, max_queued=10)
    await store.open()
    asked = []
    with psycopg.connect(postgres_server.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key(f"{schema} user ann")])
        for batch in range(3):  # one is on its way, one waits, and for one there is no room
            asked += [asyncio.ensure_future(Actor(store).accept(f"r{batch}-{n}")) for n in range(10)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert refused == set(asked[20:])
        assert all(isinstance(task.exception(), Unavailable) for task in refused)
        assert store.last_write_failed
    assert [one.position for one in await asyncio.gather(*asked[:20])] == list(range(20))
    assert not store.last_write_failed
    await store.close()
    for late in (store._fleet.alone(bool), Actor(store).accept("late")):
        with pytest.raises(Unavailable, match="not open"):
            await asyncio.wait_for(late, 10)


async def test_why_a_transaction_failed_is_said(actors, monkeypatch):
    def fail(error, *_):
        raise error

    a, full = actors[0], psycopg.errors.DiskFull()
    for error, why in ((full, "disk is full"), (Unavailable("for a reason of ours"), "of ours")):
        with pytest.raises(Unavailable, match=why):
            await a.store._fleet.do(partial(fail, error))
    for error, why in ((full, "disk is full"), (OSError(), "the store failed")):
        with monkeypatch.context() as patched:
            patched.setattr(PostgresDatabase, "commit", lambda _, error=error: fail(error))
            with pytest.raises(Unavailable, match=why):
                await a.accept("r1")
    assert isinstance(await a.accept("r1"), Accepted)


async def test_a_call_that_fails_or_whose_caller_has_gone_holds_up_no_other(actors):
    a, tries = actors[0], []

    def fail(_):
        raise ZeroDivisionError

    def lose_the_session(_):
        tries.append(None)
        if len(tries) == 1:
            raise psycopg.errors.AdminShutdown
        return len(tries)

    do = a.store._fleet.do
    gone, failing = asyncio.create_task(a.accept("r1")), asyncio.create_task(do(fail))
    later = asyncio.create_task(a.accept("r2"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(ZeroDivisionError):
        await failing
    assert (await later).position == 1
    assert await do(lose_the_session) == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_what_was_called_before_a_store_closes_has_its_outcome(postgres_server, schema, monkeypatch, fails):
    store = FleetStore(postgres_server.url, node="a", schema=schema)
    await store.open()
    asked = [asyncio.create_task(Actor(store).accept(f"r{n}")) for n in range(3)]
    await asyncio.sleep(0)
    if fails:
        monkeypatch.setattr(PostgresDatabase, "commit", lambda _: 1 // 0)
    await store.close()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    if fails:
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    else:
        assert outcomes == [Accepted(n) for n in range(3)]


async def test_a_number_that_is_drawn_again_is_not_given_out(actors, postgres_server, schema):
    """As from a sequence that was restored from before."""
    a, _ = actors
    await a.accept("r1")
    with psycopg.connect(postgres_server.url, autocommit=True) as server:
        server.execute(f"SELECT setval('{schema}.request_n', n, false) FROM {schema}.requests")
    with pytest.raises(Unavailable, match="given out twice"):
        await a.accept("r2")


async def test_nothing_runs_before_what_is_at_home_and_not_in_the_queue_yet(actors):
    a, _ = actors
    queue = {RequestKey("ann", "r2")}
    a.store.order_by(lambda key: key in queue)
    for name in ("r1", "r2"):
        await a.accept(name)
    assert isinstance(await a.claim("r2"), Busy)
    queue.add(RequestKey("ann", "r1"))
    assert isinstance(await a.claim("r2"), Claimed)


async def test_a_gateway_that_has_the_database_for_itself_keeps_a_fleet_out(postgres_server, schema):
    alone, other = (
        PostgresStore(postgres_server.url, schema=schema),
        FleetStore(postgres_server.url, node="a", schema=schema),
    )
    await alone.open()
    with pytest.raises(StoreInUse):
        await other.open()
    await alone.close()
    await other.open()
    with pytest.raises(StoreInUse):
        await alone.open()
    await other.close()


async def test_a_gateway_for_which_the_server_has_no_connection_says_so(postgres_server, schema):
    with psycopg.connect(postgres_server.url, autocommit=True) as server:
        server.execute(f"CREATE ROLE {schema} LOGIN CONNECTION LIMIT 1")
    notices = Notices(postgres_server.url.replace("user=postgres", f"user={schema}"), schema, "a")
    with pytest.raises(Unavailable, match="too many connections"):
        await notices.start(lambda *_: None)


async def test_a_server_that_only_follows_another_is_refused_in_words(postgres_server, schema):
    url = f"{postgres_server.url}&options=-cdefault_transaction_read_only%3Don"
    with pytest.raises(StoreError, match="read-only; this is not the primary"):
        await FleetStore(url, node="a", schema=schema).open()
