"""The product on the emulated AWS: the two-frame client, apps of the protocol and of the SDK."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator

import pytest
from websockets.asyncio.client import connect

from answerback.client import Client
from answerback.ports import Piece
from answerback_aws.emulator.bedrock import Asked
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(120)]


async def test_a_client_of_two_frames(stack: Stack) -> None:
    """The two-frame client: it sends questions, many at once, and takes each answer by its request id."""
    user = stack.name("user")
    asked = {stack.name("request"): f"question {number} of {user}" for number in range(4)}
    pending = dict(asked)
    async with asyncio.timeout(60), connect(stack.url, proxy=None) as socket:
        for request_id, message in asked.items():
            frame = {"action": "sendMessage", "requestId": request_id, "userId": user, "message": message}
            await socket.send(json.dumps({**frame, "timestamp": "2025-01-01T00:00:00Z"}))
        while pending:
            answer = json.loads(await socket.recv())
            if answer["action"] == "messageResponse":
                assert answer["status"] == "completed"
                assert answer["response"] == pending.pop(answer["requestId"])


async def test_the_sdk_asks_and_streams(stack: Stack) -> None:
    conversation = stack.name("conversation")
    async with Client(stack.url, user=stack.name("user")) as client, asyncio.timeout(60):
        assert (await client.ask("one two three", conversation=conversation)).text == "one two three"
        deltas = [delta async for delta in client.stream("four five six", conversation=conversation)]
        assert "".join(deltas) == "four five six"


async def test_an_answer_comes_while_it_is_made(stack: Stack) -> None:
    """The model goes on only after the app has read its first words."""
    question = stack.name("question")
    first_was_read = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(_asked: Asked) -> AsyncGenerator[Piece, None]:
        yield "first "
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(first_was_read.wait(), loop))
        yield "second"

    stack.scripts[question] = slow
    async with Client(stack.url, user=stack.name("user")) as client, asyncio.timeout(60):
        deltas = aiter(client.stream(question))
        assert await anext(deltas) == "first "
        first_was_read.set()
        assert await anext(deltas) == "second"


async def test_a_conversation_is_the_context_and_becomes_history(stack: Stack) -> None:
    user, conversation = stack.name("user"), stack.name("conversation")
    async with Client(stack.url, user=user) as client, asyncio.timeout(60):
        await client.ask("first question", conversation=conversation)
        await client.ask("second question", conversation=conversation)
        told = next(asked for asked in reversed(stack.bedrock.asked) if asked.question == "second question")
        texts = [message["content"][0]["text"] for message in told.body["messages"]]
        assert texts == ["first question", "first question", "second question"]
        turns = [turn async for turn in client.history(conversation)]
        assert [(turn.question, turn.answer) for turn in turns] == [
            ("second question", "second question"),
            ("first question", "first question"),
        ]


async def test_the_connections_table_holds_the_attributes_of_the_two_frame_client(stack: Stack) -> None:
    user, session = stack.name("user"), stack.name("session")
    async with asyncio.timeout(60), connect(f"{stack.url}?userId={user}&sessionId={session}", proxy=None) as socket:
        await socket.send(json.dumps({"action": "ping"}))
        await socket.recv()
        (item,) = [item for item in stack.items("Connections") if item.get("userId") == user]
        assert item["sessionId"] == session
        assert item["status"] == "active"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", item["connectedAt"])
        assert item["lastActivity"] >= item["connectedAt"]
