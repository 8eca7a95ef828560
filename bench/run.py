"""The measurements of docs/benchmarks.md: the gateway beside a bare echo in aiohttp and one in Bun, in one run.

Usage: python bench/run.py [--quick] [--rounds N] [--output FILE]

Prints Markdown. The servers take turns, and of all rounds the best figure of each counts: what disturbs a machine makes
figures worse, never better. Every answer of every run is checked; the first wrong one ends it all. Bun comes from npm,
into bench/peers/node_modules; without npm its columns stay empty.
"""

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from answerback.core.request import Question, Record
from answerback.ports import Quota
from answerback.stores import open_store
from answerback_proof.load.figures import Report, loop_factory, measure, measured_gateway
from answerback_proof.load.idle import IdleReport, measure_idle
from answerback_proof.load.load import Plan
from answerback_proof.load.process import running

PEERS = Path(__file__).parent / "peers"
DELAY_MS = 5
WORDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is measured. `command(folder, delay_ms)` starts it with a model that takes so long for a word."""

    name: str
    command: Callable[[Path, int], Sequence[str]]
    is_ours: bool = False


Figures: TypeAlias = Mapping[str, float | None]
"""The rows of one server, by name; None where it has no such thing."""

ROWS: Mapping[str, str] = {
    "whole_cpu": "CPU a request, whole answers, µs",
    "whole_latency": "latency of a whole answer, 64 apps, one pending each, p50, ms",
    "throughput": "requests/s, whole answers, 500 apps, two pending each",
    "stored": "until the request is stored (`messageAccepted`), in that run, p50, ms",
    "stream_cpu": f"CPU a request, streamed, {WORDS} words, a frame a word, µs",
    "frame_cpu": "CPU a frame more, streamed, µs",
    "joined_cpu": f"CPU a request, streamed, {WORDS} words, joined for 40 ms, µs",
    "first_words": "first words of a streamed answer, one app, p50, ms",
    "idle": "memory of a quiet connection, kB",
    "opening": "CPU to open a connection, µs",
}


FRAMES = "frames of a streamed answer"


def servers() -> list[Server]:
    """Ours and the peers that can be had here."""
    found = [
        Server(name="Answerback", command=ours, is_ours=True),
        Server(
            name="bare aiohttp echo",
            command=lambda _, delay_ms: [sys.executable, str(PEERS / "aiohttp_echo.py"), str(delay_ms)],
        ),
    ]
    bun = install_bun()
    if bun is not None:
        found.append(
            Server(
                name="bare Bun echo",
                command=lambda _, delay_ms: [str(bun), str(PEERS / "bun_echo.ts"), str(delay_ms)],
            )
        )
    return found


def ours(folder: Path, delay_ms: int) -> Sequence[str]:
    return measured_gateway(folder / "data", model=f"echo:delay_ms={delay_ms}", coalesce_ms=1 if delay_ms else None)


def install_bun() -> Path | None:
    """Bun's own program, installed if it is not there yet."""
    program = PEERS / "node_modules" / ".bin" / "bun"
    npm = shutil.which("npm")
    if not program.exists() and npm is not None:
        note("installing Bun …")
        flags = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([npm, "install", *flags, "--prefix", str(PEERS)], check=False, stdout=subprocess.DEVNULL)
    if not program.exists():
        note("no Bun here: its column stays out")
        return None
    return program.resolve()


async def measure_all(server: Server, *, scale: float) -> Figures:
    def times(number: int) -> int:
        return max(1, round(number * scale))

    one = Plan(url="", apps=64, requests=times(200), words=10)
    whole = await measured(server, one)
    many = await measured(server, replace(one, apps=500, requests=times(40), in_flight=2))
    streamed = Plan(url="", apps=100, requests=times(12), words=WORDS, stream=True)
    stream = await measured(server, streamed, delay_ms=DELAY_MS)
    first = await measured(server, Plan(url="", apps=1, requests=times(400), words=10, stream=True))
    joined = None
    if server.is_ours:
        joined = await measured(server, streamed, command=joining)
    idle = await measured_idle(server, times(10_000))
    return {
        "whole_cpu": whole.cpu_us_per_request,
        "whole_latency": whole.latency.p50 if whole.latency else None,
        "throughput": many.requests_per_s,
        "stored": many.accepted.p50 if many.accepted else None,
        "stream_cpu": stream.cpu_us_per_request,
        FRAMES: stream.frames / stream.requests,
        "joined_cpu": joined.cpu_us_per_request if joined else None,
        "first_words": first.first_text.p50 if first.first_text else None,
        "idle": idle.bytes_per_connection / 1000,
        "opening": idle.cpu_us_per_connection,
    }


def joining(folder: Path) -> Sequence[str]:
    """The gateway as it is by default: words within 40 ms leave as one frame."""
    return measured_gateway(folder / "data", model=f"echo:delay_ms={DELAY_MS}")


async def measured(
    server: Server, plan: Plan, *, delay_ms: int = 0, command: Callable[[Path], Sequence[str]] | None = None
) -> Report:
    """One run against a fresh process with a fresh store."""
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        words = command(folder) if command else server.command(folder, delay_ms)
        async with running(words, log=folder / "log") as process:
            report = await measure(replace(plan, url=process.url), pid=process.pid)
    note(f"{server.name}: {plan.apps} apps, {report.requests} requests, {report.frames} frames, {report.latency}")
    if not report.is_clean:
        sys.exit(f"{server.name} gave wrong answers: {report.as_json()}")
    return report


async def measured_idle(server: Server, connections: int) -> IdleReport:
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with running(server.command(folder, 0), log=folder / "log") as process:
            report = await measure_idle(process.url, process.pid, connections, says_hello=server.is_ours)
    note(f"{server.name}: {connections} quiet connections")
    return report


async def group_commit(waiting: int, *, scale: float) -> float:
    """Durable accepts a second of the default store by itself, with so many callers that wait for theirs."""
    total = max(waiting, round((1_000 if waiting == 1 else 10_000) * scale))
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as name:
        store = await open_store(None, Path(name))
        numbers = iter(range(total))

        async def caller() -> None:
            for number in numbers:
                record = Record(
                    user_id=f"user-{number % 100}",
                    request_id=f"request-{number}",
                    session_id="session",
                    conversation_id="conversation",
                    ordering_key=f"key-{number % 100}",
                    fingerprint="0" * 64,
                    model="echo",
                    accepted_at_ms=number,
                )
                question = Question(message="What is a WebSocket?", model="echo")
                await store.accept(record, question, Quota(per_minute=0, max_pending=total), now_ms=number)

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(waiting)))
        seconds = time.perf_counter() - started
        await store.close()
    note(f"the store alone: {waiting} callers, {total / seconds:,.0f} accepts/s")
    return total / seconds


def commits(results: Mapping[int, float]) -> str:
    """One line: what sharing a flush among callers gives."""
    rates = ", ".join(f"{rate:,.0f} with {waiting:,} waiting" for waiting, rate in results.items())
    return f"Durable accepts a second of the store alone (SQLite, group commit): {rates}."


def best(rounds: Sequence[Figures]) -> Figures:
    """The best of each row: the most for a throughput, the least for a cost."""
    figures: dict[str, float | None] = {}
    for key in rounds[0]:
        values = [value for each in rounds if (value := each[key]) is not None]
        figures[key] = (max if key == "throughput" else min)(values, default=None)
    stream, whole, frames = figures["stream_cpu"], figures["whole_cpu"], figures[FRAMES]
    figures["frame_cpu"] = None if stream is None or whole is None or not frames else (stream - whole) / (frames - 1)
    return figures


def markdown(results: Mapping[str, Figures]) -> str:
    """A table with a column a server, and ratios of ours to each peer."""
    names = list(results)
    peers = names[1:]
    header = ["", *names, *(f"ratio to {name}" for name in peers)]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for key, title in ROWS.items():
        values = [results[name][key] for name in names]
        mine = values[0]
        ratios = ["-" if mine is None or not other else f"{mine / other:.1f}" for other in values[1:]]
        lines.append(f"| {' | '.join([title, *map(shown, values), *ratios])} |")
    return "\n".join(lines)


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine() -> str:
    """What it was measured on; nothing that names the machine itself."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    flush_ms = flush_to_disk_s() * 1000
    kernel = ".".join(platform.release().split(".")[:2])
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "msgspec"))
    return (
        f"{model}, {os.cpu_count()} cores, {memory_gb:.0f} GB, {flush_ms:.1f} ms to flush 4 KB to disk; "
        f"{platform.system()} {kernel}; {platform.python_implementation()} {platform.python_version()}, {packages}. "
        f"{datetime.now(UTC):%Y-%m-%d}."
    )


def flush_to_disk_s() -> float:
    """Median of what a durable write costs here at least: a request waits for three of them."""
    with tempfile.TemporaryDirectory(prefix="answerback-bench-") as folder, (Path(folder) / "file").open("wb") as file:
        taken = []
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to see that it runs")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--output", type=Path, help="write the Markdown there too")
    arguments = parser.parse_args()
    scale = 0.1 if arguments.quick else 1.0
    rounds: list[dict[str, Figures]] = []
    accepts: dict[int, float] = {}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        found = servers()
        for _ in range(arguments.rounds):
            rounds.append({server.name: runner.run(measure_all(server, scale=scale)) for server in found})
            for waiting in (1, 32, 1_000):
                accepts[waiting] = max(accepts.get(waiting, 0.0), runner.run(group_commit(waiting, scale=scale)))
    results = {server.name: best([figures[server.name] for figures in rounds]) for server in found}
    text = f"{machine()}\n\n{markdown(results)}\n\n{commits(accepts)}\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
