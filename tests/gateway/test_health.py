"""`/healthz` tells whether the store takes writes, with traffic and without."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import websockets

from answerback.core.request import Question, Record
from answerback.gateway.admin import PROBE_EVERY_S, Health
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Accepted, Quota, Unavailable
from answerback.stores import sqlite as sqlite_module
from answerback.stores.sqlite import SqliteStore


class Disk:
    """The disk under every SQLite store of a test."""

    is_full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    real = sqlite_module.connect

    class OnDisk(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            check(sql)
            return super().execute(sql, *args)

        def executemany(self, sql: str, *args: object) -> sqlite3.Cursor:
            check(sql)
            return super().executemany(sql, *args)

    def check(sql: str) -> None:
        if disk.is_full and sql.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    connect = sqlite3.connect

    def on_disk(path: Path, *, busy_timeout_s: float) -> sqlite3.Connection:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=OnDisk, **k))
            return real(path, busy_timeout_s=busy_timeout_s)

    monkeypatch.setattr(sqlite_module, "connect", on_disk)
    yield disk
    disk.is_full = False


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += PROBE_EVERY_S


async def accept(store: SqliteStore, request_id: str) -> object:
    record = Record(
        user_id="u",
        request_id=request_id,
        session_id="s",
        conversation_id="c",
        ordering_key="k",
        fingerprint="f",
        model="echo",
        accepted_at_ms=1_750_000_000_000,
    )
    quota = Quota(per_minute=0, max_pending=10)
    return await store.accept(record, Question(message="x", model="echo"), quota, now_ms=1_750_000_000_000)


async def test_health_over_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    clock = Clock()
    health = Health(requests=store, durability=store, clock=lambda: 1_750_000_000_000, monotonic=clock)
    try:
        assert await health.is_good()
        # A write of a caller fails: reported at once, however young the last probe is.
        disk.is_full = True
        with pytest.raises(Unavailable):
            await accept(store, "r1")
        assert not await health.is_good()
        disk.is_full = False
        assert isinstance(await accept(store, "r1"), Accepted)
        assert await health.is_good()
        # Without traffic the probe finds out, and finds out that it is over.
        disk.is_full = True
        clock.later()
        assert not await health.is_good()
        disk.is_full = False
        clock.later()
        assert not await health.is_good(), "a write that failed is reported once in any case"
        assert await health.is_good()
    finally:
        await store.close()


async def test_a_gateway_on_a_full_disk_is_not_healthy(disk: Disk, tmp_path: Path) -> None:
    settings = GatewaySettings(port=0, admin_port=0, data_dir=tmp_path, models=("echo",), rate_limit=0, grace_s=0.0)
    async with Gateway(settings) as gateway, aiohttp.ClientSession() as session:
        async with session.get(f"{gateway.admin_url}/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (200, "ok")
        disk.is_full = True
        async with websockets.connect(gateway.url) as ws:
            await ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello"}))
            assert json.loads(await ws.recv())["code"] == "unavailable"
        async with session.get(f"{gateway.admin_url}/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "unavailable")
        disk.is_full = False
