"""What befalls connections and apps, whatever server they are of, drawn from the seed."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

from answerback_proof.chaos.book import Book
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Path, Proxy
from answerback_proof.chaos.workload import App

RESET: Final = "connections reset"
CLOSED: Final = "connections closed in mid-frame"
STALLED: Final = "connections stalled"
GATEWAY_GONE: Final = "connections half-open, gateway gone"
APP_GONE: Final = "connections half-open, app gone"
APP_RESTARTED: Final = "app killed and started again"
WEATHER: Final = (RESET, CLOSED, STALLED, GATEWAY_GONE, APP_GONE, APP_RESTARTED)

_ALL_AT_ONCE: Final = 0.04


class Weather:
    """Strikes connections and apps until `over`. `calm_s`: the longest pauses, at the connections and at the apps."""

    def __init__(
        self,
        plan: ChaosPlan,
        *,
        book: Book,
        proxy: Proxy,
        apps: Sequence[App],
        calm_s: tuple[float, float] = (0.8, 2.0),
    ) -> None:
        self._book = book
        self._proxy = proxy
        self._apps = apps
        self._calm_s = calm_s
        self._network_rng, self._app_rng = (
            random.Random(f"{plan.seed} {concern}")  # noqa: S311 - chaos that can be repeated
            for concern in ("network", "app")
        )
        self.over = asyncio.Event()

    async def shake_network(self) -> None:
        """Until it is over."""
        rng = self._network_rng
        deeds: tuple[tuple[str, Callable[[Path], None]], ...] = (
            (RESET, Path.reset),
            (CLOSED, Path.close),
            (STALLED, self._stall),
            (GATEWAY_GONE, Path.lose_gateway),
            (APP_GONE, Path.lose_app),
        )
        while not await self.is_over(rng.uniform(0.1, self._calm_s[0])):
            paths = self._proxy.paths
            fault, strike = rng.choice(deeds)
            count = len(paths) if rng.random() < _ALL_AT_ONCE else rng.randint(1, max(1, len(paths) // 15))
            for path in rng.sample(paths, min(count, len(paths))):
                self._book.struck(fault)
                strike(path)

    async def restart_apps(self) -> None:
        """Until it is over."""

        def cut(session: str) -> None:
            for path in self._proxy.paths:
                if path.wire.session == session:
                    path.reset()

        while not await self.is_over(self._app_rng.uniform(0.2, self._calm_s[1])):
            self._book.struck(APP_RESTARTED)
            await self._app_rng.choice(self._apps).restart(cut)

    async def is_over(self, after_s: float) -> bool:
        """Wait so long, or until the storm is over; whether it is."""
        try:
            async with asyncio.timeout(after_s):
                await self.over.wait()
        except TimeoutError:
            return False
        return True

    def _stall(self, path: Path) -> None:
        rng = self._network_rng
        gates = rng.choice(((path.to_app,), (path.to_gateway,), (path.to_app, path.to_gateway)))
        for gate in gates:
            gate.clear()
        asyncio.get_running_loop().call_later(rng.uniform(0.2, 6), path.open_gates)
