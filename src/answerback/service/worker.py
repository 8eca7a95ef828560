"""The worker: claims a request, runs the model, stores the one ending, and sends it.

                    time ->
    record   claim (attempt n, lease) ......... renew ..... renew ..... finish (running + attempt n) -> ended
    model                     text text text text text text text
    socket                    started delta    delta    delta                    rest of the text, messageResponse
    queue    [ its turn ...................................................................................... Done ]

The ending is stored before it is sent, and the turn ends as `Done` only after it was sent (rule: the queue forgets
last). So a crash at any point leaves something that brings the request to its end: the lease or the store's lock, or
the queue's redelivery.

A request that is accepted in this process is claimed with its acceptance (`begin`), and its own task runs it
(`attempt`). Any other is claimed from the store first (`work`).
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from answerback.core import defaults
from answerback.core import request as changes
from answerback.core.instants import LeaptSince, no_leaps
from answerback.core.parts import NOTHING
from answerback.core.request import (
    Busy,
    Change,
    Claimed,
    Ended,
    Fenced,
    Held,
    Policy,
    Question,
    Record,
    RequestKey,
    Unknown,
)
from answerback.model_guard import Ask, ask
from answerback.ports import Model, RecentTurns, Requests, Unavailable, limits_of, within
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback.service.attempt import STORE_RETRY_S, Done, Outcome, Retry, Run, RunTools, Turn
from answerback.service.delivery_sender import DeliverySender, let_go
from answerback.service.observer import Observer
from answerback.service.uploads import Uploads
from answerback.service.watchers import Watchers

log = logging.getLogger("answerback.worker")

RETRY_AFTER_MS: Final = 2_000
RENEW_AGAIN_S: Final = 1.0
CLAIM_S: Final = 10.0
"""How long a claim is repeated where there is no lease to lose."""

WATCH_S: Final = 1.0

LET_GO_MS: Final = 30_000
"""How long after its ending it is offered. A frozen app, its socket open, must not hold its conversation for longer:
another device may have a question in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """`renew_every_s`: how often the lease is extended; that also shows targets and cancellations of other processes.
    None: as `policy` has it. `poll_every_s`: how often these are read in between; None: not at all. Without leases
    nothing is read: the process alone has the store, and `Worker.changed` says what happens to a record.
    """

    policy: Policy = field(default_factory=Policy)
    renew_every_s: float | None = None
    poll_every_s: float | None = None
    max_tokens: int = defaults.MAX_TOKENS
    context_turns: int = defaults.CONTEXT_TURNS
    system: str | None = None


class Local(Protocol):
    """The queue of a process that runs what it accepts."""

    def reserve(self, key: RequestKey, record: Record, /) -> Turn | bool:
        """Let a request that is about to be stored stand in line.

        Returns its turn, if that has come already; True: it waits; False: it stood in line or ran before.
        """

    def is_here(self, key: RequestKey, /) -> bool:
        """Whether a stored request is to run in this process."""


class Worker:
    """Runs requests. `local`: the queue of a process that runs what it accepts. `ask`: calls a model."""

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        requests: Requests,
        history: RecentTurns,
        models: Mapping[str, Model],
        delivery_sender: DeliverySender,
        observer: Observer,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        new_owner: Callable[[], str],
        leapt: LeaptSince = no_leaps,
        local: Local | None = None,
        ask: Ask = ask,
        uploads: Uploads | None = None,
        watchers: Watchers | None = None,
    ) -> None:
        self._settings = settings
        self._watchers = watchers
        self._watched: Container[str] = () if watchers is None else watchers.watched
        self._telling: dict[RequestKey, asyncio.Task[None]] = {}
        """Endings that are sent to those who watch."""
        self._policy = settings.policy
        self._requests = requests
        self._delivery_sender = delivery_sender
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._new_owner = new_owner
        self._leapt = leapt
        self._local = local
        self._tools = RunTools(
            policy=settings.policy,
            max_tokens=settings.max_tokens,
            context_turns=settings.context_turns,
            system=settings.system,
            requests=requests,
            history=history,
            models=models,
            limits={
                name: within(limits_of(model), model.context_tokens, max_tokens=settings.max_tokens)
                for name, model in models.items()
            },
            delivery_sender=delivery_sender,
            clock=clock,
            monotonic=monotonic,
            leapt=leapt,
            ask=ask,
            abandoned=self._abandoned,
            uploads=uploads,
            watchers=watchers,
        )
        self._runs: dict[RequestKey, Run] = {}
        self._claiming: dict[RequestKey, Record | None] = {}
        """What was changed while a request is claimed: the claim may have been written before."""
        self._accepting: set[RequestKey] = set()
        """Requests that wait in the queue while they are stored: their turn may come before that."""
        self._watching: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- ways in

    @property
    def is_local(self) -> bool:
        """Whether its process runs what it accepts."""
        return self._local is not None

    def runs_here(self, key: RequestKey) -> bool:
        """Whether this process is to run a stored request."""
        return self._local is not None and self._local.is_here(key)

    @property
    def running(self) -> Collection[RequestKey]:
        """What this process runs now."""
        return self._runs.keys()

    def begin(self, record: Record, question: Question) -> Run | bool:
        """Let a request that is about to be stored stand in line here, and claim it if its turn has come already.

        Returns its run: the record to store is in it, and `attempt` follows. True: it waits, and `changed` follows.
        False: it stood in line or ran before, or nothing is run here. If it is not stored, `give_back` follows.
        """
        if self._local is None:
            return False
        key, now_ms = record.key, record.accepted_at_ms
        turn = self._local.reserve(key, record)
        if isinstance(turn, bool):
            if turn:
                self._accepting.add(key)
            return turn
        try:
            claim = changes.claim(
                record, owner=self._new_owner(), now_ms=now_ms, policy=self._policy, leapt=self._leapt
            ).outcome
            if not isinstance(claim, Claimed):
                raise ValueError("a new request cannot be claimed")  # the policy leaves it no time
            run = Run(key, claim.record, turn=turn, question=question, tools=self._tools, now_ms=now_ms)
        except BaseException:
            turn.end(Done())
            raise
        self._runs[key] = run
        return run

    def give_back(self, key: RequestKey, run: Run | bool, *, may_be_stored: bool) -> None:
        """What `begin` returned was not accepted, as far as is known: free its ordering key and its slot."""
        if isinstance(run, bool):
            if run:
                self._accepting.discard(key)
            return
        self._leave(run)
        if may_be_stored:
            # Find out by claiming it again (rule: repeat as the same owner).
            run.turn.start(partial(self.work, run.key, run.turn, owner=run.record.owner))
        else:
            run.turn.end(Done())

    def _leave(self, run: Run) -> None:
        if run.stream is not None:
            run.stream.is_closed = True  # else it would go on to say that somebody works on the answer
        if run.audience is not None:
            run.audience.close()
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    async def run(self, key: RequestKey, *, stop_at_ms: int | None = None) -> Done | Retry:
        """`work`, for a queue that waits for the outcome. Raises nothing but CancelledError."""
        ended: asyncio.Future[Done | Retry] = asyncio.get_running_loop().create_future()

        def end(outcome: Done | Retry | None) -> None:
            if not ended.done():
                ended.set_result(outcome or self._later())

        turn = Turn(end)
        turn.start(partial(self.work, key, turn, stop_at_ms=stop_at_ms))
        try:
            outcome = await ended
            if (telling := self._telling.get(key)) is not None:
                await let_go(telling)
            return outcome
        except asyncio.CancelledError:
            turn.cancel()
            raise

    async def work(
        self, key: RequestKey, turn: Turn, *, owner: str | None = None, stop_at_ms: int | None = None
    ) -> None:
        """Claim a stored request and bring it to its end, or as far as `stop_at_ms` allows; end the turn.

        `owner`: of a claim whose answer was lost. `stop_at_ms` (epoch): when this process must be finished. Raises
        nothing but CancelledError, which leaves the record to the next attempt.
        """
        outcome: Done | Retry | None = None
        run: Run | None = None
        self._claiming[key] = None
        try:
            match await self._claim(key, owner or self._new_owner(), is_stored=owner is None):
                case Unknown():
                    # It is being stored, or was, since the claim was written: try again.
                    is_stored = key in self._accepting or self._claiming[key] is not None
                    outcome = None if is_stored else Done()
                case Busy(until_ms=until_ms):
                    outcome = Retry(until_ms)
                case Ended() as ended:
                    # It may have ended before, and its ending may never have been sent (rule: the queue forgets last).
                    is_sent = await self._delivery_sender.announce(ended)
                    outcome = Done() if is_sent or self._is_let_go(ended.record) else None
                case Claimed(record=record) if 0 < record.lease_until_ms <= self._clock():
                    outcome = Retry(self._clock())  # the answer took longer than the lease: another may run it now
                case Claimed(record=record):
                    run = self._runs[key] = Run(
                        key, record, turn=turn, tools=self._tools, now_ms=self._clock(), stop_at_ms=stop_at_ms
                    )
                    if (newer := self._claiming[key]) is not None:
                        run.changed(newer)
        except Unavailable:
            log.warning("the store is unavailable; the request waits", extra={"requestId": key.request_id})
        except Exception:
            log.exception("a run failed; the request is dispatched again", extra={"requestId": key.request_id})
        finally:
            del self._claiming[key]
            if run is None:
                turn.end(outcome)
        if run is not None:
            await self.attempt(run)

    async def attempt(self, run: Run) -> None:
        """Run a claimed attempt in the task of the caller: the model, the ending, the rest of the text; end the turn.

        Raises nothing but CancelledError, which leaves the record to the next attempt.
        """
        self._observer.started(run.record)
        self._watch_one(run)
        if run.stream is not None:
            self._delivery_sender.wake(run.stream)
        if run.record.watchers or run.record.user_id in self._watched:
            run.look(reads=True)
        keeping = asyncio.create_task(self._keep(run)) if self._policy.lease_ms else None
        stopped: Outcome | Fenced | None = None
        try:
            stopped = await run.produce()
        except Exception:
            log.exception("a run failed; the request is dispatched again", extra=run.extra())
        except asyncio.CancelledError:
            if not run.is_abandoned:
                self._leave(run)
                run.turn.end(None)
            raise
        finally:
            if keeping is not None:
                keeping.cancel()
        if not run.is_abandoned:
            await self._conclude(run, stopped)

    def _abandoned(self, run: Run) -> None:
        """The model holds the request's task: the request comes to its end in another one."""
        task = asyncio.create_task(self._conclude(run, run.stopped), name="end without the model")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def changed(self, record: Record) -> None:
        """The record of a request is stored, or was changed: tell its run, if it is in this process.

        Where front and worker are different processes nobody calls this, and the run sees it when it polls or renews.
        """
        self._accepting.discard(record.key)
        run = self._runs.get(record.key)
        if run is not None:
            run.changed(record)
        elif record.key in self._claiming:
            self._claiming[record.key] = record

    # --- the record

    async def _claim(self, key: RequestKey, owner: str, *, is_stored: bool) -> Claimed | Busy | Ended | Unknown:
        """Claim under one owner token, and repeat that until an answer arrives (rule: repeat as the same owner).

        What may not be stored is read first: to claim nothing is a write that succeeds, and would hide from operators
        that the store cannot write.
        """
        for pause_s in (*claim_pauses_s(self._policy), None):
            try:
                if not is_stored and await self._requests.read(key) is None:
                    return Unknown()
                claim = partial(
                    changes.claim, owner=owner, now_ms=self._clock(), policy=self._policy, leapt=self._leapt
                )
                return await self._requests.change(key, claim)
            except Unavailable:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError

    async def _keep(self, run: Run) -> None:
        """Extend the lease, and see what others have noted in the record."""
        settings, key = self._settings, run.key
        owner, attempt = run.record.owner, run.record.attempt
        renew_every_s = self._policy.renew_every_s if settings.renew_every_s is None else settings.renew_every_s
        poll_every_s = renew_every_s if settings.poll_every_s is None else settings.poll_every_s
        renew_at, poll_at = self._monotonic() + renew_every_s, self._monotonic() + poll_every_s
        while True:
            await asyncio.sleep(min(renew_at, poll_at) - self._monotonic())
            extends = self._monotonic() >= renew_at
            change: Change[Held | Fenced] = partial(changes.poll, owner=owner, attempt=attempt)
            if extends:
                change = partial(changes.renew, owner=owner, attempt=attempt, now_ms=self._clock(), policy=self._policy)
            try:
                outcome = await self._requests.change(key, change)
            except Unavailable:
                # The lease may be lost then, and that is safe (rule: attempts, not clocks). So go on.
                log.warning("the lease could not be renewed", extra=run.extra())
                poll_at = self._monotonic() + RENEW_AGAIN_S
                renew_at = max(renew_at, poll_at)
                continue
            poll_at = self._monotonic() + poll_every_s
            if extends:
                renew_at = self._monotonic() + renew_every_s
            if isinstance(outcome, Held):
                run.changed(outcome.record)
                if extends and run.record.user_id in self._watched:
                    run.look(reads=True)
            else:
                run.stop(outcome)
                return

    async def _conclude(self, run: Run, stopped: Outcome | Fenced | None) -> None:
        """Store the ending and send the rest. None: the run failed, and the request is dispatched again."""
        outcome: Done | Retry | None = None
        try:
            stored = await self._store(run, stopped) if isinstance(stopped, Outcome) else stopped
            if isinstance(stored, Ended):
                if self._watchers is not None and (run.audience or self._watchers.may_be_watched(stored.record)):
                    self._tell(self._watchers, run, stored)
                stream = run.stream or self._delivery_sender.stream(stored.record, run.answer)
                is_sent = await self._delivery_sender.finish_patiently(stream, stored.record)
                outcome = Done() if is_sent or self._is_let_go(stored.record) else None
            elif stored is not None and stored.record is None:
                outcome = Done()
            elif stored is not None and stored.record is not None:
                self._observer.fenced(run.record)
                # Another attempt, or an ending: come back when that lease is over, and serve what is there.
                outcome = Retry(max(self._clock(), stored.record.lease_until_ms))
        except Unavailable:
            log.warning("the store is unavailable; the request waits", extra=run.extra())
        except Exception:
            log.exception("a run failed; the request is dispatched again", extra=run.extra())
        finally:
            self._leave(run)
            run.turn.end(outcome)

    async def _store(self, run: Run, outcome: Outcome) -> Ended | Fenced:
        """Store the ending, however long the store is unavailable: the text is only here.

        What the store refuses for another reason it will refuse again. Then the request has failed.
        """
        record, content = run.record, run.answer.content
        ending = run.ending(outcome)
        counted = None if record.hold is None else run.counted(outcome)
        while True:
            finish = partial(
                changes.finish,
                owner=record.owner,
                attempt=record.attempt,
                ending=ending,
                content=content,
                counted=counted,
            )
            try:
                stored = await self._requests.change(run.key, finish)
                break
            except Unavailable:
                log.warning("the ending could not be stored yet", extra=run.extra())
                await asyncio.sleep(STORE_RETRY_S)
            except Exception:
                if ending.error_code is ErrorCode.INTERNAL:
                    raise
                log.exception("the ending can never be stored; the request fails", extra=run.extra())
                run.drop_text()
                content, ending = NOTHING, run.ending(Outcome(status=Status.FAILED, code=ErrorCode.INTERNAL))
        if isinstance(stored, Ended):
            self._observer.ended(stored.record, ending)
            if record.hold is not None and counted is not None and record.hold.exceeds(counted):
                log.error("the model has counted more tokens than a budget has reserved for it", extra=run.extra())
                self._observer.overran(stored.record)
        return stored

    def _tell(self, watchers: Watchers, run: Run, ended: Ended) -> None:
        """Send the rest to those who watch, beside the one that asked: that one alone keeps the turn."""
        audience, run.audience = run.audience or run.new_audience(), None
        task = asyncio.create_task(watchers.conclude(audience, ended), name="tell who watches")
        self._telling[run.key] = task
        task.add_done_callback(lambda _: self._telling.pop(run.key, None))

    def _is_let_go(self, ended: Record) -> bool:
        """Whether the ending was offered for long enough. An app that reads again asks (rule: no acknowledgements)."""
        return ended.ending is not None and self._clock() >= ended.ending.ended_at_ms + LET_GO_MS

    def _later(self) -> Retry:
        return Retry(self._clock() + RETRY_AFTER_MS)

    # --- deadlines

    def _watch(self) -> None:
        """Look at all runs once a second: one timer for all of their deadlines."""
        self._watching = None
        for run in tuple(self._runs.values()):
            self._watch_one(run)

    def _watch_one(self, run: Run) -> None:
        loop = asyncio.get_running_loop()
        left_s = run.stop_at - self._monotonic()
        if left_s < WATCH_S:
            loop.call_later(max(0.0, left_s), run.time_out)
        if self._watching is None:
            self._watching = loop.call_later(WATCH_S, self._watch)


def owner_tokens() -> Callable[[], str]:
    """Owner tokens for the runs of this process, unlike those of any other: one random part, then a count."""
    process, numbers = secrets.token_hex(8), itertools.count(1)
    return lambda: f"{process}-{next(numbers)}"


def claim_pauses_s(policy: Policy) -> Iterator[float]:
    """Pauses between the tries of one claim, half a lease in all.

    A claim that took effect and whose answer was lost would else cost an attempt and the whole lease.
    """
    left_s = policy.lease_ms / 2000 if policy.lease_ms else CLAIM_S
    for pause_s in itertools.chain((0.1, 0.3), itertools.repeat(1.0)):
        if pause_s > left_s:
            return
        left_s -= pause_s
        yield pause_s
