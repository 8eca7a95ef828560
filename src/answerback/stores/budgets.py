"""What a store knows of budgets: those of users and teams, and how their counters stand."""

from collections.abc import Collection, Iterable
from typing import Any

from answerback.core import budget
from answerback.core.admission import Quota, hold_of
from answerback.core.budget import (
    Budget,
    BudgetState,
    Counter,
    Entry,
    Hold,
    OverBudget,
    Period,
    decode_budgets,
    team_holder,
    with_budget,
)
from answerback.core.request import Question, Record, Step
from answerback.stores import statements as sql
from answerback.stores.database import Database


class Budgets:
    """Budgets, teams and counters of everybody, or of some. A holder is a user's id or `budget.team_holder`."""

    def __init__(self) -> None:
        self.by_holder: dict[str, tuple[Budget, ...]] = {}
        self.teams: dict[str, str] = {}
        """By user."""
        self.counters: dict[tuple[str, str], Counter] = {}

    @classmethod
    def load(cls, database: Database) -> "Budgets":
        """Read it whole."""
        budgets = cls()
        for user_id, team, caps in database.execute(sql.SELECT_CAPS).fetchall():
            budgets.add_user(user_id, team, caps)
        for team, caps in database.execute(sql.SELECT_TEAMS).fetchall():
            budgets.keep(team_holder(team), decode_budgets(caps))
        budgets.add_counters(database.execute(sql.SELECT_COUNTERS).fetchall())
        return budgets

    def add_user(self, user_id: str, team: str | None, caps: str | None) -> None:
        """What a user's row says."""
        self.set_team(user_id, team)
        self.keep(user_id, decode_budgets(caps))

    def add_counters(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows of SELECT_COUNTERS."""
        for holder, window, used, reserved in rows:
            self.counters[holder, window] = Counter(used, reserved)

    # --- what the operator sets

    def keep(self, holder: str, budgets: tuple[Budget, ...]) -> None:
        """The holder has these budgets from now on."""
        self.by_holder.pop(holder, None)
        if budgets:
            self.by_holder[holder] = budgets

    def set_budget(self, holder: str, period: Period, new: Budget | None) -> tuple[Budget, ...]:
        """The holder has another budget for `period`; all that it has now."""
        self.keep(holder, with_budget(self.by_holder.get(holder, ()), period, new))
        return self.by_holder.get(holder, ())

    def set_team(self, user_id: str, team: str | None) -> None:
        """The user belongs to this team from now on."""
        self.teams.pop(user_id, None)
        if team is not None:
            self.teams[user_id] = team

    # --- counting

    def hold(self, record: Record, question: Question, quota: Quota, now_ms: int) -> Hold | OverBudget | None:
        """What a new request has to hold."""
        team = quota.team or self.teams.get(record.user_id)
        of_team = () if team is None else self.by_holder.get(team_holder(team), ())
        own = self.by_holder.get(record.user_id, ())
        return hold_of(record, question, quota, own=own, team=team, of_team=of_team, now_ms=now_ms)

    def post(self, entries: Collection[Entry]) -> bool:
        """Change the counters, all or none. Returns whether each had room."""
        if any(entry.room is not None and self._of(entry).used > entry.room for entry in entries):
            return False
        for entry in entries:
            used, reserved = self._of(entry)
            self.counters[entry[:2]] = Counter(used + entry.used, reserved + entry.reserved)
        return True

    def _of(self, entry: Entry) -> Counter:
        return self.counters.get(entry[:2], Counter())

    def charged(self, step: Step[Any]) -> Step[Any]:
        """The step that happens: `step`, or what it says for the case that there is no room. Its charge is posted."""
        while not self.post(step.charge):
            if step.otherwise is None:
                raise ValueError("a step that may find no room has to say what happens then")
            step = step.otherwise
        return step

    def take_back(self, record: Record) -> None:
        """A request that was not stored holds nothing."""
        if record.hold is not None:
            self.post(budget.settled(record.hold, record.user_id, budget.NOTHING))

    # --- reading

    def states(self, holder: str, now_ms: int) -> list[BudgetState]:
        """How the budgets of a holder stand."""
        return budget.states(holder, self.by_holder.get(holder, ()), self.counters, now_ms=now_ms)

    def states_of_user(self, user_id: str, team: str | None, now_ms: int) -> list[BudgetState]:
        """Those that a question of the user is counted in. `team`: as the token has it."""
        team = team or self.teams.get(user_id)
        return self.states(user_id, now_ms) + ([] if team is None else self.states(team_holder(team), now_ms))

    # --- forgetting

    def forget_user(self, user_id: str, *, keeps_budgets: bool) -> None:
        """The user is erased. One who is locked out keeps what the operator has set."""
        if not keeps_budgets:
            self.by_holder.pop(user_id, None)
            self.teams.pop(user_id, None)
        self.counters = {key: counter for key, counter in self.counters.items() if key[0] != user_id}

    def forget_windows(self, before_ms: int) -> bool:
        """Drop the counters of windows that ended before then. Returns whether there were any."""
        kept = {
            key: counter
            for key, counter in self.counters.items()
            if counter.reserved or budget.opens_at_ms(key[1]) >= before_ms
        }
        had_more, self.counters = len(kept) < len(self.counters), kept
        return had_more


def rows_of(entries: Iterable[Entry]) -> list[sql.Row]:
    """Rows of CHARGE, one a counter, in one order everywhere."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in entries:
        used, reserved = sums.get(entry[:2], (0, 0))
        sums[entry[:2]] = used + entry.used, reserved + entry.reserved
    return [
        (holder, window, budget.opens_at_ms(window), used, reserved)
        for (holder, window), (used, reserved) in sorted(sums.items())
    ]
