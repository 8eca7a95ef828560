"""Writes behind: from the turns that wait on DynamoDB to Aurora, in batches, so that Aurora may sleep in between."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from answerback.ports import Unavailable
from answerback.stores.database import StoreError
from answerback_aws.runtime.aurora import operations
from answerback_aws.runtime.aurora.data_api import DataApi, StatementFailed, Statements
from answerback_aws.runtime.dynamodb.turns import DynamoTurns, PendingTurn

log = logging.getLogger("answerback.archiver")

MAX_AGE_MS: Final = 15 * 60_000
MAX_WAITING: Final = 200
"""From so many turns on they are written, however young they are."""

_PAGE: Final = 500
_MOST: Final = 2_000
"""Turns that one flush takes on; what is left is the next one's."""

_BATCH: Final = 100
_BATCH_CHARACTERS: Final = 500_000
_MARK_CHARACTERS: Final = 100


_OF_THE_DATA: Final = frozenset({"22", "23", "54"})
"""Classes of SQLSTATE that blame the data. Any other one would be the same with every turn."""


class _Unwritable(Exception):
    """What is in a turn, or in one of several, cannot be written."""


class WriteBehindObserver(Protocol):
    """Receives how far the history lags behind. Must not raise or wait."""

    def waiting(self, turns: int, oldest_ms: int) -> None:
        """So many turns are not in Aurora, the oldest of them for so long."""

    def turns_written(self, turns: int) -> None:
        """Turns were written."""

    def turns_not_written(self) -> None:
        """A turn cannot be written. It stays pending and is tried again, but an operator should look."""


class WriteBehind:
    """Brings ended turns to Aurora, each once.

        flush    pending ──► [ lock the users ──► still there? ──► write turns, receipts, usage ──► commit ] ──► settled
                          ▲                                                                              ▲
          dies here: nothing happened                            dies here: the receipts show that it is done

    `max_age_ms`: from when on `flush_if_due` writes; between two flushes Aurora has the time to pause. `clock`: epoch
    milliseconds.
    """

    def __init__(
        self,
        *,
        pending_turns: DynamoTurns,
        api: DataApi,
        observer: WriteBehindObserver,
        clock: Callable[[], int],
        max_age_ms: int = MAX_AGE_MS,
    ) -> None:
        self._pending_turns = pending_turns
        self._api = api
        self._observer = observer
        self._clock = clock
        self._max_age_ms = max_age_ms

    def due(self, *, oldest_ms: int, turns: int) -> bool:
        """Whether so many turns, the oldest of which waits for so long, are worth waking Aurora."""
        return turns > 0 and (turns >= MAX_WAITING or oldest_ms >= self._max_age_ms)

    async def flush_if_due(self) -> int:
        """Write what waits, if it is due; returns how many turns were new. Raises as `flush`."""
        ended = await self._pending_turns.waiting(limit=MAX_WAITING)
        oldest_ms = max(0, self._clock() - min(ended)) if ended else 0
        self._observer.waiting(len(ended), oldest_ms)
        return await self.flush() if self.due(oldest_ms=oldest_ms, turns=len(ended)) else 0

    async def flush(self, user_id: str | None = None) -> int:
        """Write what waits, of one user or of all; returns how many turns were new.

        A turn that cannot be written stays pending and stops no other.

        Raises: Unavailable, StoreError, StatementFailed:
        Aurora cannot be used now, or its tables are not the ones of this version; no entry is lost.
        """
        seen: set[tuple[str, str, int]] = set()
        written = 0
        while len(seen) < _MOST:
            # Turns that were just settled, or cannot be, may still be shown: look behind them.
            limit = _PAGE + len(seen)
            found = await self._pending_turns.pending(user_id=user_id, limit=limit)
            fresh = [entry for entry in found if _name(entry) not in seen]
            for batch in _batches(fresh):
                written += await self._write(batch)
            seen.update(map(_name, fresh))
            if not fresh or len(found) < limit:
                break
        return written

    async def write(self, entries: Sequence[PendingTurn]) -> int:
        """Write these turns; returns how many were new. Raises as `flush`."""
        return sum([await self._write(batch) for batch in _batches(entries)])

    async def _write(self, batch: Sequence[PendingTurn]) -> int:
        try:
            written = await self._api.write(lambda statements: self._write_turns(statements, batch))
        except _Unwritable as exc:
            if len(batch) == 1:
                self._give_up(batch[0], exc)
                return 0
        else:
            self._observer.turns_written(written)
            await self._pending_turns.settled(batch)
            return written
        # One of them is at fault: its neighbours must not suffer.
        half = len(batch) // 2
        return await self._write(batch[:half]) + await self._write(batch[half:])

    async def _write_turns(self, statements: Statements, batch: Sequence[PendingTurn]) -> int:
        """Write in a transaction. Erasing a user deletes the pending turns first and then takes the same lock.

        So what is written of a record that is present here is deleted after that, and one that is gone is not written.
        """
        await operations.lock_users(statements, {entry.user_id for entry in batch})
        present = await self._pending_turns.present(batch)
        try:
            return await operations.write_turns(statements, present) if present else 0
        except (Unavailable, StoreError):
            raise
        except StatementFailed as exc:
            if exc.sqlstate is not None and exc.sqlstate[:2] not in _OF_THE_DATA:
                raise
            raise _Unwritable(str(exc)) from None
        except Exception as exc:
            raise _Unwritable(type(exc).__name__) from None  # its words may be the user's

    def _give_up(self, entry: PendingTurn, cause: _Unwritable) -> None:
        self._observer.turns_not_written()
        facts = {"userId": entry.user_id, "requestId": entry.turn.request_id, "cause": str(cause)}
        log.error("a turn cannot be written to Aurora; it is tried again with the next flush", extra=facts)


def _name(entry: PendingTurn) -> tuple[str, str, int]:
    return entry.user_id, entry.conversation_id, entry.turn.position


def _batches(entries: Sequence[PendingTurn]) -> Iterator[Sequence[PendingTurn]]:
    """In order; each small enough for one transaction, with no request id of a user twice."""
    batch: list[PendingTurn] = []
    ids: set[tuple[str, str]] = set()
    characters = 0
    for entry in entries:
        name = (entry.user_id, entry.turn.request_id)
        turn = entry.turn
        length = len(turn.question) + len(turn.answer) + _MARK_CHARACTERS * len(turn.marks)
        if batch and (name in ids or len(batch) == _BATCH or characters + length > _BATCH_CHARACTERS):
            yield batch
            batch, ids, characters = [], set(), 0
        batch.append(entry)
        ids.add(name)
        characters += length
    if batch:
        yield batch
