import uuid

import pytest

from answerback.core.request import Question, Record
from answerback.ports import Quota
from asking import record_of

NOW_MS = 1_750_000_020_000


class Asker:
    """Makes requests whose details do not matter."""

    now_ms = NOW_MS
    quota = Quota(per_minute=0, max_pending=1_000_000)

    def record(self, request_id: str, user: str = "ann") -> Record:
        return record_of(request_id, user, conversation_id="c1", session_id="s1", accepted_at_ms=self.now_ms)

    async def accept(self, store, request_id: str, text: str = "What is it?", user: str = "ann"):
        question = Question(message=text, model="echo")
        return await store.accept(self.record(request_id, user), question, self.quota, now_ms=self.now_ms)


@pytest.fixture
def asker() -> Asker:
    return Asker()


@pytest.fixture
def schema() -> str:
    """A name that no other test uses."""
    return f"t_{uuid.uuid4().hex}"
