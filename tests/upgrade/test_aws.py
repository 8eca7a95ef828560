"""The functions of AWS of this version on the items and rows of ff0d8e5, on the emulator."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from answerback_aws.emulator.emulator import CREDENTIALS, REGION, Emulator
from answerback_aws.runtime.composition import process
from answerback_aws.runtime.functions import migration
from emulation import Cluster, make_cluster
from kept import FOLDER, LONG, SLOW, assert_kept, kept
from lambda_functions import QUEUE_URL, Context, Functions, logging_kept

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(60)]

TABLES = {
    "Connections": "CONNECTIONS_TABLE",
    "Sessions": "SESSIONS_TABLE",
    "Requests": "REQUESTS_TABLE",
    "Conversations": "CONVERSATIONS_TABLE",
    "RateLimits": "RATE_LIMITS_TABLE",
}
"""The kept tables, and the variables that name them to the functions."""

MODELS = "echo slow=echo stuck=echo:fail=hang deaf=echo broken=echo:fail=midstream throttled=echo:fail=throttled"


@dataclass(frozen=True, slots=True)
class Stack:
    """The functions over what was kept."""

    functions: Functions
    postgres_url: str
    dynamodb: Any
    names: dict[str, str]

    def items(self, *users: str) -> dict[str, list[dict[str, Any]]]:
        """Every item of these users, by table."""
        return {
            table: [item for item in self.dynamodb.scan(TableName=name)["Items"] if item["userId"]["S"] in users]
            for table, name in self.names.items()
        }

    def app(self, user: str, session: str) -> "App":
        """An app that connects now."""
        connection = f"c-{uuid.uuid4().hex[:8]}"
        query = {"userId": user, "sessionId": session}
        answer = self.functions.connect(connection, query=query, connected_at_ms=time.time_ns() // 1_000_000)
        assert answer["statusCode"] == 200
        return App(self.functions, connection)

    def rows(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """What Aurora has."""
        with psycopg.connect(self.postgres_url) as connection:
            return connection.execute(statement).fetchall()


@dataclass(frozen=True, slots=True)
class App:
    """One connection."""

    functions: Functions
    connection: str

    def say(self, frame: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """Send a frame; the frames that came by the time it was handled."""
        before = len(self.frames)
        self.functions.say(self.connection, frame)
        return self.frames[before:]

    @property
    def frames(self) -> Sequence[dict[str, Any]]:
        """All that came."""
        return self.functions.management.to(self.connection)

    def answer(self, request_id: str) -> tuple[str, dict[str, Any]]:
        """The text of the last attempt, and the ending."""
        about = [frame for frame in self.frames if frame.get("requestId") == request_id]
        ending = next(frame for frame in reversed(about) if frame["action"] == "messageResponse")
        text = ""
        for frame in about:
            if frame["action"] == "messageDelta" and frame["attempt"] == ending["attempt"]:
                text = text[: frame["offset"]] + frame["delta"]
        return text, ending


@pytest.fixture(scope="module")
def stack(emulator: Emulator, postgres_server: Any) -> Iterator[Stack]:
    """The stack, left a moment ago."""
    with opened(
        emulator, postgres_server.url, since_ms=30_000
    ) as stack:  # longer than a lease, shorter than a deadline
        yield stack


@pytest.fixture
def stack_of_yesterday(emulator: Emulator, postgres_server: Any) -> Iterator[Stack]:
    """The stack, left a day ago with nothing in its queue."""
    with opened(emulator, postgres_server.url, since_ms=24 * 3_600_000) as stack:
        stack.functions.sqs.sent.clear()
        yield stack


@contextmanager
def opened(emulator: Emulator, postgres_url: str, *, since_ms: int) -> Iterator[Stack]:
    """The tables and the database that a stack of ff0d8e5 had, and the functions of this version over them."""
    client = emulator.client("dynamodb")
    names = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in TABLES}
    for table in kept("dynamodb-tables.json"):
        client.create_table(**{**table, "TableName": names[table["TableName"]]})
    for name, items in aged(since_ms=since_ms).items():
        for first in range(0, len(items), 25):
            puts = [{"PutRequest": {"Item": item}} for item in items[first : first + 25]]
            assert not client.batch_write_item(RequestItems={names[name]: puts})["UnprocessedItems"]
    cluster = make_cluster(emulator)
    emulator.client("rds-data").execute_statement(  # the database is made by the first call
        resourceArn=cluster.cluster_arn, secretArn=cluster.secret_arn, database=cluster.database, sql="SELECT 1"
    )
    with psycopg.connect(postgres_url, dbname=cluster.database, autocommit=True) as connection:
        connection.execute((FOLDER / "aurora.sql").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch, logging_kept():
        functions = functions_on(emulator, cluster, patch, {variable: names[name] for name, variable in TABLES.items()})
        yield Stack(functions, postgres_url.replace("/postgres?", f"/{cluster.database}?"), client, names)
        functions.close()
    for name in names.values():
        client.delete_table(TableName=name)


def functions_on(
    emulator: Emulator, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> Functions:
    """The functions, their stores real: only the queue and the connections of API Gateway are in memory."""
    variables |= {"CLUSTER_ARN": cluster.cluster_arn, "SECRET_ARN": cluster.secret_arn, "DATABASE": cluster.database}
    settings = {
        "MODELS": MODELS,
        "MAX_TOKENS": "4000",
        "RATE_LIMIT": "3",
        "RETENTION_DAYS": "3650",
        "HISTORY_DELAY_S": "60",
    }
    for name, value in {**variables, **settings}.items():
        monkeypatch.setenv(f"ANSWERBACK_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name.upper(), value)
    process.cache_clear()
    migration.handler({}, Context(remaining_ms=60_000))
    process("migration", migration.TIMEOUTS).close()
    process.cache_clear()
    functions = Functions(monkeypatch, **variables, **settings)
    for composition in functions.compositions.values():
        for faked in ("connections", "requests", "turns", "history", "write_behind"):
            composition.__dict__.pop(faked, None)
        composition.__dict__["dynamodb"] = emulator.client("dynamodb")
    functions.sqs.sent = {
        message["MessageDeduplicationId"]: {"QueueUrl": QUEUE_URL, **message}
        for message in kept("dynamodb.json")["queue"]
    }
    return functions


def aged(*, since_ms: int) -> dict[str, list[dict[str, Any]]]:
    """The items, as if they had been written that long ago: what expires, and what is unfinished, are newer now."""
    found = kept("dynamodb.json")
    newer_ms = time.time_ns() // 1_000_000 - since_ms - found["writtenAt"] * 1000
    for items in found["tables"].values():
        for item in items:
            if "expiresAt" in item:
                item["expiresAt"]["N"] = str(int(item["expiresAt"]["N"]) + newer_ms // 1000)
            if "unfinished" in item:
                for name in {"acceptedAtMs", "startedAtMs", "leaseUntilMs"} & set(item):
                    item[name]["N"] = str(int(item[name]["N"]) + newer_ms)
    tables: dict[str, list[dict[str, Any]]] = found["tables"]
    return tables


def test_the_history_and_the_endings_are_there(stack: Stack) -> None:
    found = {}
    for user, session, requests in (
        (
            "ann",
            "ann-desk",
            (
                *(f"intro-{n}" for n in range(1, 7)),
                *("long-1", "renamed-1", "deleted-1", "alone-1", "failed-1", "throttled-1", "cancelled-1"),
                *("refused-model", "refused-empty", "cancelled-early"),
            ),
        ),
        ("mina", "mina-phone", ("mina-1", "mina-2", "mina-3")),
        ("사용자", "한국-1", ("intro-1",)),
    ):
        app = stack.app(user, session)
        (listed,) = app.say({"action": "listConversations", "requestId": "l"})
        shown = {}
        for one in listed["conversations"]:
            (page,) = app.say(
                {"action": "getHistory", "requestId": "h", "conversationId": one["conversationId"], "limit": 10}
            )
            shown[one["conversationId"]] = page["turns"]
        ended = [app.say({"action": "cancelMessage", "requestId": name})[0] for name in requests]
        found[user] = {"conversations": listed["conversations"], "turns": shown, "endings": ended}
    assert_kept("aws-history.json", found)


def test_what_was_unfinished_is_redelivered_and_its_app_gets_it(stack: Stack) -> None:
    app = stack.app("zoe", "zoe-desk")
    resume = [{"requestId": "running-1", "attempt": 1, "offset": 8}]
    resume += [{"requestId": name, "attempt": 0, "offset": 0} for name in ("waiting-1", "waiting-2", "stopping-1")]
    assert [frame["action"] for frame in app.say({"action": "hello", "helloId": "h", "resume": resume})] == ["welcome"]
    ask = {"action": "sendMessage", "conversationId": "work", "stream": True}
    app.say({**ask, "requestId": "waiting-1", "message": "the first in line"})
    app.say({**ask, "requestId": "new-1", "message": "the newest"})
    *old, new = stack.functions.sqs.sent.values()
    assert [message["MessageBody"] for message in old] == [
        message["MessageBody"] for message in kept("dynamodb.json")["queue"]
    ]
    assert new["MessageGroupId"] == old[0]["MessageGroupId"], "what is asked in a conversation waits for what was"
    assert stack.functions.work() == [{"batchItemFailures": []}] * 5
    ended = {}
    for name in ("running-1", "waiting-1", "waiting-2", "stopping-1"):
        text, ending = app.answer(name)
        ended[name] = (text, ending["status"], ending["attempt"], ending.get("finishReason"))
    assert ended == {
        "running-1": (SLOW, "completed", 2, "stop"),
        "waiting-1": ("the first in line", "completed", 1, "stop"),
        "waiting-2": ("the second in line, ", "completed", 1, "length"),
        "stopping-1": ("", "cancelled", 2, None),
    }
    (page,) = app.say({"action": "getHistory", "requestId": "h", "conversationId": "work"})
    assert [(turn["requestId"], turn["answer"]) for turn in page["turns"]] == [
        ("running-1", SLOW),
        ("waiting-1", "the first in line"),
        ("waiting-2", "the second in line, "),
        ("new-1", "the newest"),
    ]


def test_the_janitor_ends_what_nobody_will_run_and_writes_the_turns_behind(stack_of_yesterday: Stack) -> None:
    stack = stack_of_yesterday
    assert stack.rows("SELECT count(*) FROM requests") == [(5,)]
    stack.functions.invoke("janitor", {}, remaining_ms=60_000)
    app = stack.app("zoe", "zoe-desk")
    ended = {}
    for name in ("running-1", "waiting-1", "waiting-2", "stopping-1"):
        (ending,) = app.say({"action": "cancelMessage", "requestId": name})
        ended[name] = (ending["status"], ending["attempt"], ending.get("error", {}).get("code"))
    assert ended == {
        "running-1": ("failed", 2, "timeout"),
        "waiting-1": ("failed", 1, "timeout"),
        "waiting-2": ("failed", 1, "timeout"),
        "stopping-1": ("cancelled", 2, None),
    }
    stack.functions.invoke("janitor", {}, remaining_ms=60_000)
    assert stack.rows(
        "SELECT user_id, count(*) FROM requests WHERE conversation_id IS NOT NULL GROUP BY user_id ORDER BY user_id"
    ) == [
        ("ann", 13),
        ("mina", 2),
        ("zoe", 4),
        ("사용자", 1),
    ]
    assert stack.rows("SELECT question, answer FROM requests WHERE request_id = 'long-1'") == [(LONG, LONG)]


def test_users_keep_their_own_limits(stack: Stack) -> None:

    def refusals(user: str, *, questions: int) -> int:
        """Of questions that are asked within two minutes of the clock."""
        app, refused = stack.app(user, f"{user}-now"), 0
        for number in range(questions):
            frame = {"action": "sendMessage", "requestId": f"new-{number}", "message": "Once more?"}
            refused += app.say(frame)[0]["action"] == "messageResponse"
        return refused

    assert refusals("mina", questions=5) >= 1, "her limit is 2 a minute"
    assert refusals("omar", questions=7) == 0, "he has none, where the default is 3 a minute"


def test_new_items_have_the_attributes_they_had(stack: Stack) -> None:
    functions, seen = stack.functions, len(stack.functions.lines)
    waiting, functions.sqs.sent = functions.sqs.sent, {}
    app = stack.app("new", "new-desk")
    ask = {"action": "sendMessage", "conversationId": "c", "stream": True}
    app.say({**ask, "requestId": "n-1", "message": "Hello?", "system": "Be brief.", "maxTokens": 5})
    app.say({**ask, "requestId": "n-2", "message": "one two", "model": "broken"})
    functions.work()
    app.say({**ask, "requestId": "n-3", "message": "Better?", "replaces": "n-1"})
    functions.work()
    app.say({"action": "updateConversation", "requestId": "u", "conversationId": "c", "deleted": True})
    app = stack.app("newer", "new-desk")  # three a minute each
    app.say({**ask, "requestId": "n-4", "message": "stays", "conversationId": "d"})
    app.say({**ask, "requestId": "n-5", "message": "stopped"})
    app.say({"action": "cancelMessage", "requestId": "n-5"})
    app.say({"action": "cancelMessage", "requestId": "n-6"})
    app.say({**ask, "requestId": "n-7", "message": "refused", "model": "no-such-model"})
    sent, functions.sqs.sent = functions.sqs.sent, waiting
    attributes: dict[str, dict[str, dict[str, str]]] = {}
    for name, items in stack.items("new", "newer").items():
        for item in items:
            kinds = attributes.setdefault(name, {}).setdefault(kind_of(item), {})
            kinds.update({attribute: next(iter(value)) for attribute, value in item.items()})
    lines = functions.lines[seen:]
    metrics = {key for line in lines if "_aws" in line for key in line if key != "_aws"}
    assert_kept(
        "aws-forms.json",
        {
            "items": {
                name: {kind: dict(sorted(found.items())) for kind, found in sorted(kinds.items())}
                for name, kinds in attributes.items()
            },
            "message": sorted(next(message for message in sent.values() if "n-4" in message["MessageBody"])),
            "body": next(message["MessageBody"] for message in sent.values() if "n-4" in message["MessageBody"]),
            "log keys": sorted({key for line in lines if "_aws" not in line for key in line}),
            "metrics": sorted(metrics),
        },
    )


def kind_of(item: dict[str, Any]) -> str:
    """Which of the kinds that a table holds: by the sort key's constant part, and by the state of a request."""
    if "item" in item:
        return next(
            (kind for kind in ("question", "system", "answer", "turn") if kind in item["item"]["S"]), "deletion"
        )
    return item["state"]["S"] if "state" in item else "item"
