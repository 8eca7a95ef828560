"""The gateway as a process: started again as a supervisor does, killed, stopped, frozen, left without disk."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from answerback_aws.emulator.emulator import free_ports
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
