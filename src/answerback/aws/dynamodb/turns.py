"""The turns of conversations on DynamoDB: the model's context, and the durable note of what Aurora does not have yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from answerback.aws.calls import Calls
from answerback.aws.dynamodb.tables import Tables
from answerback.ports import StoredTurn


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An ended turn that Aurora may not have yet: all that the history keeps of it.

    `turn.position` is unique in its conversation and orders a user's turns by acceptance; it is below 2**53. Of a user's
    notes the one with the lower position is to be written first.
    """

    user_id: str
    conversation_id: str
    turn: StoredTurn


class DynamoTurns:
    """`ports.History.tail`, and what the archiver and the rest of the history need. Every method may raise Unavailable."""

    def __init__(self, *, client: Any, calls: Calls, tables: Tables) -> None:
        self._client = client
        self._calls = calls
        self._tables = tables

    async def tail(
        self, user_id: str, conversation_id: str, *, limit: int, before_request: str | None = None
    ) -> Sequence[StoredTurn]:
        """See ports.History."""
        raise NotImplementedError

    async def pending(self, *, user_id: str | None = None, limit: int = 100) -> Sequence[Note]:
        """Turns that are not settled, of one user or of all, each user's in the order accepted.

        At least once: a turn may come again until `settled` was told of it. A turn that ended less than a second ago may
        be missing (the index follows the table with a delay).
        """
        raise NotImplementedError

    async def settled(self, notes: Sequence[Note]) -> None:
        """These turns are in Aurora, or are not to be kept: they are pending no more. May be said again."""
        raise NotImplementedError

    async def delete_conversation(self, user_id: str, conversation_id: str, *, now_ms: int) -> None:
        """Hide every turn that was asked until now from `tail`. May be said again."""
        raise NotImplementedError

    async def restore_conversation(self, user_id: str, conversation_id: str) -> None:
        """Take the deletion back. Answers that came after it to questions from before it are not kept."""
        raise NotImplementedError

    async def deleted_at_ms(self, user_id: str, conversation_id: str) -> int | None:
        """When the conversation was last deleted and not restored. Turns asked after that begin it anew."""
        raise NotImplementedError

    async def erase_conversation(self, user_id: str, conversation_id: str) -> None:
        """Delete for good every turn that was asked before the deletion."""
        raise NotImplementedError
