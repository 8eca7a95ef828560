"""One attempt at a request: the model runs in the request's own task, and anybody may ask it to stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import Struct

from answerback.core import context
from answerback.core.answer import Answer
from answerback.core.budget import NOTHING, Counted, bound
from answerback.core.delivery import MAX_TEXT_BYTES
from answerback.core.instants import LeaptSince
from answerback.core.parts import KINDS
from answerback.core.request import Ending, Fenced, Policy, Question, Record, RequestKey, deadline_ms
from answerback.core.uploads import IMAGE, TEXT, bound_of, kind_of
from answerback.model_guard import Ask
from answerback.ports import (
    File,
    FinalModelError,
    Finish,
    Model,
    ModelError,
    ModelFault,
    ModelLimits,
    Piece,
    Prompt,
    RecentTurns,
    Requests,
    StoredTurn,
    Unavailable,
)
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.protocol.limits import MAX_ANSWER_BYTES
from answerback.service.delivery_sender import DeliverySender, Stream
from answerback.service.uploads import Uploads
from answerback.service.watchers import Audience, Watchers

log = logging.getLogger("answerback.worker")

STOP_MARGIN_MS: Final = 5_000
"""A run ends itself this long before its process must be finished, to store and send the ending."""

STORE_RETRY_S: Final = 0.5

MODEL_STOP_S: Final = 10.0
"""The time a model gets to stop, but at most half a lease, so that the ending can still be stored."""

CLEAN_UP_S: Final = 2.0
"""The time that a model gets after its Finish, before it is told to stop."""

ABANDON_S: Final = 1.0
"""The time that it gets to stop then."""


IMAGE_TOKENS: Final = 1_600
"""Of an image, scaled down as the providers do with a large one."""

DOCUMENT_BYTES_A_TOKEN: Final = 20
"""Bytes of a PDF for a token of what is read out of it: a page of text has some 50 KB and 3,000 tokens."""


class Done(Struct, frozen=True):
    """The queue may forget the request."""


class Retry(Struct, frozen=True):
    """The queue dispatches the request again, not before `at_ms` (epoch)."""

    at_ms: int


class Turn(Struct, eq=False):
    """A request's turn to run: it has its ordering key and a slot of its model until `end` is called.

    `ended` gets the outcome, once. None: the run failed for a reason of ours, and is tried again after a pause.
    `task`: what runs it.
    """

    ended: Callable[[Done | Retry | None], None]
    is_over: bool = False
    is_cancelled: bool = False
    task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """The process ends: stop, and leave the request as it is. Nothing else may cancel the task of a turn."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()

    def end(self, outcome: Done | Retry | None) -> None:
        """The turn is over; only the first call counts."""
        if not self.is_over:
            self.is_over = True
            self.ended(outcome)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Call what is to end the turn, in the task of the caller. The turn ends whatever comes of it."""
        self.task = asyncio.current_task()
        try:
            await work()
        except Exception:
            log.exception("a worker failed; the request is tried again")
            self.end(None)
        except BaseException:
            self.end(None)
            raise

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it in a task of its own."""
        self.task = asyncio.create_task(self.run(work), name="request")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTools:
    """What a run works with."""

    policy: Policy
    max_tokens: int
    context_turns: int
    system: str | None
    requests: Requests
    history: RecentTurns
    models: Mapping[str, Model]
    limits: Mapping[str, ModelLimits]
    delivery_sender: DeliverySender
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    leapt: LeaptSince
    ask: Ask
    abandoned: "Callable[[Run], None]"
    uploads: Uploads | None
    watchers: Watchers | None


class Outcome(Struct, frozen=True, kw_only=True):
    """Why the text stopped."""

    status: Status
    finish: Finish | None = None
    code: ErrorCode | None = None
    retry_after_ms: int | None = None
    fault: ModelFault | None = None


CANCELLED: Final = Outcome(status=Status.CANCELLED)
TIMED_OUT: Final = Outcome(status=Status.FAILED, code=ErrorCode.TIMEOUT)


class Run:
    """The run of one claimed attempt. `turn`: to end when it is over. `question`: what was asked, if it is at hand.

    `produce` runs the model in the task of its caller. `stop` cancels it from outside. A model that does not stop is
    abandoned: `RunTools.abandoned` is called, and what `produce` returns at some later time counts no more.
    """

    def __init__(
        self,
        key: RequestKey,
        record: Record,
        *,
        turn: Turn,
        tools: RunTools,
        now_ms: int,
        question: Question | None = None,
        stop_at_ms: int | None = None,
    ) -> None:
        self.key = key
        self.record = record
        self.turn = turn
        # Unstreamed, it must fit one frame whole.
        self.answer = Answer(record.attempt, max_bytes=MAX_ANSWER_BYTES if record.stream else MAX_TEXT_BYTES)
        self.stream: Stream | None = None
        """What the client gets before the ending: text, signs of life."""
        if record.stream or record.parts is not None:
            self.stream = tools.delivery_sender.stream(record, self.answer)
        self.audience: Audience | None = None
        """Who else is shown it, if anybody is."""
        self._is_shown_whole = self.stream is None or not record.stream
        self._kinds = KINDS.intersection((record.parts if record.stream else None) or ())
        self.is_abandoned = False
        self._question = question
        self._tools = tools
        self._task: asyncio.Task[Any] | None = None
        self._was_cancelled = False
        self._abandoning: asyncio.TimerHandle | None = None
        self.stopped: Outcome | Fenced | None = None
        """Why the text stopped."""
        self._first_text_ms: int | None = None
        self._prompt_asked: Prompt | None = None
        stop_ms = deadline_ms(record, policy=tools.policy, leapt=tools.leapt)
        if stop_at_ms is not None:
            stop_ms = min(stop_ms, stop_at_ms - STOP_MARGIN_MS)
        self.stop_at = tools.monotonic() + (stop_ms - now_ms) / 1000
        """The monotonic instant at which this run must end: the request's deadline, or the process's."""

    # --- the model

    async def produce(self) -> Outcome | Fenced:
        """Run the model. Returns why the text stopped: what `stop` was called with, or how the model ended.

        A cancellation by nobody of us is the model's own: it has failed. Raises: CancelledError: the process ends.
        """
        failed: Outcome | None = None
        task = self._task = self.turn.task
        assert task is not None
        try:
            if self.stopped is None:
                failed = await self._generate()
        except asyncio.CancelledError:
            if not self._was_cancelled:
                failed = Outcome(status=Status.FAILED, code=ErrorCode.MODEL_FAILED)
        finally:
            self._task = None
            if self._abandoning is not None:
                self._abandoning.cancel()
        if task.cancelling():
            if task.cancelling() > self._was_cancelled and not self.turn.is_cancelled:
                log.error("the model has cancelled the task that runs it", extra=self.extra())
            while task.uncancel():
                pass
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # one that was not delivered yet
        if self.turn.is_cancelled:
            raise asyncio.CancelledError
        self.answer.settle()
        if self.stopped is None:
            self.stopped = failed or CANCELLED
        return self.stopped

    async def _generate(self) -> Outcome | None:
        """Ask the model. A prompt that it refuses for its length is asked again with half of the turns, down to none.

        What chose the turns is an estimate: it may be wrong for this model's tokenizer, or its context smaller than the
        operator says. Returns how it failed.
        """
        model = self._tools.models.get(self.record.model)
        prompt = None if model is None else await self._prompt(model)
        if model is None or prompt is None:
            return Outcome(status=Status.FAILED, code=ErrorCode.MODEL_UNAVAILABLE)
        while True:
            self._prompt_asked = prompt
            try:
                await self._tools.ask(model, prompt, self._take)
                return None
            except ModelError as exc:
                fault = exc.fault if isinstance(exc, FinalModelError) else None
                fewer = context.shortened(prompt.messages)
                has_begun = self._first_text_ms is not None or self.answer.length > 0
                is_final = has_begun or len(fewer) == len(prompt.messages)
                if is_final or fault is not ModelFault.TOO_LONG:
                    log.warning("the model failed: %s", exc, extra=self.extra())
                    return Outcome(status=Status.FAILED, code=exc.code, retry_after_ms=exc.retry_after_ms, fault=fault)
            log.info("the prompt is too long for %s; it is asked with fewer turns", model.name, extra=self.extra())
            prompt = replace(prompt, messages=fewer)

    def _take(self, piece: Piece) -> bool:
        """Take what the model says next. Returns whether that is enough: its Finish, or the most that fits."""
        answer, grown = self.answer, 0
        if isinstance(piece, str):
            if self._first_text_ms is None:
                self._first_text_ms = self._tools.clock()
            if not self._is_shown_whole:
                grown = answer.append(piece)
            elif not answer.gather(piece) and self.stream is None:
                return False
        elif isinstance(piece, Finish):
            answer.settle()
            self._finished(Finish(reason="length") if answer.is_full else piece)
            return True
        elif piece.kind in self._kinds:
            grown = answer.append_part(piece.kind, piece.name, piece.text, is_new=piece.new)
        if (stream := self.stream) is not None:
            if grown and not stream.is_waiting:
                self._tools.delivery_sender.wake(stream)
            if self.record.parts is not None:
                stream.spoke(now=self._tools.monotonic())
            if self.audience is not None:
                self._show(self.audience, grown)
        if answer.is_full:
            self._finished(Finish(reason="length"))
        return answer.is_full

    def _show(self, audience: Audience, grown: int) -> None:
        now = self._tools.monotonic()
        for stream in audience.streams.values():
            stream.spoke(now=now)
            if grown and not stream.is_waiting:
                self._tools.delivery_sender.wake(stream)

    def _finished(self, finish: Finish) -> None:
        """The end is known. A model that never returns does not hold it back, and nothing undoes it."""
        self.stopped = Outcome(status=Status.COMPLETED, finish=finish)
        self.stop_at = min(self.stop_at, self._tools.monotonic() + CLEAN_UP_S)

    # --- from outside

    def time_out(self) -> None:
        """The time of the run is over."""
        if self.stopped is None:
            self.stop(TIMED_OUT)
        elif self._task is not None and not self._was_cancelled:
            self._cancel(self._task, ABANDON_S)

    def stop(self, why: Outcome | Fenced) -> None:
        """End the text, unless it has ended."""
        if self.stopped is None:
            self.stopped = why
            if self._task is not None:
                lease_s = self._tools.policy.lease_ms / 1000
                self._cancel(self._task, min(MODEL_STOP_S, lease_s / 2) if lease_s else MODEL_STOP_S)

    def _cancel(self, task: asyncio.Task[Any], within_s: float) -> None:
        """Tell the model to stop; one that does not within that time is not waited for any longer."""
        self._was_cancelled = True
        self._abandoning = asyncio.get_running_loop().call_later(within_s, self._abandon)
        task.cancel()

    def _abandon(self) -> None:
        log.error("the model does not stop when it is asked to; the request ends without it", extra=self.extra())
        self.answer.settle()
        self.answer.is_full = True  # its further text does not belong to the answer
        self.is_abandoned = True
        self._tools.abandoned(self)

    def changed(self, record: Record) -> None:
        """Somebody has changed the record: follow its target, or stop for a cancellation or an ending by others."""
        mine = self.record
        if record.attempt < mine.attempt:
            return  # as it was before it was claimed
        if record.attempt > mine.attempt or record.owner != mine.owner or record.ending is not None:
            self.stop(Fenced(record))
            return
        self.record = record
        if record.watchers != mine.watchers:
            self.look(reads=False)
        if self.stream is not None and record.target is not None and self.stream.retarget(record.target):
            self._tools.delivery_sender.wake(self.stream)
        if record.cancel_requested:
            self.stop(CANCELLED)

    def look(self, *, reads: bool) -> None:
        """Show the answer to those that the record has noted, and (`reads`) to all who watch."""
        if (watchers := self._tools.watchers) is not None:
            self.audience = self.audience or self.new_audience()
            self.audience.record = self.record
            watchers.look(self.audience, reads=reads)

    def new_audience(self) -> Audience:
        """Nobody yet."""
        return Audience(self.record, self.answer, self._question)

    def drop_text(self) -> None:
        """The text cannot be stored: there was none."""
        self.answer = Answer(self.record.attempt, max_bytes=0)
        if self.audience is not None:
            self.audience.restart(self.answer)
        if self.stream is not None:
            self.stream.is_closed = True
            self.stream = None

    # --- what goes in and what comes out

    async def _prompt(self, model: Model) -> Prompt | None:
        """What to ask, however long the store is unavailable: giving up here would cost an attempt and its lease."""
        record, tools = self.record, self._tools
        turns: list[tuple[str, str]] = []
        while True:
            try:
                question = self._question or await tools.requests.question(self.key)
                if question is None:
                    return None
                files: tuple[File, ...] | None = ()
                if question.attachments and tools.uploads is not None:
                    files = await tools.uploads.files_of(record.user_id, question.attachments)
                if files is None:
                    log.error("a file of the question is gone", extra=self.extra())
                    return None
                if not record.standalone and tools.context_turns:
                    recent = await tools.history.recent_turns(
                        record.user_id,
                        record.conversation_id,
                        limit=tools.context_turns,
                        before_request=question.replaces,
                    )
                    # The visible text alone: a model must not take its thoughts and calls for what it has said.
                    turns = [(_with_names(turn), turn.visible) for turn in recent]
                break
            except Unavailable:
                log.warning("the question could not be read yet", extra=self.extra())
                await asyncio.sleep(STORE_RETRY_S)
        limits = tools.limits[record.model]
        most = limits.max_tokens or tools.max_tokens
        max_tokens = min(question.max_tokens or most, most)
        system = tools.system if question.system is None else question.system
        if system is not None and context.is_blank(system):
            system = None
        schema = None if question.format is None else question.format.json_schema
        if schema is not None and not limits.format:
            system, schema = context.told_schema(system, schema), None
        per_byte = limits.tokens_per_byte
        budget = model.context_tokens - max_tokens - context.estimate_tokens(system or "", per_byte)
        if files:
            budget -= sum(_tokens_of(file, per_byte) for file in files)
        messages = context.choose(turns, question.message, budget_tokens=budget, per_byte=per_byte)
        if (hold := record.hold) is not None:  # the model may count no more than what is reserved
            messages = context.within(messages, hold.max_in - bound(system) - _bound_of(files))
            max_tokens = min(max_tokens, hold.max_out)
        return Prompt(
            messages=messages,
            system=system,
            max_tokens=max_tokens,
            user_id=record.user_id,
            conversation_id=record.conversation_id,
            request_id=record.request_id,
            attempt=record.attempt,
            attachments=files,
            json_schema=schema,
        )

    def counted(self, outcome: Outcome) -> Counted | None:
        """What is charged for this attempt; None: all that is reserved for it (rule: given up is paid in full).

        A provider bills an answer that is given up, nobody knows how much of it. A request that it refuses, or that
        fails before its first word, it does not bill.
        """
        finish, asked, limits = outcome.finish, self._prompt_asked, self._tools.limits.get(self.record.model)
        if asked is None:
            return NOTHING
        sent = bound(asked.system, *(one.text for one in asked.messages)) + sum(
            len(one.data) for one in asked.attachments
        )
        came = Counted(sent, len(self.answer.text.encode()))
        if finish is not None and finish.input_tokens is not None and finish.output_tokens is not None:
            return Counted(finish.input_tokens, finish.output_tokens, finish.cached_tokens or 0)
        if limits is not None and limits.stops_billing:
            return came
        if finish is not None:
            return None if self.answer.is_full else came
        failed_first = self._first_text_ms is None and outcome.status is Status.FAILED
        is_refused = (
            outcome.code in (ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_THROTTLED) or outcome.fault is not None
        )
        return NOTHING if failed_first and is_refused else None

    def ending(self, outcome: Outcome) -> Ending:
        """The ending of this attempt."""
        record, now_ms, finish = self.record, self._tools.clock(), outcome.finish
        started_at_ms = record.started_at_ms or now_ms
        return Ending(
            status=outcome.status,
            attempt=record.attempt,
            length=self.answer.length,
            ended_at_ms=now_ms,
            finish_reason=None if finish is None else finish.reason,
            error_code=outcome.code,
            error_detail=None if outcome.fault is None else outcome.fault.value,
            retryable=None if outcome.fault is None else False,
            retry_after_ms=outcome.retry_after_ms,
            input_tokens=None if finish is None else finish.input_tokens,
            output_tokens=None if finish is None else finish.output_tokens,
            cached_tokens=None if finish is None else finish.cached_tokens,
            reasoning_tokens=None if finish is None else finish.reasoning_tokens,
            model=record.model,
            queued_ms=max(0, started_at_ms - record.accepted_at_ms),
            first_text_ms=None if self._first_text_ms is None else max(0, self._first_text_ms - record.accepted_at_ms),
            total_ms=max(0, now_ms - record.accepted_at_ms),
        )

    def extra(self) -> dict[str, str | int]:
        """Whom a line of the log is about."""
        return {"requestId": self.record.request_id, "userId": self.record.user_id, "attempt": self.record.attempt}


def _with_names(turn: StoredTurn) -> str:
    """The question of an earlier turn. Its files are not shown again."""
    return "\n".join((turn.question, *(f"[attachment {one.name}]" for one in turn.attachments)))


def _bound_of(files: Sequence[File]) -> int:
    """Tokens that a budget has reserved for them."""
    return sum(bound_of(file.media_type, len(file.data)) for file in files)


def _tokens_of(file: File, per_byte: float) -> int:
    """What a file takes of the context, guessed high."""
    if kind_of(file.media_type) == TEXT:
        return context.estimate_tokens(file.data.decode(errors="replace"), per_byte)
    return IMAGE_TOKENS if kind_of(file.media_type) == IMAGE else len(file.data) // DOCUMENT_BYTES_A_TOKEN
