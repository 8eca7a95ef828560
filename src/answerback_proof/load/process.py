"""Server processes to measure: started, watched through /proc, and ended."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTENING: Final = re.compile(rb"listening on (wss?://\S+)")
_START_S: Final = 30.0
_STOP_S: Final = 30.0


class ProcessFailed(Exception):
    """A server did not start; the text has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far: CPU seconds (user and system) and resident bytes."""

    cpu_s: float
    rss_bytes: int


def usage_of(pid: int) -> Usage | None:
    """From the kernel; None where Linux is not, and of a process that is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        # Nanoseconds, where /proc/PID/stat has hundredths of a second. The clock's number is the kernel's own form of
        # clock_getcpuclockid(3), which Python does not have.
        cpu_s = time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None
    return Usage(cpu_s=cpu_s, rss_bytes=int(pages) * os.sysconf("SC_PAGE_SIZE"))


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """A running server."""

    url: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def stop(self, *, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; its exit code. One that does not end is killed."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(_STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


async def start_server(
    command: Sequence[str], *, log: Path | None = None, environment: Mapping[str, str] | None = None
) -> ServerProcess:
    """Start a server that says `listening on ws://…` on stdout. Its log goes to `log`, or nowhere.

    `environment`: its variables; None: this process's. A start that is cancelled kills the server.

    Raises: ProcessFailed: it ended, or said nothing in time.
    """
    stderr = (log or Path(os.devnull)).open("ab")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
    except OSError as exc:
        raise ProcessFailed(f"{command[0]} cannot be started ({exc.strerror})") from exc
    finally:
        stderr.close()
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            while line := await process.stdout.readline():
                if found := _LISTENING.search(line):
                    return ServerProcess(url=found[1].decode(), process=process)
            await process.wait()
    except BaseException as exc:
        process.kill()
        await process.wait()
        if isinstance(exc, TimeoutError):
            raise ProcessFailed(f"{command[0]} did not start within {_START_S:.0f} s") from None
        raise
    words = _last_words(log)
    raise ProcessFailed(f"the server ended with exit code {process.returncode}{': ' if words else ''}{words}")


def _last_words(log: Path | None) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() if log else ""


def gateway_command(data_dir: Path, *arguments: str) -> list[str]:
    """`answerback serve` on free ports, with this interpreter. More arguments, as `--model`, are added."""
    base = ["serve", "--port", "0", "--admin-port", "0", "--data-dir", str(data_dir)]
    return [sys.executable, "-m", "answerback", *base, *arguments]


@asynccontextmanager
async def running(command: Sequence[str], *, log: Path | None = None) -> AsyncIterator[ServerProcess]:
    """A server for the length of a block. Raises: ProcessFailed."""
    server = await start_server(command, log=log)
    try:
        yield server
    finally:
        await server.stop()
