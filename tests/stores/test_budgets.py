"""What a store knows of budgets: teams that are left, room that is not there, and what is forgotten."""

import pytest
from msgspec.structs import replace

from answerback.core.budget import (
    Budget,
    Counter,
    Entry,
    Hold,
    Period,
    Unit,
    Window,
    opens_at_ms,
    team_holder,
    window_name,
)
from answerback.core.request import Step
from answerback.stores.budgets import Budgets, rows_of
from asking import record_of

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


def test_a_change_without_room_for_one_of_its_entries_changes_nothing() -> None:
    known = Budgets()
    known.post([Entry("ann", WINDOW, 6, 0)])
    before = dict(known.counters)
    assert known.post([Entry("bob", WINDOW, 1, 1, 5), Entry("ann", WINDOW, 1, 1, 5)]) is False
    assert known.counters == before
    assert known.post([Entry("bob", WINDOW, 1, 1, 5), Entry("ann", WINDOW, 1, 1, 6)])
    assert known.counters["ann", WINDOW] == Counter(7, 1)


def test_what_was_not_stored_holds_nothing() -> None:
    known = Budgets()
    hold = Hold(max_in=2, max_out=3, windows=(Window(False, WINDOW, 10),))
    known.post([Entry("ann", WINDOW, 5, 5)])
    known.take_back(record_of(user_id="ann", hold=hold))
    assert known.counters["ann", WINDOW] == Counter()
    known.take_back(record_of(user_id="ann"))
    assert known.counters["ann", WINDOW] == Counter()


def test_who_is_erased_is_counted_no_more() -> None:
    for keeps in (True, False):
        known = Budgets()
        for user in ("ann", "bob"):
            known.add_user(user, "design", None)
            known.keep(user, (DAY,))
            known.post([Entry(user, WINDOW, 1, 0)])
        known.forget_user("ann", keeps_budgets=keeps)
        assert list(known.counters) == [("bob", WINDOW)]
        assert known.by_holder.keys() == known.teams.keys() == ({"ann", "bob"} if keeps else {"bob"})
    known.keep("bob", ())
    assert known.by_holder == {}


def test_a_step_without_room_does_what_it_says_for_that_case() -> None:
    known = Budgets()
    known.post([Entry("ann", WINDOW, 6, 0)])
    free = Step(None, "free")
    full = Step(None, "full", charge=(Entry("ann", WINDOW, 1, 1, 5),), otherwise=free)
    assert known.charged(full) is free
    with pytest.raises(ValueError, match="has to say what happens then"):
        known.charged(replace(full, otherwise=None))


def test_the_entries_of_one_counter_are_one_row() -> None:
    entries = [Entry("bob", WINDOW, 1, 2), Entry("ann", WINDOW, 3, 4), Entry("bob", WINDOW, 10, 20)]
    opens_ms = opens_at_ms(WINDOW)
    assert rows_of(entries) == [("ann", WINDOW, opens_ms, 3, 4), ("bob", WINDOW, opens_ms, 11, 22)]
