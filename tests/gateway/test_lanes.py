from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from answerback.core.request import RequestKey
from answerback.gateway.lanes import UNKNOWN_POOL_SLOTS, Lanes

SLOTS = {"small": 1, "large": 3}


def key(number: int) -> RequestKey:
    return RequestKey("user", f"r{number}")


class LanesMachine(RuleBasedStateMachine):
    """Against a model that only knows who was put where."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(SLOTS)
        self.waiting: dict[str, deque[RequestKey]] = defaultdict(deque)
        self.where: dict[RequestKey, tuple[str, str]] = {}
        self.running: set[RequestKey] = set()
        self.held: set[RequestKey] = set()
        self.count = 0

    def slots(self, pool: str) -> int:
        return SLOTS.get(pool, UNKNOWN_POOL_SLOTS)

    @rule(lane=st.sampled_from("abcdef"), pool=st.sampled_from(["small", "large", "unknown"]))
    def put(self, lane: str, pool: str) -> None:
        new = key(self.count)
        self.count += 1
        assert self.lanes.put(new, lane, pool)
        self.waiting[lane].append(new)
        self.where[new] = (lane, pool)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        assert not self.lanes.put(data.draw(st.sampled_from(sorted(self.where))), "a", "large")

    @rule()
    def take(self) -> None:
        taken = self.lanes.take()
        if taken is None:
            for lane, keys in self.waiting.items():
                if not keys or keys[0] in self.held or keys[0] in self.running:
                    continue
                pool = self.where[keys[0]][1]
                busy = sum(self.where[other][1] == pool for other in self.running)
                assert busy == self.slots(pool), f"{lane} waits although {pool} has a free slot"
            return
        lane, pool = self.where[taken]
        assert self.waiting[lane][0] == taken, "out of order"
        assert taken not in self.running | self.held, "twice at once"
        self.running.add(taken)
        assert sum(self.where[other][1] == pool for other in self.running) <= self.slots(pool)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.running)))
        self.lanes.done(gone)
        self.running.discard(gone)
        lane, _ = self.where.pop(gone)
        assert self.waiting[lane].popleft() == gone

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(sorted(self.running)))
        self.lanes.hold(held)
        self.running.discard(held)
        self.held.add(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        released = data.draw(st.sampled_from(sorted(self.held)))
        self.lanes.release(released)
        self.held.discard(released)

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        dropped = data.draw(st.sampled_from(sorted(self.where)))
        may = dropped not in self.running | self.held
        assert self.lanes.drop(dropped) == may
        if may:
            lane, _ = self.where.pop(dropped)
            self.waiting[lane].remove(dropped)
            assert not self.lanes.drop(dropped)

    @invariant()
    def counts(self) -> None:
        assert len(self.lanes) == len(self.where)
        assert self.lanes.running == len(self.running)


TestLanes = LanesMachine.TestCase


@given(st.integers(1, 5), st.integers(2, 6))
def test_a_lane_that_ran_goes_behind_the_others(slots: int, lanes_count: int) -> None:
    lanes = Lanes({"m": slots})
    names = [f"lane{number}" for number in range(lanes_count)]
    for turn in range(3):
        for number, name in enumerate(names):
            lanes.put(key(turn * lanes_count + number), name, "m")
    order: list[RequestKey] = []
    while (taken := lanes.take()) is not None:
        order.append(taken)
        lanes.done(taken)
    assert order == [key(number) for number in range(3 * lanes_count)]


def test_a_busy_key_does_not_crowd_out_a_quiet_one() -> None:
    lanes = Lanes({"m": 1})
    for number in range(100):
        lanes.put(key(number), "busy", "m")
    first = lanes.take()
    lanes.put(key(1000), "quiet", "m")
    assert first is not None
    lanes.done(first)
    assert lanes.take() == key(1000)


def test_what_is_not_running_cannot_be_done_and_nothing_changes() -> None:
    lanes = Lanes({"m": 1})
    lanes.put(key(1), "a", "m")
    for action in (lanes.done, lanes.hold, lanes.release):
        with pytest.raises(ValueError, match="not"):
            action(key(1))
    assert lanes.take() == key(1)
