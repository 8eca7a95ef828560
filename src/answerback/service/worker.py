"""The worker: claims a queued request, runs the model, delivers the text as it comes, stores the one ending.

                    time ->
    record   claim (attempt n, lease) ......... renew ..... renew ..... finish (running + attempt n) -> ended
    model                     text text text text text text text
    socket                    started delta    delta    delta                    rest of the text, messageResponse
    queue    [ dispatched .................................................................................. done ]

The ending is stored before it is sent, and the queue gets `Done` only after it was sent (rule: the queue forgets last).
So a crash at any point leaves something that brings the request to its end: the lease, or the queue's redelivery.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from answerback.core import defaults
from answerback.core import request as changes
from answerback.core.instants import LeaptSince, no_leaps
from answerback.core.request import Busy, Claimed, Ended, Fenced, Policy, Record, RequestKey, Unknown
from answerback.ports import Model, RecentTurns, Requests, Unavailable
from answerback.service.attempt import Run, RunSettings, RunTools
from answerback.service.delivery_sender import DeliverySender
from answerback.service.observer import Observer
from answerback.service.wakeup import Notifier

log = logging.getLogger("answerback.worker")

T = TypeVar("T")

RETRY_AFTER_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Done:
    """The queue may forget the request."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The queue dispatches the request again, not before `at_ms` (epoch)."""

    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """`renew_every_s`: how often the lease is extended; that also shows targets and cancellations of other processes.
    None: as `policy` has it. `poll_every_s`: how often these are read in between; None: not at all.

    `slow_timeout_s`: how long an ended answer is offered to a slow connection whose sender cannot park it.
    """

    policy: Policy = field(default_factory=Policy)
    renew_every_s: float | None = None
    poll_every_s: float | None = None
    slow_timeout_s: float = 10.0
    max_tokens: int = defaults.MAX_TOKENS
    context_turns: int = defaults.CONTEXT_TURNS
    system: str | None = None


class Worker:
    """Runs requests, one for each call of `run`. Calls may overlap. Holds nothing between calls."""

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        requests: Requests,
        history: RecentTurns,
        models: Mapping[str, Model],
        delivery_sender: DeliverySender,
        notifier: Notifier,
        observer: Observer,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        new_owner: Callable[[], str],
        leapt: LeaptSince = no_leaps,
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._delivery_sender = delivery_sender
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._new_owner = new_owner
        self._leapt = leapt
        self._tools = RunTools(
            requests=requests,
            history=history,
            models=models,
            delivery_sender=delivery_sender,
            notifier=notifier,
            observer=observer,
            clock=clock,
            monotonic=monotonic,
            leapt=leapt,
        )
        renew_every_s = settings.policy.renew_every_s if settings.renew_every_s is None else settings.renew_every_s
        self._run_settings = RunSettings(
            policy=settings.policy,
            renew_every_s=renew_every_s,
            poll_every_s=renew_every_s if settings.poll_every_s is None else settings.poll_every_s,
            max_tokens=settings.max_tokens,
            context_turns=settings.context_turns,
            system=settings.system,
        )

    async def run(self, key: RequestKey, *, stop_at_ms: int | None = None) -> Done | Retry:
        """Bring one request to its end, or as far as `stop_at_ms` (epoch: when this process must be finished) allows.

        Raises nothing but CancelledError; a cancelled run leaves the record to the next attempt.
        """
        owner = self._new_owner()
        try:
            claim = await self._claim(key, owner)
            match claim:
                case Unknown():
                    return Done()
                case Busy(until_ms=until_ms):
                    return Retry(until_ms)
                case Ended() as ended:
                    # It may have ended before, and its ending may never have been sent (rule: the queue forgets last).
                    return Done() if await self._delivery_sender.announce(ended) else self._later()
                case Claimed(record=record):
                    return await self._run(record, owner, stop_at_ms)
        except Unavailable:
            log.warning("the store is unavailable; the request waits", extra={"requestId": key.request_id})
        except Exception:
            log.exception("a run failed; the request is dispatched again", extra={"requestId": key.request_id})
        return self._later()

    def _later(self) -> Retry:
        return Retry(self._clock() + RETRY_AFTER_MS)

    async def _claim(self, key: RequestKey, owner: str) -> Claimed | Busy | Ended | Unknown:
        """Claim under one owner token, and repeat that until an answer arrives (rule: repeat as the same owner)."""

        async def attempt() -> Claimed | Busy | Ended | Unknown:
            claim = partial(changes.claim, owner=owner, now_ms=self._clock(), policy=self._settings.policy)
            return await self._requests.change(key, partial(claim, leapt=self._leapt))

        return await _persist(attempt, pauses_s=claim_pauses_s(self._settings.policy))

    async def _run(self, record: Record, owner: str, stop_at_ms: int | None) -> Done | Retry:
        self._observer.started(record)
        run = Run(record, owner=owner, settings=self._run_settings, tools=self._tools, stop_at_ms=stop_at_ms)
        match await run.to_the_end():
            case Ended(record=ended):
                return await self._deliver_rest(run, ended)
            case Fenced(record=None):
                return Done()
            case Fenced(record=other):
                self._observer.fenced(record)
                # Another attempt, or an ending: come back when that lease is over, and serve what is there.
                return Retry(max(self._clock(), 0 if other is None else other.lease_until_ms))

    async def _deliver_rest(self, run: Run, ended: Record) -> Done | Retry:
        """Send what the connection has not got yet, to the newest target in the ended record."""
        delivery = run.delivery
        delivery.ended(ended)
        deadline = self._monotonic() + self._settings.slow_timeout_s
        while True:
            await self._delivery_sender.flush(delivery)
            if delivery.is_done or self._delivery_sender.park(delivery, ended):
                return Done()
            if self._monotonic() >= deadline:
                return self._later()
            await asyncio.sleep(max(0.0, (delivery.due_at() or 0.0) - self._monotonic()))


def owner_tokens() -> Callable[[], str]:
    """Owner tokens for the runs of this process, unlike those of any other: one random part, then a count."""
    process, numbers = secrets.token_hex(8), itertools.count(1)
    return lambda: f"{process}-{next(numbers)}"


def claim_pauses_s(policy: Policy) -> Iterator[float]:
    """Pauses between the tries of one claim, half a lease in all.

    A claim that took effect and whose answer was lost would else cost an attempt and the whole lease.
    """
    left_s = policy.lease_ms / 2000
    for pause_s in itertools.chain((0.1, 0.3), itertools.repeat(1.0)):
        if pause_s > left_s:
            return
        left_s -= pause_s
        yield pause_s


async def _persist(attempt: Callable[[], Awaitable[T]], *, pauses_s: Iterable[float]) -> T:
    """Call until it is not Unavailable, with these pauses in between."""
    for pause_s in pauses_s:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(pause_s)
    return await attempt()
