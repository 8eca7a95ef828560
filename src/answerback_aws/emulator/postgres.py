"""A PostgreSQL server of our own in a temporary folder, in Aurora's place. Reached by a Unix socket only."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

from answerback_aws.emulator.emulator import LocalFailed

__all__ = ["PostgresServer"]

_START_S: Final = 30
_USER: Final = "postgres"
_PLACES: Final = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/usr/pgsql-*")


class PostgresServer:
    """A server, as a context manager. As root it runs as the user `postgres`, since it refuses to run as root."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._user = _USER if os.geteuid() == 0 else None
        self._folder: Path | None = None

    @property
    def dsn(self) -> str:
        """libpq's connection string, without a database."""
        return f"host={self._folder} user={_USER}"

    def start(self) -> None:
        """Make a database cluster and start it. Raises: LocalFailed."""
        # In /tmp, whatever TMPDIR says: the path of a socket must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="answerback-postgres-", dir="/tmp"))
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", _USER, "-N", "-E", "UTF8", "--locale=C")
        options = f"-k {self._folder} -c listen_addresses='' -c shared_buffers=16MB"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", data, "-w", "-t", str(_START_S), "-o", options, "-l", log, "start")

    def stop(self) -> None:
        """Stop it and delete all that it held; doing it again does nothing."""
        if self._folder is None:
            return
        if (self._folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def __enter__(self) -> "PostgresServer":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, program: str, *arguments: str) -> None:
        assert self._folder is not None
        done = subprocess.run(  # noqa: S603 - our own command
            [str(self._binaries / program), *arguments],
            cwd=self._folder,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            said = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
            raise LocalFailed("\n".join([f"PostgreSQL's {program} failed", *said]), "check the disk, and try again")


def _binaries() -> Path:
    """The folder of the newest `initdb`. Raises: LocalFailed: there is none, or nobody to run it as."""
    found = shutil.which("initdb")
    if found is None:
        installed = [path for place in _PLACES for path in Path("/").glob(f"{place[1:]}/**/bin/initdb")]
        newest = max(installed, key=_version, default=None)
        if newest is None:
            hint = "install it (Debian and Ubuntu: apt-get install postgresql; macOS: brew install postgresql)"
            raise LocalFailed("the history needs PostgreSQL, and no server is installed here", hint)
        found = str(newest)
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError as exc:
            raise LocalFailed("PostgreSQL does not run as root", "run the command as another user") from exc
    return Path(found).resolve().parent


def _version(path: Path) -> list[int]:
    return [int(number) for part in path.parts for number in part.rpartition("@")[2].split(".") if number.isdigit()]
