from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from answerback.core.request import RequestKey
from answerback.gateway.queue import UNKNOWN_MODEL_SLOTS, Scheduler

SLOTS = {"small": 1, "large": 3}


def key(number: int) -> RequestKey:
    return RequestKey("user", f"r{number}")


class SchedulerMachine(RuleBasedStateMachine):
    """Against a model that only knows who was put where."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS)
        self.waiting: dict[str, deque[RequestKey]] = defaultdict(deque)
        self.where: dict[RequestKey, tuple[str, str]] = {}
        self.running: set[RequestKey] = set()
        self.blocked: set[RequestKey] = set()
        self.count = 0

    def slots(self, model: str) -> int:
        return SLOTS.get(model, UNKNOWN_MODEL_SLOTS)

    @rule(ordering_key=st.sampled_from("abcdef"), model=st.sampled_from(["small", "large", "unknown"]))
    def put(self, ordering_key: str, model: str) -> None:
        new = key(self.count)
        self.count += 1
        assert self.scheduler.put(new, ordering_key, model)
        self.waiting[ordering_key].append(new)
        self.where[new] = (ordering_key, model)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        assert not self.scheduler.put(data.draw(st.sampled_from(sorted(self.where))), "a", "large")

    @rule()
    def take(self) -> None:
        taken = self.scheduler.take()
        if taken is None:
            for ordering_key, keys in self.waiting.items():
                if not keys or keys[0] in self.blocked or keys[0] in self.running:
                    continue
                model = self.where[keys[0]][1]
                busy = sum(self.where[other][1] == model for other in self.running)
                assert busy == self.slots(model), f"{ordering_key} waits although {model} has a free slot"
            return
        ordering_key, model = self.where[taken]
        assert self.waiting[ordering_key][0] == taken, "out of order"
        assert taken not in self.running | self.blocked, "twice at once"
        self.running.add(taken)
        assert sum(self.where[other][1] == model for other in self.running) <= self.slots(model)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.running)))
        self.scheduler.done(gone)
        self.running.discard(gone)
        ordering_key, _ = self.where.pop(gone)
        assert self.waiting[ordering_key].popleft() == gone

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        blocked = data.draw(st.sampled_from(sorted(self.running)))
        self.scheduler.block(blocked)
        self.running.discard(blocked)
        self.blocked.add(blocked)

    @precondition(lambda self: self.blocked)
    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        unblocked = data.draw(st.sampled_from(sorted(self.blocked)))
        self.scheduler.unblock(unblocked)
        self.blocked.discard(unblocked)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        dropped = data.draw(st.sampled_from(sorted(self.where)))
        may = dropped not in self.running | self.blocked
        assert self.scheduler.drop(dropped) == may
        if may:
            ordering_key, _ = self.where.pop(dropped)
            self.waiting[ordering_key].remove(dropped)
            assert not self.scheduler.drop(dropped)

    @invariant()
    def counts(self) -> None:
        assert len(self.scheduler) == len(self.where)
        assert self.scheduler.running == len(self.running)


TestScheduler = SchedulerMachine.TestCase


@given(st.integers(1, 5), st.integers(2, 6))
def test_a_key_that_ran_goes_behind_the_others(slots: int, keys: int) -> None:
    scheduler = Scheduler({"m": slots})
    names = [f"key{number}" for number in range(keys)]
    for turn in range(3):
        for number, name in enumerate(names):
            scheduler.put(key(turn * keys + number), name, "m")
    order: list[RequestKey] = []
    while (taken := scheduler.take()) is not None:
        order.append(taken)
        scheduler.done(taken)
    assert order == [key(number) for number in range(3 * keys)]


def test_a_busy_key_does_not_crowd_out_a_quiet_one() -> None:
    scheduler = Scheduler({"m": 1})
    for number in range(100):
        scheduler.put(key(number), "busy", "m")
    first = scheduler.take()
    scheduler.put(key(1000), "quiet", "m")
    assert first is not None
    scheduler.done(first)
    assert scheduler.take() == key(1000)


def test_what_is_not_running_cannot_be_done_and_nothing_changes() -> None:
    scheduler = Scheduler({"m": 1})
    scheduler.put(key(1), "a", "m")
    for action in (scheduler.done, scheduler.block, scheduler.unblock):
        with pytest.raises(ValueError, match="not"):
            action(key(1))
    assert scheduler.take() == key(1)


def test_what_comes_from_elsewhere_goes_before_what_was_asked_later() -> None:
    scheduler = Scheduler({"m": 2})
    one, two, three, four = (RequestKey("u", f"r{n}") for n in range(1, 5))
    for key in (two, four):
        scheduler.put(key, "k", "m")
    assert scheduler.take() == two  # and finds that it is not its turn
    for key in (one, three):
        scheduler.put(key, "k", "m")
    scheduler.arrange("k", [one, two, three])
    assert not scheduler.block(two)
    for key in (one, two, three, four):
        assert scheduler.take() == key
        scheduler.done(key)
    assert not len(scheduler)


@pytest.mark.parametrize("head", ["ready", "blocked"])
def test_another_head_takes_the_place_of_one_that_does_not_run(head: str) -> None:
    scheduler = Scheduler({"m": 1, "other": 1})
    first, second = RequestKey("u", "r1"), RequestKey("u", "r2")
    scheduler.put(second, "k", "m")
    if head == "blocked":
        assert scheduler.take() == second
        assert scheduler.block(second)
    scheduler.put(first, "k", "other")
    scheduler.arrange("k", [first, second])
    assert scheduler.take() == first
    assert scheduler.take() is None
