"""One attack from start to end, and what it showed."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from answerback_proof.load.figures import NO_LIMITS
from answerback_proof.load.process import gateway_command, running, usage_of
from attack.attackers import Attackers
from attack.good_clients import GoodClients
from attack.watch import Sample, Watch, rows_of

WARM_UP = 0.5
"""This part of the frames is sent before the memory is compared: pools, caches and the heap have their size then."""

MAX_GROWTH_BYTES = 48_000_000
"""Of the resident memory after the warm-up. A leak of 100 bytes a frame would be more in a million frames."""

SPARE_FILES = 24
"""Descriptors that a gateway needs besides its sockets, and sockets that it is still closing."""
OPENED_FILES = 2
"""Descriptors that a gateway opens with its first work, and keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was seen. Bytes and seconds; `problems` is empty if all is well."""

    frames: int
    kinds: dict[str, int]
    ends: dict[str, int]
    seconds: float
    cpu_s: float
    asked: int
    answered: int
    wait_p50_s: float
    wait_p99_s: float
    rss_start_bytes: int
    rss_warm_bytes: int
    rss_end_bytes: int
    rss_peak_bytes: int
    rss_by_tenth_mb: tuple[float, ...]
    files_start: int
    files_peak: int
    files_end: int
    threads_peak: int
    database_bytes: int
    rows: dict[str, int]
    problems: tuple[str, ...]


async def besiege(
    *, frames: int, attackers: int = 12, good_clients: int = 3, seed: int = 1, on_sample: Callable[[Sample], None]
) -> Findings:
    """Start a gateway with the echo model, send it `frames` hostile frames, and watch. `on_sample`: each sample."""
    with tempfile.TemporaryDirectory(prefix="answerback-hostile-") as name:
        folder = Path(name)
        log = folder / "log"
        options = ("--model", "echo", "--log-level", "warning", *NO_LIMITS)
        async with running(gateway_command(folder, *options), log=log) as server:
            good = GoodClients(server.url, good_clients)
            bad = Attackers(url=server.url, frames=frames, count=attackers, seed=seed)
            watch = Watch(server.pid, folder, lambda: bad.total)
            start = watch.take_sample()
            watching = asyncio.create_task(watch.run(on_sample=on_sample))
            asking = asyncio.create_task(good.run())
            await bad.run()
            good.stop()
            await asking
            watching.cancel()
            end = await _settled(watch, start)
            usage = usage_of(server.pid)
            code = await server.stop()
        rows = rows_of(folder)
        said = log.read_text(encoding="utf-8", errors="replace")
    return _findings(
        bad=bad,
        good=good,
        samples=watch.samples,
        start=start,
        end=end,
        rows=rows,
        said=said,
        code=code,
        cpu_s=usage.cpu_s if usage else 0.0,
    )


async def _settled(watch: Watch, start: Sample) -> Sample:
    """After everybody has left: the descriptors fall back to where they were."""
    sample = watch.take_sample()
    for _ in range(100):
        if sample.files <= start.files + OPENED_FILES:
            break
        await asyncio.sleep(0.1)
        sample = watch.take_sample()
    return sample


def _findings(
    *,
    bad: Attackers,
    good: GoodClients,
    samples: list[Sample],
    start: Sample,
    end: Sample,
    rows: dict[str, int],
    said: str,
    code: int,
    cpu_s: float,
) -> Findings:
    warm = [each for each in samples if each.frames >= bad.total * WARM_UP] or samples
    peak = max(each.files for each in samples)
    problems = list(good.wrong)
    if good.answered < good.asked or not good.asked:
        problems.append(f"{good.asked - good.answered} of {good.asked} good questions have no right answer")
    if code != 0:
        problems.append(f"the gateway ended with exit code {code}")
    if "Traceback" in said or " ERROR " in said:
        problems.append("the gateway logged an error: " + said[-2_000:])
    if end.files > start.files + OPENED_FILES:
        problems.append(f"{end.files - start.files} file descriptors stayed open")
    if peak > start.files + 2 * bad.count + good.count + SPARE_FILES:
        problems.append(f"{peak} file descriptors at the peak")
    if end.rss_bytes > warm[0].rss_bytes + MAX_GROWTH_BYTES:
        problems.append(f"the memory grew from {warm[0].rss_bytes:,} to {end.rss_bytes:,} bytes after the warm-up")
    waits = quantiles(good.waits_s, n=100) if len(good.waits_s) > 1 else [0.0] * 99
    return Findings(
        frames=bad.total,
        kinds=dict(bad.sent.most_common()),
        ends=dict(bad.ends.most_common()),
        seconds=end.at_s - start.at_s,
        cpu_s=cpu_s,
        asked=good.asked,
        answered=good.answered,
        wait_p50_s=waits[49],
        wait_p99_s=waits[98],
        rss_start_bytes=start.rss_bytes,
        rss_warm_bytes=warm[0].rss_bytes,
        rss_end_bytes=end.rss_bytes,
        rss_peak_bytes=max(each.rss_bytes for each in samples),
        rss_by_tenth_mb=_by_tenth(samples, bad.total),
        files_start=start.files,
        files_peak=peak,
        files_end=end.files,
        threads_peak=max(each.threads for each in samples),
        database_bytes=end.database_bytes,
        rows=rows,
        problems=tuple(problems),
    )


def _by_tenth(samples: list[Sample], frames: int) -> tuple[float, ...]:
    """The resident megabytes when each tenth of the frames had been sent."""
    tenths = []
    for tenth in range(1, 11):
        later = [each for each in samples if each.frames * 10 >= frames * tenth]
        tenths.append(round((later or samples[-1:])[0].rss_bytes / 1_000_000, 1))
    return tuple(tenths)
