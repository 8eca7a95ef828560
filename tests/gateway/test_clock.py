"""The wall clock leaps under a real gateway: a laptop that slept, a clock that was set."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import websockets

from answerback.clock import LEAP_MS, LeapingClock
from answerback.core.request import Policy
from answerback.gateway import app as app_module
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Piece, Prompt
from answerback.service.attempt import Run
from answerback.service.janitor import Janitor

HOUR_MS = 3_600_000


class Wall:
    """The wall clock of everything that is ours, and how often the janitor swept since it was last set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_ms = 0
        self._sweeps = asyncio.Semaphore(0)
        self._lived_ms = 0
        clock = partial(LeapingClock, wall_ns=self._time_ns, monotonic=lambda: time.monotonic() + self._lived_ms / 1000)
        monkeypatch.setattr(app_module, "LeapingClock", clock)
        sweep = Janitor.sweep

        async def counted(janitor: Janitor, **options: Any) -> None:
            await sweep(janitor, **options)
            self._sweeps.release()

        monkeypatch.setattr(Janitor, "sweep", counted)

    def _time_ns(self) -> int:
        return time.time_ns() + (self._ahead_ms + self._lived_ms) * 1_000_000

    def leap(self, by_ms: int) -> None:
        self._ahead_ms += by_ms

    def live(self, for_ms: int) -> None:
        """Time that passes, and no leap."""
        self._lived_ms += for_ms

    async def swept(self, times: int = 3) -> None:
        for _ in range(times):
            await self._sweeps.acquire()


class OneAtATime:
    """A model that says one word, and the next when it may."""

    name = "slow"
    context_tokens = 8_192
    concurrency = 1

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.asked: list[str] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.asked.append(prompt.request_id)
        yield "one"
        await self.may_end.wait()
        yield " two"

    async def close(self) -> None:
        pass


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def gateway(
    folder: Path, model: OneAtATime, *, node: str | None = None, database: str | None = None, **policy: int
) -> Gateway:
    settings = GatewaySettings(
        node=node,
        database=database,
        drain_s=0.0,
        lb_grace_s=0.0,
        port=0,
        admin_port=None,
        data_dir=folder,
        models=("slow",),
        rate_limit=0,
        grace_s=0.0,
        janitor_interval_s=0.01,
        policy=Policy(**policy),
    )
    return Gateway(settings, models=(model,))


async def frames(ws: websockets.ClientConnection, action: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            frame = json.loads(await ws.recv())
            if frame["action"] == action:
                found.append(frame)
    return found


async def ask(ws: websockets.ClientConnection, *request_ids: str) -> None:
    for name in request_ids:
        await ws.send(
            json.dumps(
                {"action": "sendMessage", "requestId": name, "message": "?", "conversationId": name, "stream": True}
            )
        )
    await frames(ws, "messageAccepted", len(request_ids))


@pytest.mark.parametrize("leaps", [[3 * HOUR_MS], [-3 * HOUR_MS], [24 * HOUR_MS, -24 * HOUR_MS], [LEAP_MS * 90] * 5])
async def test_neither_a_running_nor_a_waiting_request_nor_a_connection_is_ended_by_a_leap(
    wall: Wall, tmp_path: Path, leaps: list[int]
) -> None:
    model = OneAtATime()
    async with gateway(tmp_path, model) as started, websockets.connect(started.url) as ws:
        await ask(ws, "running", "waiting")
        for leap_ms in leaps:
            wall.leap(leap_ms)
            await wall.swept()
        model.may_end.set()
        endings = await frames(ws, "messageResponse", 2)
        assert [(frame["requestId"], frame["length"], frame["attempt"]) for frame in endings] == [
            ("running", 7, 1),
            ("waiting", 7, 1),
        ]
        await ask(ws, "later")
        assert (await frames(ws, "messageResponse", 1))[0]["length"] == 7


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("fleet", marks=pytest.mark.postgres)])
async def test_a_deadline_holds_over_attempts_of_other_processes(
    kind: str, wall: Wall, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = None if kind == "sqlite" else request.getfixturevalue("postgres_server").url
    names = ("a", "b") if database else (None, None)
    policy = {"answer_timeout_ms": HOUR_MS, "queue_timeout_ms": HOUR_MS // 2}
    async with (
        gateway(tmp_path, OneAtATime(), node=names[0], database=database, **policy) as first,
        websockets.connect(f"{first.url}?sessionId=s") as ws,
    ):
        await ask(ws, "running", "waiting")
    wall.leap(HOUR_MS - 2_000)
    async with (
        gateway(tmp_path, OneAtATime(), node=names[1], database=database, **policy) as second,
        websockets.connect(f"{second.url}?sessionId=s") as ws,
    ):
        points = [{"requestId": name, "attempt": 0, "offset": 0} for name in ("running", "waiting")]
        await ws.send(json.dumps({"action": "hello", "helloId": "h", "resume": points}))
        found = {frame["requestId"]: frame for frame in await frames(ws, "messageResponse", 2)}
    assert [found[name]["error"]["code"] for name in ("running", "waiting")] == ["timeout", "timeout"]
    assert (found["running"]["attempt"], found["running"]["length"]) == (2, 3), "the second attempt had what was left"
    assert HOUR_MS <= found["running"]["timing"]["totalMs"] < HOUR_MS + 20_000


@pytest.mark.parametrize("comes_back", [True, False])
async def test_nothing_is_deleted_soon_after_a_leap(wall: Wall, tmp_path: Path, comes_back: bool) -> None:
    model = OneAtATime()
    model.may_end.set()
    ahead_ms = 400 * 24 * HOUR_MS
    async with gateway(tmp_path, model) as started:

        async def runs_of(request_id: str) -> int:
            async with websockets.connect(f"{started.url}/?userId=u&sessionId=s") as ws:
                asked = {"action": "sendMessage", "requestId": request_id, "conversationId": "c", "message": "?"}
                await ws.send(json.dumps(asked))
                (ending,) = await frames(ws, "messageResponse", 1)
            assert ending["status"] == "completed"
            return len(model.asked)

        assert await runs_of("r1") == 1
        wall.leap(ahead_ms)
        await wall.swept()
        assert await runs_of("r1") == 1, "its record is there, and so is its answer"
        wall.live(HOUR_MS // 2)
        await wall.swept()
        if comes_back:
            wall.leap(-ahead_ms)
            await wall.swept()
        assert await runs_of("r1") == 1
        wall.live(HOUR_MS)
        await wall.swept()
        assert await runs_of("r1") == (1 if comes_back else 2), "a clock that stays there is right"


async def test_time_that_passes_after_a_leap_counts(wall: Wall, tmp_path: Path) -> None:
    model = OneAtATime()
    policy = {"answer_timeout_ms": 1_000, "queue_timeout_ms": 500}
    async with gateway(tmp_path, model, **policy) as started, websockets.connect(started.url) as ws:
        await ask(ws, "running", "waiting")
        wall.leap(3 * HOUR_MS)
        endings = await frames(ws, "messageResponse", 2)
        assert [(frame["requestId"], frame["error"]["code"]) for frame in endings] == [
            ("waiting", "timeout"),
            ("running", "timeout"),
        ]


async def test_a_later_attempt_is_not_ended_by_a_leap_before_it(
    wall: Wall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce, failed = Run.produce, asyncio.Event()

    async def fails_once(run: Run) -> Any:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("planted")
        return await produce(run)

    monkeypatch.setattr(Run, "produce", fails_once)
    model = OneAtATime()
    async with gateway(tmp_path, model, lease_ms=100) as started, websockets.connect(started.url) as ws:
        await ask(ws, "r1")
        await failed.wait()
        wall.leap(3 * HOUR_MS)
        await frames(ws, "messageStarted", 1)
        model.may_end.set()
        (ending,) = await frames(ws, "messageResponse", 1)
        assert (ending["status"], ending["length"], ending["attempt"]) == ("completed", 7, 2)


def test_leaps_are_told_from_time_and_from_corrections() -> None:
    at = {"wall": 1_000_000, "monotonic": 50.0}
    clock = LeapingClock(wall_ns=lambda: int(at["wall"]) * 1_000_000, monotonic=lambda: at["monotonic"])

    def later(*, wall_ms: int, monotonic_ms: int) -> int:
        at["wall"] += wall_ms
        at["monotonic"] += monotonic_ms / 1000
        return clock()

    start = clock()
    later(wall_ms=HOUR_MS, monotonic_ms=HOUR_MS)
    later(wall_ms=1_000, monotonic_ms=0)
    assert clock.leapt_since(start) == 0
    before = clock()
    landed = later(wall_ms=2 * HOUR_MS, monotonic_ms=1_000)
    assert clock.leapt_since(start) == clock.leapt_since(before) == 2 * HOUR_MS
    assert clock.leapt_since(landed) == 0
    later(wall_ms=-HOUR_MS, monotonic_ms=0)
    assert clock.leapt_since(start) == 2 * HOUR_MS, "a clock that is set back takes no time from anybody"
    for _ in range(10_000):
        later(wall_ms=10_000, monotonic_ms=0)
    assert len(clock._leaps) <= 100
