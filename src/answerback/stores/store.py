"""The store that SQLite and PostgreSQL share: the ports, by operations that a database runs."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeVar

from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import (
    Accepted,
    Admission,
    DailyUsage,
    Quota,
    StoredConversation,
    StoredTurn,
    StoredUser,
    Unavailable,
)
from answerback.stores import history_operations as history
from answerback.stores import request_operations as requests
from answerback.stores import user_operations as users
from answerback.stores.query import Read, Write

T = TypeVar("T")

_PURGE_STEP: Final = 500
_ERASE_STEP: Final = 50
_CACHED_CHARACTERS: Final = 8_000_000


class QuestionCache:
    """Questions just accepted, which their workers are about to ask for. Bounded by the length of the texts."""

    def __init__(self, *, max_characters: int) -> None:
        self._max_characters = max_characters
        self._characters = 0
        self._questions: OrderedDict[RequestKey, Question] = OrderedDict()

    def add(self, key: RequestKey, question: Question) -> None:
        """Keep the question; the oldest ones make room."""
        self.drop(key)
        self._questions[key] = question
        self._characters += _size(question)
        while self._characters > self._max_characters:
            _, old = self._questions.popitem(last=False)
            self._characters -= _size(old)

    def get(self, key: RequestKey) -> Question | None:
        """The question, if it is still here."""
        return self._questions.get(key)

    def drop(self, key: RequestKey) -> None:
        question = self._questions.pop(key, None)
        if question is not None:
            self._characters -= _size(question)

    def clear(self) -> None:
        self._questions.clear()
        self._characters = 0


def _size(question: Question) -> int:
    return 500 + len(question.message) + len(question.system or "")


class SqlStore(ABC):
    """ports.Requests, ports.History and ports.Users over one database that this process alone writes to.

    Every method raises ports.Unavailable while the database cannot be read or written. `open` before use.
    """

    def __init__(self) -> None:
        self._questions = QuestionCache(max_characters=_CACHED_CHARACTERS)
        self._last_write_failed = False

    @abstractmethod
    async def open(self) -> None:
        """Take the lock, bring the tables up to date. Raises: StoreError: it says what to do."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was called before, release everything. May be called twice."""

    @abstractmethod
    async def _read(self, operation: Read[T]) -> T:
        """Run a read."""

    @abstractmethod
    async def _write(self, user_id: str | None, operation: Write[T], *, key: RequestKey | None = None) -> T:
        """Run a write in a transaction, and return when that is durable.

        Those of one user run one after the other in the order of the calls, or as if they did; one of no user runs by
        itself. `key`: the operation concerns this request alone (see statement_batching.py).
        """

    async def _track_write(self, user_id: str | None, operation: Write[T], *, key: RequestKey | None = None) -> T:
        """Run a write, and remember whether it failed."""
        try:
            value = await self._write(user_id, operation, key=key)
        except Unavailable:
            self._last_write_failed = True
            raise
        self._last_write_failed = False
        return value

    # --- ports.Durability

    @property
    def last_write_failed(self) -> bool:
        return self._last_write_failed

    async def probe(self, *, now_ms: int) -> None:
        await self._track_write(None, lambda _: requests.probe(now_ms))

    # --- ports.Requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        admission = await self._track_write(
            record.user_id, lambda state: requests.accept(state, record, question, quota, now_ms), key=record.key
        )
        if isinstance(admission, Accepted):
            self._questions.add(record.key, question)
        return admission

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        return await self._track_write(key.user_id, lambda state: requests.change(state, key, change), key=key)

    async def read(self, key: RequestKey) -> Record | None:
        return await self._read(lambda: requests.read(key))

    async def question(self, key: RequestKey) -> Question | None:
        cached = self._questions.get(key)
        return cached if cached is not None else await self._read(lambda: requests.question(key))

    async def answer(self, key: RequestKey) -> str:
        return await self._read(lambda: requests.answer(key))

    async def unfinished(self) -> Sequence[Record]:
        return await self._read(requests.unfinished)

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        self._questions.clear()
        purged = await self._repeat(lambda state: requests.purge_refusals(refused_before_ms, _PURGE_STEP))
        purged += await self._repeat(lambda state: requests.purge(ended_before_ms, _PURGE_STEP))
        self._questions.clear()
        return purged

    async def _repeat(self, step: Write[int]) -> int:
        """A bounded number a transaction, so that others are not kept waiting."""
        total = 0
        while True:
            count = await self._track_write(None, step)
            total += count
            if count < _PURGE_STEP:
                return total

    # --- ports.History

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        return await self._read(
            lambda: history.recent_turns(user_id, conversation_id, limit=limit, before_request=before_request)
        )

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int
    ) -> Sequence[StoredTurn]:
        return await self._read(lambda: history.turns(user_id, conversation_id, before=before, limit=limit))

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        return await self._read(lambda: history.conversations(user_id, before=before, limit=limit))

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        return await self._track_write(
            user_id,
            lambda state: history.update_conversation(
                state, user_id, conversation_id, title=title, deleted=deleted, now_ms=now_ms
            ),
        )

    async def purge_deleted(self, *, before_ms: int) -> int:
        """Erase the conversations that were deleted before then, with their turns; returns how many.

        The texts of a request whose record is still kept go when the record is purged. `before_ms` should lie further
        back than any request can take: a turn of an erased conversation that ends later creates it again.
        """
        erased = 0
        while True:
            count = await self._track_write(
                None, lambda state: history.purge_deleted(state, before_ms=before_ms, limit=_ERASE_STEP)
            )
            erased += count
            if count < _ERASE_STEP:
                return erased

    # --- ports.Users

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        return await self._read(lambda: users.users(after=after, limit=limit))

    async def user(self, user_id: str) -> StoredUser | None:
        return await self._read(lambda: users.user(user_id))

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        await self._track_write(user_id, lambda state: users.set_limit(state, user_id, per_minute, now_ms=now_ms))

    async def usage(self, user_id: str | None, *, since_day: str | None = None) -> Sequence[DailyUsage]:
        return await self._read(lambda: users.usage(user_id, since_day=since_day))

    async def delete_user(self, user_id: str) -> bool:
        try:
            return await self._track_write(user_id, lambda state: users.delete_user(state, user_id))
        finally:
            self._questions.clear()
