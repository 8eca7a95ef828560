"""A real gateway in a thread of its own, its model dictated, behind a network that can be cut: for tests of widgets,
whose own thread belongs to Qt.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from dictated import DictatedModel
from network import Network

START_S = 20.0


class GatewayThread:
    """`with GatewayThread(folder) as gateway`: `gateway.url` leads through the network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = threading.Thread(target=self._main, name="gateway", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._network: Network | None = None
        self.model = DictatedModel()
        self.url = ""

    def __enter__(self) -> "GatewayThread":
        self._thread.start()
        assert self._ready.wait(START_S), "the gateway did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._over.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive(), "the gateway did not stop"

    def say(self, question: str, *pieces: str) -> None:
        self._call(self.model.say, question, *pieces)

    def end(self, question: str, *pieces: str) -> None:
        self._call(self.model.end, question, *pieces)

    def cut(self) -> None:
        self._call(self._network.cut)

    def repair(self) -> None:
        self._call(self._network.repair)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        async def run() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_S)

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        settings = GatewaySettings(
            port=0, admin_port=None, data_dir=self._folder, grace_s=0.0, models=("echo",), rate_limit=0, coalesce_ms=1
        )
        async with Gateway(settings, models=(self.model,)) as gateway, Network(gateway.url) as network:
            self._loop, self._over, self._network = asyncio.get_running_loop(), asyncio.Event(), network
            self.url = network.url
            self._ready.set()
            await self._over.wait()
