"""What operators of a stack type, with the rights that the manual says are enough, and with no others."""

import asyncio
import json
import os
import re
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import forked
from answerback.client import Client, File, Forbidden
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.deployment import Deployment, DeployRequest
from answerback_aws.deploy.errors import DeployError
from answerback_aws.deploy.removal import Removal
from answerback_aws.emulator.emulator import REGION
from answerback_aws.emulator.run import target_of
from emulation import ENVIRONMENT, emulator_python
from stack import Stack
from template import RESOURCES, listed

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]

MANUAL = Path(__file__).resolve().parents[2] / "docs"

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def policy(name: str, stack: str) -> str:
    """A policy of the manual, for the stack of this name."""
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(MANUAL.glob("aws-*.md")))
    (found,) = re.findall(rf"<!-- policy: {name} -->\n```json\n(.*?)```", pages, re.DOTALL)
    return json.dumps(json.loads(found)).replace("chat", stack)


@contextmanager
def somebody(secured: Stack, document: str) -> Iterator[dict[str, str]]:
    """The credentials of a user with this policy."""
    iam, user = secured.emulator.client("iam"), secured.name("operator")
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    yield {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName=user, PolicyName="p")
    iam.delete_user(UserName=user)


@pytest.fixture
def operator(secured: Stack, request: pytest.FixtureRequest) -> Iterator[Command]:
    """Runs `answerback` as somebody with the policy that the test names."""

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        where = ("--stack", secured.stack_name, "--region", "us-east-1", "--endpoint-url", secured.emulator.endpoint)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        environment = {**kept, **{name.upper(): value for name, value in credentials.items()}}
        return forked.run([*command, *where], text=True, timeout=90, env=environment)

    with somebody(secured, policy(request.param, secured.stack_name)) as credentials:
        yield run


async def asked(stack: Stack, *questions: str) -> str:
    """A user who has asked these."""
    user = stack.name("user")
    async with asyncio.timeout(90), Client(stack.url, token=stack.token(user)) as client:
        for question in questions:
            await client.ask(question)
    return user


def files_of(stack: Stack) -> set[str]:
    """The objects of all users."""
    told = stack.emulator.client("s3").list_objects_v2(Bucket=stack.outputs["FilesBucket"])
    return {one["Key"] for one in told.get("Contents", ())}


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
async def test_who_manages_users_limits_bills_and_erases_them(
    secured: Stack, operator: Command, tmp_path: Path
) -> None:
    user, before = await asked(secured, "one two three", "four five"), files_of(secured)
    async with Client(secured.url, token=secured.token(user)) as client:
        await client.ask("six", attachments=[File(name="a.txt", data=b"seven")], timeout=90)
    shown = done(await asyncio.to_thread(operator, "users", "show", user, "--json"))
    assert (shown["userId"], shown["turns"], shown["perMinute"]) == (user, 3, None)
    (day,) = done(await asyncio.to_thread(operator, "users", "usage", user, "--json"))
    assert (day["requests"], day["inputTokens"]) == (3, 21)
    assert done(await asyncio.to_thread(operator, "users", "set-limit", user, "7", "--json"))["perMinute"] == 7
    assert user in {one["userId"] for one in done(await asyncio.to_thread(operator, "users", "list", "--json"))}
    exported = tmp_path / "user.jsonl"
    done(await asyncio.to_thread(operator, "users", "export", user, str(exported)))
    lines = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
    assert {"s3.files", "dynamodb.conversations"} <= {line["table"] for line in lines}
    assert b64encode(b"seven").decode() in {line.get("data") for line in lines}
    (told,) = [line for line in lines if line.get("item", "").startswith("upload#")]
    assert told["content"] == "text/plain"
    done(await asyncio.to_thread(operator, "users", "delete", user, "--yes"))
    assert files_of(secured) == before
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


class Silent:
    """Progress that nobody sees."""

    def step(self, text: str) -> None: ...

    def event(self, event: object) -> None: ...


def test_who_deploys_makes_changes_and_deletes_a_stack_and_no_other(secured: Stack) -> None:
    """CloudFormation's own calls are not checked by the emulator: the next test reads those.

    The bucket is the company's. One of ours refuses what comes without TLS, and so everything on the emulator, as does
    that of files.
    """
    secured.emulator.client("s3").create_bucket(Bucket="our-packages")
    document = policy("deploy", "crew").replace("answerback-artefacts-*", "our-packages*")
    with somebody(secured, document) as credentials:
        account = Account(region=REGION, endpoint=secured.emulator.endpoint, **credentials)
        python = emulator_python()
        request = DeployRequest(
            target=target_of(python),
            models=("echo",),
            parameters={"AllowAnonymous": "true", "HistoryDelaySeconds": "0"},
            bucket="our-packages",
            cache=ENVIRONMENT.parent / "wheels",
        )
        state = Deployment(account, "crew", Silent()).deploy(request)
        assert state.status == "UPDATE_COMPLETE"
        assert [
            fact for fact in Deployment(account, "crew", Silent()).facts(request)[0] if fact.is_good is not True
        ] == []
        s3, bucket = secured.emulator.client("s3"), state.outputs["FilesBucket"]
        s3.delete_bucket_policy(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="blob/user/file", Body=b"a file")
        removed = Removal(account, "crew", Silent()).destroy()
        assert bucket not in {one["Name"] for one in s3.list_buckets()["Buckets"]}
        assert (len(removed.snapshots), removed.bucket) == (1, "our-packages")
        with pytest.raises(DeployError, match="does not allow these credentials"):
            Removal(account, secured.stack_name, Silent()).destroy()
    rds = secured.emulator.client("rds")
    rds.delete_db_cluster_snapshot(
        DBClusterSnapshotIdentifier=removed.snapshots[0]
    )  # the emulator checks no name of it


SCHEMAS = Path(str(find_spec("cfnlint").origin)).parent / "data" / "schemas"  # to import it takes a second
UNUSED = re.compile(
    r"(kinesis|firehose|elasticfilesystem|s3files|s3tables|lambda:GetLayerVersion|lambda:PassCapacityProvider|s3:REST|s3:getObject$"
    r"|s3:GetObjectMetadata|lambda:GetCodeSigningConfig|iam:(Attach|Detach)(Group|User)Policy|dynamodb:DescribeImport"
    r"|logs:(PutLogEvents|CreateLogStream|DescribeLogStreams)|ec2:CreateNetworkInterface)"
)
"""Of properties that the template does not use, as CloudFormation's schemas list them with the rest."""


def test_who_deploys_has_what_cloudformation_calls_for_every_resource_of_the_template() -> None:
    """By the handlers' permissions in the registry's schemas, which cfn-lint brings."""
    document = json.loads(policy("deploy", "chat"))
    allowed = [action for one in document["Statement"] for action in listed(one["Action"])]
    index = json.loads((SCHEMAS / "providers" / "us-east-1.json").read_text(encoding="utf-8"))
    kinds = {resource["Type"] for resource in RESOURCES.values() if not resource["Type"].startswith("Custom::")}
    needed = set()
    for kind in kinds:
        schema = json.loads((SCHEMAS / "resources" / f"{index[kind]}.json").read_text(encoding="utf-8"))
        needed |= {action for handler in schema["handlers"].values() for action in handler.get("permissions", [])}
    assert len(needed) > 200
    missing = {one for one in needed if not any(fnmatch(one.lower(), pattern.lower()) for pattern in allowed)}
    assert {one for one in missing if not UNUSED.match(one)} == set()
