"""The name of a deployment's data: made by whoever asks first, the same for as long as the tables are."""

import uuid
from typing import Final

from answerback.ports import Unavailable
from answerback_aws.runtime.dynamodb.database import Database, Refused
from answerback_aws.runtime.dynamodb.items import Value, encode, text_of

_KEY: Final[dict[str, Value]] = {"userId": " store", "item": "id"}
"""In the table of conversations. No user has a space in the name."""


class StoreId:
    """The name is read once a process, and kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.conversations
        self._known: str | None = None

    async def read(self) -> str | None:
        """The name; None: it cannot be read now. A connection does not fail for it.

        read ──► there is one
          │
          └────► put a new one, if there is none ──► refused: another function was faster, and has told its own
        """
        if self._known is None:
            try:
                self._known = text_of(await self._database.get(self._table, _KEY, consistent=False) or {}, "storeId")
                self._known = self._known or await self._make()
            except Unavailable:
                return None
        return self._known

    async def _make(self) -> str | None:
        new = str(uuid.uuid4())
        condition = "attribute_not_exists(userId)"
        refused = await self._database.put(self._table, encode({**_KEY, "storeId": new}), ConditionExpression=condition)
        return text_of(refused.items[0] or {}, "storeId") if isinstance(refused, Refused) else new
