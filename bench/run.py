"""Measure the gateway beside servers that do the same job, in one run, and write docs/benchmarks.md from it.

    make bench                                   all of it
    make bench ARGS='--only whole,streamed'      some scenarios
    make bench ARGS='--quick --only whole'       a tenth of everything, once: does it run?
    make bench ARGS='--save'                     keep the figures in bench/results.json, and write the page

The servers take turns in every round. CPU is that of the server's processes. Each peer is tried out first, and every
frame of every answer is checked. A scenario with a wrong answer has no figures.
"""

import argparse
import asyncio
import os
import platform
import resource
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from answerback_proof.load.figures import loop_factory
from answerback_proof.load.process import ProcessFailed
from answerback_proof.load.websocket import LoadConnectionError
from page import TABLES, rendered
from scenarios import Case, Scenario, scenarios
from servers import Server, WrongServer, fetch, note, try_out, versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results.json"


def measured(chosen: Sequence[Scenario], *, rounds: int, scale: float) -> dict[str, Any]:
    """The figures of every case, server and round: {scenario: {case: {server: [figures]}}}.

    A scenario that fails is left out and named under `failed`. Raises: WrongServer: a peer does not do the job.
    """
    servers = list({server.name: server for one in chosen for case in one.cases for server in case.servers}.values())
    missing = fetch(servers)
    for name in missing:
        note(f"{name} cannot be had here: its figures stay out")
    servers = [server for server in servers if server.name not in missing]
    found: dict[str, Any] = {one.name: {case.name: {} for case in one.cases} for one in chosen}
    failed: dict[str, str] = {}
    began = time.monotonic()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for server in servers:
            if server.name != "LiteLLM":  # it has no WebSocket; its texts are checked where it is measured
                runner.run(try_out(server))
        for number in range(rounds):
            for scenario, case, server in _turns(chosen, number):
                if server.name in missing or scenario.name in failed:
                    continue
                note(f"{time.monotonic() - began:4.0f} s  {scenario.name}, {case.name}: {server.name}")
                try:
                    figures = runner.run(case.measure(server))
                except (WrongServer, ProcessFailed, LoadConnectionError, TimeoutError) as exc:
                    failed[scenario.name] = f"{case.name}, {server.name}: {exc or 'it takes too long here'}"
                    note(f"failed: {failed[scenario.name]}")
                    continue
                found[scenario.name][case.name].setdefault(server.name, []).extend(figures)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    return {
        "machine": machine(),
        "flush_ms": flush_s() * 1000,
        "versions": versions(servers),
        "scenarios": {
            name: {"on": today, "scale": scale, "cases": cases} for name, cases in found.items() if name not in failed
        },
        "failed": failed,
    }


def _turns(chosen: Sequence[Scenario], number: int) -> Iterator[tuple[Scenario, Case, Server]]:
    """What a round measures. The servers take turns, and another one begins each time."""
    for scenario in chosen:
        if scenario.is_once and number:
            continue
        for case in scenario.cases:
            first = number % len(case.servers)
            for server in (*case.servers[first:], *case.servers[:first]):
                yield scenario, case, server


def machine() -> str:
    """What it was measured on; nothing that names the machine itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "unknown processor")
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    kernel = ".".join(platform.release().split(".")[:2])
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop", "msgspec"))
    return (
        f"{processor}, {os.cpu_count()} cores, {memory_gb:.0f} GB, "
        f"{platform.system()} {kernel}, {platform.python_implementation()} {platform.python_version()}, {packages}"
    )


def flush_s() -> float:
    """Median of what a durable write costs here at least."""
    with tempfile.TemporaryDirectory(prefix="answerback-bench-") as folder, (Path(folder) / "file").open("wb") as file:
        taken = []
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def save(results: dict[str, Any]) -> None:
    """Keep the figures in the place of those of the same scenarios, and write the page.

    Figures of another machine are not kept beside them.
    """
    kept = msgspec.json.decode(RESULTS.read_bytes()) if RESULTS.exists() else {}
    if kept.get("machine") == results["machine"]:
        results["versions"] = kept["versions"] | results["versions"]
        scenarios_of_both = kept["scenarios"] | results["scenarios"]
        results["scenarios"] = {name: scenarios_of_both[name] for name in TABLES if name in scenarios_of_both}
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    runpy.run_path(str(ROOT / "scripts" / "generate_docs.py"))["main"]([])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAMES", help=f"of these, with commas between: {', '.join(TABLES)}")
    parser.add_argument("--quick", action="store_true", help="the same as --scale 0.1 --rounds 1")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything; 0.5 for a small machine")
    parser.add_argument("--save", action="store_true", help="keep the figures, and write docs/benchmarks.md")
    options = parser.parse_args()
    scale, rounds = (0.1, 1) if options.quick else (options.scale, options.rounds)
    names = options.only.split(",") if options.only else list(TABLES)
    if unknown := set(names) - TABLES.keys():
        parser.error(f"no scenario is named {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    # A process may have more open files than it begins with; the servers inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        results = measured([one for one in scenarios(scale) if one.name in names], rounds=rounds, scale=scale)
    except (WrongServer, ProcessFailed) as exc:
        sys.exit(f"bench: {exc}")
    failed = results.pop("failed")
    if options.save:
        save(results)
    print(rendered(results))
    if failed:
        sys.exit("\n".join(f"bench: {name} failed: {reason}" for name, reason in failed.items()))


if __name__ == "__main__":
    main()
