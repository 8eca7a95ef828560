"""Measure several gateways on one PostgreSQL, beside a single one; replace three of them under load, and kill them.

    .venv/bin/python bench/fleet.py                   all of it (5 minutes)
    .venv/bin/python bench/fleet.py --only roll       the rolling upgrade alone; so --only kill and --only cost
    .venv/bin/python bench/fleet.py --only roll --revision 221d3e59
                                                      the same, from an older version, whose tables have less
    .venv/bin/python bench/fleet.py --apps 200        fewer connected apps
    .venv/bin/python bench/fleet.py --save            write the section of docs/benchmarks.md

One database serves all cases, each in a database of its own. CPU is that of all gateways and of PostgreSQL's processes.
"""

import argparse
import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from answerback import Client
from answerback_aws.emulator.emulator import free_ports
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.gateway import haproxy
from answerback_proof.load.figures import NO_LIMITS, distribution, loop_factory, measured_gateway
from answerback_proof.load.load import Load, Plan
from answerback_proof.load.process import ServerProcess, start_server, usage_of
from servers import usage_of_tree

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARKS = ("<!-- fleet -->\n", "<!-- /fleet -->\n")
ASKING = 40
WORDS = 80
WORD_S = 0.04
OPENING_AT_ONCE = 50
DRAIN_S = 20


def database_of(server: PostgresServer, name: str) -> str:
    """The URL of a new database."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return server.url.replace("/postgres?", f"/{name}?")


@asynccontextmanager
async def gateways(folder: Path, url: str, count: int, *, is_fleet: bool) -> AsyncIterator[list[ServerProcess]]:
    """So many gateways on the database."""
    async with AsyncExitStack() as stack:
        started = []
        for node in "abc"[:count]:
            command = measured_gateway(folder / f"{url[-20:-10]}{node}", model="echo:concurrency=100000")
            more = ("--node", node, "--drain", "0s") if is_fleet else ()
            started.append(await start_server([*command, "--database", url, *more]))
            stack.push_async_callback(started[-1].stop)
        yield started


def database_cpu_s(server: PostgresServer) -> float:
    """Of all processes of the server, also of those that are gone."""
    pid = int((server.folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
    gone = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[13:15]
    return usage_of_tree(pid).cpu_s + sum(map(int, gone)) / os.sysconf("SC_CLK_TCK")


async def cost(folder: Path, server: PostgresServer, name: str, count: int, *, is_fleet: bool) -> tuple[str, ...]:
    """One row: CPU an answer of gateways and database in a closed loop, and the latency at 50 questions a second."""
    url = database_of(server, name)
    async with gateways(folder, url, count, is_fleet=is_fleet) as started, AsyncExitStack() as stack:
        closed, open_ = [], []
        for one in started:
            plan = Plan(url=f"{one.url}", apps=20, requests=100, words=50)
            closed.append(await stack.enter_async_context(Load(plan)))
            slow = Plan(url=one.url, apps=20, requests=round(50 / count), words=50, rate=50 / count)
            open_.append(await stack.enter_async_context(Load(slow)))
        await asyncio.gather(*(load.run(requests=10) for load in closed))
        before, database_before = sum(used(one) for one in started), database_cpu_s(server)
        runs = await asyncio.gather(*(load.run() for load in closed))
        cpu_s, database_s = sum(used(one) for one in started) - before, database_cpu_s(server) - database_before
        answers = sum(len(run.exchanges.ended) for run in runs)
        quiet = await asyncio.gather(*(load.run() for load in open_))
        ended = [one for run in quiet for one in run.exchanges.ended if one.ended_at is not None]
        latency = distribution(one.ended_at - one.due_at for one in ended)
        assert latency is not None
        figures = (cpu_s / answers * 1e6, database_s / answers * 1e6, latency.p50, latency.p99)
    return (name.replace("_", " "), *(f"{figure:,.0f}" for figure in figures[:2]), *(f"{ms:.1f}" for ms in figures[2:]))


def used(one: ServerProcess) -> float:
    usage = usage_of(one.pid)
    assert usage is not None
    return usage.cpu_s


# --- the rolling upgrade -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What apps saw. `gaps_s`: between two pieces of an answer, or from the question to the first.

    `silences_s`: the same without the time in which a second attempt says again what was shown.
    """

    answers: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    gaps_s: list[float] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)


async def asks(app: Client, number: int, seen: Seen, over: asyncio.Event) -> None:
    """Ask one question after the other, and look at every piece of the answers."""
    turn = 0
    while not over.is_set():
        turn += 1
        question = " ".join(f"{number}-{turn}-{word}" for word in range(WORDS))
        text, last = "", time.monotonic()
        try:
            stream = app.stream(question, conversation=f"c{number}")
            async for piece in stream:
                now = time.monotonic()
                seen.gaps_s.append(now - last)
                seen.silences_s.append(max(0.0, now - last - WORD_S * len(text.split())))
                text, last = text + piece, now
            seen.attempts[(await stream.answer).attempt] += 1
        except Exception as exc:
            seen.errors[type(exc).__name__] += 1
            continue
        seen.answers += 1
        seen.wrong += text != question


def unpacked(folder: Path, revision: str) -> Path:
    """The source of that revision."""
    git = ["git", "-C", str(PAGE.parent.parent), "archive", "--prefix=older/", f"{revision}:src"]
    with tarfile.open(fileobj=io.BytesIO(subprocess.run(git, stdout=subprocess.PIPE, check=True).stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder / "older"


async def roll(
    folder: Path, server: PostgresServer, apps: int, *, how: signal.Signals, revision: str | None = None
) -> dict[str, str]:
    """Three gateways behind HAProxy are replaced one after the other, while all apps are connected and some ask.

    `how`: how they are ended. `revision`: of what is replaced; None: this version.
    """
    url, ports = database_of(server, how.name.lower()), free_ports(3)
    older = None if revision is None else {**os.environ, "PYTHONPATH": str(unpacked(folder, revision))}

    def command(number: int) -> list[str]:
        base = [sys.executable, "-m", "answerback", "serve", "--port", str(ports[number]), "--admin-port", "0"]
        stored = ["--database", url, "--node", "abc"[number], "--drain", f"{DRAIN_S}s", "--lb-grace", "2s"]
        quiet = ["--log-level", "warning", "--model", f"echo:delay_ms={WORD_S * 1000:.0f}&concurrency=100000"]
        return [*base, "--data-dir", str(folder / f"{how.name}{number}"), *stored, *quiet, *NO_LIMITS]

    def spent() -> dict[str, float]:
        gateways = sum(used(one) for one in running if one.process.returncode is None)
        apps, database = time.process_time(), database_cpu_s(server)
        balancer = usage_of_tree(os.getpid()).cpu_s - apps - gateways
        return {"gateways": gateways, "PostgreSQL": database, "HAProxy": balancer, "apps": apps}

    running = [await start_server(command(number), environment=older) for number in range(3)]
    seen, over, leaving_s, cpu_s = Seen(), asyncio.Event(), [], Counter[str]()
    try:
        async with haproxy(folder, ports) as port, AsyncExitStack() as stack:
            clients = [Client(f"ws://127.0.0.1:{port}", user=f"u{number}") for number in range(apps)]
            for start in range(0, apps, OPENING_AT_ONCE):
                some = clients[start : start + OPENING_AT_ONCE]
                await asyncio.gather(*(stack.enter_async_context(client) for client in some))
            asking = [
                asyncio.create_task(asks(client, number, seen, over)) for number, client in enumerate(clients[:ASKING])
            ]
            await asyncio.sleep(4)
            for number in range(3):
                began = time.monotonic()
                running[number].process.send_signal(how)
                await running[number].process.wait()
                leaving_s.append(time.monotonic() - began)
                before = spent()
                running[number] = await start_server(command(number))
                await asyncio.sleep(3)
                after = spent()
                cpu_s.update({part: after[part] - before[part] for part in after})
            over.set()
            await asyncio.gather(*asking)
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                await one.stop(number=signal.SIGKILL)
    gaps = distribution(seen.gaps_s)
    assert gaps is not None
    return {
        "connected apps, of which ask": f"{apps:,}, {ASKING}",
        "answers": f"{seen.answers:,}",
        "wrong or lost": f"{seen.wrong + sum(seen.errors.values())}{f' {dict(seen.errors)}' if seen.errors else ''}",
        "answered by a second attempt": f"{seen.answers - seen.attempts[1]}",
        "gap between words, median / 99 % / worst": f"{gaps.p50:.0f} / {gaps.p99:.0f} / {gaps.max:,.0f} ms",
        "worst gap without the words that are said again": f"{max(seen.silences_s) * 1000:,.0f} ms",
        "a gateway left after": " / ".join(f"{seconds:.0f} s" for seconds in leaving_s),
        f"CPU in the three seconds after that: {', '.join(cpu_s)}": " / ".join(
            f"{seconds / 3:.2f} s" for seconds in cpu_s.values()
        ),
    }


# --- the page ------------------------------------------------------------------------------------------------


async def measured(arguments: argparse.Namespace) -> str:
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="answerback-fleet-") as name, PostgresServer() as server:
        folder = Path(name)
        if arguments.only in (None, "cost"):
            lines += [
                "| | gateway µs an answer | PostgreSQL µs an answer | 50/s: p50 ms | p99 ms |",
                "|---|---:|---:|---:|---:|",
            ]
            for title, count, is_fleet in (
                ("single", 1, False),
                ("one_of_a_fleet", 1, True),
                ("three_gateways", 3, True),
            ):
                row = await cost(folder, server, title, count, is_fleet=is_fleet)
                print(*row, sep="\t", flush=True)
                lines.append(f"| {' | '.join(row)} |")
            lines.append("")
        if arguments.only in (None, "roll"):
            found = await roll(folder, server, arguments.apps, how=signal.SIGTERM, revision=arguments.revision)
            replaced = f" from {arguments.revision}" if arguments.revision else ""
            lines += [f"| three gateways are replaced one after the other{replaced} | |", "|---|---:|"]
            lines += [*(f"| {what} | {figure} |" for what, figure in found.items()), ""]
        if arguments.only in (None, "kill"):
            found = await roll(folder, server, arguments.apps, how=signal.SIGKILL)
            lines += ["| three gateways are killed (SIGKILL) one after the other, and started again | |", "|---|---:|"]
            lines += [f"| {what} | {figure} |" for what, figure in found.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cost", "roll", "kill"))
    parser.add_argument("--revision", help="of the gateways that are replaced")
    parser.add_argument("--apps", type=int, default=2_000)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        tables = runner.run(measured(arguments))
    print(tables)
    if arguments.save:
        text = PAGE.read_text(encoding="utf-8")
        between = re.compile(f"{MARKS[0]}.*{MARKS[1]}", re.DOTALL)
        PAGE.write_text(between.sub(lambda _: f"{MARKS[0]}\n{tables}\n{MARKS[1]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
