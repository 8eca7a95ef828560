"""`answerback simulate`: the promises under faults, from seeds."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import ExitCode, extra_needed, note, say, say_json, say_table, usage_error

with extra_needed("the simulation", "server"):
    from answerback_proof.simulation import FAULT_NAMES, PROFILES, Case, Report, Tally, run_cases, shrink


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """What to run."""

    profile: Annotated[
        list[str] | None, typer.Option(help="A set of faults; may be given again. All but `calm` without it.")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, max=10_000_000, help="Seeds of each profile.")] = 100
    first: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0
    seed: Annotated[int | None, typer.Option(min=0, help="Only this seed.")] = None
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: print all that happens.")] = False
    apps: Annotated[int, typer.Option(min=1, max=100, help="Apps; two share a user.")] = 4
    questions: Annotated[int, typer.Option(min=1, max=100, help="Questions of each app.")] = 6
    storm: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Virtual seconds with faults.")] = 60.0
    without: Annotated[
        str, typer.Option(metavar="FAULT,...", help="Leave these faults out; `--without list` names them.")
    ] = ""
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = os.cpu_count() or 1
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="Make the first failing run short.")] = True
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first broken promise.")] = False

    @property
    def seeds_run(self) -> range:
        return range(self.first, self.first + self.seeds) if self.seed is None else range(self.seed, self.seed + 1)

    @property
    def left_out(self) -> frozenset[str]:
        return frozenset(filter(None, self.without.split(",")))

    def cases(self, profile: str) -> Iterator[Case]:
        for seed in self.seeds_run:
            yield Case(
                profile=profile,
                seed=seed,
                apps=self.apps,
                questions=self.questions,
                faults_s=self.storm,
                without=self.left_out,
            )


@with_options
def simulate(*, options: SimulateOptions, as_json: Json = False) -> int:
    """Run the real client and server through faulty schedules, and check every promise from the outside.

    Network, queue, store, model and clock are simulated, the rest is the code that runs in production. A seed repeats
    its run exactly. Exits with 1 if a promise was broken, and prints the command that repeats the run.

    Examples:

      answerback simulate

      answerback simulate --seeds 100000

      answerback simulate --profile aws --seed 123 --trace
    """
    if options.trace and options.seed is None:
        raise usage_error("--trace shows one run", "say which with --seed")
    if options.left_out == {"list"}:
        say("\n".join(FAULT_NAMES))
        return ExitCode.OK
    profiles = options.profile or tuple(name for name in PROFILES if name != "calm")
    if any(faults.gateways > 1 for name, faults in PROFILES.items() if name in profiles):
        with extra_needed("a simulated fleet", "postgres"):
            import psycopg  # noqa: F401, PLC0415 - an extra
    try:
        for profile in profiles:
            _ = next(options.cases(profile)).faults
    except ValueError as exc:
        raise usage_error(str(exc)) from exc
    tallies: list[Tally] = []
    for profile in profiles:
        tallies.append(_run_profile(options, profile, shows_trace=options.trace and not as_json))
        if options.fail_fast and tallies[-1].failures:
            break
    failures = [report for tally in tallies for report in tally.failures]
    smallest = _shrunk(failures[0]) if failures and options.shrink and options.seed is None else None
    if as_json:
        say_json(_document(tallies, smallest))
    else:
        _print(options, tallies, smallest)
    return ExitCode.FAILED if failures else ExitCode.OK


def _run_profile(options: SimulateOptions, profile: str, *, shows_trace: bool) -> Tally:
    tally = Tally(profile=profile)
    with _progress(profile, len(options.seeds_run)) as advance:
        for report in run_cases(options.cases(profile), jobs=options.jobs if options.seed is None else 1):
            tally.add(report)
            advance(len(tally.failures))
            if shows_trace:
                say("\n".join(report.trace))
            if options.fail_fast and report.failed:
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


def _print(options: SimulateOptions, tallies: Sequence[Tally], smallest: Report | None) -> None:
    rows = [
        (t.profile, t.runs, len(t.failures), t.asked, t.model_runs, t.posts, round(t.virtual_s / 3600, 1))
        for t in tallies
    ]
    say_table(("profile", "runs", "failed", "questions", "model runs", "posts", "virtual hours"), rows)
    labels = sorted(set().union(*(t.faults for t in tallies)))
    if labels:
        say("")
        say_table(("fault", *(t.profile for t in tallies)), [(f, *(t.faults[f] for t in tallies)) for f in labels])
    for tally in tallies:
        if len(options.seeds_run) > 1 and tally.never_injected:
            note(f"{tally.profile}: never injected, so nothing is proved about: {', '.join(tally.never_injected)}")
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
