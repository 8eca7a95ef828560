"""A TCP connection without a network: a transport that keeps what was written, on a loop whose time is virtual."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from answerback.testing.loop import VirtualLoop

T = TypeVar("T")


class MemoryTransport(asyncio.Transport):
    """The gateway's end of one connection. `written`: everything that it sent."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8765)})
        self.written = bytearray()
        self._protocol = protocol
        self._loop = loop
        self._is_closing = False
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        """The peer sent this."""
        if not self._is_closing:
            self._protocol.data_received(data)

    def disconnect(self) -> None:
        """The peer is gone."""
        self._end()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.Transport."""
        if not self._is_closing:
            self.written += data

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._is_closing

    def close(self) -> None:
        """See asyncio.Transport."""
        self._end()

    def abort(self) -> None:
        """See asyncio.Transport."""
        self._end()

    def get_write_buffer_size(self) -> int:
        """See asyncio.Transport."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.Transport."""

    def pause_reading(self) -> None:
        """See asyncio.Transport. What was sent already comes all the same, as it may from a kernel."""

    def resume_reading(self) -> None:
        """See asyncio.Transport."""

    def is_reading(self) -> bool:
        """See asyncio.Transport."""
        return True

    def _end(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)


class _Listening:
    """What a server's socket would say of itself."""

    def __init__(self) -> None:
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8765)

    def setsockopt(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryLoop(VirtualLoop):
    """`create_server` opens no port; `dial` connects to it."""

    def __init__(self) -> None:
        super().__init__()
        self._factories: list[Callable[[], asyncio.Protocol]] = []

    async def create_server(self, factory: Callable[[], asyncio.Protocol], *_: Any, **options: Any) -> Any:  # type: ignore[override]
        """See asyncio.AbstractEventLoop."""
        del options
        self._factories.append(factory)
        return _Listening()

    def dial(self, number: int = -1) -> MemoryTransport:
        """A new connection to a server, by the order of their starts."""
        return MemoryTransport(self._factories[number](), self)


class Errors(logging.Handler):
    """Keeps what was logged as an error: nothing that a peer sends may be one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.seen.append(logging.Formatter().format(record))


@contextmanager
def no_errors(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Fails if the block logs an error, or something in the loop raises where nobody hears it."""
    errors = Errors()
    unhandled: list[dict[str, Any]] = []
    root = logging.getLogger()
    root.addHandler(errors)
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    try:
        yield
    finally:
        root.removeHandler(errors)
        loop.set_exception_handler(None)
    assert not errors.seen, errors.seen[0]
    assert not unhandled, unhandled[0]


def play(story: Callable[[MemoryLoop], Coroutine[Any, Any, T]]) -> T:
    """Run one story on a loop of its own. No error may be logged meanwhile, and no task may be left at its end."""
    loop = MemoryLoop()
    try:
        with no_errors(loop):
            result = loop.run_until_complete(story(loop))
            remaining = asyncio.all_tasks(loop)
            for task in remaining:
                task.cancel()
            if remaining:
                loop.run_until_complete(asyncio.wait(remaining))
        assert not remaining, f"a task was left: {remaining}"
        return result
    finally:
        loop.close()


async def settle(turns: int = 8) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)
