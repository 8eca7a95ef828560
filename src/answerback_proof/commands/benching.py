"""The work of `answerback bench`."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from answerback.cli.output import CliError, ExitCode, say, say_json
from answerback_proof.load.figures import Report
from answerback_proof.load.idle import IdleReport, measure_idle
from answerback_proof.load.load import Plan
from answerback_proof.load.measure import loop_factory, measure, measured_gateway
from answerback_proof.load.process import ProcessFailed, running
from answerback_proof.load.websocket import LoadConnectionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The flags of the command."""

    apps: int
    requests: int
    in_flight: int
    rate: float | None
    stream: bool
    words: int
    message_bytes: int
    delay_ms: int
    coalesce_ms: int | None
    idle: int
    url: str | None
    pid: int | None
    token: str | None
    model: str | None
    max_tokens: int | None
    as_json: bool

    def plan(self, url: str) -> Plan:
        """What the load tool shall do at this server."""
        return Plan(
            url=url,
            apps=self.apps,
            requests=self.requests,
            in_flight=self.in_flight,
            rate=self.rate,
            stream=self.stream,
            words=self.words,
            message_bytes=self.message_bytes,
            model=self.model,
            max_tokens=self.max_tokens,
            token=self.token,
            is_echo=self.model is None or self.model == "echo",
        )


def run_bench(bench: Bench) -> ExitCode:
    """Measure, print, and judge. Raises: CliError: it cannot be measured."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(_run(bench))
    except LoadConnectionError as exc:
        raise CliError(str(exc), "see that the server runs, and --url", exit_code=ExitCode.CANNOT_CONNECT) from exc
    except ProcessFailed as exc:
        raise CliError(str(exc)) from exc
    if bench.as_json:
        say_json(report.as_json())
    else:
        for name, text in report.rows():
            say(f"{name:<18}{text}")
    return ExitCode.OK if isinstance(report, IdleReport) or report.is_clean else ExitCode.FAILED


async def _run(bench: Bench) -> Report | IdleReport:
    async with _server(bench) as (url, pid):
        if bench.idle and pid is not None:
            return await measure_idle(url, pid, bench.idle)
        return await measure(bench.plan(url), pid=pid)


@asynccontextmanager
async def _server(bench: Bench) -> AsyncIterator[tuple[str, int | None]]:
    """The server's URL and process id."""
    if bench.url is not None:
        yield bench.url, bench.pid
        return
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as folder:
        model = f"echo:delay_ms={bench.delay_ms}"
        command = measured_gateway(Path(folder) / "data", model=model, coalesce_ms=bench.coalesce_ms)
        async with running(command, log=Path(folder) / "log") as server:
            yield server.url, server.pid
