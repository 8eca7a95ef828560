"""What DynamoRequests does beyond the contract: several processes, lost answers, retention, what it costs."""

import asyncio
from collections import Counter
from functools import partial

import pytest
from botocore.exceptions import ClientError
from msgspec.structs import replace

from answerback.core.request import (
    Claimed,
    Ended,
    Fenced,
    Pending,
    Question,
    RequestKey,
    Step,
    cancel,
    queued,
    refuse,
    renew,
    retarget,
)
from answerback.core.transitions import State
from answerback.ports import Accepted, Existing, Full, Limited, Quota, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.protocol.limits import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES
from answerback_aws.runtime.dynamodb.requests import Retention

pytestmark = pytest.mark.emulator

KEY = RequestKey("ann", "r1")


# --- several processes --------------------------------------------------------------------------------------


async def test_twenty_processes_accept_one_id_once(world) -> None:
    stores = [world.requests() for _ in range(20)]
    admissions = await asyncio.gather(*(world.accept(s, text=f"q{n}") for n, s in enumerate(stores)))
    assert Counter(map(type, admissions)) == {Accepted: 1, Existing: 19}
    winner = next(n for n, admission in enumerate(admissions) if isinstance(admission, Accepted))
    assert (await world.requests().question(KEY)).message == f"q{winner}"
    assert len(await world.requests().unfinished()) == 1
    assert sum("text" in item for item in world.items(world.tables.conversations)) == 1


async def test_an_attached_repeat_is_not_counted_though_it_raced(world) -> None:
    await asyncio.gather(*(world.accept(world.requests(), per_minute=2) for _ in range(8)))
    assert isinstance(await world.accept(world.requests(), "r2", per_minute=2), Accepted)
    assert await world.accept(world.requests(), "r3", per_minute=2) == Limited(40_000)


async def test_the_rate_is_never_exceeded_by_thirty_processes_at_once(world) -> None:
    admissions = await asyncio.gather(*(world.accept(world.requests(), f"r{n}", per_minute=10) for n in range(30)))
    assert Counter(map(type, admissions)) == {Accepted: 10, Limited: 20}
    assert len(await world.requests().unfinished()) == 10
    assert sum("text" in item for item in world.items(world.tables.conversations)) == 10


async def test_positions_of_a_conversation_are_unique_between_processes(world) -> None:
    await asyncio.gather(*(world.accept(world.requests(), f"r{n}") for n in range(20)))
    positions = [item["position"]["N"] for item in world.items(world.tables.requests)]
    assert len(set(positions)) == 20
    assert all(int(position) < 2**53 for position in positions)
    texts = await asyncio.gather(*(world.requests().question(RequestKey("ann", f"r{n}")) for n in range(20)))
    assert all(text is not None for text in texts)


async def test_one_of_many_processes_claims(world) -> None:
    await world.accept(world.requests())
    outcomes = await asyncio.gather(*(world.requests().change(KEY, world.claim(f"w{n}")) for n in range(8)))
    assert Counter(type(outcome) for outcome in outcomes)[Claimed] == 1
    assert (await world.requests().read(KEY)).attempt == 1


async def test_no_change_is_lost_between_processes(world) -> None:
    await world.accept(world.requests())

    def count(record):
        return Step(replace(record, queue_no=record.queue_no + 1), record.queue_no)

    async def once(store):
        while True:
            try:
                return await store.change(KEY, count)
            except Unavailable:
                """Refused as often as it may be: nothing was written."""

    async def often(store):
        return [await once(store) for _ in range(10)]

    seen = await asyncio.gather(*(often(world.requests()) for _ in range(3)))
    assert sorted(number for numbers in seen for number in numbers) == list(range(30))
    assert (await world.requests().read(KEY)).queue_no == 30


async def test_what_another_process_wrote_is_seen_by_one_that_remembers_the_record(world) -> None:
    front, worker = world.requests(), world.requests()
    await world.accept(front)
    await worker.change(KEY, world.claim())
    assert isinstance(await front.change(KEY, noted(world)), Pending)
    held = await worker.change(KEY, renewed(world))
    assert held.record.cancel_requested


async def test_that_nothing_is_to_be_done_is_never_said_of_an_old_sight(world) -> None:
    """The front remembers the request as running; another process has ended it since."""
    front, worker = world.requests(), world.requests()
    await world.accept(front)
    await front.change(KEY, world.claim())
    await worker.change(KEY, world.finish("Because."))
    outcome = await front.change(KEY, lambda record: Step(None, record.state))
    assert outcome is State.COMPLETED


async def test_an_outage_while_cleaning_up_does_not_hide_what_was_decided(world, faulty) -> None:
    store, other = world.requests(faulty), world.requests()
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(world.accept(other, text="first"), loop).result()

    faulty.plan["put_item"] = [None, meanwhile]
    faulty.plan["delete_item"] = ["cut"]
    assert isinstance(await world.accept(store, text="second"), Existing)
    assert (await store.question(KEY)).message == "first"


async def test_a_fenced_attempt_writes_neither_text_nor_turn(world) -> None:
    old, new = world.requests(), world.requests()
    await world.accept(old)
    await old.change(KEY, world.claim("old"))
    world.now_ms += world.policy.lease_ms
    await new.change(KEY, world.claim("new"))
    assert isinstance(await old.change(KEY, world.finish("old text", owner="old")), Fenced)
    assert [item for item in world.items(world.tables.conversations) if "#answer" in item["item"]["S"]] == []
    await new.change(KEY, world.finish("new text", owner="new", attempt=2))
    assert (await old.answer(KEY)).text == "new text"
    assert [note.turn.answer for note in await world.turns().pending()] == ["new text"]


async def test_a_text_that_lost_the_race_to_end_is_taken_back(world, faulty) -> None:
    """Somebody ends the request after the worker has written its text, before its transaction."""
    worker, other = world.requests(faulty), world.requests()
    await world.accept(worker)
    await worker.change(KEY, world.claim())
    step = world.claim("late")

    def meanwhile() -> None:
        world.now_ms += world.policy.answer_timeout_ms
        asyncio.run_coroutine_threadsafe(other.change(KEY, step), loop).result()

    loop = asyncio.get_running_loop()
    faulty.plan["transact_write_items"] = [meanwhile]
    outcome = await worker.change(KEY, world.finish("never seen"))
    assert isinstance(outcome, Fenced)
    assert (await worker.answer(KEY)).text == ""
    assert [item for item in world.items(world.tables.conversations) if "#answer" in item["item"]["S"]] == []
    (note,) = await world.turns().pending()
    assert (note.turn.status, note.turn.error_code, note.turn.answer) == ("failed", ErrorCode.TIMEOUT, "")


async def test_a_user_that_is_erased_in_mid_answer_leaves_nothing(world) -> None:
    from answerback_aws.runtime.aurora.users import erase_user

    store = world.requests()
    await world.accept(store)
    await store.change(KEY, world.claim())
    assert await erase_user(world.database(), world.requests(), "ann")
    assert await store.change(KEY, world.finish("too late")) == Fenced(None)
    assert all(world.items(table) == [] for table in (world.tables.requests, world.tables.conversations))


# --- calls that fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [0, 5])
@pytest.mark.parametrize("fate", ["lost", "cut"])
@pytest.mark.parametrize("operation", ["put_item", "transact_write_items"])
async def test_an_accept_whose_call_fails_can_be_repeated(world, faulty, operation, fate, per_minute) -> None:
    store = world.requests(faulty)
    faulty.plan[operation] = [fate]
    try:
        await world.accept(store, per_minute=per_minute)
    except Unavailable:
        assert store.last_write_failed
    again = await world.accept(store, per_minute=per_minute)
    assert isinstance(again, Accepted | Existing)
    assert not store.last_write_failed or isinstance(again, Existing)
    assert (await store.question(KEY)).message == "Why?"
    for request_id in ("r2", "r3", "r4", "r5"):
        assert isinstance(await world.accept(store, request_id, per_minute=per_minute), Accepted)
    if per_minute:
        assert isinstance(await world.accept(store, "r6", per_minute=per_minute), Limited)


@pytest.mark.parametrize("fate", ["lost", "cut"])
async def test_a_claim_whose_answer_is_lost_succeeds_for_its_owner(world, faulty, fate) -> None:
    store = world.requests(faulty)
    await world.accept(store)
    faulty.plan["update_item"] = [fate]
    with pytest.raises(Unavailable):
        await store.change(KEY, world.claim("me"))
    claimed = await store.change(KEY, world.claim("me"))
    assert isinstance(claimed, Claimed)
    assert claimed.record.attempt == 1


@pytest.mark.parametrize("fate", ["lost", "cut"])
@pytest.mark.parametrize("operation", ["put_item", "transact_write_items"])
async def test_an_ending_whose_answer_is_lost_is_written_once(world, faulty, operation, fate) -> None:
    store = world.requests(faulty)
    await world.accept(store)
    await store.change(KEY, world.claim())
    faulty.plan[operation] = [fate]
    with pytest.raises(Unavailable):
        await store.change(KEY, world.finish("Because."))
    ended = await store.change(KEY, world.finish("Because."))
    assert isinstance(ended, Ended)
    assert (await world.requests().answer(KEY)).text == "Because."
    assert [note.turn.answer for note in await world.turns().pending()] == ["Because."]


async def test_a_write_that_the_client_repeats_without_a_reply_is_recognized_as_ones_own(world, faulty) -> None:
    """botocore's own retry of a write that took effect meets a failed condition: by its version it is known again."""
    store = world.requests(faulty)
    await world.accept(store)
    update, calls = world.client.update_item, []

    def twice(**arguments):
        calls.append(arguments)
        update(**arguments)
        return update(**arguments)

    faulty.update_item = twice

    def count(record):
        return Step(replace(record, queue_no=record.queue_no + 1), record.queue_no)

    assert await store.change(KEY, count) == 0
    assert len(calls) == 1
    assert (await world.requests().read(KEY)).queue_no == 1


@pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError"])
async def test_a_conflict_with_another_transaction_is_tried_again(world, faulty, code) -> None:
    store = world.requests(faulty)
    faulty.plan["transact_write_items"] = [cancelled("None", code), cancelled(code, "ConditionalCheckFailed")]
    assert isinstance(await world.accept(store, per_minute=5), Accepted)


async def test_conflicts_without_end_are_an_outage(world, faulty) -> None:
    store = world.requests(faulty)
    faulty.plan["transact_write_items"] = [cancelled("None", "TransactionConflict")] * 50
    with pytest.raises(Unavailable):
        await world.accept(store, per_minute=5)
    assert store.last_write_failed
    assert await store.read(KEY) is None


async def test_a_plain_write_under_a_transaction_is_tried_again(world, faulty) -> None:
    store = world.requests(faulty)
    await world.accept(store)
    faulty.plan["update_item"] = [ClientError({"Error": {"Code": "TransactionConflictException"}}, "UpdateItem")]
    await store.change(KEY, partial(queued, queue_no=1))
    assert (await store.read(KEY)).queue_no == 1


async def test_what_is_no_outage_is_not_called_one(world, faulty) -> None:
    store = world.requests(faulty)
    faulty.plan["get_item"] = [ClientError({"Error": {"Code": "AccessDeniedException"}}, "GetItem")]
    with pytest.raises(ClientError):
        await store.read(KEY)


async def test_a_probe_says_whether_writes_are_taken(world, faulty) -> None:
    store = world.requests(faulty)
    await store.probe(now_ms=world.now_ms)
    assert not store.last_write_failed
    faulty.plan["put_item"] = ["cut"]
    with pytest.raises(Unavailable):
        await store.probe(now_ms=world.now_ms)
    assert store.last_write_failed


# --- time to live -------------------------------------------------------------------------------------------


async def test_a_record_past_its_retention_is_absent_before_it_is_deleted(world) -> None:
    store = world.requests(retention=Retention(requests_ms=60_000))
    await world.turn(store, "r1", "Because.")
    assert (await store.answer(KEY)).text == "Because."
    world.now_ms += 60_000
    for process in (store, world.requests()):
        assert await process.read(KEY) is None
        assert await process.question(KEY) is None
        assert (await process.answer(KEY)).text == ""
    assert len(world.items(world.tables.requests)) == 1
    assert await world.accept(store, text="Again?") == Accepted(0)
    assert (await store.question(KEY)).message == "Again?"
    assert (await store.answer(KEY)).text == ""


async def test_texts_stay_as_long_as_the_record_that_names_them(world) -> None:
    store = world.requests(retention=Retention(requests_ms=365 * 86_400_000))
    await world.turn(store, "r1")
    texts = [item for item in world.items(world.tables.conversations) if "text" in item]
    record = world.items(world.tables.requests)[0]
    assert len(texts) == 2
    assert all(int(text["expiresAt"]["N"]) >= int(record["expiresAt"]["N"]) - 1 for text in texts)


async def test_a_refusal_is_kept_for_its_own_time(world) -> None:
    store = world.requests(retention=Retention(refusals_ms=60_000))
    refusal = partial(refuse, refusal_record=world.record(), now_ms=world.now_ms, code=ErrorCode.RATE_LIMITED)
    assert isinstance(await store.change(KEY, refusal), Ended)
    world.now_ms += 59_000
    assert isinstance(await world.accept(store), Existing)
    world.now_ms += 1_000
    assert await world.accept(store) == Accepted(0)


async def test_only_what_has_ended_has_a_time_to_live(world) -> None:
    store = world.requests()
    await world.accept(store, "waiting")
    await world.turn(store, "r1")
    ends = {item["requestId"]["S"]: item.get("expiresAt") for item in world.items(world.tables.requests)}
    assert ends == {"waiting": None, "r1": {"N": str(world.now_ms // 1000 + 7 * 86_400)}}
    turn = next(item for item in world.items(world.tables.conversations) if item["item"]["S"].endswith("#turn"))
    assert "expiresAt" not in turn  # not before Aurora has it
    assert await store.purge(ended_before_ms=world.now_ms + 1, refused_before_ms=world.now_ms + 1) == 0
    assert await store.read(KEY) is not None


# --- texts --------------------------------------------------------------------------------------------------


async def test_the_longest_texts_fit_an_item(world) -> None:
    """400 KB is the limit. Four-byte characters: an answer's bytes are counted as encoded, so no text is larger."""
    store = world.requests()
    longest = "\U0001f642" * (MAX_ANSWER_BYTES // 4)
    message = "\U0001f642" * (MAX_MESSAGE_BYTES // 4)
    question = Question(message=message, model="echo", system=message)
    await store.accept(world.record(), question, Quota(per_minute=0, max_pending=9), now_ms=world.now_ms)
    await store.change(KEY, world.claim())
    await store.change(KEY, world.finish(longest))
    assert await world.requests().question(KEY) == question
    assert (await world.requests().answer(KEY)).text == longest
    (turn,) = await world.turns().recent_turns("ann", "c1", limit=1)
    assert (turn.question, turn.answer) == (message, longest)


# --- what it costs ------------------------------------------------------------------------------------------


async def test_what_one_answer_costs(world, units) -> None:
    """Write units of one answer with texts of up to 1 KB, besides its renewals and deliveries at 1 each."""
    front, worker = world.requests(), world.requests()

    async def cost(work) -> tuple[float, float]:
        units.clear()
        await work
        return units.written, units.read

    # Question 1, record 2, its index 1, minute 2. Reads: the record, the waiting ones, the minute.
    assert await cost(world.accept(front, per_minute=10, max_pending=20)) == (6, 2)
    assert await cost(world.accept(front, per_minute=10, max_pending=20)) == (0, 2)
    assert await cost(worker.change(KEY, world.claim())) == (1, 1)
    assert await cost(worker.question(KEY)) == (0, 0.5)
    assert await cost(worker.change(KEY, renewed(world))) == (1, 0)
    world.now_ms += 10_000
    where = {"session_id": "s1", "connection_id": "k", "generation": 3, "attempt": 1, "offset": 9}
    assert await cost(front.change(KEY, partial(retarget, **where))) == (1, 1)
    # Seen too long ago to be worth a try: it is read first.
    assert await cost(worker.change(KEY, renewed(world))) == (1, 1)
    # Answer 1, record 2, its index 1, turn 2, its index 1.
    assert await cost(worker.change(KEY, world.finish())) == (7, 0)
    entries = await world.turns().pending()
    # The index and two texts.
    assert await cost(world.turns().pending()) == (0, 2.5)
    assert await cost(world.turns().settled(entries)) == (2, 0)


async def test_a_user_over_a_limit_costs_no_write(world, units) -> None:
    store = world.requests()
    await world.accept(store, "r1", per_minute=1)
    units.clear()
    assert isinstance(await world.accept(store, "r2", per_minute=1), Limited)
    assert isinstance(await world.accept(store, "r3", max_pending=1), Full)
    assert (units.written, units.read) == (0, 4)


def renewed(world):
    return lambda record: renew(record, owner="w1", attempt=1, now_ms=world.now_ms, policy=world.policy)


def noted(world):
    return partial(cancel, refusal_record=world.record(), now_ms=world.now_ms)


def cancelled(*codes: str) -> ClientError:
    reasons = [{"Code": code} for code in codes]
    return ClientError(
        {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}, "TransactWriteItems"
    )
