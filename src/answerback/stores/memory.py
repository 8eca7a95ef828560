"""Requests, history and users in memory, for tests and simulations. It survives nothing.

It keeps to the letter of the ports, and the SQL stores are compared with it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from answerback.core.admission import Accepted, Admission, Quota, admit, window_of
from answerback.core.context import title_of
from answerback.core.instants import day_of
from answerback.core.request import Change, Question, Record, RequestKey
from answerback.core.transitions import State
from answerback.ports import (
    DailyUsage,
    StoredConversation,
    StoredTurn,
    StoredUser,
    T,
)
from answerback.protocol.frames import Status


class MemoryStore:
    """ports.Requests, ports.History and ports.Users in dicts. `records` and `answers` are there to be looked at."""

    def __init__(self) -> None:
        self.records: dict[RequestKey, Record] = {}
        self._positions: dict[RequestKey, int] = {}
        self._last_position = 0
        self._questions: dict[RequestKey, Question] = {}
        self.answers: dict[RequestKey, str] = {}
        self._turns: dict[str, dict[str, list[StoredTurn]]] = {}
        self._superseded: set[RequestKey] = set()
        self._conversations: dict[tuple[str, str], StoredConversation] = {}
        self._deleted_at_ms: dict[tuple[str, str], int] = {}
        self._users: dict[str, StoredUser] = {}
        self._windows: Counter[tuple[str, int]] = Counter()
        self._usage: dict[tuple[str, str], DailyUsage] = {}

    # --- ports.Durability

    @property
    def last_write_failed(self) -> bool:
        """Memory takes every write."""
        return False

    async def probe(self, *, now_ms: int) -> None:
        pass

    # --- ports.Requests

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        user = self._user(record.user_id, now_ms)
        window = (record.user_id, window_of(now_ms))
        admission = admit(
            existing=self.records.get(record.key),
            position=self._ahead(record),
            pending=sum(r.user_id == record.user_id for r in self._unfinished()),
            counted=self._windows[window],
            own_limit=user.per_minute,
            quota=quota,
            now_ms=now_ms,
        )
        if isinstance(admission, Accepted):
            self._windows[window] += 1
            self._users[record.user_id] = replace(user, last_request_at_ms=now_ms)
            self._store(record)
            self._questions[record.key] = question
        return admission

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        before = self.records.get(key)
        step = change(before)
        if step.record is not None:
            self._store(step.record)
            if step.text is not None and key in self._questions and step.record.ending is not None:
                self.answers[key] = step.text
                self._write_turn(step.record, step.text)
                self._count_usage(step.record)
        return step.outcome

    async def read(self, key: RequestKey) -> Record | None:
        return self.records.get(key)

    async def question(self, key: RequestKey) -> Question | None:
        return self._questions.get(key)

    async def answer(self, key: RequestKey) -> str:
        return self.answers.get(key, "")

    async def unfinished(self) -> Sequence[Record]:
        return self._unfinished()

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        old = [
            key
            for key, record in self.records.items()
            if record.ending is not None
            and record.ending.ended_at_ms < (ended_before_ms if key in self._questions else refused_before_ms)
        ]
        for key in old:
            del self.records[key]
            self._questions.pop(key, None)
            self.answers.pop(key, None)
            del self._positions[key]
        return len(old)

    # --- ports.History

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        if self._is_deleted(user_id, conversation_id):
            return []
        turns = [t for t in self._shown(user_id, conversation_id) if t.status is Status.COMPLETED]
        if before_request is not None:
            end = self._position_in(user_id, conversation_id, before_request)
            turns = [t for t in turns if end is None or t.position < end]
        return turns[-limit:]

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int
    ) -> Sequence[StoredTurn]:
        if self._is_deleted(user_id, conversation_id):
            return []
        turns = [t for t in self._shown(user_id, conversation_id) if before is None or t.position < before]
        return turns[::-1][:limit]

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        mine = [c for (user, _), c in self._conversations.items() if user == user_id and not c.deleted]
        mine.sort(key=lambda c: (c.updated_at_ms, c.conversation_id), reverse=True)
        return [c for c in mine if before is None or (c.updated_at_ms, c.conversation_id) < before][:limit]

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        key = (user_id, conversation_id)
        found = self._conversations.get(key)
        if found is None:
            return None
        if deleted is not None and deleted != found.deleted:
            found = replace(found, deleted=deleted)
            if deleted:
                self._deleted_at_ms[key] = now_ms
            else:
                self._deleted_at_ms.pop(key, None)
        if title is not None:
            found = replace(found, title=title, updated_at_ms=now_ms)
        self._conversations[key] = found
        return found

    async def purge_deleted(self, *, before_ms: int) -> int:
        old = [pair for pair, at_ms in self._deleted_at_ms.items() if at_ms < before_ms]
        for user_id, conversation_id in old:
            self._turns.get(user_id, {}).pop(conversation_id, None)
            self._conversations.pop((user_id, conversation_id), None)
            self._deleted_at_ms.pop((user_id, conversation_id), None)
        return len(old)

    # --- ports.Users

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        names = sorted(u for u in self._users if after is None or u > after)
        return [self._counted(self._users[name]) for name in names[:limit]]

    async def user(self, user_id: str) -> StoredUser | None:
        found = self._users.get(user_id)
        return None if found is None else self._counted(found)

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        self._users[user_id] = replace(self._user(user_id, now_ms), per_minute=per_minute)

    async def usage(self, user_id: str | None, *, since_day: str | None = None) -> Sequence[DailyUsage]:
        rows = [
            u
            for u in self._usage.values()
            if (user_id is None or u.user_id == user_id) and (since_day is None or u.day >= since_day)
        ]
        return sorted(rows, key=lambda u: (u.day, u.user_id))

    async def delete_user(self, user_id: str) -> bool:
        keys = [k for k in self.records if k.user_id == user_id]
        known = bool(keys) or user_id in self._users
        for key in keys:
            for table in (self.records, self._positions, self._questions, self.answers):
                table.pop(key, None)
        self._users.pop(user_id, None)
        self._turns.pop(user_id, None)
        for pair in [p for p in self._conversations if p[0] == user_id]:
            del self._conversations[pair]
            self._deleted_at_ms.pop(pair, None)
        for window in [w for w in self._windows if w[0] == user_id]:
            del self._windows[window]
        for day in [d for d in self._usage if d[0] == user_id]:
            del self._usage[day]
        return known

    # --- inner

    def _store(self, record: Record) -> None:
        self.records[record.key] = record
        if record.key not in self._positions:
            self._last_position += 1
            self._positions[record.key] = self._last_position

    def _unfinished(self) -> list[Record]:
        found = [r for r in self.records.values() if not r.state.is_terminal]
        return sorted(found, key=lambda r: self._positions[r.key])

    def _ahead(self, record: Record) -> int:
        mine = self._positions.get(record.key, self._last_position + 1)
        return sum(r.ordering_key == record.ordering_key and self._positions[r.key] < mine for r in self._unfinished())

    def _user(self, user_id: str, now_ms: int) -> StoredUser:
        return self._users.get(user_id) or StoredUser(
            user_id=user_id, per_minute=None, created_at_ms=now_ms, last_request_at_ms=None, conversations=0, turns=0
        )

    def _counted(self, user: StoredUser) -> StoredUser:
        mine = [c for (u, _), c in self._conversations.items() if u == user.user_id and not c.deleted]
        return replace(user, conversations=len(mine), turns=sum(c.turns for c in mine))

    def _position_in(self, user_id: str, conversation_id: str, request_id: str) -> int | None:
        """Where the request stands in the conversation, superseded or not, ended or not."""
        record = self.records.get(RequestKey(user_id, request_id))
        if record is not None and record.conversation_id == conversation_id:
            return self._positions[record.key]
        turns = self._turns.get(user_id, {}).get(conversation_id, [])
        return next((t.position for t in reversed(turns) if t.request_id == request_id), None)

    def _is_deleted(self, user_id: str, conversation_id: str) -> bool:
        found = self._conversations.get((user_id, conversation_id))
        return found is not None and found.deleted

    def _shown(self, user_id: str, conversation_id: str) -> list[StoredTurn]:
        turns = self._turns.get(user_id, {}).get(conversation_id, [])
        return [t for t in turns if RequestKey(user_id, t.request_id) not in self._superseded]

    def _write_turn(self, record: Record, text: str) -> None:
        ending, question = record.ending, self._questions[record.key]
        assert ending is not None
        pair = (record.user_id, record.conversation_id)
        if record.accepted_at_ms <= self._deleted_at_ms.get(pair, -1):
            return
        position = self._positions[record.key]
        turns = self._turns.setdefault(record.user_id, {}).setdefault(record.conversation_id, [])
        if self._is_deleted(*pair):  # asked after the deletion: the conversation starts again
            turns.clear()
            del self._conversations[pair]
            del self._deleted_at_ms[pair]
        if question.replaces is not None and record.state is State.COMPLETED:
            start = next((t.position for t in turns if t.request_id == question.replaces), None)
            for turn in turns:
                if start is not None and start <= turn.position < position:
                    self._superseded.add(RequestKey(record.user_id, turn.request_id))
        turns.append(
            StoredTurn(
                position=position,
                request_id=record.request_id,
                question=question.message,
                answer=text,
                status=ending.status,
                accepted_at_ms=record.accepted_at_ms,
                ended_at_ms=ending.ended_at_ms,
                model=ending.model,
                replaces=question.replaces,
                error_code=ending.error_code,
                input_tokens=ending.input_tokens,
                output_tokens=ending.output_tokens,
            )
        )
        turns.sort(key=lambda t: t.position)
        shown = len(self._shown(*pair))
        old = self._conversations.get(pair)
        self._conversations[pair] = StoredConversation(
            conversation_id=record.conversation_id,
            title=title_of(question.message) if old is None else old.title,
            turns=shown,
            created_at_ms=record.accepted_at_ms if old is None else old.created_at_ms,
            updated_at_ms=max(ending.ended_at_ms, 0 if old is None else old.updated_at_ms),
        )

    def _count_usage(self, record: Record) -> None:
        ending = record.ending
        assert ending is not None
        key = (record.user_id, day_of(ending.ended_at_ms))
        old = self._usage.get(key) or DailyUsage(
            user_id=key[0], day=key[1], requests=0, input_tokens=0, output_tokens=0
        )
        self._usage[key] = replace(
            old,
            requests=old.requests + 1,
            input_tokens=old.input_tokens + (ending.input_tokens or 0),
            output_tokens=old.output_tokens + (ending.output_tokens or 0),
        )
