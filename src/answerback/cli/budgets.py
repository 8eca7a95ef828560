"""`answerback teams`, and the commands of `answerback users` about budgets and usage."""

import csv
import io
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Final

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import say_exactly, say_result, say_rows, usage_error
from answerback.cli.users import Place, UserId, check_user, read_day, run
from answerback.clock import epoch_ms
from answerback.core.budget import Budget, BudgetState, Period, Unit, shown, team_holder
from answerback.core.camel import camel, row_as_json
from answerback.core.instants import iso
from answerback.ports import DailyUsage, Users
from answerback.protocol.frames import is_id

TEAMS: Final = {
    "list": ("List the teams that have a budget.", "answerback.cli.budgets:list_teams"),
    "set-budget": ("Set what a team may use in a day or a month.", "answerback.cli.budgets:set_team_budget"),
}
_AMOUNT: Final = re.compile(r"(?P<number>\d{1,12}(\.\d{1,6})?)(?P<unit>usd|tokens)/(?P<period>day|month)", re.ASCII)
_OFF: Final = re.compile(r"off(/(?P<period>day|month))?")
_BudgetText = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="20usd/month, 5000tokens/day, or off, off/day, off/month for no budget.")
]
_COUNTS: Final = ("requests", "input_tokens", "output_tokens")
_TITLES: Final = tuple(name.replace("_", " ") for name in _COUNTS)
_HEADERS: Final = ("holder", "budget", "used", "of that reserved", "left", "opens (UTC)")


@with_options
def set_user_budget(*, user: UserId, amount: _BudgetText, place: Place, as_json: Json = False) -> None:
    """Set what a user may use in a day or a month (UTC), in tokens or US dollars; one budget for each of the two.

    It holds for questions from now on. What runs is not stopped. Budgets of the user and of the team both count.
    """
    check_user(user)
    _set(user, user, amount, place, as_json=as_json)


@with_options
def set_team_budget(
    *,
    team: Annotated[str, typer.Argument(metavar="TEAM", help="The team's name.")],
    amount: _BudgetText,
    place: Place,
    as_json: Json = False,
) -> None:
    """Set what a team may use in a day or a month (UTC), in tokens or US dollars; one budget for each of the two."""
    _set(team, team_holder(_checked(team)), amount, place, as_json=as_json)


@with_options
def set_team(
    *,
    user: UserId,
    team: Annotated[str, typer.Argument(metavar="TEAM|none", help="The team's name.")],
    place: Place,
    as_json: Json = False,
) -> None:
    """Put a user into a team, whose budget then counts as well. A team in the user's token wins (--team-claim)."""
    new = None if team == "none" else _checked(team)
    check_user(user)
    run(lambda users: users.set_team(user, new, now_ms=epoch_ms()), place)
    say_result(
        {"userId": user, "team": new}, f"{user}: no team" if new is None else f"{user}: team {new}", as_json=as_json
    )


@with_options
def list_teams(*, place: Place, as_json: Json = False) -> None:
    """List the teams that have a budget, and how it stands."""

    async def everything(users: Users) -> list[tuple[str, BudgetState]]:
        now_ms = epoch_ms()
        return [
            (team, state)
            for team in await users.teams()
            for state in await users.budgets(team_holder(team), now_ms=now_ms)
        ]

    found = run(everything, place)
    say_budgets("team", found, "No team has a budget: answerback teams set-budget TEAM 500usd/month", as_json=as_json)


@with_options
def show_budgets(*, user: UserId, place: Place, as_json: Json = False) -> None:
    """Show the budgets that a user's questions are counted in, and how they stand."""

    async def both(users: Users) -> list[tuple[str, BudgetState]]:
        known, now_ms = await users.user(user), epoch_ms()
        found = [(user, state) for state in await users.budgets(user, now_ms=now_ms)]
        if known is not None and known.team is not None:
            of_team = await users.budgets(team_holder(known.team), now_ms=now_ms)
            found += [(f"team {known.team}", state) for state in of_team]
        return found

    found = run(both, place)
    say_budgets("holder", found, f"{user} has no budget: any number of tokens.", as_json=as_json)


@with_options
def usage(
    *,
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="One user; everyone without it.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DAY|Nd", help="From a day on, as in 2026-01-31 or 30d.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="model|team|user|day", help="Sum it up by that, with a total.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print it as CSV.")] = False,
    place: Place,
    as_json: Json = False,
) -> None:
    """Show requests and tokens by day (UTC) and user, or summed up by model, team, user or day.

    A team is the one that the user is in now. What was used before gateways had budgets is under no model.
    """
    if by not in (None, "model", "team", "user", "day"):
        raise usage_error(f"--by must be model, team, user or day, not {by!r}")
    since_day = None if since is None else read_day(since)

    async def read(users: Users) -> tuple[Sequence[DailyUsage], dict[str, str]]:
        teams: dict[str, str] = {}
        found = await users.usage(user, since_day=since_day, by_model=by == "model")
        for name in sorted({day.user_id for day in found}) if by == "team" else ():
            known = await users.user(name)
            teams[name] = "" if known is None else known.team or ""
        return found, teams

    found, teams = run(read, place)
    if by is None:
        headers: tuple[str, ...] = ("day", "user", *_TITLES)
        rows: list[tuple[object, ...]] = [
            (day.day, day.user_id, day.requests, day.input_tokens, day.output_tokens) for day in found
        ]
    else:
        headers, rows = (by, *_TITLES), _summed(found, by, teams)
    if as_csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([headers, *rows])
        say_exactly(text.getvalue())
        return
    names = (by, *map(camel, _COUNTS))
    shown = map(row_as_json, found) if by is None else (dict(zip(names, row, strict=True)) for row in rows)
    say_rows(list(shown), headers, rows, "Nothing was used.", as_json=as_json)


def _summed(found: Sequence[DailyUsage], by: str, teams: dict[str, str]) -> list[tuple[object, ...]]:
    sums: dict[str, list[int]] = {}
    for day in found:
        name = {"model": day.model, "team": teams.get(day.user_id), "user": day.user_id, "day": day.day}[by]
        counts = sums.setdefault(name or "-", [0, 0, 0])
        for number, count in enumerate((day.requests, day.input_tokens, day.output_tokens)):
            counts[number] += count
    rows: list[tuple[object, ...]] = [(name, *counts) for name, counts in sorted(sums.items())]
    return [*rows, ("total", *map(sum, zip(*sums.values(), strict=True)))] if sums else rows


def _set(name: str, holder: str, amount: str, place: Place, *, as_json: bool) -> None:
    changes = read_budget(amount)

    async def change(users: Users) -> list[BudgetState]:
        for period, budget in changes.items():
            await users.set_budget(holder, period, budget, now_ms=epoch_ms())
        return list(await users.budgets(holder, now_ms=epoch_ms()))

    found = run(change, place)
    say_rows(
        [{"holder": holder, **state_as_json(state)} for state in found],
        _HEADERS,
        [_row(name, state) for state in found],
        f"{name}: no budget",
        as_json=as_json,
    )


def say_budgets(kind: str, found: Sequence[tuple[str, BudgetState]], nothing: str, *, as_json: bool) -> None:
    """Budgets and how they stand; `kind`: what their holders are."""
    values = [{kind: holder, **state_as_json(state)} for holder, state in found]
    say_rows(values, (kind, *_HEADERS[1:]), [_row(*one) for one in found], nothing, as_json=as_json)


def read_budget(text: str) -> dict[Period, Budget | None]:
    """What `20usd/month` or `off` sets. Raises: CliError."""
    plain = text.replace(" ", "").lower()
    if match := _OFF.fullmatch(plain):
        periods = Period if match["period"] is None else (Period(match["period"]),)
        return dict.fromkeys(periods)
    match = _AMOUNT.fullmatch(plain)
    if match is None or (match["unit"] == "tokens" and "." in match["number"]):
        raise usage_error(
            f"a budget is an amount for a period, not {text!r}", "for example 20usd/month, 5000tokens/day or off"
        )
    period, number = Period(match["period"]), Decimal(match["number"])
    if match["unit"] == "tokens":
        return {period: Budget(int(number), Unit.TOKENS, period)}
    return {period: Budget(int(number * 1_000_000), Unit.MICRO_USD, period)}


def state_as_json(state: BudgetState) -> dict[str, Any]:
    """A budget and how it stands, for `--json`."""
    return {
        "period": state.budget.period.value,
        "unit": state.budget.unit.value,
        "limit": state.budget.limit,
        "used": state.counter.used,
        "reserved": state.counter.reserved,
        "resetsAt": iso(state.opens_at_ms),
    }


def _row(holder: str, state: BudgetState) -> tuple[object, ...]:
    unit = state.budget.unit
    return (
        holder,
        f"{shown(state.budget.limit, unit)} a {state.budget.period.value}",
        shown(state.counter.used, unit),
        shown(state.counter.reserved, unit),
        shown(state.left, unit),
        iso(state.opens_at_ms, "minutes").removesuffix("Z").replace("T", " "),
    )


def _checked(team: str) -> str:
    if not is_id(team):
        raise usage_error(f"{team!r} cannot be a team's name", "it is 1 to 128 visible characters")
    return team
