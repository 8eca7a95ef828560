"""What people who look after a stack type, with the rights that the manual says are enough, and with no others."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from answerback.client import Client, Forbidden
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "aws-operate.md"

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def policy(name: str, stack: str) -> str:
    """A policy of the manual, for the stack of this name."""
    found = re.search(rf"<!-- policy: {name} -->\n```json\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.dumps(json.loads(found[1])).replace("chat", stack)


@pytest.fixture
def operator(secured: Stack, request: pytest.FixtureRequest) -> Iterator[Command]:
    """Runs `answerback` as somebody with the policy that the test names."""
    iam, user = secured.emulator.client("iam"), secured.name("operator")
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=policy(request.param, secured.stack_name))
    key = iam.create_access_key(UserName=user)["AccessKey"]

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        where = ("--stack", secured.stack_name, "--region", "us-east-1", "--endpoint-url", secured.emulator.endpoint)
        credentials = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "answerback", *command, *where],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
            env={**kept, **credentials},
        )

    yield run
    iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName=user, PolicyName="p")
    iam.delete_user(UserName=user)


async def asked(stack: Stack, *questions: str) -> str:
    """A user who has asked these."""
    user = stack.name("user")
    async with asyncio.timeout(90), Client(stack.url, token=stack.token(user)) as client:
        for question in questions:
            await client.ask(question)
    return user


def done(result: "subprocess.CompletedProcess[str]") -> Any:
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout) if result.stdout.startswith(("{", "[")) else result.stdout


@pytest.mark.parametrize("operator", ["look"], indirect=True)
async def test_a_reader_sees_how_it_does_and_changes_nothing(secured: Stack, operator: Command) -> None:
    user = await asked(secured, "hello")
    facts = {fact["name"]: fact for fact in done(await asyncio.to_thread(operator, "aws", "status", "--json"))["facts"]}
    assert {"stack", "alarms", "dead letters", "queue", "errors", "database"} <= set(facts)
    assert "unknown" not in {fact["value"] for fact in facts.values()}
    assert user in done(await asyncio.to_thread(operator, "aws", "logs", "--since", "10m"))
    assert done(await asyncio.to_thread(operator, "aws", "outputs", "ApiId")).strip() == secured.outputs["ApiId"]
    refused = await asyncio.to_thread(operator, "users", "delete", user, "--yes")
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert secured.items("Requests")


@pytest.mark.parametrize("operator", ["users"], indirect=True)
async def test_who_manages_users_limits_bills_and_erases_them(secured: Stack, operator: Command) -> None:
    user = await asked(secured, "one two three", "four five")
    shown = done(await asyncio.to_thread(operator, "users", "show", user, "--json"))
    assert (shown["userId"], shown["turns"], shown["perMinute"]) == (user, 2, None)
    (day,) = done(await asyncio.to_thread(operator, "users", "usage", user, "--json"))
    assert (day["requests"], day["inputTokens"], day["outputTokens"]) == (2, 14, 5)
    assert done(await asyncio.to_thread(operator, "users", "set-limit", user, "7", "--json"))["perMinute"] == 7
    assert user in {one["userId"] for one in done(await asyncio.to_thread(operator, "users", "list", "--json"))}
    done(await asyncio.to_thread(operator, "users", "delete", user, "--yes"))
    for table in ("Sessions", "Requests", "Conversations", "RateLimits"):
        assert user not in {item.get("userId") for item in secured.items(table)}
    for table in ("requests", "conversations", "users", "usage"):
        assert secured.sql(f"SELECT 1 FROM {table} WHERE user_id = :user", user=user) == []
    assert done(await asyncio.to_thread(operator, "users", "usage", user)).strip() == "Nothing was used."
    assert (await asyncio.to_thread(operator, "users", "show", user)).returncode == 1


@pytest.mark.parametrize("operator", ["users"], indirect=True)
async def test_a_blocked_user_s_connection_is_closed_and_no_other_opens(secured: Stack, operator: Command) -> None:
    user = secured.name("user")
    async with asyncio.timeout(90):
        async with Client(secured.url, token=secured.token(user)) as client:
            await client.ask("hello")
            assert done(await asyncio.to_thread(operator, "users", "block", user, "--json"))["blocked"] is True
            with pytest.raises(Forbidden, match="blocked"):
                await client.ask("hello again")
        with pytest.raises(Forbidden, match="blocked"):
            async with Client(secured.url, token=secured.token(user)) as client:
                await client.ask("and again")
        done(await asyncio.to_thread(operator, "users", "unblock", user))
        async with Client(secured.url, token=secured.token(user)) as client:
            await client.ask("hello")


@pytest.mark.parametrize("operator", ["users"], indirect=True)
async def test_a_user_s_limit_is_that_of_the_front(secured: Stack, operator: Command) -> None:
    user = secured.name("user")
    done(await asyncio.to_thread(operator, "users", "set-limit", user, "1"))
    async with asyncio.timeout(90), Client(secured.url, token=secured.token(user)) as client:
        limits = set()
        while not limits:
            answers = await asyncio.gather(*(client.ask(f"question {n}") for n in range(3)), return_exceptions=True)
            limits = {getattr(answer, "code", None) for answer in answers} - {None}
    assert limits == {"rate_limited"}
