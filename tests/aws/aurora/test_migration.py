"""Aurora's tables: made, brought up to date, left alone; by several at once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from answerback.stores.errors import StoreError
from answerback.stores.migrations import parse, shipped
from answerback.stores.statements import SELECT_USERS
from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.aurora.data_api import StatementFailed
from answerback_aws.runtime.aurora.migration import apply_migrations
from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
from aurora import Aws
from emulation import Cluster, make_cluster

pytestmark = [pytest.mark.emulator, pytest.mark.postgres]

NEXT = parse("0099_next.sql", "-- one more; it's needed\nALTER TABLE users ADD COLUMN note text;\n")
BROKEN = parse("0100_broken.sql", "CREATE TABLE half (a text);\nCREATE TABLE half (a text);\n")


@pytest.fixture
def cluster(emulator: Emulator) -> Cluster:
    """An Aurora with nothing in it."""
    return make_cluster(emulator)


@pytest.fixture
async def open_aws(emulator: Emulator, cluster: Cluster) -> AsyncIterator[Callable[[], Aws]]:
    opened: list[Aws] = []

    def open_aws() -> Aws:
        opened.append(Aws(emulator, cluster, Tables(**dict.fromkeys(TABLES, "")), retry_for_s=20))
        return opened[-1]

    yield open_aws
    for aws in opened:
        await aws.close()


async def test_an_empty_database_gets_the_tables_once(open_aws):
    api = open_aws().data_api
    assert await apply_migrations(api, now_ms=1) == len(shipped())
    assert await apply_migrations(api, now_ms=2) == 0
    page = {"after": "", "limit": 9}
    found = await api.read(lambda statements: statements.execute(SELECT_USERS, page))
    assert found.rows == []


async def test_the_tables_are_those_of_the_other_postgresql_store(open_aws, cluster, postgres_server):
    from answerback.stores.postgres import PostgresStore

    await apply_migrations(open_aws().data_api, now_ms=1)
    other = PostgresStore(postgres_server.url, schema="beside_aurora")
    await other.open()
    await other.close()

    def columns(database: str, schema: str) -> list[tuple[object, ...]]:
        with psycopg.connect(postgres_server.url, dbname=database) as connection:
            return connection.execute(
                """SELECT table_name, column_name, data_type, is_nullable, collation_name
                FROM information_schema.columns WHERE table_schema = %s ORDER BY 1, 2""",
                [schema],
            ).fetchall()

    assert columns(cluster.database, "public") == columns("postgres", "beside_aurora")


async def test_later_ones_are_applied_in_order(open_aws):
    api = open_aws().data_api
    await apply_migrations(api, now_ms=1)
    assert await apply_migrations(api, now_ms=2, migrations=[*shipped(), NEXT]) == 1
    assert await apply_migrations(api, now_ms=3, migrations=[*shipped(), NEXT]) == 0


async def test_several_at_once_apply_each_once(open_aws):
    applied = await asyncio.gather(*(apply_migrations(open_aws().data_api, now_ms=1) for _ in range(4)))
    assert sorted(applied) == [0, 0, 0, len(shipped())]


async def test_a_broken_one_changes_nothing(open_aws):
    api = open_aws().data_api
    await apply_migrations(api, now_ms=1)
    with pytest.raises(StatementFailed):
        await apply_migrations(api, now_ms=2, migrations=[*shipped(), NEXT, BROKEN])
    assert await apply_migrations(api, now_ms=3, migrations=[*shipped(), NEXT]) == 1


async def test_a_newer_database_is_refused_with_what_to_do(open_aws):
    api = open_aws().data_api
    await apply_migrations(api, now_ms=1, migrations=[*shipped(), NEXT])
    with pytest.raises(StoreError, match=r"version 99.*Upgrade the program"):
        await apply_migrations(api, now_ms=2)
