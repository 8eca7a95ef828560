"""A PostgreSQL server of our own, to crash it."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_DEBIAN: Final = Path("/usr/lib/postgresql")
_ACCOUNT: Final = "postgres"
"""Who runs it if we are root, whom it refuses."""


class NoPostgres(Exception):
    """There are no server programs, or they fail; the text says what to do."""


class OwnPostgres:
    """A server in a temporary folder, reached by a Unix socket in it."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._account = _ACCOUNT if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="answerback-pg-", dir="/tmp"))  # a socket's path is short
        self.url = f"postgresql:///postgres?host={self._folder}&user=postgres"

    async def create(self) -> None:
        """Make the database and start. Raises: NoPostgres."""
        if self._account is not None:
            shutil.chown(self._folder, self._account, self._account)
        await self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "-N")
        await self.start()

    async def start(self) -> None:
        """Start and wait until it accepts connections. Raises: NoPostgres."""
        options = f"-k {self._folder} -c listen_addresses='' -c shared_buffers=32MB"
        log = str(self._folder / "log")
        await self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-o", options, "-l", log, "start")

    async def crash(self) -> None:
        """Stop in the immediate mode: no clean end of anything, recovery at the next start. Raises: NoPostgres."""
        await self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    async def remove(self) -> None:
        """Stop it, if it runs, and delete everything."""
        try:
            await self.crash()
        except NoPostgres:
            pass  # it does not run
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    async def _run(self, program: str, *arguments: str) -> None:
        done = await asyncio.to_thread(
            subprocess.run,
            [str(self._binaries / program), *arguments],
            cwd=self._folder,
            user=self._account,
            group=self._account,
            extra_groups=[] if self._account else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            words = log.read_text(encoding="utf-8", errors="replace")[-1000:] if log.exists() else ""
            raise NoPostgres(f"{program} {arguments[-1]} failed with exit code {done.returncode}. {words}".strip())


def _binaries() -> Path:
    """The newest server programs of this machine. Raises: NoPostgres."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = sorted(
        (found for found in _DEBIAN.glob("*/bin/initdb") if found.parts[-3].isdigit()),
        key=lambda found: int(found.parts[-3]),
    )
    if not versions:
        raise NoPostgres("No PostgreSQL server programs were found. Debian has them in the package postgresql.")
    return versions[-1].parent
