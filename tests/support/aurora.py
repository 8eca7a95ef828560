"""The history on AWS for tests: tables and an Aurora on the emulator, through a Data API as strict as AWS's."""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import psycopg

from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.aurora.data_api import (
    CALL_TIMEOUT_S,
    MAX_REQUEST_BYTES,
    DataApi,
    data_api_client,
)
from answerback_aws.runtime.aurora.history import AwsHistory
from answerback_aws.runtime.aurora.users import AwsUsers
from answerback_aws.runtime.aurora.write_behind import WriteBehind
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.requests import DynamoRequests
from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
from answerback_aws.runtime.dynamodb.turns import DynamoTurns
from answerback_aws.runtime.functions.migration import apply_migrations
from dynamo import NOW_MS
from emulation import Cluster, make_cluster

MAX_RESPONSE_BYTES = 1024 * 1024
MAX_ROW_BYTES = 64 * 1024
_TRANSACTION_IDLE_S = 180.0
_KINDS = {"stringValue": str, "longValue": int, "isNull": bool}


class LimitBroken(AssertionError):
    """AWS would have refused this call; the emulator does not."""


class StrictDataApi:
    """A client of the Data API with the limits that AWS documents. Any other attribute is the client's own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._last: dict[str, float] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        if name not in {
            "execute_statement",
            "batch_execute_statement",
            "begin_transaction",
            "commit_transaction",
            "rollback_transaction",
        }:
            return call
        return lambda **arguments: self._strictly(name, call, arguments)

    def _strictly(self, name: str, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        self.calls.append(name)
        self._check_request(arguments)
        transaction = arguments.get("transactionId")
        if transaction is not None and time.monotonic() - self._last[transaction] > _TRANSACTION_IDLE_S:
            raise LimitBroken("the transaction was idle for more than 3 minutes")
        began = time.monotonic()
        answer = call(**arguments)
        if time.monotonic() - began > CALL_TIMEOUT_S and not arguments.get("continueAfterTimeout"):
            raise LimitBroken("the call took more than 45 s")
        transaction = transaction or answer.get("transactionId")
        if transaction is not None:
            self._last[transaction] = time.monotonic()
        self._check_response(answer)
        return answer

    def _check_request(self, arguments: Mapping[str, Any]) -> None:
        if len(json.dumps(arguments).encode()) > MAX_REQUEST_BYTES:
            raise LimitBroken("the request has more than 4 MiB")
        sql = re.sub(r"'(?:[^']|'')*'", "''", arguments.get("sql", ""))
        if ";" in sql or "--" in sql or "::" in sql:
            raise LimitBroken(f"one statement without comments, casts by CAST: {sql}")
        sets = arguments.get("parameterSets", [arguments.get("parameters", [])])
        named = set(re.findall(r":([a-z_]\w*)", sql))
        for fields in sets if sql else ():
            if {field["name"] for field in fields} != named or len(fields) != len(named):
                raise LimitBroken(f"the parameters are not those of the statement: {sql}")
            for field in fields:
                self._check_field(field["value"])
            if len(fields) > 1_000:
                raise LimitBroken("more than 1,000 parameters")

    @staticmethod
    def _check_field(value: Mapping[str, Any]) -> None:
        ((kind, content),) = value.items()
        if kind not in _KINDS or type(content) is not _KINDS[kind]:
            raise LimitBroken(f"{value!r} is not a text, a long or a null")
        if kind == "longValue" and not -(2**63) <= content < 2**63:
            raise LimitBroken(f"{content} is not a long")

    @staticmethod
    def _check_response(answer: Mapping[str, Any]) -> None:
        records = answer.get("records", [])
        for record in records:
            if len(json.dumps([list(field.values()) for field in record]).encode()) > MAX_ROW_BYTES:
                raise LimitBroken("a row of the result has more than 64 KB")
            for field in record:
                if next(iter(field)) not in _KINDS:
                    raise LimitBroken(f"a column came as {field}")
        if len(json.dumps(records, ensure_ascii=False).encode()) > MAX_RESPONSE_BYTES:
            raise LimitBroken("the response has more than 1 MiB")


class Counted:
    """An WriteBehindObserver that remembers."""

    def __init__(self) -> None:
        self.written = 0
        self.dead = 0
        self.seen: list[tuple[int, int]] = []

    def waiting(self, turns: int, oldest_ms: int) -> None:
        self.seen.append((turns, oldest_ms))

    def turns_written(self, turns: int) -> None:
        self.written += turns

    def turns_not_written(self) -> None:
        self.dead += 1


class Aws:
    """All three store ports over one set of tables and one cluster; each may be taken by itself.

    `clock`: epoch milliseconds of everything but the questions.
    """

    def __init__(
        self,
        emulator: Emulator,
        cluster: Cluster,
        tables: Tables,
        *,
        clock: Callable[[], int] = lambda: NOW_MS,
        retry_for_s: float = 0.0,
        on_waking: Callable[[], None] = lambda: None,
    ) -> None:
        self.calls = Calls()
        self.dynamodb = emulator.client("dynamodb")
        self.rds_data = StrictDataApi(data_api_of(emulator))
        self.database = Database(client=self.dynamodb, calls=self.calls, tables=tables)
        self.data_api = DataApi(
            client=self.rds_data,
            calls=self.calls,
            cluster_arn=cluster.cluster_arn,
            secret_arn=cluster.secret_arn,
            database=cluster.database,
            retry_for_s=retry_for_s,
            monotonic=time.monotonic,
            jitter=random.random,
            sleep=asyncio.sleep,
            on_waking=on_waking,
        )
        self.counted = Counted()
        self.requests = DynamoRequests(self.database, clock=clock)
        self.turns_kept = DynamoTurns(self.database)
        self.write_behind = WriteBehind(
            pending_turns=self.turns_kept, api=self.data_api, observer=self.counted, clock=clock
        )
        self.history = AwsHistory(turns=self.turns_kept, write_behind=self.write_behind, api=self.data_api, clock=clock)
        self.users_of = AwsUsers(
            database=self.database, requests=self.requests, write_behind=self.write_behind, api=self.data_api
        )

    def __getattr__(self, name: str) -> Any:
        """The verbs of the ports."""
        for part in ("requests", "history", "users_of"):
            if part in self.__dict__ and hasattr(type(self.__dict__[part]), name):
                return getattr(self.__dict__[part], name)
        raise AttributeError(name)

    async def close(self) -> None:
        """Release the threads."""
        self.calls.close()


@cache
def data_api_of(emulator: Emulator) -> Any:
    """A client as production makes it, with the emulator's credentials."""
    return emulator.client("rds-data", config=_data_api_config())


@cache
def _data_api_config() -> Any:
    from botocore.config import Config

    made = data_api_client(region="us-east-1", endpoint="http://127.0.0.1")
    config = made.meta.config
    made.close()
    return Config(retries=config.retries, read_timeout=config.read_timeout)


def make_migrated(emulator: Emulator) -> Cluster:
    """A cluster with the tables of the history."""
    cluster = make_cluster(emulator)
    tables = Tables(**dict.fromkeys(TABLES, ""))
    aws = Aws(emulator, cluster, tables)

    async def migrate() -> None:
        await apply_migrations(aws.data_api, now_ms=0)
        await aws.close()

    with ThreadPoolExecutor(1) as thread:  # there may be a loop in this one
        thread.submit(asyncio.run, migrate()).result()
    return cluster


def empty(cluster: Cluster, postgres_url: str) -> None:
    """Delete every row of the history."""
    with psycopg.connect(postgres_url, dbname=cluster.database, autocommit=True) as connection:
        connection.execute("TRUNCATE requests, conversations, users, usage")
