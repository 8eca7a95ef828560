"""Fault injection for a gateway: which faults, when, and where, drawn from the seed.

Each concern has a random stream of its own.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos import ChaosPlan
from answerback_proof.chaos.gateway import DatabaseWay, GatewayProcess
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Fault, RunHistory
from answerback_proof.proxy import Path, Proxy
from answerback_proof.workload import App, Window

CONNECTION_FAULTS: Final = (
    FaultKind.RESET,
    FaultKind.CLOSED,
    FaultKind.STALLED,
    FaultKind.GATEWAY_GONE,
    FaultKind.APP_GONE,
    FaultKind.APP_RESTARTED,
)
KILLS: Final = (FaultKind.KILL, FaultKind.KILL_STARTING, FaultKind.KILL_FROZEN, FaultKind.KILL_FULL)
FAULTS: Final = (
    *KILLS,
    *(FaultKind.TERMINATE, FaultKind.FREEZE, FaultKind.DISK_FULL, FaultKind.POSTGRES),
    *CONNECTION_FAULTS,
)
FLEET_FAULTS: Final = (
    *(fault for fault in FAULTS if fault not in (FaultKind.KILL_FULL, FaultKind.DISK_FULL)),
    FaultKind.DATABASE_CUT,
)
DEATHS: Final = frozenset((*KILLS, FaultKind.TERMINATE))
"""Faults after which the model may be run once more for what was running."""

FLEET_DEATHS: Final = DEATHS | {FaultKind.FREEZE, FaultKind.DATABASE_CUT, FaultKind.POSTGRES}
"""The same among several gateways, which may take one for dead that only cannot be heard."""

_CUT_S: Final = (0.5, 12.0)

_ALL_AT_ONCE: Final = 0.04


def schedule(kills: int, *, sqlite: bool, rng: random.Random, cuts: bool = False) -> list[FaultKind]:
    """What will happen to the process, in which order: every kind, and SIGKILL `kills` times in all.

    A KILL_STARTING is two of them: the gateway must be dead before it can start.
    """
    special = max(1, kills // 10)
    kinds = [FaultKind.KILL_STARTING] * min(special, kills // 2)
    remaining = kills - 2 * len(kinds)
    for kind in (FaultKind.KILL_FROZEN, *((FaultKind.KILL_FULL,) if sqlite else ())):
        kinds += [kind] * min(special, remaining // 2)
        remaining -= min(special, remaining // 2)
    kinds += [FaultKind.KILL] * remaining
    others = max(1, math.ceil(kills / 8))
    kinds += [FaultKind.TERMINATE] * others + [FaultKind.FREEZE] * others
    kinds += [FaultKind.DISK_FULL] * (others if sqlite else 0)
    kinds += [FaultKind.DATABASE_CUT] * (others if cuts else 0)
    rng.shuffle(kinds)
    return kinds


class ConnectionFaults:
    """Faults of connections and apps, of whatever server, until `over`.

    `pauses_s`: the longest pauses, between faults of connections and between restarts of apps.
    """

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        history: RunHistory,
        proxy: Proxy,
        apps: Sequence[App[Window]],
        pauses_s: tuple[float, float] = (0.8, 2.0),
    ) -> None:
        self._history = history
        self._proxy = proxy
        self._apps = apps
        self._pauses_s = pauses_s
        self._network_rng, self._app_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("network", "app")
        )
        self.over = asyncio.Event()

    async def disturb_connections(self) -> None:
        """Inject faults of connections until it is over."""
        rng = self._network_rng
        acts: tuple[tuple[FaultKind, Callable[[Path], None]], ...] = (
            (FaultKind.RESET, Path.reset),
            (FaultKind.CLOSED, Path.close),
            (FaultKind.STALLED, self._stall),
            (FaultKind.GATEWAY_GONE, Path.lose_server),
            (FaultKind.APP_GONE, Path.lose_app),
        )
        while not await self.is_over(rng.uniform(0.1, self._pauses_s[0])):
            paths = self._proxy.paths
            fault, act = rng.choice(acts)
            count = len(paths) if rng.random() < _ALL_AT_ONCE else rng.randint(1, max(1, len(paths) // 15))
            for path in rng.sample(paths, min(count, len(paths))):
                self._history.add(Fault(name=fault))
                act(path)

    async def restart_apps(self) -> None:
        """Restart apps until it is over."""

        while not await self.is_over(self._app_rng.uniform(0.2, self._pauses_s[1])):
            self._history.add(Fault(name=FaultKind.APP_RESTARTED))
            app = self._app_rng.choice(self._apps)
            for path in self._proxy.paths:
                if path.observer.session == app.session:
                    path.reset()
            await app.restart()

    async def is_over(self, after_s: float) -> bool:
        """Wait so long, or until the faults are over; whether it is."""
        try:
            async with asyncio.timeout(after_s):
                await self.over.wait()
        except TimeoutError:
            return False
        return True

    def _stall(self, path: Path) -> None:
        rng = self._network_rng
        gates = rng.choice(((path.to_app,), (path.to_server,), (path.to_app, path.to_server)))
        for gate in gates:
            gate.clear()
        asyncio.get_running_loop().call_later(rng.uniform(0.2, 6), path.open_gates)


class GatewayFaults:
    """Injects faults until the plan is done, then leaves everything whole and running."""

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        history: RunHistory,
        gateways: Sequence[GatewayProcess],
        ways: Sequence[DatabaseWay],
        proxy: Proxy,
        apps: Sequence[App[Window]],
        postgres: PostgresServer | None,
        notify: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._history = history
        self._gateways = gateways
        self._ways = ways
        self._gateway = gateways[0]
        self._proxy = proxy
        self._connections = ConnectionFaults(plan, history=history, proxy=proxy, apps=apps)
        self._postgres = postgres
        self._notify = notify
        self._is_sqlite = postgres is None and plan.database is None
        self._process_rng, self._store_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("process", "store")
        )
        self._acts: Mapping[FaultKind, Callable[[], Awaitable[None]]] = {
            FaultKind.KILL: self._kill,
            FaultKind.KILL_STARTING: self._kill_starting,
            FaultKind.KILL_FROZEN: self._kill_frozen,
            FaultKind.KILL_FULL: self._kill_full,
            FaultKind.TERMINATE: self._terminate,
            FaultKind.FREEZE: self._freeze,
            FaultKind.DISK_FULL: self._disk_full,
            FaultKind.DATABASE_CUT: self._cut_database,
        }

    async def inject(self) -> None:
        """Inject faults. Raises: Died, ProcessFailed: the gateway ended by itself, or does not start any more."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connections.restart_apps())
            tasks.create_task(self._connections.disturb_connections())
            if self._postgres is not None:
                tasks.create_task(self._crash_postgres(self._postgres))
            tasks.create_task(self._disturb_process())
        self._proxy.heal()

    def _add(self, kind: FaultKind) -> None:
        self._history.add(Fault(name=kind))

    # --- the process

    async def _disturb_process(self) -> None:
        clock = asyncio.get_running_loop().time
        new_schedule = partial(
            schedule, self._plan.kills, sqlite=self._is_sqlite, cuts=bool(self._ways), rng=self._process_rng
        )
        began, kinds = clock(), new_schedule()
        done = 0
        while kinds:
            await asyncio.sleep(self._process_rng.uniform(0.1, self._plan.pause_s))
            kind = kinds.pop()
            self._gateway = self._process_rng.choice(self._gateways)
            await self._acts[kind]()
            done += 1
            self._notify(f"{done} faults, {len(kinds)} to come: {kind}")
            if self._plan.seconds is not None and clock() - began >= self._plan.seconds:
                break
            if not kinds and self._plan.seconds is not None:
                kinds = new_schedule()
        self._connections.over.set()

    async def _kill(self) -> None:
        self._add(FaultKind.KILL)
        await self._gateway.kill()
        await self._gateway.start()

    async def _kill_starting(self) -> None:
        self._add(FaultKind.KILL)
        await self._gateway.kill()
        await self._gateway.kill_starting(self._process_rng.uniform(0.1, 1.5))
        self._add(FaultKind.KILL_STARTING)
        await self._gateway.start()

    async def _kill_frozen(self) -> None:
        self._gateway.freeze()
        await asyncio.sleep(self._process_rng.uniform(0.1, 2))
        self._add(FaultKind.KILL_FROZEN)
        await self._gateway.kill()
        await self._gateway.start()

    async def _kill_full(self) -> None:
        self._gateway.fill_disk()
        await asyncio.sleep(self._process_rng.uniform(0.1, 1.5))
        self._add(FaultKind.KILL_FULL)
        await self._gateway.kill()
        await self._gateway.start()

    async def _terminate(self) -> None:
        self._add(FaultKind.TERMINATE)
        await self._gateway.terminate()
        await self._gateway.start()

    async def _freeze(self) -> None:
        self._add(FaultKind.FREEZE)
        self._gateway.freeze()
        await asyncio.sleep(self._process_rng.uniform(0.2, 2 * self._plan.pause_s))
        self._gateway.thaw()

    async def _disk_full(self) -> None:
        self._add(FaultKind.DISK_FULL)
        self._gateway.fill_disk()
        await asyncio.sleep(self._process_rng.uniform(0.2, 2 * self._plan.pause_s))
        self._gateway.free_disk()

    async def _cut_database(self) -> None:
        self._add(FaultKind.DATABASE_CUT)
        way = self._ways[self._gateways.index(self._gateway)]
        way.cut()
        await asyncio.sleep(self._process_rng.uniform(*_CUT_S))
        way.heal()

    # --- the store

    async def _crash_postgres(self, postgres: PostgresServer) -> None:
        await asyncio.sleep(self._store_rng.uniform(0, 2))
        while True:
            self._add(FaultKind.POSTGRES)
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(self._store_rng.uniform(0, 3))
            await asyncio.to_thread(postgres.start)
            if await self._connections.is_over(self._store_rng.uniform(1, 8)):
                return
