"""A short run of chaos over the deployed template on the emulator; `answerback bench --chaos --aws` is the long one."""

from pathlib import Path

import pytest

from answerback_proof.chaos import ChaosPlan
from answerback_proof.chaos.aws.faults import KILLS
from answerback_proof.chaos.aws.run import SLOW, run_aws_chaos
from answerback_proof.chaos.aws.stack import EmulatedAws
from answerback_proof.fault_kinds import FaultKind
from emulation import ENVIRONMENT, emulator_python

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.proof]


class Quiet:
    """Progress that pytest shows with a failure."""

    def step(self, text: str) -> None:
        print(text)

    def event(self, event: object) -> None:
        pass


@pytest.mark.timeout(400)
async def test_a_short_run(postgres_server: object, tmp_path: Path) -> None:
    del postgres_server  # only whether there is one
    plan = ChaosPlan(seed=7, apps=5, seconds=12, think_s=0.5, delay_ms=25, timing=SLOW, keep=tmp_path / "kept")
    aws = EmulatedAws(python=emulator_python(), wheels=ENVIRONMENT.parent / "wheels")
    report = await run_aws_chaos(plan, aws, notify=print, progress=Quiet())
    assert report.violations == ()
    assert report.completed > 0
    assert report.faults[FaultKind.WORKER_KILLED] + report.faults[FaultKind.WORKERS_KILLED] > 0
    assert report.faults[FaultKind.DOUBLED] > 0
    assert report.faults[FaultKind.JANITOR_CALLED] > 0
    assert report.kills == sum(report.faults[kill] for kill in KILLS)
    assert report.asked == report.completed + report.cancelled + sum(report.failed.values()) + report.timed_out
