"""Who runs next: the pure part of the in-process queue.

A lane holds the requests of one ordering key, first in first out, one at a time (G4). A pool holds the slots of one
model. A lane whose head may run stands in the turn of its head's pool; after each run it goes behind the others, so
that no key waits for another while there is a free slot, and a busy key cannot crowd out a quiet one.

    put ----> waiting in its lane ----> in turn ----> running ----> done (the lane's next comes in turn)
                                          ^              |
                                          +-- release -- held (slot free, lane blocked)
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from answerback.core.request import RequestKey

UNKNOWN_POOL_SLOTS: Final = 4
"""Slots of a model that is not configured (any more): its requests end at once, but not all in one moment."""


class _Lane:
    """The requests of one ordering key, each with its pool. The head is running, held, or in turn."""

    __slots__ = ("items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: deque[tuple[RequestKey, str]] = deque()


class _Pool:
    """The slots of one model, and the lanes whose head waits for one."""

    __slots__ = ("free", "turn")

    def __init__(self, slots: int) -> None:
        self.free = slots
        self.turn: deque[_Lane] = deque()


class Lanes:
    """Requests in lanes, lanes in turns. `slots`: how many requests of each pool may run at once, each at least 1."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._pools = {name: _Pool(max(1, count)) for name, count in slots.items()}
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[RequestKey, _Lane] = {}
        self._running: dict[RequestKey, _Pool] = {}
        self._held: set[RequestKey] = set()

    def __len__(self) -> int:
        """Requests that are in: waiting, running or held."""
        return len(self._lane_of)

    def __contains__(self, key: object) -> bool:
        """Whether a request is in: waiting, running or held."""
        return key in self._lane_of

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    def put(self, key: RequestKey, lane: str, pool: str) -> bool:
        """Add a request at the end of its lane; false if it is in already."""
        if key in self._lane_of:
            return False
        into = self._lanes.get(lane)
        if into is None:
            into = self._lanes[lane] = _Lane(lane)
        self._lane_of[key] = into
        into.items.append((key, pool))
        if len(into.items) == 1:
            self._in_turn(into)
        return True

    def take(self) -> RequestKey | None:
        """The next request that may run; it holds a slot until `done` or `hold`. None: none may."""
        for pool in self._pools.values():
            if pool.free and pool.turn:
                lane = pool.turn.popleft()
                key, _ = lane.items[0]
                pool.free -= 1
                self._running[key] = pool
                return key
        return None

    def done(self, key: RequestKey) -> None:
        """A running request is finished: its lane's next comes in turn, behind the other lanes.

        Raises: ValueError: it is not running.
        """
        self._free_slot(key)
        lane = self._lane_of.pop(key)
        lane.items.popleft()
        if lane.items:
            self._in_turn(lane)
        else:
            del self._lanes[lane.name]

    def drop(self, key: RequestKey) -> bool:
        """Take a request out that waits or is in turn; false if it is running, held, or not in."""
        lane = self._lane_of.get(key)
        if lane is None or key in self._running or key in self._held:
            return False
        head, pool = lane.items[0]
        if head == key:
            self._pools[pool].turn.remove(lane)
        del self._lane_of[key]
        lane.items = deque(item for item in lane.items if item[0] != key)
        if not lane.items:
            del self._lanes[lane.name]
        elif head == key:
            self._in_turn(lane)
        return True

    def hold(self, key: RequestKey) -> None:
        """A running request cannot go on now: its slot is free, its lane stays blocked.

        Raises: ValueError: it is not running.
        """
        self._free_slot(key)
        self._held.add(key)

    def release(self, key: RequestKey) -> None:
        """A held request may run again. Raises: ValueError: it is not held."""
        if key not in self._held:
            raise ValueError(f"not held: {key}")
        self._held.discard(key)
        self._in_turn(self._lane_of[key])

    def _free_slot(self, key: RequestKey) -> None:
        pool = self._running.pop(key, None)
        if pool is None:
            raise ValueError(f"not running: {key}")
        pool.free += 1

    def _in_turn(self, lane: _Lane) -> None:
        _, name = lane.items[0]
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(UNKNOWN_POOL_SLOTS)
        pool.turn.append(lane)
