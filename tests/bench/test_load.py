"""The load tool against real gateways: many apps, every frame checked; and its own check against a bad server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from answerback_proof.load.figures import measure, measured_gateway
from answerback_proof.load.idle import measure_idle
from answerback_proof.load.load import Load, Plan, Run
from answerback_proof.load.process import ProcessFailed, ServerProcess, running
from answerback_proof.load.websocket import LoadConnectionError

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

APPS = 100
IN_FLIGHT = 25


@asynccontextmanager
async def gateway(folder: Path, *, model: str = "echo", coalesce_ms: int | None = None) -> AsyncIterator[ServerProcess]:
    command = measured_gateway(folder / "data", model=model, coalesce_ms=coalesce_ms)
    async with running(command, log=folder / "log") as server:
        yield server


async def run(plan: Plan) -> Run:
    async with Load(plan) as load:
        return await load.run()


def assert_all_home(run: Run, requests: int) -> None:
    assert str(run.exchanges.counts) == "0 misrouted, 0 lost, 0 repeated", run.exchanges.examples
    assert (run.exchanges.failures, run.exchanges.errors, run.broken) == ({}, {}, [])
    assert len(run.exchanges.ended) == requests


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_100_apps_with_25_requests_in_flight_each(tmp_path: Path, stream: bool) -> None:
    async with gateway(tmp_path) as server:
        plan = Plan(url=server.url, apps=APPS, requests=IN_FLIGHT, in_flight=IN_FLIGHT, stream=stream, words=12)
        assert_all_home(await run(plan), APPS * IN_FLIGHT)


async def test_answers_in_many_pieces_do_not_mix(tmp_path: Path) -> None:
    async with gateway(tmp_path, model="echo:delay_ms=2", coalesce_ms=0) as server:
        plan = Plan(url=server.url, apps=100, requests=2, in_flight=2, stream=True, words=30)
        done = await run(plan)
    assert_all_home(done, 200)
    assert len(done.exchanges.gaps_s) > 9 * 200


async def test_order_is_kept_in_each_conversation(tmp_path: Path) -> None:
    """Questions of one user that name no conversation are one ordering key: they end in the order accepted."""
    async with gateway(tmp_path) as server:
        done = await run(Plan(url=server.url, apps=20, requests=50, in_flight=50))
    for app in range(20):
        entries = [entry for entry in done.exchanges.ended if entry.app == app]
        accepted = sorted(entries, key=lambda entry: entry.accepted_at or 0)
        assert [entry.request_id for entry in entries] == [entry.request_id for entry in accepted]


async def test_an_open_loop_sends_all_when_due(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        done = await run(Plan(url=server.url, apps=10, requests=20, rate=1000))
    assert_all_home(done, 200)
    due = sorted(entry.due_at for entry in done.exchanges.ended)
    assert due[-1] - due[0] == pytest.approx(199 / 1000)


async def test_failures_are_reported_not_hidden(tmp_path: Path) -> None:
    async with gateway(tmp_path, model="echo:fail=midstream&fail_every=4") as server:
        report = await measure(Plan(url=server.url, apps=2, requests=20), pid=server.pid)
    assert report.failures == {"model_failed": 10}
    assert not report.is_clean


async def test_a_server_that_sends_every_answer_to_everybody() -> None:
    everybody: set[ServerConnection] = set()

    async def broadcast(socket: ServerConnection) -> None:
        everybody.add(socket)
        async for text in socket:
            frame = json.loads(text)
            words = frame["message"]
            ending = {"action": "messageResponse", "requestId": frame["requestId"], "status": "completed"}
            answer = json.dumps({**ending, "response": words, "attempt": 1, "length": len(words)})
            for other in everybody:
                await other.send(answer)

    async with serve(broadcast, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        done = await run(Plan(url=url, apps=2, requests=3))
        await asyncio.gather(*(socket.close() for socket in everybody))
    assert done.exchanges.counts.misrouted > 0


async def test_a_server_that_leaves() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.recv()

    async with serve(hang_up, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        done = await run(Plan(url=url, apps=1, requests=3))
    assert done.exchanges.counts.lost == 1
    assert done.broken


async def test_quiet_connections_are_measured(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        report = await measure_idle(server.url, server.pid, 300)
    assert report.connections == 300
    assert report.server_rss_bytes > 1_000_000


async def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="nonsense"):
        async with gateway(tmp_path, model="nonsense"):
            pass
    with pytest.raises(LoadConnectionError, match="nothing answers"):
        await run(Plan(url="ws://127.0.0.1:9", apps=3, requests=1))
