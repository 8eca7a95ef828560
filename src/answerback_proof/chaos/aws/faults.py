"""Fault injection for the emulated AWS and its model: which faults, when, and where, drawn from the seed."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.core.keys import ordering_key
from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback.models.echo import echo_deltas
from answerback.ports import Finish, Part, Piece
from answerback_aws.emulator.bedrock import Asked as ModelCall
from answerback_aws.emulator.bedrock import Broken, Cut, Refused
from answerback_aws.emulator.emulator import LocalFailed
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.aws.stack import Stack
from answerback_proof.chaos.faults import CONNECTION_FAULTS, ConnectionFaults
from answerback_proof.chaos.gateway import Died
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Asked, Fault, ModelRun, RunHistory

KILLS: Final = (
    *(FaultKind.WORKER_KILLED, FaultKind.WORKERS_KILLED, FaultKind.FRONT_KILLED, FaultKind.FRONTS_KILLED),
    *(FaultKind.CONNECTIONS_KILLED, FaultKind.JANITOR_KILLED),
)
MODEL_FAULTS: Final = (
    *(FaultKind.THROTTLED, FaultKind.OVERLOADED, FaultKind.BROKEN_OFF),
    *(FaultKind.CONNECTION_CUT, FaultKind.STALLED_STREAM),
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

_OTHERS: Final = (
    *((FaultKind.FRONT_KILLED, "Front"), (FaultKind.FRONT_KILLED, "Front"), (FaultKind.FRONTS_KILLED, "Front")),
    *((FaultKind.CONNECTIONS_KILLED, "Connections"), (FaultKind.JANITOR_KILLED, "Janitor")),
)
"""Faults that kill another function than the worker, some more often."""

PAUSES_S: Final = (3.0, 12.0)
_LATELY: Final = 40
_BUSY_S: Final = 5.0
_POLL_EVERY_S: Final = 0.02


_DRAWN: Final = (None, *MODEL_FAULTS)
_WEIGHTS: Final = (85, 5, 2, 3, 2, 3)
_STALL_S: Final = (1.0, 8.0)
_SAYS_MORE: Final = 0.7
"""The share of answers with more than their text."""


class FaultyModel:
    """A `Script` of `BedrockServer` that injects faults. It runs on that server's event loop.

    `attempt_of`: the attempt that runs a request now, by request id; what Bedrock is asked does not name it.
    """

    def __init__(self, history: RunHistory, *, seed: int, delay_ms: float, attempt_of: Callable[[str], int]) -> None:
        self._history = history
        self._seed = seed
        self._delay_s = delay_ms / 1000
        self._attempt_of = attempt_of
        self._calls: Counter[str] = Counter()
        self._is_healthy = False
        self.running = 0

    def heal(self) -> None:
        """From now on every answer comes whole."""
        self._is_healthy = True

    async def __call__(self, asked: ModelCall) -> AsyncGenerator[Piece, None]:
        question: str = asked.body["messages"][-1]["content"][-1]["text"]
        request_id = question.partition(":")[0]
        self._calls[request_id] += 1
        rng = random.Random(f"{self._seed} model {request_id} {self._calls[request_id]}")  # noqa: S311
        fault = None if self._is_healthy else rng.choices(_DRAWN, _WEIGHTS)[0]
        if fault is not None:
            self._history.add(Fault(name=fault))
        if fault is FaultKind.THROTTLED:
            raise Refused(429, "ThrottlingException")
        if fault is FaultKind.OVERLOADED:
            raise Refused(503, "ServiceUnavailableException")
        await self._ran(request_id)
        self.running += 1
        try:
            async for piece in self._answer(question, fault, rng):
                yield piece
        finally:
            self.running -= 1

    async def _answer(self, question: str, fault: FaultKind | None, rng: random.Random) -> AsyncGenerator[Piece, None]:
        pieces: list[Piece] = list(echo_deltas(question))
        tokens = len(pieces)
        if rng.random() < _SAYS_MORE:
            pieces = _with_parts(pieces, rng)
        fails_at = rng.randint(1, len(pieces))
        for number, piece in enumerate(pieces, 1):
            yield piece
            await asyncio.sleep(self._delay_s)
            if number == fails_at:
                await self._fail(fault, rng)
        yield Finish(input_tokens=tokens, output_tokens=tokens)

    @staticmethod
    async def _fail(fault: FaultKind | None, rng: random.Random) -> None:
        if fault is FaultKind.BROKEN_OFF:
            raise Broken(rng.choice(("modelStreamErrorException", "throttlingException", "internalServerException")))
        if fault is FaultKind.CONNECTION_CUT:
            raise Cut
        if fault is FaultKind.STALLED_STREAM:
            await asyncio.sleep(rng.uniform(*_STALL_S))

    async def _ran(self, request_id: str) -> None:
        if request_id in self._history.asked:
            attempt = await asyncio.to_thread(self._attempt_of, request_id)
        else:
            attempt = 0  # nobody asked for it, and the checker says so
        self._history.add(ModelRun(request=request_id, attempt=attempt))


def _with_parts(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """The answer with thoughts, calls and sources before, between and behind its text."""
    said: list[Piece] = []
    for number, piece in enumerate(pieces):
        match rng.randrange(6):
            case 0:
                said += [Part("reasoning", f"생각 {number} "), Part("reasoning", "𝄞")]
            case 1:
                said += [Part("tool", '{"n": ', "look", new=True), Part("tool", f"{number}}}")]
            case 2:
                said.append(Part("citation", f'{{"title": "{number}"}}', new=True))
        said.append(piece)
    return said


class AwsFaults:
    """Injects faults for `plan.seconds`, then leaves everything whole and running."""

    def __init__(
        self, connections: ConnectionFaults, *, stack: Stack, model: FaultyModel, postgres: PostgresServer
    ) -> None:
        self._connections = connections
        self._add = connections.add
        self._is_over = connections.is_over
        self._stack = stack
        self._model = model
        self._postgres = postgres
        self._worker_rng, self._other_rng, self._store_rng, self._queue_rng, self._api_rng = (
            connections.plan.rng(concern) for concern in ("worker", "other", "store", "queue", "api")
        )
        self._names = count(1)

    async def inject(self) -> None:
        """Inject faults. Raises: Died: PostgreSQL does not start any more, or the emulator does not answer."""
        try:
            await self._inject()
        except* (LocalFailed, BotoCoreError, ClientError) as errors:
            raise Died(repr(errors.exceptions[0])) from errors
        self._model.heal()
        self._connections.proxy.heal()

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
        left_s, connections = self._connections.plan.seconds or 0, self._connections
        while left_s > 0 and not await self._is_over(min(10, left_s)):
            left_s -= 10
            connections.notify(f"{max(0, left_s):.0f} s to go, {connections.history.faults.total()} faults")
        connections.over.set()

    # --- processes

    async def _kill_workers(self) -> None:
        rng = self._worker_rng
        while not await self._is_over(rng.uniform(1, 8)):
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
        while not await self._is_over(rng.uniform(4, 14)):
            fault, function = rng.choice(_OTHERS)
            await self._kill(function, fault, rng, all_at_once=fault is FaultKind.FRONTS_KILLED)

    async def _kill(self, function: str, fault: FaultKind, rng: random.Random, *, all_at_once: bool) -> None:
        if await asyncio.to_thread(self._stack.kill, function, rng, all_at_once=all_at_once):
            self._add(fault)

    # --- services

    async def _disturb_database(self) -> None:
        rng, stack = self._store_rng, self._stack
        while not await self._is_over(rng.uniform(3, 12)):
            if rng.random() < 0.5:
                self._add(FaultKind.AURORA_PAUSED)
                stack.emulator.pause_database()
                await self._is_over(rng.uniform(1, 10))
                stack.emulator.resume_database()
            else:
                self._add(FaultKind.POSTGRES)
                await asyncio.to_thread(self._postgres.stop)
                await self._is_over(rng.uniform(0, 6))
                await asyncio.to_thread(self._postgres.start)

    async def _call_janitor(self) -> None:
        rng = self._other_rng
        while not await self._is_over(rng.uniform(2, 8)):
            self._add(FaultKind.JANITOR_CALLED)
            await asyncio.to_thread(self._stack.call_janitor)

    async def _delete_connections(self) -> None:
        rng = self._api_rng
        while not await self._is_over(rng.uniform(2, 10)):
            if await asyncio.to_thread(self._stack.delete_connection, rng):
                self._add(FaultKind.DELETED)

    # --- the queue

    async def _disturb_queue(self) -> None:
        rng = self._queue_rng
        acts = (self._double, self._double, self._hand_to_another, self._take)
        while not await self._is_over(rng.uniform(0.3, 2)):
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
            await self._send(asked, f"beside-{next(self._names)}")

    async def _take(self) -> None:
        if await asyncio.to_thread(self._stack.take, for_s=self._queue_rng.randint(1, 4)):
            self._add(FaultKind.TAKEN)

    def _lately(self) -> Asked | None:
        history = self._connections.history
        accepted = [asked for asked in list(history.asked.values())[-_LATELY:] if asked.request in history.accepted]
        return self._queue_rng.choice(accepted) if accepted else None

    async def _send(self, asked: Asked, group: str) -> None:
        body: dict[str, Any] = {"user": asked.user, "request": asked.request}
        await asyncio.to_thread(self._stack.send, json.dumps(body), group=group, name=f"chaos-{next(self._names)}")
