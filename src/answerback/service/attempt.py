"""One attempt at a request: the model on one side, the connection on the other, the record in the middle."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from answerback.core import context
from answerback.core import request as changes
from answerback.core.answer import Answer
from answerback.core.delivery import Delivery, answer_limit
from answerback.core.instants import LeaptSince
from answerback.core.request import Change, Ended, Ending, Fenced, Held, Policy, Question, Record
from answerback.model_guard import ask
from answerback.ports import (
    Finish,
    Model,
    ModelError,
    ModelFault,
    Prompt,
    RecentTurns,
    Requests,
    Unavailable,
    limits_of,
)
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.service.delivery_sender import DeliverySender
from answerback.service.observer import Observer
from answerback.service.wakeup import Notifier, WakeUpTimer

log = logging.getLogger("answerback.worker")

STOP_MARGIN_MS: Final = 5_000
"""A run ends itself this long before its process must be finished, to store and send the ending."""

RENEW_AGAIN_S: Final = 1.0
STORE_RETRY_S: Final = 0.5
ABANDON_S: Final = 3.0
"""After its Finish a model is stopped; one that does not stop then is not waited for any longer."""

MODEL_STOP_S: Final = 10.0
"""The time a model gets to stop, but at most half a lease, so that the ending can still be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The part of WorkerSettings that one attempt needs."""

    policy: Policy
    renew_every_s: float
    poll_every_s: float
    max_tokens: int
    context_turns: int
    system: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTools:
    """What a run works with."""

    requests: Requests
    history: RecentTurns
    models: Mapping[str, Model]
    delivery_sender: DeliverySender
    notifier: Notifier
    observer: Observer
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    leapt: LeaptSince


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """Why the text stopped."""

    status: Status
    finish: Finish | None = None
    code: ErrorCode | None = None
    retry_after_ms: int | None = None
    fault: ModelFault | None = None


class Run:
    """The run of one claimed attempt."""

    def __init__(
        self, record: Record, *, owner: str, settings: RunSettings, tools: RunTools, stop_at_ms: int | None
    ) -> None:
        self._record = record
        self._owner = owner
        self._settings = settings
        self._tools = tools
        self._answer = Answer(record.attempt, max_bytes=answer_limit(record))
        self._timer = WakeUpTimer()
        self._is_notified = False
        self._text_wakes = record.stream
        self._first_text_ms: int | None = None
        self._end: _Outcome | None = None
        self._stop_at = self._stop_time(stop_at_ms)
        now = tools.monotonic()
        self._renew_at, self._poll_at = now + settings.renew_every_s, now + settings.poll_every_s
        self.delivery: Delivery = tools.delivery_sender.delivery(record, self._answer)

    async def to_the_end(self) -> Ended | Fenced:
        """Run the model and store the ending."""
        with self._tools.notifier.listening(self._record.key, self._notified):
            producer = asyncio.create_task(self._produce(), name=f"model {self._record.request_id}")
            producer.add_done_callback(lambda _: self._timer.set())
            try:
                stopped = await self._attend(producer)
            finally:
                await self._stop(producer)
                self._timer.close()
            if isinstance(stopped, Fenced):
                return stopped
            return await self._store(stopped)

    # --- the model's side

    async def _produce(self) -> _Outcome:
        """Append the model's text. Returns how it stopped."""
        prompt = await self._prompt()
        model = self._tools.models.get(self._record.model)
        if model is None or prompt is None:
            return _Outcome(status=Status.FAILED, code=ErrorCode.MODEL_UNAVAILABLE)
        try:
            async with aclosing(ask(model, prompt)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        return self._finished(piece)
                    if self._answer.append(piece):
                        if self._first_text_ms is None:
                            self._first_text_ms = self._tools.clock()
                        if self._text_wakes:
                            self._timer.set()
                    if self._answer.is_full:
                        return self._finished(Finish(reason="length"))
        except ModelError as exc:
            log.warning("the model failed: %s", exc, extra=self._extra())
            return _Outcome(
                status=Status.FAILED,
                code=exc.code,
                retry_after_ms=exc.retry_after_ms,
                fault=getattr(exc, "fault", None),
            )
        raise AssertionError("a guarded model ends with a Finish")

    def _finished(self, finish: Finish) -> _Outcome:
        """The end is known. A model that never returns does not hold it back."""
        self._end = _Outcome(status=Status.COMPLETED, finish=finish)
        self._stop_at = min(self._stop_at, self._tools.monotonic() + ABANDON_S)
        self._timer.set()
        return self._end

    async def _stop(self, producer: "asyncio.Task[_Outcome]") -> None:
        """Stop the model. One that does not stop is abandoned: its further text does not belong to the answer."""
        if producer.done():
            return
        producer.cancel()
        longest_s = MODEL_STOP_S if self._end is None else ABANDON_S
        stop_s = min(longest_s, self._settings.policy.lease_ms / 2000)
        _, running = await asyncio.wait([producer], timeout=stop_s)
        if running:
            self._answer.is_full = True
            log.error("the model does not stop when it is asked to; the request ends without it", extra=self._extra())

    async def _prompt(self) -> Prompt | None:
        """What to ask, however long the store is unavailable: giving up here would cost an attempt and its lease."""
        while True:
            try:
                return await self._read_prompt()
            except Unavailable:
                log.warning("the question could not be read yet", extra=self._extra())
                await asyncio.sleep(STORE_RETRY_S)

    async def _read_prompt(self) -> Prompt | None:
        record, tools = self._record, self._tools
        question = await tools.requests.question(record.key)
        model = tools.models.get(record.model)
        if question is None or model is None:
            return None
        turns: list[tuple[str, str]] = []
        if not record.standalone and self._settings.context_turns:
            recent = await tools.history.recent_turns(
                record.user_id,
                record.conversation_id,
                limit=self._settings.context_turns,
                before_request=question.replaces,
            )
            turns = [(turn.question, turn.answer) for turn in recent]
        return self._fit(question, turns, model)

    def _fit(self, question: Question, turns: list[tuple[str, str]], model: Model) -> Prompt:
        limits = limits_of(model)
        max_tokens = question.max_tokens or limits.max_tokens or self._settings.max_tokens
        max_tokens = min(max_tokens, model.context_tokens // 2)
        system = self._settings.system if question.system is None else question.system
        if context.is_blank(system or ""):
            system = None
        per_byte = limits.tokens_per_byte
        budget = model.context_tokens - max_tokens - context.estimate_tokens(system or "", per_byte)
        return Prompt(
            messages=context.choose(turns, question.message, budget_tokens=budget, per_byte=per_byte),
            system=system,
            max_tokens=max_tokens,
            user_id=self._record.user_id,
            conversation_id=self._record.conversation_id,
            request_id=self._record.request_id,
            attempt=self._record.attempt,
        )

    # --- the connection's and the record's side

    async def _attend(self, producer: "asyncio.Task[_Outcome]") -> _Outcome | Fenced:
        """Send text when it is due, renew the lease, and watch for a cancellation and the deadline."""
        tools = self._tools
        while True:
            is_over = producer.done()  # even then its text need not wait until the ending is stored
            await tools.delivery_sender.flush(self.delivery)
            if is_over:
                return producer.result()
            now = tools.monotonic()
            if now >= self._stop_at:
                return self._end or _Outcome(status=Status.FAILED, code=ErrorCode.TIMEOUT)
            if self._is_notified or now >= min(self._renew_at, self._poll_at):
                held = await self._renew(extends=self._is_notified or now >= self._renew_at)
                if isinstance(held, Fenced):
                    return held
                if self._record.cancel_requested:
                    return _Outcome(status=Status.CANCELLED)
                continue
            due_at = self.delivery.due_at()
            # Text that comes while other text waits for its time goes out with it.
            self._text_wakes = self._record.stream and due_at is None
            wake_at = min(self._stop_at, self._renew_at, self._poll_at, self._stop_at if due_at is None else due_at)
            await self._timer.wait(wake_at - tools.monotonic())

    async def _renew(self, *, extends: bool) -> Held | Fenced | None:
        """Apply what the front has noted since, and extend the lease if asked to. None: the store is unavailable."""
        tools = self._tools
        self._is_notified = False
        owner, attempt, policy = self._owner, self._record.attempt, self._settings.policy
        change: Change[Held | Fenced] = partial(changes.poll, owner=owner, attempt=attempt)
        if extends:
            change = partial(changes.renew, owner=owner, attempt=attempt, now_ms=tools.clock(), policy=policy)
        try:
            outcome = await tools.requests.change(self._record.key, change)
        except Unavailable:
            # The lease may be lost then, and that is safe (rule: attempts, not clocks). So go on.
            log.warning("the lease could not be renewed", extra=self._extra())
            self._poll_at = tools.monotonic() + RENEW_AGAIN_S
            self._renew_at = max(self._renew_at, self._poll_at)
            return None
        now = tools.monotonic()
        self._poll_at = now + self._settings.poll_every_s
        if extends:
            self._renew_at = now + self._settings.renew_every_s
        if isinstance(outcome, Held):
            self._record = outcome.record
            if outcome.record.target is not None:
                self.delivery.retarget(outcome.record.target)
        return outcome

    async def _store(self, outcome: _Outcome) -> Ended | Fenced:
        """Store the ending, however long the store is unavailable: the text is only here."""
        tools, record = self._tools, self._record
        text = self._answer.text
        ending = self._ending(outcome)
        finish = partial(changes.finish, owner=self._owner, attempt=record.attempt, ending=ending, text=text)
        while True:
            try:
                stored = await tools.requests.change(record.key, finish)
                break
            except Unavailable:
                log.warning("the ending could not be stored yet", extra=self._extra())
                await asyncio.sleep(STORE_RETRY_S)
        if isinstance(stored, Ended):
            tools.observer.ended(stored.record, ending)
        return stored

    def _ending(self, outcome: _Outcome) -> Ending:
        record, now_ms = self._record, self._tools.clock()
        finish = outcome.finish
        started_at_ms = record.started_at_ms if record.started_at_ms is not None else now_ms
        return Ending(
            status=outcome.status,
            attempt=record.attempt,
            length=self._answer.length,
            ended_at_ms=now_ms,
            finish_reason=None if finish is None else finish.reason,
            error_code=outcome.code,
            error_detail=None if outcome.fault is None else outcome.fault.value,
            retryable=None if outcome.fault is None else False,
            retry_after_ms=outcome.retry_after_ms,
            input_tokens=None if finish is None else finish.input_tokens,
            output_tokens=None if finish is None else finish.output_tokens,
            model=record.model,
            queued_ms=max(0, started_at_ms - record.accepted_at_ms),
            first_text_ms=None if self._first_text_ms is None else max(0, self._first_text_ms - record.accepted_at_ms),
            total_ms=max(0, now_ms - record.accepted_at_ms),
        )

    def _stop_time(self, stop_at_ms: int | None) -> float:
        """The monotonic instant at which this run must end: the request's deadline or the process's."""
        record, now_ms = self._record, self._tools.clock()
        started_at_ms = record.started_at_ms if record.started_at_ms is not None else now_ms
        stop_ms = started_at_ms + self._settings.policy.answer_timeout_ms + self._tools.leapt(started_at_ms)
        if stop_at_ms is not None:
            stop_ms = min(stop_ms, stop_at_ms - STOP_MARGIN_MS)
        return self._tools.monotonic() + (stop_ms - now_ms) / 1000

    def _notified(self) -> None:
        self._is_notified = True
        self._timer.set()

    def _extra(self) -> dict[str, str | int]:
        return {
            "requestId": self._record.request_id,
            "userId": self._record.user_id,
            "attempt": self._record.attempt,
        }
