"""With IAM enforced, every part of the product does its work: the roles of the template allow what the code calls."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from answerback.client import Asked, ChangesMissed, Client, Failed, File, RequestCancelled, Text
from answerback.core.budget import Budget, Period, Unit, encode_budgets
from answerback_aws.emulator.bedrock import Asked as Prompted
from stack import LONG_SYSTEM, Stack

pytestmark = [pytest.mark.emulator, pytest.mark.postgres, pytest.mark.timeout(180)]


def denied(stack: Stack) -> list[str]:
    """What the functions logged about permissions that they lack."""
    return [line for line in stack.logs().splitlines() if "AccessDenied" in line or "not authorized" in line]


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("none", 401)])
async def test_without_a_token_there_is_no_connection(secured: Stack, token: str | None, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{secured.url}?token={token}" if token else secured.url, proxy=None):
            pass
    assert refused.value.response.status_code == status


async def test_a_token_of_another_user_is_forbidden(secured: Stack) -> None:
    token = secured.token(secured.name("user"))
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            f"{secured.url}?userId=other", subprotocols=["answerback.v1", f"bearer.{token}"], proxy=None
        ):
            pass
    assert refused.value.response.status_code == 403


async def test_everything_an_app_can_do(secured: Stack) -> None:
    user, conversation, question = secured.name("user"), secured.name("conversation"), secured.name("question")
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(_asked: Prompted):
        yield "on and "
        loop.call_soon_threadsafe(started.set)
        await asyncio.Event().wait()

    secured.scripts[question] = endless
    caps = encode_budgets([Budget(10**9, Unit.TOKENS, Period.DAY)])
    budget = {"userId": {"S": user}, "window": {"S": "budget"}, "caps": {"S": caps}}
    secured.emulator.client("dynamodb").put_item(TableName=secured.outputs["RateLimitsTable"], Item=budget)
    file = File(name="a.txt", data=b"x" * 70_000)
    async with Client(secured.url, token=secured.token(user)) as client, asyncio.timeout(120):
        assert (await client.ask("one two", conversation=conversation)).text == "one two"
        stream = client.stream(question, conversation=conversation)
        assert await anext(aiter(stream)) == "on and "
        stream.cancel()
        with pytest.raises(RequestCancelled):
            await stream.answer
        assert [turn.question async for turn in client.history(conversation)] == [question, "one two"]
        assert [found.conversation_id async for found in client.conversations()] == [conversation]
        answer = await client.ask("what is in it?", conversation=conversation, attachments=[file])
        assert "x" * 1_000 in answer.text
        standing = await client.budget()
        assert standing is not None
        assert (standing.used > 0, standing.reserved) == (True, 0)
        await client.rename(conversation, "a title")
        await client.delete(conversation)
    assert denied(secured) == []


async def test_another_device_shows_an_answer_as_it_comes_and_stops_it(secured: Stack) -> None:
    token = secured.token(secured.name("user"))
    conversation, question = secured.name("conversation"), secured.name("question")

    async def endless(_asked: Prompted):
        yield "on and "
        await asyncio.Event().wait()

    secured.scripts[question] = endless
    async with (
        asyncio.timeout(120),
        Client(secured.url, token=token) as desk,
        Client(secured.url, token=token) as phone,
        phone.watch(conversation) as watch,
        phone.changes() as changes,
    ):
        assert await changes.next() == ChangesMissed()
        stream = desk.stream(question, conversation=conversation)
        request_id, asked = await watch.next()
        assert isinstance(asked, Asked)
        assert (asked.question, asked.request_id) == (question, stream.request_id)
        while not isinstance((await watch.next()).event, Text):
            pass
        phone.cancel(request_id, conversation=conversation)
        with pytest.raises(RequestCancelled):
            await stream.answer
        assert isinstance((await watch.next()).event, Failed)
        assert (await changes.next()).conversation_id == conversation
    assert denied(secured) == []


async def test_a_system_prompt_of_any_length_reaches_the_model(secured: Stack) -> None:
    """The worker has read it from the bucket, and a secret beside it. Users ask for it: aws-genai-llm-chatbot#583."""
    question = secured.name("question")
    async with Client(secured.url, token=secured.token(secured.name("user"))) as client:
        await client.ask(question, timeout=100)
    (asked,) = [one for one in secured.bedrock.asked if one.question == question]
    assert asked.body["system"][0]["text"] == LONG_SYSTEM.strip()
    assert "swordfish" not in secured.logs()


async def test_the_janitor_and_dead_letters(secured: Stack) -> None:
    await asyncio.to_thread(secured.sweep)
    queue = secured.emulator.client("sqs")
    body = json.dumps({"user": "nobody", "request": "none"})
    queue.send_message(
        QueueUrl=secured.outputs["DeadLettersUrl"], MessageBody=body, MessageGroupId="g", MessageDeduplicationId="d"
    )
    secured.invoke("Janitor")
    assert denied(secured) == []
