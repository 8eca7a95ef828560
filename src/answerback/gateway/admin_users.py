"""Users on the admin port: who there is, their limits, what they used, and their erasure.

GET    /users?after=ID&limit=N     {"users": [...]}
GET    /users/ID                   one user; 404
PUT    /users/ID/limit             {"perMinute": N}; null = the default, 0 = no limit
DELETE /users/ID                   erases everything about the user; 404
GET    /usage?user=ID&since=DAY    {"usage": [...]}
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from answerback.ports import DailyUsage, StoredUser, Users
from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH, MAX_PAGE

MAX_LIMIT: Final = 1_000_000
"""Requests a minute that a user's own limit may allow."""

PAGES: Final = frozenset({"users", "usage"})
"""The first part of the paths that are answered here."""

_IS_VISIBLE: Final = re.compile(VISIBLE)
_IS_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class _Refusal(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class AdminUsers:
    """Answers the requests of the admin port that are about users; who may ask was checked before.

    `clock`: epoch milliseconds.
    """

    def __init__(self, *, users: Users, clock: Callable[[], int]) -> None:
        self._users = users
        self._clock = clock

    async def answer(self, request: web.BaseRequest, path: Sequence[str]) -> web.Response:
        """Answer one request for the unquoted parts of its path. Raises: Unavailable."""
        try:
            return _json(200, await self._answer(request, path))
        except _Refusal as refusal:
            return _json(refusal.status, {"message": refusal.text})

    async def _answer(self, request: web.BaseRequest, path: Sequence[str]) -> Mapping[str, Any]:
        match (request.method, *path):
            case ("GET", "users"):
                return await self._list(request)
            case ("GET", "users", user_id):
                return await self._show(_checked(user_id))
            case ("PUT", "users", user_id, "limit"):
                return await self._set_limit(_checked(user_id), request)
            case ("DELETE", "users", user_id):
                return await self._delete(_checked(user_id))
            case ("GET", "usage"):
                return await self._usage(request)
            case _:
                raise _Refusal(405, "There are GET /users, GET and DELETE /users/ID, PUT /users/ID/limit, GET /usage.")

    async def _list(self, request: web.BaseRequest) -> Mapping[str, Any]:
        limit = request.query.get("limit", str(MAX_PAGE))
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_PAGE:
            raise _Refusal(400, f"limit must be a whole number from 1 to {MAX_PAGE}.")
        found = await self._users.users(after=request.query.get("after"), limit=int(limit))
        return {"users": [_shown(user) for user in found]}

    async def _show(self, user_id: str) -> Mapping[str, Any]:
        user = await self._users.user(user_id)
        if user is None:
            raise _no_such_user()
        return _shown(user)

    async def _set_limit(self, user_id: str, request: web.BaseRequest) -> Mapping[str, Any]:
        try:
            per_minute = (await request.json())["perMinute"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _Refusal(400, 'Send {"perMinute": N}; null is the default, 0 no limit.') from None
        is_number = isinstance(per_minute, int) and not isinstance(per_minute, bool)
        if per_minute is not None and not (is_number and 0 <= per_minute <= MAX_LIMIT):
            raise _Refusal(400, f"perMinute must be null or a whole number from 0 to {MAX_LIMIT}.")
        await self._users.set_limit(user_id, per_minute, now_ms=self._clock())
        return await self._show(user_id)

    async def _delete(self, user_id: str) -> Mapping[str, Any]:
        if not await self._users.delete_user(user_id):
            raise _no_such_user()
        return {"deleted": True}

    async def _usage(self, request: web.BaseRequest) -> Mapping[str, Any]:
        since = request.query.get("since")
        if since is not None and not _IS_DAY.fullmatch(since):
            raise _Refusal(400, "since must be a day as in 2026-01-31.")
        found = await self._users.usage(request.query.get("user"), since_day=since)
        return {"usage": [_shown(day) for day in found]}


def _shown(row: StoredUser | DailyUsage) -> dict[str, Any]:
    """A row with the names that JSON has here: `per_minute` is `perMinute`."""
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in asdict(row).items()}


def _checked(user_id: str) -> str:
    if len(user_id) > MAX_ID_LENGTH or not _IS_VISIBLE.match(user_id):
        raise _Refusal(400, f"A user id is 1 to {MAX_ID_LENGTH} visible characters.")
    return user_id


def _no_such_user() -> _Refusal:
    return _Refusal(404, "There is no such user. GET /users lists them.")


def _json(status: int, content: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=json.dumps(content).encode(), content_type="application/json")
