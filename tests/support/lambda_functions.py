"""The functions on AWS's events and over fakes of its clients: a whole stack in memory, function by function."""

import io
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from msgspec.structs import replace

from answerback.core.request import Record, RequestKey, Step
from answerback.ports import Model
from answerback.service.devices import newest_turn
from answerback.stores.connections import MemoryConnections
from answerback.stores.sqlite import MemoryStore
from answerback_aws.runtime.composition import Composition

METHOD_ARN = "arn:aws:execute-api:us-east-1:123456789012:abcdef1234/v1/$connect"
MANAGEMENT = "https://abcdef1234.execute-api.us-east-1.amazonaws.com/v1"
QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/requests.fifo"
DEAD_LETTERS_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/dead.fifo"


@dataclass
class Context:
    """Lambda's context object."""

    remaining_ms: int = 29_000
    aws_request_id: str = "5f1cfa3e-8b1d-4a6b-9a5d-9f1f3c2b7a10"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


class DirectCalls:
    """`Calls` without threads."""

    async def run(self, call: Callable[..., Any], /, **arguments: Any) -> Any:
        return call(**arguments)


@contextmanager
def logging_kept() -> Iterator[None]:
    """A composition takes over the logging of its process: for the length of the block only."""
    root, ours = logging.getLogger(), logging.getLogger("answerback")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def client_error(code: str, *, status: int = 400, operation: str = "Operation") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "planted"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)


# --- events, as they were captured from API Gateway and SQS


def about(connection_id: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "routeKey": {"CONNECT": "$connect", "DISCONNECT": "$disconnect"}.get(kind, "sendMessage"),
        "eventType": kind,
        "extendedRequestId": "BFHPhFe3IAMF95g=",
        "requestTime": "11/Nov/2024:11:35:24 +0000",
        "messageDirection": "IN",
        "stage": "v1",
        "connectedAt": 1_731_324_924_553,
        "requestTimeEpoch": 1_731_324_924_561,
        "identity": {"sourceIp": "166.90.225.1"},
        "requestId": "BFHPhFe3IAMF95g=",
        "domainName": "abcdef1234.execute-api.us-east-1.amazonaws.com",
        "connectionId": connection_id,
        "apiId": "abcdef1234",
        **more,
    }


def connect_event(
    connection_id: str = "L0S9aeCap5sA92b=",
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    authorizer: Mapping[str, Any] | None = None,
    connected_at_ms: int = 1_731_324_924_553,
) -> dict[str, Any]:
    """`$connect`. Without a query API Gateway leaves its fields out."""
    sent = {
        "Host": "abcdef1234.execute-api.us-east-1.amazonaws.com",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "X-Forwarded-For": "166.90.225.1",
        **(headers or {}),
    }
    more: dict[str, Any] = {"connectedAt": connected_at_ms}
    if authorizer is not None:
        more["authorizer"] = {"principalId": "user", "integrationLatency": 12, **authorizer}
    event: dict[str, Any] = {
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "requestContext": about(connection_id, "CONNECT", **more),
        "isBase64Encoded": False,
    }
    if query:
        event["queryStringParameters"] = dict(query)
        event["multiValueQueryStringParameters"] = {name: [value] for name, value in query.items()}
    return event


def authorizer_event(connection_id: str = "L0S9aeCap5sA92b=", **options: Any) -> dict[str, Any]:
    return {
        **connect_event(connection_id, **options),
        "type": "REQUEST",
        "methodArn": METHOD_ARN,
        "stageVariables": {},
    }


def message_event(connection_id: str, body: str | Mapping[str, Any], *, base64: bool = False) -> dict[str, Any]:
    """A message: neither headers nor a query."""
    return {
        "requestContext": about(connection_id, "MESSAGE", messageId="BFaVtfGSIAMCKug="),
        "body": body if isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": base64,
    }


def disconnect_event(connection_id: str) -> dict[str, Any]:
    headers = {"Host": "abcdef1234.execute-api.us-east-1.amazonaws.com", "x-api-key": "", "X-Forwarded-For": ""}
    return {
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": about(
            connection_id,
            "DISCONNECT",
            disconnectStatusCode=1005,
            disconnectReason="Client-side close frame status not set",
        ),
        "isBase64Encoded": False,
    }


def sqs_event(
    body: str,
    *,
    message_id: str = "059f36b4-87a3-44ab-83d2-661975830a7d",
    receives: int = 1,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": message_id,
                "receiptHandle": f"AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a-{message_id}-{receives}",
                "body": body,
                "attributes": {
                    "ApproximateReceiveCount": str(receives),
                    "SentTimestamp": "1545082649183",
                    "SequenceNumber": "18849496460467696128",
                    "MessageGroupId": "group",
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                    "MessageDeduplicationId": "1",
                    "ApproximateFirstReceiveTimestamp": "1545082649185",
                },
                "messageAttributes": {
                    name: {
                        "stringValue": value["StringValue"],
                        "stringListValues": [],
                        "binaryListValues": [],
                        "dataType": value["DataType"],
                    }
                    for name, value in (attributes or {}).items()
                },
                "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:requests.fifo",
                "awsRegion": "us-east-1",
            }
        ]
    }


# --- clients


@dataclass
class FakeSqs:
    """What was sent, by its de-duplication id, and every change of a visibility."""

    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden: list[tuple[str, int]] = field(default_factory=list)
    error: Exception | None = None

    def send_message(self, **message: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.sent.setdefault(message["MessageDeduplicationId"], message)
        return {"MessageId": "1"}

    def change_message_visibility(self, **change: Any) -> None:
        if self.error is not None:
            raise self.error
        self.hidden.append((change["ReceiptHandle"], change["VisibilityTimeout"]))

    def events(self, **options: Any) -> list[dict[str, Any]]:
        """What waits, as Lambda hands it out."""
        return [
            sqs_event(message["MessageBody"], attributes=message["MessageAttributes"], **options)
            for message in self.sent.values()
        ]


@dataclass
class FakeManagement:
    """`apigatewaymanagementapi`: what was posted to whom. `errors`: raised by the next calls, one each.

    `stalled`: posts to these connections hang until the event, and are not taken.
    """

    open: set[str] = field(default_factory=set)
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    stalled: dict[str, threading.Event] = field(default_factory=dict)
    calls: int = 0

    def _check(self, connection_id: str) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        if connection_id in self.stalled:
            self.stalled[connection_id].wait(10)
            raise client_error("LimitExceededException", status=429)
        if connection_id not in self.open:
            raise client_error("GoneException", status=410)

    def post_to_connection(self, *, ConnectionId: str, Data: bytes) -> None:  # noqa: N803 - AWS's names
        self._check(ConnectionId)
        self.posted.append((ConnectionId, json.loads(Data)))

    def delete_connection(self, *, ConnectionId: str) -> None:  # noqa: N803
        self._check(ConnectionId)
        self.open.discard(ConnectionId)
        self.deleted.append(ConnectionId)

    def get_connection(self, *, ConnectionId: str) -> dict[str, Any]:  # noqa: N803
        self._check(ConnectionId)
        return {}

    def to(self, connection_id: str) -> list[dict[str, Any]]:
        return [frame for who, frame in self.posted if who == connection_id]


@dataclass
class FakeWriteBehind:
    """Counts how often it was asked. `error`: raised then."""

    asked: int = 0
    error: Exception | None = None

    async def flush_if_due(self) -> int:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return 0


class Functions:
    """The real functions, each with a composition of its own over the same fakes."""

    def __init__(self, monkeypatch: Any, *, models: Mapping[str, Model] | None = None, **environment: str) -> None:
        from answerback_aws.runtime.functions import authorizer, connections, dead_letters, front, janitor, worker

        modules = (authorizer, connections, dead_letters, front, janitor, worker)
        self.write_behind = FakeWriteBehind()
        self.sqs, self.management = FakeSqs(), FakeManagement()
        self.store, self.connections = MemoryStore(), MemoryConnections()
        self.turns = SimpleNamespace(recent_turns=self.store.recent_turns, newest_turn=newest_turn(self.store))
        self.compositions: dict[str, Composition] = {}
        self.log = io.StringIO()
        self._receives = count(1)
        names = {
            "MODELS": "echo",
            "QUEUE_URL": QUEUE_URL,
            "DEAD_LETTERS_URL": DEAD_LETTERS_URL,
            "MANAGEMENT_ENDPOINT": MANAGEMENT,
            **environment,
        }
        for module in modules:
            name = module.__name__.rpartition(".")[2]
            variables = {
                key if key.startswith("POWERTOOLS_") else f"ANSWERBACK_{key}": value for key, value in names.items()
            }
            composition = Composition(name, variables, stream=self.log)
            made = {
                "calls": DirectCalls(),
                "sqs": self.sqs,
                "connections": self.connections,
                "requests": self.store,
                "limits": self.store,
                "store_id": SimpleNamespace(read=self.store.store_id),
                "turns": self.turns,
                "history": self.store,
                "write_behind": self.write_behind,
            }
            composition.__dict__.update(made)
            composition.client = lambda *_, **__: self.management  # type: ignore[method-assign]
            if models is not None:
                composition.__dict__["models"] = models
            self.compositions[name] = composition
            monkeypatch.setattr(module, "process", lambda *_, made=composition: made)
            if hasattr(module, "_sqs_handler"):
                module._sqs_handler.cache_clear()
        self.modules: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in modules}

    def invoke(self, function: str, event: Mapping[str, Any], **context: Any) -> Any:
        # Each function has a process, and so a log, of its own.
        logging.getLogger().handlers[:] = [self.compositions[function].observing.handler]
        return self.modules[function].handler(event, Context(**context))

    def connect(self, connection_id: str = "c-1", **options: Any) -> Any:
        answer = self.invoke("connections", connect_event(connection_id, **options))
        if answer["statusCode"] == 200:
            self.management.open.add(connection_id)
        return answer

    def say(self, connection_id: str, frame: Mapping[str, Any] | str) -> Any:
        return self.invoke("front", message_event(connection_id, frame))

    def work(self, **context: Any) -> list[Any]:
        """Hand out everything that waits; what failed waits on."""
        answers = []
        for number, event in list(
            zip(list(self.sqs.sent), self.sqs.events(receives=next(self._receives)), strict=True)
        ):
            answer = self.invoke("worker", event, **{"remaining_ms": 180_000, **context})
            answers.append(answer)
            if not answer["batchItemFailures"]:
                del self.sqs.sent[number]
        return answers

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Look at a store."""
        return self.compositions["front"].run(work)

    def alter(self, key: RequestKey, **fields: Any) -> None:
        """Give a stored record other values."""

        def step(record: Record | None) -> Step[None]:
            assert record is not None
            return Step(replace(record, **fields), None)

        self.run(self.store.change(key, step))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def close(self) -> None:
        for composition in self.compositions.values():
            composition.close()
