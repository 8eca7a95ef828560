"""An HTTP server on this machine that blocking code starts and stops: it runs in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias, TypeVar

from aiohttp import web

T = TypeVar("T")

OpenApp: TypeAlias = Callable[[], AbstractAsyncContextManager[web.Application]]
"""Makes the application on the server's event loop, and ends what it used."""

_START_S: Final = 10.0


class ThreadedServer:
    """Serves an application on 127.0.0.1. It may be stopped and started again, then on the same port.

    `cancels`: a request whose client has gone is cancelled.
    """

    def __init__(self, name: str, open_app: OpenApp, *, cancels: bool = False) -> None:
        self._name = name
        self._open_app = open_app
        self._cancels = cancels
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start serving. Raises: OSError: no port."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=self._name, daemon=True)
        self._thread.start()
        ready.wait(_START_S)
        if self._failure is not None:
            raise self._failure

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's event loop, and wait for it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """Stop; twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as exc:  # raised in the thread that waits for the start
            self._failure = exc
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._open_app() as app:
            runner = web.AppRunner(app, handler_cancellation=self._cancels, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", self._port).start()
                self._port = runner.addresses[0][1]
                ready.set()
                await self._stop.wait()
            finally:
                await runner.cleanup()
