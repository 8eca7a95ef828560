"""What is measured: each scenario's cases, the servers that take turns in each, and one measurement of one server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

import aiohttp
import msgspec

from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.load.figures import distribution, report_of
from answerback_proof.load.idle import quiet_connections
from answerback_proof.load.load import Load, Plan, Run
from answerback_proof.load.process import Usage
from answerback_proof.workload import question
from servers import (
    BARE_AIOHTTP,
    BARE_BUN,
    BUN,
    LITELLM,
    NODE,
    OURS,
    Server,
    Setup,
    WrongServer,
    litellm,
    model_server,
    running,
    usage_of_tree,
)
from storms import cancel_all, cut_all, large_question

Figures: TypeAlias = Mapping[str, float]
Measure: TypeAlias = Callable[[Server], Coroutine[Any, Any, Sequence[Figures]]]

WORDS = 50
DURABLE = (OURS, BUN, NODE)
BARE = (OURS, BARE_BUN, BARE_AIOHTTP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of a scenario, measured for each server in turn."""

    name: str
    servers: Sequence[Server]
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`is_once`: measured in the first round only, because it takes long."""

    name: str
    cases: Sequence[Case]
    is_once: bool = False


def scenarios(scale: float) -> list[Scenario]:
    """All of them. `scale`: 0.1 is a tenth of the answers, connections and apps."""

    def times(number: float, least: int = 2) -> int:
        return max(least, round(number * scale))

    def whole(apps: int, answers: int, *, rate: float | None = None) -> Plan:
        return Plan(url="", apps=apps, requests=times(answers / apps), words=WORDS, rate=rate)

    def streamed(requests: int) -> Plan:
        return Plan(url="", apps=64, requests=times(requests), words=WORDS, stream=True)

    many, quiet, before = times(1_000, 10), times(10_000, 20), times(100_000, 128)
    storm, cancels = times(15_000, 20), times(10_000, 20)
    one_by_one = Setup(word_ms=5, join_ms=1)
    return [
        Scenario(
            name="whole",
            cases=[
                _load("1 pending", DURABLE, whole(1, 800)),
                _load("64 pending", DURABLE, whole(64, 9_600)),
                _load(f"{many:,} pending", DURABLE, whole(many, 10_000)),
            ],
        ),
        Scenario(
            name="streamed",
            cases=[
                _load("5 ms a word", DURABLE, streamed(12), Setup(word_ms=5)),
                _load("5 ms a word, a frame a word", DURABLE, streamed(12), one_by_one),
                _load("5 ms a word, joined for 40 ms", DURABLE, streamed(12), Setup(word_ms=5, join_ms=40)),
                _load("20 ms a word", DURABLE, streamed(5), Setup(word_ms=20)),
            ],
        ),
        Scenario(
            name="openai",
            cases=[Case(name="50 chunks at 2 ms", servers=(OURS, LITELLM), measure=lambda s: relayed(s, times(5, 1)))],
        ),
        Scenario(
            name="open",
            cases=[
                _load(f"{rate} questions a second", DURABLE, whole(100, 4 * rate, rate=rate)) for rate in (250, 1_000)
            ],
        ),
        Scenario(
            name="slow-disk",
            cases=[_slow_disk(slow_ms, whole(64, 640), words=times(800, 80)) for slow_ms in (0, 10, 100)],
            is_once=True,
        ),
        Scenario(
            name="echo",
            cases=[
                _load("whole, 64 pending", BARE, whole(64, 9_600)),
                _load("streamed, 5 ms a word, a frame a word", BARE, streamed(12), one_by_one),
            ],
        ),
        Scenario(
            name="history",
            cases=[_load(f"{before:,} answers before", DURABLE, whole(64, 6_400), before=before)],
            is_once=True,
        ),
        Scenario(
            name="postgres",
            cases=[Case(name="64 pending", servers=(OURS,), measure=lambda _: on_postgres(whole(64, 6_400)))],
            is_once=True,
        ),
        Scenario(
            name="large",
            cases=[
                _alone("question of 100 KB", lambda: large_question(times(5, 1), message_bytes=102_400, notes=0)),
                _alone("the same with 20 notes", lambda: large_question(times(5, 1), message_bytes=102_400, notes=20)),
            ],
            is_once=True,
        ),
        Scenario(
            name="idle",
            cases=[
                Case(
                    name=f"{quiet:,} connections",
                    servers=(*DURABLE, BARE_AIOHTTP),
                    measure=lambda server: idle(server, quiet, watch_s=10 * scale),
                )
            ],
            is_once=True,
        ),
        Scenario(
            name="storms",
            cases=[
                _alone(
                    f"{storm:,} apps cut off at once", lambda: cut_all(storm, word_ms=max(250, storm // 4), words=12)
                ),
                _alone(f"{cancels:,} answers cancelled at once", lambda: cancel_all(cancels)),
            ],
            is_once=True,
        ),
        Scenario(
            name="clients",
            cases=[
                _alone("`answerback.Client`, many in a process", lambda: clients("sdk", times(50, 20), answers=4)),
                _alone("the desktop app's engine, 5 answers", lambda: clients("engine", 5, answers=times(10, 1))),
            ],
            is_once=True,
        ),
    ]


# --- load ---------------------------------------------------------------------------------------------------


def _load(name: str, servers: Sequence[Server], plan: Plan, setup: Setup | None = None, *, before: int = 0) -> Case:
    """Apps that ask. `before`: so many answers are stored first, and the same process is measured three times."""

    async def measure(server: Server) -> Sequence[Figures]:
        async with _apps(server, plan, setup or Setup()) as (apps, pid):
            if before:
                _checked(server, await apps.run(requests=before // plan.apps))
            else:
                _checked(server, await apps.run(requests=max(3, plan.requests // 5)))  # caches and compilers warm up
            return [await _measured(server, apps, pid) for _ in range(3 if before else 1)]

    return Case(name=name, servers=servers, measure=measure)


def _alone(name: str, measure: Callable[[], Awaitable[Figures]]) -> Case:
    """Of our own alone: the peers have no such thing."""

    async def once(_: Server) -> Sequence[Figures]:
        return [await measure()]

    return Case(name=name, servers=(OURS,), measure=once)


@asynccontextmanager
async def _apps(server: Server, plan: Plan, setup: Setup) -> AsyncIterator[tuple[Load, int]]:
    """Connected apps, and the server's process id."""
    async with running(server, setup) as process, Load(replace(plan, url=process.url)) as apps:
        yield apps, process.pid


async def _measured(server: Server, apps: Load, *pids: int) -> Figures:
    """One run; CPU is that of all these processes and what they started."""
    before = _total(pids)
    run = _checked(server, await apps.run())
    report = report_of(run, before=before, after=_total(pids))
    assert report.latency is not None
    figures = {
        "cpu_us": report.cpu_us_per_request or 0.0,
        "p50_ms": report.latency.p50,
        "p99_ms": report.latency.p99,
        "per_s": report.requests_per_s,
        "frames": report.frames / report.requests,
        "load_tool": report.client_cpu_share,
    }
    return figures | ({} if report.first_text is None else {"first_ms": report.first_text.p50})


def _total(pids: Sequence[int]) -> Usage:
    found = [usage_of_tree(pid) for pid in pids]
    return Usage(cpu_s=sum(one.cpu_s for one in found), rss_bytes=sum(one.rss_bytes for one in found))


def _checked(server: Server, run: Run) -> Run:
    """Raises: WrongServer: an answer was wrong, or never came."""
    exchanges = run.exchanges
    if exchanges.violations or exchanges.failures or run.broken:
        failures = dict(exchanges.failures)
        raise WrongServer(f"{server.name}: {exchanges.counts}, {failures}, {run.broken[:3]}, {exchanges.examples[:3]}")
    return run


def _slow_disk(slow_ms: int, asked: Plan, *, words: int) -> Case:
    """The pauses of one stream beside eight apps that ask, and the answers of 64 apps, while flushes are slow."""

    async def measure(server: Server) -> Sequence[Figures]:
        setup = Setup(word_ms=5, slow_ms=slow_ms)
        # A peer sends more frames for as many words, and may stop at each of them for as long as a flush takes.
        length = words if server is OURS else words // 4
        reader = Plan(url="", apps=1, requests=1, words=length, stream=True, user_prefix="reader")
        async with running(server, setup) as process:
            askers = Plan(url=process.url, apps=8, words=2, user_prefix="asker")
            async with Load(replace(reader, url=process.url)) as one, Load(askers) as eight:
                stream = asyncio.create_task(one.run())
                while not stream.done():
                    _checked(server, await eight.run(requests=3))
                gaps = distribution(_checked(server, await stream).exchanges.gaps_s)
        assert gaps is not None
        async with _apps(server, asked, Setup(slow_ms=slow_ms)) as (apps, pid):
            figures = await _measured(server, apps, pid)
        if figures["p50_ms"] < slow_ms:
            raise WrongServer(f"{server.name}: flushes do not take {slow_ms} ms more; is the library loaded?")
        return [{**figures, "pause_p50_ms": gaps.p50, "pause_p99_ms": gaps.p99, "pause_max_ms": gaps.max}]

    return Case(name=f"a flush takes {slow_ms} ms more" if slow_ms else "this disk", servers=DURABLE, measure=measure)


async def on_postgres(plan: Plan) -> Sequence[Figures]:
    """CPU of the gateway and of its database together, and of the gateway by itself."""
    with PostgresServer() as database:
        folder = Path(database.dsn.split()[0].removeprefix("host="))
        postmaster = int((folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        async with _apps(OURS, plan, Setup(database=database.url)) as (apps, pid):
            _checked(OURS, await apps.run(requests=max(3, plan.requests // 5)))
            before = usage_of_tree(pid).cpu_s
            figures = await _measured(OURS, apps, pid, postmaster)
            gateway_us = (usage_of_tree(pid).cpu_s - before) / (plan.apps * plan.requests) * 1e6
    return [{**figures, "gateway_us": gateway_us, "database_us": figures["cpu_us"] - gateway_us}]


async def relayed(server: Server, requests: int) -> Sequence[Figures]:
    """Streamed answers of a model server: from ours over WebSocket, from LiteLLM over HTTP. 20 apps ask."""
    async with model_server(word_ms=2) as upstream:
        if server is not LITELLM:
            plan = Plan(url="", apps=20, requests=10 * requests, words=WORDS, stream=True)
            async with _apps(server, plan, Setup(model=f"openai:{upstream}/v1#echo")) as (apps, pid):
                _checked(server, await apps.run(requests=3))
                return [await _measured(server, apps, pid)]
        async with litellm(upstream) as process, aiohttp.ClientSession(process.url) as session:
            await _ask_litellm(session, apps=20, requests=1)
            before = usage_of_tree(process.pid)
            began = perf_counter()
            firsts, totals = await _ask_litellm(session, apps=20, requests=requests)
            cpu_s = usage_of_tree(process.pid).cpu_s - before.cpu_s
            return [
                {
                    "cpu_us": cpu_s / len(totals) * 1e6,
                    "first_ms": median(firsts) * 1000,
                    "p50_ms": median(totals) * 1000,
                    "per_s": len(totals) / (perf_counter() - began),
                }
            ]


async def _ask_litellm(session: aiohttp.ClientSession, *, apps: int, requests: int) -> tuple[list[float], list[float]]:
    """Seconds to the first words and to the end, of every answer. Raises: WrongServer."""
    firsts: list[float] = []
    totals: list[float] = []

    async def app(number: int) -> None:
        for turn in range(requests):
            text, answer, asked = question(f"{number}.{turn}", WORDS), "", perf_counter()
            body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": text}]}
            async with session.post("/v1/chat/completions", json=body) as response:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    delta = msgspec.json.decode(line[6:])["choices"][0]["delta"].get("content")
                    if delta and not answer:
                        firsts.append(perf_counter() - asked)
                    answer += delta or ""
            totals.append(perf_counter() - asked)
            if answer != text:
                raise WrongServer(f"LiteLLM answered {answer!r} instead of {text!r}")

    async with asyncio.TaskGroup() as group:
        for number in range(apps):
            group.create_task(app(number))
    return firsts, totals


# --- quiet connections, and the SDK -------------------------------------------------------------------------


async def idle(server: Server, connections: int, *, watch_s: float) -> Sequence[Figures]:
    """Memory of open connections that say nothing, and what they cost while they say nothing."""
    async with (
        running(server) as process,
        quiet_connections(process.url, process.pid, connections, says_hello=server is OURS) as report,
    ):
        await asyncio.sleep(1)
        before, began = usage_of_tree(process.pid), perf_counter()
        await asyncio.sleep(watch_s)
        after = usage_of_tree(process.pid)
        return [
            {
                "kb": report.bytes_per_connection / 1000,
                "all_kb": after.rss_bytes / connections / 1000,
                "opening_us": report.cpu_us_per_connection,
                "idle_share": (after.cpu_s - before.cpu_s) / (perf_counter() - began),
            }
        ]


async def clients(kind: str, number: int, *, answers: int) -> Figures:
    """CPU a frame and memory on the other end of the socket (`clients.py`)."""
    async with running(OURS, Setup(word_ms=5, join_ms=1)) as gateway:
        program = [str(Path(__file__).parent / "clients.py"), kind, gateway.url]
        arguments = map(str, (number, answers, WORDS))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, *program, *arguments, stdout=pipe)
        out, _ = await process.communicate()
    if process.returncode:
        raise WrongServer("a client did not get every answer whole")
    return dict(msgspec.json.decode(out))
