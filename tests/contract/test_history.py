"""ports.History, held by every store."""

from functools import partial

import pytest

from answerback.core.parts import MAX_NAME_LENGTH, MAX_PARTS, TEXT, Content, Mark
from answerback.core.request import RequestKey, cancel
from answerback.ports import StoredTurn
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status

pytestmark = pytest.mark.history


async def ids(store, conversation="c1", user="ann"):
    return [t.request_id for t in await store.turns(user, conversation, before=None, limit=100)]


async def context(store, *, before=None, limit=100, conversation="c1"):
    return [t.request_id for t in await store.recent_turns("ann", conversation, limit=limit, before_request=before)]


async def test_a_turn_has_everything(store, actor):
    asked = actor.now_ms
    await actor.turn("r0")
    await actor.turn("r1", "Why?", "Because.", replaces="r0", tokens=(3, 5))
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert turn == StoredTurn(
        position=turn.position,
        request_id="r1",
        question="Why?",
        answer="Because.",
        status=Status.COMPLETED,
        accepted_at_ms=asked + 1000,
        ended_at_ms=asked + 2000,
        model="echo",
        replaces="r0",
        input_tokens=3,
        output_tokens=5,
    )


async def test_a_failed_turn_shows_its_error_and_what_was_said(store, actor):
    await actor.turn("r1", "Why?", "Beca", status=Status.FAILED)
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert (turn.status, turn.error_code, turn.answer) == (Status.FAILED, ErrorCode.MODEL_FAILED, "Beca")


async def test_the_marks_of_an_answer_stay_with_its_text(store, actor):
    marks = tuple(Mark(n, (TEXT, "tool")[n % 2], None if n % 3 else "🔎" * MAX_NAME_LENGTH) for n in range(MAX_PARTS))
    long = "가" * 5_000
    await actor.accept("r1")
    await actor.claim("r1")
    await actor.finish("r1", long, marks=marks)
    await actor.turn("r2")
    assert await store.answer(RequestKey("ann", "r1")) == Content(long, marks)
    assert await store.answer(RequestKey("ann", "r2")) == Content("An answer.")
    recent = await store.recent_turns("ann", "c1", limit=9)
    shown = await store.turns("ann", "c1", before=None, limit=9)
    assert [(turn.answer, turn.marks) for turn in recent] == [(long, marks), ("An answer.", ())]
    assert [(turn.answer, turn.marks) for turn in shown] == [("An answer.", ()), (long, marks)]
    assert recent[0].visible == long[: MAX_PARTS // 2]


async def test_turns_come_newest_first_in_pages(store, actor):
    for n in range(7):
        await actor.turn(f"r{n}", f"question {n}", f"answer {n}")
    pages = []
    before = None
    while page := await store.turns("ann", "c1", before=before, limit=3):
        pages.append([(t.request_id, t.question, t.answer) for t in page])
        before = page[-1].position
    assert [len(p) for p in pages] == [3, 3, 1]
    assert [t for p in pages for t in p] == [(f"r{n}", f"question {n}", f"answer {n}") for n in reversed(range(7))]


async def test_turns_are_in_the_order_accepted_not_ended(store, actor):
    await actor.accept("r1", conversation=None)
    await actor.accept("r2", conversation=None)
    await actor.claim("r1")
    stop = partial(cancel, refusal_record=actor.record("r2"), now_ms=actor.now_ms)
    await store.change(RequestKey("ann", "r2"), stop)  # while the first one runs
    await actor.finish("r1", "to r1")
    turns = await store.turns("ann", "s1", before=None, limit=9)
    assert [(t.request_id, t.answer) for t in turns] == [("r2", ""), ("r1", "to r1")]


async def test_conversations_and_users_are_apart(store, actor):
    await actor.turn("r1")
    await actor.turn("r2", conversation="c2")
    await actor.turn("r1", "bob's", user="bob")
    assert await ids(store) == ["r1"]
    assert await ids(store, "c2") == ["r2"]
    assert [t.question for t in await store.turns("bob", "c1", before=None, limit=9)] == ["bob's"]
    assert list(await store.turns("eve", "c1", before=None, limit=9)) == []
    assert list(await store.conversations("eve", before=None, limit=9)) == []
    assert await store.update_conversation("eve", "c1", title="mine", deleted=True, now_ms=1) is None
    assert await ids(store) == ["r1"]


# --- context ------------------------------------------------------------------------------------------------


async def test_the_tail_is_the_last_completed_turns_oldest_first(store, actor):
    for n in range(5):
        await actor.turn(f"r{n}", status=Status.FAILED if n == 2 else Status.COMPLETED)
    assert await context(store) == ["r0", "r1", "r3", "r4"]
    assert await context(store, limit=2) == ["r3", "r4"]
    turns = await store.recent_turns("ann", "c1", limit=1)
    assert [(t.question, t.answer) for t in turns] == [("What is it?", "An answer.")]


async def test_the_tail_ends_before_a_request(store, actor):
    for n in range(5):
        await actor.turn(f"r{n}")
    assert await context(store, before="r3") == ["r0", "r1", "r2"]
    assert await context(store, before="r3", limit=2) == ["r1", "r2"]
    assert await context(store, before="r0") == []
    assert await context(store, before="never asked") == ["r0", "r1", "r2", "r3", "r4"]
    assert await context(store, before="r3", conversation="c2") == []


# --- replacing ----------------------------------------------------------------------------------------------


async def test_a_completed_replacement_supersedes_what_it_replaces_and_what_follows(store, actor):
    for n in range(4):
        await actor.turn(f"r{n}")
    await actor.turn("edit", replaces="r1")
    assert await ids(store) == ["edit", "r0"]
    assert await context(store) == ["r0", "edit"]
    (conversation,) = await store.conversations("ann", before=None, limit=9)
    assert conversation.turns == 2
    await actor.turn("next")
    assert await ids(store) == ["next", "edit", "r0"]


async def test_what_was_superseded_is_there_for_who_asks_for_it(store, actor):
    """The turns of the first edit stay with it when that one is replaced; positions, pages and texts are as of all."""
    for n in range(3):
        await actor.turn(f"r{n}", f"question {n}", f"answer {n}")
    await actor.turn("edit", replaces="r1")
    await actor.turn("again", replaces="edit")
    found, before = [], None
    while page := await store.turns("ann", "c1", before=before, limit=2, superseded=True):
        found += page
        before = page[-1].position
    assert [(t.request_id, t.superseded_by, t.replaces) for t in found] == [
        ("again", None, "edit"),
        ("edit", "again", "r1"),
        ("r2", "edit", None),
        ("r1", "edit", None),
        ("r0", None, None),
    ]
    assert (found[3].question, found[3].answer) == ("question 1", "answer 1")
    assert await ids(store) == ["again", "r0"], "and nobody else sees them"
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    assert list(await store.turns("ann", "c1", before=None, limit=9, superseded=True)) == []


async def test_a_replacement_that_did_not_complete_supersedes_nothing(store, actor):
    await actor.turn("r0")
    await actor.turn("again", replaces="r0", status=Status.FAILED)
    assert await ids(store) == ["again", "r0"]
    await actor.turn("third", replaces="r0")
    assert await ids(store) == ["third"]


async def test_replacing_a_replacement(store, actor):
    await actor.turn("r0")
    await actor.turn("r1")
    await actor.turn("r1b", replaces="r1")
    await actor.turn("r1c", replaces="r1b")
    assert await ids(store) == ["r1c", "r0"]
    assert await context(store, before="r1c") == ["r0"]


async def test_replacing_the_first_one_again(store, actor):
    await actor.turn("r0")
    await actor.turn("r1")
    await actor.turn("r1b", replaces="r1")
    await actor.turn("after")
    assert await context(store, before="r1") == ["r0"]
    await actor.turn("r1c", replaces="r1")
    assert await ids(store) == ["r1c", "r0"]


async def test_replacing_what_is_not_in_the_conversation_supersedes_nothing(store, actor):
    await actor.turn("elsewhere", conversation="c2")
    await actor.turn("r0")
    await actor.turn("r1", replaces="elsewhere")
    await actor.turn("r2", replaces="never asked")
    assert await ids(store) == ["r2", "r1", "r0"]
    assert await ids(store, "c2") == ["elsewhere"]


# --- conversations ------------------------------------------------------------------------------------------


async def test_a_conversation_is_named_by_its_first_question(store, actor):
    begun = actor.now_ms
    await actor.turn("r1", "\n  What is this?  \nsecond line")
    await actor.turn("r2", "Another question")
    (conversation,) = await store.conversations("ann", before=None, limit=9)
    assert (conversation.title, conversation.turns) == ("What is this?", 2)
    assert (conversation.created_at_ms, conversation.updated_at_ms) == (begun, begun + 2000)


async def test_a_title_has_at_most_60_characters(store, actor):
    await actor.turn("r1", " " * 300 + "가" * 100)
    await actor.turn("r2", "word " * 30, conversation="c2")
    await actor.turn("r3", "가" * 60, conversation="c3")
    titles = [conversation.title for conversation in await store.conversations("ann", before=None, limit=9)]
    assert titles == ["가" * 60, "word " * 11 + "word…", "가" * 59 + "…"]


async def test_conversations_come_last_updated_first_in_pages(store, actor):
    for n in range(5):
        await actor.turn(f"r{n}", conversation=f"c{n}")
    await actor.turn("again", conversation="c1")
    listed: list[str] = []
    before = None
    while page := await store.conversations("ann", before=before, limit=2):
        assert len(page) <= 2
        listed += [c.conversation_id for c in page]
        before = (page[-1].updated_at_ms, page[-1].conversation_id)
    assert listed == ["c1", "c4", "c3", "c2", "c0"]


async def test_conversations_updated_at_the_same_time_are_all_listed(store, actor):
    for name in ("b", "A", "가", "a", "Z"):
        await actor.accept(name, conversation=name)
        await actor.claim(name)
        await actor.finish(name)
    listed: list[str] = []
    before = None
    while page := await store.conversations("ann", before=before, limit=1):
        listed.append(page[0].conversation_id)
        before = (page[0].updated_at_ms, page[0].conversation_id)
    assert listed == sorted(["b", "A", "가", "a", "Z"], reverse=True)


async def test_renaming(store, actor, backend):
    await actor.turn("r1")
    actor.now_ms += 5
    renamed = await store.update_conversation("ann", "c1", title="한글 'title'", deleted=None, now_ms=actor.now_ms)
    assert renamed is not None
    assert (renamed.title, renamed.updated_at_ms, renamed.deleted) == ("한글 'title'", actor.now_ms, False)
    await actor.turn("r2")
    again = await backend.reopen()
    (conversation,) = await again.conversations("ann", before=None, limit=9)
    assert conversation.title == "한글 'title'"


async def test_what_does_not_exist_cannot_be_updated(store):
    assert await store.update_conversation("ann", "c1", title="x", deleted=None, now_ms=1) is None
    assert await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=1) is None


async def test_a_deleted_conversation_is_hidden_and_can_be_restored(store, actor, backend):
    await actor.turn("r1")
    deleted = await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    assert deleted is not None
    assert deleted.deleted
    assert list(await store.conversations("ann", before=None, limit=9)) == []
    assert await ids(store) == []
    assert await context(store) == []
    again = await backend.reopen()
    restored = await again.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert restored is not None
    assert not restored.deleted
    assert await ids(again) == ["r1"]
    assert [c.conversation_id for c in await again.conversations("ann", before=None, limit=9)] == ["c1"]


async def test_an_answer_to_a_question_asked_before_the_deletion_is_not_kept(store, actor, backend):
    await actor.turn("r1")
    await actor.accept("r2")
    await actor.claim("r2")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    actor.store = store = await backend.reopen()
    actor.now_ms += 1000
    await actor.finish("r2", "too late", tokens=(1, 2))
    assert list(await store.conversations("ann", before=None, limit=9)) == []
    assert (await store.answer(RequestKey("ann", "r2"))).text == "too late"
    assert sum(u.output_tokens for u in await store.usage("ann")) == 2
    await store.update_conversation("ann", "c1", title=None, deleted=False, now_ms=actor.now_ms)
    assert await ids(store) == ["r1"]


async def test_a_question_asked_after_the_deletion_starts_the_conversation_again(store, actor, backend):
    await actor.turn("r1", "old")
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    actor.store = store = await backend.reopen()
    actor.now_ms += 1000
    await actor.turn("r2", "new beginning")
    (conversation,) = await store.conversations("ann", before=None, limit=9)
    assert (conversation.title, conversation.turns) == ("new beginning", 1)
    assert await ids(store) == ["r2"]
    assert await context(store) == ["r2"]
    assert (await store.answer(RequestKey("ann", "r1"))).text == "An answer."
    await actor.turn("r3")
    assert await ids(store) == ["r3", "r2"]
