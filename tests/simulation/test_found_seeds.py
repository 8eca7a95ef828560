"""Runs that once broke a promise, each under the name of what was wrong."""

import logging

import pytest

from answerback_proof.simulation import simulate
from found_seeds import FOUND


@pytest.mark.parametrize("what", FOUND)
def test_it_does_not_come_back(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="answerback")
    report = simulate(FOUND[what])
    assert not report.failed, f"{report.violations}\nrepeat it: {report.case.command}"
