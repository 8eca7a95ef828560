"""Budgets: the pure decisions, and that no order of events breaks what they promise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback.core import budget
from answerback.core import request as changes
from answerback.core.admission import Accepted, Quota, admit, hold_of
from answerback.core.budget import (
    NOTHING,
    Budget,
    Counted,
    Counter,
    Hold,
    OverBudget,
    Period,
    Price,
    Tariff,
    Terms,
    Unit,
    decode_budgets,
    encode_budgets,
    opens_at_ms,
    team_holder,
    tightest,
    window_name,
)
from answerback.core.context import Message, Role, told_schema, within
from answerback.core.parts import Content
from answerback.core.request import Claimed, Ended, Ending, Fenced, Policy, Question, Record, Step
from answerback.core.transitions import State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, Format, Status
from asking import record_of

NOV_30_MS = 1_796_083_199_000
"""2026-11-30T23:59:59Z: the last second of a day and of a month."""

DOLLAR = Price(1_000_000, 5_000_000, 100_000)
POLICY = Policy(lease_ms=1_000)
MONTH = Budget(1_000_000, Unit.MICRO_USD, Period.MONTH)


def quota(**terms: Any) -> Quota:
    return Quota(per_minute=0, max_pending=1_000, tariff=Tariff(models={"echo": Terms(price=DOLLAR, **terms)}))


def hold(budgets: tuple[Budget, ...] = (MONTH,), *, text: str = "hi", now_ms: int = NOV_30_MS, **more: Any) -> Any:
    record = record_of(standalone=True, **more)
    question = Question(message=text, model="echo")
    return hold_of(record, question, quota(max_tokens=100), own=budgets, team=None, of_team=(), now_ms=now_ms)


def running(held: Hold, *, attempt: int = 1) -> Record:
    times = {"accepted_at_ms": NOV_30_MS - 5, "started_at_ms": NOV_30_MS - 4, "lease_until_ms": NOV_30_MS}
    return record_of(hold=held, state=State.RUNNING, attempt=attempt, owner="w", **times)


def end(record: Record, counted: Counted | None) -> Step[Any]:
    ending = Ending(status=Status.COMPLETED, attempt=record.attempt, length=0, ended_at_ms=NOV_30_MS)
    return changes.finish(
        record, owner="w", attempt=record.attempt, ending=ending, content=Content(""), counted=counted
    )


# --- windows and amounts


def test_a_window_is_a_day_or_a_month_of_utc_and_ends_when_the_next_begins() -> None:
    day = Budget(1, Unit.TOKENS, Period.DAY)
    assert window_name(day, NOV_30_MS) == "day#tokens#2026-11-30"
    assert window_name(MONTH, NOV_30_MS) == "month#microUsd#2026-11"
    for one in (day, MONTH):
        opens = opens_at_ms(window_name(one, NOV_30_MS))
        assert opens == NOV_30_MS + 1_000
        assert window_name(one, opens) != window_name(one, opens - 1) == window_name(one, NOV_30_MS)


def test_a_reservation_is_the_bytes_of_the_prompt_and_the_most_that_the_model_may_say() -> None:
    held = hold(text="안녕")
    assert (held.max_in, held.max_out) == (6 + budget.MESSAGE_TOKENS, 100)
    assert held.amount(Unit.TOKENS, held.most) == 122
    assert held.amount(Unit.MICRO_USD, held.most) == 22 + 500
    asked = hold_of(
        record_of(), Question(message="hi", model="echo", system="s"), quota(), own=(MONTH,), team=None, of_team=(),
        now_ms=0,
    )  # fmt: skip
    assert isinstance(asked, Hold)
    assert asked.max_in == 2 * budget.MESSAGE_TOKENS + 3 + budget.CONTEXT_RESERVE, "earlier turns need room"


@pytest.mark.parametrize(("asked", "most"), [(None, 100), (99, 99), (100, 100), (101, 100)])
def test_no_more_is_reserved_than_the_model_may_say(asked: int | None, most: int) -> None:
    question = Question(message="hi", model="echo", max_tokens=asked)
    held = hold_of(record_of(), question, quota(max_tokens=100), own=(MONTH,), team=None, of_team=(), now_ms=0)
    assert isinstance(held, Hold)
    assert held.max_out == most


@pytest.mark.parametrize(("context", "reserve"), [(65_536, 16_384), (65_535, 32_767), (1_000, 500)])
def test_a_small_context_is_reserved_by_half(context: int, reserve: int) -> None:
    assert budget.context_reserve(context) == reserve


def test_exactly_what_is_left_can_be_reserved() -> None:
    held = hold((Budget(1_000, Unit.MICRO_USD, Period.MONTH),))
    name, room = held.windows[0].name, 1_000 - 518
    assert budget.fits(held, "u", {("u", name): Counter(room, 0)}, now_ms=NOV_30_MS) is None
    waits = budget.fits(held, "u", {("u", name): Counter(room + 1, 1)}, now_ms=NOV_30_MS)
    assert waits is not None
    assert waits.retry_after_ms == budget.RETRY_AFTER_MS, "what is reserved is in the way, and nothing else"
    late = budget.fits(held, "u", {("u", name): Counter(room + 1, 0)}, now_ms=NOV_30_MS + 1_000)
    assert late is not None
    assert late.retry_after_ms == 1


@pytest.mark.parametrize("used", [9, 10, 11])
def test_no_less_than_nothing_is_left(used: int) -> None:
    day = Budget(10, Unit.TOKENS, Period.DAY)
    counters = {("u", window_name(day, 0)): Counter(used, 0)}
    (state,) = budget.states("u", (day,), counters, now_ms=0)
    assert state.left == max(0, 10 - used)


def test_a_budget_of_nothing_is_the_tightest_and_one_of_one_that_is_left_is_not() -> None:
    month, day = Budget(0, Unit.TOKENS, Period.MONTH), Budget(10, Unit.TOKENS, Period.DAY)
    counters = {("u", window_name(day, 0)): Counter(4, 0)}
    for limit, expected in ((0, 0), (1, 10)):
        found = tightest(budget.states("u", (day, month._replace(limit=limit)), counters, now_ms=0))
        assert found is not None
        assert found.budget.limit == expected


def test_files_and_the_form_of_the_answer_are_reserved() -> None:
    schema, bare = {"type": "object"}, hold()
    named = Attachment(sha256="0" * 64, size=70, media_type="text/plain", name="a")
    question = Question(
        message="hi", model="echo", attachments=(named,), format=Format(type="json_schema", json_schema=schema)
    )
    held = hold_of(
        record_of(standalone=True), question, quota(max_tokens=100), own=(MONTH,), team=None, of_team=(), now_ms=0
    )
    assert isinstance(held, Hold)
    assert held.max_in == bare.max_in + 70 + budget.bound(told_schema(None, schema))


def test_cached_input_costs_its_own_price_and_nothing_is_rounded_down() -> None:
    assert DOLLAR.micro_usd(Counted(1_000, 10, 400)) == 600 + 40 + 50
    assert DOLLAR.micro_usd(Counted(1, 0, 1)) == 1, "a tenth of a micro-dollar is one"
    assert DOLLAR.micro_usd(Counted(10, 0, 99)) == 1, "a model cannot have had more than all"


def test_who_has_no_budget_holds_nothing() -> None:
    assert hold(()) is None
    assert team_holder("a") == "team a", "which no user's id can be"
    record = record_of(standalone=True)
    assert record.schema == 1
    assert replace(record, hold=hold()).schema == 2


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ((Budget(100, Unit.TOKENS, Period.DAY),), "118 tokens"),
        ((Budget(400, Unit.MICRO_USD, Period.DAY),), "0.000518 USD"),
    ],
)
def test_a_question_that_can_never_fit_is_told_so(budgets: tuple[Budget, ...], words: str) -> None:
    refused = hold(budgets)
    assert isinstance(refused, OverBudget)
    assert refused.never
    assert words in refused.detail


def test_a_question_may_take_the_whole_budget() -> None:
    need = hold().most
    assert isinstance(hold((Budget(need.input + need.output, Unit.TOKENS, Period.DAY),)), Hold)
    assert hold((Budget(need.input + need.output - 1, Unit.TOKENS, Period.DAY),)).never


def test_a_model_without_a_price_is_refused_under_a_budget_in_money_alone() -> None:
    none = Quota(per_minute=0, max_pending=9, tariff=Tariff(models={"echo": Terms(max_tokens=10)}))
    question = Question(message="hi", model="echo")
    of = partial(hold_of, record_of(standalone=True), question, none, team=None, of_team=(), now_ms=0)
    refused = of(own=(Budget(1_000, Unit.TOKENS, Period.DAY), MONTH))
    assert isinstance(refused, OverBudget)
    assert refused.never
    held = of(own=(Budget(1_000, Unit.TOKENS, Period.DAY),))
    assert isinstance(held, Hold)
    assert budget.cost(held, NOTHING) is None
    assert held.amount(Unit.MICRO_USD, held.most) == 0
    assert Tariff(models={"a": Terms(), "b": Terms(price=DOLLAR)}).unpriced == ["a"]


def test_a_refusal_says_what_is_left_and_when_it_opens() -> None:
    held = hold((Budget(1_000, Unit.MICRO_USD, Period.MONTH),))
    name = held.windows[0].name
    refused = budget.fits(held, "u", {("u", name): Counter(900, 0)}, now_ms=NOV_30_MS)
    assert refused is not None
    assert "needs 0.000518 USD, 0.0001 USD are left" in refused.detail
    assert (refused.never, refused.opens_at_ms, refused.retry_after_ms) == (False, NOV_30_MS + 1_000, 1_000)
    waits = budget.fits(held, "u", {("u", name): Counter(900, 600)}, now_ms=NOV_30_MS)
    assert waits is not None
    assert waits.retry_after_ms == budget.RETRY_AFTER_MS, "only reservations are in the way"
    early = budget.fits(held, "u", {("u", name): Counter(900, 0)}, now_ms=NOV_30_MS - 86_400_000)
    assert early is not None
    assert early.retry_after_ms == budget.LONGEST_RETRY_MS


def test_of_several_windows_without_room_the_one_that_opens_last_is_named() -> None:
    day, month = Budget(1_000, Unit.TOKENS, Period.DAY), Budget(1_000, Unit.TOKENS, Period.MONTH)
    record, question = record_of(standalone=True), Question(message="hi", model="echo")
    early_ms = NOV_30_MS - 86_400_000
    of = partial(hold_of, record, question, quota(max_tokens=100), team="t")
    held = of(own=(month,), of_team=(day,), now_ms=early_ms)
    full = {(entry.holder, entry.window): Counter(1_000, 0) for entry in budget.reserved(held, "u")}
    refused = budget.fits(held, "u", full, now_ms=early_ms)
    assert refused is not None
    assert "of the user has no room" in refused.detail
    assert ", 0 tokens are left" in refused.detail
    assert refused.opens_at_ms == NOV_30_MS + 1_000
    held = of(own=(day,), of_team=(month,), now_ms=NOV_30_MS)
    full = {(entry.holder, entry.window): Counter(2_000, 0) for entry in budget.reserved(held, "u")}
    refused = budget.fits(held, "u", full, now_ms=NOV_30_MS)
    assert refused is not None
    assert "of the team t has no room" in refused.detail, "both open at once"
    assert ", 0 tokens are left" in refused.detail


def test_the_budgets_are_asked_last_and_a_repeat_is_free() -> None:
    held = hold()
    full = {("u", held.windows[0].name): Counter(10**9, 0)}
    asked: Mapping[str, Any] = {
        "position": 0, "pending": 0, "counted": 0, "own_limit": None, "quota": quota(), "now_ms": NOV_30_MS,
        "hold": held, "user_id": "u", "counters": full,
    }  # fmt: skip
    assert isinstance(admit(existing=None, **asked), OverBudget)
    assert not isinstance(admit(existing=record_of(), **asked), OverBudget)
    assert admit(existing=None, **{**asked, "counters": {}}) == Accepted(0, hold=held)


# --- endings


def test_an_ending_settles_in_the_windows_of_the_acceptance() -> None:
    """Not in those of the day on which it ends."""
    step = end(running(hold()), Counted(10, 20))
    assert [(entry.window, entry.used, entry.reserved, entry.room) for entry in step.charge] == [
        ("month#microUsd#2026-11", 110 - 518, -518, None)
    ]
    assert step.record is not None
    assert step.record.hold is None
    assert step.record.ending is not None
    assert step.record.ending.cost_micro_usd == 110


def test_what_was_given_up_counts_in_full_and_what_never_ran_for_nothing() -> None:
    ran = changes.expire(running(hold()), now_ms=NOV_30_MS, code=ErrorCode.TIMEOUT)
    assert [(entry.used, entry.reserved) for entry in ran.charge] == [(0, -518)]
    waited = replace(running(hold()), state=State.ACCEPTED, attempt=0)
    stopped = changes.cancel(waited, refusal_record=waited, now_ms=NOV_30_MS)
    assert [(entry.used, entry.reserved) for entry in stopped.charge] == [(-518, -518)]
    assert isinstance(stopped.outcome, Ended)
    assert stopped.outcome.record.ending is not None
    assert stopped.outcome.record.ending.cost_micro_usd == 0


def test_an_attempt_after_a_lost_one_reserves_for_itself_or_ends() -> None:
    lost = running(hold())
    step = changes.claim(lost, owner="w2", now_ms=NOV_30_MS, policy=POLICY)
    assert isinstance(step.outcome, Claimed)
    assert [(entry.used, entry.reserved, entry.room) for entry in step.charge] == [(518, 0, 1_000_000 - 518)]
    assert step.otherwise is not None
    ended = step.otherwise.outcome
    assert isinstance(ended, Ended)
    assert ended.record.ending is not None
    assert (ended.record.ending.error_code, ended.record.ending.error_reason) == (ErrorCode.RATE_LIMITED, "budget")
    assert [(entry.used, entry.reserved) for entry in step.otherwise.charge] == [(0, -518)]
    second = end(replace(step.outcome.record, owner="w"), Counted(1, 1))
    assert second.record is not None
    assert second.record.ending is not None
    assert second.record.ending.cost_micro_usd == 518 + 6, "the lost attempt was paid for, too"


def test_a_first_claim_and_a_repeated_one_charge_nothing() -> None:
    waits = replace(running(hold()), state=State.ACCEPTED, attempt=0)
    assert changes.claim(waits, owner="w", now_ms=0, policy=POLICY).charge == ()
    assert changes.claim(running(hold()), owner="w", now_ms=0, policy=POLICY).charge == ()


def test_a_fenced_or_repeated_ending_settles_nothing() -> None:
    assert isinstance(end(running(hold(), attempt=2), NOTHING).outcome, Ended)
    late = changes.finish(
        running(hold(), attempt=2), owner="x", attempt=1, ending=Ending(status=Status.COMPLETED, attempt=1, length=0,
        ended_at_ms=0), content=Content(""), counted=NOTHING,
    )  # fmt: skip
    assert (type(late.outcome), late.charge) == (Fenced, ())
    done = end(running(hold()), NOTHING).record
    assert done is not None
    assert end(done, NOTHING).charge == ()


def test_a_model_that_counts_more_than_it_may_is_found() -> None:
    held = hold()
    assert not held.exceeds(held.most)
    assert held.exceeds(Counted(held.max_in, held.max_out + 1))
    both = hold((MONTH, Budget(9_000, Unit.TOKENS, Period.DAY)))
    assert both.exceeds(Counted(both.max_in + 2, both.max_out - 1)), "in tokens more, in money less"
    assert both.exceeds(Counted(0, both.max_in + both.max_out)), "in tokens no more, in money more"


def test_a_hold_is_small_and_is_read_as_it_was_written() -> None:
    record = running(replace(hold((MONTH, Budget(9_000, Unit.TOKENS, Period.DAY))), team="design"))
    data = msgspec.json.encode(record)
    assert msgspec.json.decode(data, type=Record) == record
    assert len(data) - len(msgspec.json.encode(replace(record, hold=None))) < 200


# --- what is stored, what is shown


def test_budgets_are_read_as_they_were_written() -> None:
    both = budget.with_budget((MONTH,), Period.DAY, Budget(5, Unit.TOKENS, Period.DAY))
    assert encode_budgets(both) == "5 tokens day,1000000 microUsd month"
    assert decode_budgets(encode_budgets(both)) == both
    assert encode_budgets(budget.with_budget((MONTH,), Period.MONTH, None)) is None
    assert decode_budgets(None) == ()


def test_a_user_is_told_of_the_budget_with_the_least_share_left() -> None:
    day = Budget(100, Unit.TOKENS, Period.DAY)
    counters = {
        ("u", window_name(MONTH, 0)): Counter(500_000, 0),
        ("u", window_name(day, 0)): Counter(90, 10),
    }
    found = tightest(budget.states("u", (MONTH, day), counters, now_ms=0))
    assert found is not None
    assert (found.budget, found.left) == (day, 10)
    found = tightest(budget.states("u", (MONTH, day), {("u", window_name(MONTH, 0)): Counter(950_000, 0)}, now_ms=0))
    assert found is not None
    assert found.budget == MONTH, "of which a twentieth is left, and more than the other one has"
    assert tightest([]) is None


@given(st.lists(st.text(max_size=40), max_size=8), st.text(max_size=40), st.integers(0, 400))
def test_a_prompt_is_cut_to_what_is_reserved_and_the_question_stays(turns: list[str], asked: str, most: int) -> None:
    messages = [Message(role, text) for text in turns for role in (Role.USER, Role.ASSISTANT)]
    messages.append(Message(Role.USER, asked))
    kept = within(messages, most)
    assert kept == tuple(messages[len(messages) - len(kept) :])
    assert len(kept) % 2 == 1, "whole turns go"
    assert len(kept) == 1 or budget.bound(*(message.text for message in kept)) <= most
    more = messages[max(0, len(messages) - len(kept) - 2) :]
    assert len(more) == len(kept) or budget.bound(*(message.text for message in more)) > most, "no more than needed"


# --- no order of events breaks it


@dataclass
class Bank:
    """A store of records and counters, and the true spend of every attempt."""

    cap: int
    counters: dict[tuple[str, str], Counter] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    spent: int = 0

    def post(self, step: Step[Any]) -> Step[Any]:
        while any(entry.room is not None and self.of(entry).used > entry.room for entry in step.charge):
            assert step.otherwise is not None
            step = step.otherwise
        for entry in step.charge:
            counter = self.of(entry)
            self.counters[entry[:2]] = Counter(counter.used + entry.used, counter.reserved + entry.reserved)
        return step

    def of(self, entry: budget.Entry) -> Counter:
        return self.counters.get(entry[:2], Counter())

    def change(self, name: str, change: Callable[[Record | None], Step[Any]]) -> Any:
        step = change(self.records.get(name))
        if step.record is not None:
            step = self.post(step)
            assert step.record is not None
            self.records[name] = step.record
        return step.outcome

    def check(self) -> None:
        held = sum(one.hold.amount(Unit.TOKENS, one.hold.most) for one in self.records.values() if one.hold is not None)
        for counter in self.counters.values():
            assert 0 <= counter.reserved <= counter.used <= self.cap
            assert counter.reserved == held
            assert counter.used >= self.spent


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "claim", "finish", "lose", "cancel", "expire", "erase"]),
        st.integers(0, 3),
        st.integers(0, 60),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(EVENTS, st.integers(200, 1_000))
def test_no_order_of_events_is_above_the_cap_or_leaves_anything_reserved(
    events: list[tuple[str, int, int]], cap: int
) -> None:
    bank, owners = Bank(cap), 0
    day = Budget(cap, Unit.TOKENS, Period.DAY)
    team = team_holder("design")
    for event, number, tokens in events:
        name, now_ms = f"r{number}", NOV_30_MS + number
        record = bank.records.get(name)
        match event:
            case "ask" if record is None:
                new = record_of(name, standalone=True)
                held = hold_of(
                    new, Question(message="hi", model="echo"), quota(max_tokens=60), own=(), team="design",
                    of_team=(day,), now_ms=now_ms,
                )  # fmt: skip
                admitted = admit(
                    existing=None, position=0, pending=0, counted=0, own_limit=None, quota=quota(), now_ms=now_ms,
                    hold=held, user_id="u", counters=bank.counters,
                )  # fmt: skip
                if isinstance(admitted, Accepted) and admitted.hold is not None:
                    new = replace(new, hold=admitted.hold)
                    bank.records[name] = new
                    bank.post(Step(new, None, None, budget.reserved(admitted.hold, "u")))
            case "claim" | "lose":
                owners += event == "lose"
                owner = f"w{owners}"
                outcome = bank.change(
                    name, partial(changes.claim, owner=owner, now_ms=2 * NOV_30_MS, policy=Policy(
                        lease_ms=1, queue_timeout_ms=10**15, answer_timeout_ms=10**15, max_attempts=9))
                )  # fmt: skip
                if isinstance(outcome, Claimed) and outcome.record != record:
                    bank.spent += tokens  # it is billed, whatever becomes of it
                    bank.records[name] = replace(outcome.record, session_id=f"{tokens}")
            case "finish" if record is not None:
                ending = Ending(status=Status.COMPLETED, attempt=record.attempt, length=0, ended_at_ms=now_ms)
                counted = Counted(0, int(record.session_id)) if record.session_id.isdigit() else None
                bank.change(
                    name, partial(changes.finish, owner=record.owner, attempt=record.attempt, ending=ending,
                                  content=Content(""), counted=counted)
                )  # fmt: skip
            case "cancel" if record is not None:
                bank.change(name, partial(changes.cancel, refusal_record=record, now_ms=now_ms))
            case "expire":
                bank.change(name, partial(changes.expire, now_ms=2 * NOV_30_MS, code=ErrorCode.TIMEOUT))
            case "erase":
                bank.change(name, partial(changes.erase, now_ms=now_ms))
        bank.check()
    for name in bank.records:
        bank.change(name, partial(changes.erase, now_ms=NOV_30_MS))
    bank.check()
    assert all(counter.reserved == 0 for counter in bank.counters.values())
    assert all(holder == team for holder, _ in bank.counters)
