"""A TCP proxy in front of the gateway that can do to connections what networks do."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from answerback_proof.chaos.wire import Texts, Wire

_READ_BYTES: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST and drops what is queued (socket(7))."""
_DIAL_S: Final = 10.0
HOST: Final = "127.0.0.1"


class Path:
    """One connection through the proxy: a socket to the app, one to the gateway, a gate in each direction."""

    def __init__(self, wire: Wire, app: asyncio.StreamWriter, gateway: asyncio.StreamWriter) -> None:
        self.wire = wire
        self.app = app
        self.gateway = gateway
        self.to_app = asyncio.Event()
        self.to_gateway = asyncio.Event()
        self.is_half_open = False
        self.open_gates()

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to it now."""
        return self.to_app.is_set() and self.to_gateway.is_set() and not self.is_half_open

    def open_gates(self) -> None:
        """Let bytes through again."""
        self.to_app.set()
        self.to_gateway.set()

    def reset(self) -> None:
        """RST to both sides."""
        for side in (self.app, self.gateway):
            _reset(side)

    def close(self) -> None:
        """FIN to both sides, in the middle of whatever was being said."""
        for side in (self.app, self.gateway):
            side.close()

    def lose_gateway(self) -> None:
        """The app's side stays open; what it says reaches nobody."""
        self.is_half_open = True
        _reset(self.gateway)

    def lose_app(self) -> None:
        """The gateway's side stays open; what it says reaches nobody."""
        self.is_half_open = True
        _reset(self.app)


class Proxy:
    """Listens on a loopback port of its own. `new_wire` makes the reader of each connection."""

    def __init__(self, gateway_port: int, new_wire: Callable[[], Wire]) -> None:
        self._gateway_port = gateway_port
        self._new_wire = new_wire
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._paths: set[Path] = set()
        self.connected = 0

    @property
    def paths(self) -> list[Path]:
        """The open connections that nothing is done to."""
        return [path for path in self._paths if path.is_plain]

    async def start(self) -> str:
        """Begin to listen; the URL for the apps."""
        self._server = await asyncio.start_server(self._relay, HOST, 0, backlog=4096)
        return f"ws://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and cut everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        """Open every gate. A half-open connection stays so: to notice it is up to its two ends."""
        for path in self._paths:
            if not path.is_half_open:
                path.open_gates()

    async def _relay(self, from_app: asyncio.StreamReader, to_app: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        try:
            async with asyncio.timeout(_DIAL_S):
                from_gateway, to_gateway = await asyncio.open_connection(HOST, self._gateway_port)
        except (OSError, TimeoutError):
            _reset(to_app)
            return
        except asyncio.CancelledError:
            to_app.close()
            return
        self.connected += 1
        path = Path(self._new_wire(), to_app, to_gateway)
        self._paths.add(path)
        pumps = [
            asyncio.create_task(_pump(path, from_app, to_gateway, path.to_gateway, path.wire.from_app)),
            asyncio.create_task(_pump(path, from_gateway, to_app, path.to_app, path.wire.from_gateway)),
        ]
        for pump in pumps:
            self._keep(pump)
        try:
            await self._until_over(path, pumps)
        except asyncio.CancelledError:
            pass  # by `stop`, and the relay ends here; asyncio would log a cancelled one as an error
        finally:
            self._paths.discard(path)
            for pump in pumps:
                pump.cancel()
            path.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _until_over(path: Path, pumps: list[asyncio.Task[None]]) -> None:
        """Either direction ends the connection, unless it is half-open: then its living side does."""
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if path.is_half_open:
            await asyncio.wait(pumps)


async def _pump(
    path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, texts: Texts
) -> None:
    with suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            texts.feed(data)
            await gate.wait()
            if not path.is_half_open:
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError, ValueError):  # ValueError: uvloop's, of one that is closed
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
