"""G1 to G7 over many faulty schedules of the real session, front, worker, janitor and gateway queue."""

import logging
from collections import Counter

import pytest

from answerback_proof.simulation import FAULT_NAMES, PROFILES, Case, simulate

SEEDS = {
    "gateway": 120,
    "aws": 120,
    "outages": 60,
    "gateway-quiet": 70,
    "aws-quiet": 70,
    "limits": 60,
    "gateway-hostile": 60,
    "aws-hostile": 60,
    "parts-quiet": 60,
    "aws-parts": 60,
    "aws-parts-quiet": 60,
    "uploads": 60,
    "uploads-quiet": 40,
    "aws-uploads": 40,
    "aws-uploads-quiet": 40,
    "fleet-uploads": 40,
    "thinking": 60,
    "aws-thinking": 60,
    "fleet": 120,
    "fleet-quiet": 200,
    "fleet-limits": 60,
    "fleet-budgets": 120,
    "gateway-budgets": 60,
    "aws-budgets": 60,
    "watchers": 60,
    "watchers-quiet": 40,
    "aws-watchers": 60,
    "aws-watchers-quiet": 40,
    "fleet-watchers": 40,
}
"""2,000 in all. Every run of the tests has a thirtieth of them, and more where a fault is rarer: at most a tenth.
`answerback simulate --seeds 100000` has more."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="answerback")


@pytest.mark.parametrize(
    ("least", "most"), [(30, 10), pytest.param(1, 1, marks=pytest.mark.proof)], ids=["some", "all"]
)
@pytest.mark.parametrize("profile", SEEDS)
def test_the_promises_hold_under_faults(profile: str, least: int, most: int) -> None:
    injected: Counter[str] = Counter()
    expected = PROFILES[profile].labels
    for seed in range(SEEDS[profile] // most):
        if seed >= SEEDS[profile] // least and expected <= set(injected):
            break
        report = simulate(Case(profile=profile, seed=seed))
        assert not report.failed, f"{report.violations}\nrepeat it: {report.case.command}"
        injected += report.faults
    assert set(injected) >= expected, "a fault that never fired proves nothing"


def test_without_faults_everything_is_answered_in_one_run() -> None:
    report = simulate(Case(profile="calm", seed=1))
    assert report.violations == []
    assert report.endings == {"Answer": report.asked}
    assert report.model_runs == report.asked


@pytest.mark.parametrize(
    "profile",
    [pytest.param(name, marks=pytest.mark.proof) if name.endswith("-quiet") else name for name in PROFILES],
)  # a quiet one is another with fewer faults
def test_a_case_is_repeated_exactly(profile: str) -> None:
    case = Case(profile=profile, seed=7, faults_s=4.0)
    assert simulate(case).trace == simulate(case).trace


def test_a_fault_that_is_left_out_does_not_occur() -> None:
    report = simulate(Case(profile="aws", seed=3, without=frozenset(FAULT_NAMES)))
    assert not report.faults
    assert report.violations == []


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="no such profile"):
        simulate(Case(profile="mars", seed=1))
    with pytest.raises(ValueError, match="no such fault"):
        simulate(Case(profile="aws", seed=1, without=frozenset({"rain"})))
