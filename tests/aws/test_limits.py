"""The product under API Gateway's and Lambda's own limits, as the emulator enforces them, with times scaled."""

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from answerback.client import Client, Connected
from answerback.client.timing import Timing
from answerback.ports import Finish, Piece
from answerback_aws.emulator.bedrock import Asked
from stack import IDLE_S, LIFE_S, Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]

AWS_IDLE_S, AWS_LIFE_S = 600.0, 7_200.0
LONG_AGO, LONG_AGO_MS = "2025-01-01T00:00:00Z", "1735689600000"
REAL = Timing()


async def receive(socket: ClientConnection, action: str, **fields: Any) -> dict[str, Any]:
    """The next frame of this kind."""
    while True:
        frame: dict[str, Any] = json.loads(await socket.recv())
        if frame["action"] == action and all(frame.get(name) == value for name, value in fields.items()):
            return frame


async def say(socket: ClientConnection, action: str, **fields: Any) -> None:
    await socket.send(json.dumps({"action": action, **fields}))


async def closed(socket: ClientConnection) -> int | None:
    """Wait for the end of a connection; its close code."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as ended:
        return None if ended.rcvd is None else ended.rcvd.code


# --- the age and the silence of a connection


def test_the_sdk_s_times_are_below_those_of_api_gateway() -> None:
    assert REAL.ping_idle_s * 2 < AWS_IDLE_S  # a ping may be lost
    assert REAL.rollover_max_s + REAL.open_timeout_s < AWS_LIFE_S


@pytest.mark.proof
async def test_an_answer_longer_than_a_connection_loses_no_character(hasty: Stack) -> None:
    """The SDK moves to a new connection before the old one ends, in mid-answer, and again."""
    question = hasty.name("question")
    enough, said = threading.Event(), list[str]()

    async def long(_asked: Asked) -> AsyncGenerator[Piece, None]:
        while not enough.is_set():
            said.append(f"{len(said)} 한😀 ")
            yield said[-1]
            await asyncio.sleep(0.02)
        yield Finish(input_tokens=1, output_tokens=len(said))

    hasty.scripts[question] = long
    scale = LIFE_S / AWS_LIFE_S
    timing = Timing(rollover_min_s=REAL.rollover_min_s * scale * 0.4, rollover_max_s=REAL.rollover_max_s * scale * 0.5)
    connections: list[str] = []

    def on_state(state: object) -> None:
        if isinstance(state, Connected):
            connections.append(state.connection_id)

    async with (
        asyncio.timeout(120),
        connect(hasty.url, proxy=None) as old,
        Client(hasty.url, user=hasty.name("user"), timing=timing, on_state=on_state) as client,
    ):
        stream = client.stream(question)
        reading = asyncio.create_task(collected(stream))
        ended = asyncio.create_task(closed(old))
        while not ended.done() or len(set(connections)) < 3:
            if not ended.done():
                with suppress(ConnectionClosed):  # never idle: it lives as long as a connection may
                    await say(old, "ping")
            await asyncio.sleep(IDLE_S / 8)
        assert await ended == 1001
        enough.set()
        text = await reading
        answer = await stream.answer
    assert text == answer.text == "".join(said)
    assert answer.attempt == 1


async def collected(stream: Any) -> str:
    return "".join([delta async for delta in stream])


async def test_a_quiet_app_keeps_its_connection(hasty: Stack) -> None:
    """A socket that says nothing is closed; the SDK beside it, just as quiet, pings and is not."""
    connections: list[str] = []
    timing = Timing(ping_idle_s=REAL.ping_idle_s * IDLE_S / AWS_IDLE_S)

    def on_state(state: object) -> None:
        if isinstance(state, Connected):
            connections.append(state.connection_id)

    async with (
        asyncio.timeout(60),
        Client(hasty.url, user=hasty.name("user"), timing=timing, on_state=on_state) as client,
        connect(hasty.url, proxy=None) as silent,
    ):
        assert await closed(silent) == 1001
        assert (await client.ask("still here?")).text == "still here?"
    assert len(set(connections)) == 1


# --- frames that come otherwise than they were sent


async def test_unruly_posts_change_no_text(hasty: Stack) -> None:
    """Posts that overtake each other or come twice: what the app has is what is stored."""
    conversation = hasty.name("conversation")
    question = " ".join(f"{number}한😀" for number in range(2_000))
    async with asyncio.timeout(90), Client(hasty.url, user=hasty.name("user")) as client:
        stream = client.stream(question, conversation=conversation)
        text = await collected(stream)
        answer = await stream.answer
        again = await client.ask("short", conversation=conversation)
        (_, stored) = [turn async for turn in client.history(conversation)]
    assert text == answer.text == stored.answer == question
    assert again.text == "short"


async def test_two_messages_of_one_connection_at_once(stack: Stack) -> None:
    """API Gateway hands them to two functions: both are answered, and of two that are the same one runs."""
    user = stack.name("user")
    runs: dict[str, int] = {}
    twice, other = stack.name("twice"), stack.name("other")

    async def counted(asked: Asked) -> AsyncGenerator[Piece, None]:
        runs[asked.question] = runs.get(asked.question, 0) + 1
        yield asked.question
        yield Finish(input_tokens=1, output_tokens=1)

    stack.scripts[twice] = stack.scripts[other] = counted
    asked = {str(uuid.uuid4()): twice, str(uuid.uuid4()): other}
    pending = dict(asked)
    async with asyncio.timeout(60), connect(f"{stack.url}?userId={user}", proxy=None) as socket:
        frames = [(request_id, message) for request_id, message in asked.items() if message == twice] * 3
        for request_id, message in [*frames, *asked.items()]:
            await say(socket, "sendMessage", requestId=request_id, message=message, conversationId=message)
        while pending:
            ending = await receive(socket, "messageResponse")
            assert ending["response"] == asked[ending["requestId"]]
            pending.pop(ending["requestId"], None)
    assert runs == {twice: 1, other: 1}


async def test_a_question_of_almost_128_kb(stack: Stack) -> None:
    """The SDK sends it in frames of 32 KB, and its echo comes in many posts."""
    question = "한" * 40_000
    async with asyncio.timeout(90), Client(stack.url, user=stack.name("user")) as client:
        stream = client.stream(question)
        assert await collected(stream) == question


# --- time limits of functions, and what is left behind


async def test_a_worker_near_its_limit_ends_the_answer_properly(stack: Stack) -> None:
    """Lambda would kill it in mid-answer: it stops in time, and stores and sends an ending with what there is."""
    question = stack.name("question")
    runs = 0

    async def stuck(_asked: Asked) -> AsyncGenerator[Piece, None]:
        nonlocal runs
        runs += 1
        yield "so far"
        await asyncio.Event().wait()

    stack.scripts[question] = stuck
    request_id = str(uuid.uuid4())
    with stack.configured("Worker", timeout_s=12):
        async with asyncio.timeout(60), connect(f"{stack.url}?userId={stack.name('user')}", proxy=None) as socket:
            await say(socket, "sendMessage", requestId=request_id, message=question, stream=True)
            assert (await receive(socket, "messageDelta", requestId=request_id))["delta"] == "so far"
            ending = await receive(socket, "messageResponse", requestId=request_id)
    assert (ending["status"], ending["attempt"], ending["length"]) == ("failed", 1, len("so far"))
    assert ending["error"]["code"] == "timeout"
    assert runs == 1


async def test_a_late_disconnect_leaves_the_newer_connection(stack: Stack) -> None:
    user, session = stack.name("user"), stack.name("session")
    url = f"{stack.url}?userId={user}&sessionId={session}"
    async with asyncio.timeout(60), connect(url, proxy=None) as old:
        await say(old, "hello", helloId="h")
        old_id = (await receive(old, "welcome"))["connectionId"]
        async with connect(url, proxy=None) as new:
            await say(new, "hello", helloId="h")
            await receive(new, "welcome")
            about = {"eventType": "DISCONNECT", "connectionId": old_id, "routeKey": "$disconnect"}
            for _ in range(2):
                await asyncio.to_thread(stack.invoke, "Connections", {"requestContext": about})
            request_id = str(uuid.uuid4())
            await say(new, "sendMessage", requestId=request_id, message="hello")
            assert (await receive(new, "messageResponse", requestId=request_id))["response"] == "hello"


async def test_the_janitor_asks_api_gateway_before_it_closes(stack: Stack) -> None:
    """The record of an open connection may be old, for what is posted is not noted there."""
    table = stack.outputs["ConnectionsTable"]
    items = stack.emulator.client("dynamodb")

    def look_idle(connection_id: str) -> None:
        # What the janitor has removed must not come back as half a record.
        with suppress(items.exceptions.ConditionalCheckFailedException):
            items.update_item(
                TableName=table,
                Key={"connectionId": {"S": connection_id}},
                UpdateExpression="SET lastActivity = :then, lastActivityMs = :ms",
                ConditionExpression="attribute_exists(connectionId)",
                ExpressionAttributeValues={":then": {"S": LONG_AGO}, ":ms": {"N": LONG_AGO_MS}},
            )

    async with asyncio.timeout(60), connect(f"{stack.url}?userId={stack.name('user')}", proxy=None) as socket:
        await say(socket, "hello", helloId="h")
        connection_id = (await receive(socket, "welcome"))["connectionId"]
        look_idle(connection_id)
        await asyncio.to_thread(stack.sweep)
        found = stack.item("Connections", connectionId=connection_id)
        assert found is not None
        assert found["lastActivity"] > LONG_AGO
        with stack.configured("Janitor", IDLE_TIMEOUT_S="1"):
            closing = asyncio.create_task(closed(socket))
            while not closing.done():
                look_idle(connection_id)
                await asyncio.to_thread(stack.sweep)
            assert await closing == 1000
    assert stack.item("Connections", connectionId=connection_id) is None


async def test_the_janitor_removes_what_is_long_gone(stack: Stack) -> None:
    """No `$disconnect` came, and API Gateway does not know the connection any more."""
    connection_id = stack.name("connection")
    gone = {name: {"S": connection_id} for name in ("connectionId", "userId", "sessionId")}
    times = {"connectedAt": {"S": LONG_AGO}, "lastActivity": {"S": LONG_AGO}}
    numbers = {"connectedAtMs": {"N": LONG_AGO_MS}, "lastActivityMs": {"N": LONG_AGO_MS}}
    stack.emulator.client("dynamodb").put_item(
        TableName=stack.outputs["ConnectionsTable"], Item={**gone, **times, **numbers, "status": {"S": "active"}}
    )
    await asyncio.to_thread(stack.sweep)
    assert stack.item("Connections", connectionId=connection_id) is None
