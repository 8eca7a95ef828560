"""The work of `answerback bench --chaos`."""

import asyncio
import secrets
from dataclasses import replace

import platformdirs

from answerback.cli.output import CliError, ExitCode, missing_extra, note, say, say_json
from answerback.stores.errors import StoreError
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.postgres import NoPostgres
from answerback_proof.chaos.report import ChaosReport
from answerback_proof.chaos.run import run_chaos
from answerback_proof.load.measure import loop_factory
from answerback_proof.load.process import ProcessFailed

__all__ = ["ChaosPlan", "new_name", "new_seed", "run", "run_aws"]

_SEEDS = 1_000_000
_AWS_DELAY_MS = 25.0
"""Of a word: long enough that answers are under way when a fault comes."""


class _Steps:
    """A line for each step of the deployment; its resources are those of every deployment."""

    def step(self, text: str) -> None:
        """See deploy.deployment.Progress."""
        note(f"{text} ...")

    def event(self, event: object) -> None:
        """See deploy.deployment.Progress."""


def new_seed() -> int:
    """A seed short enough to be typed again."""
    return secrets.randbelow(_SEEDS)


def new_name() -> str:
    """What tells this run from others in one database."""
    return f"-{secrets.token_hex(3)}"


def run(plan: ChaosPlan, *, as_json: bool) -> ExitCode:
    """Run it, print the report. Raises: CliError: it cannot be run."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(run_chaos(plan, notify=note))
    except (ProcessFailed, NoPostgres, StoreError) as exc:
        raise CliError(str(exc)) from exc
    return _print(report, as_json=as_json)


def run_aws(plan: ChaosPlan, *, as_json: bool) -> ExitCode:
    """The same on the emulated AWS. Raises: CliError: it cannot be run."""
    try:
        from answerback_aws.deploy.errors import DeployError  # noqa: PLC0415 - an extra
        from answerback_aws.emulator.emulator import EmulatorFailed  # noqa: PLC0415
        from answerback_aws.emulator.environment import emulator_python  # noqa: PLC0415
        from answerback_aws.emulator.failure import LocalFailed  # noqa: PLC0415
        from answerback_proof.chaos.aws.run import SLOW, run_aws_chaos  # noqa: PLC0415
        from answerback_proof.chaos.aws.stack import EmulatedAws  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("answerback"):
            raise
        raise missing_extra("The emulated AWS", "aws,server") from exc
    cache = platformdirs.user_cache_path("answerback")
    slow = replace(plan, timing=SLOW, delay_ms=_AWS_DELAY_MS)
    try:
        emulated = EmulatedAws(python=emulator_python(cache, note), wheels=cache / "wheels")
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(run_aws_chaos(slow, emulated, notify=note, progress=_Steps()))
    except (LocalFailed, DeployError) as exc:
        raise CliError(exc.message, exc.hint) from exc
    except (EmulatorFailed, NoPostgres) as exc:
        raise CliError(str(exc)) from exc
    return _print(report, as_json=as_json)


def _print(report: ChaosReport, *, as_json: bool) -> ExitCode:
    if as_json:
        say_json(report.as_json())
    else:
        for name, text in report.rows():
            say(f"{name:<18}{text}")
    return ExitCode.OK if report.is_clean else ExitCode.FAILED
