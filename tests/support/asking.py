"""Records, and an actor that asks a store and answers, in the terms of the domain."""

from functools import partial
from typing import Any

from answerback.core.budget import Counted, Tariff
from answerback.core.keys import ordering_key
from answerback.core.parts import Content, Mark
from answerback.core.request import Ending, Policy, Question, Record, RequestKey, claim, finish
from answerback.ports import Admission, Quota
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, Status


def record_of(request_id: str = "r", user_id: str = "u", *, conversation_id: str = "c", **fields: Any) -> Record:
    """The record of a request that was just accepted. What is not said does not matter."""
    usual = {"session_id": "s", "ordering_key": ordering_key(user_id, conversation_id), "fingerprint": "f" * 64}
    usual |= {"model": "echo", "accepted_at_ms": 0}
    return Record(user_id=user_id, request_id=request_id, conversation_id=conversation_id, **usual | fields)


class Actor:
    """Asks and answers. Its clock stands still, 20 s into a minute, unless a test moves it."""

    POLICY = Policy()

    def __init__(self, store: Any) -> None:
        self.store = store
        self.now_ms = 29_166_667 * 60_000 + 20_000

    def record(self, request_id: str, *, user: str = "ann", conversation: str | None = "c1", **fields: Any) -> Record:
        usual = {"session_id": fields.pop("session", "s1"), "accepted_at_ms": self.now_ms}
        usual["ordering_key"] = ordering_key(user, conversation)
        return record_of(request_id, user, conversation_id=conversation or "s1", **usual | fields)

    async def accept(
        self,
        request_id: str,
        text: str = "What is it?",
        *,
        user: str = "ann",
        conversation: str | None = "c1",
        per_minute: int = 0,
        max_pending: int = 10_000,
        system: str | None = None,
        replaces: str | None = None,
        tariff: Tariff | None = None,
        team: str | None = None,
        attachments: tuple[Attachment, ...] = (),
        **fields: Any,
    ) -> Admission:
        question = Question(
            message=text, model="echo", system=system, max_tokens=7, replaces=replaces, attachments=attachments
        )
        return await self.store.accept(
            self.record(request_id, user=user, conversation=conversation, **fields),
            question,
            Quota(per_minute=per_minute, max_pending=max_pending, tariff=tariff or Tariff(), team=team),
            now_ms=self.now_ms,
        )

    async def claim(self, request_id: str, *, user: str = "ann", owner: str = "w1") -> Any:
        step = partial(claim, owner=owner, now_ms=self.now_ms, policy=self.POLICY)
        return await self.store.change(RequestKey(user, request_id), step)

    async def finish(
        self,
        request_id: str,
        text: str = "An answer.",
        *,
        marks: tuple[Mark, ...] = (),
        user: str = "ann",
        owner: str = "w1",
        attempt: int = 1,
        status: Status = Status.COMPLETED,
        tokens: tuple[int, int] | None = None,
        counted: Counted | None = None,
    ) -> Any:
        ending = Ending(
            status=status,
            attempt=attempt,
            length=len(text),
            ended_at_ms=self.now_ms,
            model="echo",
            error_code=ErrorCode.MODEL_FAILED if status is Status.FAILED else None,
            input_tokens=None if tokens is None else tokens[0],
            output_tokens=None if tokens is None else tokens[1],
        )
        content = Content(text, marks)
        step = partial(finish, owner=owner, attempt=attempt, ending=ending, content=content, counted=counted)
        return await self.store.change(RequestKey(user, request_id), step)

    async def turn(
        self,
        request_id: str,
        question: str = "What is it?",
        answer: str = "An answer.",
        *,
        user: str = "ann",
        conversation: str | None = "c1",
        replaces: str | None = None,
        status: Status = Status.COMPLETED,
        tokens: tuple[int, int] | None = None,
    ) -> None:
        """A whole exchange. The clock goes on by a second."""
        await self.accept(request_id, question, user=user, conversation=conversation, replaces=replaces)
        await self.claim(request_id, user=user)
        self.now_ms += 1000
        await self.finish(request_id, answer, user=user, status=status, tokens=tokens)
