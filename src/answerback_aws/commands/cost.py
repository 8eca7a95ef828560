"""`answerback cost`: what a month on AWS costs, line by line, and what each choice of the design saves."""

from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import say, say_json, say_table, usage_error
from answerback_aws.cost.bill import Estimate, UnknownPrice, estimate
from answerback_aws.cost.workload import Workload

DEFAULT_MODEL: Final = "amazon.nova-lite-v1:0"


@dataclass(frozen=True, kw_only=True)
class WorkloadOptions:
    """The workload whose bill is estimated."""

    apps: Annotated[int, typer.Option(min=1, help="Desktop apps.")] = 1000
    hours: Annotated[float, typer.Option(min=0.1, max=24.0, help="Hours a day that an app is open.")] = 8.0
    days: Annotated[int, typer.Option(min=1, max=31, help="Days a month.")] = 22
    requests: Annotated[float, typer.Option(min=0.0, help="Questions of one app a day.")] = 50.0
    tokens_in: Annotated[int, typer.Option(min=0, help="Tokens of a question with its context.")] = 600
    tokens_out: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 400
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Text as it comes, or whole.")] = True
    tokens_per_second: Annotated[
        float, typer.Option("--speed", min=1.0, help="Tokens a second that the model writes.")
    ] = 80.0
    budgets: Annotated[int, typer.Option(min=0, max=4, help="Budgets that an answer is counted in.")] = 0
    devices: Annotated[
        float, typer.Option(min=0.0, help="Other devices that are shown each answer as it comes, on average.")
    ] = 0.0
    cached: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the questions' tokens that is read from Bedrock's cache.")
    ] = 0.0
    files: Annotated[float, typer.Option(min=0.0, help="New files that a question comes with, on average.")] = 0.0
    reads: Annotated[float, typer.Option(min=0.0, help="Files read back for a question, on average.")] = 0.0
    file_kb: Annotated[int, typer.Option(min=1, max=4096, help="Size of a file.")] = 500


@with_options
def cost(
    *,
    workload: WorkloadOptions,
    model: Annotated[str, typer.Option(help="A Bedrock model id; `none` leaves the tokens out.")] = DEFAULT_MODEL,
    region: Annotated[str, typer.Option(help="us-east-1 or ap-northeast-2.")] = "us-east-1",
    as_json: Json = False,
) -> int:
    """Estimate the monthly bill of a stack on AWS, and what each choice of its design saves.

    The counts of an answer (calls, read and write units, posts, time) were measured on an emulator; the prices are in
    the package, each with its date. A line marked ~ uses a price that nobody has read from a price list.

    Examples:

      answerback cost

      answerback cost --apps 1000 --hours 8 --requests 50 --region ap-northeast-2

      answerback cost --model none --no-stream --json

      answerback cost --model global.anthropic.claude-haiku-4-5-20251001-v1:0 --tokens-in 4000 --cached 0.8
    """
    try:
        found = estimate(Workload(**asdict(workload)), region=region, model=None if model == "none" else model)
    except UnknownPrice as exc:
        raise usage_error(str(exc)) from exc
    if as_json:
        _say_as_json(found)
    else:
        _say(found)
    return 0


def _say_as_json(found: Estimate) -> None:
    workload = asdict(found.workload) | {"answers": found.workload.answers}
    say_json(
        {
            "region": found.prices.region,
            "workload": workload,
            "usage": asdict(found.usage),
            "lines": [asdict(line) for line in found.lines],
            "usd": found.usd,
            "plain_usd": found.plain_usd,
            "assumptions": list(found.assumptions),
            "savings": [asdict(saving) for saving in found.savings],
        }
    )


def _say(found: Estimate) -> None:
    workload = found.workload
    say(f"A month in {found.prices.region}, in US dollars: {workload.answers:,.0f} answers.")
    say(
        f"{workload.apps:,} apps, {workload.hours:g} hours a day on {workload.days} days, {workload.requests:g}"
        f" questions a day each; {workload.tokens_in} tokens in, {workload.tokens_out} out,"
        f" {workload.tokens_per_second:g} a second."
    )
    rows = [
        (line.service, line.what, f"{line.quantity:,.0f} {line.unit}", f"{'~' * line.is_estimate}{line.usd:,.2f}")
        for line in found.lines
    ]
    say_table(("service", "what", "a month", "USD"), [*rows, ("", "all", "", f"{found.usd:,.2f}")])
    if workload.answers:
        million = 1e6 / workload.answers
        say(
            f"A million answers: {found.stack_usd * million:,.2f} for the stack, {found.usd * million:,.2f} with the"
            f" model's tokens; the stack built the plain way: {found.plain_usd * million:,.2f} (a post and an item for"
            " each token, x86, new clients in every call, NAT, a database that never rests)."
        )
    say(f"Frames an answer: {found.usage.posts_an_answer:.0f} for {workload.tokens_out} tokens.")
    say("")
    say("What each choice saves a month, the others unchanged:")
    say_table(("choice", "instead of", "USD"), [(s.choice, s.instead, f"{s.usd:,.2f}") for s in found.savings])
    say("")
    say("Taken for granted:")
    for assumption in found.assumptions:
        say(f"- {assumption}")
    say("")
    dates = sorted({price.date for price in found.prices.items.values()})
    tokens = found.tokens
    model = "" if tokens is None else f" Tokens of {tokens.model}: {tokens.source}, {tokens.date}."
    say(f"Prices of {dates[0]} to {dates[-1]}; ~ marks an estimate. No free tier, tax or support plan.{model}")
