"""Budgets: what a user or a team may use in a day or a month, in tokens or in micro-dollars.

Theory of operation. A *counter* belongs to a holder (a user or a team) and to a window (a day or a month of UTC, in one
unit). It has two numbers: `used`, which is what was settled and what is reserved, and `reserved`. They change in the
transactions that change a record, and in no other, each by an `Entry`:

    accept                    used + a, reserved + a    if used + a <= cap in every window, else the request is refused
    claim after a lost one    used + a                  if that fits; the lost attempt counts in full. Else it fails
    end                       used + actual - a, reserved - a

`a` is what the request can need at most, so no schedule of crashes leaves a counter above its cap. Only the step that
ends a record gives back what it holds, so a crash cannot leave anything reserved. The windows are those of the
acceptance, whatever the time is at the end.
"""

import math
from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from answerback.core import defaults
from answerback.core.instants import iso

MESSAGE_TOKENS: Final = 16
"""What a message costs at most besides its text."""

CONTEXT_RESERVE: Final = 16_384
"""Tokens that are reserved for earlier turns, where the model's context is large."""

LARGE_CONTEXT: Final = 65_536

RETRY_AFTER_MS: Final = 5_000
"""The pause after a refusal that only the reservations of others have caused: they end soon."""

LONGEST_RETRY_MS: Final = 3_600_000

KEPT_MS: Final = 7 * 24 * 3_600_000
"""How long a counter outlives its window: longer than any request."""

REASON: Final = "budget"
"""`error.reason` of a refusal."""

_PICO: Final = 1_000_000


class Unit(StrEnum):
    """What is counted."""

    TOKENS = "tokens"
    MICRO_USD = "microUsd"


class Period(StrEnum):
    """How long a window is, in UTC."""

    DAY = "day"
    MONTH = "month"


class Budget(NamedTuple):
    """At most `limit` in each `period`. A holder has at most one for a period."""

    limit: int
    unit: Unit
    period: Period


class Price(Struct, frozen=True, array_like=True):
    """Pico-dollars for a token: a dollar for a million tokens is 1,000,000. `cached`: input that the provider had."""

    input: int
    output: int
    cached: int

    def micro_usd(self, counted: "Counted") -> int:
        """What these tokens cost, rounded up."""
        cached = min(counted.cached, counted.input)
        pico = (counted.input - cached) * self.input + cached * min(self.cached, self.input)
        return math.ceil((pico + counted.output * self.output) / _PICO)


class Counted(NamedTuple):
    """Tokens of an attempt. `cached`: how many of `input` the provider had already."""

    input: int
    output: int
    cached: int = 0


NOTHING: Final = Counted(0, 0)


class Window(Struct, frozen=True, array_like=True):
    """A counter that a request is counted in: of the user or of the team. `cap`: as it was at acceptance."""

    of_team: bool
    name: str
    cap: int


class Hold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an unfinished request holds: at most `max_in` and `max_out` tokens, at `price`, in each of `windows`.

    `lost`: earlier attempts that were lost. They are counted in full.
    """

    max_in: int
    max_out: int
    windows: tuple[Window, ...]
    price: Price | None = None
    team: str | None = None
    lost: int = 0

    @property
    def most(self) -> Counted:
        """What one attempt can need."""
        return Counted(self.max_in, self.max_out)

    def amount(self, unit: Unit, counted: Counted) -> int:
        """These tokens in that unit."""
        if unit is Unit.TOKENS:
            return counted.input + counted.output
        return 0 if self.price is None else self.price.micro_usd(counted)

    def exceeds(self, counted: Counted) -> bool:
        """Whether the model has counted more than was reserved: the one way above a cap."""
        return any(
            self.amount(unit, counted) > self.amount(unit, self.most)
            for unit in {unit_of(window.name) for window in self.windows}
        )


class Entry(NamedTuple):
    """A change of one counter. `room`: it is allowed only while `used` is not above this; None: always."""

    holder: str
    window: str
    used: int
    reserved: int
    room: int | None = None


class Counter(NamedTuple):
    """What was settled and is reserved, and how much of that is reserved."""

    used: int = 0
    reserved: int = 0


Counters = Mapping[tuple[str, str], Counter]
"""By holder and window."""


class OverBudget(NamedTuple):
    """Nothing was stored: a budget has no room. `never`: the request is larger than the budget, or has no price.

    `opens_at_ms`: when the window ends.
    """

    detail: str
    never: bool = False
    retry_after_ms: int | None = None
    opens_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a reservation for a model rests on. `context_tokens`: what is reserved for earlier turns. `price` None:
    nobody has named it.
    """

    max_tokens: int = defaults.MAX_TOKENS
    context_tokens: int = CONTEXT_RESERVE
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The terms of all models, and what the operator's system text has at most."""

    models: Mapping[str, Terms] = field(default_factory=dict)
    system_tokens: int = 0

    @property
    def unpriced(self) -> list[str]:
        """The models that a budget in money refuses."""
        return [name for name, terms in self.models.items() if terms.price is None]

    def hold(
        self,
        *,
        model: str,
        message: str,
        system: str | None,
        max_tokens: int | None,
        extra_tokens: int,
        has_context: bool,
        windows: Sequence[Window],
        team: str | None,
    ) -> Hold | OverBudget:
        """What a request has to hold to run. The bounds are of bytes: no tokenizer makes more tokens than bytes.

        `extra_tokens`: of its files and of the form that its answer is to have.
        """
        terms = self.models.get(model, Terms())
        if terms.price is None and any(unit_of(window.name) is Unit.MICRO_USD for window in windows):
            return OverBudget(f"The model {model} has no price here, so it does not go with a budget in money.", True)
        hold = Hold(
            max_in=bound(message)
            + extra_tokens
            + (self.system_tokens if system is None else bound(system))
            + (terms.context_tokens if has_context else 0),
            max_out=min(max_tokens or terms.max_tokens, terms.max_tokens),
            windows=tuple(windows),
            price=terms.price,
            team=team,
        )
        for window in windows:
            if (needed := hold.amount(unit := unit_of(window.name), hold.most)) > window.cap:
                why = (
                    f"This question needs {shown(needed, unit)}, at most {shown(window.cap, unit)} fit into the budget."
                )
                return OverBudget(why, True)
        return hold


def bound(*texts: str | None) -> int:
    """Tokens that a prompt of these texts has at most."""
    return sum(len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS for text in texts if text is not None)


def context_reserve(context_tokens: int) -> int:
    """What is reserved for earlier turns with a model whose context is so large."""
    return CONTEXT_RESERVE if context_tokens >= LARGE_CONTEXT else context_tokens // 2


# --- names ------------------------------------------------------------------------------------------------------


def team_holder(team: str) -> str:
    """The holder of a team's budget. A user id has no space, so no user is one."""
    return f"team {team}"


def window_name(budget: Budget, now_ms: int) -> str:
    """The window of a budget that `now_ms` lies in, such as `month#microUsd#2026-11`."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{budget.period}#{budget.unit}#{now:{'%Y-%m-%d' if budget.period is Period.DAY else '%Y-%m'}}"


def unit_of(window: str) -> Unit:
    """What a window counts."""
    return Unit(window.split("#")[1])


def opens_at_ms(window: str) -> int:
    """When the window ends and the next one begins."""
    year, month, *day = map(int, window.split("#")[2].split("-"))
    last = day[0] if day else monthrange(year, month)[1]
    return round(datetime(year, month, last, tzinfo=UTC).timestamp() + 24 * 3600) * 1000


def windows_of(budgets: Sequence[Budget], now_ms: int, *, of_team: bool) -> list[Window]:
    """The windows of a holder's budgets."""
    return [Window(of_team, window_name(budget, now_ms), budget.limit) for budget in budgets]


def shown(amount: int, unit: Unit) -> str:
    """An amount for a person: `1,204 tokens`, `0.0312 USD`."""
    if unit is Unit.TOKENS:
        return f"{amount:,} tokens"
    return f"{amount / _PICO:.6f}".rstrip("0").rstrip(".") + " USD"


# --- decisions --------------------------------------------------------------------------------------------------


def fits(hold: Hold, user_id: str, counters: Counters, *, now_ms: int) -> OverBudget | None:
    """Why a new request does not fit, if it does not: of several windows the one that opens last is named."""
    found: OverBudget | None = None
    for window, entry in zip(hold.windows, reserved(hold, user_id), strict=True):
        counter = counters.get(entry[:2], Counter())
        if entry.room is None or counter.used <= entry.room:
            continue
        unit, opens = unit_of(window.name), opens_at_ms(window.name)
        waits_for_others = counter.used - counter.reserved <= entry.room
        pause_ms = RETRY_AFTER_MS if waits_for_others else max(1, min(LONGEST_RETRY_MS, opens - now_ms))
        whose = f"team {hold.team}" if window.of_team else "user"
        left = shown(max(0, window.cap - counter.used), unit)
        detail = (
            f"The budget of the {whose} has no room: this question needs {shown(entry.used, unit)}, {left} are left. "
            f"It opens {iso(opens, 'seconds')}."
        )
        if found is None or opens >= (found.opens_at_ms or 0):
            found = OverBudget(detail, retry_after_ms=pause_ms, opens_at_ms=opens)
    return found


def reserved(hold: Hold, user_id: str) -> tuple[Entry, ...]:
    """The entries of an acceptance."""
    return _entries(hold, user_id, lambda amount, cap: (amount, amount, cap - amount))


def reserved_again(hold: Hold, user_id: str) -> tuple[Hold, tuple[Entry, ...]]:
    """An attempt was lost: it counts in full, and the next one needs room of its own."""
    return replace(hold, lost=hold.lost + 1), _entries(hold, user_id, lambda amount, cap: (amount, 0, cap - amount))


def settled(hold: Hold, user_id: str, counted: Counted | None) -> tuple[Entry, ...]:
    """The entries of an ending. `counted` None: the attempt was given up or lost, and counts in full."""
    if counted is None:
        return _entries(hold, user_id, lambda amount, _: (0, -amount, None))
    return tuple(
        entry._replace(used=hold.amount(unit_of(entry.window), counted) + entry.reserved)
        for entry in settled(hold, user_id, None)
    )


def cost(hold: Hold, counted: Counted | None) -> int | None:
    """Micro-dollars of a request that ends so, with the attempts that were lost; None: nobody knows the price."""
    if hold.price is None:
        return None
    most = hold.price.micro_usd(hold.most)
    return hold.lost * most + (most if counted is None else hold.price.micro_usd(counted))


def _entries(hold: Hold, user_id: str, change: Callable[[int, int], tuple[int, int, int | None]]) -> tuple[Entry, ...]:
    """An entry for each window: `change` gets the amount and the cap."""
    return tuple(
        Entry(
            team_holder(hold.team or "") if window.of_team else user_id,
            window.name,
            *change(hold.amount(unit_of(window.name), hold.most), window.cap),
        )
        for window in hold.windows
    )


# --- what is left -----------------------------------------------------------------------------------------------


class BudgetState(NamedTuple):
    """A budget and how much of it is taken in the present window."""

    budget: Budget
    counter: Counter
    opens_at_ms: int

    @property
    def left(self) -> int:
        """What may still be reserved."""
        return max(0, self.budget.limit - self.counter.used)


def states(holder: str, budgets: Sequence[Budget], counters: Counters, *, now_ms: int) -> list[BudgetState]:
    """How the budgets of a holder stand."""
    named = [(budget, window_name(budget, now_ms)) for budget in budgets]
    return [BudgetState(budget, counters.get((holder, name), Counter()), opens_at_ms(name)) for budget, name in named]


def tightest(found: Sequence[BudgetState]) -> BudgetState | None:
    """The one with the least share left: what a user has to know."""
    return min(found, key=lambda state: state.left / max(1, state.budget.limit), default=None)


# --- as text ----------------------------------------------------------------------------------------------------


def encode_budgets(budgets: Sequence[Budget]) -> str | None:
    """As they are stored: `20000000 microUsd month,5000 tokens day`; None: there is none."""
    return ",".join(f"{limit} {unit} {period}" for limit, unit, period in budgets) or None


def decode_budgets(text: str | None) -> tuple[Budget, ...]:
    """The reverse of `encode_budgets`."""
    rows = [row.split(" ") for row in (text or "").split(",") if row]
    return tuple(Budget(int(limit), Unit(unit), Period(period)) for limit, unit, period in rows)


def with_budget(budgets: Sequence[Budget], period: Period, budget: Budget | None) -> tuple[Budget, ...]:
    """The budgets with another one for `period`; None: without."""
    kept = [one for one in budgets if one.period is not period]
    return tuple(sorted([*kept, *([] if budget is None else [budget])], key=lambda one: one.period))
