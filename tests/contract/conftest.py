"""Every store behind one fixture, and an actor that speaks to it in the terms of the domain.

A further store joins with one subclass of Backend and its name in BACKENDS.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import boto3
import psycopg
import pytest
from moto import mock_aws

from answerback.ports import Files, History, Requests, Users
from answerback.stores.sqlite import MemoryStore, SqliteStore
from answerback_aws.emulator.emulator import CREDENTIALS, REGION
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.tables import Tables
from asking import Actor
from aurora import Aws
from dynamo import DynamoStore, own_tables


class Store(Requests, History, Users, Files, Protocol):
    """What is under contract."""


class Backend(ABC):
    """How to get a store, again and again over the same data."""

    def __init__(self) -> None:
        self._opened: list[Any] = []

    @abstractmethod
    async def make(self) -> Any:
        """A store over this backend's data."""

    async def open(self) -> Any:
        store = await self.make()
        self._opened.append(store)
        return store

    async def reopen(self) -> Any:
        """As after a restart of the gateway."""
        await self.close()
        return await self.open()

    async def close(self) -> None:
        while self._opened:
            await self._opened.pop().close()


class MemoryBackend(Backend):
    def __init__(self) -> None:
        super().__init__()
        self._store = MemoryStore()

    async def make(self) -> Any:
        return self._store

    async def close(self) -> None:
        """It survives nothing, so it is never closed."""


class SqliteBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    async def make(self) -> Any:
        store = SqliteStore(self._folder / "contract.db")
        await store.open()
        return store


EMPTY = """
SELECT format('DELETE FROM %%I.%%I', schemaname, tablename) FROM pg_tables
  WHERE schemaname = %(schema)s AND tablename NOT IN ('schema_migrations', 'marks')
UNION ALL SELECT format('UPDATE %%I.marks SET value = 0 WHERE name = %%L', schemaname, 'n') FROM pg_tables
  WHERE schemaname = %(schema)s AND tablename = 'marks'
UNION ALL SELECT format('ALTER SEQUENCE %%I.%%I RESTART', schemaname, sequencename) FROM pg_sequences
  WHERE schemaname = %(schema)s"""
"""The statements that make tables as they are when a store has made them."""


class PostgresBackend(Backend):
    """In tables that other tests have used: to make them takes longer than most tests."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._schema = type(self).__name__.lower()
        with psycopg.connect(url, autocommit=True) as connection:
            for (statement,) in connection.execute(EMPTY, {"schema": self._schema}).fetchall():
                connection.execute(statement)

    async def make(self) -> Any:
        from answerback.stores.postgres import PostgresStore

        store = PostgresStore(self._url, schema=self._schema)
        await store.open()
        return store


class FleetBackend(PostgresBackend):
    async def make(self) -> Any:
        from answerback.stores.fleet import FleetStore

        store = FleetStore(self._url, node="a", schema=self._schema)
        await store.open()
        return store


class DynamoBackend(Backend):
    """Requests and context on the emulated DynamoDB; memory stands for Aurora, behind."""

    def __init__(self, client: Callable[[str], Any], tables: Tables, *, threads: int) -> None:
        super().__init__()
        self._client = client
        client("s3").create_bucket(Bucket=tables.conversations)
        self._tables = tables
        self._calls = Calls(threads=threads)
        self._aurora = MemoryStore()

    async def make(self) -> Any:
        database = Database(client=self._client("dynamodb"), calls=self._calls, tables=self._tables)
        return DynamoStore(database, self._aurora, s3=lambda: self._client("s3"), calls=self._calls)

    def end(self) -> None:
        self._calls.close()


class AwsBackend(Backend):
    """Everything of AWS: DynamoDB, and Aurora behind it, through a Data API that keeps AWS's limits."""

    def __init__(self, emulator: Any, cluster: Any, tables: Tables) -> None:
        super().__init__()
        self._where = (emulator, cluster, tables)

    async def make(self) -> Any:
        return Aws(*self._where)


SQL_BACKENDS = ["sqlite", *(pytest.param(name, marks=pytest.mark.postgres) for name in ("postgres", "fleet"))]
BACKENDS = ["memory", *SQL_BACKENDS]
DYNAMODB = [pytest.param("dynamodb", marks=pytest.mark.emulator), "moto"]
"""On the emulator, and a second opinion by people who never saw it: where they differ, one is not as AWS."""
MOTO_PROOF = pytest.param("moto", marks=pytest.mark.proof)
"""For the history in `make proof` only: its conditions are those of the requests, where both are asked each time."""
AWS = pytest.param("aws", marks=[pytest.mark.emulator, pytest.mark.postgres])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        backends = SQL_BACKENDS if "sql_stores" in marks else [*BACKENDS, *DYNAMODB]
        if "encoded" in marks:
            backends = [*SQL_BACKENDS, *DYNAMODB]
        if marks & {"purging", "sql_stores", "users"}:
            backends = [backend for backend in backends if backend not in DYNAMODB]
        if "crowd" in marks:
            backends = [backend for backend in backends if backend != "moto"]
        if "history" in marks:
            backends = [MOTO_PROOF if backend == "moto" else backend for backend in backends]
        if marks & {"history", "users"}:
            backends = [*backends, AWS]
        metafunc.parametrize("backend", backends, indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sql_stores: about what only the SQL stores have")
    config.addinivalue_line("markers", "crowd: of hundreds of calls, which moto answers slowly and no differently")
    config.addinivalue_line("markers", "encoded: about how records are written, which the memory store does not")
    config.addinivalue_line("markers", "purging: about records that are deleted when told to, not by a time to live")
    config.addinivalue_line("markers", "history: about the history, which on AWS is behind in Aurora")
    config.addinivalue_line("markers", "users: about users and usage, which DynamoDB does not keep")


@pytest.fixture(scope="session")
def moto_client() -> Callable[[str], Any]:
    """A client of a service, made once: while `mock_aws` is on, moto answers it in this process."""
    return cache(partial(boto3.client, region_name=REGION, **CREDENTIALS))


@pytest.fixture
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend: Backend
    match request.param:
        case "memory":
            backend = MemoryBackend()
        case "sqlite":
            backend = SqliteBackend(tmp_path)
        case "dynamodb":
            client = request.getfixturevalue("emulator").client
            with own_tables(client("dynamodb")) as tables:
                backend = DynamoBackend(client, tables, threads=8)
                yield backend
                backend.end()
            return
        case "moto":
            client = request.getfixturevalue("moto_client")
            with mock_aws(), own_tables(client("dynamodb")) as tables:
                # It is not safe for threads: of two writes in the same moment both may pass their condition.
                backend = DynamoBackend(client, tables, threads=1)
                yield backend
                backend.end()
            return
        case "aws":
            emulator, cluster = request.getfixturevalue("emulator"), request.getfixturevalue("aurora_cluster")
            with own_tables(emulator.client("dynamodb")) as tables:
                backend = AwsBackend(emulator, cluster, tables)
                yield backend
                await backend.close()
            return
        case name:
            kind = FleetBackend if name == "fleet" else PostgresBackend
            backend = kind(request.getfixturevalue("postgres_server").url)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> Any:
    return await backend.open()


@pytest.fixture
def actor(store: Store) -> Actor:
    return Actor(store)
