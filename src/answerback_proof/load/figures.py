"""Measures a server under load. The figures are a report that can be compared."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import astuple

from answerback_proof.load.load import Load, Plan, Run
from answerback_proof.load.process import Usage, gateway_command, usage_of

WARM_UP_REQUESTS = 5
NO_LIMITS = (
    *("--rate-limit", "0", "--max-pending-per-user", "1000000"),
    *("--max-frames-per-second", "10000000", "--max-frames-burst", "10000000"),
)
"""Without the limits that protect users from each other: they would be measured instead of the gateway."""


class Distribution(Struct, frozen=True, kw_only=True):
    """Percentiles of durations, in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    def __str__(self) -> str:
        names = ("p50", "p90", "p99", "p99.9", "max")
        return "  ".join(f"{name} {value:.2f}" for name, value in zip(names, astuple(self), strict=True)) + " ms"


def distribution(seconds: Iterable[float]) -> Distribution | None:
    """None if there are no durations. A percentile is the smallest value with at least that share at or below it."""
    values = sorted(seconds)
    if not values:
        return None

    def at(share: float) -> float:
        return round(values[max(0, math.ceil(share * len(values)) - 1)] * 1000, 3)

    return Distribution(p50=at(0.5), p90=at(0.9), p99=at(0.99), p999=at(0.999), max=at(1))


class Report(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a run measured. CPU is the server's, user and system; None where it cannot be seen.

    `latency`: from the question (open loop: from when it was due) to its ending. `accepted`: to `messageAccepted`, that
    is, until it is stored. `first_text`, `between_texts`: of streamed answers. `frames`: those that came in.
    """

    apps: int
    requests: int
    seconds: float
    requests_per_s: float
    frames: int
    frames_per_s: float
    latency: Distribution | None
    accepted: Distribution | None
    first_text: Distribution | None
    between_texts: Distribution | None
    cpu_us_per_request: float | None
    cpu_us_per_frame: float | None
    server_cpu_share: float | None
    server_rss_bytes: int | None
    client_cpu_share: float
    misrouted: int
    lost: int
    repeated: int
    failures: Mapping[str, int]
    errors: Mapping[str, int]
    broken: Sequence[str]
    examples: Sequence[str]

    @property
    def is_clean(self) -> bool:
        return not (self.misrouted or self.lost or self.repeated or self.failures or self.broken)

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = to_builtins(self)
        return values

    def rows(self) -> list[tuple[str, str]]:
        rows = [
            ("requests", f"{self.requests} of {self.apps} apps in {self.seconds:.2f} s"),
            ("throughput", f"{self.requests_per_s:,.0f} requests/s, {self.frames_per_s:,.0f} frames/s to the apps"),
            ("latency", str(self.latency)),
            ("until stored", str(self.accepted)),
            ("first words", str(self.first_text)),
            ("between words", str(self.between_texts)),
        ]
        if self.cpu_us_per_request is not None:
            rows += [
                ("server CPU", f"{self.cpu_us_per_request:.0f} µs a request, {self.cpu_us_per_frame:.1f} µs a frame"),
                ("server load", f"{(self.server_cpu_share or 0) * 100:.0f} % of a core"),
                ("server memory", f"{(self.server_rss_bytes or 0) / 1e6:.0f} MB"),
            ]
        rows.append(("load tool", f"{self.client_cpu_share * 100:.0f} % of a core"))
        rows += [("failed", f"{count} times {code}") for code, count in self.failures.items()]
        rows += [("errors", f"{count} times {code}") for code, count in self.errors.items()]
        rows += [("broken", reason) for reason in self.broken[:5]]
        rows += [("example", example) for example in self.examples]
        rows.append(("checked", f"{self.misrouted} misrouted, {self.lost} lost, {self.repeated} repeated"))
        return [(name, text) for name, text in rows if text != "None"]


def report_of(run: Run, *, before: Usage | None = None, after: Usage | None = None) -> Report:
    """The figures of a run. `before`, `after`: what the server had used at its start and its end."""
    exchanges = run.exchanges
    ended, counts = exchanges.ended, exchanges.counts
    requests = max(1, len(ended))
    cpu_s = None if before is None or after is None else after.cpu_s - before.cpu_s
    return Report(
        apps=run.plan.apps,
        requests=len(ended),
        seconds=round(run.seconds, 3),
        requests_per_s=round(len(ended) / run.seconds, 1),
        frames=exchanges.frames,
        frames_per_s=round(exchanges.frames / run.seconds, 1),
        latency=distribution(one.ended_at - one.due_at for one in ended if one.ended_at is not None),
        accepted=distribution(one.accepted_at - one.due_at for one in ended if one.accepted_at is not None),
        first_text=distribution(one.first_text_at - one.due_at for one in ended if one.first_text_at is not None),
        between_texts=distribution(exchanges.gaps_s),
        cpu_us_per_request=None if cpu_s is None else round(cpu_s / requests * 1e6, 1),
        cpu_us_per_frame=None if cpu_s is None else round(cpu_s / max(1, exchanges.frames) * 1e6, 2),
        server_cpu_share=None if cpu_s is None else round(cpu_s / run.seconds, 3),
        server_rss_bytes=None if after is None else after.rss_bytes,
        client_cpu_share=round(run.client_cpu_s / run.seconds, 3),
        misrouted=counts.misrouted,
        lost=counts.lost,
        repeated=counts.repeated,
        failures=dict(exchanges.failures),
        errors=dict(exchanges.errors),
        broken=tuple(run.broken),
        examples=tuple(exchanges.examples),
    )


def measured_gateway(data_dir: Path, *, model: str, coalesce_ms: int | None = None) -> list[str]:
    """The command of a gateway without per-user limits, on a store of its own."""
    coalesce = [] if coalesce_ms is None else ["--coalesce-ms", str(coalesce_ms)]
    return gateway_command(data_dir, "--model", model, "--log-level", "warning", *NO_LIMITS, *coalesce)


async def measure(plan: Plan, *, pid: int | None = None) -> Report:
    """Connect, warm up, run. `pid`: the server's, if it is on this machine. Raises: LoadConnectionError."""
    async with Load(plan) as load:
        await load.run(requests=min(plan.requests, WARM_UP_REQUESTS))
        before = None if pid is None else usage_of(pid)
        run = await load.run()
        after = None if pid is None else usage_of(pid)
    return report_of(run, before=before, after=after)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed: the load tool should cost as little as it can."""
    try:
        import uvloop  # noqa: PLC0415 - an extra, and not for Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
