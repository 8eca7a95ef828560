"""Aurora's tables: made, brought up to date, left alone; by several at once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from answerback.stores.database import StoreError
from answerback.stores.migrations import parse, shipped
from answerback.stores.statements import SELECT_USERS
from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.aurora.data_api import StatementFailed
from answerback_aws.runtime.aurora.operations import turns, usage
from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
from answerback_aws.runtime.functions.migration import apply_migrations
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


async def test_the_tables_of_the_first_version_are_carried_over(open_aws, cluster, postgres_server):
    """1,000 turns, one of 256 KB; some of deleted conversations, purged, or of an answer that was not kept."""
    aws = open_aws()
    await apply_migrations(aws.data_api, now_ms=1, migrations=shipped()[:1])
    long = "가나다라마바사아🙂b" * 8_800
    with psycopg.connect(postgres_server.url, dbname=cluster.database) as connection:
        cursor = connection.cursor()
        cursor.executemany(
            """INSERT INTO requests (user_id, request_id, seq, conversation_id, accepted_at_ms, ended_at_ms,
              record_schema, record) VALUES (%s, %s, %s, %s, %s, %s, 0, '')""",
            [(f"u{n % 7}", f"r{n}", n // 7, f"c{n % 3}", n, n + 1) for n in range(100, 1_000)],
        )
        connection.execute("INSERT INTO requests VALUES ('u0', 'lost', 9, 'gone', 5, 6, NULL, NULL, 0, '')")
        cursor.executemany(
            "INSERT INTO turns VALUES (%s, %s, %s, %s, 'completed', %s, %s, 'echo', NULL, NULL, 1, 2, %s)",
            [
                (f"u{n % 7}", f"c{n % 3}", n // 7, f"r{n}", n, n + 1, "r999" if n % 50 == 1 else None)
                for n in range(1_000)
            ],
        )
        texts = [
            (f"u{n % 7}", f"r{n}", n // 7, role, piece, text)
            for n in range(1_000)
            for role, whole in (("question", long if n == 500 else f"q{n}"), ("answer", long if n == 500 else f"a{n}"))
            for piece, text in enumerate(whole[at : at + 5_000] for at in range(0, len(whole), 5_000))
        ]
        cursor.executemany("INSERT INTO texts VALUES (%s, %s, %s, %s, %s, %s)", texts)
        connection.execute(
            """INSERT INTO conversations SELECT user_id, conversation_id, 't', 1, MAX(ended_at_ms), NULL
            FROM turns GROUP BY user_id, conversation_id"""
        )
        connection.execute("INSERT INTO usage VALUES ('u0', '1970-01-01', 144, 144, 288, 999)")
    assert await apply_migrations(aws.data_api, now_ms=2) == len(shipped()) - 1
    found = {}
    for user in range(7):
        for conversation in range(3):
            page = lambda statements, u=user, c=conversation: turns(  # noqa: E731
                statements, f"u{u}", f"c{c}", before=None, limit=1_000
            )
            found |= {turn.request_id: turn for turn in await aws.data_api.read(page)}
    assert sorted(found) == sorted(f"r{n}" for n in range(1_000) if n % 50 != 1)
    assert (found["r500"].question, found["r500"].answer) == (long, long)
    del found["r500"]
    assert all((turn.question, turn.answer) == (f"q{name[1:]}", f"a{name[1:]}") for name, turn in found.items())
    assert (found["r7"].position, found["r7"].model, found["r7"].output_tokens) == (1, "echo", 2)
    used = await aws.data_api.read(lambda statements: usage(statements, "u0", since_day=None))
    assert [(one.requests, one.input_tokens, one.output_tokens) for one in used] == [(144, 144, 288)]
    with psycopg.connect(postgres_server.url, dbname=cluster.database) as connection:
        forgotten = connection.execute("SELECT COUNT(*) FROM requests WHERE forgotten = 1").fetchone()
        assert forgotten == (100,)
        assert connection.execute("SELECT conversation_id FROM requests WHERE request_id = 'lost'").fetchall() == [
            (None,)
        ]
