"""The small parts that the stores are made of: parameters, encodings, the writer's state, the cache, opening."""

import sys

import pytest
from msgspec.structs import replace

from answerback.core.request import SCHEMA, Question, RequestKey
from answerback.stores import StoreError, open_store
from answerback.stores.encoding import PIECE_LENGTH, decode_record, encode_record, pieces
from answerback.stores.query import to_psycopg
from answerback.stores.store import QuestionCache
from answerback.stores.writer_state import Unfinished, WriterState
from answerback_aws.runtime.dynamodb import items

# --- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "psycopg"),
    [
        ("SELECT :a, :b_2", "SELECT %(a)s, %(b_2)s"),
        ("SELECT :a::bigint, x::text", "SELECT %(a)s::bigint, x::text"),
        ("SELECT ':a', 'it''s :b', :c", "SELECT ':a', 'it''s :b', %(c)s"),
        ('SELECT ":a" FROM t WHERE x = :a', 'SELECT ":a" FROM t WHERE x = %(a)s'),
        ("SELECT a % b, '100%'", "SELECT a %% b, '100%%'"),
        ("VALUES (:a,:b)", "VALUES (%(a)s,%(b)s)"),
        ("SELECT '12:30'", "SELECT '12:30'"),
    ],
)
def test_parameters_are_rewritten_and_nothing_else(sql, psycopg):
    assert to_psycopg(sql) == psycopg


# --- encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, PIECE_LENGTH - 1, PIECE_LENGTH, PIECE_LENGTH + 1, 3 * PIECE_LENGTH])
def test_pieces_are_the_text(length):
    text = "🙂" * length
    parts = list(pieces(text))
    assert "".join(piece for _, piece in parts) == text
    assert [number for number, _ in parts] == list(range(len(parts)))
    assert all(0 < len(piece.encode()) <= 64_000 for _, piece in parts)


def test_a_record_of_a_newer_program_is_a_clear_error(asker):
    text = encode_record(asker.record("r1"))
    assert decode_record(text, SCHEMA) == asker.record("r1")
    with pytest.raises(StoreError, match="Upgrade the program"):
        decode_record(text, SCHEMA + 1)


def test_a_record_has_the_lowest_version_that_can_express_it(asker):
    plain = asker.record("r1")
    with_signs, with_parts = (replace(plain, parts=parts) for parts in ((), ("citation", "tool")))
    assert [record.schema for record in (plain, with_signs, with_parts)] == [1, 2, 2]
    for record in (plain, with_signs, with_parts):
        assert decode_record(encode_record(record), record.schema) == record
        assert items.decode_item(items.encode_record(record)) == record


# --- the writer's state ---------------------------------------------------------------------------------------------


def state_of(state: WriterState) -> str:
    return repr({name: value for name, value in vars(state).items() if name not in ("_journal", "_next_seq")})


def known(asker, request_id: str, seq: int, user: str = "ann") -> Unfinished:
    return Unfinished(asker.record(request_id, user), seq, "title", None)


def test_a_rollback_undoes_everything_since_the_commit(asker):
    state = WriterState()
    state.start_seq(0)
    state.reserve(1)
    state.put_unfinished(known(asker, "r1", 1))
    state.know_user("ann", 5)
    state.count("ann", asker.now_ms)
    state.delete_conversation("ann", "c1", 7)
    state.commit()
    before = state_of(state)
    state.put_unfinished(known(asker, "r2", 2))
    state.put_unfinished(known(asker, "r3", 3, "bob"))
    state.remove_unfinished(RequestKey("ann", "r1"))
    state.remove_unfinished(RequestKey("ann", "r2"))
    state.know_user("ann", None)
    state.know_user("bob", 1)
    state.count("ann", asker.now_ms)
    state.count("bob", asker.now_ms)
    state.delete_conversation("ann", "c1", None)
    state.reserve(5000)
    state.forget_user("ann")
    assert state_of(state) != before
    state.rollback()
    assert sorted(state_of(state)) == sorted(before)
    assert state.position("key of ann") == 1
    assert state.position("key of bob") == 0
    assert state.limits == {"ann": 5}
    assert state.reserve(5000) is not None


def test_the_writer_state_knows_what_admission_asks_for(asker):
    state = WriterState()
    state.put_unfinished(known(asker, "r1", 1))
    state.count("ann", asker.now_ms)
    assert (state.pending("ann"), state.counted("ann", asker.now_ms)) == (1, 1)
    assert (state.pending("bob"), state.counted("bob", asker.now_ms)) == (0, 0)
    assert state.counted("ann", asker.now_ms + 60_000) == 0


def test_old_windows_are_forgotten(asker):
    state = WriterState()
    for minute in range(100):
        state.count("ann", minute * 60_000)
    assert len(state._windows) <= 3
    assert state.counted("ann", 99 * 60_000) == 1


def test_numbers_are_reserved_in_blocks():
    state = WriterState()
    state.start_seq(41)
    first = state.take_seq()
    assert first == 42
    raised = state.reserve(first)
    assert raised is not None
    assert raised > first
    assert state.reserve(state.take_seq()) is None


# --- the cache of questions ---------------------------------------------------------------------------------


def test_the_cache_is_bounded_by_the_length_of_the_texts():
    cache = QuestionCache(max_characters=10_000)
    question = Question(message="x" * 2_000, model="echo", system="y" * 500)
    for n in range(10):
        cache.add(RequestKey("ann", str(n)), question)
    kept = [n for n in range(10) if cache.get(RequestKey("ann", str(n))) is not None]
    assert kept == [7, 8, 9]
    cache.add(RequestKey("ann", "9"), replace(question, message="other"))
    found = cache.get(RequestKey("ann", "9"))
    assert found is not None
    assert found.message == "other"
    cache.add(RequestKey("ann", "huge"), replace(question, message="x" * 20_000))
    assert cache.get(RequestKey("ann", "huge")) is None
    cache.clear()
    assert cache.get(RequestKey("ann", "9")) is None


# --- opening ------------------------------------------------------------------------------------------------


async def test_the_default_is_a_file_in_the_data_folder(tmp_path, asker):
    store = await open_store(None, tmp_path / "new" / "folder")
    await asker.accept(store, "r1")
    await store.close()
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
    with pytest.raises(StoreError, match=r"pip install 'answerback\[postgres\]'"):
        await open_store("postgresql://127.0.0.1/x", tmp_path)
