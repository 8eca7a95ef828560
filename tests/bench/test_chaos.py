"""Chaos: what is added to its history, what its proxy does, and short runs over the real thing."""

import asyncio
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from answerback.cli.main import run
from answerback.cli.output import ExitCode
from answerback.core import request as changes
from answerback.core.parts import Content
from answerback.core.request import Ending, Policy, Question
from answerback.ports import Quota
from answerback.protocol.codec import encode
from answerback.protocol.frames import (
    Hello,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    Pong,
    ResumePoint,
    SendMessage,
    ServerFrame,
    Status,
)
from answerback.stores.sqlite import MemoryStore
from answerback_proof.chaos import ChaosPlan
from answerback_proof.chaos.faults import KILLS, schedule
from answerback_proof.chaos.report import write_trace
from answerback_proof.chaos.run import VISIBLE, run_chaos
from answerback_proof.checker import check
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import (
    Asked,
    Ended,
    Fault,
    ModelRun,
    Promise,
    Result,
    Resumed,
    RunHistory,
    ToApp,
    ToServer,
    Turn,
    Violation,
    ViolationKind,
    add_stores,
)
from answerback_proof.load.websocket import Masker
from answerback_proof.proxy import FrameObserver, Proxy
from answerback_proof.proxy import Path as ProxyPath
from asking import record_of
from listening import close

QUOTA = Quota(per_minute=0, max_pending=1000)


# --- the store -----------------------------------------------------------------------------------------


async def test_what_the_store_holds_is_added_to_the_history() -> None:
    store, history = MemoryStore(), RunHistory()
    history.add(Asked(request="r1", user="kim", session="s", conversation="c", text="one two", answer="one two"))
    history.add(ModelRun(request="r1", attempt=1))
    record = record_of("r1", "kim", accepted_at_ms=10)
    await store.accept(record, Question(message="one two", model="echo"), QUOTA, now_ms=10)
    await store.change(record.key, partial(changes.claim, owner="o", now_ms=20, policy=Policy()))
    ending = Ending(status=Status.COMPLETED, attempt=1, length=7, ended_at_ms=30)
    await store.change(
        record.key, partial(changes.finish, owner="o", attempt=1, ending=ending, content=Content("one two"))
    )
    history.add(Ended(request="r1", observer="run 1", result=Result.COMPLETED, text="one two", attempt=1))
    await add_stores(history, store, store)
    assert check(history, VISIBLE) == []
    assert [event.turn.answer for _, event in history.events if isinstance(event, Turn)] == ["one two"]


async def test_a_request_of_ours_that_has_no_ending_in_the_store_is_found() -> None:
    store, history = MemoryStore(), RunHistory()
    history.add(Asked(request="r1", user="kim", session="s", conversation="c", text="one"))
    for user in ("kim", "somebody else"):
        record = record_of("r2", user, accepted_at_ms=10)
        await store.accept(record, Question(message="one", model="echo"), QUOTA, now_ms=10)
    await add_stores(history, store, store)
    lost = [violation.request for violation in check(history, VISIBLE) if "in the store" in violation.detail]
    assert lost == ["r2"]


def test_the_trace_has_what_happened_to_a_broken_request(tmp_path: Path) -> None:
    history = RunHistory()
    history.add(Fault(name=FaultKind.KILL))
    for request in ("r1", "r2"):
        history.add(Asked(request=request, user="kim", session="s", conversation="c", text="one"))
    history.add(to_app_of("r1", MessageAccepted(request_id="r1", conversation_id="c", position=0)))
    violation = Violation(promise=Promise.ANSWERED, kind=ViolationKind.LOST, request="r1", detail="no ending")
    write_trace(tmp_path / "trace.jsonl", history, [violation])
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [line["requestId"] for line in lines if "violation" in line] == ["r1"]
    assert [line["fault"] for line in lines if "fault" in line] == ["gateway killed"]
    events = [line for line in lines if "event" in line]
    assert [(line["requestId"], line["event"]) for line in events] == [("r1", "Asked"), ("r1", "ToApp")]
    assert events[1]["facts"]["frame"]["action"] == "messageAccepted"


# --- the proxy ------------------------------------------------------------------------------------------


def to_app_of(request: str, frame: ServerFrame) -> ToApp:
    return ToApp(connection="s#1", session="s", request=request, frame=frame)


def unmasked(*frames: ServerFrame) -> bytes:
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    texts = [encode(frame) for frame in frames]
    return head + b"".join(bytes((0x81, len(text))) + text for text in texts if len(text) < 126)


def test_every_frame_is_added_to_the_history_however_the_bytes_are_cut() -> None:
    history = RunHistory()
    observer = FrameObserver(history, number=3, host="gateway:1")
    head = b"GET /?sessionId=s HTTP/1.1\r\nHost: proxy:2\r\n\r\n"
    assert b"".join(observer.from_app.feed(head[at : at + 1]) for at in range(len(head))) == head.replace(
        b"proxy:2", b"gateway:1"
    )
    hello = Hello(hello_id="h", resume=(ResumePoint(request_id="r1", attempt=1, offset=3),))
    for frame in (SendMessage(request_id="r1", message="one"), hello):
        observer.from_app.feed(Masker(b"mask").frame(encode(frame)))
    frames = (
        MessageDelta(request_id="r1", attempt=1, offset=3, delta="one "),
        MessageResponse(request_id="r1", status=Status.CANCELLED, attempt=1, length=3, response=None),
        Pong(),
    )
    data = unmasked(*frames)
    assert b"".join(observer.from_server.feed(data[at : at + 1]) for at in range(len(data))) == data
    sent, resumed, *came = [event for _, event in history.events]
    assert isinstance(sent, ToServer)
    assert (sent.connection, sent.request) == ("s#3", "r1")
    assert resumed == Resumed(connection="s#3", session="s", request="r1", attempt=1, offset=3)
    assert [event.frame for event in came if isinstance(event, ToApp)] == list(frames)
    assert history.accepted == {"r1"}


class Echoing:
    """A server that echoes, its connections, and a proxy before it."""

    async def __aenter__(self) -> "Echoing":
        self.writers: list[asyncio.StreamWriter] = []
        self.server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        self.proxy = Proxy(f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}", RunHistory())
        url = await self.proxy.start()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        head = b"GET /?sessionId=s HTTP/1.1\r\n\r\n"
        assert await self.say(head) == head
        (self.path,) = self.proxy.paths
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.proxy.stop()
        await close(self.server)
        for writer in self.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    async def say(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))


async def test_a_stalled_connection_goes_on_without_loss() -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        echoing.path.to_app.clear()
        saying = asyncio.create_task(echoing.say(b"again"))
        _, waiting = await asyncio.wait([saying], timeout=0.05)
        assert waiting
        echoing.proxy.heal()
        assert await saying == b"again"


@pytest.mark.parametrize("inject", [ProxyPath.reset, ProxyPath.close])
async def test_a_cut_connection_is_over_on_both_sides(inject: Callable[[ProxyPath], None]) -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        inject(echoing.path)
        with suppress(ConnectionResetError):
            assert await echoing.reader.read() == b""
        with suppress(ConnectionResetError):
            await echoing.writers[0].wait_closed()


async def test_a_half_open_connection_swallows_what_is_sent() -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        echoing.path.lose_server()
        with suppress(ConnectionResetError):
            await echoing.writers[0].wait_closed()
        echoing.writer.write(b"anybody there?")
        await echoing.writer.drain()
        saying = asyncio.create_task(echoing.reader.read(1))
        _, waiting = await asyncio.wait([saying], timeout=0.05)
        assert waiting
        saying.cancel()
        assert echoing.proxy.paths == []


# --- the whole ------------------------------------------------------------------------------------------


def test_the_schedule_has_every_kind_and_as_many_kills_as_asked() -> None:
    for kills in (1, 2, 5, 50):
        kinds = schedule(kills, sqlite=True, rng=random.Random(1))
        assert sum(kind in KILLS for kind in kinds) + kinds.count(FaultKind.KILL_STARTING) == kills
        assert {FaultKind.TERMINATE, FaultKind.FREEZE, FaultKind.DISK_FULL} <= set(kinds)
    assert set(schedule(50, sqlite=True, rng=random.Random(1))) >= set(KILLS)
    assert FaultKind.DISK_FULL not in schedule(50, sqlite=False, rng=random.Random(1))


@pytest.mark.parametrize(
    "flags",
    [
        ("--url", "ws://127.0.0.1:9"),
        ("--idle", "5"),
        ("--rate", "10"),
        ("--postgres", "--database", "postgresql:///nowhere"),
        ("--keep", "/"),
        ("--aws", "--kills", "5"),
        ("--aws", "--postgres"),
        ("--aws", "--database", "postgresql:///nowhere"),
    ],
)
def test_flags_that_chaos_cannot_have(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--chaos", *flags]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_aws_is_for_chaos(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--aws"]) == ExitCode.USAGE
    assert "--chaos" in capsys.readouterr().err


def short(**more: Any) -> ChaosPlan:
    return ChaosPlan(seed=7, apps=12, pause_s=0.6, think_s=0.5, settle_s=60, **more)


@pytest.mark.process
@pytest.mark.proof
@pytest.mark.timeout(200)
async def test_a_short_run_over_sqlite() -> None:
    report = await run_chaos(short(kills=2), notify=print)
    assert report.violations == ()
    assert report.completed > 0
    assert report.watched > 0
    assert (report.kills, report.faults[FaultKind.KILL_STARTING], report.faults[FaultKind.DISK_FULL]) == (2, 1, 1)
    assert report.faults[FaultKind.APP_RESTARTED] > 0
    assert FaultKind.POSTGRES in report.never_injected
    assert report.asked == report.completed + report.cancelled + sum(report.failed.values()) + report.timed_out


@pytest.mark.process
def test_without_postgresql_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("answerback_aws.emulator.postgres._PLACES", ())
    monkeypatch.setenv("PATH", "")
    assert run(["bench", "--chaos", "--postgres"]) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert said.startswith("answerback: a PostgreSQL server is needed")
    assert "apt-get install postgresql" in said


@pytest.mark.postgres
@pytest.mark.proof
@pytest.mark.timeout(200)
async def test_a_short_run_over_a_postgresql_that_crashes(postgres_server: object) -> None:
    del postgres_server  # only whether there is one
    report = await run_chaos(short(kills=1, own_postgres=True), notify=print)
    assert report.violations == ()
    assert report.completed > 0
    assert report.faults[FaultKind.POSTGRES] > 0
    assert FaultKind.DISK_FULL in report.never_injected


@pytest.mark.process
@pytest.mark.postgres
@pytest.mark.proof
@pytest.mark.timeout(240)
async def test_chaos_over_three_gateways_behind_haproxy(postgres_server: object) -> None:
    del postgres_server  # only whether there is one
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None and not os.environ.get("CI"):
        pytest.skip("no HAProxy here")
    report = await run_chaos(short(kills=2, own_postgres=True, gateways=3), notify=print)
    assert report.violations == ()
    assert report.completed > 0
    assert report.faults[FaultKind.DATABASE_CUT] > 0
    assert report.faults[FaultKind.FREEZE] > 0
