"""ports.History on AWS: the model's context from DynamoDB, everything else from Aurora, brought up to date first."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from answerback.ports import StoredConversation, StoredTurn
from answerback.stores import statements as sql
from answerback.stores.encoding import conversation_of
from answerback.stores.store import conversations_page
from answerback_aws.runtime.aurora import operations
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.aurora.write_behind import WriteBehind
from answerback_aws.runtime.dynamodb.turns import DynamoTurns

AWAKE_S: Final = 150.0
"""An Aurora that answered so recently is awake: it pauses after 5 minutes at the earliest. A sweep a minute sees it."""

PURGE_EVERY_MS: Final = 3_600_000

_DAY_MS: Final = 24 * 3_600_000
_DAILY_MS: Final = 10 * 60_000
"""The first minutes of each day (UTC), in which Aurora is woken to purge; a failed try has more sweeps to succeed."""

_NEWEST: Final = 3
_ERASE_STEP: Final = 50
_PURGE_STEP: Final = 500


class AwsHistory:
    """ports.History over Aurora, and over DynamoDB for what Aurora does not have yet.

    What it reads from Aurora has every turn that ended before the call. While Aurora wakes up, or is down, a call waits
    until the time-out of `api`, then it is Unavailable; `recent_turns` never is for that reason. `clock`: epoch
    milliseconds.
    """

    def __init__(
        self, *, turns: DynamoTurns, write_behind: WriteBehind, api: DataApi, clock: Callable[[], int]
    ) -> None:
        self._turns = turns
        self._write_behind = write_behind
        self._api = api
        self._clock = clock
        self._purged_at_ms = -PURGE_EVERY_MS

    async def recent_turns(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        """Read DynamoDB alone."""
        return await self._turns.recent_turns(user_id, conversation_id, limit=limit, before_request=before_request)

    async def turns(
        self, user_id: str, conversation_id: str, *, before: int | None, limit: int, superseded: bool = False
    ) -> Sequence[StoredTurn]:
        await self._bring(user_id, conversation_id)
        return await self._api.read(
            lambda statements: operations.turns(
                statements, user_id, conversation_id, before=before, limit=limit, superseded=superseded
            )
        )

    async def conversations(
        self, user_id: str, *, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredConversation]:
        """List conversations. One that began less than a second ago may be missing."""
        await self._write_behind.flush(user_id)
        page = conversations_page(user_id, before=before, limit=limit)
        found = await self._api.read(lambda statements: statements.execute(sql.SELECT_CONVERSATIONS, page))
        return [conversation_of(row) for row in found.rows]

    async def update_conversation(
        self, user_id: str, conversation_id: str, *, title: str | None, deleted: bool | None, now_ms: int
    ) -> StoredConversation | None:
        """Change a conversation in Aurora, then in DynamoDB.

        update    turns to Aurora ──► change Aurora ──► mark on DynamoDB ──► reply to the user
                                                     ▲
                        dies here: no reply, and the same call again sets the same mark
        """
        await self._bring(user_id, conversation_id)

        async def change(statements: Statements) -> tuple[StoredConversation, int | None] | None:
            await operations.lock_users(statements, [user_id])
            return await operations.update_conversation(
                statements, user_id, conversation_id, title=title, deleted=deleted, now_ms=now_ms
            )

        found = await self._api.write(change)
        if found is None:
            return None
        conversation, deleted_at_ms = found
        if deleted_at_ms is not None:
            await self._turns.delete_conversation(user_id, conversation_id, now_ms=deleted_at_ms)
        elif deleted is not None:
            await self._restore(user_id, conversation)
        return conversation

    async def _restore(self, user_id: str, conversation: StoredConversation) -> None:
        """Remove the mark, unless the conversation has started again after it: then it hides what is gone for good."""
        conversation_id = conversation.conversation_id
        marked_at_ms = await self._turns.deleted_at_ms(user_id, conversation_id)
        if marked_at_ms is not None and conversation.created_at_ms <= marked_at_ms:
            await self._turns.restore_conversation(user_id, conversation_id)

    async def delete_expired(self, *, now_ms: int, keep_days: int) -> int:
        """Delete when `purge_deleted` purges, at most once an hour: it must not keep Aurora awake either.

        expire    mark on DynamoDB ──► delete in Aurora, unless a turn has come since
                                    ▲
            dies here: the model has forgotten it, and the next sweep does the rest
        """
        if not self._may_purge(now_ms):
            return 0
        deleted = 0
        while old := await self._api.read(
            lambda statements: operations.expired(statements, now_ms=now_ms, keep_days=keep_days, limit=_ERASE_STEP)
        ):
            for user_id, conversation_id, used_at_ms in old:
                await self._turns.delete_conversation(user_id, conversation_id, now_ms=used_at_ms)
                expire = partial(operations.expire, user_id=user_id, conversation_id=conversation_id)
                deleted += await self._api.write(partial(expire, used_at_ms=used_at_ms))
        return deleted

    async def purge_deleted(self, *, before_ms: int) -> int:
        """Most calls purge nothing: the sweep of every minute must not keep Aurora awake.

        It purges when Aurora is awake anyway, at most once an hour, and else in the first minutes of the day (UTC).
        """
        if not self._may_purge(self._clock()):
            return 0
        erased = await self.purge_now(before_ms=before_ms)
        self._purged_at_ms = self._clock()
        return erased

    def _may_purge(self, now_ms: int) -> bool:
        if now_ms - self._purged_at_ms < PURGE_EVERY_MS:
            return False
        idle_s = self._api.idle_s
        return (idle_s is not None and idle_s < AWAKE_S) or now_ms % _DAY_MS < _DAILY_MS

    async def purge_now(self, *, before_ms: int) -> int:
        """Erase what was deleted before then, and the receipts of turns that ended before; wakes Aurora."""
        while await self._api.write(
            lambda statements: operations.purge(statements, before_ms=before_ms, limit=_PURGE_STEP)
        ):
            pass
        erased = 0
        while old := await self._api.read(
            lambda statements: operations.old_deleted(statements, before_ms=before_ms, limit=_ERASE_STEP)
        ):
            for user_id, conversation_id in old:
                erased += await self._erase(user_id, conversation_id, before_ms)
        return erased

    async def _erase(self, user_id: str, conversation_id: str, before_ms: int) -> bool:
        """The context first: once Aurora has forgotten the conversation, nothing would erase it here."""

        async def erase(statements: Statements) -> bool:
            await operations.lock_users(statements, [user_id])
            return await operations.erase_deleted(statements, user_id, conversation_id, before_ms=before_ms)

        await self._turns.erase_conversation(user_id, conversation_id)
        return await self._api.write(erase)

    async def _bring(self, user_id: str, conversation_id: str) -> None:
        """Write every ended turn of the conversation to Aurora."""
        await self._write_behind.flush(user_id)
        if just_ended := await self._turns.newest_pending(user_id, conversation_id, turns=_NEWEST):
            await self._write_behind.write(just_ended)
