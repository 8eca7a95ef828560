"""What the checker must find in a stack: DynamoDB against Aurora, usage, what was never written, errors in the logs."""

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from answerback_aws.emulator.emulator import Emulator
from answerback_proof.chaos.aws.run import check_logs, check_stack
from answerback_proof.history import Asked, Ended, ModelRun, Result, RunHistory, ViolationKind
from asking import Actor
from aurora import Aws
from dynamo import own_tables
from emulation import Cluster

pytestmark = [pytest.mark.emulator, pytest.mark.postgres]


class Stores:
    """What the checker reads with, over the stores of a test."""

    def __init__(self, aws: Aws) -> None:
        self.database, self.requests, self.history = aws.database, aws.requests, aws.history
        self.users, self.turns = aws.users_of, aws.turns_kept
        self.unwritable = 0


class World:
    """One question that came home, and is in Aurora."""

    def __init__(self, aws: Aws, cluster: Cluster, postgres_url: str) -> None:
        self.aws = aws
        self.history = RunHistory()
        self._where = {"conninfo": postgres_url, "dbname": cluster.database}

    async def come_home(self) -> None:
        actor, text = Actor(self.aws), "r1: one two"
        asked = Asked(request="r1", user="ann", session="s1", conversation="c1", text=text, answer=text)
        self.history.add(asked)
        await actor.accept("r1", text)
        await actor.claim("r1")
        await actor.finish("r1", text, tokens=(3, 4))
        self.history.add(ModelRun(request="r1", attempt=1))
        self.history.add(Ended(request="r1", observer="run 1", result=Result.COMPLETED, text=text, attempt=1))
        await self.aws.write_behind.flush()

    def sql(self, statement: str) -> None:
        with psycopg.connect(**self._where, autocommit=True) as connection:
            assert connection.execute(statement).rowcount == 1

    async def found(self) -> set[tuple[ViolationKind, str]]:
        violations = await check_stack(self.history, Stores(self.aws))  # type: ignore[arg-type]
        return {(violation.kind, violation.request) for violation in violations}


@pytest.fixture
async def world(emulator: Emulator, aurora_cluster: Cluster, postgres_server: Any) -> AsyncIterator[World]:
    with own_tables(emulator.client("dynamodb")) as tables:
        aws = Aws(emulator, aurora_cluster, tables)
        world = World(aws, aurora_cluster, postgres_server.url)
        await world.come_home()
        yield world
        await aws.close()


async def test_what_came_home_is_clean(world: World) -> None:
    assert await world.found() == set()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM requests", (ViolationKind.LOST, "r1")),
        ("UPDATE requests SET status = 'failed'", (ViolationKind.DIFFERENT, "r1")),
        ("UPDATE requests SET output_tokens = 99", (ViolationKind.DIFFERENT, "r1")),
        ("UPDATE usage SET requests = requests + 1", (ViolationKind.DIFFERENT, "")),
        ("UPDATE usage SET output_tokens = output_tokens + 1", (ViolationKind.DIFFERENT, "")),
        ("UPDATE requests SET request_id = 'r2'", (ViolationKind.FOREIGN, "r2")),
    ],
)
async def test_what_aurora_has_is_what_dynamodb_has(
    world: World, statement: str, found: tuple[ViolationKind, str]
) -> None:
    world.sql(statement)
    assert found in await world.found()


async def test_a_request_without_an_ending_is_lost(world: World) -> None:
    await Actor(world.aws).accept("r2", "and now?")
    assert (ViolationKind.LOST, "r2") in await world.found()


def test_errors_in_the_logs_are_defects() -> None:
    history = RunHistory()
    check_logs(
        history,
        [
            ("front", "START RequestId: 1"),
            ("front", json.dumps({"level": "WARNING", "message": "a connection is gone"})),
            (
                "worker",
                json.dumps({"level": "ERROR", "message": "a run failed", "exception": "Traceback\nKeyError: 1"}),
            ),
            (
                "worker",
                json.dumps({"level": "ERROR", "message": "a run failed", "exception": "Traceback\nKeyError: 1"}),
            ),
        ],
    )
    (violation,) = history.noticed
    assert violation.kind is ViolationKind.BROKEN
    assert violation.detail == "logged 2 times by worker: a run failed KeyError: 1"
