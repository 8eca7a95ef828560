"""Which request runs next: the pure part of the in-process queue.

Requests that share an ordering key stand in one ordered queue, first in first out, and run one at a time. Each model
has slots, and a run queue of the ordered queues whose head waits for a slot. After each run an ordered queue goes to
the end of the run queue. So no key waits for another while there is a free slot, and a busy key cannot crowd out a
quiet one.

    put ---> waiting in its ordered queue ---> ready ---> running ---> done (the next of its key is ready)
                                                 ^           |
                                                 +- unblock- blocked (slot free, ordered queue stopped)
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from answerback.core.request import RequestKey

UNKNOWN_MODEL_SLOTS: Final = 4
"""Slots of a model that is not configured (any more): its requests end at once, but not all in one moment."""


class _OrderedQueue:
    """The requests of one ordering key, each with its model. The head is ready, running or blocked."""

    __slots__ = ("items", "ordering_key")

    def __init__(self, ordering_key: str) -> None:
        self.ordering_key = ordering_key
        self.items: deque[tuple[RequestKey, str]] = deque()


class _Slots:
    """The concurrency slots of one model, and the ordered queues whose head waits for one."""

    __slots__ = ("free", "run_queue")

    def __init__(self, count: int) -> None:
        self.free = count
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

    def block(self, key: RequestKey) -> None:
        """A running request cannot go on now: its slot is free, and the others of its key wait behind it.

        Raises: ValueError: it is not running.
        """
        self._free_slot(key)
        self._blocked.add(key)

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
