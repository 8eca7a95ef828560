"""Requests of before under the other form of a name, where nobody can be asked whether there are any."""

import unicodedata
from functools import partial

from answerback.core import request as changes
from answerback.core.request import Ended, Question, RequestKey
from answerback.ports import Accepted, Existing, Quota
from answerback.service.id_forms import RequestsInBothForms, forms
from answerback.stores.sqlite import MemoryStore
from asking import record_of

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
