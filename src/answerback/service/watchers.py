"""Shows what a session asks to the user's other sessions that watch the conversation.

Each of them is one more cursor on the answer. It starts at the first character, and has its own pace, its own end and a
task of its own. Who watches is read when an attempt begins, at each look of a worker with a lease, and once more when
the ending is stored. So a session is shown the answer, or finds its turn in the history when it is told that it watches
(rule: watch, then history). In between the record tells: it notes who begins to watch, and who resumes.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from answerback.core.answer import Answer
from answerback.core.delivery import asked_frame
from answerback.core.instants import iso
from answerback.core.keys import normal_id
from answerback.core.parts import NOTHING
from answerback.core.request import DeliveryTarget, Ended, Question, Record, RequestKey, Watcher
from answerback.ports import History, Requests, StoredConversation, Unavailable, Watching
from answerback.protocol.frames import ConversationChanged
from answerback.service.delivery_sender import DeliverySender, Stream

log = logging.getLogger("answerback.watchers")

LOOKED_AT: Final = 5
"""Conversations in which one is looked for that has just changed: it is the first, unless others change as well."""

MAX_TOLD: Final = 1_000
"""Endings of which it is remembered that they were told: one whose asker does not read is announced several times."""


@dataclass(eq=False)
class Audience:
    """The sessions that are shown an answer besides the one that asked."""

    record: Record
    answer: Answer
    question: Question | None = None
    streams: dict[str, Stream] = field(default_factory=dict)
    orders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The last word of each session: also of one that left before it had a stream."""
    of_list: Sequence[Watcher] = ()
    """Who watches the list of conversations, as of the last look."""
    looks: set[asyncio.Task[bool]] = field(default_factory=set)
    is_closed: bool = False

    def close(self) -> None:
        """Nothing more of this attempt is sent."""
        self.is_closed = True
        for stream in self.streams.values():
            stream.is_closed = True

    def restart(self, answer: Answer) -> None:
        """Another text takes the place of this one."""
        self.close()
        self.answer, self.is_closed = answer, False
        self.streams.clear()
        self.orders.clear()


@dataclass(eq=False, kw_only=True)
class Watchers:
    """Finds who watches, and sends to them. Raises nothing but CancelledError: who misses something asks for it.

    `history`: tells those who watch the list what a conversation is called; None: to ask it costs too much.
    """

    watching: Watching
    requests: Requests
    delivery_sender: DeliverySender
    clock: Callable[[], int]
    history: History | None = None

    def __post_init__(self) -> None:
        self.watched = self.watching.watched
        self._told: OrderedDict[RequestKey, None] = OrderedDict()
        self.delivery_sender.tell_watchers = self.tell

    # --- an answer that grows

    def look(self, audience: Audience, *, reads: bool) -> None:
        """Show the answer to those that its record has noted, and (`reads`) to all who watch. Does not wait."""
        task = asyncio.create_task(self._look(audience, reads=reads), name="look who watches")
        audience.looks.add(task)
        task.add_done_callback(audience.looks.discard)

    async def _look(self, audience: Audience, *, reads: bool) -> bool:
        """Returns whether all could be read that there is to read."""
        has_read = True
        record = audience.record
        found = [*record.watchers]
        try:
            if reads:
                here, audience.of_list = await self._watchers(record.user_id, record.conversation_id)
                found += here
            if all(one.session_id == record.session_id for one in found):
                return True
            if audience.question is None:
                audience.question = await self.requests.question(record.key)
        except Unavailable:
            has_read = False
            log.warning("it could not be read who watches", extra={"requestId": record.request_id})
        except Exception:  # those who are shown it already get their ending all the same
            log.exception("it cannot be read who watches", extra={"requestId": record.request_id})
        if audience.question is not None:  # else it was never asked
            for one in found:
                self._show(audience, one, audience.question)
        return has_read

    def _show(self, audience: Audience, watcher: Watcher, question: Question) -> None:
        """The session is shown the answer from where it stands, unless it has said something later."""
        session_id, record = watcher.session_id, audience.record
        is_known = watcher.order <= audience.orders.get(session_id, (-1, -1))
        if session_id == record.session_id or is_known or audience.is_closed:
            return
        audience.orders[session_id] = watcher.order
        stream = audience.streams.get(session_id)
        if watcher.off:
            if stream is not None:
                stream.left()
            return
        target = DeliveryTarget(
            no=1 if stream is None else stream.target_no + 1,
            connection_id=watcher.connection_id,
            generation=watcher.generation,
            attempt=watcher.attempt,
            offset=watcher.offset,
        )
        if stream is None:
            asked = asked_frame(record, question)
            stream = self.delivery_sender.stream(record, audience.answer, target=target, asked=asked)
            audience.streams[session_id] = stream
        else:
            stream.retarget(target)
        self.delivery_sender.wake(stream)

    async def _watchers(self, user_id: str, conversation_id: str) -> tuple[Sequence[Watcher], Sequence[Watcher]]:
        """Those who watch the conversation, and those who watch the list."""
        name = normal_id(conversation_id)
        found = await self.watching.watchers(normal_id(user_id), name, None, now_ms=self.clock())
        return found[name], found[None]

    # --- an ending

    async def conclude(self, audience: Audience, ended: Ended) -> None:
        """The ending is stored: send the rest to everybody who watches by now. Who does not read is let go."""
        record = audience.record = ended.record
        if audience.looks:
            await asyncio.wait(audience.looks)
        if await self._look(audience, reads=True):
            self._told[record.key] = None
            if len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
        finish = self.delivery_sender.finish_patiently
        ways: list[Awaitable[object]] = [finish(stream, record) for stream in audience.streams.values()]
        if ended.is_new:
            ways.append(self._tell_list(record, audience.of_list))
        for outcome in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("an ending could not be sent", exc_info=outcome, extra={"requestId": record.request_id})

    def may_be_watched(self, record: Record) -> bool:
        """Whether there may be somebody to tell of the request. Nobody is told of one that was never accepted."""
        return bool(record.model) and (bool(record.watchers) or normal_id(record.user_id) in self.watched)

    async def tell(self, ended: Ended) -> None:
        """Show an ending that is stored to those who watch, unless this process has done so."""
        record = ended.record
        if not self.may_be_watched(record) or record.ending is None or (not ended.is_new and record.key in self._told):
            return
        try:
            if not record.watchers and not any(await self._watchers(record.user_id, record.conversation_id)):
                return  # then its text need not be read
            audience = await self._stored(record)
        except Unavailable:
            log.warning("an answer could not be read for those who watch", extra={"requestId": record.request_id})
        else:
            await self.conclude(audience, ended)

    async def serve(self, record: Record, session_id: str, attempt: int, offset: int) -> None:
        """Send a stored ending, and its text from `offset` on, to a session that watches. Raises: Unavailable."""
        found, _ = await self._watchers(record.user_id, record.conversation_id)
        audience = await self._stored(record)
        audience.question = await self.requests.question(record.key)
        for one in found:
            if one.session_id == session_id and audience.question is not None:
                has_any = {"attempt": attempt, "offset": offset} if offset else {}
                self._show(audience, replace(one, **has_any), audience.question)
        for stream in audience.streams.values():
            await self.delivery_sender.finish_patiently(stream, record)

    async def _stored(self, record: Record) -> Audience:
        ending = record.ending
        if ending is None:
            raise ValueError("only an ended request can be shown from the store")
        content = await self.requests.answer(record.key) if ending.length else NOTHING
        return Audience(record, Answer.stored(ending.attempt, content))

    # --- the list of conversations

    async def _tell_list(self, record: Record, found: Sequence[Watcher]) -> None:
        """A conversation has another turn."""
        name, ending = normal_id(record.conversation_id), record.ending
        if ending is None or all(one.off for one in found):
            return
        frame: ConversationChanged | None = None
        try:
            if self.history is None:
                frame = ConversationChanged(conversation_id=name, updated_at=iso(ending.ended_at_ms))
            else:
                user_id = normal_id(record.user_id)
                for one in await self.history.conversations(user_id, before=None, limit=LOOKED_AT):
                    if one.conversation_id == name:
                        frame = _changed(one)
        except Unavailable:
            log.warning("a change of the list could not be told", extra={"requestId": record.request_id})
        if frame is not None:
            await self._hint(found, frame)

    async def tell_changed(self, user_id: str, conversation: StoredConversation) -> None:
        """Hint to everybody who watches the list that the conversation is not as it was. The hint may be lost."""
        if user_id not in self.watched:
            return
        try:
            found = await self.watching.watchers(user_id, None, now_ms=self.clock())
        except Unavailable:
            return
        await self._hint(found[None], _changed(conversation))

    async def _hint(self, found: Sequence[Watcher], frame: ConversationChanged) -> None:
        offer = self.delivery_sender.offer
        await asyncio.gather(*(offer(one.connection_id, frame) for one in found if not one.off))


def _changed(conversation: StoredConversation) -> ConversationChanged:
    return ConversationChanged(
        conversation_id=conversation.conversation_id,
        title=conversation.title,
        turns=conversation.turns,
        updated_at=iso(conversation.updated_at_ms),
        deleted=conversation.deleted,
    )
