"""The texts of requests: each an item of its own, written before the record names it.

Inside the transaction that names it a text would cost twice. So it is put plainly, at a place that nobody else has:
what is never named (a crash, a lost race) is never read, and goes with its time to live if it was not taken back.
"""

from contextlib import suppress

from answerback.core.parts import NOTHING, Content
from answerback.core.request import Question
from answerback.ports import Unavailable
from answerback.stores.encoding import content_of, decode_question, encode_marks, encode_options
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.items import Item, encode, text_of
from answerback_aws.runtime.dynamodb.tables import ANSWER, QUESTION, SYSTEM, TTL_ATTRIBUTE, Place


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
            ConditionExpression="attribute_not_exists(userId)",
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
        """What was asked at this place."""
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
        """The answer of that name."""
        return answer_of(await self._database.get_immutable(self._table, place.key(kind)))


def answer_of(item: Item | None) -> Content:
    """The answer that an item holds."""
    return NOTHING if item is None else content_of(item["text"]["S"], text_of(item, "marks"))
