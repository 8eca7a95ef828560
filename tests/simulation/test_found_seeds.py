"""Runs that once broke a promise, each under the name of what was wrong."""

import logging

import pytest

from answerback_proof.simulation import Case, simulate

FOUND = {
    "an outage while the question was read cost an attempt and the rest of its lease": Case(profile="gateway", seed=1),
    "a claim that took effect in an outage of seconds cost an attempt": Case(profile="outages", seed=0),
    "a slow connection got the stored text from its start again and again": Case(profile="aws", seed=2),
    "the front that replaced a session died before it closed the older connection": Case(profile="aws", seed=7),
    "a target of the process before a restart barred the resuming client": Case(profile="gateway-quiet", seed=41),
}
"""Each fails when its repair is taken out; the planted bugs do that."""


@pytest.mark.parametrize("what", FOUND)
def test_it_does_not_come_back(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="answerback")
    report = simulate(FOUND[what])
    assert not report.failed, f"{report.violations}\nrepeat it: {report.case.command}"
