"""Many runs, the command around them, and what is done with one that fails."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from answerback.cli.main import run
from answerback_proof.history import Violation, ViolationKind
from answerback_proof.simulation import PROFILES, Case, Report, Tally, run_cases, shrink


def violation(promise: str) -> Violation:
    return Violation(promise=promise, kind=ViolationKind.FOREIGN, request="", detail="mixed up")


def fails_with(*needed: str):
    """Runs that break a promise where these faults are on and at least two apps ask."""

    def simulate(case: Case) -> Report:
        broken = set(needed) <= set(case.faults.active) and case.apps >= 2
        return Report(case=case, violations=[violation("G1")] if broken else [])

    return simulate


def test_a_failing_run_is_made_as_small_as_its_failure_allows() -> None:
    simulate = fails_with("lose", "cancel")
    small = shrink(simulate(Case(profile="aws", seed=5)), run=simulate).case
    assert set(small.faults.active) == {"lose", "cancel"}
    assert (small.apps, small.questions, small.faults_s) == (2, 1, 7.5)


def test_looking_for_a_smaller_run_ends() -> None:
    runs = Counter[str]()

    def simulate(case: Case) -> Report:
        runs["all"] += 1
        return fails_with("lose")(case)

    shrink(simulate(Case(profile="aws", seed=5)), run=simulate, max_runs=10)
    assert runs["all"] <= 11


def test_a_run_that_fails_in_another_way_is_not_the_same_failure() -> None:
    def simulate(case: Case) -> Report:
        return Report(case=case, violations=[violation("G1" if "lose" in case.faults.active else "G4")])

    assert "lose" in shrink(simulate(Case(profile="aws", seed=5)), run=simulate).case.faults.active


def test_what_kept_every_promise_is_not_made_smaller() -> None:
    with pytest.raises(ValueError, match="keeps every promise"):
        shrink(Report(case=Case(profile="aws", seed=5), violations=[]))


def test_processes_give_the_same_reports_as_none() -> None:
    cases = [Case(profile="gateway", seed=seed, faults_s=10.0) for seed in range(4)]
    alone, together = list(run_cases(cases, jobs=1)), list(run_cases(cases, jobs=2))
    assert [r.faults for r in alone] == [r.faults for r in together]
    assert [r.posts for r in alone] == [r.posts for r in together]


def test_a_fault_that_was_never_injected_is_named() -> None:
    tally = Tally(profile="aws")
    tally.add(Report(case=Case(profile="aws", seed=1), violations=[], faults=Counter({"lost post": 2})))
    assert "lost post" not in tally.never_injected
    assert "worker crash" in tally.never_injected


def test_the_command_of_a_case_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(profile="aws", seed=3, apps=2, questions=2, faults_s=12.5, without=frozenset({"lose", "late"}))
    assert case.command == (
        "answerback simulate --profile aws --seed 3 --apps 2 --questions 2 --storm 12.5 --without late,lose --trace"
    )
    assert run(case.command.split()[1:]) == 0
    printed = capsys.readouterr().out
    assert "app1 asks r0" in printed
    assert "every promise was kept" in printed


def test_the_summary_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--profile", "gateway", "--seeds", "3", "--jobs", "1", "--json"]) == 0
    (profile,) = json.loads(capsys.readouterr().out)["profiles"]
    assert (profile["runs"], profile["failed"]) == (3, 0)
    assert profile["faults"]["cut connection"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "mars"], "no such profile: mars; there are calm"),
        (["--without", "rain"], "no such fault: rain; there are"),
        (["--trace"], "say which with --seed"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_faults_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--without", "list"]) == 0
    assert "worker_crash" in capsys.readouterr().out.split()


def test_a_broken_promise_is_printed_with_the_command_that_repeats_it() -> None:
    """In a process of its own, in which nobody waits for the answers."""
    program = (
        "import sys; from answerback_proof.simulation import world; from answerback.cli.main import run\n"
        "world.SETTLE_S = world.REST_S = 0.0\n"
        "sys.exit(run(['simulate', '--profile', 'gateway', '--seeds', '2', '--jobs', '1', '--storm', '5']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "broke a promise" in done.stdout
    assert "answerback simulate --profile gateway --seed" in done.stdout
    assert "the shortest run found" in done.stdout


def test_every_profile_names_what_it_exercises() -> None:
    for name, faults in PROFILES.items():
        assert bool(faults.labels) is (name != "calm")
