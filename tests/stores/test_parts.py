"""The small parts that the stores are made of: parameters, encodings, the writer's state, opening."""

import sys
from contextlib import closing

import pytest
from msgspec.structs import replace

from answerback.core.admission import Accepted, Full, Limited, Quota
from answerback.core.request import SCHEMA, DeliveryTarget, Question
from answerback.stores import StoreError, open_store
from answerback.stores.encoding import decode_record, encode_record, width_of
from answerback.stores.sqlite import SqliteDatabase, connect
from answerback.stores.statements import to_psycopg
from answerback.stores.writer_state import Tracked, WriterState
from answerback_aws.runtime.dynamodb import items

QUESTION = Question(message="What is it?", model="echo")

NOW_MS = 1_750_000_000_000

# --- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "psycopg"),
    [
        ("SELECT :a, :b_2", "SELECT %(a)s, %(b_2)s"),
        ("SELECT :a::bigint, x::text", "SELECT %(a)s::bigint, x::text"),
        ("SELECT ':a', 'it''s :b', :c", "SELECT ':a', 'it''s :b', %(c)s"),
        ('SELECT ":a" FROM t WHERE x = :a', 'SELECT ":a" FROM t WHERE x = %(a)s'),
        ("SELECT a % b, '100%'", "SELECT a %% b, '100%%'"),
        ("VALUES (?, ?), '?'", "VALUES (%s, %s), '?'"),
        ("VALUES (:a,:b)", "VALUES (%(a)s,%(b)s)"),
        ("SELECT '12:30'", "SELECT '12:30'"),
    ],
)
def test_parameters_are_rewritten_and_nothing_else(sql, psycopg):
    assert to_psycopg(sql) == psycopg


# --- encodings ----------------------------------------------------------------------------------------------


def test_a_record_of_a_newer_program_is_a_clear_error(asker):
    text = encode_record(asker.record("r1"))
    assert decode_record(text, SCHEMA) == asker.record("r1")
    with pytest.raises(StoreError, match="Upgrade the program"):
        decode_record(text, SCHEMA + 1)


def test_a_record_has_the_lowest_version_that_can_express_it(asker):
    plain = asker.record("r1")
    with_signs, with_parts = (replace(plain, parts=parts) for parts in ((), ("citation", "tool")))
    traced = replace(plain, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert [record.schema for record in (plain, with_signs, with_parts, traced)] == [1, 2, 2, 2]
    for record in (plain, with_signs, with_parts, traced):
        assert decode_record(encode_record(record), record.schema) == record
        assert items.decode_item(items.encode_record(record)) == record


@pytest.mark.parametrize("length", [10, 100_000])
def test_a_record_of_a_long_row_keeps_its_length_until_it_ends(asker, length):
    question = Question(message="x" * length, model="echo")
    record = asker.record("r1")
    text = encode_record(record)
    width = width_of(text, question)
    claimed = replace(record, owner="o" * 36, lease_until_ms=NOW_MS, started_at_ms=NOW_MS, queue_no=7, attempt=3)
    target = DeliveryTarget(no=20, connection_id="c" * 36, generation=2**40, attempt=3, offset=10**6)
    later = encode_record(replace(claimed, target=target))
    lengths = {len(one.ljust(width)) for one in (text, later)}
    assert len(lengths) == (1 if length > 10 else 2)
    assert decode_record(later.ljust(width), SCHEMA) == replace(claimed, target=target)


# --- the writer's state -----------------------------------------------------------------------------------------------


def tracked(asker, state: WriterState, request_id: str, user: str = "ann") -> Tracked:
    question, record = Question(message="Why?", model="echo"), asker.record(request_id, user)
    return state.track(record.key, record, question, width=0)


ANY, ONE_A_MINUTE, TWO_PENDING = (Quota(per_minute=rate, max_pending=most) for rate, most in ((0, 9), (1, 9), (0, 2)))


def test_the_writer_state_knows_what_admission_asks_for(asker):
    state, now_ms = WriterState(), asker.now_ms
    first, second = tracked(asker, state, "r1"), tracked(asker, state, "r2")
    state.count("ann", now_ms)
    new, of_bob = asker.record("new"), asker.record("new", "bob")
    queue = first.record.ordering_key
    assert (state.position(queue, first.n), state.position(queue, second.n)) == (0, 1)
    assert isinstance(state.admit(new, QUESTION, TWO_PENDING, now_ms), Full)
    assert isinstance(state.admit(new, QUESTION, ONE_A_MINUTE, now_ms), Limited)
    assert state.admit(new, QUESTION, ONE_A_MINUTE, now_ms + 60_000) == Accepted(2)
    assert (
        state.admit(of_bob, QUESTION, ONE_A_MINUTE, now_ms)
        == state.admit(of_bob, QUESTION, TWO_PENDING, now_ms)
        == Accepted(0)
    )
    for _ in range(2):  # twice is the same as once
        state.release(first)
    assert state.position(queue, second.n) == 0
    assert state.admit(new, QUESTION, TWO_PENDING, now_ms) == Accepted(1)
    state.forget_user("ann")
    assert state.admit(new, QUESTION, ONE_A_MINUTE, now_ms) == Accepted(0)
    assert state.tracked == {}


def test_old_windows_are_forgotten(asker):
    state = WriterState()
    for minute in range(100):
        state.count("ann", minute * 60_000)
    assert len(state._windows) <= 3
    assert isinstance(state.admit(asker.record("new"), QUESTION, ONE_A_MINUTE, 99 * 60_000), Limited)


def test_the_questions_in_memory_are_bounded_by_the_length_of_their_texts(asker):
    state = WriterState()
    question = Question(message="x" * 3_000_000, model="echo")
    records = [asker.record(f"r{n}") for n in range(5)]
    kept = [state.track(record.key, record, question, width=0) for record in records[:4]]
    assert [one.question is not None for one in kept] == [True, True, False, False]
    state.release(kept[0])
    assert state.track(records[4].key, records[4], question, width=0).question is not None


def database_of(folder) -> SqliteDatabase:
    return connect(folder / "answerback.db", busy_timeout_s=1)


async def test_the_writer_state_of_some_users_is_read_inside_a_transaction(tmp_path, asker):
    store = await open_store(None, tmp_path)
    await store.set_limit("bob", 7, now_ms=asker.now_ms)
    for user in ("ann", "bob", "cem"):
        await asker.accept(store, "r1", user=user)
    await store.close()
    database = database_of(tmp_path)
    database.execute(database.BEGIN)
    database.execute("UPDATE users SET per_minute = 9 WHERE user_id = 'bob'")
    state = WriterState.load(database, user_ids=["bob", "cem", "nobody"])
    database.close()
    assert sorted(key.user_id for key in state.tracked) == ["bob", "cem"]
    assert state.limits == {"bob": 9}
    state.limits.clear()
    asked = [
        state.admit(asker.record("r2", user), QUESTION, ONE_A_MINUTE, asker.now_ms) for user in ("ann", "bob", "cem")
    ]
    assert [isinstance(one, Limited) for one in asked] == [False, True, True]
    assert state.last_n == 3
    with closing(database_of(tmp_path)) as database:
        assert WriterState.load(database, user_ids=[]).tracked == {}


# --- opening ------------------------------------------------------------------------------------------------


async def test_the_default_is_a_file_in_the_data_folder(tmp_path, asker):
    names = []
    for _ in range(2):
        store = await open_store(None, tmp_path / "new" / "folder")
        await asker.accept(store, "r1")
        names.append(await store.store_id())
        await store.close()
    assert names[0] == names[1], "the data keep their name"
    assert len(names[0]) == 36
    assert (tmp_path / "new" / "folder" / "answerback.db").exists()


async def test_a_url_opens_postgresql(postgres_server, tmp_path, asker):
    store = await open_store(postgres_server.url, tmp_path)
    try:
        await asker.accept(store, "r1")
        assert list(tmp_path.iterdir()) == []
    finally:
        await store.delete_user("ann")
        await store.close()


async def test_a_data_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--data-dir"):
        await open_store(None, tmp_path / "file" / "data")


@pytest.mark.parametrize("url", ["mysql://x/y", "answerback.db", ""])
async def test_another_url_is_an_error_with_advice(tmp_path, url):
    with pytest.raises(StoreError, match="postgresql://"):
        await open_store(url, tmp_path)


async def test_without_psycopg_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "answerback.stores.postgres", None)
    with pytest.raises(StoreError, match=r"pip install '\.\[postgres\]'"):
        await open_store("postgresql://127.0.0.1/x", tmp_path)
