"""The status of a stack: what an operator checks first."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

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


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was checked. `advice`: what to do. `is_good` None: unknown.

    `name`: of the part that was read, if nothing else is said.
    """

    value: str
    advice: str = ""
    is_good: bool | None = True
    name: str = ""


Read: TypeAlias = Callable[[], Fact | Sequence[Fact]]


def gathered(parts: Iterable[tuple[str, Read]]) -> Iterator[Fact]:
    """The facts of each part, by its name. One that cannot be read is unknown, and does not hide the others."""
    for name, read in parts:
        try:
            with explained(f"read the {name}"):
                found = read()
        except DeployError as exc:
            found = Fact("unknown", str(exc), is_good=None)
        for fact in [found] if isinstance(found, Fact) else found:
            yield replace(fact, name=fact.name or name)


def stack_facts(account: Account, name: str, *, now: datetime | None = None) -> tuple[Fact, ...]:
    """The facts of a stack. One that cannot be read does not hide the others. Raises: DeployError: no such stack."""
    stack = Stack(account, name)
    status = _Status(account, stack, stack.existing(), now or datetime.now(UTC))
    parts: dict[str, Read] = {
        "stack": status.stack_itself,
        "url": status.url,
        "alarms": status.alarms,
        "answers": status.answers,
        "dead letters": status.dead_letters,
        "queue": status.queue,
        "errors": status.errors,
        "database": status.database,
    }
    return tuple(gathered(parts.items()))


@dataclass(frozen=True, slots=True)
class _Status:
    """Reads the parts of one stack. `state`: what CloudFormation says of it."""

    account: Account
    stack: Stack
    state: StackState
    now: datetime

    def stack_itself(self) -> Fact:
        is_good = self.state.status in _GOOD
        return Fact(self.state.status, "" if is_good else f"answerback aws deploy --stack {self.stack.name}", is_good)

    def url(self) -> Sequence[Fact]:
        outputs = self.account.outputs(self.state.outputs)
        return [Fact(outputs["WebSocketUrl"])] if "WebSocketUrl" in outputs else []

    def alarms(self) -> Fact | Sequence[Fact]:
        resources = self.stack.resources()
        names = [one["PhysicalResourceId"] for one in resources if one["ResourceType"] == "AWS::CloudWatch::Alarm"]
        if not names:
            return Fact("none")
        alarms = self.account.client("cloudwatch").describe_alarms(AlarmNames=names[:100])["MetricAlarms"]
        ringing = [one for one in alarms if one["StateValue"] == "ALARM"]
        if not ringing:
            return Fact(f"none of {len(names)}")
        where = "see docs/aws-operate.md"
        return [
            Fact(one["AlarmName"], one.get("AlarmDescription", where), is_good=False, name="alarm") for one in ringing
        ]

    def answers(self) -> Fact:
        """What users got, as the functions count it: a failed answer is no error of a function."""
        metrics = [("Ended", {"service": "worker", "status": "completed"})]
        metrics += [("Ended", {"service": service, "status": "failed"}) for service in _ENDING]
        metrics += [("Failed", {"code": code.value, "service": service}) for code in ErrorCode for service in _ENDING]
        stack = self.stack.name
        sums = self._sums([(f"Answerback/{stack}", name, dimensions) for name, dimensions in metrics])
        completed, failed = sums[0], sum(sums[1 : 1 + len(_ENDING)])
        if not failed:
            return Fact(f"{completed} in the last hour, none failed" if completed else "none in the last hour")
        codes: Counter[str] = Counter()
        for (_, dimensions), count in zip(metrics, sums, strict=True):
            codes[dimensions.get("code", "")] += count
        del codes[""]
        percent = float(self.state.parameters.get("FailedAnswersPercent") or 20)
        text = ", ".join(f"{code} {count}" for code, count in codes.most_common() if count)
        advice = f"answerback aws logs --stack {stack} --function worker --since 1h"
        if codes[ErrorCode.MODEL_UNAVAILABLE]:
            advice = f"answerback aws check --stack {stack}, then {advice}"
        value = f"{failed} of {completed + failed} failed in the last hour: {text}"
        return Fact(value, advice, is_good=100 * failed < percent * (completed + failed))

    def dead_letters(self) -> Fact:
        total = sum(self._depth("DeadLettersUrl"))
        advice = f"answerback aws logs --stack {self.stack.name} --function dead-letters" if total else ""
        return Fact(str(total), advice, is_good=not total)

    def queue(self) -> Fact:
        waiting, working = self._depth("QueueUrl")
        name = self.state.outputs["QueueUrl"].rpartition("/")[2]
        age = self._latest("AWS/SQS", "ApproximateAgeOfOldestMessage", {"QueueName": name}, "Maximum")
        limit = float(self.state.parameters.get("OldestMessageSeconds") or 180)
        is_late = waiting > 0 and age is not None and age >= limit
        value = f"{waiting} waiting, {working} at work" + (f", the oldest for {age:.0f} s" if waiting and age else "")
        return Fact(value, "raise WorkerConcurrency, or see why workers fail" if is_late else "", not is_late)

    def errors(self) -> Fact:
        outputs = self.state.outputs
        functions = [(name, outputs[f"{name}Function"]) for name in _FUNCTIONS if f"{name}Function" in outputs]
        sums = self._sums([("AWS/Lambda", "Errors", {"FunctionName": function}) for _, function in functions])
        failing = [(name, count) for (name, _), count in zip(functions, sums, strict=True) if count]
        if not failing:
            return Fact("none in the last hour")
        worst = max(failing, key=lambda pair: pair[1])[0].lower()
        text = ", ".join(f"{name.lower()} {count}" for name, count in failing)
        advice = f"answerback aws logs --stack {self.stack.name} --function {worst} --since 1h"
        return Fact(f"{text} in the last hour", advice, is_good=False)

    def database(self) -> Fact:
        identifier = self.state.outputs["ClusterArn"].rpartition(":")[2]
        rds = self.account.client("rds")
        status = rds.describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"][0]["Status"]
        is_good = status in {"available", "backing-up", "modifying", "maintenance"}
        where = {"DBClusterIdentifier": identifier}
        capacity = self._latest("AWS/RDS", "ServerlessDatabaseCapacity", where, "Average")
        if capacity is not None:
            status += ", paused" if capacity == 0 else f", {capacity:g} ACU"
        return Fact(status, "" if is_good else "answers go on without it; the history follows when it is back", is_good)

    def _depth(self, queue: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        sqs, url = self.account.client("sqs"), self.state.outputs[queue]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def _sums(self, metrics: Sequence[tuple[str, str, Mapping[str, str]]]) -> list[int]:
        """Of the last hour, for each (namespace, name, dimensions)."""
        wanted = [
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {"Namespace": namespace, "MetricName": name, "Dimensions": _listed(dimensions)},
                    "Period": 3600,
                    "Stat": "Sum",
                },
            }
            for number, (namespace, name, dimensions) in enumerate(metrics)
        ]
        answer = self.account.client("cloudwatch").get_metric_data(
            MetricDataQueries=wanted, StartTime=self.now - _HOUR, EndTime=self.now + timedelta(minutes=1)
        )
        sums = {one["Id"]: int(sum(one["Values"])) for one in answer["MetricDataResults"]}
        return [sums.get(one["Id"], 0) for one in wanted]

    def _latest(self, namespace: str, metric: str, dimensions: Mapping[str, str], statistic: str) -> float | None:
        points: list[Any] = self.account.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=metric,
            Dimensions=_listed(dimensions),
            StartTime=self.now - _QUARTER,
            EndTime=self.now + timedelta(minutes=1),
            Period=60,
            Statistics=[statistic],
        )["Datapoints"]
        return float(max(points, key=lambda point: point["Timestamp"])[statistic]) if points else None


def _listed(dimensions: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in dimensions.items()]
