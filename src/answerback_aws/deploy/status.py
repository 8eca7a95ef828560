"""The status of a stack: what an operator checks first."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from answerback.protocol.errors import ErrorCode
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, explained
from answerback_aws.deploy.stack import Stack, StackState

_HOUR: Final = timedelta(hours=1)
_QUARTER: Final = timedelta(minutes=15)
_GOOD: Final = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE"})
_FUNCTIONS: Final = ("Connections", "Front", "Worker", "DeadLetters", "Janitor")
"""Not the authorizer: each token that it refuses counts as an error of it."""
_ENDING: Final = ("worker", "janitor", "dead-letters")
"""The services that end requests as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was checked. `is_good` None: unknown; `advice`: what to do."""

    name: str
    value: str
    is_good: bool | None = True
    advice: str = ""


def stack_facts(account: Account, name: str, *, now: datetime | None = None) -> tuple[Fact, ...]:
    """The facts of a stack. One that cannot be read does not hide the others. Raises: DeployError: no such stack."""
    stack = Stack(account, name)
    state = stack.existing()
    now = now or datetime.now(UTC)
    found = [
        Fact(
            name="stack",
            value=state.status,
            is_good=state.status in _GOOD,
            advice="" if state.status in _GOOD else f"answerback aws deploy --stack {name}",
        )
    ]
    if "WebSocketUrl" in state.outputs:
        found.append(Fact(name="url", value=account.websocket_url(state.outputs)))
    for part in (_alarms, _answers, _dead_letters, _queue, _errors, _database):
        name = part.__name__.strip("_").replace("_", " ")
        found += gathered([(name, partial(part, account, stack, state, now))])
    return tuple(found)


def gathered(parts: Iterable[tuple[str, Callable[[], Sequence[Fact]]]]) -> Iterator[Fact]:
    """The facts of each part, by its name. One that cannot be read is unknown, and does not hide the others."""
    for name, read in parts:
        try:
            with explained(f"read the {name}"):
                yield from read()
        except DeployError as exc:
            yield Fact(name=name, value="unknown", is_good=None, advice=str(exc))


def _alarms(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    names = [one["PhysicalResourceId"] for one in stack.resources() if one["ResourceType"] == "AWS::CloudWatch::Alarm"]
    if not names:
        return [Fact(name="alarms", value="none")]
    alarms = account.client("cloudwatch").describe_alarms(AlarmNames=names[:100])["MetricAlarms"]
    ringing = [one for one in alarms if one["StateValue"] == "ALARM"]
    if not ringing:
        return [Fact(name="alarms", value=f"none of {len(names)}")]
    return [
        Fact(
            name="alarm",
            value=one["AlarmName"],
            is_good=False,
            advice=one.get("AlarmDescription", "see docs/aws-operate.md"),
        )
        for one in ringing
    ]


def _dead_letters(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    waiting, working = _depth(account, state.outputs["DeadLettersUrl"])
    total = waiting + working
    advice = f"answerback aws logs --stack {stack.name} --function dead-letters" if total else ""
    return [Fact(name="dead letters", value=str(total), is_good=not total, advice=advice)]


def _queue(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    waiting, working = _depth(account, state.outputs["QueueUrl"])
    name = state.outputs["QueueUrl"].rpartition("/")[2]
    age = _latest(account, "AWS/SQS", "ApproximateAgeOfOldestMessage", {"QueueName": name}, now, statistic="Maximum")
    limit = float(state.parameters.get("OldestMessageSeconds") or 180)
    is_late = waiting > 0 and age is not None and age >= limit
    value = f"{waiting} waiting, {working} at work" + (f", the oldest for {age:.0f} s" if waiting and age else "")
    return [
        Fact(
            name="queue",
            value=value,
            is_good=not is_late,
            advice="raise WorkerConcurrency, or see why workers fail" if is_late else "",
        )
    ]


def _answers(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    """What users got, as the functions count it: a failed answer is no error of a function."""
    metrics = [("Ended", {"service": "worker", "status": "completed"})]
    metrics += [("Ended", {"service": service, "status": "failed"}) for service in _ENDING]
    metrics += [("Failed", {"code": code.value, "service": service}) for code in ErrorCode for service in _ENDING]
    sums = _sums(account, [(f"Answerback/{stack.name}", name, dimensions) for name, dimensions in metrics], now)
    completed, failed = sums[0], sum(sums[1 : 1 + len(_ENDING)])
    if not completed + failed:
        return [Fact(name="answers", value="none in the last hour")]
    if not failed:
        return [Fact(name="answers", value=f"{completed} in the last hour, none failed")]
    codes: Counter[str] = Counter()
    for (_, dimensions), count in zip(metrics, sums, strict=True):
        codes[dimensions.get("code", "")] += count
    del codes[""]
    percent = float(state.parameters.get("FailedAnswersPercent") or 20)
    text = ", ".join(f"{code} {count}" for code, count in codes.most_common() if count)
    advice = f"answerback aws logs --stack {stack.name} --function worker --since 1h"
    if codes[ErrorCode.MODEL_UNAVAILABLE]:
        advice = f"answerback aws check --stack {stack.name}, then {advice}"
    return [
        Fact(
            name="answers",
            value=f"{failed} of {completed + failed} failed in the last hour: {text}",
            is_good=100 * failed < percent * (completed + failed),
            advice=advice,
        )
    ]


def _errors(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    functions = [(name, state.outputs[f"{name}Function"]) for name in _FUNCTIONS if f"{name}Function" in state.outputs]
    sums = _sums(account, [("AWS/Lambda", "Errors", {"FunctionName": function}) for _, function in functions], now)
    failing = [(name, count) for (name, _), count in zip(functions, sums, strict=True) if count]
    if not failing:
        return [Fact(name="errors", value="none in the last hour")]
    worst = max(failing, key=lambda pair: pair[1])[0].lower()
    text = ", ".join(f"{name.lower()} {count}" for name, count in failing)
    advice = f"answerback aws logs --stack {stack.name} --function {worst} --since 1h"
    return [Fact(name="errors", value=f"{text} in the last hour", is_good=False, advice=advice)]


def _database(account: Account, stack: Stack, state: StackState, now: datetime) -> Sequence[Fact]:
    arn = state.outputs["ClusterArn"]
    identifier = arn.rpartition(":")[2]
    cluster = account.client("rds").describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"][0]
    capacity = _latest(
        account, "AWS/RDS", "ServerlessDatabaseCapacity", {"DBClusterIdentifier": identifier}, now, statistic="Average"
    )
    status = cluster["Status"]
    if capacity is not None:
        status += ", paused" if capacity == 0 else f", {capacity:g} ACU"
    is_good = cluster["Status"] in {"available", "backing-up", "modifying", "maintenance"}
    advice = "" if is_good else "answers go on without it; the history follows when it is back"
    return [Fact(name="database", value=status, is_good=is_good, advice=advice)]


def _depth(account: Account, url: str) -> tuple[int, int]:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = account.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])


def _sums(account: Account, metrics: Sequence[tuple[str, str, Mapping[str, str]]], now: datetime) -> list[int]:
    """Of the last hour, for each (namespace, name, dimensions)."""
    wanted = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": name,
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
                },
                "Period": 3600,
                "Stat": "Sum",
            },
        }
        for number, (namespace, name, dimensions) in enumerate(metrics)
    ]
    answer = account.client("cloudwatch").get_metric_data(
        MetricDataQueries=wanted, StartTime=now - _HOUR, EndTime=now + timedelta(minutes=1)
    )
    sums = {one["Id"]: int(sum(one["Values"])) for one in answer["MetricDataResults"]}
    return [sums.get(one["Id"], 0) for one in wanted]


def _latest(
    account: Account, namespace: str, metric: str, dimensions: Mapping[str, str], now: datetime, *, statistic: str
) -> float | None:
    points: list[Any] = account.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - _QUARTER,
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=[statistic],
    )["Datapoints"]
    return float(max(points, key=lambda point: point["Timestamp"])[statistic]) if points else None
