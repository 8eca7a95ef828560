"""Statements on Aurora PostgreSQL through the RDS Data API: SQL over HTTPS, no connection kept.

Its limits, which a response or request over them is refused for: 4 MiB a request, 1 MiB a response, 64 KB a row, 45 s
a call, 3 minutes between two calls of a transaction, one statement a call, no arrays. Requests are cut here; that rows
and responses stay small is the work of the statements (operations.py).
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from botocore.exceptions import ClientError

from answerback.ports import Unavailable
from answerback.stores.database import StoreError
from answerback.stores.statements import Params, Row, Value, names
from answerback_aws.runtime.client import Calls, client, error_code, is_outage

T = TypeVar("T")

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
CALL_TIMEOUT_S: Final = 45.0

_BATCH_BYTES: Final = 3 * 1024 * 1024
"""Of the parameters in one call; the statement and the names around them need far less than what is left."""

_FIELD_BYTES: Final = 64
"""What the JSON of one parameter has besides its name and its value."""

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 4.0

_INT64: Final = range(-(2**63), 2**63)


class Result(NamedTuple):
    """What a statement gave: its rows (none if it is not a SELECT), and how many rows it changed."""

    rows: Sequence[Row]
    changed: int


class StatementFailed(Exception):
    """The database refused a statement: a mistake of ours, or data that it cannot take.

    The database's own text is left out, because it may repeat what a user wrote.
    """

    def __init__(self, code: str, sqlstate: str | None, statement: str) -> None:
        super().__init__(code, sqlstate, statement)
        self.code = code
        self.sqlstate = sqlstate
        self.statement = statement

    def __str__(self) -> str:
        return f"{self.code} (SQLSTATE {self.sqlstate or 'unknown'}) at: {self.statement}"


class Waking(Unavailable):
    """Aurora was paused at 0 ACU. The call has woken it; it is there in 15 to 60 seconds."""


class _Transient(Unavailable):
    """The same work may succeed in a moment."""


_PASSING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "DatabaseUnavailableException": "Aurora's writer is not available",
        "StatementTimeoutException": "Aurora took too long",
        "TransactionNotFoundException": "the transaction was open for too long",
        "NotFoundException": "the transaction was open for too long",
        "InvalidResourceStateException": "the cluster is stopped, or is being changed",
    }
)
"""States of the world after which the same work may succeed, besides those that are so for every service."""

_MISTAKES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AccessDeniedException": "The credentials may not use the RDS Data API of this cluster.",
        "ForbiddenException": "The credentials may not use the RDS Data API of this cluster.",
        "DatabaseNotFoundException": "The cluster has no instance, or there is no such cluster.",
        "HttpEndpointNotEnabledException": "The cluster's Data API is off. Turn it on (EnableHttpEndpoint).",
        "ExpiredTokenException": "The credentials have expired.",
        "UnrecognizedClientException": "The credentials are not valid.",
        "InvalidSignatureException": "The credentials are not valid, or this machine's clock is wrong.",
        "InvalidSecretException": "The cluster's secret is not valid. Rotate it, or deploy again.",
        "SecretsErrorException": "The cluster's secret cannot be read. Check that it exists and may be decrypted.",
    }
)
"""Mistakes of the deployment; only an operator can repair them."""

_PASSING_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "08": "the connection to Aurora was lost",
        "25006": "this is not Aurora's writer now",
        "25P03": "the transaction was open for too long",
        "40": "another transaction was in the way",
        "42P01": "the tables are not there yet: the migration has not run",
        "53": "Aurora has no connection, memory or storage left",
        "55P03": "another transaction was in the way",
        "57": "Aurora is restarting",
        "57014": "Aurora took too long",
        "58": "Aurora's system failed",
    }
)
"""SQLSTATEs, and classes of them, after which the same work may succeed. A state counts before its class."""

_LOST: Final = re.compile(
    r"\b(connection|terminat|I/O error|EOF|link failure|transaction \S+ is not found)", re.IGNORECASE
)
"""In a message without a SQLSTATE: nobody is there who would say what is wrong with a statement."""

_OF_TRANSACTIONS: Final = ("begin_transaction", "commit_transaction", "rollback_transaction")
"""Calls without a statement that could be wrong."""

_SQLSTATE: Final = re.compile(r"SQLState: ?([0-9A-Z]{5})")


def data_api_client(
    *, region: str | None = None, endpoint: str | None = None, timeout_s: float = CALL_TIMEOUT_S + 5
) -> Any:
    """A client of the Data API that never repeats a call by itself: inside a transaction that would run it twice.

    `timeout_s`: how long one call may take.
    """
    return client("rds-data", region=region, endpoint=endpoint, attempts=1, read_timeout_s=timeout_s)


class DataApi:
    """Runs statements on one database. Every method may raise Unavailable, StoreError and StatementFailed.

    `retry_for_s`: how long work is repeated, with jittered pauses, while Aurora wakes up or cannot be reached; a call
    that began before then is waited for. `monotonic`, `sleep`: seconds. `jitter`: a number from 0 to 1. `on_waking`: is
    told, each time, that Aurora was found paused.
    """

    def __init__(
        self,
        *,
        client: Any,
        calls: Calls,
        cluster_arn: str,
        secret_arn: str,
        database: str,
        retry_for_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_waking: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._calls = calls
        self._where = {"resourceArn": cluster_arn, "secretArn": secret_arn, "database": database}
        self._retry_for_s = retry_for_s
        self._monotonic = monotonic
        self._jitter = jitter
        self._sleep = sleep
        self._on_waking = on_waking
        self._answered_at_s: float | None = None

    @property
    def idle_s(self) -> float | None:
        """Seconds since Aurora last answered this process; None: it never did."""
        return None if self._answered_at_s is None else self._monotonic() - self._answered_at_s

    async def read(self, work: Callable[["Statements"], Awaitable[T]]) -> T:
        """Run `work` that only reads, each statement by itself."""
        return await self._retrying(lambda: work(Statements(self, None)))

    async def write(self, work: Callable[["Statements"], Awaitable[T]], *, is_ddl: bool = False) -> T:
        """Run `work` in a transaction; all of it or nothing.

        It is run again from the start if the transaction is lost, and also if the answer to the commit is, so it must
        be safe to have been run before. `is_ddl`: statements may take longer than a call.
        """
        return await self._retrying(lambda: self._transact(work, is_ddl))

    async def _transact(self, work: Callable[["Statements"], Awaitable[T]], is_ddl: bool) -> T:
        begun = await self.call("begin_transaction")
        transaction_id = begun["transactionId"]
        try:
            value = await work(Statements(self, transaction_id, is_ddl=is_ddl))
        except BaseException:
            await self._roll_back(transaction_id)
            raise
        await self.call("commit_transaction", transactionId=transaction_id)
        return value

    async def _roll_back(self, transaction_id: str) -> None:
        """Release its locks. If that fails Aurora does it, three minutes after the last call."""
        try:
            await self.call("rollback_transaction", transactionId=transaction_id)
        except (Unavailable, StoreError, StatementFailed):
            pass

    async def _retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        give_up_at_s = self._monotonic() + self._retry_for_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except (Waking, _Transient) as exc:
                if isinstance(exc, Waking):
                    self._on_waking()
                wait_s = pause_s * (0.5 + self._jitter() / 2)
                if self._monotonic() + wait_s >= give_up_at_s:
                    raise
            await self._sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def call(self, method: str, **arguments: Any) -> Any:
        """One call, its errors in our terms."""
        where = self._where
        if method in ("commit_transaction", "rollback_transaction"):
            where = {name: where[name] for name in ("resourceArn", "secretArn")}
        failure: Exception
        try:
            answer = await self._calls.run(getattr(self._client, method), **where, **arguments)
        except Unavailable as exc:
            raise _Transient(str(exc)) from exc
        except ClientError as exc:
            failure = _failure(exc, arguments.get("sql", method))
        else:
            self._answered_at_s = self._monotonic()
            return answer
        raise failure from None  # the service's text may have what a user wrote


class Statements:
    """Runs statements, inside a transaction if it has one."""

    def __init__(self, api: DataApi, transaction_id: str | None, *, is_ddl: bool = False) -> None:
        self._api = api
        self._options: dict[str, Any] = {}
        if transaction_id is not None:
            self._options["transactionId"] = transaction_id
        if is_ddl:
            self._options["continueAfterTimeout"] = True

    async def execute(self, sql: str, params: Params = MappingProxyType({})) -> Result:
        parameters = _fields(sql, params)
        _check_size(sql, parameters)
        arguments = self._options | ({"parameters": parameters} if parameters else {})
        answer = await self._api.call("execute_statement", sql=bare(sql), **arguments)
        return Result([_row(record) for record in answer.get("records", ())], answer.get("numberOfRecordsUpdated", 0))

    async def execute_many(self, sql: str, params: Sequence[Params]) -> None:
        """Run a writing statement with each of `params`, in as few calls as they fit."""
        options = {name: value for name, value in self._options.items() if name != "continueAfterTimeout"}
        for sets in _cut(sql, params):
            await self._api.call("batch_execute_statement", sql=bare(sql), parameterSets=sets, **options)


_COMMENT: Final = re.compile(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")|--[^\n]*")


@lru_cache(maxsize=256)
def bare(sql: str) -> str:
    """The one statement without comments and without the semicolon at its end: the Data API parses it by itself.

    Raises: ValueError: it is more than one statement.
    """
    text = _COMMENT.sub(lambda match: match[1] or "", sql).strip().removesuffix(";").rstrip()
    if ";" in re.sub(r"'(?:[^']|'')*'", "", text):
        raise ValueError(f"the Data API takes one statement a call, not {text!r}")
    return text


def _fields(sql: str, params: Params) -> list[dict[str, Any]]:
    """The parameters that the statement names, as the Data API wants them."""
    return [{"name": name, "value": _field(params[name])} for name in sorted(names(bare(sql)))]


def _field(value: Value) -> dict[str, Any]:
    if value is None:
        return {"isNull": True}
    if isinstance(value, str):
        return {"stringValue": value}
    if type(value) is int and value in _INT64:
        return {"longValue": value}
    raise TypeError(f"a parameter is a text, a 64-bit integer or None, not {value!r}")


def _cut(sql: str, params: Sequence[Params]) -> Iterator[list[list[dict[str, Any]]]]:
    """The sets of parameters in calls that are small enough."""
    sets: list[list[dict[str, Any]]] = []
    size = 0
    for one in params:
        fields = _fields(sql, one)
        more = _check_size(sql, fields)
        if sets and size + more > _BATCH_BYTES:
            yield sets
            sets, size = [], 0
        sets.append(fields)
        size += more
    if sets:
        yield sets


def _check_size(sql: str, fields: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of the parameters in a request. Raises: ValueError: no request may be so large."""
    size = sum(_FIELD_BYTES + len(field["name"]) + _size(field["value"]) for field in fields)
    if size + 2 * len(sql) > MAX_REQUEST_BYTES:
        raise ValueError(f"{size} bytes of parameters do not fit a request of the Data API")
    return size


def _size(value: Mapping[str, Any]) -> int:
    """Bytes of a value in the request's JSON, where what is not ASCII is escaped."""
    text = value.get("stringValue")
    return 20 if text is None else len(encode_basestring_ascii(text))


def _row(record: Sequence[Mapping[str, Any]]) -> Row:
    return tuple(map(_value, record))


def _value(field: Mapping[str, Any]) -> Value:
    for kind in ("stringValue", "longValue"):
        if kind in field:
            value: Value = field[kind]
            return value
    if field.get("isNull"):
        return None
    raise TypeError(f"a column is text, integer or bigint, not {sorted(field)}")


def _failure(error: ClientError, statement: str) -> Exception:
    """The error in our terms, the most specific one first."""
    code = error_code(error)
    if code == "DatabaseResumingException":
        return Waking("Aurora is waking up")
    if code in _PASSING:
        return _Transient(_PASSING[code])
    if code in _MISTAKES:
        return StoreError(_MISTAKES[code])
    if is_outage(error):
        return _Transient(f"the Data API answered {code}")
    message = str(error.response.get("Error", {}).get("Message", ""))
    sqlstate = next(reversed(_SQLSTATE.findall(message)), None)  # before it stands what a user may have written
    for state in (sqlstate, sqlstate[:2]) if sqlstate else ():
        if state in _PASSING_STATES:
            return _Transient(_PASSING_STATES[state])
    if sqlstate is None and (statement in _OF_TRANSACTIONS or _LOST.search(message)):
        return _Transient(_PASSING_STATES["08"])
    return StatementFailed(code, sqlstate, " ".join(statement.split()[:3]))
