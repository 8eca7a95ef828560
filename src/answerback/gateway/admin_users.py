"""Users on the admin port: who there is, their limits, what they used, and their erasure.

    GET    /users?after=ID&limit=N     {"users": [...]}
    GET    /users/ID                   one user; 404
    PUT    /users/ID/limit             {"perMinute": N}; null = the default, 0 = no limit
    DELETE /users/ID                   erases everything about the user; 404
    GET    /usage?user=ID&since=DAY    {"usage": [...]}

The admin app lets in only who knows its key; nothing here checks that again.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from answerback.ports import DailyUsage, StoredUser, Unavailable, Users
from answerback.protocol.frames import VISIBLE
from answerback.protocol.limits import MAX_ID_LENGTH, MAX_PAGE

MAX_LIMIT: Final = 1_000_000
"""Requests a minute that a user's own limit may allow."""

_IS_VISIBLE: Final = re.compile(VISIBLE)
_IS_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class UserRoutes:
    """Handlers over a store's users. `now_ms`: epoch milliseconds."""

    def __init__(self, users: Users, *, now_ms: Callable[[], int]) -> None:
        self._users = users
        self._now_ms = now_ms

    def routes(self) -> list[web.RouteDef]:
        """What to add to the admin app's router."""
        return [
            web.get("/users", _told(self._list)),
            web.get("/users/{user_id}", _told(self._show)),
            web.put("/users/{user_id}/limit", _told(self._set_limit)),
            web.delete("/users/{user_id}", _told(self._delete)),
            web.get("/usage", _told(self._usage)),
        ]

    async def _list(self, request: web.Request) -> object:
        limit = request.query.get("limit", str(MAX_PAGE))
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_PAGE:
            raise _Refusal(400, f"limit must be a whole number from 1 to {MAX_PAGE}.")
        found = await self._users.users(after=request.query.get("after"), limit=int(limit))
        return {"users": [as_json(user) for user in found]}

    async def _show(self, request: web.Request) -> object:
        user = await self._users.user(_user_id(request))
        if user is None:
            raise _Refusal(404, "No such user.")
        return as_json(user)

    async def _set_limit(self, request: web.Request) -> object:
        user_id = _user_id(request)
        try:
            per_minute = (await request.json())["perMinute"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _Refusal(400, 'Send {"perMinute": N}; null is the default, 0 no limit.') from None
        is_number = isinstance(per_minute, int) and not isinstance(per_minute, bool)
        if per_minute is not None and not (is_number and 0 <= per_minute <= MAX_LIMIT):
            raise _Refusal(400, f"perMinute must be null or a whole number from 0 to {MAX_LIMIT}.")
        await self._users.set_limit(user_id, per_minute, now_ms=self._now_ms())
        user = await self._users.user(user_id)
        return None if user is None else as_json(user)

    async def _delete(self, request: web.Request) -> object:
        if not await self._users.delete_user(_user_id(request)):
            raise _Refusal(404, "No such user.")
        return {"deleted": True}

    async def _usage(self, request: web.Request) -> object:
        since = request.query.get("since")
        if since is not None and not _IS_DAY.fullmatch(since):
            raise _Refusal(400, "since must be a day as in 2026-01-31.")
        found = await self._users.usage(request.query.get("user"), since_day=since)
        return {"usage": [as_json(day) for day in found]}


def as_json(row: StoredUser | DailyUsage) -> dict[str, Any]:
    """A row with the names that JSON has here: `per_minute` is `perMinute`."""
    return {re.sub(r"_([a-z])", lambda m: m[1].upper(), name): value for name, value in asdict(row).items()}


class _Refusal(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


def _told(handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
    """The handler's value, or why there is none, as JSON. No exception text leaves."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return _response(200, await handler(request))
        except _Refusal as exc:
            return _response(exc.status, {"message": exc.text})
        except Unavailable:
            return _response(503, {"message": "The store is not available now. Try again."})

    return handle


def _response(status: int, value: object) -> web.Response:
    return web.json_response(value, status=status, dumps=lambda v: json.dumps(v, ensure_ascii=False))


def _user_id(request: web.Request) -> str:
    user_id = request.match_info["user_id"]
    if len(user_id) > MAX_ID_LENGTH or not _IS_VISIBLE.match(user_id):
        raise _Refusal(400, f"A user id is 1 to {MAX_ID_LENGTH} visible characters.")
    return user_id
