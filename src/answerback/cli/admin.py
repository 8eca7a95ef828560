"""The admin port of a running gateway, seen from this machine: `ports.Users` over HTTP, and `answerback reload`."""

import http.client
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from answerback.cli.options import Json, StoreOptions, with_options
from answerback.cli.output import CliError, ExitCode, note, say_result
from answerback.cli.settings import Configuration, load_store
from answerback.core.budget import Budget, BudgetState, Counter, Period, Unit
from answerback.core.camel import snake
from answerback.gateway.admin_key import KEY_FILE, PORT_FILE, read_key
from answerback.gateway.settings import SettingsError
from answerback.ports import DailyUsage, StoredUser

T = TypeVar("T")
TIMEOUT_S: Final = 10.0
MAX_PORT: Final = 65_535


def key_in(data_dir: Path) -> str:
    """The admin key of the gateway that uses this data folder. Raises: CliError: it is not there, or is none."""
    path = data_dir / KEY_FILE
    try:
        return read_key(path)
    except SettingsError as exc:
        raise CliError(str(exc).rstrip(".")) from exc
    except OSError as exc:
        raise CliError(
            f"the admin key {path} cannot be read ({exc.strerror})",
            "say --data-dir as `answerback serve` has it, and run this as the same user",
        ) from exc


def find_port(data_dir: Path, *, otherwise: int) -> int:
    """The admin port of the gateway that uses this data folder, as it has noted it; else `otherwise`."""
    try:
        noted = int((data_dir / PORT_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return otherwise
    return noted if 0 < noted <= MAX_PORT else otherwise


def admin_of(configuration: Configuration) -> "AdminUsers":
    """The gateway that uses this data folder. Raises: CliError: it cannot be asked."""
    settings = configuration.gateway
    if settings.admin_port is None:
        raise CliError("a gateway holds the store, and its admin port is off", "stop that gateway first")
    port = settings.admin_port
    if port == 0 or "admin_port" not in configuration.sources:
        port = find_port(settings.data_dir, otherwise=port)
    return AdminUsers(port=port, key=key_in(settings.data_dir))


@with_options
def reload(*, place: StoreOptions, as_json: Json = False) -> None:
    """Let a running gateway read its certificate, token secret, JWKS file, admin key and log level again.

    Sockets stay open. What cannot be used stays as it was, and the exit code is 1. Other settings that have changed
    need a restart, and are named.
    """
    answer = admin_of(load_store(place)).reload()
    say_result(answer, f"read again: {', '.join(answer['read']) or 'nothing'}", as_json=as_json)
    if not as_json:
        for why in answer["kept"]:
            note(f"kept as it was: {why}")
        if restart := answer.get("restart"):
            note(f"changed, and needs a restart: {', '.join(restart)}")
    if answer["kept"]:
        raise CliError("something could not be read again", "correct it and repeat the command")


class AdminUsers:
    """ports.Users over the admin port of a running gateway. Its methods block: they serve one command.

    A change is made at the gateway's own instant: `now_ms` is not used.
    """

    def __init__(self, *, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def users(self, *, after: str | None = None, limit: int = 100) -> Sequence[StoredUser]:
        query = {"limit": str(limit), **({} if after is None else {"after": after})}
        return _rows(self._call("GET", f"/users?{urlencode(query)}")["users"], StoredUser)

    async def user(self, user_id: str) -> StoredUser | None:
        found = self._call("GET", _of(user_id))
        return None if found is None else _rows([found], StoredUser)[0]

    async def set_limit(self, user_id: str, per_minute: int | None, *, now_ms: int) -> None:
        self._call("PUT", _of(user_id, "/limit"), {"perMinute": per_minute})

    async def set_blocked(self, user_id: str, *, blocked: bool, now_ms: int) -> None:
        """Block or unblock, and end the sessions of who is blocked."""
        self._call("PUT", _of(user_id, "/blocked"), {"blocked": blocked})

    async def set_retention(
        self, user_id: str, keep_days: int | None, *, now_ms: int, conversation_id: str | None = None
    ) -> bool:
        body = {"keepDays": keep_days, **({} if conversation_id is None else {"conversationId": conversation_id})}
        return self._call("PUT", _of(user_id, "/retention"), body) is not None

    async def set_budget(self, holder: str, period: Period, budget: Budget | None, *, now_ms: int) -> None:
        given = None if budget is None else {"limit": budget.limit, "unit": budget.unit.value}
        self._call("PUT", f"/budgets/{quote(holder, safe='')}", {"period": period.value, "budget": given})

    async def set_team(self, user_id: str, team: str | None, *, now_ms: int) -> None:
        self._call("PUT", _of(user_id, "/team"), {"team": team})

    async def budgets(self, holder: str, *, now_ms: int) -> Sequence[BudgetState]:
        found = self._call("GET", f"/budgets/{quote(holder, safe='')}")["budgets"]
        return [
            BudgetState(
                Budget(row["limit"], Unit(row["unit"]), Period(row["period"])),
                Counter(row["used"], row["reserved"]),
                row["opensAtMs"],
            )
            for row in found
        ]

    async def teams(self) -> Sequence[str]:
        teams: list[str] = self._call("GET", "/teams")["teams"]
        return teams

    async def usage(
        self, user_id: str | None, *, since_day: str | None = None, by_model: bool = False
    ) -> Sequence[DailyUsage]:
        asked = (("user", user_id), ("since", since_day), ("by", "model" if by_model else None))
        query = {name: value for name, value in asked if value is not None}
        return _rows(self._call("GET", f"/usage?{urlencode(query)}")["usage"], DailyUsage)

    async def export(self, user_id: str) -> AsyncIterator[bytes]:
        with self._asked("GET", _of(user_id, "/export")) as response:
            if response.status != http.client.OK:
                _result(response.status, response.read(), self._port)
                return
            for line in response:
                yield line

    async def delete_user(self, user_id: str) -> bool:
        return self._call("DELETE", _of(user_id)) is not None

    def reload(self) -> dict[str, list[str]]:
        """What was read again, what was kept and why, and what needs a restart."""
        answer: dict[str, list[str]] = self._call("POST", "/reload")
        return answer

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON; None for 404. Raises: CliError."""
        with self._asked(method, path, body) as response:
            return _result(response.status, response.read(), self._port)

    @contextmanager
    def _asked(self, method: str, path: str, body: object = None) -> Iterator[http.client.HTTPResponse]:
        """What the gateway answers, to be read within this. Raises: CliError."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self._key}"}
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body)
        try:
            connection.request(method, path, payload, headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            raise CliError(
                f"a gateway holds the store, but does not answer on admin port {self._port}",
                "say --admin-port as `answerback serve` has it",
                exit_code=ExitCode.CANNOT_CONNECT,
            ) from exc
        finally:
            connection.close()


def _of(user_id: str, what: str = "") -> str:
    return f"/users/{quote(user_id, safe='')}{what}"


def _result(status: int, text: bytes, port: int) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if status == http.client.OK:
        return value
    if status == http.client.NOT_FOUND and isinstance(value, dict):
        return None  # no such user
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        raise CliError(f"the gateway on admin port {port} refuses the key", "say --data-dir as that gateway has it")
    message = value.get("message") if isinstance(value, dict) else None
    raise CliError(f"the gateway on admin port {port} refused: {message or f'HTTP status {status}'}")


def _rows(rows: list[dict[str, Any]], kind: type[T]) -> list[T]:
    named = [{snake(name): value for name, value in row.items()} for row in rows]
    return msgspec.convert(named, list[kind])  # type: ignore[valid-type]
