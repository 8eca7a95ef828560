"""PostgreSQL: what is acknowledged stays, and the store comes back by itself."""

import asyncio
from contextlib import closing
from types import SimpleNamespace

import psycopg
import pytest

from answerback.core.request import RequestKey
from answerback.ports import Accepted, Unavailable
from answerback.stores import StoreError, StoreInUse
from answerback.stores.postgres import PostgresDatabase, PostgresStore, cause_of

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(90)]


@pytest.fixture
async def store(postgres_server, schema):
    store = PostgresStore(postgres_server.url, schema=schema)
    await store.open()
    yield store
    await store.close()


async def kill_sessions(server, application="answerback") -> int:
    async with await psycopg.AsyncConnection.connect(server.url) as admin:
        cursor = await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", [application]
        )
        return len(await cursor.fetchall())


async def test_a_crash_of_the_server_under_load_loses_nothing_that_was_acknowledged(postgres_server, store, asker):
    acknowledged: list[RequestKey] = []
    stop = asyncio.Event()
    enough = asyncio.Event()

    async def ask(user: str) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                await asker.accept(store, f"r{n}", f"{user} asks {n}", user)
            except Unavailable:
                continue
            acknowledged.append(RequestKey(user, f"r{n}"))
            if len(acknowledged) >= target:
                enough.set()

    target = 300
    async with asyncio.TaskGroup() as users:  # whatever fails, the askers end with it
        for n in range(30):
            users.create_task(ask(f"u{n}"))
        await enough.wait()
        await asyncio.to_thread(postgres_server.stop, "immediate")
        before = len(acknowledged)
        await asyncio.to_thread(postgres_server.start)
        enough.clear()
        target = before + 300
        await enough.wait()
        stop.set()
    assert {r.key for r in await store.unfinished()} >= set(acknowledged)
    for key in acknowledged:
        question = await store.question(key)
        assert question is not None
        assert question.message == f"{key.user_id} asks {key.request_id[1:]}"


async def test_an_outage_is_unavailable_and_passes(postgres_server, schema, asker):
    store = PostgresStore(postgres_server.url, schema=schema, reconnect_timeout_s=0.1)
    await store.open()
    try:
        await asker.accept(store, "before")
        await asyncio.to_thread(postgres_server.stop, "fast")
        try:
            calls = [asker.accept(store, f"r{n}") for n in range(5)]
            lost = await asyncio.gather(*calls, store.read(RequestKey("ann", "before")), return_exceptions=True)
            assert [type(e) for e in lost] == [Unavailable] * 6
            with pytest.raises(Unavailable):
                await asker.accept(store, "still down")
        finally:
            await asyncio.to_thread(postgres_server.start)
        assert await asker.accept(store, "after") == Accepted(1)
        assert [r.request_id for r in await store.unfinished()] == ["before", "after"]
    finally:
        await store.close()


async def test_a_short_restart_is_waited_for(postgres_server, schema, asker):
    store = PostgresStore(postgres_server.url, schema=schema, reconnect_timeout_s=60)
    await store.open()
    try:
        await asyncio.to_thread(postgres_server.stop, "fast")
        asked = asyncio.ensure_future(asker.accept(store, "r1"))
        read = asyncio.ensure_future(store.read(RequestKey("ann", "r1")))
        await asyncio.to_thread(postgres_server.start)
        assert await asked == Accepted(0)
        assert await read in (None, asker.record("r1"))
    finally:
        await store.close()


async def test_a_lost_session_takes_the_lock_again(postgres_server, store, asker):
    await asker.accept(store, "before")
    assert await kill_sessions(postgres_server) >= 1
    assert await asker.accept(store, "after") == Accepted(1)
    with pytest.raises(StoreInUse):
        await PostgresStore(postgres_server.url, schema=store._schema).open()


async def test_while_another_gateway_has_the_lock_nothing_is_written(postgres_server, schema, asker):
    first = PostgresStore(postgres_server.url, schema=schema, reconnect_timeout_s=0.1)
    second = PostgresStore(postgres_server.url, schema=schema, reconnect_timeout_s=30)
    await first.open()
    try:
        await asker.accept(first, "by the first")
        await kill_sessions(postgres_server)
        await second.open()
        await asker.accept(second, "by the second")
        for n in range(3):
            with pytest.raises(Unavailable):
                await asker.accept(first, f"late {n}")
        assert [r.request_id for r in await second.unfinished()] == ["by the first", "by the second"]
        await second.close()
        assert await asker.accept(first, "back again") == Accepted(2)
    finally:
        await first.close()
        await second.close()


async def test_a_second_gateway_is_refused_with_advice(postgres_server, store, schema):
    with pytest.raises(StoreInUse, match=f"Another gateway uses this database .schema {schema}.*another database"):
        await PostgresStore(postgres_server.url, schema=schema).open()


async def test_the_lock_is_free_again_after_close(postgres_server, store, schema):
    await store.close()
    again = PostgresStore(postgres_server.url, schema=schema)
    await again.open()
    await again.close()


async def test_a_server_that_is_not_there_is_an_error_with_advice(tmp_path, schema):
    with pytest.raises(StoreError, match="Check --database"):
        await PostgresStore(f"postgresql:///x?host={tmp_path}", schema=schema, reconnect_timeout_s=0).open()


async def test_a_database_that_is_not_there_is_an_error_with_advice(postgres_server, schema):
    url = postgres_server.url.replace("/postgres?", "/nowhere?")
    with pytest.raises(StoreError, match="nowhere"):
        await PostgresStore(url, schema=schema, reconnect_timeout_s=0).open()


async def test_a_url_that_makes_no_sense_is_an_error_with_advice(schema):
    with pytest.raises(StoreError, match="Check --database"):
        await PostgresStore("postgresql://host/db?no_such_option=1", schema=schema).open()


async def test_a_read_only_server_is_unavailable(postgres_server, store, asker):
    async with await psycopg.AsyncConnection.connect(postgres_server.url, autocommit=True) as admin:
        await admin.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        try:
            await kill_sessions(postgres_server)
            await asyncio.gather(asker.accept(store, "r1"), return_exceptions=True)
            with pytest.raises(Unavailable, match="read-only"):
                await asker.accept(store, "r2")
        finally:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    await kill_sessions(postgres_server)
    await asyncio.gather(asker.accept(store, "r3"), return_exceptions=True)
    assert isinstance(await asker.accept(store, "r4"), Accepted)


async def test_commits_are_durable_whatever_the_servers_default(postgres_server, schema):
    async with await psycopg.AsyncConnection.connect(postgres_server.url, autocommit=True) as admin:
        await admin.execute("ALTER DATABASE postgres SET synchronous_commit = off")
        try:
            from answerback.stores.postgres import connect

            with closing(connect(postgres_server.url, schema)) as connection:
                assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        finally:
            await admin.execute("ALTER DATABASE postgres RESET synchronous_commit")


async def test_operations_of_one_user_keep_their_order_in_a_batch(store, asker):
    async def ask_and_check(n: int):
        return await asyncio.gather(*(asker.accept(store, f"r{n}-{m}", user=f"u{n}") for m in range(10)))

    for admissions in await asyncio.gather(*(ask_and_check(n) for n in range(10))):
        assert [a.position for a in admissions] == list(range(10))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (psycopg.errors.DiskFull(), "disk is full"),
        (psycopg.errors.AdminShutdown(), "cannot be reached"),
        (psycopg.OperationalError(), "cannot be reached"),
        (psycopg.InterfaceError(), "lost"),
        (psycopg.errors.QueryCanceled(), "too long"),
    ],
)
def test_the_table_of_causes(error, why):
    assert why in (cause_of(error) or "")


def test_a_mistake_of_ours_has_no_cause():
    assert cause_of(psycopg.errors.UndefinedColumn()) is None
    assert cause_of(ValueError()) is None


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("error", [psycopg.errors.AdminShutdown(), psycopg.errors.CrashShutdown(), OSError()])
def test_a_connection_is_lost_when_it_is_closed_and_when_the_server_says_that_it_ends_it(is_closed, error) -> None:
    database = PostgresDatabase(SimpleNamespace(closed=is_closed))
    assert database.is_undone(error) is (is_closed or not isinstance(error, OSError))
