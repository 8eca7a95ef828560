"""A PostgreSQL server of our own in a temporary folder, reached by a Unix socket only.

It stands in Aurora's place in the emulated stack, and is what tests and chaos runs crash.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Literal

from answerback_aws.emulator.emulator import LocalFailed

_START_TIMEOUT_S: Final = 60
_USER: Final = "postgres"
_PLACES: Final = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/usr/pgsql-*")


class PostgresServer:
    """A server, as a context manager. As root it runs as the user `postgres`, since it refuses to run as root.

    Its methods block. Raises: LocalFailed: there are no server programs, or they fail.
    """

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._account = _USER if os.geteuid() == 0 else None
        # In /tmp, whatever TMPDIR says: the path of a socket must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="answerback-postgres-", dir="/tmp"))

    @property
    def dsn(self) -> str:
        """libpq's connection string, without a database."""
        return f"host={self.folder} user={_USER}"

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self.folder}&user={_USER}"

    def create(self) -> None:
        """Make a database cluster and start. Raises: LocalFailed."""
        if self._account is not None:
            try:
                shutil.chown(self.folder, self._account, self._account)
            except LookupError as exc:
                raise LocalFailed("PostgreSQL does not run as root", "run the command as another user") from exc
        self._make()
        self.start()

    def _make(self) -> None:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", _USER, "-N", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Start a cluster that was made, and wait until it accepts connections. Raises: LocalFailed."""
        options = f"-k {self.folder} -c listen_addresses='' -c shared_buffers=16MB"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-w", "-t", str(_START_TIMEOUT_S), "-o", options, "-l", log, "start")

    def stop(self, mode: Literal["immediate", "fast"] = "immediate") -> None:
        """Stop and keep the data: `immediate` is a crash, `fast` is graceful. Raises: LocalFailed."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def remove(self) -> None:
        """Stop it if it runs, and delete all that it held; doing it again does nothing."""
        try:
            if (self.folder / "data" / "postmaster.pid").exists():
                self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "PostgresServer":
        try:
            self.create()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - our own command
            [str(self._binaries / program), *arguments],
            cwd=self.folder,
            user=self._account,
            group=self._account,
            extra_groups=[] if self._account else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            output = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
            raise LocalFailed("\n".join([f"PostgreSQL's {program} failed", *output]), "check the disk, and try again")


def _binaries() -> Path:
    """The folder of the newest `initdb`. Raises: LocalFailed: there is none."""
    found = shutil.which("initdb")
    if found is None:
        installed = [path for place in _PLACES for path in Path("/").glob(f"{place[1:]}/**/bin/initdb")]
        newest = max(installed, key=_version, default=None)
        if newest is None:
            hint = "install it (Debian and Ubuntu: apt-get install postgresql; macOS: brew install postgresql)"
            raise LocalFailed("a PostgreSQL server is needed, and none is installed here", hint)
        found = str(newest)
    return Path(found).resolve().parent


def _version(path: Path) -> list[int]:
    return [int(number) for part in path.parts for number in part.rpartition("@")[2].split(".") if number.isdigit()]
