"""Users over the admin port: what `answerback users` says to a gateway that holds the store."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from answerback.ports import DailyUsage, StoredUser, Users
from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH

MAX_PAGE: Final = 1_000
MAX_PER_MINUTE: Final = 1_000_000_000

_IS_VISIBLE: Final = re.compile(VISIBLE)
_IS_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class BadRequest(Exception):
    """The request cannot be understood; the text says what to send."""


class UserAdmin:
    """Answers with what becomes the JSON body; None for a user that is not there. Raises: BadRequest; Unavailable.

    `dismiss`: ends what a user's apps wait for, before everything about the user is erased.
    """

    def __init__(self, *, users: Users, dismiss: Callable[[str], Awaitable[None]], clock: Callable[[], int]) -> None:
        self._users = users
        self._dismiss = dismiss
        self._clock = clock

    async def list(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET /users?after=ID&limit=N`."""
        limit = query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= MAX_PAGE):
            raise BadRequest(f"limit must be a whole number from 1 to {MAX_PAGE}.")
        return {"users": _camel(await self._users.users(after=query.get("after"), limit=int(limit)))}

    async def show(self, user_id: str) -> dict[str, Any] | None:
        """`GET /users/ID`."""
        user = await self._users.user(user_id)
        return None if user is None else _camel([user])[0]

    async def set_limit(self, user_id: str, body: bytes) -> dict[str, Any]:
        """`PUT /users/ID/limit` with `{"perMinute": N}`; null: the server's default, 0: no limit."""
        if len(user_id) > MAX_ID_LENGTH or not _IS_VISIBLE.match(user_id):
            raise BadRequest(f"A user id is 1 to {MAX_ID_LENGTH} visible characters.")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        per_minute = content.get("perMinute", -1) if isinstance(content, dict) else -1
        if per_minute is not None and (type(per_minute) is not int or not 0 <= per_minute <= MAX_PER_MINUTE):
            raise BadRequest('Send {"perMinute": N}: a whole number, 0 for no limit, null for the default.')
        await self._users.set_limit(user_id, per_minute, now_ms=self._clock())
        return {"userId": user_id, "perMinute": per_minute}

    async def usage(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET /usage?user=ID&since=YYYY-MM-DD`."""
        since = query.get("since")
        if since is not None and not _IS_DAY.fullmatch(since):
            raise BadRequest("since must be a day, YYYY-MM-DD.")
        return {"usage": _camel(await self._users.usage(query.get("user"), since_day=since))}

    async def delete(self, user_id: str) -> dict[str, Any] | None:
        """`DELETE /users/ID`: no app waits for ever for an answer that is erased."""
        await self._dismiss(user_id)
        return {"userId": user_id, "deleted": True} if await self._users.delete_user(user_id) else None


def _camel(rows: Sequence[StoredUser] | Sequence[DailyUsage]) -> list[dict[str, Any]]:
    return [{_camel_name(name): value for name, value in asdict(row).items()} for row in rows]


def _camel_name(name: str) -> str:
    return re.sub("_([a-z])", lambda match: match[1].upper(), name)
