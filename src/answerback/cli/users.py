"""`answerback users`: who uses the gateway, their limits, what they used, and their erasure.

Works on the store itself while no gateway has it, else through that gateway's admin port; with `--stack` on a stack on
AWS.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import typer

from answerback.cli.admin import AdminUsers, admin_of
from answerback.cli.main import STACK_USERS, import_place
from answerback.cli.options import AwsOptions, Json, StoreOptions, with_options
from answerback.cli.output import CliError, ExitCode, confirm, say_result, say_rows, usage_error
from answerback.cli.settings import Configuration, load_store
from answerback.clock import epoch_ms
from answerback.core.camel import row_as_json
from answerback.core.defaults import KEEP_FOREVER_DAYS
from answerback.core.instants import iso
from answerback.ports import StoredUser, Unavailable, Users
from answerback.protocol.frames import is_id
from answerback.service.id_forms import UsersInBothForms
from answerback.settings import DAYS_OR_FOREVER, whole
from answerback.stores import StoreError, StoreInUse, open_store

T = TypeVar("T")
COMMANDS: Final = {
    "list": ("List all users.", "answerback.cli.users:list_users"),
    "show": ("Show one user.", "answerback.cli.users:show"),
    "set-limit": ("Set a user's own rate limit.", "answerback.cli.users:set_limit"),
    "set-retention": ("Set how long a user's conversations are kept.", "answerback.cli.users:set_retention"),
    "block": ("Lock a user out.", "answerback.cli.users:block"),
    "unblock": ("Let a user in again.", "answerback.cli.users:unblock"),
    "set-budget": ("Set what a user may use in a day or a month.", "answerback.cli.budgets:set_user_budget"),
    "set-team": ("Put a user into a team.", "answerback.cli.budgets:set_team"),
    "budgets": ("Show a user's budgets and how they stand.", "answerback.cli.budgets:show_budgets"),
    "usage": ("Show requests and tokens by day (UTC).", "answerback.cli.budgets:usage"),
    "export": ("Write all that is stored about a user into a file.", "answerback.cli.users:export"),
    "delete": ("Erase everything about a user, for good.", "answerback.cli.users:delete"),
}
_PAGE: Final = 100
_LIMIT: Final = whole(1, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Place(StoreOptions, AwsOptions):
    """Whose users: those of a gateway, or those of a stack on AWS."""

    stack: Annotated[str | None, typer.Option(metavar="NAME", help="A stack on AWS instead of a gateway.")] = None

    @property
    def of_aws(self) -> dict[str, str | None]:
        """Options about AWS that were given."""
        return {"region": self.region, "profile": self.profile, "endpoint": self.endpoint_url}


UserId: TypeAlias = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]


@with_options
def list_users(*, place: Place, as_json: Json = False) -> None:
    """List all users."""

    async def everyone(users: Users) -> list[StoredUser]:
        found: list[StoredUser] = []
        while page := await users.users(after=found[-1].user_id if found else None, limit=_PAGE):
            found.extend(page)
        return found

    found = run(everyone, place)
    say_rows(
        [row_as_json(user) for user in found],
        _HEADERS,
        [_row(user) for user in found],
        "No users yet: a user appears with the first request.",
        as_json=as_json,
    )


@with_options
def show(*, user: UserId, place: Place, as_json: Json = False) -> None:
    """Show one user."""
    found = run(lambda users: users.user(user), place)
    if found is None:
        raise _no_such(user)
    say_rows(row_as_json(found), _HEADERS, [_row(found)], as_json=as_json)


@with_options
def set_limit(
    *,
    user: UserId,
    limit: Annotated[str, typer.Argument(metavar="N|off|default", help="Requests a minute.")],
    place: Place,
    as_json: Json = False,
) -> None:
    """Set a user's own rate limit: requests a minute, `off` for no limit, `default` for the gateway's."""
    per_minute = _read_limit(limit)
    run(lambda users: users.set_limit(user, per_minute, now_ms=epoch_ms()), place)
    say_result({"userId": user, "perMinute": per_minute}, f"{user}: {_limit_text(per_minute)}", as_json=as_json)


@with_options
def set_retention(
    *,
    user: UserId,
    days: Annotated[str, typer.Argument(metavar="Nd|forever|default", help="Days after the last turn.")],
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="Of this conversation alone.")] = None,
    place: Place,
    as_json: Json = False,
) -> None:
    """Set for how long conversations are kept after their last turn: a user's, or one of them.

    A conversation's own days count, else its user's, else the gateway's --history-days. `default` takes the own days
    away. Then it is deleted as if its user had deleted it: erased --retention-days after its last turn at the earliest.
    """
    check_user(user)
    keep_days = _read_keep_days(days)
    if not run(
        lambda users: users.set_retention(user, keep_days, now_ms=epoch_ms(), conversation_id=conversation), place
    ):
        raise CliError(f"{user} has no conversation {conversation}")
    about = {"conversationId": conversation} if conversation else {}
    kept = {"userId": user, "keepDays": keep_days, **about}
    say_result(kept, f"{conversation or user}: {_keep_text(keep_days)}", as_json=as_json)


@with_options
def block(*, user: UserId, place: Place, as_json: Json = False) -> None:
    """Lock a user out: no connections, no questions. What runs for the user is cancelled, open sockets are closed.

    Nothing is erased, and a token that is still valid does not help. `unblock` lets the user in again.
    """
    _set_blocked(user, place, blocked=True, as_json=as_json)


@with_options
def unblock(*, user: UserId, place: Place, as_json: Json = False) -> None:
    """Let a blocked user in again, with the limit that they had."""
    _set_blocked(user, place, blocked=False, as_json=as_json)


def _set_blocked(user: str, place: Place, *, blocked: bool, as_json: bool) -> None:
    check_user(user)
    run(lambda users: users.set_blocked(user, blocked=blocked, now_ms=epoch_ms()), place)
    say_result(
        {"userId": user, "blocked": blocked},
        f"{user} is blocked." if blocked else f"{user} is not blocked.",
        as_json=as_json,
    )


@with_options
def export(
    *,
    user: UserId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    place: Place,
    as_json: Json = False,
) -> None:
    """Write all that is stored about a user into a new file: requests, answers, conversations, usage, limit.

    Each line is a JSON object. Its `table` says where it is stored. `delete` erases the same, except a block.
    """
    if os.path.lexists(file):
        raise CliError(f"{file} exists, and an export overwrites nothing", "name a new file")
    part = file.with_name(file.name + ".part")
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:

            async def write(users: Users) -> int:
                header = {"table": "export", "format": 1, "userId": user, "exportedAt": iso(epoch_ms())}
                opened.write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
                return sum([opened.write(line) > 0 async for line in users.export(user)])

            lines = run(write, place)
        if not lines:
            raise _no_such(user)
        part.rename(file)
    except OSError as exc:
        raise CliError(f"{file} cannot be written ({exc.strerror})", "name a file that this user may write") from exc
    finally:
        part.unlink(missing_ok=True)
    done = {"userId": user, "file": str(file), "lines": lines}
    say_result(done, f"{file}: {lines} lines about {user}", as_json=as_json)


@with_options
def delete(
    *,
    user: UserId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    place: Place,
    as_json: Json = False,
) -> None:
    """Erase everything about a user, for good: requests, answers, conversations, usage, limit. A block stays."""
    if not yes:
        confirm(f"Erase everything about {user}? This cannot be undone.")
    if not run(lambda users: users.delete_user(user), place):
        raise _no_such(user)
    say_result({"userId": user, "deleted": True}, f"{user} is erased.", as_json=as_json)


def run(work: Callable[[Users], Awaitable[T]], place: Place) -> T:
    """Do something with the users there. Raises: CliError: what to do."""

    async def work_there() -> T:
        async with _users(place) as users:
            # A gateway looks under both forms itself.
            return await work(users if isinstance(users, AdminUsers) else UsersInBothForms(users))

    try:
        return asyncio.run(work_there())
    except Unavailable as exc:
        raise CliError(
            "the store cannot be used now", "see `answerback doctor`", exit_code=ExitCode.CANNOT_CONNECT
        ) from exc


def _users(place: Place) -> AbstractAsyncContextManager[Users]:
    if place.stack is None:
        if any(place.of_aws.values()):
            raise usage_error("--region, --profile and --endpoint-url are about a stack", "name it with --stack")
        return _open(load_store(place))
    if any((place.config, place.data_dir, place.database, place.admin_port)):
        raise usage_error("--stack goes with no setting of a gateway", "leave out the one or the other")
    opened: AbstractAsyncContextManager[Users] = import_place(STACK_USERS)(place.stack, **place.of_aws)
    return opened


@asynccontextmanager
async def _open(configuration: Configuration) -> AsyncIterator[Users]:
    """The store if nobody has it, else the gateway that has it."""
    settings = configuration.gateway
    if settings.database is None and not (settings.data_dir / "answerback.db").exists():
        raise CliError(
            f"there is no database in {settings.data_dir}", "say --data-dir or --database as `answerback serve` has it"
        )
    try:
        store = await open_store(settings.database, settings.data_dir)
    except StoreInUse:
        yield admin_of(configuration)
        return
    except StoreError as exc:
        raise CliError(str(exc).rstrip(".")) from exc
    try:
        yield store
    finally:
        await store.close()


_HEADERS: Final = ("user", "limit", "conversations", "turns", "first seen", "last request")


def _row(user: StoredUser) -> Sequence[object]:
    return (
        user.user_id,
        "blocked" if user.blocked else _limit_text(user.per_minute),
        user.conversations,
        user.turns,
        _time_text(user.created_at_ms),
        _time_text(user.last_request_at_ms),
    )


def _limit_text(per_minute: int | None) -> str:
    if per_minute is None:
        return "default"
    return f"{per_minute} a minute" if per_minute else "off"


def _keep_text(keep_days: int | None) -> str:
    if keep_days is None:
        return "default"
    return "kept forever" if keep_days >= KEEP_FOREVER_DAYS else f"kept for {keep_days} days"


def _read_keep_days(text: str) -> int | None:
    if text.lower() == "default":
        return None
    try:
        days = DAYS_OR_FOREVER.read(text)
    except ValueError:
        raise usage_error(f"the days must be {DAYS_OR_FOREVER.rule} or default, not {text!r}", "as in 30d") from None
    assert isinstance(days, int | None)
    return KEEP_FOREVER_DAYS if days is None else days


def _time_text(at_ms: int | None) -> str | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000).strftime("%Y-%m-%d %H:%M")


def _read_limit(text: str) -> int | None:
    if text.lower() in {"default", "off"}:
        return None if text.lower() == "default" else 0
    try:
        number = _LIMIT.read(text)
    except ValueError:
        raise usage_error(
            f"the limit must be {_LIMIT.rule}, off or default, not {text!r}",
            "off means no limit; to lock a user out: answerback users block USER" if text.strip(" 0") == "" else "",
        ) from None
    assert isinstance(number, int)
    return number


def check_user(user: str) -> None:
    """Raises: CliError: nobody can be called so."""
    if not is_id(user):
        raise usage_error(f"{user!r} cannot be a user id", "it is 1 to 128 visible characters")


def read_day(text: str) -> str:
    """A day of `--since`. Raises: CliError."""
    if match := re.fullmatch(r"(\d{1,4})d", text):
        return (datetime.now(UTC) - timedelta(days=int(match[1]))).date().isoformat()
    try:
        return datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise usage_error(f"--since must be a day, not {text!r}", "for example 2026-01-31, or 30d") from None


def _no_such(user: str) -> CliError:
    return CliError(f"there is no user {user}", "see: answerback users list")
