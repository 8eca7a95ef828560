"""What a store knows of budgets: teams that are left, windows that are forgotten."""

from answerback.core.budget import Budget, Entry, Period, Unit, opens_at_ms, team_holder, window_name
from answerback.stores.budgets import Budgets

DAY = Budget(10, Unit.TOKENS, Period.DAY)
WINDOW = window_name(DAY, 0)


def test_who_leaves_a_team_is_counted_in_it_no_more() -> None:
    known = Budgets()
    known.keep(team_holder("design"), (DAY,))
    known.set_team("ann", "design")
    assert [state.budget for state in known.states_of_user("ann", None, 0)] == [DAY]
    assert known.states_of_user("bob", None, 0) == []
    assert [state.budget for state in known.states_of_user("bob", "design", 0)] == [DAY]
    known.set_team("ann", None)
    assert known.states_of_user("ann", None, 0) == []
    assert known.teams == {}


def test_windows_are_forgotten_when_they_are_over_and_nothing_is_reserved() -> None:
    known = Budgets()
    known.post([Entry("ann", WINDOW, 5, 0), Entry("bob", WINDOW, 5, 5)])
    opens_ms = opens_at_ms(WINDOW)
    assert not known.forget_windows(opens_ms)
    assert known.forget_windows(opens_ms + 1)
    assert list(known.counters) == [("bob", WINDOW)]
    assert not known.forget_windows(opens_ms + 1), "what is reserved stays"
