"""The work of `answerback bench --chaos`."""

import asyncio
import secrets

from answerback.bench.chaos.plan import ChaosPlan
from answerback.bench.chaos.postgres import NoPostgres
from answerback.bench.chaos.run import run_chaos
from answerback.bench.measure import loop_factory
from answerback.bench.process import ProcessFailed
from answerback.cli.output import CliError, ExitCode, note, say, say_json
from answerback.stores.errors import StoreError

__all__ = ["ChaosPlan", "new_name", "new_seed", "run"]

_SEEDS = 1_000_000


def new_seed() -> int:
    """A seed short enough to be typed again."""
    return secrets.randbelow(_SEEDS)


def new_name() -> str:
    """What tells this run from others in one database."""
    return f"-{secrets.token_hex(3)}"


def run(plan: ChaosPlan, *, as_json: bool) -> ExitCode:
    """Run it, print the ledger, and judge. Raises: CliError: it cannot be run."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(run_chaos(plan, told=note))
    except (ProcessFailed, NoPostgres, StoreError) as exc:
        raise CliError(str(exc)) from exc
    if as_json:
        say_json(report.as_json())
    else:
        for name, text in report.rows():
            say(f"{name:<18}{text}")
    return ExitCode.OK if report.is_clean else ExitCode.FAILED
