"""`answerback bench`: load, with every frame checked, and faults."""

import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import platformdirs
import typer

from answerback.cli.options import Json, MaxTokens, ModelName, TokenText, with_options
from answerback.cli.output import CliError, ExitCode, extra_needed, note, say, say_json, usage_error
from answerback.stores.database import StoreError

with extra_needed("the load test", "server"):
    from answerback_aws.emulator.emulator import EmulatorFailed, LocalFailed, emulator_python
    from answerback_proof.chaos import ChaosPlan
    from answerback_proof.chaos.report import ChaosReport
    from answerback_proof.chaos.run import run_chaos
    from answerback_proof.load.figures import Report, loop_factory, measure, measured_gateway
    from answerback_proof.load.idle import IdleReport, measure_idle
    from answerback_proof.load.load import Plan
    from answerback_proof.load.process import ProcessFailed, running
    from answerback_proof.load.websocket import LoadConnectionError

T = TypeVar("T")

_MOST = 1_000_000
_CHAOS = "Chaos"
_APPS = 50
_KILLS = 50
_AWS_APPS = 12
_AWS_SECONDS = 180.0
"""The emulated AWS answers some tens of questions a second, and starts a process for a function in a second or two."""
_SEEDS = 1_000_000
_AWS_DELAY_MS = 25.0
"""Of a word: long enough that answers are under way when a fault is injected."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What is asked of which server."""

    apps: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Connections, each a user and session; default: 50, on AWS 12."),
    ] = None
    requests: Annotated[int, typer.Option(min=1, max=_MOST, help="Questions of each app.")] = 200
    in_flight: Annotated[
        int, typer.Option(min=1, max=100_000, help="Closed loop: questions that each app keeps pending.")
    ] = 1
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Open loop: questions a second over all apps, whatever is pending.")
    ] = None
    stream: Annotated[bool, typer.Option("--stream", help="Streamed answers.")] = False
    words: Annotated[int, typer.Option(min=1, max=10_000, help="Words of a question, and so of its answer.")] = 50
    message_bytes: Annotated[int, typer.Option(min=0, max=120_000, help="Bytes that a question has at least.")] = 0
    delay_ms: Annotated[int, typer.Option(min=0, max=10_000, help="Own gateway: the model's time for a word.")] = 0
    coalesce_ms: Annotated[int | None, typer.Option(min=0, max=10_000, help="Own gateway: see `serve`.")] = None
    idle: Annotated[int, typer.Option(min=0, max=_MOST, help="Measure so many quiet connections instead.")] = 0
    url: Annotated[str | None, typer.Option(help="A running server instead of a gateway of its own.")] = None
    pid: Annotated[int | None, typer.Option(help="With --url: process id of that server, to see its CPU.")] = None
    token: TokenText = None
    model: ModelName = None
    max_tokens: MaxTokens = None

    def check(self) -> None:
        """Raises: CliError: options that do not go together."""
        if self.pid is not None and self.url is None:
            raise usage_error("--pid is for a server under --url")
        if self.url is not None and (self.delay_ms or self.coalesce_ms is not None):
            raise usage_error("--delay-ms and --coalesce-ms are for bench's own gateway", "leave out --url, or them")
        if self.idle and self.url is not None and self.pid is None:
            raise usage_error("--idle measures memory", "say the process id of the server with --pid")

    def plan(self, url: str) -> Plan:
        return Plan(
            url=url,
            apps=self.apps or _APPS,
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


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """Which faults, where, and for how long."""

    chaos: Annotated[
        bool,
        typer.Option(
            "--chaos",
            help="Kill, freeze and cut off its own gateway instead, while --apps ask.",
            rich_help_panel=_CHAOS,
        ),
    ] = False
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Which faults are injected when; default: a new one.", rich_help_panel=_CHAOS),
    ] = None
    aws: Annotated[
        bool,
        typer.Option(
            "--aws",
            help="Inject faults into the emulated AWS, not a gateway, for --seconds (default: 180).",
            rich_help_panel=_CHAOS,
        ),
    ] = False
    kills: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="SIGKILLs; default: 50.", rich_help_panel=_CHAOS)
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Inject faults for so long, whatever --kills says.", rich_help_panel=_CHAOS),
    ] = None
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Store in a PostgreSQL of its own, and crash it.", rich_help_panel=_CHAOS)
    ] = False
    gateways: Annotated[
        int,
        typer.Option(
            min=1, max=8, help="So many on a PostgreSQL of their own, behind HAProxy.", rich_help_panel=_CHAOS
        ),
    ] = 1
    database: Annotated[
        str | None, typer.Option(help="Store in this PostgreSQL, and leave it alone.", rich_help_panel=_CHAOS)
    ] = None
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep data, log and trace here; default: only if something broke.",
            rich_help_panel=_CHAOS,
        ),
    ] = None

    def check(self, load: LoadOptions) -> None:
        """Raises: CliError: options that do not go together."""
        not_for_chaos = {
            "--url": load.url,
            "--pid": load.pid,
            "--rate": load.rate,
            "--model": load.model,
            "--token": load.token,
            "--idle": load.idle or None,
        }
        for flag, value in not_for_chaos.items():
            if value is not None:
                raise usage_error(f"{flag} is not for --chaos", "leave it out; chaos starts a gateway of its own")
        if self.postgres and self.database is not None:
            raise usage_error("--postgres starts a database of its own", "leave out --database")
        if self.gateways > 1 and (self.aws or self.database is not None):
            raise usage_error("--gateways starts a database of its own", "leave out --aws and --database")
        if self.aws and self.kills is not None:
            raise usage_error("--kills is not for --aws", "say how long with --seconds")
        if self.aws and (self.postgres or self.database is not None):
            raise usage_error("--postgres and --database are not for --aws", "leave them out; it starts a PostgreSQL")
        if self.keep is not None and self.keep.exists() and (not self.keep.is_dir() or any(self.keep.iterdir())):
            raise usage_error(f"{self.keep} is not an empty folder", "name a new one with --keep")
        if sys.platform != "linux":
            raise usage_error("--chaos needs Linux", "run it there, or in a container")

    def plan(self, apps: int | None) -> ChaosPlan:
        """The run; a new seed is short enough to be typed again."""
        return ChaosPlan(
            seed=secrets.randbelow(_SEEDS) if self.seed is None else self.seed,
            # What tells this run from others in one database.
            name="" if self.database is None else f"-{secrets.token_hex(3)}",
            apps=apps or (_AWS_APPS if self.aws else _APPS),
            kills=self.kills or _KILLS,
            seconds=self.seconds or (_AWS_SECONDS if self.aws else None),
            own_postgres=self.postgres or self.gateways > 1,
            gateways=self.gateways,
            database=self.database,
            keep=self.keep,
        )


@with_options
def bench(*, load: LoadOptions, faults: ChaosOptions, as_json: Json = False) -> int:
    """Load a gateway with many apps, and check every frame of every answer.

    Without --url it starts a gateway of its own with the model `echo` on a store of its own. A server under --url must
    answer with the question (`serve --model echo --rate-limit 0`), or be told apart by --model: then texts are checked
    for their own wholeness only. Exits with 1 if anything was misrouted, lost, repeated, refused or failed.

    With --chaos it is not measured. It is killed, stopped, frozen, cut off and left without disk, its database is
    crashed and its apps are killed, at random moments drawn from --seed. Then every text is compared with the store.
    With --aws too the same is done to the stack of `answerback aws deploy`, on the emulator of `answerback aws local`.

    Examples:

      answerback bench

      answerback bench --stream --delay-ms 5 --apps 200 --in-flight 4 --requests 20

      answerback bench --rate 1000 --requests 200

      answerback bench --idle 10000

      answerback bench --chaos --apps 200 --kills 50 --postgres

      answerback bench --chaos --gateways 3 --seconds 300

      answerback bench --chaos --aws --seconds 120
    """
    if faults.chaos:
        faults.check(load)
        plan = faults.plan(load.apps)
        report = _run_aws_chaos(plan) if faults.aws else _run(run_chaos(plan, notify=note))
        return _show(report, as_json=as_json, is_clean=report.is_clean)
    if faults.aws:
        raise usage_error("--aws is for --chaos", "load a stack by its --url")
    load.check()
    measured = _run(_measure(load))
    return _show(measured, as_json=as_json, is_clean=isinstance(measured, IdleReport) or measured.is_clean)


def _show(report: Report | IdleReport | ChaosReport, *, as_json: bool, is_clean: bool) -> ExitCode:
    if as_json:
        say_json(report.as_json())
    else:
        for name, text in report.rows():
            say(f"{name:<18}{text}")
    return ExitCode.OK if is_clean else ExitCode.FAILED


# --- load ---------------------------------------------------------------------------------------------------


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of a run that cannot be done, as one line."""
    try:
        yield
    except LoadConnectionError as exc:
        raise CliError(str(exc), "see that the server runs, and --url", exit_code=ExitCode.CANNOT_CONNECT) from exc
    except LocalFailed as exc:
        raise CliError(exc.message, exc.hint) from exc
    except (EmulatorFailed, ProcessFailed, StoreError) as exc:
        raise CliError(str(exc)) from exc


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Raises: CliError: it cannot be run."""
    with _explained(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


async def _measure(load: LoadOptions) -> Report | IdleReport:
    async with _server(load) as (url, pid):
        if load.idle and pid is not None:
            return await measure_idle(url, pid, load.idle)
        return await measure(load.plan(url), pid=pid)


@asynccontextmanager
async def _server(load: LoadOptions) -> AsyncIterator[tuple[str, int | None]]:
    """The server's URL and process id."""
    if load.url is not None:
        yield load.url, load.pid
        return
    with tempfile.TemporaryDirectory(prefix="answerback-bench-", ignore_cleanup_errors=True) as folder:
        model = f"echo:delay_ms={load.delay_ms}"
        command = measured_gateway(Path(folder) / "data", model=model, coalesce_ms=load.coalesce_ms)
        async with running(command, log=Path(folder) / "log") as server:
            yield server.url, server.pid


# --- faults -------------------------------------------------------------------------------------------------


class _Steps:
    """deploy.stack.Progress as a line for each step; resources are not shown."""

    def step(self, text: str) -> None:
        note(f"{text} ...")

    def event(self, event: object) -> None:
        pass


def _run_aws_chaos(plan: ChaosPlan) -> ChaosReport:
    """The same on the emulated AWS. Raises: CliError: it cannot be run."""
    with extra_needed("the emulated AWS", "aws,server"):
        from answerback_aws.deploy.errors import DeployError  # noqa: PLC0415 - an extra
        from answerback_proof.chaos.aws.run import SLOW, run_aws_chaos  # noqa: PLC0415
        from answerback_proof.chaos.aws.stack import EmulatedAws  # noqa: PLC0415
    cache = platformdirs.user_cache_path("answerback")
    slow = replace(plan, timing=SLOW, delay_ms=_AWS_DELAY_MS)
    try:
        with _explained():
            emulated = EmulatedAws(python=emulator_python(cache, note), wheels=cache / "wheels")
        return _run(run_aws_chaos(slow, emulated, notify=note, progress=_Steps()))
    except DeployError as exc:
        raise CliError(exc.message, exc.hint) from exc
