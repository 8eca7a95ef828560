"""Admission: whether a new request may be stored. The rate counts calendar minutes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from msgspec import Struct

from answerback.core import budget
from answerback.core.budget import Budget, Counters, Hold, OverBudget, Tariff, bound
from answerback.core.context import told_schema
from answerback.core.request import Question, Record
from answerback.core.uploads import bound_of

WINDOW_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits that acceptance checks. `per_minute` is the default; a user's own limit in the store wins. 0 = none.

    `tariff`: what a reservation rests on, for users who have a budget. `team`: of the user, as the token has it; it
    wins over the one in the store.
    """

    per_minute: int
    max_pending: int
    tariff: Tariff = field(default_factory=Tariff)
    team: str | None = None

    def limit_of(self, own_limit: int | None) -> int:
        """Requests that a user with this limit of their own may ask in a minute. 0 = any number."""
        return self.per_minute if own_limit is None else own_limit


class Accepted(Struct, frozen=True):
    """Stored and counted. `position`: unfinished requests of the same ordering key accepted before it. `is_behind`: one
    of those is another gateway's, so this one was stored without its claim. `hold`: what it holds of budgets.
    """

    position: int
    is_behind: bool = False
    hold: Hold | None = None


class Existing(Struct, frozen=True):
    """The request id is taken; nothing was counted. `position` as in `Accepted` (0 if ended)."""

    record: Record
    position: int


class Limited(Struct, frozen=True):
    """Over the rate limit; nothing was stored."""

    retry_after_ms: int


class Full(Struct, frozen=True):
    """The user has `max_pending` unfinished requests; nothing was stored."""


class Blocked(Struct, frozen=True):
    """The operator has locked the user out; nothing was stored."""


Admission: TypeAlias = Accepted | Existing | Limited | Full | Blocked | OverBudget


# A locked-out user is stored as a limit below zero that keeps their own: no table has to change for it, and a program
# that does not know it refuses the user, too.


def locked(own_limit: int | None) -> int:
    """How the limit of a user is stored who is locked out. Twice is the same as once."""
    if own_limit is None:
        return -1
    return -2 - own_limit if own_limit >= 0 else own_limit


def unlocked(stored: int | None) -> int | None:
    """The user's own limit, whether they are locked out or not."""
    if stored is None or stored == -1:
        return None
    return -2 - stored if stored < 0 else stored


def is_locked(stored: int | None) -> bool:
    """Whether a stored limit says that the user is locked out."""
    return stored is not None and stored < 0


def admit(
    *,
    existing: Record | None,
    position: int,
    pending: int,
    counted: int,
    own_limit: int | None,
    quota: Quota,
    now_ms: int,
    hold: Hold | OverBudget | None = None,
    user_id: str = "",
    counters: Counters | None = None,
) -> Admission:
    """Decide about a new request. Every store gives the facts, and writes what this says.

    `existing`: the record of its id, if there is one. `position`: unfinished requests of its ordering key accepted
    before it (or before `existing`). `pending`: the user's unfinished requests. `counted`: the user's requests that
    were accepted in this minute. `own_limit`: as it is stored. `hold`: what the request has to hold of budgets, whose
    `counters` stand so. An id that exists is free; only then come the pending cap, the rate and the budgets.
    """
    if existing is not None:
        return admit_again(existing, position=position)
    if is_locked(own_limit):
        return Blocked()
    if pending >= quota.max_pending:
        return Full()
    limit = quota.limit_of(own_limit)
    if limit and counted >= limit:
        return Limited(retry_after_ms(now_ms))
    if hold is None:
        return Accepted(position)
    if isinstance(hold, OverBudget):
        return hold
    return budget.fits(hold, user_id, counters or {}, now_ms=now_ms) or Accepted(position, hold=hold)


def hold_of(
    record: Record,
    question: Question,
    quota: Quota,
    *,
    own: Sequence[Budget],
    team: str | None,
    of_team: Sequence[Budget],
    now_ms: int,
) -> Hold | OverBudget | None:
    """What a new request has to hold of the budgets of its user and of the user's team; None: there are none."""
    windows = budget.windows_of(own, now_ms, of_team=False) + budget.windows_of(of_team, now_ms, of_team=True)
    if not windows:
        return None
    schema = None if question.format is None else told_schema(None, question.format.json_schema)
    return quota.tariff.hold(
        model=record.model,
        extra_tokens=bound(schema) + sum(bound_of(one.media_type, one.size) for one in question.attachments),
        message=question.message,
        system=question.system,
        max_tokens=question.max_tokens,
        has_context=not record.standalone,
        windows=windows,
        team=team if of_team else None,
    )


def admit_again(existing: Record, *, position: int) -> Existing:
    """What `admit` decides about an id that exists: it needs no other fact, for no limit applies."""
    return Existing(existing, 0 if existing.state.is_terminal else position)


def window_of(now_ms: int) -> int:
    """The number of the minute that `now_ms` lies in."""
    return now_ms // WINDOW_MS


def retry_after_ms(now_ms: int) -> int:
    """Milliseconds until the next minute begins: at least 1, at most a minute."""
    return WINDOW_MS - now_ms % WINDOW_MS


class MinuteCounts:
    """How often each name was counted in the present minute. Forgets a minute when the next one is counted in."""

    __slots__ = ("_counts", "_window")

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[str] = Counter()

    def count(self, name: str, now_ms: int) -> int:
        """Count once. Returns how often that makes in this minute."""
        window = window_of(now_ms)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[name] += 1
        return self._counts[name]
