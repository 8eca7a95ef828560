"""What a writer keeps in memory of its database: the unfinished requests and the facts that admission asks for.

One process writes a store at a time (it holds the store's lock), so what happens is decided here, on the event loop,
before it is written. The state is then ahead of the disk, and only the disk counts: after a write that failed it is
thrown away and read again.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

from msgspec import Struct

from answerback.core.admission import WINDOW_MS, Admission, Quota, admit, is_locked, locked, unlocked, window_of
from answerback.core.budget import Entry
from answerback.core.context import title_of
from answerback.core.request import Question, Record, RequestKey, erase
from answerback.stores import statements as sql
from answerback.stores.budgets import Budgets
from answerback.stores.database import Database
from answerback.stores.encoding import decode_question, decode_record, width_of

_MAX_KNOWN_USERS: Final = 50_000
_WINDOWS_KEPT: Final = 3
_MAX_CHARACTERS: Final = 8_000_000
"""Of the questions in memory; those of further requests are read when they are asked for."""
_PAGE: Final = 1_000


class Tracked(Struct, eq=False, kw_only=True):
    """A request in memory: unfinished, or with an ending that is being written.

    `n`: its row. `question`: None, and it is read when it is asked for. `characters`: of its question. `title`: of a
    conversation that begins with it. `width`: see encoding.width_of. `counted_at_ms`: in which minute it counts.
    `is_stored`: its row is on the disk; before, its id may turn out to be taken (`is_taken`). `written_in`: the number
    of the batch that has its newest record.
    """

    key: RequestKey
    record: Record
    n: int
    question: Question | None = None
    characters: int = 0
    title: str = ""
    replaces: str | None = None
    width: int = 0
    counted_at_ms: int | None = None
    written_in: int = 0
    is_stored: bool = False
    is_taken: bool = False


class WriterState:
    """The tracked requests, counts and limits of all users, or of some. Belongs to the event loop."""

    def __init__(self) -> None:
        self.tracked: dict[RequestKey, Tracked] = {}
        self.limits: dict[str, int] = {}
        """Users with a limit of their own a minute, as it is stored."""
        self.budgets = Budgets()
        self._known: dict[str, None] = {}
        self._queues: dict[str, dict[int, None]] = {}
        self._pending: Counter[str] = Counter()
        self._windows: dict[int, Counter[str]] = {}
        self.last_n = 0
        """The highest number that was given out."""
        self._characters = 0

    @classmethod
    def load(cls, database: Database, *, user_ids: Collection[str] | None = None) -> "WriterState":
        """Read it from the database, in the present transaction if there is one. `user_ids`: of these users alone."""
        params: dict[str, sql.Value] = {}
        users = sql.ALL_USERS
        if user_ids is not None:
            params = {f"user_{number}": user_id for number, user_id in enumerate(user_ids)}
            users = f"user_id IN ({', '.join(f':{name}' for name in params) or 'NULL'})"
        state = cls()
        top = database.execute(sql.SELECT_MARK, {"name": "n"}).fetchall()
        (last,) = database.execute(sql.SELECT_LAST_NUMBER).fetchall()[0]
        state.last_n = max(last, *(int(value) for (value,) in top), 0)
        found = database.execute(sql.SELECT_UNFINISHED.format(users=users), params).fetchall()
        for n, text, schema, options, message, system in sorted(found):
            question = decode_question(options, message, system)
            width = len(text) if width_of(text, question) else 0
            record = decode_record(text, schema)
            state.track(record.key, record, question, n=n, width=width).is_stored = True
        state.limits = dict(database.execute(sql.SELECT_LIMITS.format(users=users), params).fetchall())
        state._known = dict.fromkeys(state.limits)
        if user_ids is None:
            state.budgets = Budgets.load(database)
        # Only the newest minute can still be counted in; the one before it is for calls that arrive late.
        select, before, since_ms = sql.SELECT_ACCEPTED.format(users=users), last + 1, None
        while rows := database.execute(select, {**params, "before": before, "limit": _PAGE}).fetchall():
            since_ms = rows[0][2] - 2 * WINDOW_MS if since_ms is None else since_ms
            recent = [row for row in rows if row[2] >= since_ms]
            for _, user_id, at_ms in recent:
                state.count(user_id, at_ms)
            if not recent:
                break
            before = rows[-1][0]
        return state

    # --- requests

    def track(
        self,
        key: RequestKey,
        record: Record,
        question: Question,
        *,
        width: int,
        n: int | None = None,
        counted_at_ms: int | None = None,
    ) -> Tracked:
        """Add an unfinished request. `n`: its number, if it has one."""
        if n is None:
            n = self.last_n = self.last_n + 1
        tracked = self.tracked[key] = Tracked(
            key=key,
            record=record,
            n=n,
            question=question,
            characters=len(question.message) + len(question.system or ""),
            title=title_of(question.message),
            replaces=question.replaces,
            width=width,
            counted_at_ms=counted_at_ms,
        )
        self._queues.setdefault(record.ordering_key, {})[n] = None
        self._pending[record.user_id] += 1
        self._characters += tracked.characters
        if self._characters > _MAX_CHARACTERS:
            self._drop_question(tracked)
        return tracked

    def track_refusal(self, key: RequestKey, record: Record) -> Tracked:
        """Add a request that ended before it was accepted, until it is on the disk."""
        self.last_n += 1
        tracked = self.tracked[key] = Tracked(key=key, record=record, n=self.last_n)
        return tracked

    def release(self, tracked: Tracked) -> None:
        """It does not wait or run any more: it has ended, or is gone. Twice is the same as once."""
        record = tracked.record
        queue = self._queues.get(record.ordering_key, {})
        if tracked.n not in queue:
            return
        del queue[tracked.n]
        if not queue:
            del self._queues[record.ordering_key]
        self._pending[record.user_id] -= 1
        if not self._pending[record.user_id]:
            del self._pending[record.user_id]
        self._drop_question(tracked)

    def _drop_question(self, tracked: Tracked) -> None:
        if tracked.question is not None:
            self._characters -= tracked.characters
            tracked.question = None

    def forget(self, tracked: Tracked) -> None:
        """Its row says everything from here on."""
        self.release(tracked)
        if self.tracked.get(tracked.key) is tracked:
            del self.tracked[tracked.key]

    def position(self, ordering_key: str, n: int) -> int:
        """Unfinished requests of the key accepted before number `n`."""
        return sum(other < n for other in self._queues.get(ordering_key, {}))

    def admit(self, record: Record, question: Question, quota: Quota, now_ms: int) -> Admission:
        """Decide about a request whose id is new."""
        user_id, window = record.user_id, self._windows.get(window_of(now_ms))
        budgets = self.budgets
        return admit(
            existing=None,
            position=len(self._queues.get(record.ordering_key, ())),
            pending=self._pending.get(user_id, 0),
            counted=0 if window is None else window[user_id],
            own_limit=self.limits.get(user_id),
            quota=quota,
            now_ms=now_ms,
            hold=budgets.hold(record, question, quota, now_ms) if budgets.by_holder else None,
            user_id=user_id,
            counters=budgets.counters,
        )

    # --- limits

    def is_known(self, user_id: str) -> bool:
        """Whether the user certainly has a row; from here on this is taken for granted."""
        if user_id in self._known:
            return True
        if len(self._known) >= _MAX_KNOWN_USERS:
            del self._known[next(iter(self._known))]
        self._known[user_id] = None
        return False

    def set_limit(self, user_id: str, per_minute: int | None) -> int | None:
        """The user has this limit of their own from now on (None: the default's); how it is stored."""
        return self._keep_limit(user_id, per_minute, is_blocked=self.is_blocked(user_id))

    def set_blocked(self, user_id: str, *, blocked: bool) -> int | None:
        """The user is locked out or let in from now on; how that is stored."""
        return self._keep_limit(user_id, unlocked(self.limits.get(user_id)), is_blocked=blocked)

    def is_blocked(self, user_id: str) -> bool:
        """Whether the user is locked out."""
        return is_locked(self.limits.get(user_id))

    def _keep_limit(self, user_id: str, own_limit: int | None, *, is_blocked: bool) -> int | None:
        stored = locked(own_limit) if is_blocked else own_limit
        self.limits.pop(user_id, None)
        if stored is not None:
            self.limits[user_id] = stored
        return stored

    def count(self, user_id: str, at_ms: int, requests: int = 1) -> None:
        """Count an accepted request of the user in its minute; -1 takes it back."""
        number = window_of(at_ms)
        window = self._windows.get(number)
        if window is None:
            # Several are kept because calls near a change of the minute may arrive in either order.
            window = self._windows[number] = Counter()
            if len(self._windows) > _WINDOWS_KEPT:
                del self._windows[min(n for n in self._windows if n != number)]
        window[user_id] += requests

    def settle_user(self, user_id: str) -> list[Entry]:
        """Give back what the user's unfinished requests hold, as if they ended: their rows are about to go.

        Without it a team would hold that for ever (rule: erasing ends first).
        """
        entries: list[Entry] = []
        for key, tracked in self.tracked.items():
            if key.user_id == user_id and tracked.record.hold is not None:
                entries += self.budgets.charged(erase(tracked.record, now_ms=0)).charge
        return entries

    def forget_user(self, user_id: str) -> None:
        """The user is erased. One who is locked out stays so."""
        for tracked in [tracked for key, tracked in self.tracked.items() if key.user_id == user_id]:
            self.forget(tracked)
        self.budgets.forget_user(user_id, keeps_budgets=self.is_blocked(user_id))
        if not self.is_blocked(user_id):
            self.limits.pop(user_id, None)
        self._known.pop(user_id, None)
        for window in self._windows.values():
            window.pop(user_id, None)
