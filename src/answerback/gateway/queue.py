"""The gateway's queue: in this process, rebuilt from the store at start.

It keeps no promise of its own across a crash: the records are the truth, and `recover` queues every unfinished one
again, those that ran first and then the others in the order accepted. Within a process it gives a request a turn until
one ends as `Done`.

`Scheduler` is its pure part. Requests that share an ordering key stand in one ordered queue, first in first out, and
run one at a time. Each model has slots, and a run queue of the ordered queues whose head waits for a slot. After each
run an ordered queue goes to the end of the run queue. So no key waits for another while there is a free slot, and a
busy key cannot crowd out a quiet one.

    put ---> waiting in its ordered queue ---> ready ---> running ---> done (the next of its key is ready)
                                                 ^           |
                                                 +- unblock- blocked (slot free, ordered queue stopped)
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from answerback.core import request as changes
from answerback.core.request import Record, RequestKey
from answerback.core.transitions import State
from answerback.ports import Requests
from answerback.service.attempt import Done, Retry, Turn

FAILED_PAUSE_S: Final = 2.0
"""Before a request is tried again whose run failed for a reason of ours."""

STOP_S: Final = 10.0
"""How long a stop waits for runs that it has cancelled. A model that does not stop is left behind."""


class InProcessQueue:
    """`ports.Queue` for the process that runs the requests. `slots`: concurrent runs for each model name.

    `clock`: epoch milliseconds.
    """

    def __init__(self, *, slots: Mapping[str, int], clock: Callable[[], int]) -> None:
        self._scheduler = Scheduler(slots)
        self._clock = clock
        self._work: Callable[[RequestKey, Turn], Awaitable[None]] | None = None
        self._turns: dict[RequestKey, Turn] = {}
        self._timers: dict[RequestKey, asyncio.TimerHandle] = {}
        self._idle: asyncio.Future[None] | None = None

    @property
    def depth(self) -> int:
        """Requests that wait: behind others, for a slot, or for a retry."""
        return len(self._scheduler) - self._scheduler.running

    @property
    def blocked(self) -> int:
        """Requests that had their turn and are tried again: as a rule, because another gateway has one before them."""
        return len(self._timers)

    @property
    def running(self) -> int:
        """Requests that have their turn now."""
        return self._scheduler.running

    @property
    def loads(self) -> "dict[str, Load]":
        """How busy each model is."""
        return self._scheduler.loads

    def __contains__(self, key: object) -> bool:
        """Whether the queue has this request: it waits or runs."""
        return key in self._scheduler

    def reserve(self, key: RequestKey, record: Record) -> Turn | bool:
        """Let a request that is about to be stored stand in line. Returns its turn, if that has come already.

        True: it waits. False: it stood in line or ran before.

        The caller runs that turn. The turn of a request that waits is given to `work`, as for any other.
        """
        if not self._scheduler.put(key, record.ordering_key, record.model):
            return False
        return self._dispatch(key) or True

    def is_here(self, key: RequestKey) -> bool:
        """Whether a stored request is to run in this process: it is the only one."""
        return True

    async def put(self, record: Record) -> None:
        """Queue a request; one that is queued or running already is left where it is."""
        if self._scheduler.put(record.key, record.ordering_key, record.model):
            self._dispatch()

    async def forget(self, key: RequestKey) -> None:
        """Drop a request that waits; one that runs goes on, and the next of its key does not wait for one blocked."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
            self._scheduler.unblock(key)
        if self._scheduler.drop(key):
            self._dispatch()

    def retry(self, ordering_key: str) -> None:
        """Try the first request of the ordering key at once, if it waits for another try."""
        key = self._scheduler.head(ordering_key)
        if key is not None and (timer := self._timers.get(key)) is not None:
            timer.cancel()
            self._unblock(key)

    def arrange(self, records: Iterable[Record]) -> None:
        """Queue requests, given in the order accepted, also before others of their ordering keys that wait already."""
        keys: dict[str, list[RequestKey]] = {}
        for record in records:
            self._scheduler.put(record.key, record.ordering_key, record.model)
            keys.setdefault(record.ordering_key, []).append(record.key)
        for ordering_key, order in keys.items():
            if (timer := self._timers.pop(self._scheduler.head(ordering_key), None)) is not None:  # type: ignore[arg-type]
                timer.cancel()
            self._scheduler.arrange(ordering_key, order)
        self._dispatch()

    def restore(self, records: Iterable[Record]) -> None:
        """Queue unfinished requests, given in the order accepted. Call it before `start`.

        What ran goes first: it had its turn. Of two that came together the later one may have been stored first.
        """
        for record in sorted(records, key=lambda record: record.state is not State.RUNNING):
            self._scheduler.put(record.key, record.ordering_key, record.model)

    async def recover(self, requests: Requests) -> int:
        """Queue every unfinished request of the store; returns how many there are. Call it before `start`.

        The caller holds the store's lock: the runs of the process before are dead, and so are the connections that
        targets lead to. Raises: Unavailable.
        """
        records = await requests.unfinished()
        # All at once, so that a store with group commit needs few commits.
        await asyncio.gather(*(requests.change(record.key, changes.recover) for record in records))
        self.restore(records)
        return len(records)

    def start(self, work: Callable[[RequestKey, Turn], Awaitable[None]]) -> None:
        """Give turns from now on; `work` runs a request that waited."""
        self._work = work
        self._dispatch()

    async def stop(self, *, grace_s: float) -> None:
        """Give no more turns, let the running ones end for `grace_s`, then cancel the rest and wait for them."""
        self._work = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._until_idle(grace_s)
        self.skip_grace()
        await self._until_idle(STOP_S)

    def skip_grace(self) -> None:
        """Cancel the running requests that a stop still waits for."""
        for turn in self._turns.values():
            turn.cancel()

    async def _until_idle(self, within_s: float) -> None:
        if self._turns and within_s > 0:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._idle,), timeout=within_s)

    def _dispatch(self, own: RequestKey | None = None) -> Turn | None:
        """Let run what may. Returns the turn of `own` instead, which was just put and can only be the last."""
        while (work := self._work) is not None and (key := self._scheduler.take()) is not None:
            turn = self._turns[key] = Turn(partial(self._ended, key))
            if key == own:
                return turn
            turn.start(partial(work, key, turn))
        return None

    def _ended(self, key: RequestKey, outcome: Done | Retry | None) -> None:
        del self._turns[key]
        if not self._turns and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if isinstance(outcome, Done):
            self._scheduler.done(key)
        elif self._scheduler.block(key) and self._work is not None:
            # When it stops, the record stays unfinished, and the next start recovers it.
            delay_s = FAILED_PAUSE_S if outcome is None else max(0, outcome.at_ms - self._clock()) / 1000
            self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._unblock, key)
        self._dispatch()

    def _unblock(self, key: RequestKey) -> None:
        del self._timers[key]
        self._scheduler.unblock(key)
        self._dispatch()


UNKNOWN_MODEL_SLOTS: Final = 4
"""Slots of a model that is not configured (any more): its requests end at once, but not all in one moment."""


@dataclass(slots=True, eq=False)
class _OrderedQueue:
    """The requests of one ordering key, each with its model. The head is ready, running or blocked.

    `rank`: the places of some that came from elsewhere, and of those that were here then; others are behind them.
    """

    ordering_key: str
    items: deque[tuple[RequestKey, str]] = field(default_factory=deque)
    rank: dict[RequestKey, int] = field(default_factory=dict)

    def sort(self) -> None:
        if rank := self.rank:
            self.items = deque(sorted(self.items, key=lambda item: rank.get(item[0], len(rank))))


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one model is: runs that it may have at once, runs, and requests that wait."""

    slots: int
    running: int
    waiting: int


class _Slots:
    """The concurrency slots of one model, and the ordered queues whose head waits for one."""

    __slots__ = ("count", "free", "run_queue")

    def __init__(self, count: int) -> None:
        self.count = self.free = count
        self.run_queue: deque[_OrderedQueue] = deque()


class Scheduler:
    """Orders requests by key and limits them by model. `slots`: runs of each model at once, each at least 1."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = {model: _Slots(max(1, count)) for model, count in slots.items()}
        self._queues: dict[str, _OrderedQueue] = {}
        self._queue_of: dict[RequestKey, _OrderedQueue] = {}
        self._running: dict[RequestKey, _Slots] = {}
        self._blocked: set[RequestKey] = set()

    def __len__(self) -> int:
        """Requests that are in: waiting, running or blocked."""
        return len(self._queue_of)

    def __contains__(self, key: object) -> bool:
        """Whether a request is in: waiting, running or blocked."""
        return key in self._queue_of

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def loads(self) -> dict[str, Load]:
        """How busy each model is."""
        there = Counter(model for queue in self._queues.values() for _, model in queue.items)
        return {
            model: Load(slots.count, slots.count - slots.free, there[model] - slots.count + slots.free)
            for model, slots in self._slots.items()
        }

    def head(self, ordering_key: str) -> RequestKey | None:
        """The first request of an ordering key."""
        queue = self._queues.get(ordering_key)
        return None if queue is None else queue.items[0][0]

    def put(self, key: RequestKey, ordering_key: str, model: str) -> bool:
        """Add a request behind the others of its ordering key; false if it is in already."""
        if key in self._queue_of:
            return False
        queue = self._queues.get(ordering_key)
        if queue is None:
            queue = self._queues[ordering_key] = _OrderedQueue(ordering_key)
        self._queue_of[key] = queue
        queue.items.append((key, model))
        if len(queue.items) == 1:
            self._make_ready(queue)
        return True

    def take(self) -> RequestKey | None:
        """The next request that may run; it has a slot until `done` or `block`. None: none may."""
        for slots in self._slots.values():
            if slots.free and slots.run_queue:
                queue = slots.run_queue.popleft()
                key, _ = queue.items[0]
                slots.free -= 1
                self._running[key] = slots
                return key
        return None

    def done(self, key: RequestKey) -> None:
        """A running request is finished: the next of its key is ready, behind the other keys.

        Raises: ValueError: it is not running.
        """
        self._free_slot(key)
        queue = self._queue_of.pop(key)
        queue.items.popleft()
        if queue.items:
            self._make_ready(queue)
        else:
            del self._queues[queue.ordering_key]

    def drop(self, key: RequestKey) -> bool:
        """Take a request out that waits or is ready; false if it is running, blocked, or not in."""
        queue = self._queue_of.get(key)
        if queue is None or key in self._running or key in self._blocked:
            return False
        head, model = queue.items[0]
        if head == key:
            self._slots[model].run_queue.remove(queue)
        del self._queue_of[key]
        queue.items = deque(item for item in queue.items if item[0] != key)
        if not queue.items:
            del self._queues[queue.ordering_key]
        elif head == key:
            self._make_ready(queue)
        return True

    def arrange(self, ordering_key: str, order: Sequence[RequestKey]) -> None:
        """Let the requests of the key wait in this order, before others of it. One that is running goes on."""
        queue = self._queues[ordering_key]
        queue.rank = {key: place for place, key in enumerate(order)}
        head, model = queue.items[0]
        if head in self._running:
            return  # `block` sees to the order, if it turns out not to be its turn
        if head in self._blocked:
            self._blocked.discard(head)
        else:
            self._slots[model].run_queue.remove(queue)
        queue.sort()
        self._make_ready(queue)

    def block(self, key: RequestKey) -> bool:
        """A running request cannot go on now: its slot is free, and the others of its key wait behind it.

        False: another of its key is to be tried first. Raises: ValueError: it is not running.
        """
        self._free_slot(key)
        queue = self._queue_of[key]
        queue.sort()
        if queue.items[0][0] != key:
            self._make_ready(queue)
            return False
        self._blocked.add(key)
        return True

    def unblock(self, key: RequestKey) -> None:
        """A blocked request may run again. Raises: ValueError: it is not blocked."""
        if key not in self._blocked:
            raise ValueError(f"not blocked: {key}")
        self._blocked.discard(key)
        self._make_ready(self._queue_of[key])

    def _free_slot(self, key: RequestKey) -> None:
        slots = self._running.pop(key, None)
        if slots is None:
            raise ValueError(f"not running: {key}")
        slots.free += 1

    def _make_ready(self, queue: _OrderedQueue) -> None:
        _, model = queue.items[0]
        slots = self._slots.get(model)
        if slots is None:
            slots = self._slots[model] = _Slots(UNKNOWN_MODEL_SLOTS)
        slots.run_queue.append(queue)
