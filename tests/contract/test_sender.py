"""Contract of ports.Sender. A further implementation joins with its harness in SENDERS."""

import asyncio
import io
import json
import socket as sockets_of_os
import uuid
import zipfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from answerback.core.handshake import Hosts, Rules
from answerback.core.request import RequestKey
from answerback.gateway.listener import Listener
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Sockets, SocketSender
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Connection, Gone, Sender, Sent, Slow
from answerback.protocol.codec import decode_server
from answerback.protocol.frames import MessageDelta, ServerFrame
from answerback.tasks import Tasks
from answerback.testing import ScriptedSender
from answerback_aws.emulator.emulator import Emulator
from answerback_aws.runtime.api_gateway import ApiGatewaySender
from answerback_aws.runtime.client import Calls

KEY = RequestKey("ann", "q-1")


class Harness(ABC):
    """One sender and the far ends of its connections."""

    sender: Sender

    @abstractmethod
    async def start(self) -> None:
        """Before the first connection."""

    @abstractmethod
    async def open(self) -> str:
        """A new connection; its id. Its far end reads."""

    @abstractmethod
    async def received(self, connection_id: str, count: int) -> list[ServerFrame]:
        """The first so many frames that have come."""

    @abstractmethod
    async def stop_reading(self, connection_id: str) -> None:
        """The far end reads no more."""

    @abstractmethod
    async def read_again(self, connection_id: str) -> None:
        """The far end reads again."""

    @abstractmethod
    async def cut(self, connection_id: str) -> None:
        """The far end is lost."""

    @abstractmethod
    async def until_closed(self, connection_id: str) -> None:
        """The far end sees that it was closed gracefully."""

    @abstractmethod
    async def until_unparked(self) -> list[tuple[str, RequestKey, int, int]]:
        """What was parked is called for; the calls."""

    @abstractmethod
    async def stop(self) -> None:
        """After the test."""


class Scripted(Harness):
    """`ScriptedSender`: no network at all."""

    async def start(self) -> None:
        self._script = ScriptedSender()
        self.sender: Sender = self._script
        self._count = 0

    async def open(self) -> str:
        self._count += 1
        self._script.open(f"connection-{self._count}")
        return f"connection-{self._count}"

    async def received(self, connection_id: str, count: int) -> list[ServerFrame]:
        return self._script.frames[connection_id][:count]

    async def stop_reading(self, connection_id: str) -> None:
        self._script.slow.add(connection_id)

    async def read_again(self, connection_id: str) -> None:
        self._script.drain(connection_id)

    async def cut(self, connection_id: str) -> None:
        self._script.drop(connection_id)

    async def until_closed(self, connection_id: str) -> None:
        assert connection_id in self._script.closed

    async def until_unparked(self) -> list[tuple[str, RequestKey, int, int]]:
        return self._script.parked  # to call the front is the test's part

    async def stop(self) -> None:
        pass


class FarEnd:
    """A client that reads when it is told to."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[ServerFrame] = []
        self.changed = asyncio.Condition()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                await self.may_read.wait()
                frame = decode_server(await self.socket.recv())
                assert frame is not None
                self.frames.append(frame)
                async with self.changed:
                    self.changed.notify_all()
        except ConnectionClosed:
            pass

    async def first(self, count: int) -> list[ServerFrame]:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.frames) >= count)
        return self.frames[:count]


class OverSockets(Harness):
    """`SocketSender` behind a real listener, with real clients. It is also what the listener tells of connections."""

    async def start(self) -> None:
        self._sockets, self._tasks = Sockets(), Tasks()
        self.sender = SocketSender(self._sockets)
        self._listener = Listener(
            front=self,
            validator=HandshakeValidator(rules=Rules(hosts=Hosts.of("127.0.0.1", ())), tokens=None, clock=lambda: 0),
            sockets=self._sockets,
            caps=Caps(write_buffer_bytes=64 * 1024),
            tasks=self._tasks,
        )
        self._port = await self._listener.start("127.0.0.1", 0)
        self._far: dict[str, FarEnd] = {}
        self._gone: set[str] = set()
        self._connected: asyncio.Queue[str] = asyncio.Queue()
        self._unparked: list[tuple[str, RequestKey, int, int]] = []
        self._changed = asyncio.Condition()

    async def connect(self, connection: Connection) -> None:
        self._connected.put_nowait(connection.connection_id)

    async def receive(self, connection_id: str, data: str) -> None:
        raise AssertionError("nothing is said")

    async def disconnect(self, connection_id: str) -> None:
        async with self._changed:
            self._gone.add(connection_id)
            self._changed.notify_all()

    async def unpark(self, connection_id: str, key: RequestKey, attempt: int, offset: int) -> None:
        async with self._changed:
            self._unparked.append((connection_id, key, attempt, offset))
            self._changed.notify_all()

    async def open(self) -> str:
        raw = sockets_of_os.socket()
        raw.setsockopt(sockets_of_os.SOL_SOCKET, sockets_of_os.SO_RCVBUF, 16 * 1024)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._port))
        socket = await connect(
            f"ws://127.0.0.1:{self._port}/", sock=raw, compression=None, max_queue=1, ping_interval=None, proxy=None
        )
        connection_id = await self._connected.get()
        self._far[connection_id] = FarEnd(socket)
        return connection_id

    async def received(self, connection_id: str, count: int) -> list[ServerFrame]:
        return await self._far[connection_id].first(count)

    async def stop_reading(self, connection_id: str) -> None:
        self._far[connection_id].may_read.clear()

    async def read_again(self, connection_id: str) -> None:
        self._far[connection_id].may_read.set()

    async def cut(self, connection_id: str) -> None:
        self._far[connection_id].socket.transport.abort()
        async with self._changed:
            await self._changed.wait_for(lambda: connection_id in self._gone)

    async def until_closed(self, connection_id: str) -> None:
        socket = self._far[connection_id].socket
        await socket.wait_closed()
        assert socket.close_code == 1000

    async def until_unparked(self) -> list[tuple[str, RequestKey, int, int]]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._unparked)
        return self._unparked

    async def stop(self) -> None:
        for far in self._far.values():
            far.may_read.set()
            far.socket.transport.abort()
            await far.task
        await self._listener.close(grace_s=0.2)
        await self._tasks.settle(grace_s=0.2)


class OverApiGateway(Harness):
    """`ApiGatewaySender` over the emulated API Gateway, with real clients. It has no slow readers and parks nothing."""

    def __init__(self, api: "Api") -> None:
        self._url = api.url
        self._client = api.management

    async def start(self) -> None:
        self._calls = Calls(threads=4)
        self._far: dict[str, FarEnd] = {}
        self.removed: list[str] = []
        self.sender = ApiGatewaySender(
            client=self._client,
            calls=self._calls,
            observer=Deaf(),
            on_gone=self._on_gone,
            sleep=asyncio.sleep,
            monotonic=asyncio.get_running_loop().time,
            jitter=lambda: 1.0,
        )

    async def _on_gone(self, connection_id: str) -> None:
        self.removed.append(connection_id)

    async def open(self) -> str:
        """API Gateway tells a connection its id when the function behind its route fails."""
        socket = await connect(self._url, compression=None, ping_interval=None, proxy=None)
        await socket.send("who am I?")
        connection_id: str = json.loads(await socket.recv())["connectionId"]
        self._far[connection_id] = FarEnd(socket)
        return connection_id

    async def received(self, connection_id: str, count: int) -> list[ServerFrame]:
        return await self._far[connection_id].first(count)

    async def stop_reading(self, connection_id: str) -> None:
        raise AssertionError("it has no slow readers")

    async def read_again(self, connection_id: str) -> None:
        raise AssertionError("it has no slow readers")

    async def cut(self, connection_id: str) -> None:
        self._far[connection_id].socket.transport.abort()
        while await self.sender.last_active_ms(connection_id) is not None:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.01)

    async def until_closed(self, connection_id: str) -> None:
        socket = self._far[connection_id].socket
        await socket.wait_closed()
        assert socket.close_code == 1000

    async def until_unparked(self) -> list[tuple[str, RequestKey, int, int]]:
        raise AssertionError("it parks nothing")

    async def stop(self) -> None:
        for far in self._far.values():
            far.socket.transport.abort()
            await far.task
        self._calls.close()


FUNCTION = """
def handler(event, context):
    if event["requestContext"]["eventType"] == "MESSAGE":
        raise RuntimeError
    return {"statusCode": 200}
"""


class Api:
    """A WebSocket API whose function fails at every message."""

    def __init__(self, emulator: Emulator) -> None:
        gateway, name = emulator.client("apigatewayv2"), f"sender-{uuid.uuid4().hex}"
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("code.py", FUNCTION)
        function = emulator.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="code.handler",
            Timeout=30,
            Code={"ZipFile": code.getvalue()},
        )["FunctionArn"]
        api_id = gateway.create_api(
            Name=name, ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action"
        )["ApiId"]
        uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function}/invocations"
        target = gateway.create_integration(ApiId=api_id, IntegrationType="AWS_PROXY", IntegrationUri=uri)
        gateway.create_route(ApiId=api_id, RouteKey="$default", Target=f"integrations/{target['IntegrationId']}")
        gateway.create_stage(ApiId=api_id, StageName="v1", AutoDeploy=True)
        self.url = emulator.websocket_url(api_id, "v1")
        self.management = emulator.client(
            "apigatewaymanagementapi", endpoint_url=emulator.management_endpoint(api_id, "v1")
        )


class Deaf:
    """Hears of posts and does nothing."""

    def posted(self, size_bytes: int) -> None:
        pass

    def throttled(self) -> None:
        pass

    def not_posted(self, code: str) -> None:
        pass


SENDERS: dict[str, Callable[[Any], Harness]] = {
    "scripted": lambda _: Scripted(),
    "sockets": lambda _: OverSockets(),
    "api gateway": OverApiGateway,
}
ON_EMULATOR = "api gateway"
WITH_SLOW_READERS = [name for name in SENDERS if name != ON_EMULATOR]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def api(emulator: Emulator) -> Api:
    return Api(emulator)


async def started(request: pytest.FixtureRequest) -> Harness:
    api = request.getfixturevalue("api") if request.param == ON_EMULATOR else None
    harness = SENDERS[request.param](api)
    await harness.start()
    return harness


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.emulator if name == ON_EMULATOR else ()) for name in SENDERS]
)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness = await started(request)
    yield harness
    await harness.stop()


@pytest.fixture(params=WITH_SLOW_READERS)
async def slow_harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """One whose connections can be full. What API Gateway says of that is in tests/aws/test_sender.py."""
    harness = await started(request)
    yield harness
    await harness.stop()


def piece(number: int, size: int = 10) -> MessageDelta:
    return MessageDelta(request_id="q-1", attempt=1, offset=number, delta="x" * size)


async def fill(harness: Harness, connection_id: str) -> int:
    """Send until the connection takes no more; how many it took."""
    await harness.stop_reading(connection_id)
    for number in range(10_000):
        match await harness.sender.send(connection_id, piece(number, 30_000)):
            case Sent():
                await asyncio.sleep(0)
            case outcome:
                assert outcome == Slow()
                return number
    raise AssertionError("it takes everything")


async def test_frames_of_one_chain_of_calls_arrive_in_order(harness: Harness) -> None:
    connection_id = await harness.open()
    for number in range(200):
        assert await harness.sender.send(connection_id, piece(number)) == Sent()
    assert await harness.received(connection_id, 200) == [piece(number) for number in range(200)]


async def test_each_connection_gets_its_own(harness: Harness) -> None:
    one, two = await harness.open(), await harness.open()
    assert one != two
    await harness.sender.send(one, piece(1))
    await harness.sender.send(two, piece(2))
    assert await harness.received(one, 1) == [piece(1)]
    assert await harness.received(two, 1) == [piece(2)]


async def test_who_was_never_there_is_gone(harness: Harness) -> None:
    assert await harness.sender.send("nobody", piece(1)) == Gone()
    await harness.sender.ready("nobody")
    await harness.sender.close("nobody")


async def test_who_is_lost_is_gone(harness: Harness) -> None:
    connection_id = await harness.open()
    await harness.cut(connection_id)
    assert await harness.sender.send(connection_id, piece(1)) == Gone()
    await harness.sender.ready(connection_id)


async def test_closing_comes_after_what_was_sent(harness: Harness) -> None:
    connection_id = await harness.open()
    for number in range(50):
        await harness.sender.send(connection_id, piece(number))
    await harness.sender.close(connection_id)
    await harness.until_closed(connection_id)
    assert len(await harness.received(connection_id, 50)) == 50
    assert await harness.sender.send(connection_id, piece(1)) == Gone()
    await harness.sender.close(connection_id)


async def test_the_last_word_comes_after_what_was_sent(harness: Harness) -> None:
    connection_id = await harness.open()
    for number in range(3):
        await harness.sender.send(connection_id, piece(number))
    await harness.sender.close(connection_id, piece(3))
    assert await harness.received(connection_id, 4) == [piece(number) for number in range(4)]
    await harness.until_closed(connection_id)
    await harness.sender.close(connection_id, piece(4))
    await harness.sender.close("nobody", piece(0))


async def test_who_closes_a_slow_connection_does_not_wait_and_it_hears_why(slow_harness: Harness) -> None:
    connection_id = await slow_harness.open()
    count = await fill(slow_harness, connection_id)
    await slow_harness.sender.close(connection_id, piece(count))  # its far end reads nothing before this returns
    await slow_harness.read_again(connection_id)
    frames = await slow_harness.received(connection_id, count + 1)
    assert [frame.offset for frame in frames] == list(range(count + 1))
    await slow_harness.until_closed(connection_id)


async def test_a_slow_connection_takes_no_more_and_goes_on_where_it_was(slow_harness: Harness) -> None:
    connection_id = await slow_harness.open()
    count = await fill(slow_harness, connection_id)
    waiting = asyncio.create_task(slow_harness.sender.ready(connection_id))
    await asyncio.sleep(0)
    assert not waiting.done()
    await slow_harness.read_again(connection_id)
    await waiting
    assert await slow_harness.sender.send(connection_id, piece(count)) == Sent()
    frames = await slow_harness.received(connection_id, count + 1)
    assert [frame.offset for frame in frames] == list(range(count + 1)), "what was answered by Slow was not sent"


async def test_a_slow_connection_slows_nobody_else(slow_harness: Harness) -> None:
    slow, other = await slow_harness.open(), await slow_harness.open()
    await fill(slow_harness, slow)
    assert await slow_harness.sender.send(other, piece(1)) == Sent()
    assert await slow_harness.received(other, 1) == [piece(1)]


async def test_who_waits_for_a_slow_connection_is_let_go_when_it_is_lost(slow_harness: Harness) -> None:
    connection_id = await slow_harness.open()
    await fill(slow_harness, connection_id)
    waiting = asyncio.create_task(slow_harness.sender.ready(connection_id))
    await asyncio.sleep(0)
    await slow_harness.cut(connection_id)
    await waiting
    assert await slow_harness.sender.send(connection_id, piece(1)) == Gone()


async def test_what_is_parked_is_called_for_when_there_is_room(slow_harness: Harness) -> None:
    connection_id = await slow_harness.open()
    await fill(slow_harness, connection_id)
    assert slow_harness.sender.park(connection_id, KEY, 2, 17)
    await slow_harness.read_again(connection_id)
    assert await slow_harness.until_unparked() == [(connection_id, KEY, 2, 17)]
