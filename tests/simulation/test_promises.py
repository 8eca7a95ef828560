"""G1 to G7 over many faulty schedules of the real session, front, worker and janitor."""

import logging
from collections import Counter

import pytest

from answerback.testing.simulation import AWS, CALM, GATEWAY, Faults, simulate

SEEDS = 100
FAULTS_OF_THE_GATEWAY = {
    "cut connection",
    "half-open connection",
    "slow reader",
    "app crash",
    "worker crash",
    "store outage before the write",
    "store outage after the write",
    "cancellation",
    "roll-over",
    "model breaks off",
}
FAULTS_OF_AWS = FAULTS_OF_THE_GATEWAY | {
    "lost post",
    "late post",
    "duplicated post",
    "duplicated message",
    "false gone",
    "front crash",
    "stalled store call",
    "redelivery of a running request",
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="answerback")


@pytest.mark.parametrize(("faults", "expected"), [(GATEWAY, FAULTS_OF_THE_GATEWAY), (AWS, FAULTS_OF_AWS)])
def test_the_promises_hold_under_faults(faults: Faults, expected: set[str]) -> None:
    struck: Counter[str] = Counter()
    for seed in range(SEEDS):
        report = simulate(seed, faults)
        assert not report.violations, f"seed {seed}: {report.violations}\n" + "\n".join(report.trace)
        struck += report.faults
    assert set(struck) == expected, "a fault that never fired proves nothing"


def test_without_faults_everything_completes_in_one_run() -> None:
    report = simulate(1, CALM)
    assert report.violations == []
    assert report.endings == {"completed": report.asked}
    assert report.runs == report.asked


def test_a_seed_is_repeated_exactly() -> None:
    assert simulate(7, AWS).trace == simulate(7, AWS).trace
