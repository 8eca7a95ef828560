"""A pooler by transaction makes the lock of a gateway worthless: the store refuses to work behind one, in words."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from answerback.core.request import RequestKey
from answerback.stores import StoreError, StoreInUse
from answerback.stores.fleet import FleetStore
from answerback.stores.postgres import PostgresStore
from pooler import TransactionPooler, pgbouncer, running_pgbouncer

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(90)]


def folder_of(server) -> Path:
    return Path(server.dsn.partition("host=")[2].partition(" ")[0])


def url_of(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


async def refused(port: int, schema: str, kind: Callable[..., PostgresStore] = PostgresStore, **more: str) -> bool:
    store = kind(url_of(port), schema=schema, **more)
    try:
        await store.open()
    except StoreError as error:
        assert not isinstance(error, StoreInUse)
        return "pool_mode = session" in str(error)
    finally:
        await store.close()
    return False


async def locks(server) -> set[tuple[int, ...]]:
    """Who holds which. A test before this one may just be giving its own back."""
    async with await psycopg.AsyncConnection.connect(server.url) as admin:
        held = "SELECT pid, classid, objid, objsubid FROM pg_locks WHERE locktype = 'advisory'"
        return set(await (await admin.execute(held)).fetchall())


@pytest.mark.parametrize("is_fair", [False, True])
@pytest.mark.parametrize("sessions", [1, 2, 3, 5])
async def test_a_pooler_by_transaction_is_refused(postgres_server, schema, sessions: int, is_fair: bool) -> None:
    socket = folder_of(postgres_server) / ".s.PGSQL.5432"
    before = await locks(postgres_server)
    async with TransactionPooler(socket, sessions=sessions, is_fair=is_fair) as pooler:
        assert await refused(pooler.port, schema)
        assert await refused(pooler.port, schema), "nothing is left of the first try"
        assert await refused(pooler.port, schema, FleetStore, node="a")
        assert await locks(postgres_server) <= before


@pytest.mark.skipif(pgbouncer() is None, reason="no PgBouncer here (Debian: apt-get install pgbouncer)")
async def test_pgbouncer_by_transaction_is_refused_and_by_session_works(
    postgres_server, schema, unused_port, asker
) -> None:
    with running_pgbouncer(folder_of(postgres_server), unused_port, "transaction"):
        assert await refused(unused_port, schema)
        assert await refused(unused_port, schema, FleetStore, node="a")
    with running_pgbouncer(folder_of(postgres_server), unused_port, "session"):
        store = PostgresStore(url_of(unused_port), schema=schema)
        await store.open()
        await asker.accept(store, "r1")
        assert await store.read(RequestKey("ann", "r1")) is not None
        with pytest.raises(StoreInUse):
            await PostgresStore(url_of(unused_port), schema=schema).open()
        await store.close()
