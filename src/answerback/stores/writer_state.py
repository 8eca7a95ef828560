"""What a gateway's writer keeps in memory of its database.

One process writes a store at a time (it holds the store's lock), so its writer may keep in memory what every request
needs: the unfinished records, counts for the limits, limits that users have of their own, which conversations are
deleted. It is read from the database whenever a writer starts, and follows each transaction: `commit` keeps what
changed since the last one, `rollback` undoes it. All of it can be computed from the tables again.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from answerback.core.admission import window_of
from answerback.core.request import Record, RequestKey

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Final = object()
_MAX_KNOWN_USERS: Final = 50_000
_WINDOWS_KEPT: Final = 3
SEQ_BLOCK: Final = 1000


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An unfinished request. `seq` and `title` are None if it was never accepted."""

    record: Record
    seq: int | None
    title: str | None
    replaces: str | None


class WriterState:
    """The unfinished requests, counts, limits and deletions of a store. Not thread-safe: it belongs to the writer."""

    def __init__(self) -> None:
        self.unfinished: dict[RequestKey, Unfinished] = {}
        self.limits: dict[str, int | None] = {}
        """Users known to have a row, and their own limit a minute."""
        self.deleted: dict[tuple[str, str], int] = {}
        """(user, conversation) -> when it was deleted, of those not yet erased."""
        self._queues: dict[str, dict[RequestKey, int]] = {}
        self._users: dict[str, dict[RequestKey, int]] = {}
        self._windows: dict[int, dict[str, int]] = {}
        self._reserved: dict[str, int] = {}
        self._next_seq = 1
        self._journal: list[tuple[MutableMapping[Any, Any], Any, Any]] = []

    # --- transactions

    def commit(self) -> None:
        """The transaction was committed."""
        self._journal.clear()

    def rollback(self) -> None:
        """The transaction was rolled back: undo, newest first."""
        for mapping, key, old in reversed(self._journal):
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old
        self._journal.clear()

    def _put(self, mapping: MutableMapping[K, V], key: K, value: V) -> None:
        self._journal.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _drop(self, mapping: MutableMapping[K, V], key: K) -> None:
        old = mapping.pop(key, _ABSENT)
        if old is not _ABSENT:
            self._journal.append((mapping, key, old))

    # --- the order of acceptance

    def start_seq(self, reserved: int) -> None:
        """Begin above every number that may have been given out."""
        self._reserved = {"seq": reserved}
        self._next_seq = reserved + 1

    def take_seq(self) -> int:
        """The next number. Numbers of failed transactions are not used again."""
        seq = self._next_seq
        self._next_seq += 1
        return seq

    def reserve(self, seq: int) -> int | None:
        """The value that the counter must be raised to before `seq` may be used; None: it is high enough."""
        if seq <= self._reserved["seq"]:
            return None
        self._put(self._reserved, "seq", seq + SEQ_BLOCK)
        return seq + SEQ_BLOCK

    # --- unfinished requests

    def put_unfinished(self, request: Unfinished) -> None:
        """Add an unfinished request, or replace it by its new record."""
        record, key = request.record, request.record.key
        if key not in self.unfinished:
            seq = request.seq or 0
            self._put(self._inner(self._queues, record.ordering_key), key, seq)
            self._put(self._inner(self._users, record.user_id), key, seq)
        self._put(self.unfinished, key, request)

    def remove_unfinished(self, key: RequestKey) -> None:
        """Forget a request that ended."""
        known = self.unfinished.get(key)
        if known is None:
            return
        self._drop(self.unfinished, key)
        for outer, name in ((self._queues, known.record.ordering_key), (self._users, key.user_id)):
            self._drop(outer[name], key)
            if not outer[name]:
                self._drop(outer, name)

    def position(self, ordering_key: str, seq: int | None = None) -> int:
        """Unfinished requests of the key accepted before `seq`, all of them if it is None."""
        queue = self._queues.get(ordering_key)
        if not queue:
            return 0
        return len(queue) if seq is None else sum(other < seq for other in queue.values())

    def _inner(self, outer: dict[str, dict[RequestKey, int]], name: str) -> dict[RequestKey, int]:
        inner = outer.get(name)
        if inner is None:
            inner = {}
            self._put(outer, name, inner)
        return inner

    # --- limits

    def know_user(self, user_id: str, per_minute: int | None) -> None:
        """The user has a row, with this limit of their own."""
        if len(self.limits) >= _MAX_KNOWN_USERS and user_id not in self.limits:
            self._drop(self.limits, next(iter(self.limits)))
        self._put(self.limits, user_id, per_minute)

    def pending(self, user_id: str) -> int:
        """The user's unfinished requests."""
        return len(self._users.get(user_id, ()))

    def counted(self, user_id: str, at_ms: int) -> int:
        """The user's requests that were accepted in this minute."""
        return self._windows.get(window_of(at_ms), {}).get(user_id, 0)

    def count(self, user_id: str, at_ms: int) -> None:
        """Count one accepted request of the user in its minute."""
        number = window_of(at_ms)
        window = self._windows.get(number)
        if window is None:
            # Several are kept because calls near a change of the minute may arrive in either order.
            window = self._windows[number] = {}
            if len(self._windows) > _WINDOWS_KEPT:
                del self._windows[min(n for n in self._windows if n != number)]
        self._put(window, user_id, window.get(user_id, 0) + 1)

    def uncount(self, user_id: str, at_ms: int) -> None:
        """Take back one `count`."""
        window = self._windows.get(window_of(at_ms))
        if window is not None and user_id in window:
            self._put(window, user_id, window[user_id] - 1)

    # --- conversations and users

    def delete_conversation(self, user_id: str, conversation_id: str, at_ms: int | None) -> None:
        """Note that it was deleted then; None: it is not deleted, or is gone for good."""
        if at_ms is None:
            self._drop(self.deleted, (user_id, conversation_id))
        else:
            self._put(self.deleted, (user_id, conversation_id), at_ms)

    def forget_user(self, user_id: str) -> None:
        for key in tuple(self._users.get(user_id, ())):
            self.remove_unfinished(key)
        self._drop(self.limits, user_id)
        for window in self._windows.values():
            self._drop(window, user_id)
        for pair in [p for p in self.deleted if p[0] == user_id]:
            self._drop(self.deleted, pair)
