"""Questions: each is accepted once or refused, and a repeat is told how it stands. Each may be cancelled.

A question whose ordering key is free, and for whose model there is a slot in this process, is claimed in the same
transaction that accepts it. Then the task that received its frame runs it. Otherwise it waits in the queue.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

from msgspec.structs import replace as with_fields

from answerback.core import admission, budget
from answerback.core import request as changes
from answerback.core.keys import fingerprint, kinds, normal_id, ordering_key, traceparent
from answerback.core.request import (
    Conflict,
    DeliveryTarget,
    Ended,
    Pending,
    Question,
    Record,
    RequestKey,
    Unknown,
)
from answerback.core.transitions import State
from answerback.ports import (
    Accepted,
    Admission,
    Blocked,
    Connection,
    Existing,
    Full,
    Limited,
    OverBudget,
    Queue,
    Requests,
    Unavailable,
)
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import CancelMessage, MessageAccepted, SendMessage
from answerback.service.attempt import Run
from answerback.service.delivery_sender import DeliverySender, let_go
from answerback.service.front_settings import FrontSettings
from answerback.service.observer import Observer
from answerback.service.uploads import Uploads
from answerback.service.watchers import Watchers
from answerback.service.worker import Worker

ANONYMOUS: Final = "anonymous"
BLOCKED: Final = "The operator has blocked this user."

REFUSALS_PER_MINUTE: Final = 100
"""Refusals and early cancellations of one user that are stored. Beyond them the answer is an `error`, which ends and
stores nothing."""


class Questions:
    """Takes `sendMessage` and `cancelMessage`.

    `worker`: the one of this process, if it has one. It is told of every record that is stored or changed.
    """

    def __init__(
        self,
        *,
        settings: FrontSettings,
        requests: Requests,
        queue: Queue,
        delivery_sender: DeliverySender,
        observer: Observer,
        clock: Callable[[], int],
        worker: Worker | None = None,
        uploads: Uploads | None = None,
        watchers: Watchers | None = None,
    ) -> None:
        self._settings = settings
        self._watchers = watchers
        self._requests = requests
        self._queue = queue
        self._worker = worker
        self._uploads = uploads
        self._delivery_sender = delivery_sender
        self._observer = observer
        self._clock = clock
        self._refusals = admission.MinuteCounts()

    # --- a new question

    async def ask(self, connection: Connection, frame: SendMessage, now_ms: int) -> Coroutine[Any, Any, None] | None:
        """Accept a question or refuse it. Returns the run of its request, if it is the caller's to await.

        Raises: Unavailable: whether the question was stored is not known. The same frame may be sent again.
        """
        record, question = self._new_request(connection, frame, now_ms)
        refusal = self._why_not(connection, frame)
        refusal = await self._why_no_files(record, frame) if refusal is None and frame.attachments else refusal
        quota, team = self._settings.quota, connection.team
        quota = quota if team is None else replace(quota, team=team)
        if refusal is not None:
            await self.refuse(connection, record, *refusal)
            return None
        worker = self._worker
        place = False if worker is None else worker.begin(record, question)
        run = place if isinstance(place, Run) else None
        admitted: Admission | None = None
        keeps_place = False
        try:
            admitted = await self._requests.accept(
                record if run is None else run.record, question, quota, now_ms=now_ms
            )
            # The same frame came over two connections, and the other one was stored: it has this one's place.
            keeps_place = isinstance(admitted, Existing) and self._waits_as(record, admitted.record)
        except (Unavailable, asyncio.CancelledError):
            keeps_place = True
            raise
        finally:
            if worker is not None and not isinstance(admitted, Accepted):
                worker.give_back(record.key, place, may_be_stored=keeps_place)
            elif worker is not None and run is not None and isinstance(admitted, Accepted) and admitted.is_behind:
                worker.give_back(record.key, run, may_be_stored=True)  # it is claimed when its turn comes
                run = None
        if not isinstance(admitted, Accepted):
            if place is True and not keeps_place:
                await self._queue.forget(record.key)  # it is not to be answered a second time when its turn comes
            await self._not_accepted(connection, record, admitted)
            return None
        if run is not None and admitted.hold is not None:
            run.record = with_fields(run.record, hold=admitted.hold)
        accepted = _accepted(record, admitted.position)
        if run is None:
            await self._enqueue(record)
            self.changed(record)
        self._observer.accepted(record)
        is_sent = await self._delivery_sender.offer(connection.connection_id, accepted)
        if run is not None and worker is not None:
            attempt = partial(worker.attempt, run)
            if is_sent:
                return run.turn.run(attempt)
            run.turn.start(attempt)  # the answer does not wait for a slow reader
        if not is_sent:
            await self._delivery_sender.reply(connection.connection_id, accepted)
        return None

    def _waits_as(self, new: Record, stored: Record) -> bool:
        """Whether a stored request is to run where this one stands in line."""
        is_same_line = (stored.ordering_key, stored.model) == (new.ordering_key, new.model)
        return is_same_line and self._is_to_run_here(stored)

    def _is_to_run_here(self, stored: Record) -> bool:
        return stored.ending is None and self._worker is not None and self._worker.runs_here(stored.key)

    async def _not_accepted(
        self, connection: Connection, record: Record, admitted: Existing | Limited | Blocked | Full | OverBudget
    ) -> None:
        match admitted:
            case Existing(record=existing, position=position):
                await self._attach(connection, record, existing, position)
            case Limited(retry_after_ms=retry_after_ms):
                await self.refuse(connection, record, ErrorCode.RATE_LIMITED, None, retry_after_ms)
            case Blocked():
                await self.refuse(connection, record, ErrorCode.FORBIDDEN, BLOCKED)
            case Full():
                await self.refuse(connection, record, ErrorCode.OVERLOADED)
            case OverBudget(detail=detail, never=True):
                await self.refuse(connection, record, ErrorCode.FORBIDDEN, detail, reason=budget.REASON)
            case OverBudget():
                await self.refuse(
                    connection,
                    record,
                    ErrorCode.RATE_LIMITED,
                    admitted.detail,
                    admitted.retry_after_ms,
                    reason=budget.REASON,
                    opens_at_ms=admitted.opens_at_ms,
                )

    def _why_not(self, connection: Connection, frame: SendMessage) -> tuple[ErrorCode, str | None] | None:
        """The reasons to refuse a new request that need no store."""
        if frame.user_id is not None and normal_id(frame.user_id) != connection.user_id:
            return ErrorCode.USER_MISMATCH, None
        if self.is_expired(connection):
            return ErrorCode.UNAUTHORIZED, None
        if frame.model is not None and frame.model not in self._settings.models:
            return ErrorCode.FORBIDDEN, f"This model is not offered. Models: {', '.join(self._settings.models)}."
        if frame.system is not None and self._settings.lock_system:
            return ErrorCode.FORBIDDEN, 'The operator has set the system prompt. Leave "system" out.'
        if frame.replaces is not None and frame.conversation_id is None:
            return ErrorCode.INVALID_FRAME, '"replaces" needs the "conversationId" of the request that it replaces.'
        return None

    async def _why_no_files(self, record: Record, frame: SendMessage) -> tuple[ErrorCode, str] | None:
        """Why a new question cannot have its files. A known one has them: they may be too old for others by now."""
        if self._uploads is None:
            return ErrorCode.FORBIDDEN, 'This server takes no files. Leave "attachments" out.'
        if (why := self._settings.why_no_files(record.model, frame.attachments)) is not None:
            return ErrorCode.FORBIDDEN, why
        missing = await self._uploads.why_not(record.user_id, frame.attachments)
        return None if missing is None or await self._requests.read(record.key) is not None else missing

    def is_expired(self, connection: Connection) -> bool:
        """Whether the token has expired. Running answers go on, and nothing new starts until it is renewed."""
        return connection.token_expires_at_ms is not None and self._clock() >= connection.token_expires_at_ms

    def _new_request(self, connection: Connection, frame: SendMessage, now_ms: int) -> tuple[Record, Question]:
        user_id = connection.user_id or ANONYMOUS
        conversation_id = None if frame.conversation_id is None else normal_id(frame.conversation_id)
        model = frame.model or self._settings.models[0]
        question = Question(
            message=frame.message,
            model=model,
            system=frame.system,
            max_tokens=None if frame.max_tokens is None else min(frame.max_tokens, self._settings.tokens_of(model)),
            replaces=frame.replaces,
            attachments=frame.attachments,
            format=frame.format,
        )
        record = Record(
            user_id=user_id,
            request_id=frame.request_id,
            session_id=connection.session_id,
            conversation_id=conversation_id or normal_id(connection.session_id),
            standalone=conversation_id is None,
            ordering_key=ordering_key(user_id, conversation_id),
            fingerprint=fingerprint(frame),
            model=question.model,
            stream=frame.stream,
            accepted_at_ms=now_ms,
            queue_no=0 if self._settings.queue_survives else 1,
            target=target_of(connection),
            parts=None if frame.parts is None else kinds(frame.parts),
            traceparent=None if frame.traceparent is None else traceparent(frame.traceparent),
        )
        return record, question

    async def _enqueue(self, record: Record) -> None:
        """Put the request on the queue. `messageAccepted` may follow only after this.

        The record does not note it: a worker claims it within moments, and what waits longer the janitor puts again.
        """
        if record.queue_no == 0 or not self._settings.queue_survives:
            await self._queue.put(record)

    # --- repeats and refusals

    async def _attach(self, connection: Connection, new: Record, existing: Record, position: int) -> None:
        """Answer a repeated request id with its request, running or ended. It never runs a second time."""
        # The record of an early cancellation has no payload: it answers any.
        if existing.session_id != new.session_id or existing.fingerprint not in ("", new.fingerprint):
            if self._is_to_run_here(existing):
                await self._enqueue(existing)  # it had this one's place in line, if both came at once
            await self._conflict(connection, new.request_id)
            return
        self._observer.attached(existing)
        match await self.retarget(connection, new.key, attempt=0, offset=0):
            case Pending(record=record):
                if record.state is State.ACCEPTED or (self._worker is not None and self._worker.is_local):
                    await self._enqueue(record)
                await self._delivery_sender.reply(connection.connection_id, _accepted(record, position))
            case Ended(record=record):
                await self.serve(record, connection, 0, 0)
            case Conflict() | Unknown():
                await self._conflict(connection, new.request_id)

    async def retarget(
        self, connection: Connection, key: RequestKey, *, attempt: int, offset: int
    ) -> Pending | Ended | Conflict | Unknown:
        """Send the answer to this connection from now on, if its session asked for it."""
        outcome = await self._requests.change(
            key,
            partial(
                changes.retarget,
                session_id=connection.session_id,
                connection_id=connection.connection_id,
                generation=connection.generation or 0,
                attempt=attempt,
                offset=offset,
            ),
        )
        if isinstance(outcome, Pending):
            self.changed(outcome.record)
        return outcome

    def changed(self, record: Record) -> None:
        """Tell the worker of this process that the record of a request, which it may run, was changed."""
        if self._worker is not None:
            self._worker.changed(record)

    async def refuse(
        self,
        connection: Connection,
        new: Record,
        code: ErrorCode,
        detail: str | None = None,
        retry_ms: int | None = None,
        *,
        reason: str | None = None,
        opens_at_ms: int | None = None,
    ) -> None:
        """Store the refusal and send it (rule: every answered id has a record). A known request shows its own state.

        That a file is missing is no ending: it would use up an id that waited in an outbox for days.
        """
        self._observer.refused(code)
        if code is ErrorCode.ATTACHMENT_MISSING:
            await self._delivery_sender.error(connection.connection_id, code, detail=detail, request_id=new.request_id)
            return
        if not await self.may_keep(connection, new.request_id):
            return
        now_ms = self._clock()
        refuse = partial(
            changes.refuse,
            refusal_record=new,
            now_ms=now_ms,
            code=code,
            detail=detail,
            retry_after_ms=retry_ms,
            reason=reason,
            opens_at_ms=opens_at_ms,
        )
        outcome = await self._requests.change(new.key, refuse)
        known = outcome.record
        if known.session_id != new.session_id or known.fingerprint not in ("", new.fingerprint):
            await self._conflict(connection, new.request_id)
        elif isinstance(outcome, Ended):
            await self.serve(known, connection, 0, 0)
        else:
            await self._attach(connection, new, known, 0)

    async def may_keep(self, connection: Connection, request_id: str) -> bool:
        """Whether one more record of something never accepted may be stored for this user. If not, send that.

        Without this limit a client could fill the disk with refusals as fast as it can send.
        """
        now_ms = self._clock()
        if self._refusals.count(user_of(connection), now_ms) <= REFUSALS_PER_MINUTE:
            return True
        await self._delivery_sender.error(
            connection.connection_id,
            ErrorCode.RATE_LIMITED,
            request_id=request_id,
            retry_after_ms=admission.retry_after_ms(now_ms),
        )
        return False

    async def cancel(self, connection: Connection, frame: CancelMessage) -> None:
        """Cancel a request, or what arrives under its id later. Raises: Unavailable."""
        now_ms = self._clock()
        refusal_record = self.refusal_record(connection, frame.request_id)
        if await self._requests.read(refusal_record.key) is None and not await self.may_keep(
            connection, frame.request_id
        ):
            return
        outcome = await self._requests.change(
            refusal_record.key, partial(changes.cancel, refusal_record=refusal_record, now_ms=now_ms)
        )
        match outcome:
            case Pending(record=record):
                # The answer to the cancellation is the request's ending: it goes to the connection that cancelled.
                if record.target is None or record.target.connection_id != connection.connection_id:
                    retargeted = await self.retarget(connection, record.key, attempt=0, offset=0)
                    if isinstance(retargeted, Ended):
                        await self.serve_ending(retargeted.record, connection)
                self.changed(record)
            case Ended(record=record, is_new=is_new):
                if is_new and record.ending is not None:
                    self._observer.ended(record, record.ending)
                await self.serve_ending(record, connection)
                if is_new:
                    await self._queue.forget(record.key)
                    await let_go(asyncio.create_task(self._delivery_sender.tell_watchers(outcome)))
            case Conflict():
                await self._conflict(connection, frame.request_id)

    async def serve_ending(self, record: Record, connection: Connection) -> None:
        """Send the terminal frame alone. A streaming client that lacks text asks for it."""
        ending = record.ending
        if ending is not None:
            await self.serve(record, connection, ending.attempt, ending.length)

    def refusal_record(self, connection: Connection, request_id: str) -> Record:
        user_id = user_of(connection)
        return Record(
            user_id=user_id,
            request_id=request_id,
            session_id=connection.session_id,
            conversation_id=normal_id(connection.session_id),
            standalone=True,
            ordering_key=ordering_key(user_id, None),
            fingerprint="",
            model="",
            accepted_at_ms=self._clock(),
            target=target_of(connection),
        )

    async def _conflict(self, connection: Connection, request_id: str) -> None:
        await self._delivery_sender.error(connection.connection_id, ErrorCode.REQUEST_CONFLICT, request_id=request_id)

    async def serve(self, record: Record, connection: Connection, attempt: int, offset: int) -> None:
        """Send a stored ending, and its text from `offset` on. Raises: Unavailable."""
        target = target_of(connection, attempt=attempt, offset=offset)
        await self._delivery_sender.serve(changes.aged(record, now_ms=self._clock()), target)

    async def serve_parked(self, key: RequestKey, connection: Connection, attempt: int, offset: int) -> None:
        """Serve an ended request that was parked with this connection, if it is its session's, or watched by it.

        Raises: Unavailable.
        """
        record = await self._requests.read(key)
        if record is None or record.ending is None or normal_id(record.user_id) != connection.user_id:
            return
        if record.session_id == connection.session_id:
            await self.serve(record, connection, attempt, offset)
        elif self._watchers is not None:
            await self._watchers.serve(record, connection.session_id, attempt, offset)


def _accepted(record: Record, position: int) -> MessageAccepted:
    return MessageAccepted(request_id=record.request_id, conversation_id=record.conversation_id, position=position)


def user_of(connection: Connection) -> str:
    """Whose connection it is."""
    return connection.user_id or ANONYMOUS


def target_of(connection: Connection, *, attempt: int = 0, offset: int = 0) -> DeliveryTarget:
    """The connection as the first target of a request."""
    return DeliveryTarget(
        no=1,
        connection_id=connection.connection_id,
        generation=connection.generation or 0,
        attempt=attempt,
        offset=offset,
    )
