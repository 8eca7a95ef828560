"""A real PostgreSQL server for the tests that need one, and Qt where it can be loaded."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from answerback_aws.emulator.emulator import Emulator
from emulation import Cluster, emulator_python


def _why_no_qt() -> str | None:
    """What keeps Qt from being loaded: a package, or a library of the system."""
    try:
        import PySide6.QtWidgets  # noqa: F401
    except ImportError as exc:
        return str(exc)
    return None


WHY_NO_QT = _why_no_qt()
pytest_plugins = [] if WHY_NO_QT else ["pytestqt.plugin"]
collect_ignore = ["desktop/ui", "desktop/smoke"] if WHY_NO_QT else []


def pytest_configure() -> None:
    """Ctrl-C is tested. A run that was started in the background ignores SIGINT, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str | None:
    if WHY_NO_QT is None:
        return None
    why = f"the tests of the desktop app's windows need Qt ({WHY_NO_QT}); see scripts/install-desktop-libraries"
    if os.environ.get("CI"):
        raise pytest.UsageError(f"{why}, and CI may not skip them")
    return f"skipped: {why}"


class PostgresServer:
    """A server of its own in a temporary folder, reached by a Unix socket. It runs as `postgres` if we are root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-N")
        self.url = f"postgresql:///postgres?host={folder}&user=postgres"
        self.dsn = f"host={folder} user=postgres"

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        options = f"-k {self._folder} -c listen_addresses='' -c shared_buffers=16MB"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-t", "30", "-o", options, "-l", log, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop: `immediate` is a crash, `fast` is graceful."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(
            command,
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
            raise RuntimeError(f"{command} failed: {log.read_text() if log.exists() else done.returncode}")


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    found = on_path or (installed[-1] if installed else None)
    return None if found is None else Path(found).resolve().parent


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server a test run."""
    binaries = _binaries()
    if binaries is None:
        why = "no PostgreSQL server binary was found (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="answerback-postgres-", dir="/tmp"))  # a socket's path must be short
    try:
        server = PostgresServer(binaries, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def emulator(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One emulator a test run, without IAM; its Data API runs on `postgres_server`. Take names of your own on it."""
    folder = tmp_path_factory.mktemp("emulator")
    with Emulator(python=emulator_python(), folder=folder, postgres=postgres_server.dsn) as running:
        yield running


@pytest.fixture(scope="session")
def migrated_cluster(emulator: Emulator) -> Cluster:
    """An Aurora whose tables have been made, for the whole test run."""
    from aurora import make_migrated

    return make_migrated(emulator)


@pytest.fixture
def aurora_cluster(migrated_cluster: Cluster, postgres_server: PostgresServer) -> Cluster:
    """The tables of the history are there, and empty."""
    from aurora import empty

    empty(migrated_cluster, postgres_server.url)
    return migrated_cluster
