"""`answerback simulate`: the promises under faults, from seeds."""

import os
from typing import Annotated

import typer

from answerback.cli.output import usage_error


def simulate(
    *,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="A set of faults; may be given again. All but `calm` without it.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000_000, help="Seeds of each profile.")] = 100,
    first: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Only this seed.", show_default=False)] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: print all that happens.")] = False,
    apps: Annotated[int, typer.Option(min=1, max=100, help="Apps; two share a user.")] = 4,
    questions: Annotated[int, typer.Option(min=1, max=100, help="Questions of each app.")] = 6,
    storm: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Virtual seconds with faults.")] = 60.0,
    without: Annotated[
        str, typer.Option(metavar="FAULT,...", help="Leave these faults out; `--without list` names them.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = os.cpu_count() or 1,
    shrink: Annotated[bool, typer.Option("--shrink/--no-shrink", help="Make the first failing run short.")] = True,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first broken promise.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Run the real client and server through faulty schedules, and check every promise from the outside.

    Network, queue, store, model and clock are simulated, the rest is the code that runs in production. A seed repeats
    its run exactly. Exits with 1 if a promise was broken, and prints the command that repeats the run.

    Examples:

      answerback simulate

      answerback simulate --seeds 100000

      answerback simulate --profile aws --seed 123 --trace
    """
    if trace and seed is None:
        raise usage_error("--trace shows one run", "say which with --seed")
    from answerback_proof.commands.simulating import Plan, run_simulations  # noqa: PLC0415 - only this command needs it

    return run_simulations(
        Plan(
            profiles=tuple(profile or ()),
            first=first if seed is None else seed,
            seeds=seeds if seed is None else 1,
            trace=trace,
            apps=apps,
            questions=questions,
            faults_s=storm,
            without=frozenset(filter(None, without.split(","))),
            jobs=jobs if seed is None else 1,
            shrinks=shrink and seed is None,
            stops_early=fail_fast,
            as_json=as_json,
        )
    )
