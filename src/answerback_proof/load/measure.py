"""One measurement: a server, a plan, a warm-up, a run, figures."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from answerback_proof.load.figures import Report, report_of
from answerback_proof.load.load import Load, Plan
from answerback_proof.load.process import gateway_command, usage_of

WARM_UP_REQUESTS = 5
NO_LIMITS = (
    *("--rate-limit", "0", "--max-pending-per-user", "1000000"),
    *("--max-frames-per-second", "10000000", "--max-frames-burst", "10000000"),
)
"""Without the limits that protect users from each other: they would be measured instead of the gateway."""


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
    return report_of(plan, run, before=before, after=after)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed: the load tool should cost as little as it can."""
    try:
        import uvloop  # noqa: PLC0415 - an extra, and not for Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
