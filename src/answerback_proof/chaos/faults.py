"""The faults: which ones, when, and on whom, drawn from the seed with a random stream for each concern."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.book import Book
from answerback_proof.chaos.gateway import StruckGateway
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Proxy
from answerback_proof.chaos.weather import WEATHER, Weather
from answerback_proof.chaos.workload import App

KILL: Final = "gateway killed"
KILL_STARTING: Final = "gateway killed while it starts"
KILL_FROZEN: Final = "gateway killed while frozen"
KILL_FULL: Final = "gateway killed while the disk is full"
KILLS: Final = (KILL, KILL_STARTING, KILL_FROZEN, KILL_FULL)
TERMINATE: Final = "gateway stopped in good order"
FREEZE: Final = "gateway frozen"
DISK_FULL: Final = "disk full"
POSTGRES: Final = "PostgreSQL crashed"
FAULTS: Final = (
    *KILLS,
    *(TERMINATE, FREEZE, DISK_FULL, POSTGRES),
    *WEATHER,
)
DEATHS: Final = frozenset((*KILLS, TERMINATE))
"""Faults after which the model may be run once more for what was running."""


def deck(kills: int, *, sqlite: bool, rng: random.Random) -> list[str]:
    """What shall happen to the process, in which order: every kind, and SIGKILL `kills` times in all.

    A KILL_STARTING is two of them: the gateway must be dead before it can start.
    """
    special = max(1, kills // 10)
    cards = [KILL_STARTING] * min(special, kills // 2)
    left = kills - 2 * len(cards)
    for kind in (KILL_FROZEN, *((KILL_FULL,) if sqlite else ())):
        cards += [kind] * min(special, left // 2)
        left -= min(special, left // 2)
    cards += [KILL] * left
    others = max(1, math.ceil(kills / 8))
    cards += [TERMINATE] * others + [FREEZE] * others + [DISK_FULL] * (others if sqlite else 0)
    rng.shuffle(cards)
    return cards


class Storm:
    """Strikes until the plan is fulfilled, then leaves everything whole and running."""

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        book: Book,
        gateway: StruckGateway,
        proxy: Proxy,
        apps: Sequence[App],
        postgres: PostgresServer | None,
        told: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._book = book
        self._gateway = gateway
        self._proxy = proxy
        self._weather = Weather(plan, book=book, proxy=proxy, apps=apps)
        self._postgres = postgres
        self._told = told
        self._is_sqlite = postgres is None and plan.database is None
        self._process_rng, self._store_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("process", "store")
        )
        self._strikes: Mapping[str, Callable[[], Awaitable[None]]] = {
            KILL: self._kill,
            KILL_STARTING: self._kill_starting,
            KILL_FROZEN: self._kill_frozen,
            KILL_FULL: self._kill_full,
            TERMINATE: self._terminate,
            FREEZE: self._freeze,
            DISK_FULL: self._disk_full,
        }

    async def rage(self) -> None:
        """Strike. Raises: Died, ProcessFailed: the gateway ended by itself, or does not start any more."""
        async with asyncio.TaskGroup() as strikes:
            strikes.create_task(self._weather.restart_apps())
            strikes.create_task(self._weather.shake_network())
            if self._postgres is not None:
                strikes.create_task(self._crash_postgres(self._postgres))
            strikes.create_task(self._strike_process())
        self._proxy.heal()

    # --- the process

    async def _strike_process(self) -> None:
        clock = asyncio.get_running_loop().time
        began, cards = clock(), deck(self._plan.kills, sqlite=self._is_sqlite, rng=self._process_rng)
        done = 0
        while cards:
            await asyncio.sleep(self._process_rng.uniform(0.1, self._plan.pause_s))
            card = cards.pop()
            await self._strikes[card]()
            done += 1
            self._told(f"{done} strikes, {len(cards)} to come: {card}")
            if self._plan.seconds is not None and clock() - began >= self._plan.seconds:
                break
            if not cards and self._plan.seconds is not None:
                cards = deck(self._plan.kills, sqlite=self._is_sqlite, rng=self._process_rng)
        self._weather.over.set()

    async def _kill(self) -> None:
        self._book.struck(KILL)
        await self._gateway.kill()
        await self._gateway.start()

    async def _kill_starting(self) -> None:
        self._book.struck(KILL)
        await self._gateway.kill()
        await self._gateway.kill_starting(self._process_rng.uniform(0.1, 1.5))
        self._book.struck(KILL_STARTING)
        await self._gateway.start()

    async def _kill_frozen(self) -> None:
        self._gateway.freeze()
        await asyncio.sleep(self._process_rng.uniform(0.1, 2))
        self._book.struck(KILL_FROZEN)
        await self._gateway.kill()
        await self._gateway.start()

    async def _kill_full(self) -> None:
        self._gateway.fill_disk()
        await asyncio.sleep(self._process_rng.uniform(0.1, 1.5))
        self._book.struck(KILL_FULL)
        await self._gateway.kill()
        await self._gateway.start()

    async def _terminate(self) -> None:
        self._book.struck(TERMINATE)
        await self._gateway.terminate()
        await self._gateway.start()

    async def _freeze(self) -> None:
        self._book.struck(FREEZE)
        self._gateway.freeze()
        await asyncio.sleep(self._process_rng.uniform(0.2, 2 * self._plan.pause_s))
        self._gateway.thaw()

    async def _disk_full(self) -> None:
        self._book.struck(DISK_FULL)
        self._gateway.fill_disk()
        await asyncio.sleep(self._process_rng.uniform(0.2, 2 * self._plan.pause_s))
        self._gateway.free_disk()

    # --- the store

    async def _crash_postgres(self, postgres: PostgresServer) -> None:
        await asyncio.sleep(self._store_rng.uniform(0, 2))
        while True:
            self._book.struck(POSTGRES)
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(self._store_rng.uniform(0, 3))
            await asyncio.to_thread(postgres.start)
            if await self._weather.is_over(self._store_rng.uniform(1, 8)):
                return
