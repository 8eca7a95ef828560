"""`answerback users --stack`: the tables and the Aurora of a stack, found by its outputs; on the emulator."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from answerback.core.request import RequestKey
from answerback.core.transitions import State
from answerback.ports import Connection
from answerback_aws.emulator.emulator import CREDENTIALS, Emulator
from answerback_aws.runtime.dynamodb.connections import DynamoConnections
from answerback_aws.runtime.dynamodb.limits import RateLimits
from answerback_aws.runtime.dynamodb.tables import Tables
from asking import Actor
from aurora import Aws
from cli_process import Result, Run
from dynamo import own_tables
from emulation import Cluster

pytestmark = [pytest.mark.emulator, pytest.mark.postgres]
ASKERS = ("alice", "bob/ü%2F")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["aws_secret_access_key"])


@pytest.fixture
def tables(emulator: Emulator) -> Iterator[Tables]:
    with own_tables(emulator.client("dynamodb")) as tables:
        yield tables


def make_stack(emulator: Emulator, outputs: dict[str, str]) -> str:
    """A stack that has these outputs."""
    formation, name = emulator.client("cloudformation"), f"chat-{uuid.uuid4().hex[:8]}"
    template = {
        "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {key: {"Value": value} for key, value in outputs.items()},
    }
    formation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    formation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    return name


@pytest.fixture
def stack(emulator: Emulator, aurora_cluster: Cluster, tables: Tables) -> str:
    """Two users have asked; one turn is in Aurora already, the other is a note."""
    asyncio.run(ask(Aws(emulator, aurora_cluster, tables)))
    return make_stack(
        emulator,
        {
            "ConnectionsTable": tables.connections,
            "SessionsTable": tables.sessions,
            "RequestsTable": tables.requests,
            "ConversationsTable": tables.conversations,
            "RateLimitsTable": tables.rate_limits,
            "ClusterArn": aurora_cluster.cluster_arn,
            "SecretArn": aurora_cluster.secret_arn,
            "Database": aurora_cluster.database,
        },
    )


async def ask(aws: Aws) -> None:
    actor = Actor(aws)
    for user in ASKERS:
        await actor.turn("r1", "Why?", user=user, tokens=(3, 5))
        await aws.write_behind.flush(ASKERS[0])
    await aws.close()


@pytest.fixture
def users(run: Run, emulator: Emulator, stack: str) -> Callable[..., Result]:
    place = ["--stack", stack, "--region", "us-east-1", "--endpoint-url", emulator.endpoint]
    return lambda *arguments: run("users", *arguments, *place)


def test_export_and_retention(users: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "bob.jsonl"
    assert users("set-retention", ASKERS[1], "30d", "--conversation", "c1").code == 0
    assert users("set-retention", ASKERS[1], "30d", "--conversation", "c9").code == 1
    assert users("export", ASKERS[1], str(file)).code == 0
    told = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {line["table"] for line in told} >= {
        "conversations",
        "requests",
        "dynamodb.requests",
        "dynamodb.conversations",
    }
    assert [line.get("question") for line in told if line["table"] == "requests"] == ["Why?"]
    assert [line["keepDays"] for line in told if line["table"] == "conversations"] == [30]
    assert ASKERS[0] not in file.read_text(encoding="utf-8")


def test_list_and_show(users: Callable[..., Result]) -> None:
    everyone = json.loads(users("list", "--json").out)
    assert [(user["userId"], user["turns"], user["perMinute"]) for user in everyone] == [
        (asker, 1, None) for asker in ASKERS
    ]
    for user in everyone:
        assert json.loads(users("show", user["userId"], "--json").out) == user
    lines = users("list").out.splitlines()
    assert lines[0].split("\t") == ["user", "limit", "conversations", "turns", "first seen", "last request"]
    assert lines[1].split("\t")[:4] == ["alice", "default", "1", "1"]
    missing = users("show", "eve")
    assert missing.code == 1
    assert "there is no user eve" in missing.err


@pytest.mark.parametrize(("said", "kept"), [("60", 60), ("off", 0), ("default", None)])
def test_set_limit_decides_at_once_and_is_shown(
    users: Callable[..., Result], emulator: Emulator, tables: Tables, said: str, kept: int | None
) -> None:
    assert users("set-limit", ASKERS[1], "7").code == 0
    assert json.loads(users("set-limit", ASKERS[1], said, "--json").out) == {"userId": ASKERS[1], "perMinute": kept}
    assert json.loads(users("show", ASKERS[1], "--json").out)["perMinute"] == kept
    key: dict[str, Any] = {"userId": {"S": ASKERS[1]}, "window": {"S": "limit"}}
    item = emulator.client("dynamodb").get_item(TableName=tables.rate_limits, Key=key).get("Item")
    assert (None if item is None else int(item["perMinute"]["N"])) == kept


def test_a_blocked_user_has_no_connection_and_nothing_that_runs(
    users: Callable[..., Result], emulator: Emulator, aurora_cluster: Cluster, tables: Tables
) -> None:
    async def connect_and_ask() -> None:
        aws = Aws(emulator, aurora_cluster, tables)
        await Actor(aws).accept("running", user="alice")
        connections = DynamoConnections(aws.database)
        for user in ASKERS:
            await connections.add(
                Connection(connection_id=f"of {user}", session_id="s", connected_at_ms=1, last_activity_ms=1)
            )
            await connections.bind(f"of {user}", user)
        await aws.close()

    asyncio.run(connect_and_ask())
    assert users("block", "alice").out == "alice is blocked.\n"
    assert json.loads(users("show", "alice", "--json").out)["blocked"] is True

    async def look() -> tuple[Any, ...]:
        aws = Aws(emulator, aurora_cluster, tables)
        record = await aws.read(RequestKey("alice", "running"))
        found = [await DynamoConnections(aws.database).get(f"of {user}") is not None for user in ASKERS]
        limits = RateLimits(aws.database)
        blocked = [await limits.is_blocked(user) for user in ASKERS]
        await aws.close()
        return record.state, found, blocked

    assert asyncio.run(look()) == (State.CANCELLED, [False, True], [True, False])
    assert users("unblock", "alice").code == 0
    assert asyncio.run(look())[2] == [False, False]


def test_usage(users: Callable[..., Result]) -> None:
    days = json.loads(users("usage", "--json").out)
    assert [(day["userId"], day["requests"], day["inputTokens"], day["outputTokens"]) for day in days] == [
        (asker, 1, 3, 5) for asker in ASKERS
    ]
    assert json.loads(users("usage", "alice", "--since", "2999-01-01", "--json").out) == []


def test_delete_erases_one_user_everywhere_and_asks_first(
    users: Callable[..., Result], emulator: Emulator, tables: Tables
) -> None:
    refused = users("delete", "alice")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert users("delete", "alice", "--yes").out == "alice is erased.\n"
    assert users("delete", "alice", "--yes").code == 1
    assert [user["userId"] for user in json.loads(users("list", "--json").out)] == [ASKERS[1]]
    assert [day["userId"] for day in json.loads(users("usage", "--json").out)] == [ASKERS[1]]
    for table in (tables.requests, tables.conversations, tables.rate_limits, tables.sessions):
        kept = emulator.client("dynamodb").scan(TableName=table)["Items"]
        assert {item["userId"]["S"] for item in kept} <= {ASKERS[1]}


def test_a_paused_database_is_waited_for_and_reported_on_stderr(
    users: Callable[..., Result], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from answerback_aws.commands import users as stackusers

    told: list[str] = []

    def note(text: str) -> None:
        told.append(text)
        emulator.resume_database()

    monkeypatch.setattr(stackusers, "note", note)
    emulator.pause_database()
    try:
        result = users("list", "--json")
    finally:
        emulator.resume_database()
    assert (result.code, len(json.loads(result.out))) == (0, 2)
    assert len(told) == 1
    assert "wakes up" in told[0]


def test_a_database_that_is_down_is_reported(
    users: Callable[..., Result], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from answerback_aws.commands import users as stackusers

    monkeypatch.setattr(stackusers, "RETRY_FOR_S", 0.0)
    emulator.pause_database()
    try:
        result = users("list")
    finally:
        emulator.resume_database()
    assert result.code == 3
    assert "cannot be used now" in result.err
    assert "answerback aws status" in result.err


def test_what_is_wrong_is_reported_with_what_to_do(
    run: Run, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def users(*options: str) -> Result:
        return run("users", "list", *options)

    there = ["--region", "us-east-1", "--endpoint-url", emulator.endpoint]
    nowhere = users("--stack", "nope", *there)
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "there is no stack nope in us-east-1" in nowhere.err
    foreign = users("--stack", make_stack(emulator, {"Other": "thing"}), *there)
    assert foreign.code == 1
    assert "not one of answerback's" in foreign.err
    assert "--stack" in users("--region", "us-east-1").err
    assert users("--stack", "chat", "--data-dir", str(tmp_path), *there).code == 2
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    strange = users("--stack", "chat", *there)
    assert strange.code == 2
    assert "there are no AWS credentials" in strange.err
