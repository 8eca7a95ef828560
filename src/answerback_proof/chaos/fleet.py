"""What stands around several gateways: HAProxy before them, and between each and the database a way that can be cut."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from answerback_aws.emulator.emulator import LocalFailed, free_ports

SOCKET: Final = ".s.PGSQL.5432"
_READ_BYTES: Final = 65_536
_STARTED_S: Final = 10.0

_CONFIG: Final = """
defaults
  mode http
  timeout connect 1s
  timeout client 75s
  timeout server 75s
  timeout tunnel 75s
  option redispatch 1
  retries 3
frontend sockets
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance leastconn
  option httpchk GET /readyz
  default-server check inter 1s fall 1 rise 1
{servers}
"""
"""As packaging/server/haproxy.cfg has it."""


class DatabaseWay:
    """The way of one gateway to the database: a socket in a folder of its own. When it is cut, nothing passes."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target / SOCKET
        self._gate = asyncio.Event()
        self._gate.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self._folder}&user=postgres"

    async def open(self) -> None:
        self._folder.mkdir()
        self._server = await asyncio.start_unix_server(self._serve, self._folder / SOCKET)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def cut(self) -> None:
        self._gate.clear()

    def heal(self) -> None:
        self._gate.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._gate.wait()
        try:
            back_reader, back_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for a closed transport
            while data := await source.read(_READ_BYTES):
                await self._gate.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def haproxy(folder: Path, ports: Sequence[int]) -> AsyncIterator[int]:
    """HAProxy before gateways on these ports, for the length of a block; its port. Raises: LocalFailed."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise LocalFailed("HAProxy is needed, and it is not installed here", "Debian: apt-get install haproxy")
    (port,) = free_ports(1)
    servers = "\n".join(f"  server s{number} 127.0.0.1:{at}" for number, at in enumerate(ports))
    config = folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(port=port, servers=servers), encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(config), stdout=log, stderr=log)
    try:
        await _listens(port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(_STARTED_S):
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            await asyncio.sleep(0.05)
