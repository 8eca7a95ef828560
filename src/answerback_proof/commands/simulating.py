"""The work of `answerback simulate`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from answerback.cli.output import ExitCode, note, say, say_json, say_table, usage_error
from answerback_proof.simulation import FAULT_NAMES, PROFILES, Case, Report, Tally, run_cases, shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The flags of the command."""

    profiles: tuple[str, ...]
    first: int
    seeds: int
    trace: bool
    apps: int
    questions: int
    faults_s: float
    without: frozenset[str]
    jobs: int
    shrinks: bool
    stops_early: bool
    as_json: bool

    def cases(self, profile: str) -> Iterator[Case]:
        """Every run of one profile."""
        for seed in range(self.first, self.first + self.seeds):
            yield Case(
                profile=profile,
                seed=seed,
                apps=self.apps,
                questions=self.questions,
                faults_s=self.faults_s,
                without=self.without,
            )


def run_simulations(plan: Plan) -> ExitCode:
    """Run, print, and judge. Raises: CliError: no such profile or fault."""
    if plan.without == {"list"}:
        say("\n".join(FAULT_NAMES))
        return ExitCode.OK
    profiles = plan.profiles or tuple(name for name in PROFILES if name != "calm")
    try:
        for profile in profiles:
            _ = next(plan.cases(profile)).faults
    except ValueError as exc:
        raise usage_error(str(exc)) from exc
    tallies: list[Tally] = []
    for profile in profiles:
        tallies.append(_run_profile(plan, profile))
        if plan.stops_early and tallies[-1].failures:
            break
    failures = [report for tally in tallies for report in tally.failures]
    smallest = _shrunk(failures[0]) if failures and plan.shrinks else None
    if plan.as_json:
        say_json(_document(tallies, smallest))
    else:
        _print(plan, tallies, smallest)
    return ExitCode.FAILED if failures else ExitCode.OK


def _run_profile(plan: Plan, profile: str) -> Tally:
    tally = Tally(profile=profile)
    with _progress(profile, plan.seeds) as advance:
        for report in run_cases(plan.cases(profile), jobs=plan.jobs):
            tally.add(report)
            advance(len(tally.failures))
            if plan.trace and not plan.as_json:
                say("\n".join(report.trace))
            if plan.stops_early and report.failed:
                break
    return tally


def _shrunk(report: Report) -> Report:
    note("looking for a shorter run that fails in the same way...")
    return shrink(report)


@contextmanager
def _progress(profile: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for the person at the terminal; nothing in a pipe."""
    if not sys.stderr.isatty() or total == 1:
        yield lambda failures: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and a pipe does not need it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(profile, total=total)

        def advance(failures: int) -> None:
            text = f"{profile}, [red]{failures} failed[/red]" if failures else profile
            progress.update(task, advance=1, description=text)

        yield advance


# --- what is said


def _print(plan: Plan, tallies: Sequence[Tally], smallest: Report | None) -> None:
    rows = [
        (t.profile, t.runs, len(t.failures), t.asked, t.model_runs, t.posts, round(t.virtual_s / 3600, 1))
        for t in tallies
    ]
    say_table(("profile", "runs", "failed", "questions", "model runs", "posts", "virtual hours"), rows)
    labels = sorted(set().union(*(t.faults for t in tallies)))
    if labels:
        say("")
        say_table(
            ("what struck", *(t.profile for t in tallies)), [(f, *(t.faults[f] for t in tallies)) for f in labels]
        )
    for tally in tallies:
        if plan.seeds > 1 and tally.never_injected:
            note(f"{tally.profile}: never struck, so nothing is proved about: {', '.join(tally.never_injected)}")
        for report in tally.failures[:5]:
            say(f"\nseed {report.case.seed} of {tally.profile} broke a promise:")
            say("\n".join(f"  {violation}" for violation in report.violations[:5]))
            say(f"  {report.case.command}")
    if smallest is not None:
        say("\nthe shortest run found that fails like the first:")
        say("\n".join(f"  {violation}" for violation in smallest.violations[:5]))
        say(f"  {smallest.case.command}")
    if not any(tally.failures for tally in tallies):
        say("\nevery promise was kept")


def _document(tallies: Sequence[Tally], smallest: Report | None) -> dict[str, object]:
    return {
        "profiles": [
            {
                "profile": tally.profile,
                "runs": tally.runs,
                "failed": len(tally.failures),
                "questions": tally.asked,
                "modelRuns": tally.model_runs,
                "posts": tally.posts,
                "virtualSeconds": round(tally.virtual_s),
                "faults": dict(sorted(tally.faults.items())),
                "endings": dict(sorted(tally.endings.items())),
                "neverStruck": list(tally.never_injected),
                "failures": [_failure(report) for report in tally.failures],
            }
            for tally in tallies
        ],
        "shortest": None if smallest is None else _failure(smallest),
    }


def _failure(report: Report) -> dict[str, object]:
    return {
        "seed": report.case.seed,
        "violations": [
            {"promise": violation.promise, "detail": str(violation).removeprefix(f"{violation.promise}: ")}
            for violation in report.violations
        ],
        "command": report.case.command,
    }
