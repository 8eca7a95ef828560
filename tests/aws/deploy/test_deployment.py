"""The life of a stack of the real template on the emulator: planned, made, changed, looked at, failed, deleted."""

import asyncio
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from botocore.config import Config

from answerback.client import Client, RequestFailed
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.deployment import Artefacts, Deployment, DeployRequest
from answerback_aws.deploy.errors import DeployError
from answerback_aws.deploy.logs import Logs
from answerback_aws.deploy.package import Package, PackageError, Target, build_package
from answerback_aws.deploy.removal import Removal
from answerback_aws.deploy.stack import Change, Stack, StackState
from answerback_aws.deploy.status import stack_facts
from answerback_aws.emulator.emulator import CREDENTIALS, REGION, Emulator

pytestmark = pytest.mark.timeout(300)
MakeRequest = Callable[..., DeployRequest]
Build = Callable[..., Package]

FAILING = """
import json
from urllib.request import Request, urlopen
def handler(event, context):
    answer = {"Status": "FAILED", "Reason": "the schema cannot be made: planted", "PhysicalResourceId": "schema",
              **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}}
    if event["RequestType"] == "Delete":
        answer["Status"] = "SUCCESS"
    urlopen(Request(event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT"))
"""


def build_failing(*arguments: Any, **more: Any) -> Package:
    """A package whose migration fails."""
    good = build_package(*arguments, **more)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good.data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, FAILING if name.endswith("functions/migration.py") else old.read(name))
    return replace(good, data=out.getvalue(), content_sha256="f" * 64)


@pytest.fixture(scope="module")
def deployed(account: Account, wanted: MakeRequest, build: Build) -> Iterator[tuple[str, StackState]]:
    """A stack for the tests that only look."""

    class Silent:
        def step(self, text: str) -> None: ...

        def event(self, event: object) -> None: ...

    name = "looked-at"
    asked = replace(wanted(), models=("echo", "away=echo:fail=unavailable"))
    state = Deployment(account, name, Silent(), build=build).deploy(asked)
    yield name, state
    Removal(account, name, Silent()).destroy(delete_history=True)


# --- planning -----------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_new_stack_leaves_nothing(
    account: Account, wanted: MakeRequest, stack_name: str, recorder: Any, build: Build
) -> None:
    deployment = Deployment(account, stack_name, recorder, build=build)
    plan = deployment.plan(wanted())
    assert plan.is_new
    assert {change.action for change in plan.changes} == {"Add"}
    assert "WorkerFunction" in {change.resource for change in plan.changes}
    deployment.drop(plan)
    stacks = account.client("cloudformation").list_stacks()["StackSummaries"]
    assert not [one for one in stacks if one["StackName"] == stack_name and one["StackStatus"] != "DELETE_COMPLETE"]


def test_a_dry_run_of_a_change_leaves_no_change_set(
    account: Account, wanted: MakeRequest, deployed: tuple[str, StackState], recorder: Any, build: Build
) -> None:
    name, state = deployed
    deployment = Deployment(account, name, recorder, build=build)
    plan = deployment.plan(replace(wanted(), models=(), parameters={"RateLimit": "77"}))
    assert {(change.action, change.resource) for change in plan.changes} >= {("Modify", "FrontFunction")}
    deployment.drop(plan)
    left = account.client("cloudformation").list_change_sets(StackName=name)["Summaries"]
    assert [one for one in left if one["ExecutionStatus"] == "AVAILABLE"] == []
    now = Stack(account, name).existing()
    assert (now.status, now.parameters) == (state.status, state.parameters)


def test_what_would_be_replaced_is_announced_and_nothing_happens_without_a_yes(
    account: Account, wanted: MakeRequest, deployed: tuple[str, StackState], recorder: Any, build: Build
) -> None:
    name, state = deployed
    announced: list[Change] = []

    def refuse(losses: Sequence[Change]) -> None:
        announced.extend(losses)
        raise DeployError("no")

    with pytest.raises(DeployError, match="no"):
        Deployment(account, name, recorder, build=build).deploy(
            replace(wanted(), models=(), parameters={"StageName": "v2", "RateLimit": "78"}), approve=refuse
        )
    assert [(one.resource, one.loss) for one in announced] == [
        ("Stage", "apps need another URL, and every connection is lost")
    ]
    left = account.client("cloudformation").list_change_sets(StackName=name)["Summaries"]
    assert [one for one in left if one["ExecutionStatus"] == "AVAILABLE"] == []
    assert Stack(account, name).existing().parameters == state.parameters


def test_deploying_the_same_again_changes_nothing(
    account: Account, wanted: MakeRequest, deployed: tuple[str, StackState], recorder: Any, build: Build
) -> None:
    name, state = deployed
    again = Deployment(account, name, recorder, build=build).deploy(replace(wanted(), models=(), parameters={}))
    assert recorder.steps[-1] == "Nothing to change"
    assert recorder.events == []
    assert again.parameters == state.parameters


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"AllowAnonymous": "false"}, "--jwt-issuer ISSUER --jwt-audience AUDIENCE"),
        ({"AllowAnonymous": "false", "JwksUrl": "https://x/keys"}, "--jwt-issuer and --jwt-audience"),
        ({"ratelimit": "5"}, "there are: RateLimit"),
        ({"RateLimit": "-5"}, "RateLimit"),
    ],
)
def test_what_cannot_be_is_reported_before_anything_is_made(
    account: Account,
    wanted: MakeRequest,
    stack_name: str,
    recorder: Any,
    build: Build,
    parameters: dict[str, str],
    says: str,
) -> None:
    with pytest.raises(DeployError) as caught:
        Deployment(account, stack_name, recorder, build=build).deploy(wanted(**parameters))
    assert says in str(caught.value)
    assert Stack(account, stack_name).state() is None


def test_what_the_functions_run_on_stays_as_it_was(
    account: Account, wanted: MakeRequest, deployed: tuple[str, StackState], recorder: Any
) -> None:
    name, state = deployed
    built: list[Target] = []

    def refuse(target: Target, **_: Any) -> Package:
        built.append(target)
        raise PackageError("not built")

    class Real(Account):
        is_real = True

    real = Real(region=REGION, endpoint=account.client("s3").meta.endpoint_url, **CREDENTIALS)
    for asked in ({}, {"architecture": "x86_64"}, {"python": "3.12"}):
        with pytest.raises(DeployError, match="not built"):
            Deployment(real, name, recorder, build=refuse).plan(
                replace(wanted(), models=(), target=None, **asked)  # type: ignore[arg-type]
            )
    was = state.parameters["Runtime"].removeprefix("python")
    assert [(one.python, one.architecture) for one in built] == [(was, "arm64"), (was, "x86_64"), ("3.12", "arm64")]
    with pytest.raises(DeployError, match="not built"):
        Deployment(account, name, recorder, build=refuse).plan(replace(wanted(), models=(), target=None))
    assert built[-1] == Target.here(python=was)


def is_protected(account: Account, state: StackState) -> bool:
    """Whether all that holds what users said refuses to be deleted."""
    dynamodb, rds = account.client("dynamodb"), account.client("rds")
    kept = [
        dynamodb.describe_table(TableName=state.outputs[name])["Table"]
        for name in ("RequestsTable", "ConversationsTable")
    ]
    (cluster,) = rds.describe_db_clusters(DBClusterIdentifier=state.outputs["ClusterArn"].rpartition(":")[2])[
        "DBClusters"
    ]
    return bool(cluster["DeletionProtection"]) and all(table["DeletionProtectionEnabled"] for table in kept)


# --- a stack's life -----------------------------------------------------------------------------------------


async def test_it_answers_and_is_healthy_and_its_logs_follow_one_request(
    account: Account, deployed: tuple[str, StackState]
) -> None:
    name, state = deployed
    async with Client(account.outputs(state.outputs)["WebSocketUrl"], user="ann", connect_timeout=60) as app:
        answer = await app.ask("one secretword three", timeout=60)
    assert answer.text == "one secretword three"
    facts = await asyncio.to_thread(stack_facts, account, name)
    assert {fact.name for fact in facts} >= {"stack", "url", "alarms", "dead letters", "queue", "errors", "database"}
    assert [fact for fact in facts if fact.is_good is not True] == []
    logs = Logs(account, name)
    groups = logs.groups()
    lines = list(logs.read(groups, since_ms=0, containing=answer.request_id))
    assert [line.at_ms for line in lines] == sorted(line.at_ms for line in lines)
    assert {line.function for line in lines} >= {"front", "worker"}
    times = [
        (line.at_ms, datetime.fromisoformat(line.fields["timestamp"])) for line in lines if "timestamp" in line.fields
    ]
    assert times
    assert [at_ms for at_ms, _ in times] == [round(written.timestamp() * 1000) for _, written in times]
    assert {line.fields.get("requestId") for line in lines} == {answer.request_id}
    assert "secretword" not in "".join(line.text for line in logs.read(groups, since_ms=0))


def test_following_logs_shows_each_line_once(account: Account, deployed: tuple[str, StackState]) -> None:
    name, _ = deployed

    class Enough(Exception):
        pass

    rounds = 0

    def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise Enough

    logs = Logs(account, name, sleep=sleep)
    seen: list[str] = []
    with pytest.raises(Enough):
        seen.extend(line.event_id for line in logs.follow(logs.groups(("migration",)), since_ms=0))
    assert rounds == 3
    assert seen
    assert len(seen) == len(set(seen))


def test_an_alarm_that_goes_off_says_what_to_do(account: Account, deployed: tuple[str, StackState]) -> None:
    name, _ = deployed
    cloudwatch = account.client("cloudwatch")
    alarm = next(one for one in Stack(account, name).resources() if one["LogicalResourceId"] == "OldestMessageAlarm")
    cloudwatch.set_alarm_state(AlarmName=alarm["PhysicalResourceId"], StateValue="ALARM", StateReason="planted")
    ringing = [fact for fact in stack_facts(account, name) if fact.is_good is False]
    cloudwatch.set_alarm_state(AlarmName=alarm["PhysicalResourceId"], StateValue="OK", StateReason="over")
    assert [(fact.name, fact.value) for fact in ringing] == [("alarm", alarm["PhysicalResourceId"])]
    assert "WorkerConcurrency" in ringing[0].advice
    assert [fact for fact in stack_facts(account, name) if fact.is_good is not True] == []


def test_what_cannot_be_read_does_not_hide_the_rest(
    account: Account, deployed: tuple[str, StackState], emulator: Emulator
) -> None:
    class Partial(Account):
        def client(self, service: str) -> Any:
            if service == "cloudwatch":
                config = Config(retries={"total_max_attempts": 1})
                return emulator.client(service, endpoint_url="http://127.0.0.1:1", config=config)
            return account.client(service)

    partial = Partial(region=REGION, endpoint=emulator.endpoint, **CREDENTIALS)
    facts = {fact.name: fact for fact in stack_facts(partial, deployed[0])}
    assert facts["stack"].is_good is True
    assert facts["dead letters"].is_good is True
    assert {name for name, fact in facts.items() if fact.is_good is None} == {
        "alarms",
        "answers",
        "queue",
        "errors",
        "database",
    }
    assert "cannot reach AWS" in facts["alarms"].advice


async def test_failed_answers_ring_though_no_function_failed(
    account: Account, deployed: tuple[str, StackState]
) -> None:
    name, state = deployed
    async with Client(account.outputs(state.outputs)["WebSocketUrl"], user="ann", connect_timeout=60) as app:
        for _ in range(2):
            with pytest.raises(RequestFailed) as failed:
                await app.ask("anybody?", model="away", timeout=60)
            assert failed.value.code == "model_unavailable"
    facts = {fact.name: fact for fact in await asyncio.to_thread(stack_facts, account, name)}
    assert facts["errors"].is_good is True
    assert facts["answers"].is_good is False
    assert "model_unavailable 2" in facts["answers"].value
    assert facts["answers"].advice.startswith(f"answerback aws check --stack {name}")
    assert facts["alarm"].value.startswith(f"{name}-ModelUnavailableAlarm")


def test_a_function_that_is_not_there(account: Account, deployed: tuple[str, StackState]) -> None:
    with pytest.raises(DeployError, match="there are: connections"):
        Logs(account, deployed[0]).groups(("nix",))


async def test_a_stack_is_made_changed_and_deleted_and_its_history_is_in_a_snapshot(
    account: Account, wanted: MakeRequest, stack_name: str, recorder: Any, build: Build
) -> None:
    deployment = Deployment(account, stack_name, recorder, build=build)
    made = await asyncio.to_thread(deployment.deploy, replace(wanted(), tags={"team": "chat"}))
    assert "CREATE_COMPLETE" in {event.status for event in recorder.events if event.is_stack}
    assert is_protected(account, made), "switched on when the stack stood"
    assert made.tags["team"] == "chat"
    assert recorder.events[-1].is_stack
    changed = await asyncio.to_thread(deployment.deploy, replace(wanted(), models=(), parameters={"RateLimit": "77"}))
    assert changed.status == "UPDATE_COMPLETE"
    assert changed.parameters["RateLimit"] == "77"
    assert {**changed.parameters, "RateLimit": ""} == {**made.parameters, "RateLimit": ""}, "the rest stays"
    assert changed.tags["team"] == "chat"
    async with Client(account.outputs(changed.outputs)["WebSocketUrl"], user="ann", connect_timeout=60) as app:
        await app.ask("one", timeout=60)
    removed = await asyncio.to_thread(Removal(account, stack_name, recorder).destroy)
    assert removed.unwritten == 0
    assert len(removed.snapshots) == 1
    assert Stack(account, stack_name).state() is None
    with pytest.raises(DeployError, match="there is no stack"):
        Removal(account, stack_name, recorder).destroy()


def test_deploying_while_it_is_being_made_follows_that_first(
    account: Account, wanted: MakeRequest, stack_name: str, recorder: Any, build: Build
) -> None:
    first = Deployment(account, stack_name, recorder, build=build)
    plan = first.plan(wanted())
    Stack(account, stack_name).execute(plan.name)
    recorder.steps.clear()  # its process died there, before it could protect the history
    state = Deployment(account, stack_name, recorder, build=build).deploy(wanted())
    assert recorder.steps[0] == f"{stack_name} is CREATE_IN_PROGRESS; following that first"
    assert recorder.events[0].is_stack
    assert recorder.steps[-1].startswith("Updating")
    assert is_protected(account, state)
    assert Removal(account, stack_name, recorder).destroy(delete_history=True).snapshots == ()
    snapshots = account.client("rds").describe_db_cluster_snapshots()["DBClusterSnapshots"]
    assert not [one for one in snapshots if stack_name in one["DBClusterSnapshotIdentifier"]]


def test_what_failed_first_is_reported_and_nothing_is_left_of_it(
    account: Account, wanted: MakeRequest, stack_name: str, recorder: Any, build: Build
) -> None:
    with pytest.raises(DeployError) as caught:
        Deployment(account, stack_name, recorder, build=build_failing).deploy(wanted())
    assert caught.value.message.startswith("Schema (Custom::Schema) failed:")
    assert "planted" in caught.value.message
    assert Stack(account, stack_name).state() is None, "so that the next try begins again"
    assert not [name for name in account.client("dynamodb").list_tables()["TableNames"] if stack_name in name]
    clusters = account.client("rds").describe_db_clusters()["DBClusters"]
    assert not [one for one in clusters if stack_name in one["DBClusterIdentifier"].lower()]


# --- the bucket ---------------------------------------------------------------------------------------------


def test_the_bucket_is_private_and_encrypted_and_nothing_is_uploaded_twice(account: Account) -> None:
    artefacts = Artefacts(account)
    assert artefacts.put("test/a", b"one").is_new
    again = artefacts.put("test/a", b"two")
    assert not again.is_new
    s3 = account.client("s3")
    assert s3.get_object(Bucket=again.bucket, Key="test/a")["Body"].read() == b"one"
    block = s3.get_public_access_block(Bucket=again.bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    rules = s3.get_bucket_encryption(Bucket=again.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert "aws:SecureTransport" in s3.get_bucket_policy(Bucket=again.bucket)["Policy"]
