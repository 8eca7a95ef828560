"""Fault injection for the emulated AWS: which faults, when, and where, drawn from the seed."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.core.keys import ordering_key
from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback_aws.emulator.emulator import LocalFailed
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.aws.model import MODEL_FAULTS, FaultyModel
from answerback_proof.chaos.aws.stack import Stack
from answerback_proof.chaos.faults import CONNECTION_FAULTS, ConnectionFaults
from answerback_proof.chaos.gateway import Died
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Asked, Fault, RunHistory
from answerback_proof.proxy import Proxy
from answerback_proof.workload import App, Window

KILLS: Final = (
    *(FaultKind.WORKER_KILLED, FaultKind.WORKERS_KILLED, FaultKind.FRONT_KILLED, FaultKind.FRONTS_KILLED),
    *(FaultKind.CONNECTIONS_KILLED, FaultKind.JANITOR_KILLED),
)
FAULTS: Final = (
    *KILLS,
    *MODEL_FAULTS,
    *(FaultKind.POSTGRES, FaultKind.AURORA_PAUSED, FaultKind.DOUBLED, FaultKind.BESIDE, FaultKind.TAKEN),
    *(FaultKind.JANITOR_CALLED, FaultKind.DELETED),
    *CONNECTION_FAULTS,
)
DEATHS: Final = frozenset((FaultKind.WORKER_KILLED, FaultKind.WORKERS_KILLED))
"""Faults after which the model may be run once more for what was running."""

_PAUSES_S: Final = (3.0, 12.0)
_LATELY: Final = 40
_BUSY_S: Final = 5.0
_POLL_EVERY_S: Final = 0.02


class AwsFaults:
    """Injects faults for `plan.seconds`, then leaves everything whole and running."""

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        history: RunHistory,
        stack: Stack,
        model: FaultyModel,
        postgres: PostgresServer,
        proxy: Proxy,
        apps: Sequence[App[Window]],
        notify: Callable[[str], None],
    ) -> None:
        self._seconds = plan.seconds or 0
        self._history = history
        self._stack = stack
        self._model = model
        self._postgres = postgres
        self._proxy = proxy
        self._notify = notify
        self._connections = ConnectionFaults(plan, history=history, proxy=proxy, apps=apps, pauses_s=_PAUSES_S)
        self._worker_rng, self._other_rng, self._store_rng, self._queue_rng, self._api_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("worker", "other", "store", "queue", "api")
        )
        self._names = 0

    async def inject(self) -> None:
        """Inject faults. Raises: Died: PostgreSQL does not start any more, or the emulator does not answer."""
        try:
            await self._inject()
        except* (LocalFailed, BotoCoreError, ClientError) as errors:
            raise Died(repr(errors.exceptions[0])) from errors
        self._model.heal()
        self._proxy.heal()

    async def _inject(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for act in (
                self._connections.restart_apps,
                self._connections.disturb_connections,
                self._kill_workers,
                self._kill_others,
                self._disturb_database,
                self._disturb_queue,
                self._call_janitor,
                self._delete_connections,
                self._end,
            ):
                tasks.create_task(act())

    async def _end(self) -> None:
        left_s = self._seconds
        while left_s > 0 and not await self._connections.is_over(min(10, left_s)):
            left_s -= 10
            self._notify(f"{max(0, left_s):.0f} s to go, {self._history.faults.total()} faults")
        self._connections.over.set()

    def _add(self, fault: FaultKind) -> None:
        self._history.add(Fault(name=fault))

    # --- processes

    async def _kill_workers(self) -> None:
        rng = self._worker_rng
        while not await self._connections.is_over(rng.uniform(1, 8)):
            fault = FaultKind.WORKERS_KILLED if rng.random() < 0.25 else FaultKind.WORKER_KILLED
            await self._until_busy(rng.uniform(0, 0.5))
            await self._kill("Worker", fault, rng, all_at_once=fault is FaultKind.WORKERS_KILLED)

    async def _until_busy(self, then_s: float) -> None:
        """Until the model generates, and so long after that."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _BUSY_S
        while not self._model.running and clock() < give_up_at:  # noqa: ASYNC110 - it runs in another thread
            await asyncio.sleep(_POLL_EVERY_S)
        await asyncio.sleep(then_s)

    async def _kill_others(self) -> None:
        rng = self._other_rng
        while not await self._connections.is_over(rng.uniform(4, 14)):
            fault, function = rng.choice(
                (
                    *(
                        (FaultKind.FRONT_KILLED, "Front"),
                        (FaultKind.FRONT_KILLED, "Front"),
                        (FaultKind.FRONTS_KILLED, "Front"),
                    ),
                    *((FaultKind.CONNECTIONS_KILLED, "Connections"), (FaultKind.JANITOR_KILLED, "Janitor")),
                )
            )
            await self._kill(function, fault, rng, all_at_once=fault is FaultKind.FRONTS_KILLED)

    async def _kill(self, function: str, fault: FaultKind, rng: random.Random, *, all_at_once: bool) -> None:
        if await asyncio.to_thread(self._stack.kill, function, rng, all_at_once=all_at_once):
            self._add(fault)

    # --- services

    async def _disturb_database(self) -> None:
        rng, stack = self._store_rng, self._stack
        while not await self._connections.is_over(rng.uniform(3, 12)):
            if rng.random() < 0.5:
                self._add(FaultKind.AURORA_PAUSED)
                stack.pause_database()
                await self._connections.is_over(rng.uniform(1, 10))
                stack.resume_database()
            else:
                self._add(FaultKind.POSTGRES)
                await asyncio.to_thread(self._postgres.stop)
                await self._connections.is_over(rng.uniform(0, 6))
                await asyncio.to_thread(self._postgres.start)

    async def _call_janitor(self) -> None:
        rng = self._other_rng
        while not await self._connections.is_over(rng.uniform(2, 8)):
            self._add(FaultKind.JANITOR_CALLED)
            await asyncio.to_thread(self._stack.call_janitor)

    async def _delete_connections(self) -> None:
        rng = self._api_rng
        while not await self._connections.is_over(rng.uniform(2, 10)):
            if await asyncio.to_thread(self._stack.delete_connection, rng):
                self._add(FaultKind.DELETED)

    # --- the queue

    async def _disturb_queue(self) -> None:
        rng = self._queue_rng
        acts = (self._double, self._double, self._hand_to_another, self._take)
        while not await self._connections.is_over(rng.uniform(0.3, 2)):
            await rng.choice(acts)()

    async def _double(self) -> None:
        """As a producer that got no reply to its message: the same once more, in its group."""
        if (asked := self._lately()) is not None:
            self._add(FaultKind.DOUBLED)
            await self._send(asked, ordering_key(asked.user, asked.conversation))

    async def _hand_to_another(self) -> None:
        """As a queue whose visibility timeout is too short: two workers have the message.

        It must have begun: in another group a request would not wait for those before it, and no queue does that.
        """
        asked = self._lately()
        if asked is None:
            return
        item = await asyncio.to_thread(self._stack.record, RequestKey(asked.user, asked.request))
        if item.get("state", {}).get("S", State.ACCEPTED) != State.ACCEPTED:
            self._add(FaultKind.BESIDE)
            await self._send(asked, f"beside-{self._next()}")

    async def _take(self) -> None:
        if await asyncio.to_thread(self._stack.take, for_s=self._queue_rng.randint(1, 4)):
            self._add(FaultKind.TAKEN)

    def _lately(self) -> Asked | None:
        history = self._history
        accepted = [asked for asked in list(history.asked.values())[-_LATELY:] if asked.request in history.accepted]
        return self._queue_rng.choice(accepted) if accepted else None

    async def _send(self, asked: Asked, group: str) -> None:
        body: dict[str, Any] = {"user": asked.user, "request": asked.request}
        await asyncio.to_thread(self._stack.send, json.dumps(body), group=group, name=f"chaos-{self._next()}")

    def _next(self) -> int:
        self._names += 1
        return self._names
