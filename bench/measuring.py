"""Counts what one of each thing takes, on a stack that runs on the emulator: what counts.toml holds."""

import asyncio
import base64
import hashlib
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect

from answerback.clock import epoch_ms
from answerback.core.budget import Budget, encode_budgets
from answerback.protocol.limits import MAX_FRAME_BYTES, PIECE_BYTES
from answerback_aws.emulator.emulator import Emulator
from counting_proxy import Call, CountingProxy

FUNCTIONS: Final = ("Authorizer", "Connections", "Front", "Worker", "DeadLetters", "Janitor")
LOG_EVENT_BYTES: Final = 26
"""CloudWatch bills an event as its text and so much more."""

_REPORT: Final = re.compile(r"^REPORT RequestId: \S+\s+Duration: ([\d.]+) ms", re.MULTILINE)
_CLIENT_ERROR: Final = 400
_OF_LAMBDA: Final = ("START ", "END ", "REPORT ", "INIT_START ")
_WAIT_S: Final = 60.0
_POLL_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What happened. `frames`: texts as they came to the app. `busy_ms`: by function, on this machine.

    `seconds`: from the first frame sent to the last one that was waited for. `log_bytes`: what the functions wrote, as
    CloudWatch bills it, without Lambda's own lines. `metrics`: names and dimensions of those in it.
    """

    calls: Sequence[Call]
    frames: Sequence[str] = ()
    sent_frames: int = 0
    seconds: float = 0.0
    busy_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    log_bytes: int = 0
    metrics: frozenset[str] = frozenset()

    @property
    def operations(self) -> Counter[str]:
        return Counter(f"{call.service}.{call.operation}" for call in self.calls)

    @property
    def write_units(self) -> float:
        return sum(call.write_units for call in self.calls)

    @property
    def refused_units(self) -> float:
        """Of `write_units`, those of writes whose condition did not hold."""
        return sum(call.write_units for call in self.calls if call.status >= _CLIENT_ERROR)

    @property
    def read_units(self) -> float:
        return sum(call.read_units for call in self.calls)

    @property
    def posts(self) -> Sequence[Call]:
        """Frames posted to connections."""
        return [call for call in self.calls if call.operation == "PostToConnection"]

    @property
    def invocations(self) -> int:
        return sum(map(len, self.busy_ms.values()))

    @property
    def data_api(self) -> int:
        """Calls of the RDS Data API."""
        return sum(call.service == "RDSData" for call in self.calls)

    @property
    def s3(self) -> Counter[str]:
        """Calls of S3 by their method; a copy is a `PUT`."""
        return Counter(call.operation for call in self.calls if call.service == "S3")

    @property
    def sqs(self) -> int:
        """Calls of SQS by the functions; Lambda's own reading and deleting are two more for a message."""
        return sum(call.service == "SQS" for call in self.calls)

    def actions(self, action: str) -> Sequence[str]:
        """The frames of this action."""
        return [frame for frame in self.frames if json.loads(frame).get("action") == action]


class Measuring:
    """Counts on one stack. `outputs`: the stack's; `log_prefix`: of its log groups. Use `on` to make one."""

    def __init__(self, emulator: Emulator, outputs: Mapping[str, str], proxy: CountingProxy) -> None:
        self._emulator = emulator
        self._outputs = outputs
        self._proxy = proxy
        self._lambda = emulator.client("lambda")
        self._logs = emulator.client("logs")
        self._dynamodb = emulator.client("dynamodb")
        self._since_ms = epoch_ms()
        self._due: Counter[str] = Counter()
        self._url = emulator.websocket_url(outputs["ApiId"], outputs["StageName"])

    @classmethod
    @contextmanager
    def on(cls, emulator: Emulator, outputs: Mapping[str, str]) -> Iterator["Measuring"]:
        """For the length of the block, the functions' calls go through a proxy that counts them.

        The janitor's schedule is stopped meanwhile: its rounds would be counted too.
        """
        client, events = emulator.client("lambda"), emulator.client("events")
        rules = [rule["Name"] for rule in events.list_rules()["Rules"] if rule.get("ScheduleExpression")]
        names = [name for key, name in outputs.items() if key.removesuffix("Function") in FUNCTIONS and name]
        were = {
            name: client.get_function_configuration(FunctionName=name)["Environment"]["Variables"] for name in names
        }
        with CountingProxy(emulator.endpoint) as proxy:
            try:
                for name in rules:
                    events.disable_rule(Name=name)
                for name, variables in were.items():
                    environment = {key: value.replace(emulator.endpoint, proxy.url) for key, value in variables.items()}
                    # The address of the queue is a name; a client that knows its endpoint goes there.
                    environment |= {key: value for key, value in variables.items() if key.endswith("_URL")}
                    environment["AWS_ENDPOINT_URL"] = proxy.url
                    if "ANSWERBACK_HISTORY_DELAY_S" in environment:
                        environment["ANSWERBACK_HISTORY_DELAY_S"] = "0"
                    client.update_function_configuration(FunctionName=name, Environment={"Variables": environment})
                yield cls(emulator, outputs, proxy)
            finally:
                for name, variables in were.items():
                    client.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
                for name in rules:
                    events.enable_rule(Name=name)

    async def connection(self) -> Measured:
        await self._settled()
        self._begin()
        async with self._connected(_name("user")) as socket:
            frames = await _exchange(socket, {"action": "hello", "helloId": "h"}, "welcome")
        self._due.update(["connections", "front", "connections"])
        return await self._counted(frames=frames, sent_frames=1)

    async def ping(self) -> Measured:
        """One on a connection that is bound and was quiet for minutes."""
        async with self._bound(_name("user")) as socket:
            self._begin()
            frames = await _exchange(socket, {"action": "ping"}, "pong")
            self._due.update(["front"])
            return await self._counted(frames=frames, sent_frames=1)

    async def answer(self, question: str, *, stream: bool, conversation: str | None = None, user: str = "") -> Measured:
        """One answer on a connection that is bound and was quiet for minutes, of a user whose rate is counted."""
        async with self._bound(user or _name("user")) as socket:
            self._begin()
            begun = time.monotonic()
            frames = await self._ask(socket, question, stream=stream, conversation=conversation)
            seconds = time.monotonic() - begun
            return await self._counted(frames=frames, sent_frames=1, seconds=seconds)

    async def watch(self) -> Measured:
        """One of a conversation, on a connection that is bound and was quiet for minutes: so is each renewal."""
        async with self._bound(_name("user")) as socket:
            self._begin()
            frames = await self._watch(socket, "c")
            return await self._counted(frames=frames, sent_frames=1)

    async def watched(self, question: str) -> Measured:
        """One answer, not streamed, in a conversation that another device watches, and the list as well."""
        user = _name("user")
        async with self._bound(user) as phone, self._bound(user) as socket:
            await self._watch(phone, "c")
            await self._watch(phone, None)
            await self._settled()
            self._begin()
            frames = await self._ask(socket, question, stream=False, conversation="c")
            shown = [json.loads(await asyncio.wait_for(phone.recv(), _WAIT_S)) for _ in range(3)]
            assert {one["action"] for one in shown} == {"messageAsked", "messageResponse", "conversationChanged"}
            return await self._counted(frames=frames, sent_frames=1)

    def give_budgets(self, user: str, *budgets: Budget) -> None:
        """Let the user's answers be counted in these."""
        item = {"userId": {"S": user}, "window": {"S": "budget"}, "caps": {"S": encode_budgets(budgets)}}
        self._dynamodb.put_item(TableName=self._outputs["RateLimitsTable"], Item=item)

    async def file(self, data: bytes) -> Measured:
        """A new file, asked for, brought, and named by a question whose answer is not streamed."""
        async with self._bound(_name("user")) as socket:
            self._begin()
            named, pieces = await self._bring(socket, data)
            file = {**named, "mediaType": "text/plain", "name": "a.txt"}
            frames = await self._ask(socket, "a short question", stream=False, conversation=None, attachments=[file])
            return await self._counted(frames=frames, sent_frames=2 + pieces)

    async def returned(self, data: bytes) -> Measured:
        """The first bytes of a file that is there, read back."""
        async with self._bound(_name("user")) as socket:
            named, _ = await self._bring(socket, data)
            await self._settled()
            self._begin()
            asked = {"action": "getAttachment", "requestId": "get", **named}
            frames = await _exchange(socket, asked, "attachment")
            self._due.update(["front"])
            return await self._counted(frames=frames, sent_frames=1)

    async def turns(self, count: int) -> None:
        """So many short answers of one user in a row, which then wait to be written to Aurora."""
        async with self._bound(_name("user")) as socket:
            for number in range(count):
                await self._ask(socket, f"question {number}", stream=False, conversation="c")

    async def round(self) -> Measured:
        """One of the janitor's; it writes every turn that waits."""
        await self._settled()
        self._begin()
        await asyncio.to_thread(self._lambda.invoke, FunctionName=self._outputs["JanitorFunction"], Payload=b"{}")
        self._due.update(["janitor"])
        return await self._counted()

    # --- apps

    async def _bring(self, socket: ClientConnection, data: bytes) -> tuple[dict[str, Any], int]:
        """Ask for a new file and bring it; what names it, and of how many pieces it is."""
        named = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        asked = {"action": "putPiece", **named}
        (state,) = await _exchange(socket, {**asked, "requestId": "ask"}, "uploadState")
        upload, offsets = json.loads(state)["upload"], range(0, len(data), PIECE_BYTES)
        for offset in offsets:
            piece = base64.b64encode(data[offset : offset + PIECE_BYTES]).decode()
            told = {"requestId": f"p{offset}", "offset": offset, "upload": upload, "data": piece}
            (state,) = await _exchange(socket, {**asked, **told}, "uploadState")
        assert json.loads(state)["complete"], state
        self._due.update({"front": 1 + len(offsets)})
        return named, len(offsets)

    async def _watch(self, socket: ClientConnection, conversation: str | None) -> list[str]:
        asked = {"requestId": "w", "number": time.monotonic_ns() // 1000}
        named = {} if conversation is None else {"conversationId": conversation}
        self._due.update(["front"])
        return await _exchange(socket, {"action": "watch", **asked, **named}, "watching")

    async def _ask(
        self, socket: ClientConnection, question: str, *, stream: bool, conversation: str | None, **more: Any
    ) -> list[str]:
        asked: dict[str, Any] = {"requestId": str(uuid.uuid4()), "message": question, "stream": stream, **more}
        if conversation is not None:
            asked["conversationId"] = conversation
        frames = await _exchange(socket, {"action": "sendMessage", **asked}, "messageResponse")
        self._due.update(["front", "worker"])
        return frames

    @asynccontextmanager
    async def _bound(self, user: str) -> AsyncIterator[ClientConnection]:
        """A connection that has said hello and was quiet for minutes; nothing goes on when it is given, or left."""
        item = {"userId": {"S": user}, "window": {"S": "limit"}, "perMinute": {"N": "1000"}}
        self._dynamodb.put_item(TableName=self._outputs["RateLimitsTable"], Item=item)
        async with self._connected(user) as socket:
            (welcome,) = await _exchange(socket, {"action": "hello", "helloId": "h"}, "welcome")
            self._due.update(["connections", "front"])
            await self._settled()
            self._dynamodb.update_item(
                TableName=self._outputs["ConnectionsTable"],
                Key={"connectionId": {"S": json.loads(welcome)["connectionId"]}},
                UpdateExpression="SET lastActivityMs = lastActivityMs - :quiet",
                ExpressionAttributeValues={":quiet": {"N": "300000"}},
            )
            yield socket
        self._due.update(["connections"])
        await self._settled()

    def _connected(self, user: str) -> connect:
        return connect(f"{self._url}?userId={user}&sessionId={_name('session')}", proxy=None)

    # --- counting

    def _begin(self) -> None:
        self._from = len(self._proxy.calls)
        self._seen = self._events()

    async def _counted(self, **facts: Any) -> Measured:
        """What happened since `_begin`, once every call of a function is over."""
        events = await self._settled()
        unseen = {name: lines[len(self._seen.get(name, ())) :] for name, lines in events.items()}
        busy = {
            name: [float(found) for line in lines for found in _REPORT.findall(line)] for name, lines in unseen.items()
        }
        lines = [line for own in unseen.values() for line in own if not line.startswith(_OF_LAMBDA)]
        return Measured(
            calls=self._proxy.calls[self._from :],
            busy_ms={name: times for name, times in busy.items() if times},
            log_bytes=sum(len(line.encode()) + LOG_EVENT_BYTES for line in lines),
            metrics=_metrics(lines),
            **facts,
        )

    async def _settled(self) -> dict[str, list[str]]:
        """Wait until each function has ended as often as it was called; then every line of the logs."""
        async with asyncio.timeout(_WAIT_S):
            while True:
                events = await asyncio.to_thread(self._events)
                ended = {name: sum(line.startswith("REPORT ") for line in lines) for name, lines in events.items()}
                if all(ended.get(name, 0) >= count for name, count in self._due.items()):
                    return events
                await asyncio.sleep(_POLL_EVERY_S)

    def _events(self) -> dict[str, list[str]]:
        """Every line that the functions have logged since this was made, by function."""
        found = {}
        for group in self._logs.describe_log_groups()["logGroups"]:
            name = group["logGroupName"]
            pages = self._logs.get_paginator("filter_log_events").paginate(logGroupName=name, startTime=self._since_ms)
            found[name.rpartition("/")[2]] = [
                event["message"].rstrip("\n") for page in pages for event in page["events"]
            ]
        return found


def _name(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:12]}"


def _metrics(lines: Sequence[str]) -> frozenset[str]:
    """Each is billed by the month: `service=front Posts`."""
    found = set()
    for line in lines:
        if line.startswith('{"_aws"'):
            record = json.loads(line)
            (block,) = record["_aws"]["CloudWatchMetrics"]
            dimensions = " ".join(f"{name}={record[name]}" for name in sorted(block["Dimensions"][0]))
            found |= {f"{dimensions} {metric['Name']}" for metric in block["Metrics"]}
    return frozenset(found)


async def _exchange(socket: ClientConnection, frame: Mapping[str, Any], last: str) -> list[str]:
    """Send a frame, and take frames until the `last` action."""
    text = json.dumps(frame)
    # API Gateway takes messages of 128 KB, in frames of 32.
    parts = [text[start : start + MAX_FRAME_BYTES] for start in range(0, len(text), MAX_FRAME_BYTES)]
    await socket.send(parts if len(parts) > 1 else text)
    frames = []
    async with asyncio.timeout(_WAIT_S):
        while True:
            text = str(await socket.recv())
            frames.append(text)
            action = json.loads(text).get("action")
            if action == last:
                return frames
            if action is None or action == "error":
                raise RuntimeError(f"the stack answered {text}")
