"""Batched statements leave behind what the same operations one by one do."""

import asyncio
from functools import partial

import pytest

from answerback.core.request import Ending, Policy, Question, RequestKey, cancel, claim, finish
from answerback.ports import Accepted, Existing, Limited, Quota
from answerback.protocol.frames import Status
from answerback.stores import request_operations as requests
from answerback.stores import statement_batching
from answerback.stores import statements as sql
from answerback.stores.migrations import shipped
from answerback.stores.query import Query
from answerback.stores.sqlite import SqliteStore, apply_migrations, connect, run
from answerback.stores.statement_batching import NotBatchable, OperationChain, run_batched
from answerback.stores.writer_state import WriterState

TABLES = ("requests", "texts", "turns", "conversations", "usage", "users", "counters")
USERS = ("ann", "bob", "cem")
NOW_MS = 1_750_000_020_000


class Database:
    """A database with its state, as the writer has them."""

    def __init__(self, path) -> None:
        self.connection = connect(path, busy_timeout_s=1)
        apply_migrations(self.connection, shipped(), now_ms=1)
        self.state = WriterState()
        run(self.connection, requests.load(self.state))

    def one_by_one(self, operations):
        return [run(self.connection, operation(self.state)) for _, operation in operations]

    def batched(self, operations):
        chains = {key: OperationChain(number) for number, (key, _) in enumerate(operations)}
        for key, operation in operations:
            chains[key].add(partial(operation, self.state))
        run_batched(self.connection.execute, chains.values())
        return [chains[key].outcomes.popleft() for key, _ in operations]

    def content(self):
        return {table: sorted(self.connection.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


@pytest.fixture
def database(tmp_path):
    opened = []

    def make(name: str) -> Database:
        opened.append(Database(tmp_path / name))
        return opened[-1]

    yield make
    for each in opened:
        each.connection.close()


def accept(asker, number: int, text: str = "What is it?"):
    record = asker.record(f"r{number}", USERS[number % len(USERS)])
    question = Question(message=text, model="echo", system="Be brief." if number % 2 else None)
    return record.key, lambda state: requests.accept(state, record, question, asker.quota, NOW_MS)


def change(asker, number: int, step):
    key = asker.record(f"r{number}", USERS[number % len(USERS)]).key
    return key, lambda state: requests.change(state, key, step)


def claimed():
    return partial(claim, owner="o", now_ms=NOW_MS, policy=Policy())


def finished(number: int, text: str):
    ending = Ending(
        status=Status.COMPLETED,
        attempt=1,
        length=len(text),
        ended_at_ms=NOW_MS + number,
        input_tokens=2,
        output_tokens=3,
    )
    return partial(finish, owner="o", attempt=1, ending=ending, text=text)


def batches(asker):
    """Batches in which every batched statement has several rows, and requests have several operations."""
    yield [accept(asker, n, "?" * (1 + n * 500)) for n in range(70)]
    yield [*(change(asker, n, claimed()) for n in range(50)), *(accept(asker, n) for n in range(70, 80))]
    yield [
        *(change(asker, n, finished(n, f"answer {n} " * (1 + n * 60))) for n in range(40)),
        *(change(asker, n, claimed()) for n in range(50, 60)),
        accept(asker, 90),
        change(asker, 90, claimed()),
        change(asker, 90, finished(90, "at once")),
        change(asker, 95, partial(cancel, refusal_record=asker.record("r95", USERS[95 % 3]), now_ms=NOW_MS)),
        *(change(asker, n, finished(n, "")) for n in range(40, 45)),
    ]


def test_the_same_outcomes_and_the_same_rows(asker, database):
    plain, batched = database("plain.db"), database("batched.db")
    for batch in batches(asker):
        assert repr(batched.batched(batch)) == repr(plain.one_by_one(batch))
        assert batched.content() == plain.content()
    assert batched.state.unfinished == plain.state.unfinished
    assert len(plain.content()["turns"]) == 46


def test_every_batched_statement_was_in_those_batches(asker, database):
    seen: dict[str, int] = {}

    def noting(state, operation):
        results = None
        inner = operation(state)
        while True:
            try:
                queries = inner.send(results)
            except StopIteration as stop:
                return stop.value
            for query in queries:
                seen[query.sql] = seen.get(query.sql, 0) + 1
            results = yield queries

    it = database("a.db")
    for batch in batches(asker):
        it.one_by_one([(key, partial(noting, operation=operation)) for key, operation in batch])
    assert set(seen) >= statement_batching.BATCHED
    assert all(seen[text] > 2 for text in statement_batching.BATCHED)


def test_a_row_that_was_there_is_not_batched(asker, database):
    it = database("a.db")
    it.one_by_one([accept(asker, 1), change(asker, 1, claimed()), change(asker, 1, finished(1, "done"))])
    with pytest.raises(NotBatchable):
        it.batched([accept(asker, 0), accept(asker, 1)])


def test_a_statement_whose_order_matters_is_not_batched(database):
    def superseding(state):
        yield [Query(sql.SUPERSEDE, {})]

    with pytest.raises(NotBatchable):
        database("a.db").batched([(RequestKey("ann", "r1"), superseding)])


async def test_a_repeat_among_new_requests_is_found_and_the_rate_stays_exact(tmp_path, asker):
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    quota = Quota(per_minute=4, max_pending=100)

    def ask(number: int):
        record = asker.record(f"r{number}")
        return store.accept(record, Question(message="Why?", model="echo"), quota, now_ms=NOW_MS)

    try:
        await ask(0)
        key = RequestKey("ann", "r0")
        await store.change(key, claimed())
        await store.change(key, finished(0, "Because."))
        # The first occupies the writer, so that the others are one batch.
        outcomes = await asyncio.gather(ask(1), ask(0), ask(2), ask(3), ask(4), ask(0))
        assert [type(outcome) for outcome in outcomes] == [Accepted, Existing, Accepted, Accepted, Limited, Existing]
        assert [outcome.position for outcome in outcomes if isinstance(outcome, Accepted)] == [0, 1, 2]
        assert await store.answer(key) == "Because."
        assert len(await store.unfinished()) == 3
    finally:
        await store.close()
