"""Whatever a store has of a user is in the one list that says what an export shows and erasing takes away."""

import json
import sqlite3
from contextlib import closing

import psycopg
import pytest

from answerback.core.uploads import FileKey
from answerback.stores import open_store
from answerback.stores.fleet import FleetStore
from answerback.stores.migrations import shipped
from answerback.stores.postgres import PostgresStore
from answerback.stores.sqlite import SqliteDatabase, apply_migrations
from answerback.stores.user_data import FLEET_DATA, NO_USER, USER_DATA, Part


def check(columns: dict[str, set[str]], parts: tuple[Part, ...]) -> None:
    """Every table and every column is decided about."""
    known = {part.table: {*part.shown, *part.inner} for part in parts}
    assert columns.keys() <= known.keys() | NO_USER.keys(), "say in stores/user_data.py what the new table has of users"
    for table in columns.keys() & known.keys():
        assert columns[table] <= known[table], f"say in stores/user_data.py what the new column of {table} is"
    for table in columns.keys() & NO_USER.keys():
        assert "user_id" not in columns[table]


def test_every_table_of_sqlite_is_decided_about() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=SqliteDatabase)) as connection:
        apply_migrations(connection, shipped(), now_ms=0)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in tables}
    assert {part.table for part in USER_DATA} <= found.keys()
    check(found, USER_DATA)


@pytest.mark.postgres
async def test_every_table_of_several_gateways_is_decided_about(postgres_server, schema) -> None:
    store = FleetStore(postgres_server.url, node="a", schema=schema)
    await store.open()
    await store.close()
    found: dict[str, set[str]] = {}
    with psycopg.connect(postgres_server.url) as connection:
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s"
        for table, column in connection.execute(query, [schema]).fetchall():
            found.setdefault(table, set()).add(column)
    assert found.keys() == {part.table for part in (*USER_DATA, *FLEET_DATA)} | NO_USER.keys()
    check(found, (*USER_DATA, *FLEET_DATA))


async def test_nothing_of_an_erased_user_is_left_in_any_column(tmp_path, asker) -> None:
    store = await open_store(None, tmp_path)
    await asker.accept(store, "private-request", "a private question", user="private-user")
    assert [line async for line in store.export("private-user")]
    await store.delete_user("private-user")
    assert [line async for line in store.export("private-user")] == []
    await store.close()
    assert b"private" not in (tmp_path / "answerback.db").read_bytes()


async def test_files_are_shown_and_erased_with_their_pieces(tmp_path) -> None:
    store = await open_store(None, tmp_path)
    key = FileKey("ann", "a" * 64, 6)
    upload = await store.begin(key, "an-upload", now_ms=1)
    assert upload is not None
    for number, data in enumerate((b"pri", b"vat")):
        await store.put(key, "an-upload", number, data, now_ms=1)
    told = [json.loads(line) async for line in store.export("ann")]
    assert [line["data"] for line in told if line["table"] == "pieces"] == ["cHJp", "dmF0"]
    assert [line["sha256"] for line in told if line["table"] == "uploads"] == ["a" * 64]
    assert [line async for line in store.export("bob")] == []
    await store.delete_user("ann")
    assert [line async for line in store.export("ann")] == []
    await store.close()
    assert b"an-upload" not in (tmp_path / "answerback.db").read_bytes()


@pytest.mark.postgres
async def test_a_session_of_several_gateways_is_erased_by_one_that_is_alone(postgres_server, schema) -> None:
    store = FleetStore(postgres_server.url, node="a", schema=schema)
    await store.open()
    await store.close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO {schema}.sessions (user_id, session_id, generation, connected_at_ms, connection_id) "
            "VALUES ('ann', 's', 1, 1, 'c')"
        )
        alone = PostgresStore(postgres_server.url, schema=schema)
        await alone.open()
        assert [line async for line in alone.export("ann")] == [
            b'{"table": "sessions", "sessionId": "s", "connectedAtMs": 1, "connectionId": "c"}\n'
        ]
        assert await alone.delete_user("ann")
        await alone.close()
        assert connection.execute(f"SELECT count(*) FROM {schema}.sessions").fetchone() == (0,)
