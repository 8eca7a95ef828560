"""Gateways as processes: started again as a supervisor does, killed, stopped, frozen, left without disk.

Around several stand HAProxy before them, and between each and the database a way that can be cut.
"""

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from answerback.tasks import Tasks
from answerback_aws.emulator.emulator import LocalFailed, free_ports
from answerback_proof.chaos.recording_model import SPEC
from answerback_proof.load.figures import NO_LIMITS
from answerback_proof.load.process import ProcessFailed, ServerProcess, gateway_command, start_server

log = logging.getLogger("answerback.chaos")

_START_AGAIN_S: Final = 0.3
_GIVE_UP_S: Final = 90.0
_HEALTH_S: Final = 5.0
_GRACE_S: Final = 2
_DRAIN_S: Final = 6
_NO_LIMIT: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Died(Exception):
    """The server ended by itself; the text says how."""


class _Health(msgspec.Struct, frozen=True, rename="camel"):
    queue_depth: int
    running: int


class GatewayProcess:
    """A gateway process, started again and again on the same ports, data and log."""

    def __init__(
        self, folder: Path, *, database: str | None, environment: Mapping[str, str], node: str | None = None
    ) -> None:
        self.port, self._admin_port = free_ports(2)
        self.data_dir = folder / f"data{node or ''}"
        self.log = folder / f"gateway{node or ''}.log"
        more = ("--model", f"echo={SPEC}", "--log-level", "warning", "--grace", str(_GRACE_S), *NO_LIMITS)
        listening = ("--port", str(self.port), "--admin-port", str(self._admin_port))
        stored = [] if database is None else ["--database", database]
        stored += [] if node is None else ["--node", node, "--drain", str(_DRAIN_S)]
        self._command = gateway_command(self.data_dir, *listening, *more, *stored)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSWERBACK_")},
            **environment,
        }
        self._server: ServerProcess | None = None
        self.failed_starts = 0

    async def start(self) -> None:
        """Start it, again and again while the store is unavailable, as a supervisor does. Raises: ProcessFailed."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _GIVE_UP_S
        while True:
            try:
                self._server = await start_server(self._command, log=self.log, environment=self._environment)
                return
            except ProcessFailed:
                if clock() > give_up_at:
                    raise
            self.failed_starts += 1
            await asyncio.sleep(_START_AGAIN_S)

    def check(self) -> None:
        """Raises: Died."""
        code = self._running.process.returncode
        if code is not None:
            raise Died(f"the gateway ended by itself with exit code {code}; see {self.log}")

    async def kill(self) -> None:
        """SIGKILL, running or frozen."""
        self.check()
        await self._running.stop(number=signal.SIGKILL)

    async def kill_starting(self, after_s: float) -> None:
        """Start it, and SIGKILL it before it is done with that, if it is not quicker."""
        starting = asyncio.create_task(self.start())
        await asyncio.wait([starting], timeout=after_s)
        if starting.done():
            starting.result()
            await self.kill()
            return
        starting.cancel()  # start_server then kills the process and waits for its end
        await asyncio.wait([starting])

    async def terminate(self) -> None:
        """SIGTERM. Raises: Died: it did not stop gracefully."""
        self.check()
        code = await self._running.stop()
        if code:
            raise Died(f"the gateway was asked to stop and ended with exit code {code}; see {self.log}")

    def freeze(self) -> None:
        self.check()
        self._running.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.check()
        self._running.process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """From now on no file of the gateway can be written beyond what is there: every write fails."""
        self.check()
        resource.prlimit(self._running.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        self.check()
        resource.prlimit(self._running.pid, resource.RLIMIT_FSIZE, _NO_LIMIT)

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is queued and nothing runs; whether that came about in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    health = await self._health()
                    if health is not None and health.queue_depth == health.running == 0:
                        return True
                    await asyncio.sleep(0.2)
        except TimeoutError:
            return False

    async def close(self) -> None:
        if self._server is not None and self._server.process.returncode is None:
            await self._server.stop(number=signal.SIGKILL)

    @property
    def _running(self) -> ServerProcess:
        if self._server is None:
            raise RuntimeError("the gateway was not started")
        return self._server

    async def _health(self) -> _Health | None:
        try:
            async with asyncio.timeout(_HEALTH_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._admin_port)
                try:
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    answer = await reader.read()
                finally:
                    writer.close()
            return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=_Health)
        except (OSError, TimeoutError, msgspec.DecodeError):
            return None


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
        self._tasks = Tasks()

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self._folder}&user=postgres"

    async def open(self) -> None:
        self._folder.mkdir()
        self._server = await asyncio.start_unix_server(self._serve, self._folder / SOCKET)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._tasks.settle(grace_s=0)
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
            self._tasks.start(self._copy(source, sink), name="database way")

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
