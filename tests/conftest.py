"""A real PostgreSQL server for the tests that need one, and Qt where it can be loaded."""

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from functools import cache

import botocore.loaders
import botocore.session
import psycopg
import pytest
from hypothesis import HealthCheck, settings

from answerback_aws.emulator.emulator import Emulator, LocalFailed
from answerback_aws.emulator.postgres import PostgresServer
from emulation import Cluster, emulator_python
from spread import Spread, takes_longer

os.environ["LC_ALL"] = "C.UTF-8"  # whatever the machine speaks: what is said in Korean is tested on purpose
os.environ.pop("PYTHONUNBUFFERED", None)  # and commands write as they do for a user
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile all tests again, and rewrite their asserts
sys.dont_write_bytecode = False

# Each session of boto3 reads the descriptions of the services again, a megabyte of JSON for most clients.
botocore.session.create_loader = cache(botocore.loaders.create_loader)

# How long an example takes says how busy the machine is. `make proof` looks for examples that nobody has seen, and for
# twice as many as each run has.
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", slow)
settings.register_profile("answerback", slow, derandomize=True, max_examples=50)
settings.load_profile("answerback")


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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nothing that comes up is garbage, and none of it need be looked through again."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A command that a test runs in this process sends all logs to a standard error that ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    result = yield
    root.handlers[:] = handlers
    root.setLevel(level)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    gc.collect()
    gc.freeze()  # else pytest looks through all that is left five times more, and then the interpreter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=takes_longer, reverse=True)  # what takes longest first


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return Spread(config, log)


def pytest_report_header() -> str | None:
    if WHY_NO_QT is None:
        return None
    why = f"the tests of the desktop app's windows need Qt ({WHY_NO_QT}); see scripts/install-desktop-libraries"
    if os.environ.get("CI"):
        raise pytest.UsageError(f"{why}, and CI may not skip them")
    return f"skipped: {why}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server a test run."""
    try:
        server = PostgresServer()
    except LocalFailed as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    with server:
        _sync(server, "off")
        yield server


def _sync(server: PostgresServer, setting: str) -> None:
    """Whether it waits for the disk. The tests crash the server, never the machine, whose memory is as good then."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET fsync = {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
def synced_server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """`postgres_server` while it waits for the disk, for a test of that."""
    _sync(postgres_server, "on")
    yield postgres_server
    _sync(postgres_server, "off")


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A loopback port where nobody listens.

    It is kept for this test: a server that is told its number can listen there, and the system gives it to nobody else.
    """
    with socket.socket() as keeping:
        keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeping.bind(("127.0.0.1", 0))
        yield keeping.getsockname()[1]


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy, no authority and no key."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("SSL_CERT_", "ANSWERBACK_", "OPENAI_")):
            monkeypatch.delenv(name)


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
