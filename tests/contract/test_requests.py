"""ports.Requests, held by every store."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from answerback.core.parts import Content, Mark
from answerback.core.request import (
    Busy,
    Claimed,
    Conflict,
    Ended,
    Fenced,
    Held,
    Pending,
    Question,
    RequestKey,
    Step,
    Unknown,
    cancel,
    expire,
    queued,
    refuse,
    renew,
    retarget,
)
from answerback.core.transitions import State
from answerback.ports import Accepted, Existing, Full, Limited, Quota
from answerback.protocol.errors import ErrorCode
from answerback.stores import StoreError, encoding

KEY = RequestKey("ann", "r1")

TEXTS = {
    "ascii": "What is a WebSocket?",
    "korean": "웹소켓이 무엇인가요? " * 100,
    "emoji": "👩‍👩‍👧‍👦 family, 🇰🇷 flag, e\u0301 combining, \U0010ffff last",
    "quotes": "it's \"quoted\" -- ; DROP TABLE requests; /* */ \\ \\' ''",
    "placeholders": ":name %(name)s %s %% {} $1 ? ::bigint :user_id",
    "white space": "\n\n  lines\r\nand\ttabs\u2028\u0085 \n",
    "controls": "".join(map(chr, range(1, 32))),
    "one piece exactly": "x" * 16_000,
    "one piece and one": "y" * 16_001,
    "256 KB": "가나다라마바사아🙂b" * 8_800,
    "json": '{"message": null, "schema": 99}',
}


@pytest.mark.encoded
async def test_an_old_program_refuses_a_record_with_new_fields_and_leaves_it_as_it_is(
    backend, store, actor, monkeypatch
):
    await actor.accept("r0", conversation="c0")
    await actor.accept("r1", parts=("citation",))
    with monkeypatch.context() as old_program:
        old_program.setattr(encoding, "SCHEMA", 1)
        with pytest.raises(StoreError, match="Upgrade the program"):
            await (await backend.reopen()).change(KEY, partial(queued, queue_no=1))
    new_program = await backend.reopen()
    assert await new_program.read(KEY) == actor.record("r1", parts=("citation",))
    await new_program.change(KEY, partial(queued, queue_no=1))
    assert await new_program.read(KEY) == actor.record("r1", parts=("citation",), queue_no=1)


# --- accept -------------------------------------------------------------------------------------------------


async def test_an_accepted_request_can_be_read_with_its_question(store, actor):
    assert await actor.accept("r1", "Why?", system="Be brief.", replaces="r0") == Accepted(0)
    assert await store.read(KEY) == actor.record("r1")
    assert await store.question(KEY) == Question(
        message="Why?", model="echo", system="Be brief.", max_tokens=7, replaces="r0"
    )
    assert (await store.answer(KEY)).text == ""


async def test_what_was_never_asked_is_not_there(store):
    assert await store.read(KEY) is None
    assert await store.question(KEY) is None
    assert (await store.answer(KEY)).text == ""
    assert list(await store.unfinished()) == []


async def test_a_repeated_id_is_existing_with_the_first_record(store, actor):
    await actor.accept("r0", "first of the key")
    await actor.accept("r1", "Why?")
    again = await actor.accept("r1", "something else")
    assert again == Existing(actor.record("r1"), 1)
    assert (await store.question(KEY)).message == "Why?"


async def test_a_repeated_id_of_an_ended_request_has_position_0(store, actor):
    await actor.accept("r0")
    await actor.accept("r1", "Why?")
    await actor.claim("r1")
    await actor.finish("r1", "Because.")
    again = await actor.accept("r1", "something else")
    assert isinstance(again, Existing)
    assert again.position == 0
    assert again.record.state is State.COMPLETED
    assert (await store.question(KEY)).message == "Why?"
    assert (await store.answer(KEY)).text == "Because."


@pytest.mark.crowd
async def test_a_hundred_at_once_with_one_id_are_one_request(store, actor):
    admissions = await asyncio.gather(*(actor.accept("r1", f"question {n}") for n in range(100)))
    assert Counter(type(a) for a in admissions) == {Accepted: 1, Existing: 99}
    winner = next(n for n, a in enumerate(admissions) if isinstance(a, Accepted))
    assert (await store.question(KEY)).message == f"question {winner}"
    assert len(await store.unfinished()) == 1


async def test_position_counts_the_unfinished_of_the_ordering_key(store, actor):
    assert await actor.accept("a1") == Accepted(0)
    assert await actor.accept("b1", conversation="other") == Accepted(0)
    assert await actor.accept("a2") == Accepted(1)
    assert await actor.accept("a3") == Accepted(2)
    await actor.claim("a1")
    await actor.finish("a1")
    assert await actor.accept("a4") == Accepted(2)
    again = await actor.accept("a3")
    assert isinstance(again, Existing)
    assert again.position == 1


@pytest.mark.crowd
async def test_unfinished_is_in_the_order_accepted(store, actor, backend):
    accepted: list[str] = []

    async def ask(n: int) -> None:
        await actor.accept(f"r{n:03}", user=f"user{n % 7}", conversation=f"c{n % 3}")
        accepted.append(f"r{n:03}")

    for n in range(20):
        await ask(n)
    await asyncio.gather(*(ask(n) for n in range(20, 120)))
    ids = [r.request_id for r in await store.unfinished()]
    assert sorted(ids) == sorted(accepted)
    assert ids[:20] == accepted[:20]
    again = await backend.reopen()
    assert [r.request_id for r in await again.unfinished()] == ids


@pytest.mark.crowd
async def test_those_of_one_key_are_unfinished_in_the_order_of_the_calls(store, actor):
    await asyncio.gather(*(actor.accept(f"r{n:03}") for n in range(50)))
    assert [r.request_id for r in await store.unfinished()] == [f"r{n:03}" for n in range(50)]


async def test_users_with_equal_ids_are_apart(store, actor):
    for user in ("ann", "bob"):
        assert await actor.accept("r1", f"asked by {user}", user=user) == Accepted(0)
    await actor.claim("r1", user="ann")
    await actor.finish("r1", "for ann", user="ann")
    assert (await store.read(RequestKey("bob", "r1"))).state is State.ACCEPTED
    assert (await store.answer(RequestKey("bob", "r1"))).text == ""
    assert (await store.question(RequestKey("bob", "r1"))).message == "asked by bob"


# --- limits -------------------------------------------------------------------------------------------------


async def test_the_rate_limit_is_exact_under_concurrency(actor):
    admissions = await asyncio.gather(*(actor.accept(f"r{n}", per_minute=10) for n in range(50)))
    assert Counter(type(a) for a in admissions) == {Accepted: 10, Limited: 40}
    assert {a.retry_after_ms for a in admissions if isinstance(a, Limited)} == {40_000}


async def test_the_rate_limit_is_of_a_user_and_a_minute(actor):
    assert isinstance(await actor.accept("r1", per_minute=1), Accepted)
    assert await actor.accept("r2", per_minute=1) == Limited(40_000)
    assert isinstance(await actor.accept("r2", user="bob", per_minute=1), Accepted)
    actor.now_ms += 40_000
    assert isinstance(await actor.accept("r2", per_minute=1), Accepted)
    assert isinstance(await actor.accept("r3", per_minute=1), Limited)


async def test_calls_around_the_change_of_a_minute_are_counted_in_their_own(actor):
    actor.now_ms += 40_000
    assert isinstance(await actor.accept("new", per_minute=1), Accepted)
    actor.now_ms -= 1
    assert isinstance(await actor.accept("old", per_minute=1), Accepted)
    assert await actor.accept("old2", per_minute=1) == Limited(1)
    actor.now_ms += 1
    assert isinstance(await actor.accept("new2", per_minute=1), Limited)
    for minutes, name, admission in (
        (2, "later", Accepted),
        (-1, "between", Accepted),
        (2, "newest", Accepted),
        (-1, "beside later", Limited),
    ):
        actor.now_ms += minutes * 60_000
        assert isinstance(await actor.accept(name, per_minute=1), admission), name


async def test_a_repeat_is_free_and_a_refusal_is_not_counted(actor):
    for _ in range(5):
        await actor.accept("r1", per_minute=2)
    assert isinstance(await actor.accept("r2", per_minute=2), Accepted)
    assert isinstance(await actor.accept("r3", per_minute=2), Limited)
    assert isinstance(await actor.accept("r1", per_minute=2), Existing)
    actor.now_ms += 40_000
    assert isinstance(await actor.accept("r4", per_minute=2), Accepted)


async def test_the_count_of_the_minute_survives_a_restart(actor, backend):
    for n in range(3):
        await actor.accept(f"r{n}", per_minute=5)
    await actor.claim("r0")
    await actor.finish("r0")
    actor.store = await backend.reopen()
    admissions = [await actor.accept(f"s{n}", per_minute=5) for n in range(3)]
    assert [type(a) for a in admissions] == [Accepted, Accepted, Limited]


async def test_a_users_own_limit_wins(actor, backend):
    await actor.store.set_limit("ann", 2, now_ms=actor.now_ms)
    await actor.store.set_limit("bob", 0, now_ms=actor.now_ms)
    for is_second in (False, True):
        if is_second:
            actor.store = await backend.reopen()
        actor.now_ms += 60_000
        ann = [type(await actor.accept(f"r{actor.now_ms}-{n}", per_minute=1)) for n in range(3)]
        assert ann == [Accepted, Accepted, Limited]
        bob = [type(await actor.accept(f"r{actor.now_ms}-{n}", user="bob", per_minute=1)) for n in range(3)]
        assert bob == [Accepted] * 3
    await actor.store.set_limit("ann", None, now_ms=actor.now_ms)
    actor.now_ms += 60_000
    assert [type(await actor.accept(f"t{n}", per_minute=1)) for n in range(2)] == [Accepted, Limited]


async def test_the_pending_cap_is_exact_and_room_comes_back(actor, backend):
    admissions = await asyncio.gather(*(actor.accept(f"r{n}", max_pending=5) for n in range(20)))
    assert Counter(type(a) for a in admissions) == {Accepted: 5, Full: 15}
    assert isinstance(await actor.accept("r0", user="bob", max_pending=5), Accepted)
    actor.store = await backend.reopen()
    assert isinstance(await actor.accept("late", max_pending=5), Full)
    taken = next(f"r{n}" for n, a in enumerate(admissions) if isinstance(a, Accepted))
    assert isinstance(await actor.accept(taken, max_pending=5), Existing)
    await actor.claim(taken)
    await actor.finish(taken)
    assert isinstance(await actor.accept("late", max_pending=5), Accepted)


async def test_the_cap_comes_before_the_rate(actor):
    await actor.accept("r1", per_minute=1, max_pending=1)
    assert await actor.accept("r2", per_minute=1, max_pending=1) == Full()


# --- the steps of core.request ------------------------------------------------------------------------------


async def test_one_of_many_claims_wins(store, actor):
    await actor.accept("r1")
    outcomes = await asyncio.gather(*(actor.claim("r1", owner=f"w{n}") for n in range(30)))
    assert Counter(type(o) for o in outcomes) == {Claimed: 1, Busy: 29}
    assert (await store.read(KEY)).attempt == 1


async def test_a_lost_lease_is_claimed_again_and_the_old_attempt_is_fenced(store, actor):
    await actor.accept("r1")
    await actor.claim("r1", owner="old")
    actor.now_ms += actor.POLICY.lease_ms
    assert (await actor.claim("r1", owner="new")).record.attempt == 2
    old, new = (Mark(0, "tool", "old"),), (Mark(0, "reasoning"), Mark(4, "text"))
    assert isinstance(await actor.finish("r1", "old text", marks=old, owner="old", attempt=1), Fenced)
    assert await store.answer(KEY) == Content("")
    assert isinstance(await actor.finish("r1", "new text", marks=new, owner="new", attempt=2), Ended)
    assert await store.answer(KEY) == Content("new text", new)


async def test_finishing_many_times_at_once_is_one_ending(store, actor):
    await actor.accept("r1")
    await actor.claim("r1")
    outcomes = await asyncio.gather(*(actor.finish("r1", f"text {n}") for n in range(10)))
    assert [type(outcome) for outcome in outcomes] == [Ended] * 10
    assert sum(outcome.is_new for outcome in outcomes) == 1
    assert len({outcome.record.ending for outcome in outcomes}) == 1


async def test_finishing_twice_is_success_and_changes_nothing(store, actor):
    await actor.accept("r1")
    await actor.claim("r1")
    first = await actor.finish("r1", "An answer.", tokens=(1, 2))
    second = await actor.finish("r1", "Another.", tokens=(1, 2))
    assert isinstance(second, Ended)
    assert second.record == first.record
    assert (await store.answer(KEY)).text == "An answer."
    assert [t.answer for t in await store.turns("ann", "c1", before=None, limit=9)] == ["An answer."]
    assert [(u.requests, u.output_tokens) for u in await store.usage("ann")] == [(1, 2)]


async def test_renew_brings_the_target_and_the_cancellation(store, actor):
    await actor.accept("r1")
    await actor.claim("r1")
    where = {"session_id": "s1", "connection_id": "k", "generation": 3, "attempt": 1, "offset": 9}
    assert isinstance(await store.change(KEY, partial(retarget, **where)), Pending)
    refusal_record = actor.record("r1")
    assert isinstance(
        await store.change(KEY, partial(cancel, refusal_record=refusal_record, now_ms=actor.now_ms)), Pending
    )
    actor.now_ms += 1
    held = await store.change(KEY, partial(renew, owner="w1", attempt=1, now_ms=actor.now_ms, policy=actor.POLICY))
    assert isinstance(held, Held)
    assert held.record.cancel_requested
    assert (held.record.target.connection_id, held.record.target.offset) == ("k", 9)
    assert held.record == await store.read(KEY)


async def test_a_target_of_another_session_changes_nothing(store, actor):
    await actor.accept("r1")
    where = {"session_id": "not mine", "connection_id": "k", "generation": 3, "attempt": 1, "offset": 9}
    assert await store.change(KEY, partial(retarget, **where)) == Conflict()
    assert await store.read(KEY) == actor.record("r1")


async def test_the_queue_number_is_noted(store, actor):
    await actor.accept("r1")
    await store.change(KEY, partial(queued, queue_no=1))
    assert (await store.read(KEY)).queue_no == 1


async def test_a_refusal_is_kept_without_question_or_turn(store, actor):
    refusal = partial(refuse, refusal_record=actor.record("r1"), now_ms=actor.now_ms, code=ErrorCode.RATE_LIMITED)
    ended = await store.change(KEY, partial(refusal, retry_after_ms=40_000))
    assert ended.record.ending.error_code is ErrorCode.RATE_LIMITED
    assert await store.read(KEY) == ended.record
    assert await store.question(KEY) is None
    assert (await store.answer(KEY)).text == ""
    assert list(await store.unfinished()) == []
    assert list(await store.turns("ann", "c1", before=None, limit=9)) == []
    assert list(await store.conversations("ann", before=None, limit=9)) == []
    assert list(await store.usage("ann")) == []
    assert await actor.accept("r1") == Existing(ended.record, 0)


async def test_a_cancel_that_comes_first_keeps_the_question_from_running(store, actor):
    refusal_record = actor.record("r1")
    ended = await store.change(KEY, partial(cancel, refusal_record=refusal_record, now_ms=actor.now_ms))
    assert isinstance(ended, Ended)
    assert await actor.accept("r1") == Existing(ended.record, 0)
    assert await store.question(KEY) is None
    assert list(await store.turns("ann", "c1", before=None, limit=9)) == []


async def test_a_cancelled_question_that_waited_has_its_turn(store, actor):
    await actor.accept("r1", "Why?")
    await store.change(KEY, partial(cancel, refusal_record=actor.record("r1"), now_ms=actor.now_ms))
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert (turn.question, turn.answer, turn.status) == ("Why?", "", "cancelled")
    assert list(await store.unfinished()) == []


async def test_an_expired_request_has_its_turn(store, actor):
    await actor.accept("r1")
    await store.change(KEY, partial(expire, now_ms=actor.now_ms, code=ErrorCode.TIMEOUT))
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert (turn.status, turn.error_code) == ("failed", ErrorCode.TIMEOUT)


async def test_steps_on_what_is_not_known_write_nothing(store, actor):
    assert await actor.claim("r1") == Unknown()
    assert await store.read(KEY) is None


async def test_a_step_that_fails_changes_nothing_and_harms_nobody(store, actor):
    await actor.accept("r1")

    def broken(record):
        raise RuntimeError("a mistake in a step")

    outcomes = await asyncio.gather(
        *(actor.accept(f"a{n}") for n in range(10)),
        store.change(KEY, broken),
        *(actor.accept(f"b{n}") for n in range(10)),
        return_exceptions=True,
    )
    assert [str(o) for o in outcomes if isinstance(o, BaseException)] == ["a mistake in a step"]
    assert [o.position for o in outcomes if isinstance(o, Accepted)] == list(range(1, 21))
    assert await store.read(KEY) == actor.record("r1")
    assert len(await store.unfinished()) == 21


async def test_changes_of_one_record_happen_one_at_a_time(store, actor):
    await actor.accept("r1")

    def count(record):
        from msgspec.structs import replace

        return Step(replace(record, queue_no=record.queue_no + 1), record.queue_no)

    seen = await asyncio.gather(*(store.change(KEY, count) for _ in range(50)))
    assert sorted(seen) == list(range(50))
    assert (await store.read(KEY)).queue_no == 50


async def test_a_cancelled_caller_stops_nobody(store, actor):
    cancelled = asyncio.ensure_future(actor.accept("r1"))
    staying = asyncio.ensure_future(actor.accept("r2"))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert isinstance(await staying, Accepted)
    assert isinstance(await actor.accept("r3"), Accepted)


# --- texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
async def test_texts_are_kept_exactly(store, actor, backend, name):
    text = TEXTS[name]
    await actor.accept("r1", "Q" + text, system=text)
    await actor.claim("r1")
    await actor.finish("r1", text)
    again = await backend.reopen()
    question = await again.question(KEY)
    assert question.message == "Q" + text
    assert question.system == text
    assert (await again.answer(KEY)).text == text
    (turn,) = await again.turns("ann", "c1", before=None, limit=9)
    assert (turn.question, turn.answer) == ("Q" + text, text)


async def test_an_empty_system_text_is_not_none(actor, backend):
    await actor.accept("r1", system="")
    await actor.accept("r2", system=None)
    again = await backend.reopen()
    assert (await again.question(KEY)).system == ""
    assert (await again.question(RequestKey("ann", "r2"))).system is None


@pytest.mark.parametrize("name", ["it's", "a%b", ":name", '"', "%(user_id)s", "가나", "-- x"])
async def test_ids_are_only_names(store, actor, name):
    await actor.turn(name, user=name, conversation=name)
    assert (await store.read(RequestKey(name, name))).state is State.COMPLETED
    (conversation,) = await store.conversations(name, before=None, limit=9)
    assert conversation.conversation_id == name
    assert [t.request_id for t in await store.turns(name, name, before=None, limit=9)] == [name]
    assert await store.delete_user(name)
    assert await store.read(RequestKey(name, name)) is None


# --- after a restart, after the retention -------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(actor, backend):
    await actor.turn("r1", "Why?", "Because.")
    await actor.accept("r2", "And?", system="Short.")
    await actor.claim("r2")
    await actor.accept("r3")
    before = [await actor.store.read(RequestKey("ann", f"r{n}")) for n in (1, 2, 3)]
    actor.store = again = await backend.reopen()
    assert [await again.read(RequestKey("ann", f"r{n}")) for n in (1, 2, 3)] == before
    assert (await again.question(RequestKey("ann", "r2"))).system == "Short."
    assert await actor.accept("r4") == Accepted(2)
    assert isinstance(await actor.finish("r2", "So."), Ended)
    assert [t.request_id for t in await again.turns("ann", "c1", before=None, limit=9)] == ["r2", "r1"]
    positions = {t.position for t in await again.turns("ann", "c1", before=None, limit=9)}
    assert len(positions) == 2


@pytest.mark.purging
async def test_purge_deletes_old_records_and_keeps_their_turns(store, actor):
    await actor.turn("old", "Why?", "Because.")
    await actor.accept("waiting")
    actor.now_ms += 1000
    await actor.turn("new")
    assert await store.purge(ended_before_ms=actor.now_ms, refused_before_ms=0) == 1
    assert await store.purge(ended_before_ms=actor.now_ms, refused_before_ms=0) == 0
    assert await store.read(RequestKey("ann", "old")) is None
    assert await store.question(RequestKey("ann", "old")) is None
    assert (await store.answer(RequestKey("ann", "old"))).text == ""
    assert await store.read(RequestKey("ann", "new")) is not None
    assert [r.request_id for r in await store.unfinished()] == ["waiting"]
    turns = await store.turns("ann", "c1", before=None, limit=9)
    assert [(t.request_id, t.question, t.answer) for t in turns][-1] == ("old", "Why?", "Because.")


@pytest.mark.purging
async def test_what_was_never_accepted_is_purged_sooner(store, actor):
    await actor.turn("answered")
    for name in ("early", "late"):
        key = RequestKey("ann", name)
        refusal = partial(refuse, refusal_record=actor.record(name), now_ms=actor.now_ms, code=ErrorCode.RATE_LIMITED)
        assert isinstance(await store.change(key, refusal), Ended)
        actor.now_ms += 1000
    assert await store.purge(ended_before_ms=0, refused_before_ms=actor.now_ms - 1000) == 1
    assert await store.read(RequestKey("ann", "early")) is None
    assert await store.read(RequestKey("ann", "late")) is not None
    assert await store.read(RequestKey("ann", "answered")) is not None


@pytest.mark.purging
async def test_purge_takes_many(store, actor):
    await asyncio.gather(*(actor.turn(f"r{n}") for n in range(1100)))
    assert await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0) == 1100
    assert len(await store.turns("ann", "c1", before=None, limit=2000)) == 1100


@pytest.mark.purging
async def test_an_id_may_be_used_again_after_the_purge(store, actor):
    await actor.turn("r1", "first?", "first.")
    await store.purge(ended_before_ms=actor.now_ms + 1, refused_before_ms=0)
    assert await actor.accept("r1", "second?") == Accepted(0)
    assert (await store.question(KEY)).message == "second?"
    assert (await store.answer(KEY)).text == ""
    await actor.claim("r1")
    await actor.finish("r1", "second.")
    turns = await store.turns("ann", "c1", before=None, limit=9)
    assert [(t.question, t.answer) for t in turns] == [("second?", "second."), ("first?", "first.")]


async def test_quota_zero_pending_refuses_all(store, actor):
    quota = Quota(per_minute=0, max_pending=0)
    record, question = actor.record("r1"), Question(message="?", model="echo")
    assert await store.accept(record, question, quota, now_ms=actor.now_ms) == Full()
    assert await store.read(KEY) is None
