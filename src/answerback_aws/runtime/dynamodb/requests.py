"""ports.Requests on DynamoDB.

What one answer costs (write units; a text counts its KB): question text 1+, accept 2 record + 1 index + 2 minute,
claim 1, renew or retarget 1, answer text 1+, end 2 record + 1 index + 2 turn + 1 index, settled 1 + 1 index. Each
budget that it is counted in: 2 with the acceptance and 2 with the ending.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from msgspec.structs import replace

from answerback.core import defaults
from answerback.core.admission import Accepted, Admission, Quota, admit, hold_of
from answerback.core.budget import Counters, Entry, Hold, OverBudget, reserved, team_holder
from answerback.core.keys import ordering_key
from answerback.core.parts import NOTHING, Content
from answerback.core.request import Change, Ending, Question, Record, RequestKey, Step
from answerback.core.transitions import State
from answerback.ports import T, Unavailable
from answerback_aws.runtime.dynamodb.database import TRIES, Database, Refused
from answerback_aws.runtime.dynamodb.items import (
    Item,
    decode_item,
    encode,
    encode_record,
    expression,
    number_of,
    text_of,
    update,
)
from answerback_aws.runtime.dynamodb.limits import RateLimits, Standing
from answerback_aws.runtime.dynamodb.tables import TTL_ATTRIBUTE, UNFINISHED, Place
from answerback_aws.runtime.dynamodb.turns import TURNS_MS, DynamoTurns, Texts, turn_item

SEEN_FOR_MS: Final = 3_000
"""A record seen longer ago has likely changed: reading it costs less than a write that fails."""

_MAX_SEEN: Final = 256
_ABSENT: Final = "attribute_not_exists(userId) OR expiresAt <= :now"
"""There is no such record, or it is past its time and only not deleted yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things stay. `requests_ms`: ended records. `refusals_ms`: those that were never accepted; longer than a
    late copy of the frame can be on its way. `turns_ms`: turns, for the model's context; texts as long as either needs.
    """

    requests_ms: int = defaults.RETENTION_MS
    refusals_ms: int = defaults.REFUSAL_RETENTION_MS
    turns_ms: int = TURNS_MS


@dataclass(frozen=True, slots=True)
class _Held:
    """A record as an item, and when this process saw it so."""

    item: Item
    record: Record
    seen_at_ms: int

    @property
    def place(self) -> Place | None:
        """Where its turn stands; None: it was never accepted."""
        position = number_of(self.item, "position")
        return None if position is None else Place(self.record.user_id, self.record.conversation_id, position)


class DynamoRequests:
    """ports.Requests and ports.Durability in DynamoDB tables.

    `clock`: epoch milliseconds; it decides only what is past its retention and how long a seen record is trusted to be
    worth a try.
    """

    def __init__(self, database: Database, *, clock: Callable[[], int], retention: Retention | None = None) -> None:
        self._database = database
        self._table = database.tables.requests
        self._conversations = database.tables.conversations
        self._clock = clock
        self._retention = Retention() if retention is None else retention
        self._limits = RateLimits(database)
        self._texts = Texts(database, keep_ms=max(self._retention.turns_ms, self._retention.requests_ms))
        self._turns = DynamoTurns(database, turns_ms=self._retention.turns_ms)
        self._positions = Positions()
        self._seen: OrderedDict[RequestKey, _Held] = OrderedDict()
        self._locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()

    # --- ports.Durability

    @property
    def last_write_failed(self) -> bool:
        return self._database.last_write_failed

    async def probe(self, *, now_ms: int) -> None:
        key = {"userId": "probe", "window": "probe"}
        await self._database.put(
            self._database.tables.rate_limits, encode({**key, TTL_ATTRIBUTE: now_ms // 1000 + 3_600})
        )

    # --- accepting

    async def accept(self, record: Record, question: Question, quota: Quota, *, now_ms: int) -> Admission:
        """Store a new request in one transaction.

        The pending cap and `position` come from an index that follows the table within moments: of many requests in
        the same moment a few more than the cap may pass. The rate and the budgets are exact: they are conditions of the
        transaction.

            front    look ──► question text ──► transaction: record if absent, minute + 1 if below ──► Accepted
                           ▲                  ▲                                                       ▲
            dies here: nothing   a text that nothing names,          stored and counted; the janitor queues it, and the
                                 gone with its time to live          client's repeat finds it (Existing)

            two fronts, one id      A: look ─ text a ─ transaction wins ─► Accepted
                                    B: look ─── text b ─ transaction refused: the record is there ─► Existing(A's)
        """
        # One at a time in this process, so that a burst of one user does not fail on its own transactions.
        async with self._alone(record.user_id):
            held, waiting, window = await asyncio.gather(
                self._load(record.key),
                self._waiting(record.user_id),
                self._limits.window(record.user_id, now_ms=now_ms),
            )
            decide = partial(
                admit,
                pending=len(waiting),
                counted=window.count,
                own_limit=window.own_limit,
                quota=quota,
                now_ms=now_ms,
                user_id=record.user_id,
            )
            existing = None if held is None else held.record
            position = _ahead(record.ordering_key, held, waiting)
            limit, own = quota.limit_of(window.own_limit), window.standing
            for attempt in range(TRIES):
                hold, counters = await self._hold(record, question, quota, own, now_ms, is_first=not attempt)
                admission = decide(existing=existing, position=position, hold=hold, counters=counters)
                if isinstance(admission, OverBudget) and not attempt and not admission.never:
                    # As of a moment ago; what has ended since has made room.
                    own = await self._limits.standing(record.user_id, consistent=True)
                    continue
                if not isinstance(admission, Accepted):
                    return admission
                place = await self._put_question(record, question)
                held_record = record if admission.hold is None else replace(record, hold=admission.hold)
                refused = await self._put_accepted(held_record, question, place, limit, now_ms)
                if refused is None:
                    return admission
                await self._texts.take_question_back(place, question)
                if 0 in refused.failed:
                    found = self._held(refused.items[0])
                    if found is None:
                        raise Unavailable("the record of an equal id went away while it was looked at")
                    return decide(existing=found.record, position=_ahead(record.ordering_key, found, waiting))
                if limit and 1 in refused.failed:
                    # Others of this user were accepted meanwhile, up to the limit.
                    return decide(existing=None, position=admission.position, counted=limit)
                # Others have reserved meanwhile: there may still be room.
                await self._database.pause(attempt)
                own = await self._limits.standing(record.user_id, consistent=True)
        raise Unavailable("others reserved what was left of a budget, again and again")

    async def _hold(
        self, record: Record, question: Question, quota: Quota, own: Standing, now_ms: int, *, is_first: bool
    ) -> tuple[Hold | OverBudget | None, Counters]:
        """What a new request has to hold, and how the counters of its user and team stand."""
        team, theirs = quota.team or own.team, Standing()
        if team is not None:
            theirs = await self._limits.standing(team_holder(team), consistent=not is_first)
        hold = hold_of(record, question, quota, own=own.budgets, team=team, of_team=theirs.budgets, now_ms=now_ms)
        return hold, {**own.counters, **theirs.counters}

    async def _put_question(self, record: Record, question: Question) -> Place:
        """Write the texts at a position that is free in the conversation."""
        while True:
            position = self._positions.next(record.accepted_at_ms)
            place = Place(record.user_id, record.conversation_id, position)
            if await self._texts.put_question(
                place, question, request_id=record.request_id, accepted_at_ms=record.accepted_at_ms
            ):
                return place

    async def _put_accepted(
        self, record: Record, question: Question, place: Place, per_minute: int, now_ms: int
    ) -> Refused | None:
        own = encode(
            {
                "version": _new_version(),
                "position": place.position,
                UNFINISHED: place.position,
                "replaces": question.replaces,
            }
        )
        item = {**encode_record(record), **own}
        refused: Refused | None
        if per_minute or record.hold is not None:
            absent = expression("", _ABSENT, now=_seconds(now_ms))
            shown = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
            put = {"TableName": self._table, "Item": item, **absent, **shown}
            count = [self._limits.count(record.user_id, limit=per_minute, now_ms=now_ms)] if per_minute else []
            charge = () if record.hold is None else reserved(record.hold, record.user_id)
            refused = await self._database.transact([{"Put": put}, *count, *self._limits.charge(charge)])
        else:
            refused = await self._database.put(self._table, item, _ABSENT, now=_seconds(now_ms))
        if refused is not None and _is(refused.items.get(0), item):
            refused = None  # our own write, whose answer was lost on the way to the client's retry
        if refused is None:
            self._remember(_Held(item, record, self._clock()))
        return refused

    async def _waiting(self, user_id: str) -> list[tuple[int, str]]:
        """(position, ordering key) of the user's unfinished requests, as of a moment ago."""
        found = await self._database.query(self._table, "userId = :u", {":u": user_id}, IndexName=UNFINISHED)
        return [(int(item[UNFINISHED]["N"]), item["orderingKey"]["S"]) for item in found]

    # --- changing

    async def change(self, key: RequestKey, change: Change[T]) -> T:
        """Change a record optimistically: every write names the version that it was made from.

            A    read v1 ─ step ──► write v2 if v1 ─► outcome of A
            B    read v1 ─ step ────────► write v3 if v1: refused, brings v2 ─ step ──► write v3 if v2 ─► outcome of B
                                                                                      ▲
            the reply to a write is late: the record has the version that this write was to give it, so it is done

        What this process saw a moment ago saves the read, for a write is refused if it is not so any more. That nothing
        is to be written is only said of a record that was just read.
        """
        async with self._alone(key):
            held = self._seen.pop(key, None)
            is_read = held is None or self._clock() - held.seen_at_ms > SEEN_FOR_MS
            if is_read:
                held = await self._load(key)
            for attempt in range(TRIES):
                step = change(None if held is None else held.record)
                if step.record is not None:
                    written = await self._write(key, held, step.record, step)
                    if isinstance(written, Refused) and 0 not in written.failed and step.otherwise is not None:
                        step = step.otherwise  # a budget has no room
                        assert step.record is not None
                        written = await self._write(key, held, step.record, step)
                    if isinstance(written, _Held):
                        self._remember(written)
                        return step.outcome
                    held = self._held(written.items[0])
                    await self._database.pause(attempt)
                elif is_read:
                    self._remember(held)
                    return step.outcome
                else:
                    held = await self._load(key)
                is_read = True
        raise Unavailable("others changed the record again and again")

    async def _write(self, key: RequestKey, held: _Held | None, after: Record, step: Step[Any]) -> _Held | Refused:
        version = _new_version()
        if held is None:
            item = self._new_item(after, version)
            refused = await self._database.put(self._table, item, _ABSENT, now=_seconds(self._clock()))
        else:
            own = {name: held.item[name] for name in ("position", "replaces", UNFINISHED) if name in held.item}
            item = {**encode_record(after), **own, **encode({"version": version})}
            if after.ending is not None and UNFINISHED in item:
                del item[UNFINISHED]
                refused = await self._end(held, item, after, after.ending, step)
            else:
                refused = await self._update(held, item, step.charge)
        if refused is not None and not _is(refused.items.get(0), item):
            return refused
        return _Held(item, after, self._clock())

    def _new_item(self, record: Record, version: str) -> dict[str, Any]:
        """The record of what was never accepted: a refusal, an early cancellation."""
        item = {**encode_record(record), **encode({"version": version})}
        if record.ending is None:
            return item | encode({UNFINISHED: self._positions.next(record.accepted_at_ms)})
        return item | encode({TTL_ATTRIBUTE: _seconds(record.ending.ended_at_ms + self._retention.refusals_ms)})

    async def _update(self, held: _Held, item: Item, charge: Sequence[Entry] = ()) -> Refused | None:
        if charge:
            return await self._database.transact([self._changed(held, item), *self._limits.charge(charge)])
        found = await self._database.change(self._table, _key(held.record), **_change_of(held.item, item))
        return found if isinstance(found, Refused) else None

    async def _end(
        self, held: _Held, item: dict[str, Any], record: Record, ending: Ending, step: Step[Any]
    ) -> Refused | None:
        """Write the ending; of an accepted request with it the turn, which is the durable note for the history.

        worker    answer text ──► transaction: record ended if still as read, turn, unfinished mark off ──► ending sent
                ▲               ▲                                                                         ▲
        dies here: another attempt,   a text that nothing names;         ended: redelivery finds it ended and
        after the lease               another attempt                    sends the ending again

        fenced (another attempt or a cancellation wrote first): refused, the text is taken back, nothing is named
        """
        place = held.place
        if place is None:
            item |= encode({TTL_ATTRIBUTE: _seconds(ending.ended_at_ms + self._retention.refusals_ms)})
            return await self._update(held, item)
        item |= encode({TTL_ATTRIBUTE: _seconds(ending.ended_at_ms + self._retention.requests_ms)})
        version = text_of(item, "version") or ""
        answer = await self._texts.put_answer(place, step.content, version=version, ended_at_ms=ending.ended_at_ms)
        item |= encode({"answer": answer})
        replaces, replaces_from = text_of(item, "replaces"), None
        if replaces is not None and record.state is State.COMPLETED:
            replaces_from = await self._turns.replaces_from(record, place.position, replaces)
        turn = turn_item(
            record, ending, position=place.position, replaces=replaces, replaces_from=replaces_from, answer=answer
        )
        kept = {"Put": {"TableName": self._conversations, "Item": turn}}
        refused = await self._database.transact([self._changed(held, item), kept, *self._limits.charge(step.charge)])
        if refused is not None and answer is not None and not _is(refused.items.get(0), item):
            await self._texts.take_answer_back(place, answer)
        return refused

    def _changed(self, held: _Held, item: Item) -> dict[str, Any]:
        """The part of a transaction that writes a record, if it still is as it was read."""
        return {
            "Update": {
                "TableName": self._table,
                "Key": encode(_key(held.record)),
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                **_change_of(held.item, item),
            }
        }

    # --- reading

    async def read(self, key: RequestKey) -> Record | None:
        held = await self._load(key)
        self._remember(held)
        return None if held is None else held.record

    async def question(self, key: RequestKey) -> Question | None:
        held = self._seen.get(key) or await self._load(key)
        place = None if held is None else held.place
        return None if place is None else await self._texts.question(place)

    async def answer(self, key: RequestKey) -> Content:
        held = await self._load(key)
        place = None if held is None else held.place
        named = None if held is None else text_of(held.item, "answer")
        return NOTHING if place is None or named is None else await self._texts.answer(place, named)

    async def unfinished(self) -> Sequence[Record]:
        """Reads the sparse index whole, which holds only what is unfinished, and those records."""
        return await self._unfinished_at(await self._database.scan(self._table, IndexName=UNFINISHED))

    async def unfinished_in(self, user_id: str, conversation_id: str) -> Sequence[Record]:
        """As the index shows them, which may be a moment late."""
        index = await self._database.query(self._table, "userId = :u", {":u": user_id}, IndexName=UNFINISHED)
        keys = {ordering_key(user_id, conversation_id), ordering_key(user_id, None)}
        found = await self._unfinished_at([item for item in index if item["orderingKey"]["S"] in keys])
        return [record for record in found if record.conversation_id == conversation_id]

    async def _unfinished_at(self, index: Sequence[Item]) -> Sequence[Record]:
        keys = [{"userId": item["userId"]["S"], "requestId": item["requestId"]["S"]} for item in index]
        items = [item for item in await self._database.get_many(self._table, keys) if UNFINISHED in item]
        items.sort(key=lambda item: (int(item[UNFINISHED]["N"]), item["requestId"]["S"]))
        return [decode_item(item) for item in items]

    async def purge(self, *, ended_before_ms: int, refused_before_ms: int) -> int:
        """Does nothing: every ended record has its time to live, and is absent here from that instant on.

        DynamoDB deletes for free what is past it; finding it ourselves would take a scan of the table, or an index.
        """
        return 0

    # --- inner

    async def _load(self, key: RequestKey) -> _Held | None:
        return self._held(await self._database.get(self._table, _named(key), consistent=True))

    def _held(self, item: Item | None) -> _Held | None:
        now_ms = self._clock()
        if item is None or (number_of(item, TTL_ATTRIBUTE) or 2**53) <= _seconds(now_ms):
            return None
        return _Held(item, decode_item(item), now_ms)

    def _remember(self, held: _Held | None) -> None:
        if held is None:
            return
        key = held.record.key
        if held.record.ending is not None:
            self._seen.pop(key, None)
            return
        self._seen[key] = held
        self._seen.move_to_end(key)
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)

    def _alone(self, name: object) -> asyncio.Lock:
        """What keeps this process from being in its own way; between processes the conditions decide."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


def _ahead(ordering_key: str, held: _Held | None, waiting: Sequence[tuple[int, str]]) -> int:
    """Unfinished requests of the key before the one that is held, or before a new one."""
    position = None if held is None else number_of(held.item, UNFINISHED)
    return sum(key == ordering_key and (position is None or at < position) for at, key in waiting)


def _change_of(before: Item, after: Item) -> dict[str, Any]:
    """The update from one item to the other, on the condition that it still is the one."""
    change = update(before, after)
    change["ExpressionAttributeValues"][":seen"] = before["version"]
    change["ExpressionAttributeNames"]["#version"] = "version"
    return {**change, "ConditionExpression": "#version = :seen"}


def _is(found: Item | None, written: Item) -> bool:
    """Whether what stands there is this very write."""
    return found is not None and found.get("version") == written["version"]


def _named(key: RequestKey) -> dict[str, str | int | bool]:
    return {"userId": key.user_id, "requestId": key.request_id}


def _key(record: Record) -> dict[str, str | int | bool]:
    return _named(record.key)


def _seconds(epoch_ms: int) -> int:
    return epoch_ms // 1000


def _new_version() -> str:
    """The name of a write; no two writes have one."""
    return secrets.token_hex(6)


_PER_MS: Final = 1024
"""2**53 is reached in the year 2248."""


class Positions:
    """Gives out rising numbers, made from the time: no counter has to be written.

    In one process in the order of the calls, also within a millisecond or when the clock goes back; between processes
    as well as their clocks agree. The user of a position makes sure by a condition that it is free.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, at_ms: int) -> int:
        """A number above all earlier ones."""
        self._last = max(self._last + 1, at_ms * _PER_MS)
        return self._last
