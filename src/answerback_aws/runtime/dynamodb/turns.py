"""The turns of conversations on DynamoDB: the model's context, and those that Aurora lacks.

A turn is three items that stand beside each other (see tables.py): its question, its answer, and how it ended. The
texts are there once, and are what `Requests.question` and `Requests.answer` read as well. They are written before the
record names them, each under a name of its own, so what is not named is not there; `expiresAt` clears it away.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeAlias

from answerback.core.parts import NOTHING, Content
from answerback.core.request import Ending, Question, Record
from answerback.ports import StoredTurn, Unavailable
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.stores.encoding import content_of, decode_question, encode_marks, encode_options
from answerback_aws.runtime.dynamodb import tables as places
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import Item, Value, encode, number_of, text_of
from answerback_aws.runtime.dynamodb.tables import ANSWER, QUESTION, SYSTEM, TTL_ATTRIBUTE, TURN, UNARCHIVED, Place

TURNS_MS: Final = 90 * 24 * 3_600_000
"""How long a turn is there for the model. To delete each one sooner costs more than to keep it that long."""

_ITEMS_A_TURN: Final = 3
_END: Final = 2**53
"""Above every position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTurn:
    """An ended turn that Aurora may not have yet: all that the history keeps of it.

    `turn.position` is unique in its conversation and orders a user's turns by acceptance; it is below 2**53. Of a
    user's pending turns the one with the lower position is to be written first.
    """

    user_id: str
    conversation_id: str
    turn: StoredTurn


class DynamoTurns:
    """`ports.History.recent_turns`, and what writing behind and the history need. Every method may raise Unavailable.

    `turns_ms`: how long a turn stays for the model's context after it has ended and is in Aurora.
    """

    def __init__(self, database: Database, *, turns_ms: int = TURNS_MS) -> None:
        self._database = database
        self._table = database.tables.conversations
        self._turns_ms = turns_ms

    # --- the model's context

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        """Strongly consistent: the turn before may have ended a moment ago."""
        end = _END
        if before_request is not None:
            found = await self._position(user_id, conversation_id, before_request)
            end = _END if found is None else found
        deleted_at_ms = await self.deleted_at_ms(user_id, conversation_id) or -1
        chosen: list[StoredTurn] = []
        bound, has_more = _END, True
        while has_more and len(chosen) < limit:
            page, has_more = await self._page(user_id, conversation_id, bound, limit - len(chosen))
            for position, items in page:
                if position >= bound or len(chosen) == limit:
                    continue  # superseded by a turn of this page; or enough
                bound = position
                turn = items.get(TURN)
                if turn is None or text_of(turn, "status") != Status.COMPLETED:
                    continue
                if _asked_at_ms(turn) <= deleted_at_ms:
                    has_more = False
                    break
                bound = min(position, number_of(turn, "replacesFrom") or position)
                shown = _stored(turn, items)
                if position < end and shown is not None:
                    chosen.append(shown)
        return chosen[::-1]

    async def newest_turn(self, user_id: str, conversation_id: str) -> str | None:
        """The request id of the newest ended turn; strongly consistent. Behind an ended turn it reads no text."""
        limit, deleted_at_ms = 1, -1
        start: dict[str, Any] = {}
        while True:
            found, has_more = await self._newest(_all_of(user_id, conversation_id), limit, **start)
            for item in found:
                name = places.kind_of(item["item"]["S"])
                if name is None:
                    deleted_at_ms = number_of(item, "deletedAtMs") or number_of(item, "goneAtMs") or -1
                elif name[1] == TURN:
                    return item["requestId"]["S"] if _asked_at_ms(item) > deleted_at_ms else None
            if not has_more:
                return None
            start = {"ExclusiveStartKey": {name: found[-1][name] for name in ("userId", "item")}}
            limit *= 4

    async def replaces_from(self, record: Record, position: int, replaces: str) -> int | None:
        """From which position on the turn at `position` supersedes the turns before it; None: it supersedes none.

        What was superseded stays so: if the range holds a turn that had replaced still older ones, it begins there.
        """
        start = await self._position(record.user_id, record.conversation_id, replaces)
        if start is None or start >= position:
            return None
        deleted_at_ms = await self.deleted_at_ms(record.user_id, record.conversation_id) or -1
        between = _between(record.user_id, record.conversation_id, start, position)
        items = await self._database.query(self._table, *between, ConsistentRead=True)
        turns = {number: group[TURN] for number, group in _by_position(items) if TURN in group}
        replaced = turns.get(start)
        if replaced is None or text_of(replaced, "requestId") != replaces or _asked_at_ms(replaced) <= deleted_at_ms:
            return None
        return min([start, *(_replaces_from(turn) for turn in turns.values())])

    async def _page(
        self, user_id: str, conversation_id: str, bound: int, turns: int
    ) -> tuple[Sequence[tuple[int, dict[str, Item]]], bool]:
        """About so many whole turns below `bound`, newest first, and whether there may be more."""
        limit = turns * _ITEMS_A_TURN + 1
        while True:
            found, has_more = await self._newest(_between(user_id, conversation_id, 0, bound), limit)
            groups = _by_position(found)
            if not has_more:
                return groups, False
            if len(groups) > 1:
                return groups[:-1], True  # the last one may be cut
            limit *= 2

    async def _newest(self, which: "Condition", limit: int, **start: Any) -> tuple[Sequence[Item], bool]:
        condition, values = which
        return await self._database.query_page(
            self._table, condition, values, limit=limit, newest_first=True, ConsistentRead=True, **start
        )

    async def _position(self, user_id: str, conversation_id: str, request_id: str) -> int | None:
        """Where the request stands in the conversation, superseded or not, ended or not."""
        key = {"userId": user_id, "requestId": request_id}
        record = await self._database.get(self._database.tables.requests, key, consistent=True)
        if record is not None and text_of(record, "conversationId") == conversation_id:
            return number_of(record, "position")
        # Its record is gone: every turn has to be read. Seldom: an edit of a question that is a week old.
        turns = await self._all_turns(user_id, conversation_id)
        return max((at for at, turn in turns if text_of(turn, "requestId") == request_id), default=None)

    async def _all_turns(self, user_id: str, conversation_id: str) -> list[tuple[int, Item]]:
        condition, values = _all_of(user_id, conversation_id)
        ended = "attribute_exists(acceptedAtMs)"
        found = await self._database.query(self._table, condition, values, FilterExpression=ended, ConsistentRead=True)
        return [(at, items[TURN]) for at, items in _by_position(found) if TURN in items]

    # --- what Aurora does not have yet

    async def pending(self, *, user_id: str | None = None, limit: int = 100) -> Sequence[PendingTurn]:
        """Turns that are not settled, of one user or of all, each user's in the order accepted.

        At least once: a turn may come again until it is settled. One that ended less than a second ago may
        be missing (the index follows the table with a delay). Costs the index's items (half a unit for 4 KB of them)
        and two units for a turn of usual length.
        """
        found: Sequence[Item]
        if user_id is None:
            found = await self._database.scan(self._table, at_least=limit, IndexName=UNARCHIVED)
        else:
            found, _ = await self._database.query_page(
                self._table, "userId = :u", {":u": user_id}, limit=limit, IndexName=UNARCHIVED
            )
        return await self._pending_turns(sorted(found, key=lambda turn: number_of(turn, UNARCHIVED) or 0)[:limit])

    async def newest_pending(self, user_id: str, conversation_id: str, *, turns: int) -> Sequence[PendingTurn]:
        """Those of about so many newest turns of the conversation that are not settled, the oldest first.

        Strongly consistent: it has what ended a moment ago, which the index of `pending` may not show yet.
        """
        page, _ = await self._page(user_id, conversation_id, _END, turns)
        ended = [items[TURN] for _, items in page if UNARCHIVED in items.get(TURN, {})]
        return await self._pending_turns(ended[::-1])

    async def present(self, entries: Sequence[PendingTurn]) -> Sequence[PendingTurn]:
        """Those of `entries` that are pending now. Strongly consistent: not those of a user who was erased."""
        keys = [Place(entry.user_id, entry.conversation_id, entry.turn.position).key(TURN) for entry in entries]
        found = await self._database.get_many(self._table, keys)
        pending = {(turn["userId"]["S"], turn["item"]["S"]) for turn in found if UNARCHIVED in turn}
        return [entry for entry, key in zip(entries, keys, strict=True) if (key["userId"], key["item"]) in pending]

    async def waiting(self, *, limit: int) -> Sequence[int]:
        """When the turns ended that are not settled, at least `limit` of them if there are; none of their texts."""
        found = await self._database.scan(self._table, at_least=limit, IndexName=UNARCHIVED)
        return [int(turn["endedAtMs"]["N"]) for turn in found]

    async def _pending_turns(self, ended: Sequence[Item]) -> Sequence[PendingTurn]:
        keys = [place.key(kind) for turn in ended for place, kind in _texts_of(turn)]
        texts = {
            (text["userId"]["S"], text["item"]["S"]): text for text in await self._database.get_many(self._table, keys)
        }
        entries: list[PendingTurn] = []
        for turn in ended:
            items: dict[str, Item] = {}
            for place, kind in _texts_of(turn):
                key = place.key(kind)
                text = texts.get((str(key["userId"]), str(key["item"])))
                if text is not None:
                    items[kind] = text
            stored = _stored(turn, items)
            place = _place_of(turn)
            if stored is None:
                # Its user was erased while the index still showed it: nothing of it may come back.
                await self._database.delete(self._table, place.key(TURN))
            else:
                entries.append(PendingTurn(user_id=place.user_id, conversation_id=place.conversation_id, turn=stored))
        return entries

    async def settled(self, entries: Sequence[PendingTurn]) -> None:
        """These turns are in Aurora, or are not to be kept: they are pending no more. May be said again.

        write_behind   pending ──► Aurora commits ──► settled (if the turn is still there): mark off, time to live on
                             ▲                  ▲
        dies here: pending again        dies here: pending again, and Aurora's statements may be repeated
        """
        await asyncio.gather(*(self._settle(entry) for entry in entries))

    async def _settle(self, entry: PendingTurn) -> None:
        turn = entry.turn
        expires_at = (turn.ended_at_ms + self._turns_ms) // 1000
        key = Place(entry.user_id, entry.conversation_id, turn.position).key(TURN)
        # Erased in between: an update would bring it back.
        exists = "attribute_exists(userId)"
        await self._database.update(self._table, key, "REMOVE unarchived SET expiresAt = :e", exists, e=expires_at)

    # --- deletion

    async def delete_conversation(self, user_id: str, conversation_id: str, *, now_ms: int) -> None:
        """Hide every turn that was asked until now from `recent_turns`. A repeat changes nothing."""
        key = places.deletion_key(user_id, conversation_id)
        gone_ms = await self.deleted_at_ms(user_id, conversation_id)
        if gone_ms is not None:
            newest, _ = await self._page(user_id, conversation_id, _END, 1)
            if not any(TURN in items and _asked_at_ms(items[TURN]) > gone_ms for _, items in newest):
                return
        # It had started again after a deletion: what was before that one stays gone, also when this one is taken back.
        await self._database.put(self._table, encode({**key, "deletedAtMs": now_ms, "goneAtMs": gone_ms}))

    async def restore_conversation(self, user_id: str, conversation_id: str) -> None:
        """Take the deletion back. Answers that came after it to questions from before it are not kept.

        reader     [ sees nothing ............................................ ] sees what there was before
        restore    read mark ──► delete turns that ended behind the mark ──► mark off
                               ▲                                          ▲
                   dies here: as if never begun         dies here: still deleted; again does the rest
        """
        key = places.deletion_key(user_id, conversation_id)
        mark = await self._database.get(self._table, key, consistent=True)
        deleted_at_ms = None if mark is None else number_of(mark, "deletedAtMs")
        if mark is None or deleted_at_ms is None:
            return
        late = [
            Place(user_id, conversation_id, position).key(TURN)
            for position, turn in await self._all_turns(user_id, conversation_id)
            if _asked_at_ms(turn) <= deleted_at_ms < (number_of(turn, "endedAtMs") or 0)
        ]
        await self._database.delete_many(self._table, late)
        gone_ms = number_of(mark, "goneAtMs")
        if gone_ms is None:
            await self._database.delete(self._table, key)
        else:
            await self._database.put(self._table, encode({**key, "goneAtMs": gone_ms}))

    async def deleted_at_ms(self, user_id: str, conversation_id: str) -> int | None:
        """Turns asked until then are deleted, and those asked later started it again; None: none are."""
        found = await self._database.get(self._table, places.deletion_key(user_id, conversation_id), consistent=True)
        if found is None:
            return None
        return number_of(found, "deletedAtMs") or number_of(found, "goneAtMs")

    async def erase_conversation(self, user_id: str, conversation_id: str) -> None:
        """Delete for good every turn that was asked before the deletion, then the mark; nothing if there is none."""
        deleted_at_ms = await self.deleted_at_ms(user_id, conversation_id)
        if deleted_at_ms is None:
            return
        items = await self._database.query(self._table, *_all_of(user_id, conversation_id), ConsistentRead=True)
        old = [
            Place(user_id, conversation_id, position).key(kind)
            for position, group in _by_position(items)
            if TURN in group and _asked_at_ms(group[TURN]) <= deleted_at_ms
            for kind in group
        ]
        await self._database.delete_many(self._table, old)
        await self._database.delete(self._table, places.deletion_key(user_id, conversation_id))


Condition: TypeAlias = tuple[str, dict[str, Value]]
"""A key condition with its values."""


def _all_of(user_id: str, conversation_id: str) -> Condition:
    """The key condition for every item of a conversation, with its values."""
    return "userId = :u AND begins_with(#item, :p)", {":u": user_id, ":p": places.prefix(conversation_id)}


def _between(user_id: str, conversation_id: str, start: int, end: int) -> Condition:
    """The key condition for the items at positions from `start` to below `end`, with its values."""
    bounds = {":from": places.below(conversation_id, start), ":to": places.below(conversation_id, end)}
    return "userId = :u AND #item BETWEEN :from AND :to", {":u": user_id, **bounds}


def turn_item(
    record: Record,
    ending: Ending,
    *,
    position: int,
    replaces: str | None,
    replaces_from: int | None,
    answer: str | None,
) -> dict[str, dict[str, Any]]:
    """The item that says how an accepted request ended. `answer`: the kind of its answer's item; None: no text."""
    return encode(
        {
            **Place(record.user_id, record.conversation_id, position).key(TURN),
            UNARCHIVED: position,
            "conversationId": record.conversation_id,
            "requestId": record.request_id,
            "status": ending.status.value,
            "acceptedAtMs": record.accepted_at_ms,
            "endedAtMs": ending.ended_at_ms,
            "answer": answer,
            "model": ending.model,
            "replaces": replaces,
            "replacesFrom": replaces_from,
            "errorCode": None if ending.error_code is None else ending.error_code.value,
            "inputTokens": ending.input_tokens,
            "outputTokens": ending.output_tokens,
        }
    )


def _stored(turn: Item, items: dict[str, Item]) -> StoredTurn | None:
    """The turn with its texts, which are among `items`; None: its question is gone."""
    question = items.get(QUESTION)
    if question is None:
        return None
    named = text_of(turn, "answer")
    answer = answer_of(None if named is None else items.get(named))
    code = text_of(turn, "errorCode")
    return StoredTurn(
        position=_place_of(turn).position,
        request_id=turn["requestId"]["S"],
        question=question["text"]["S"],
        attachments=decode_question(question["options"]["S"], "", None).attachments,
        answer=answer.text,
        marks=answer.marks,
        status=Status(turn["status"]["S"]),
        accepted_at_ms=_asked_at_ms(turn),
        ended_at_ms=int(turn["endedAtMs"]["N"]),
        model=text_of(turn, "model"),
        replaces=text_of(turn, "replaces"),
        error_code=None if code is None else ErrorCode(code),
        input_tokens=number_of(turn, "inputTokens"),
        output_tokens=number_of(turn, "outputTokens"),
    )


def _by_position(items: Sequence[Item]) -> list[tuple[int, dict[str, Item]]]:
    """The items of each position by their kind, in the order given."""
    named = [(places.kind_of(item["item"]["S"]), item) for item in items]
    parts = [(*name, item) for name, item in named if name is not None]
    return [
        (position, {kind: item for _, kind, item in group})
        for position, group in groupby(parts, key=lambda part: part[0])
    ]


def _place_of(turn: Item) -> Place:
    name = places.kind_of(turn["item"]["S"])
    assert name is not None
    return Place(turn["userId"]["S"], turn["conversationId"]["S"], name[0])


def _texts_of(turn: Item) -> list[tuple[Place, str]]:
    place, answer = _place_of(turn), text_of(turn, "answer")
    return [(place, QUESTION)] if answer is None else [(place, QUESTION), (place, answer)]


def _asked_at_ms(turn: Item) -> int:
    return int(turn["acceptedAtMs"]["N"])


def _replaces_from(turn: Item) -> int:
    return number_of(turn, "replacesFrom") or _END


class Texts:
    """Questions and answers. Every method may raise Unavailable.

    `keep_ms`: how long they stay at least after the request was accepted, and after it has ended.
    """

    def __init__(self, database: Database, *, keep_ms: int) -> None:
        self._database = database
        self._table = database.tables.conversations
        self._keep_ms = keep_ms

    async def put_question(self, place: Place, question: Question, *, request_id: str, accepted_at_ms: int) -> bool:
        """Write the question with its system text; false if the place is taken.

        two processes, one millisecond    A: put question if the place is free ─► true
                                          B: put question if the place is free: refused ─► false, the next place
        """
        time = {TTL_ATTRIBUTE: (accepted_at_ms + self._keep_ms) // 1000}
        text = {"text": question.message, "options": encode_options(question), "requestId": request_id}
        refused = await self._database.put(
            self._table,
            encode({**place.key(QUESTION), **text, **time}),
            "attribute_not_exists(userId)",
        )
        if refused is not None:
            return False
        if question.system:
            await self._database.put(self._table, encode({**place.key(SYSTEM), "text": question.system, **time}))
        return True

    async def take_question_back(self, place: Place, question: Question) -> None:
        """No record names it. If this fails, its time to live does it."""
        with suppress(Unavailable):
            for kind in (QUESTION, SYSTEM) if question.system else (QUESTION,):
                await self._database.delete(self._table, place.key(kind))

    async def question(self, place: Place) -> Question | None:
        found = await self._database.get_immutable(self._table, place.key(QUESTION))
        if found is None:
            return None
        options, message = found["options"]["S"], found["text"]["S"]
        bare = decode_question(options, message, "")
        if bare.system is None:
            return bare
        system = await self._database.get(self._table, place.key(SYSTEM), consistent=True)
        return decode_question(options, message, "" if system is None else system["text"]["S"])

    async def put_answer(self, place: Place, content: Content, *, version: str, ended_at_ms: int) -> str | None:
        """Write an answer under the name of the write that will end the request; its kind, None if there is no text."""
        if not content.text:
            return None
        kind = f"{ANSWER}#{version}"
        time = {TTL_ATTRIBUTE: (ended_at_ms + self._keep_ms) // 1000}
        item = {**place.key(kind), "text": content.text, "marks": encode_marks(content.marks), **time}
        await self._database.put(self._table, encode(item))
        return kind

    async def take_answer_back(self, place: Place, kind: str) -> None:
        """No record names it. If this fails, its time to live does it."""
        with suppress(Unavailable):
            await self._database.delete(self._table, place.key(kind))

    async def answer(self, place: Place, kind: str) -> Content:
        return answer_of(await self._database.get_immutable(self._table, place.key(kind)))


def answer_of(item: Item | None) -> Content:
    """The answer that an item holds."""
    return NOTHING if item is None else content_of(item["text"]["S"], text_of(item, "marks"))
