"""The table of a request's life: what each event does in each state. `core/request.py` carries it out.

Theory of operation. A cell of `TRANSITIONS` names an effect, or asks a guard which of two cells holds. The table has a
cell for every state and every event, so that what may happen can be read here as a whole, and a test can visit all of
it. It knows nothing of the record: the guards are names, and their conditions stand beside the record.

          accept            claim                     finish
    ( ) ---------> accepted -------> running (attempt n) -------> completed | failed | cancelled
     |                |                 ^  |   |                              ^
     |                |                 +--+   |                              |
     |                |     claim after a      | expire after a lost lease    |
     |                |        lost lease      |                              |
     | refuse, cancel | cancel, expire, erase  | erase                        |
     +----------------+------------------------+------------------------------+

A claim ends a request that is late instead of running it, and one that ran before also if it was cancelled or has had
its last attempt. A running request that is cancelled goes on until its worker, or the next claim, sees the note. One
that waits ends at once, so it never has that note.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias


class State(StrEnum):
    """Where a request is. The last three are terminal."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class Event(StrEnum):
    """What can happen to a record."""

    CLAIM = "claim"
    RENEW = "renew"
    POLL = "poll"
    FINISH = "finish"
    RETARGET = "retarget"
    WATCH = "watch"
    CANCEL = "cancel"
    REFUSE = "refuse"
    EXPIRE = "expire"
    QUEUED = "queued"
    RECOVER = "recover"
    ERASE = "erase"


class Effect(StrEnum):
    """What an event does. The first group changes the record, the second leaves it as it is."""

    RUN = "start the next attempt"
    EXTEND = "extend the lease"
    FINISH = "store the owner's ending"
    END_CANCELLED = "end as cancelled, raising the attempt"
    END_TIMED_OUT = "end as failed by a time-out, raising the attempt"
    END_EXHAUSTED = "end as failed after the last attempt, raising the attempt"
    END_EXPIRED = "end as failed with the caller's code, raising the attempt"
    SET_TARGET = "set the target"
    NOTE_WATCHER = "note the watcher"
    NOTE_CANCEL = "note the cancellation"
    NOTE_QUEUED = "note the queue number"
    RESET = "void the lease and the target"

    OWNED = "the attempt is the caller's"
    BUSY = "another worker holds the lease"
    FENCED = "the attempt is not the caller's"
    CONFLICT = "the request belongs to another session"
    PENDING = "the request goes on"
    ENDED = "the request has ended"
    IGNORED = "nothing to do"


class Guard(StrEnum):
    """What the effect of an event may depend on, besides the state. `core/request.py` decides each."""

    OWNS_LEASE = "owns lease"
    OWNS_ATTEMPT = "owns attempt"
    LEASE_IS_OVER = "lease is over"
    IS_CANCELLED = "is cancelled"
    IS_LATE = "is late"
    ATTEMPTS_ARE_SPENT = "attempts are spent"
    ASKED_IT = "asked it"
    IS_OLDER = "is older"
    WATCHED_LATER = "watched later"


@dataclass(frozen=True, slots=True)
class If:
    """A cell of the table that depends: `then` where the guard holds, else `otherwise`."""

    guard: Guard
    then: "Cell"
    otherwise: "Cell"


Cell: TypeAlias = Effect | If

_RUN_AGAIN: Final = If(
    Guard.IS_CANCELLED,
    Effect.END_CANCELLED,
    If(Guard.IS_LATE, Effect.END_TIMED_OUT, If(Guard.ATTEMPTS_ARE_SPENT, Effect.END_EXHAUSTED, Effect.RUN)),
)
_RETARGET: Final = If(Guard.ASKED_IT, If(Guard.IS_OLDER, Effect.PENDING, Effect.SET_TARGET), Effect.CONFLICT)
_WATCH: Final = If(Guard.ASKED_IT, Effect.CONFLICT, If(Guard.WATCHED_LATER, Effect.PENDING, Effect.NOTE_WATCHER))
_WHEN_ENDED: Final[Mapping[Event, Cell]] = MappingProxyType(
    {
        Event.CLAIM: Effect.ENDED,
        Event.RENEW: Effect.FENCED,
        Event.POLL: Effect.FENCED,
        Event.FINISH: If(Guard.OWNS_ATTEMPT, Effect.ENDED, Effect.FENCED),
        Event.RETARGET: If(Guard.ASKED_IT, Effect.ENDED, Effect.CONFLICT),
        Event.WATCH: If(Guard.ASKED_IT, Effect.CONFLICT, Effect.ENDED),
        Event.CANCEL: If(Guard.ASKED_IT, Effect.ENDED, Effect.CONFLICT),
        Event.REFUSE: Effect.ENDED,
        Event.EXPIRE: Effect.ENDED,
        Event.QUEUED: Effect.IGNORED,
        Event.RECOVER: Effect.IGNORED,
        Event.ERASE: Effect.ENDED,
    }
)
TRANSITIONS: Final[Mapping[State, Mapping[Event, Cell]]] = MappingProxyType(
    {
        State.ACCEPTED: MappingProxyType(
            {
                Event.CLAIM: If(Guard.IS_LATE, Effect.END_TIMED_OUT, Effect.RUN),
                Event.RENEW: Effect.FENCED,
                Event.POLL: Effect.FENCED,
                Event.FINISH: Effect.FENCED,
                Event.RETARGET: _RETARGET,
                Event.WATCH: _WATCH,
                Event.CANCEL: If(Guard.ASKED_IT, Effect.END_CANCELLED, Effect.CONFLICT),
                Event.REFUSE: Effect.PENDING,
                Event.EXPIRE: Effect.END_EXPIRED,
                Event.QUEUED: Effect.NOTE_QUEUED,
                Event.RECOVER: Effect.RESET,
                Event.ERASE: Effect.END_CANCELLED,
            }
        ),
        State.RUNNING: MappingProxyType(
            {
                Event.CLAIM: If(Guard.OWNS_LEASE, Effect.OWNED, If(Guard.LEASE_IS_OVER, _RUN_AGAIN, Effect.BUSY)),
                Event.RENEW: If(Guard.OWNS_ATTEMPT, Effect.EXTEND, Effect.FENCED),
                Event.POLL: If(Guard.OWNS_ATTEMPT, Effect.OWNED, Effect.FENCED),
                Event.FINISH: If(Guard.OWNS_ATTEMPT, Effect.FINISH, Effect.FENCED),
                Event.RETARGET: _RETARGET,
                Event.WATCH: _WATCH,
                Event.CANCEL: If(
                    Guard.ASKED_IT, If(Guard.IS_CANCELLED, Effect.PENDING, Effect.NOTE_CANCEL), Effect.CONFLICT
                ),
                Event.REFUSE: Effect.PENDING,
                Event.EXPIRE: If(
                    Guard.LEASE_IS_OVER, If(Guard.IS_CANCELLED, Effect.END_CANCELLED, Effect.END_EXPIRED), Effect.BUSY
                ),
                Event.QUEUED: Effect.IGNORED,
                Event.RECOVER: Effect.RESET,
                Event.ERASE: Effect.END_CANCELLED,
            }
        ),
        State.COMPLETED: _WHEN_ENDED,
        State.FAILED: _WHEN_ENDED,
        State.CANCELLED: _WHEN_ENDED,
    }
)
