"""ports.Requests as operations (see query.py): what is read and written, independent of the database.

The writer's state is changed before the rows are written: operations may run side by side, and the next one must see
the change.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final, TypeVar

from answerback.core.admission import WINDOW_MS, Accepted, Admission, Quota, admit, admit_again
from answerback.core.context import title_of
from answerback.core.instants import day_of
from answerback.core.request import Change, Ending, Question, Record, RequestKey
from answerback.core.transitions import State
from answerback.stores import statements as sql
from answerback.stores.encoding import (
    ANSWER,
    QUESTION,
    SYSTEM,
    decode_question,
    decode_record,
    encode_options,
    encode_record,
    pieces,
)
from answerback.stores.history_operations import erase
from answerback.stores.query import Operation, Params, Query, Row, Value
from answerback.stores.writer_state import Unfinished, WriterState

T = TypeVar("T")

_DAY_MS: Final = 86_400_000


def load(state: WriterState) -> Operation[None]:
    """Fill an empty writer's state from the database."""
    counter, unfinished, last_end, deleted = yield [
        Query(sql.SELECT_COUNTER, {"name": "seq"}),
        Query(sql.SELECT_UNFINISHED, {}),
        Query(sql.SELECT_LAST_END, {}),
        Query(sql.SELECT_DELETED_CONVERSATIONS, {}),
    ]
    state.start_seq(counter.rows[0][0])
    newest_ms = last_end.rows[0][0] or 0
    for record_text, schema, seq, title, options in unfinished.rows:
        record = decode_record(record_text, schema)
        replaces = decode_question(options, "", "").replaces if options is not None else None
        state.put_unfinished(Unfinished(record, seq, title, replaces))
        newest_ms = max(newest_ms, record.accepted_at_ms)
    for user_id, conversation_id, at_ms in deleted.rows:
        state.delete_conversation(user_id, conversation_id, at_ms)
    # Only the newest minute can still be counted in; the one before it is for calls that arrive late.
    (accepted,) = yield [Query(sql.SELECT_ACCEPTED_SINCE, {"since_ms": newest_ms - 2 * WINDOW_MS})]
    for user_id, at_ms in accepted.rows:
        state.count(user_id, at_ms)
    state.commit()


def accept(state: WriterState, record: Record, question: Question, quota: Quota, now_ms: int) -> Operation[Admission]:
    """Store a new request. The hot path is one round of inserts; the writer's state answers everything else."""
    key, user_id = record.key, record.user_id
    known = state.unfinished.get(key)
    if known is not None:
        return admit_again(known.record, position=state.position(known.record.ordering_key, known.seq))
    is_new_user = False
    own_limit = None
    if user_id in state.limits:
        own_limit = state.limits[user_id]
    else:
        (user,) = yield [Query(sql.SELECT_LIMIT, {"user_id": user_id})]
        is_new_user = not user.rows
        own_limit = None if is_new_user else user.rows[0][0]
    decide = partial(
        admit,
        position=state.position(record.ordering_key),
        pending=state.pending(user_id),
        counted=state.counted(user_id, now_ms),
        own_limit=own_limit,
        quota=quota,
        now_ms=now_ms,
    )
    admission = decide(existing=None)
    if not isinstance(admission, Accepted):
        # Only now is it worth asking for a request that has ended: one that is accepted finds it when it is inserted.
        (found,) = yield [_select(key)]
        return decide(existing=_decode(found.rows[0]) if found.rows else None)

    seq = state.take_seq()
    title = title_of(question.message)
    queries = [
        _insert(record, seq=seq, title=title, options=encode_options(question), at_ms=now_ms),
        *_insert_texts(key, seq, QUESTION, question.message),
    ]
    if question.system:
        queries += _insert_texts(key, seq, SYSTEM, question.system)
    if is_new_user:
        queries.append(Query(sql.INSERT_USER, {"user_id": user_id, "created_at_ms": now_ms}))
    raised = state.reserve(seq)
    if raised is not None:
        queries.append(Query(sql.RAISE_COUNTER, {"name": "seq", "value": raised}))
    if user_id not in state.limits:
        state.know_user(user_id, own_limit)
    state.put_unfinished(Unfinished(record, seq, title, question.replaces))
    state.count(user_id, now_ms)
    results = yield queries
    if results[0].changed == 0:
        state.remove_unfinished(key)
        state.uncount(user_id, now_ms)
        return decide(existing=(yield from _take_back(key, seq)))
    return admission


def _take_back(key: RequestKey, seq: int) -> Operation[Record]:
    """Delete the texts of a request that was not accepted. Returns the ended record that has its id."""
    _, found = yield [Query(sql.DELETE_TEXTS, {**_named(key), "position": seq}), _select(key)]
    return _decode(found.rows[0])


def change(state: WriterState, key: RequestKey, step_of: Change[T]) -> Operation[T]:
    """Change a record. Unfinished records are in the writer's state; only ended and unknown ones are looked up."""
    known = state.unfinished.get(key)
    if known is not None:
        before: Record | None = known.record
    else:
        (found,) = yield [_select(key)]
        before = _decode(found.rows[0]) if found.rows else None
    step = step_of(before)
    after = step.record
    if after is None:
        return step.outcome
    if before is None:
        if not after.state.is_terminal:
            state.put_unfinished(Unfinished(after, None, None, None))
        yield [_insert(after)]
    elif after.ending is None or known is None:
        if known is not None:
            state.put_unfinished(Unfinished(after, known.seq, known.title, known.replaces))
        yield [Query(sql.UPDATE_RECORD, _written(after))]
    else:
        yield from _end(state, known, after, after.ending, step.text or "")
    return step.outcome


def _end(state: WriterState, known: Unfinished, record: Record, ending: Ending, text: str) -> Operation[None]:
    """Write the ending; for a request that was accepted also its answer, its turn and what it used."""
    key, seq = record.key, known.seq
    queries = [Query(sql.END_REQUEST, {**_written(record), "ended_at_ms": ending.ended_at_ms})]
    is_revival = False
    if seq is not None:
        queries += _insert_texts(key, seq, ANSWER, text)
        queries.append(_usage(record, ending))
        deleted_at_ms = state.deleted.get((record.user_id, record.conversation_id))
        # Asked after the deletion: the conversation starts again. Asked before it: the answer is not kept in it.
        is_revival = deleted_at_ms is not None and record.accepted_at_ms > deleted_at_ms
        if is_revival:
            queries += erase(record.user_id, record.conversation_id)
        if is_revival or deleted_at_ms is None:
            queries += _turn(known, record, ending, seq)
    if is_revival:
        state.delete_conversation(record.user_id, record.conversation_id, None)
    state.remove_unfinished(key)
    yield queries


def _turn(known: Unfinished, record: Record, ending: Ending, seq: int) -> list[Query]:
    where = {"user_id": record.user_id, "conversation_id": record.conversation_id}
    turn: Params = {
        **where,
        "position": seq,
        "request_id": record.request_id,
        "status": ending.status.value,
        "accepted_at_ms": record.accepted_at_ms,
        "ended_at_ms": ending.ended_at_ms,
        "model": ending.model,
        "replaces": known.replaces,
        "error_code": None if ending.error_code is None else ending.error_code.value,
        "input_tokens": ending.input_tokens,
        "output_tokens": ending.output_tokens,
    }
    conversation: Params = {
        **where,
        "title": known.title or "",
        "created_at_ms": record.accepted_at_ms,
        "updated_at_ms": ending.ended_at_ms,
    }
    queries = [Query(sql.UPSERT_CONVERSATION, conversation), Query(sql.INSERT_TURN, turn)]
    if known.replaces is not None and record.state is State.COMPLETED:
        replaced: Params = {**where, "request_id": record.request_id, "replaces": known.replaces, "position": seq}
        queries.append(Query(sql.SUPERSEDE, replaced))
    return queries


def _usage(record: Record, ending: Ending) -> Query:
    used: Params = {
        "user_id": record.user_id,
        "day": _day(ending.ended_at_ms // _DAY_MS),
        "input_tokens": ending.input_tokens or 0,
        "output_tokens": ending.output_tokens or 0,
        "accepted_at_ms": record.accepted_at_ms,
    }
    return Query(sql.UPSERT_USAGE, used)


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    return day_of(number * _DAY_MS)


def read(key: RequestKey) -> Operation[Record | None]:
    """Read a record."""
    (found,) = yield [_select(key)]
    return _decode(found.rows[0]) if found.rows else None


def question(key: RequestKey) -> Operation[Question | None]:
    """Read a question, unless it was erased."""
    (found,) = yield [Query(sql.SELECT_QUESTION, _named(key))]
    if not found.rows or found.rows[0][0] is None:
        return None
    texts = {
        role: "".join(text for _, owner, text in found.rows if owner == role and text is not None)
        for role in (QUESTION, SYSTEM)
    }
    return decode_question(found.rows[0][0], texts[QUESTION], texts[SYSTEM])


def answer(key: RequestKey) -> Operation[str]:
    """Read an answer as far as it is stored."""
    (found,) = yield [Query(sql.SELECT_ANSWER, _named(key))]
    return "".join(text for (text,) in found.rows)


def unfinished() -> Operation[Sequence[Record]]:
    """Read all unfinished records."""
    (found,) = yield [Query(sql.SELECT_UNFINISHED, {})]
    return [decode_record(text, schema) for text, schema, *_ in found.rows]


def probe(now_ms: int) -> Operation[None]:
    """Write one row, to see whether the disk takes it."""
    yield [Query(sql.PUT_COUNTER, {"name": "probe", "value": now_ms})]


def purge(before_ms: int, limit: int) -> Operation[int]:
    """Delete up to `limit` of the oldest ended records, and the texts that no turn needs; returns how many records."""
    bounds = {"before_ms": before_ms, "limit": limit}
    _, records = yield [Query(sql.PURGE_TEXTS, bounds), Query(sql.PURGE_REQUESTS, bounds)]
    return records.changed


def purge_refusals(before_ms: int, limit: int) -> Operation[int]:
    """Delete up to `limit` of the oldest records of requests that were never accepted; returns how many."""
    (records,) = yield [Query(sql.PURGE_REFUSALS, {"before_ms": before_ms, "limit": limit})]
    return records.changed


def _named(key: RequestKey) -> dict[str, Value]:
    return {"user_id": key.user_id, "request_id": key.request_id}


def _select(key: RequestKey) -> Query:
    return Query(sql.SELECT_REQUEST, _named(key))


def _decode(row: Row) -> Record:
    return decode_record(row[0], row[1])


def _written(record: Record) -> dict[str, Value]:
    return {
        "user_id": record.user_id,
        "request_id": record.request_id,
        "record": encode_record(record),
        "record_schema": record.schema,
    }


def _insert(
    record: Record,
    *,
    seq: int | None = None,
    title: str | None = None,
    options: str | None = None,
    at_ms: int | None = None,
) -> Query:
    row: Params = {
        **_written(record),
        "seq": seq,
        "conversation_id": record.conversation_id,
        "accepted_at_ms": record.accepted_at_ms if at_ms is None else at_ms,
        "ended_at_ms": None if record.ending is None else record.ending.ended_at_ms,
        "title": title,
        "options": options,
    }
    return Query(sql.INSERT_REQUEST, row)


def _insert_texts(key: RequestKey, seq: int, role: str, text: str) -> list[Query]:
    return [
        Query(sql.INSERT_TEXT, {**_named(key), "position": seq, "role": role, "piece": number, "text": piece})
        for number, piece in pieces(text)
    ]
