"""The emulated AWS: deployed, disturbed, and looked into."""

import os
import random
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from answerback.clock import epoch_ms
from answerback.core.request import RequestKey
from answerback_aws.deploy.stack import Progress
from answerback_aws.emulator.bedrock import BedrockServer
from answerback_aws.emulator.emulator import Emulator
from answerback_aws.emulator.run import deploy_on
from answerback_aws.runtime.aurora.data_api import DataApi
from answerback_aws.runtime.aurora.history import AwsHistory
from answerback_aws.runtime.aurora.users import AwsUsers
from answerback_aws.runtime.aurora.write_behind import WriteBehind
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.dynamodb.requests import DynamoRequests
from answerback_aws.runtime.dynamodb.tables import TABLES, Tables
from answerback_aws.runtime.dynamodb.turns import DynamoTurns

_STACK: Final = "chaos"
_TIMEOUT_S: Final = 30.0
_ANSWER_TIMEOUT_S: Final = 60
"""The worker has half a minute more, and the queue hides the message of a worker that dies early for as long.

The three minutes of a real stack would be a run's length.
"""
_TRANSACTION_IDLE_S: Final = 15.0
"""Of AWS's three minutes: how long the locks of a function that was killed hold up the history."""
_AWS_ERRORS: Final = (BotoCoreError, ClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedAws:
    """Where the emulator is installed. `python`: of its environment. `wheels`: the cache of the functions' packages."""

    python: Path
    wheels: Path


class Stack:
    """One deployed stack. All calls block. Raises: EmulatorFailed, DeployError: it cannot be started."""

    def __init__(self, aws: EmulatedAws, *, folder: Path, postgres: str, bedrock: BedrockServer) -> None:
        self._aws = aws
        self.emulator = Emulator(
            python=aws.python,
            folder=folder,
            postgres=postgres,
            bedrock_url=bedrock.url,
            auth=True,
            transaction_idle_s=_TRANSACTION_IDLE_S,
            unruly_posts=True,
        )
        self._stop = ExitStack()
        self._clients: dict[str, Any] = {}
        self.outputs: Mapping[str, str] = {}

    def start(self, progress: Progress) -> None:
        self._stop.enter_context(self.emulator)
        parameters = {
            "AnswerTimeoutSeconds": str(_ANSWER_TIMEOUT_S),
            "WorkerTimeoutSeconds": str(_ANSWER_TIMEOUT_S + 30),
            "RateLimit": "0",
            "HistoryDelaySeconds": "5",
        }
        python, cache = self._aws.python, self._aws.wheels
        self.outputs = deploy_on(self.emulator, _STACK, progress, python=python, cache=cache, parameters=parameters)
        for service in ("dynamodb", "sqs", "lambda", "logs"):
            self._clients[service] = self.emulator.client(service)
        management = self.emulator.management_endpoint(self.outputs["ApiId"], self.outputs["StageName"])
        self._clients["management"] = self.emulator.client("apigatewaymanagementapi", endpoint_url=management)

    def stop(self) -> None:
        """Stop the emulator; nothing is left of it."""
        self._stop.close()

    @property
    def url(self) -> str:
        return self.emulator.websocket_url(self.outputs["ApiId"], self.outputs["StageName"])

    # --- faults

    def kill(self, function: str, rng: random.Random, *, all_at_once: bool = False) -> int:
        """SIGKILL one process of a function (`Worker`), or all; returns how many there were to kill."""
        processes = sorted(self._processes(self.outputs[f"{function}Function"]))
        chosen = processes if all_at_once else rng.sample(processes, min(1, len(processes)))
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(chosen)

    def call_janitor(self) -> None:
        """Invoke the janitor once, without waiting, as the schedule does."""
        self._clients["lambda"].invoke(
            FunctionName=self.outputs["JanitorFunction"], InvocationType="Event", Payload=b"{}"
        )

    def delete_connection(self, rng: random.Random) -> bool:
        """DELETE @connections of one that is open, as far as the table knows."""
        found = self._clients["dynamodb"].scan(
            TableName=self.outputs["ConnectionsTable"], ProjectionExpression="connectionId"
        )["Items"]
        if not found:
            return False
        connection_id = rng.choice(sorted(item["connectionId"]["S"] for item in found))
        try:
            self._clients["management"].delete_connection(ConnectionId=connection_id)
        except _AWS_ERRORS:
            return False  # gone already
        return True

    def send(self, body: str, *, group: str, name: str) -> None:
        """Put a message on the queue, beside what the front puts. `name`: for the de-duplication."""
        self._clients["sqs"].send_message(
            QueueUrl=self.outputs["QueueUrl"], MessageBody=body, MessageGroupId=group, MessageDeduplicationId=name
        )

    def take(self, *, for_s: int) -> bool:
        """Receive a message and do nothing with it, as a worker that dies: it is redelivered after `for_s`."""
        answer = self._clients["sqs"].receive_message(
            QueueUrl=self.outputs["QueueUrl"], MaxNumberOfMessages=1, VisibilityTimeout=for_s, WaitTimeSeconds=1
        )
        return bool(answer.get("Messages"))

    # --- looking into it

    def record(self, key: RequestKey) -> Mapping[str, Any]:
        """The item of a request as it is now; empty if there is none."""
        found = self._clients["dynamodb"].get_item(
            TableName=self.outputs["RequestsTable"],
            Key={"userId": {"S": key.user_id}, "requestId": {"S": key.request_id}},
            ConsistentRead=True,
        )
        item: Mapping[str, Any] = found.get("Item", {})
        return item

    def waiting(self, queue: str) -> int:
        """Messages in a queue (`Queue`, `DeadLetters`), delivered or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self._clients["sqs"].get_queue_attributes(QueueUrl=self.outputs[f"{queue}Url"], AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def lines(self) -> list[tuple[str, str]]:
        """What the functions logged: (function, line)."""
        client, found = self._clients["logs"], []
        groups = client.describe_log_groups(logGroupNamePrefix=self.outputs["LogGroupPrefix"])["logGroups"]
        for group in groups:
            name = group["logGroupName"]
            for page in client.get_paginator("filter_log_events").paginate(logGroupName=name):
                found += [(name.rpartition("/")[2], event["message"].rstrip()) for event in page["events"]]
        return found

    def stores(self) -> "Stores":
        return Stores(self.emulator, self.outputs)

    def _processes(self, function: str) -> list[int]:
        """Process ids of the emulator's children that run the function."""
        named, parent = f"AWS_LAMBDA_FUNCTION_NAME={function}".encode(), self.emulator.pid
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                is_child = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
                if is_child and named in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


class Stores:
    """The stores of the stack, to read them; as a WriteBehindObserver it counts nothing."""

    def __init__(self, emulator: Emulator, outputs: Mapping[str, str]) -> None:
        self._calls = Calls()
        names = {name: outputs[f"{name.title().replace('_', '')}Table"] for name in TABLES}
        self.database = Database(client=emulator.client("dynamodb"), calls=self._calls, tables=Tables(**names))
        self.requests = DynamoRequests(self.database, clock=epoch_ms)
        self.turns = DynamoTurns(self.database)
        api = DataApi(
            client=emulator.client("rds-data"),
            calls=self._calls,
            cluster_arn=outputs["ClusterArn"],
            secret_arn=outputs["SecretArn"],
            database=outputs["Database"],
            retry_for_s=_TIMEOUT_S,
        )
        write_behind = WriteBehind(pending_turns=self.turns, api=api, observer=self, clock=epoch_ms)
        self.history = AwsHistory(turns=self.turns, write_behind=write_behind, api=api, clock=epoch_ms)
        self.users = AwsUsers(database=self.database, requests=self.requests, write_behind=write_behind, api=api)
        self.unwritable = 0

    def waiting(self, turns: int, oldest_ms: int) -> None:
        pass

    def turns_written(self, turns: int) -> None:
        pass

    def turns_not_written(self) -> None:
        self.unwritable += 1

    def close(self) -> None:
        self._calls.close()
