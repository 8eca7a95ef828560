"""Requests of before under the other form of a name, where nobody can be asked whether there are any."""

import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core import request as changes
from answerback.core.keys import normal_id
from answerback.core.request import Ended, Question, RequestKey
from answerback.ports import Accepted, Existing, Quota
from answerback.protocol.frames import Conversations, ListConversations
from answerback.service import id_forms
from answerback.service.history_pages import HistoryPages
from answerback.service.id_forms import HistoryInBothForms, RequestsInBothForms, UsersInBothForms, forms
from answerback.stores.sqlite import MemoryStore
from asking import Actor, record_of

NFC, NFD = "홍길동", unicodedata.normalize("NFD", "홍길동")
QUOTA = Quota(per_minute=0, max_pending=10)


QUESTION = Question(message="hello", model="echo")


def test_the_forms_of_a_name() -> None:
    assert forms("kim") == ("kim",)
    assert forms("김") == forms(unicodedata.normalize("NFD", "김")) == ("김", unicodedata.normalize("NFD", "김"))
    assert forms("日本") == ("日本",), "one form alone"


async def test_an_id_that_is_taken_under_the_other_form_is_taken() -> None:
    store = MemoryStore()
    await store.open()
    requests = RequestsInBothForms(store, None, clock=lambda: 0)
    old = record_of(user_id=NFD, request_id="r1")
    await store.accept(old, QUESTION, QUOTA, now_ms=0)
    assert await requests.accept(record_of(user_id=NFC, request_id="r1"), QUESTION, QUOTA, now_ms=0) == Existing(old, 0)
    new = record_of(user_id=NFC, request_id="r2")
    assert isinstance(await requests.accept(new, QUESTION, QUOTA, now_ms=0), Accepted)
    cancel = partial(changes.cancel, refusal_record=old, now_ms=1)
    for request_id, user_id in (("r1", NFD), ("r2", NFC)):
        outcome = await requests.change(RequestKey(NFC, request_id), cancel)
        assert isinstance(outcome, Ended)
        assert outcome.record.key == RequestKey(user_id, request_id)
        assert await requests.read(RequestKey(NFC, request_id)) == outcome.record
        assert await requests.read(outcome.record.key) == outcome.record, "who has the record has its key"


async def test_users_who_are_remembered_are_bounded_and_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_forms, "MAX_USERS", 2)
    store = MemoryStore()
    await store.open()
    requests = RequestsInBothForms(store, store, clock=lambda: 0)
    for user_id in ("김", "이", "박", "최"):
        await requests.read(RequestKey(user_id, "r1"))
    assert list(requests._others) == ["박", "최"]


# --- lists in pages

USERS = (NFC, NFD)
NAMES = ("a", "여행", unicodedata.normalize("NFD", "여행"), "日本", "요리", unicodedata.normalize("NFD", "요리"), "z")
asked = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(NAMES), st.integers(0, 1)), max_size=24)


@given(asked=asked, limit=st.integers(1, 4))
async def test_each_conversation_is_listed_once_whatever_forms_it_is_stored_under(
    asked: list[tuple[str, str, int]], limit: int
) -> None:
    """Some turns end in the same second, so that places are equal."""
    store = MemoryStore()
    await store.open()
    actor = Actor(store)
    for number, (user, name, passed_s) in enumerate(asked):
        actor.now_ms += passed_s * 1000 - 1000
        await actor.turn(f"r{number}", user=user, conversation=name)
    history = HistoryInBothForms(store)
    pages = HistoryPages(history=history, clock=lambda: 0)
    listed: list[str] = []
    before = None
    for _ in range(40):
        frame = ListConversations(request_id="l", before=before, limit=limit)
        page = await pages.answer(NFC, frame)
        assert isinstance(page, Conversations)
        listed += [one.conversation_id for one in page.conversations]
        assert page.next is None or len(page.conversations) == limit, "no page ends early"
        if (before := page.next) is None:
            break
    assert before is None
    assert sorted(listed) == sorted({normal_id(name) for _, name, _ in asked})
    if limit == 4 and len(set(listed)) <= 4:
        whole = await history.conversations(NFC, before=None, limit=100)
        assert sum(one.turns for one in whole) == len(asked)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_each_user_is_listed_once_with_all_there_is(limit: int) -> None:
    store = MemoryStore()
    await store.open()
    actor = Actor(store)
    only_old = unicodedata.normalize("NFD", "김")
    people = ("ann", NFC, NFD, only_old, "日本", "이", "zoe")
    for number, user in enumerate(people):
        await actor.turn(f"r{number}", user=user)
    users = UsersInBothForms(store)
    found = []
    while page := await users.users(after=found[-1].user_id if found else None, limit=limit):
        found += page
    assert sorted(user.user_id for user in found) == sorted(normal_id(user) for user in people if user != NFD)
    assert {user.user_id: user.turns for user in found}[NFC] == 2
