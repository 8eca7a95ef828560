"""Users and conversations whose ids were stored before ids were compared in NFC.

An id that people type has two spellings that look alike: 홍길동 is three code points in NFC and nine in NFD. From the
door on there is one, NFC (`core.keys.normal_id`). What older versions have stored under NFD is found here. New things
are stored under NFC.
"""

import unicodedata
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, Final, TypeVar

from answerback.core import admission
from answerback.core.keys import normal_id
from answerback.core.request import Change, Question, Record, RequestKey
from answerback.ports import (
    Admission,
    Budget,
    BudgetState,
    DailyUsage,
    History,
    Period,
    Quota,
    RecentTurns,
    Requests,
    StoredConversation,
    StoredTurn,
    StoredUser,
    Users,
)

T = TypeVar("T")
N = TypeVar("N")

MAX_USERS: Final = 8_192
"""Users of whom it is remembered whether anything is stored under their other form."""


def forms(text: str) -> tuple[str, ...]:
    """The form in which an id is stored now, then the one in which it may have been stored."""
    if text.isascii():
        return (text,)
    return tuple(dict.fromkeys((normal_id(text), unicodedata.normalize("NFD", text))))


class RequestsInBothForms:
    """`ports.Requests` by ids from the door. `users`: None where asking for a user costs too much."""

    def __init__(self, stored: Requests, users: Users | None, *, clock: Callable[[], int]) -> None:
        self._stored = stored
        self._users = users
        self._clock = clock
        self._others: OrderedDict[str, str | None] = OrderedDict()
        # Who asks for these has the record, and so the key under which it is stored.
        self.question = stored.question
        self.answer = stored.answer
        self.unfinished = stored.unfinished
        self.purge = stored.purge

    async def read(self, key: RequestKey) -> Record | None:
        return await self._stored.read(await self._key(key))

    async def unfinished_in(self, user_id: str, conversation_id: str) -> Sequence[Record]:
        found = await _of_each(_pairs(user_id, conversation_id), lambda pair: self._stored.unfinished_in(*pair))
        return [record for records in found for record in records]

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        return await self._stored.change(await self._key(key), change)

    def accept(
        self, record: Record, question: Question, quota: Quota, *, now_ms: int
    ) -> Coroutine[Any, Any, Admission]:
        if record.user_id.isascii():
            return self._stored.accept(record, question, quota, now_ms=now_ms)
        return self._accept(record, question, quota, now_ms)

    async def _accept(self, record: Record, question: Question, quota: Quota, now_ms: int) -> Admission:
        key = await self._key(new := record.key)
        if key != new and (old := await self._stored.read(key)) is not None:
            return admission.admit_again(old, position=0)
        return await self._stored.accept(record, question, quota, now_ms=now_ms)

    async def _key(self, key: RequestKey) -> RequestKey:
        """The key under which the request is stored, or is to be."""
        if key.user_id.isascii() or (other := await self._other(key.user_id)) is None:
            return key
        old = key._replace(user_id=other)
        return key if await self._stored.read(old) is None else old

    async def _other(self, user_id: str) -> str | None:
        """The other form of the user's id, if anything may be stored under it."""
        names = forms(user_id)
        if len(names) == 1 or names[0] != user_id or self._users is None:
            return names[1] if len(names) > 1 and names[0] == user_id else None
        if user_id not in self._others:
            old = await self._users.user(names[1])
            if old is not None and old.per_minute is not None:
                new = await self._users.user(user_id)
                if new is None or new.per_minute is None:  # the limit that an operator has set goes on
                    await self._users.set_limit(user_id, old.per_minute, now_ms=self._clock())
            self._others[user_id] = None if old is None else names[1]
            if len(self._others) > MAX_USERS:
                self._others.popitem(last=False)
        return self._others[user_id]


class RecentTurnsInBothForms:
    """`ports.RecentTurns` by ids from the door."""

    def __init__(self, stored: RecentTurns) -> None:
        self._recent = stored

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        if user_id.isascii() and conversation_id.isascii():
            return await self._recent.recent_turns(user_id, conversation_id, limit=limit, before_request=before_request)
        found = await _of_each(
            _pairs(user_id, conversation_id),
            lambda pair: self._recent.recent_turns(*pair, limit=limit, before_request=before_request),
        )
        return _merged(found, newest_first=False)[-limit:]


class HistoryInBothForms(RecentTurnsInBothForms):
    """`ports.History` by ids from the door. A conversation that is stored under both forms is one."""

    def __init__(self, stored: History) -> None:
        super().__init__(stored)
        self._stored = stored
        self.purge_deleted = stored.purge_deleted
        self.delete_expired = stored.delete_expired

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int, superseded: bool = False
    ) -> Sequence[StoredTurn]:
        found = await _of_each(
            _pairs(user_id, conversation_id),
            lambda pair: self._stored.turns(*pair, before=before, limit=limit, superseded=superseded),
        )
        return _merged(found, newest_first=True)[:limit]

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        """A conversation of both forms stands where its newer form is, NFC. Its numbers are of what is read here."""
        names = forms(user_id)
        if before is not None:
            before = (before[0], await self._stored_as(names, before[1]))
        whole: dict[str, StoredConversation] = {}
        while True:
            pages = await _of_each(names, partial(self._stored.conversations, before=before, limit=limit))
            listed = [(name, one) for name, page in zip(names, pages, strict=True) for one in page]
            # A stable order: of two equal places that of the newer form comes first.
            listed.sort(key=lambda row: (row[1].updated_at_ms, row[1].conversation_id), reverse=True)
            others = []
            for name, one in listed[:limit]:
                shown = normal_id(one.conversation_id)
                if await self._is_first(names, name, one.conversation_id):
                    whole[shown] = replace(one, conversation_id=shown)
                else:
                    others.append((shown, one))
            for shown, one in others:
                if (first := whole.get(shown)) is not None:
                    whole[shown] = replace(_joined(first, one), updated_at_ms=first.updated_at_ms)
            if len(whole) >= limit or len(listed) < limit:
                return list(whole.values())[:limit]
            before = (listed[limit - 1][1].updated_at_ms, listed[limit - 1][1].conversation_id)

    async def _is_first(self, names: Sequence[str], name: str, conversation_id: str) -> bool:
        """Whether a conversation is stored under no form that comes before this one."""
        pairs = _pairs(names[0], conversation_id)
        return pairs[0] == (name, conversation_id) or await self._first(pairs) in (None, (name, conversation_id))

    async def _stored_as(self, names: Sequence[str], conversation_id: str) -> str:
        """The form of the id under which a listed conversation is stored."""
        pairs = _pairs(names[0], conversation_id)
        return conversation_id if len(pairs) == 1 else (await self._first(pairs) or pairs[0])[1]

    async def _first(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
        for pair in pairs:
            if await self._stored.turns(*pair, before=None, limit=1):
                return pair
        return None

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        found = await _of_each(
            _pairs(user_id, conversation_id),
            lambda pair: self._stored.update_conversation(*pair, title=title, deleted=deleted, now_ms=now_ms),
        )
        known: list[StoredConversation] = [one for one in found if one is not None]
        return None if not known else replace(reduce(_joined, known), conversation_id=normal_id(conversation_id))


class UsersInBothForms:
    """`ports.Users` by ids as an operator types them."""

    def __init__(self, stored: Users) -> None:
        self._stored = stored
        self.teams = stored.teams

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        """By the id as it is stored. A user of both forms stands where NFC is."""
        if after is not None and await self._stored.user(after) is None:
            after = forms(after)[-1]
        found: list[StoredUser] = []
        while len(found) < limit:
            page = await self._stored.users(after=after, limit=limit)
            for user in page:
                if user.user_id.isascii():
                    found.append(user)
                elif (
                    user.user_id == normal_id(user.user_id) or await self._stored.user(normal_id(user.user_id)) is None
                ):
                    found.append(await self.user(user.user_id) or user)
            if len(page) < limit:
                break
            after = page[-1].user_id
        return found[:limit]

    async def user(self, user_id: str) -> StoredUser | None:
        found = [user for user in await _of_each(forms(user_id), self._stored.user) if user is not None]
        if len(found) < 2:
            return replace(found[0], user_id=normal_id(user_id)) if found else None
        now, then = found
        last = [user.last_request_at_ms for user in found if user.last_request_at_ms is not None]
        return replace(
            now,
            per_minute=then.per_minute if now.per_minute is None else now.per_minute,
            keep_days=then.keep_days if now.keep_days is None else now.keep_days,
            created_at_ms=min(now.created_at_ms, then.created_at_ms),
            last_request_at_ms=max(last, default=None),
            conversations=now.conversations + then.conversations,
            turns=now.turns + then.turns,
            blocked=now.blocked,
            team=now.team or then.team,
        )

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        """Set it under the form that counts, and under the other one if that user is there."""
        name, *others = forms(user_id)
        await self._stored.set_limit(name, per_minute, now_ms=now_ms)
        for other in others:
            if await self._stored.user(other) is not None:
                await self._stored.set_limit(other, per_minute, now_ms=now_ms)

    async def set_blocked(self, user_id: str, *, blocked: bool, now_ms: int) -> None:
        """Under the form that counts: nobody comes in under the other one."""
        await self._stored.set_blocked(normal_id(user_id), blocked=blocked, now_ms=now_ms)

    async def set_retention(
        self, user_id: str, keep_days: int | None, *, now_ms: int, conversation_id: str | None = None
    ) -> bool:
        """As `set_limit`; of a conversation under each form."""
        if conversation_id is not None:
            set_one = partial(self._stored.set_retention, keep_days=keep_days, now_ms=now_ms)
            pairs = _pairs(user_id, conversation_id)
            return any(await _of_each(pairs, lambda pair: set_one(pair[0], conversation_id=pair[1])))
        for name in forms(user_id):
            if name == normal_id(user_id) or await self._stored.user(name) is not None:
                await self._stored.set_retention(name, keep_days, now_ms=now_ms)
        return True

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        await self._stored.set_budget(normal_id(holder), period, budget, now_ms=now_ms)

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        team = None if team is None else normal_id(team)
        await self._stored.set_team(normal_id(user_id), team, now_ms=now_ms)

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        return await self._stored.budgets(normal_id(holder), now_ms=now_ms)

    async def usage(
        self, user_id: str | None, *, since_day: str | None = None, by_model: bool = False
    ) -> Sequence[DailyUsage]:
        read = partial(self._stored.usage, since_day=since_day, by_model=by_model)
        if user_id is None:
            return await read(None)
        days: dict[tuple[str, str], DailyUsage] = {}
        for found in await _of_each(forms(user_id), read):
            for one in found:
                key = one.day, one.model or ""
                whole = days.get(key)
                days[key] = replace(
                    one,
                    user_id=normal_id(user_id),
                    requests=one.requests + (0 if whole is None else whole.requests),
                    input_tokens=one.input_tokens + (0 if whole is None else whole.input_tokens),
                    output_tokens=one.output_tokens + (0 if whole is None else whole.output_tokens),
                )
        return [days[day] for day in sorted(days)]

    async def export(self, user_id: str) -> AsyncIterator[bytes]:
        for name in forms(user_id):
            async for line in self._stored.export(name):
                yield line

    async def delete_user(self, user_id: str) -> bool:
        return any([await self._stored.delete_user(name) for name in forms(user_id)])


async def _of_each(names: Sequence[N], read: Callable[[N], Awaitable[T]]) -> list[T]:
    return [await read(name) for name in names]


def _pairs(user_id: str, conversation_id: str) -> list[tuple[str, str]]:
    return [(user, conversation) for user in forms(user_id) for conversation in forms(conversation_id)]


def _merged(found: Sequence[Sequence[StoredTurn]], *, newest_first: bool) -> Sequence[StoredTurn]:
    if len(found) == 1:
        return found[0]
    turns = [turn for page in found for turn in page]
    return sorted(turns, key=lambda turn: turn.position, reverse=newest_first)


def _joined(one: StoredConversation, other: StoredConversation) -> StoredConversation:
    """One conversation of two; `one` was updated last."""
    return replace(
        one,
        turns=one.turns + other.turns,
        created_at_ms=min(one.created_at_ms, other.created_at_ms),
        updated_at_ms=max(one.updated_at_ms, other.updated_at_ms),
    )
