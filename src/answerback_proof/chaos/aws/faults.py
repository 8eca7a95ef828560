"""The faults on AWS: which ones, when, and on whom, drawn from the seed with a random stream for each concern."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.core.keys import ordering_key
from answerback.core.request import RequestKey, State
from answerback_aws.emulator.emulator import LocalFailed
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.aws.model import MODEL_FAULTS, StruckModel
from answerback_proof.chaos.aws.stack import Cloud
from answerback_proof.chaos.book import Asked, Book
from answerback_proof.chaos.gateway import Died
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Proxy
from answerback_proof.chaos.weather import WEATHER, Weather
from answerback_proof.chaos.workload import App

WORKER: Final = "worker killed in mid-answer"
WORKERS: Final = "all workers killed at once"
FRONT: Final = "front killed"
FRONTS: Final = "all fronts killed at once"
CONNECTIONS: Final = "connection manager killed"
JANITOR_KILLED: Final = "janitor killed"
KILLS: Final = (WORKER, WORKERS, FRONT, FRONTS, CONNECTIONS, JANITOR_KILLED)
POSTGRES: Final = "PostgreSQL crashed"
PAUSED: Final = "Aurora paused"
DELETED: Final = "connection deleted by the API"
DOUBLED: Final = "message doubled"
BESIDE: Final = "message of a running request handed to another worker"
TAKEN: Final = "message handed out and not worked on"
JANITOR: Final = "janitor called"
FAULTS: Final = (
    *KILLS,
    *MODEL_FAULTS,
    *(POSTGRES, PAUSED, DOUBLED, BESIDE, TAKEN, JANITOR, DELETED),
    *WEATHER,
)
DEATHS: Final = frozenset((WORKER, WORKERS))
"""Faults after which the model may be run once more for what was running."""

_CALM_S: Final = (3.0, 12.0)
_LATELY: Final = 40
_BUSY_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.02


class AwsStorm:
    """Strikes for `plan.seconds`, then leaves everything whole and running."""

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        book: Book,
        cloud: Cloud,
        model: StruckModel,
        postgres: PostgresServer,
        proxy: Proxy,
        apps: Sequence[App],
        told: Callable[[str], None],
    ) -> None:
        self._seconds = plan.seconds or 0
        self._book = book
        self._cloud = cloud
        self._model = model
        self._postgres = postgres
        self._proxy = proxy
        self._told = told
        self._weather = Weather(plan, book=book, proxy=proxy, apps=apps, calm_s=_CALM_S)
        self._worker_rng, self._other_rng, self._store_rng, self._queue_rng, self._api_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("worker", "other", "store", "queue", "api")
        )
        self._names = 0

    async def rage(self) -> None:
        """Strike. Raises: Died: PostgreSQL does not start any more, or the emulator does not answer."""
        try:
            await self._strike()
        except* (LocalFailed, BotoCoreError, ClientError) as errors:
            raise Died(repr(errors.exceptions[0])) from errors
        self._model.calm()
        self._proxy.heal()

    async def _strike(self) -> None:
        async with asyncio.TaskGroup() as strikes:
            for strike in (
                self._weather.restart_apps,
                self._weather.shake_network,
                self._kill_workers,
                self._kill_others,
                self._strike_database,
                self._strike_queue,
                self._call_janitor,
                self._delete_connections,
                self._end,
            ):
                strikes.create_task(strike())

    async def _end(self) -> None:
        left_s = self._seconds
        while left_s > 0 and not await self._weather.is_over(min(10, left_s)):
            left_s -= 10
            self._told(f"{max(0, left_s):.0f} s to go, {sum(self._book.counts().values())} strikes")
        self._weather.over.set()

    # --- processes

    async def _kill_workers(self) -> None:
        rng = self._worker_rng
        while not await self._weather.is_over(rng.uniform(1, 8)):
            fault = WORKERS if rng.random() < 0.25 else WORKER
            await self._until_busy(rng.uniform(0, 0.5))
            await self._kill("Worker", fault, rng, all_at_once=fault == WORKERS)

    async def _until_busy(self, then_s: float) -> None:
        """Until the model speaks, and so long after that."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _BUSY_S
        while not self._model.running and clock() < give_up_at:  # noqa: ASYNC110 - it speaks in another thread
            await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.sleep(then_s)

    async def _kill_others(self) -> None:
        rng = self._other_rng
        while not await self._weather.is_over(rng.uniform(4, 14)):
            fault, function = rng.choice(
                (
                    *((FRONT, "Front"), (FRONT, "Front"), (FRONTS, "Front")),
                    *((CONNECTIONS, "Connections"), (JANITOR_KILLED, "Janitor")),
                )
            )
            await self._kill(function, fault, rng, all_at_once=fault == FRONTS)

    async def _kill(self, function: str, fault: str, rng: random.Random, *, all_at_once: bool) -> None:
        if await asyncio.to_thread(self._cloud.kill, function, rng, all_at_once=all_at_once):
            self._book.struck(fault)

    # --- services

    async def _strike_database(self) -> None:
        rng, cloud = self._store_rng, self._cloud
        while not await self._weather.is_over(rng.uniform(3, 12)):
            if rng.random() < 0.5:
                self._book.struck(PAUSED)
                cloud.pause_database()
                await self._weather.is_over(rng.uniform(1, 10))
                cloud.resume_database()
            else:
                self._book.struck(POSTGRES)
                await asyncio.to_thread(self._postgres.stop)
                await self._weather.is_over(rng.uniform(0, 6))
                await asyncio.to_thread(self._postgres.start)

    async def _call_janitor(self) -> None:
        rng = self._other_rng
        while not await self._weather.is_over(rng.uniform(2, 8)):
            self._book.struck(JANITOR)
            await asyncio.to_thread(self._cloud.call_janitor)

    async def _delete_connections(self) -> None:
        rng = self._api_rng
        while not await self._weather.is_over(rng.uniform(2, 10)):
            if await asyncio.to_thread(self._cloud.delete_connection, rng):
                self._book.struck(DELETED)

    # --- the queue

    async def _strike_queue(self) -> None:
        rng = self._queue_rng
        deeds = (self._double, self._double, self._hand_to_another, self._take)
        while not await self._weather.is_over(rng.uniform(0.3, 2)):
            await rng.choice(deeds)()

    async def _double(self) -> None:
        """As a producer does that never heard that its message was taken: the same once more, in its group."""
        if (asked := self._lately()) is not None:
            self._book.struck(DOUBLED)
            await self._send(asked, ordering_key(asked.user, asked.conversation))

    async def _hand_to_another(self) -> None:
        """As a queue does whose message was seen again too early: two workers have it.

        It must have begun: in another group a request would not wait for those before it, and no queue does that.
        """
        asked = self._lately()
        if asked is None:
            return
        item = await asyncio.to_thread(self._cloud.record, RequestKey(asked.user, asked.request_id))
        if item.get("state", {}).get("S", State.ACCEPTED) != State.ACCEPTED:
            self._book.struck(BESIDE)
            await self._send(asked, f"beside-{self._next()}")

    async def _take(self) -> None:
        if await asyncio.to_thread(self._cloud.take, for_s=self._queue_rng.randint(1, 4)):
            self._book.struck(TAKEN)

    def _lately(self) -> Asked | None:
        accepted = [asked for asked in list(self._book.asked.values())[-_LATELY:] if asked.accepted_at_ms is not None]
        return self._queue_rng.choice(accepted) if accepted else None

    async def _send(self, asked: Asked, group: str) -> None:
        asked.note(queue="doubled", group=group)
        body: dict[str, Any] = {"user": asked.user, "request": asked.request_id}
        await asyncio.to_thread(self._cloud.send, json.dumps(body), group=group, name=f"chaos-{self._next()}")

    def _next(self) -> int:
        self._names += 1
        return self._names
