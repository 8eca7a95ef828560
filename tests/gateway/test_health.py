"""`/healthz` tells whether the store takes writes, with traffic and without."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import websockets

from answerback.core.request import Question
from answerback.gateway.app import Gateway
from answerback.gateway.health import GLANCE_EVERY_S, PROBE_EVERY_S, Health
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Accepted, Quota, Unavailable
from answerback.stores import sqlite as sqlite_module
from answerback.stores.sqlite import SqliteStore
from asking import record_of


class Disk:
    """The disk under every SQLite store of a test."""

    is_full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    real = sqlite_module.connect

    class OnDisk(sqlite_module.SqliteDatabase):
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

    alone = threading.Lock()  # two readers connect at once, each in its thread

    def on_disk(path: Path, *, busy_timeout_s: float) -> sqlite3.Connection:
        with alone, monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "factory": OnDisk}))
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
    record = record_of(request_id, accepted_at_ms=1_750_000_000_000)
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


async def test_health_on_the_port_of_the_sockets_is_the_status_alone_and_writes_nothing(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("answerback.gateway.health.GLANCE_EVERY_S", 0.0)
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, models=("echo",), rate_limit=0, grace_s=0.0)
    async with Gateway(settings) as gateway, aiohttp.ClientSession() as session:
        url = gateway.url.replace("ws:", "http:") + "/healthz"
        disk.is_full = True
        for method, headers in (
            ("GET", {"Host": "10.0.0.7"}),
            ("HEAD", {}),
            ("GET", {"Origin": "https://page.example"}),
        ):
            async with session.request(method, url, headers=headers) as response:
                assert response.status == 200, "a full disk is not noticed by a call that writes nothing"
                assert method == "HEAD" or await response.json() == {"status": "ok"}
        async with websockets.connect(gateway.url) as ws:
            await ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello"}))
            assert json.loads(await ws.recv())["code"] == "unavailable"
        async with session.get(url) as response:
            assert (response.status, await response.json()) == (503, {"status": "unavailable"})
        disk.is_full = False
        async with websockets.connect(gateway.url) as ws:
            await ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello"}))
            assert json.loads(await ws.recv())["action"] == "messageAccepted"
        async with session.get(url) as response:
            assert response.status == 200
        async with session.get(url + "/more") as response:
            assert response.status == 426


async def test_who_asks_for_health_all_the_time_reads_the_store_now_and_then(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    reads = 0

    class Counting:
        async def read(self, key: object) -> None:
            nonlocal reads
            reads += 1

    clock = Clock()
    health = Health(requests=Counting(), durability=store, clock=lambda: 0, monotonic=clock)
    for _ in range(100):
        assert await health.glance()
    assert reads == 1
    clock.now += GLANCE_EVERY_S
    assert await health.glance()
    assert reads == 2
    await store.close()


async def test_the_admin_port_on_another_address_shows_strangers_the_status_alone(tmp_path: Path) -> None:
    settings = GatewaySettings(
        port=0, admin_port=0, admin_host="127.0.0.2", data_dir=tmp_path, models=("echo",), grace_s=0.0
    )
    async with Gateway(settings) as gateway, aiohttp.ClientSession() as session:
        key = {"Authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
        for host in ("127.0.0.1", "127.0.0.2"):
            url = f"{gateway.admin_url}".replace("127.0.0.1", host)
            async with session.get(f"{url}/healthz") as response:
                assert await response.json() == {"status": "ok"}
            async with session.get(f"{url}/metrics") as response:
                assert response.status == 403
            async with session.get(f"{url}/healthz", headers=key) as response:
                assert (await response.json())["connections"] == 0


async def test_a_gateway_that_stops_is_well_but_not_ready(tmp_path: Path) -> None:
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, models=("echo:fail=hang",), rate_limit=0)
    gateway = Gateway(settings)
    await gateway.start()
    # A gateway that stops accepts no new connection, so these are there before.
    checks = [(path, await asyncio.open_connection("127.0.0.1", gateway.port)) for path in ("healthz", "readyz")]
    async with websockets.connect(gateway.url) as ws:
        await ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "hello"}))
        await ws.recv()
        stop = asyncio.create_task(gateway.stop())
        await asyncio.sleep(0)
        found = {}
        for path, (reader, writer) in checks:
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            found[path] = (await reader.readline()).split()[1]
            writer.close()
        assert found == {"healthz": b"200", "readyz": b"503"}
        gateway.skip_grace()
    await stop
