import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from answerback.stores import StoreError, migrations
from answerback.stores.migrations import parse, shipped, split
from answerback.stores.sqlite import SqliteStore, apply_migrations, connect

EXTRA = parse(
    "0099_more.sql",
    """-- a comment; with a semicolon
    ALTER TABLE users ADD COLUMN note text;
    UPDATE users SET note = 'it''s; a note';
    """,
)


def versions(path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [v for (v,) in connection.execute("SELECT version FROM schema_migrations ORDER BY version")]


def test_a_script_is_split_at_the_ends_of_statements():
    script = "-- one; two\nINSERT INTO t VALUES (';', ''';''');\n/* ; */ SELECT 1;\n-- end\n"
    assert list(split(script)) == ["-- one; two\nINSERT INTO t VALUES (';', ''';''');", "/* ; */ SELECT 1;"]


def test_the_shipped_files_are_numbered_without_gaps():
    assert [m.version for m in shipped()] == list(range(1, len(shipped()) + 1))
    assert all(m.statements for m in shipped())


def test_each_version_is_brought_to_the_newest_with_its_data(tmp_path):
    everything = [*shipped(), EXTRA]
    for count in range(1, len(everything) + 1):
        path = tmp_path / f"{count}.db"
        with closing(connect(path, busy_timeout_s=5)) as connection:
            assert apply_migrations(connection, everything[:count], now_ms=1) == count
            connection.execute("INSERT INTO users (user_id, created_at_ms) VALUES ('ann', 1)")
            assert apply_migrations(connection, everything, now_ms=2) == len(everything) - count
            assert apply_migrations(connection, everything, now_ms=3) == 0
            assert connection.execute("SELECT user_id FROM users").fetchall() == [("ann",)]
        assert versions(path) == [m.version for m in everything]


FILLED = """
WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < 20000)
INSERT INTO requests (user_id, request_id, seq, conversation_id, accepted_at_ms, ended_at_ms, title, options,
  record_schema, record) SELECT 'u' || (n % 1000), 'r' || n, n, 'c' || (n % 10), n, n + 1, '', '{}', 1, '{}' FROM k;
INSERT INTO turns (user_id, conversation_id, position, request_id, status, accepted_at_ms, ended_at_ms)
  SELECT user_id, conversation_id, seq, request_id, 'completed', accepted_at_ms, ended_at_ms FROM requests;
INSERT INTO texts (user_id, request_id, position, role, piece, text)
  SELECT user_id, request_id, seq, role, piece, role || ' ' || request_id || ' ' || piece FROM requests,
  (SELECT 'question' AS role, 0 AS piece UNION ALL SELECT 'answer', 0 UNION ALL SELECT 'answer', 1);
INSERT INTO counters (name, value) VALUES ('seq', 20000) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


@pytest.mark.timeout(60)
def test_twenty_thousand_turns_become_rows_in_a_bearable_time(tmp_path):
    with closing(connect(tmp_path / "a.db", busy_timeout_s=5)) as connection:
        apply_migrations(connection, shipped()[:1], now_ms=1)
        connection.executescript(FILLED)
        apply_migrations(connection, shipped(), now_ms=2)
        assert connection.execute("SELECT COUNT(*), MAX(n) FROM requests").fetchone() == (20_000, 20_000)
        row = connection.execute("SELECT user_id, conversation_id, question, answer FROM requests WHERE n = 19999")
        assert row.fetchone() == ("u999", "c9", "question r19999 0", "answer r19999 0answer r19999 1")


def test_concurrent_runs_apply_each_once(tmp_path):
    path = tmp_path / "a.db"

    def migrate() -> int:
        with closing(connect(path, busy_timeout_s=30)) as connection:
            return apply_migrations(connection, shipped(), now_ms=1)

    with closing(connect(path, busy_timeout_s=30)), ThreadPoolExecutor(6) as threads:
        applied = [f.result() for f in [threads.submit(migrate) for _ in range(6)]]
    assert sorted(applied) == [0, 0, 0, 0, 0, len(shipped())]


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path):
    broken = parse("0098_broken.sql", "CREATE TABLE half (x text); INSERT INTO nowhere VALUES (1);")
    with closing(connect(tmp_path / "a.db", busy_timeout_s=5)) as connection:
        apply_migrations(connection, shipped(), now_ms=1)
        with pytest.raises(sqlite3.OperationalError):
            apply_migrations(connection, [*shipped(), broken], now_ms=1)
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []
    assert versions(tmp_path / "a.db") == [m.version for m in shipped()]


async def test_a_database_of_a_newer_program_is_refused(tmp_path, monkeypatch):
    with closing(connect(tmp_path / "a.db", busy_timeout_s=5)) as connection:
        apply_migrations(connection, [*shipped(), EXTRA], now_ms=1)
    with pytest.raises(StoreError, match=r"version 99.*Upgrade the program"):
        await SqliteStore(tmp_path / "a.db").open()
    monkeypatch.setattr("answerback.stores.sqlite.shipped", lambda: [*migrations.shipped(), EXTRA])
    newer = SqliteStore(tmp_path / "a.db")
    await newer.open()
    await newer.close()


@pytest.mark.postgres
async def test_concurrent_runs_on_postgresql_apply_each_once(postgres_server, schema):
    from answerback.stores import postgres

    def migrate(with_more: bool) -> int:
        with closing(postgres.connect(postgres_server.url, schema)) as connection:
            files = [*shipped(), EXTRA] if with_more else shipped()
            return postgres.apply_migrations(connection, schema, files, now_ms=1)

    applied = await asyncio.gather(*(asyncio.to_thread(migrate, False) for _ in range(5)))
    assert sorted(applied) == [0, 0, 0, 0, len(shipped())]
    assert migrate(True) == 1
    with pytest.raises(StoreError, match=r"version 99.*Upgrade the program"):
        await postgres.PostgresStore(postgres_server.url, schema=schema).open()
