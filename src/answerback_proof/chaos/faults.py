"""Fault injection for a gateway: which faults, when, and where, drawn from the seed.

Each concern has a random stream of its own.
"""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
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

    `pauses_s`: the longest pauses, between faults of connections and between restarts of apps. `notify` gets a line
    about the progress now and then.
    """

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        history: RunHistory,
        proxy: Proxy,
        apps: Sequence[App[Window]],
        notify: Callable[[str], None],
        pauses_s: tuple[float, float] = (0.8, 2.0),
    ) -> None:
        self.plan = plan
        self.history = history
        self.proxy = proxy
        self.notify = notify
        self.over = asyncio.Event()
        self._apps = apps
        self._pauses_s = pauses_s
        self._network_rng, self._app_rng = plan.rng("network"), plan.rng("app")

    def add(self, fault: FaultKind) -> None:
        self.history.add(Fault(name=fault))

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
            paths = self.proxy.paths
            fault, act = rng.choice(acts)
            count = len(paths) if rng.random() < _ALL_AT_ONCE else rng.randint(1, max(1, len(paths) // 15))
            for path in rng.sample(paths, min(count, len(paths))):
                self.add(fault)
                act(path)

    async def restart_apps(self) -> None:
        while not await self.is_over(self._app_rng.uniform(0.2, self._pauses_s[1])):
            self.add(FaultKind.APP_RESTARTED)
            app = self._app_rng.choice(self._apps)
            for path in self.proxy.paths:
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
    """Injects faults until the plan is done, then leaves everything whole and running.

    `ways`: of each gateway to the database, if they can be cut. `postgres`: the server that is to be crashed.
    """

    def __init__(
        self,
        connections: ConnectionFaults,
        *,
        gateways: Sequence[GatewayProcess],
        ways: Sequence[DatabaseWay],
        postgres: PostgresServer | None,
    ) -> None:
        self._connections = connections
        self._plan = plan = connections.plan
        self._add = connections.add
        self._gateways = gateways
        self._ways = ways
        self._gateway = gateways[0]
        self._postgres = postgres
        self._is_sqlite = postgres is None and plan.database is None
        self._rng, self._store_rng = plan.rng("process"), plan.rng("store")

    async def inject(self) -> None:
        """Inject faults. Raises: Died, ProcessFailed: the gateway ended by itself, or does not start any more."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connections.restart_apps())
            tasks.create_task(self._connections.disturb_connections())
            if self._postgres is not None:
                tasks.create_task(self._crash_postgres(self._postgres))
            tasks.create_task(self._disturb_process())
        self._connections.proxy.heal()

    # --- the process

    async def _disturb_process(self) -> None:
        clock = asyncio.get_running_loop().time
        plan, cuts = self._plan, bool(self._ways)
        new_schedule = partial(schedule, plan.kills, sqlite=self._is_sqlite, cuts=cuts, rng=self._rng)
        began, kinds = clock(), new_schedule()
        done = 0
        while kinds:
            await asyncio.sleep(self._rng.uniform(0.1, plan.pause_s))
            kind = kinds.pop()
            self._gateway = self._rng.choice(self._gateways)
            await self._disturb(kind, self._gateway)
            done += 1
            self._connections.notify(f"{done} faults, {len(kinds)} to come: {kind}")
            if plan.seconds is not None and clock() - began >= plan.seconds:
                break
            if not kinds and plan.seconds is not None:
                kinds = new_schedule()
        self._connections.over.set()

    async def _disturb(self, kind: FaultKind, gateway: GatewayProcess) -> None:
        longest_s = 2 * self._plan.pause_s
        match kind:
            case FaultKind.KILL:
                await self._kill(kind)
            case FaultKind.KILL_STARTING:
                await self._kill_starting()
            case FaultKind.KILL_FROZEN:
                gateway.freeze()
                await asyncio.sleep(self._rng.uniform(0.1, 2))
                await self._kill(kind)
            case FaultKind.KILL_FULL:
                gateway.fill_disk()
                await asyncio.sleep(self._rng.uniform(0.1, 1.5))
                await self._kill(kind)
            case FaultKind.TERMINATE:
                self._add(kind)
                await gateway.terminate()
                await gateway.start()
            case FaultKind.FREEZE:
                await self._for(self._rng.uniform(0.2, longest_s), kind, gateway.freeze, gateway.thaw)
            case FaultKind.DISK_FULL:
                await self._for(self._rng.uniform(0.2, longest_s), kind, gateway.fill_disk, gateway.free_disk)
            case FaultKind.DATABASE_CUT:
                way = self._ways[self._gateways.index(gateway)]
                await self._for(self._rng.uniform(*_CUT_S), kind, way.cut, way.heal)

    async def _kill(self, kind: FaultKind) -> None:
        self._add(kind)
        await self._gateway.kill()
        await self._gateway.start()

    async def _kill_starting(self) -> None:
        self._add(FaultKind.KILL)
        await self._gateway.kill()
        await self._gateway.kill_starting(self._rng.uniform(0.1, 1.5))
        self._add(FaultKind.KILL_STARTING)
        await self._gateway.start()

    async def _for(self, seconds: float, kind: FaultKind, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._add(kind)
        begin()
        await asyncio.sleep(seconds)
        end()

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
