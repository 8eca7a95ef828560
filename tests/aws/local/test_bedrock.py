"""The model behind Bedrock's interface: read by our own Bedrock model, straight and through the emulator."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from answerback.core.context import Message, Role
from answerback.models.bedrock import BedrockModel
from answerback.models.echo import EchoFailure, EchoModel, EchoOptions
from answerback.ports import Finish, ModelError, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode
from answerback_aws.emulator.bedrock import Asked, BedrockServer, Broken, Cut, Refused, of_model
from answerback_aws.emulator.emulator import CREDENTIALS, REGION, Emulator
from emulation import emulator_python

pytestmark = pytest.mark.emulator

HELLO = Prompt(messages=(Message(Role.USER, "hello there"),), system="be kind", max_tokens=7)
ONCE = Config(retries={"total_max_attempts": 1})


async def greeting(asked: Asked) -> AsyncGenerator[Piece, None]:
    yield "안녕 "
    yield asked.question
    yield Finish(reason="length", input_tokens=3, output_tokens=4)


@pytest.fixture(scope="module")
def server() -> Iterator[BedrockServer]:
    with BedrockServer(greeting) as running:
        yield running


@pytest.fixture(scope="module", params=["straight", "emulated"])
def model(
    request: pytest.FixtureRequest, server: BedrockServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], BedrockModel]]:
    def of(endpoint: str) -> Callable[[], BedrockModel]:
        session = boto3.session.Session(region_name=REGION, **CREDENTIALS)
        return lambda: BedrockModel(
            client=session.client("bedrock-runtime", endpoint_url=endpoint, config=ONCE), model="a.model-v1:0"
        )

    if request.param == "straight":
        yield of(server.url)
        return
    folder = tmp_path_factory.mktemp("bedrock")
    with Emulator(python=emulator_python(), folder=folder, bedrock_url=server.url) as emulator:
        yield of(emulator.endpoint)


async def read(model: BedrockModel, prompt: Prompt = HELLO) -> list[Piece]:
    try:
        async with asyncio.timeout(20), aclosing(model.stream(prompt)) as pieces:
            return [piece async for piece in pieces]
    finally:
        await model.close()


async def test_what_a_model_says_besides_text(model: Callable[[], BedrockModel], server: BedrockServer) -> None:
    async def thinking(_asked: Asked) -> AsyncGenerator[Piece, None]:
        yield Part("reasoning", "Where ")
        yield Part("reasoning", "is it?")
        yield Part("tool", '{"q": ', "search", new=True)
        yield Part("tool", '"sea"}')
        yield Part("result", "not said by Bedrock", "search")
        yield "The sea"
        yield Part("citation", '{"title": "Sea"}', new=True)
        yield " is deep."
        yield Finish()

    server.script = thinking
    pieces = [piece for piece in await read(model()) if not isinstance(piece, Finish)]
    said = [("text", piece) if isinstance(piece, str) else (piece.kind, piece.text) for piece in pieces]
    joined = {kind: "".join(text for one, text in said if one == kind) for kind, _ in said}
    assert joined == {
        "reasoning": "Where is it?",
        "tool": '{"q": "sea"}',
        "text": "The sea is deep.",
        "citation": '{"title":"Sea"}',
    }
    assert next(piece.name for piece in pieces if isinstance(piece, Part) and piece.kind == "tool") == "search"


async def test_an_answer_with_its_usage(model: Callable[[], BedrockModel], server: BedrockServer) -> None:
    server.script = greeting
    pieces = await read(model())
    assert pieces[:-1] == ["안녕 ", "hello there"]
    assert pieces[-1] == Finish(reason="length", input_tokens=3, output_tokens=4)
    asked = server.asked[-1]
    assert (asked.model_id, asked.question, asked.number) == ("a.model-v1:0", "hello there", len(server.asked))
    assert asked.body["inferenceConfig"] == {"maxTokens": 7}


async def test_the_text_comes_as_it_is_made(model: Callable[[], BedrockModel], server: BedrockServer) -> None:
    """The script goes on only after its first piece was read at the other end."""
    read_first = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(_asked: Asked) -> AsyncGenerator[Piece, None]:
        yield "first"
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(read_first.wait(), loop))
        yield "second"

    server.script = slow
    reading = model()
    async with asyncio.timeout(20), aclosing(reading.stream(HELLO)) as pieces:
        assert await anext(pieces) == "first"
        read_first.set()
        assert await anext(pieces) == "second"
    await reading.close()


async def test_hanging_up_stops_the_script(model: Callable[[], BedrockModel], server: BedrockServer) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(_asked: Asked) -> AsyncGenerator[Piece, None]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(stopped.set)

    server.script = endless
    reading = model()
    async with asyncio.timeout(20):
        async with aclosing(reading.stream(HELLO)) as pieces:
            assert await anext(pieces) == "first"
        await stopped.wait()
    await reading.close()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Refused(429, "ThrottlingException"), ErrorCode.MODEL_THROTTLED),
        (Broken("throttlingException"), ErrorCode.MODEL_THROTTLED),
        (Broken("modelStreamErrorException"), ErrorCode.MODEL_FAILED),
        (Cut(), ErrorCode.MODEL_FAILED),
    ],
    ids=lambda value: type(value).__name__ + getattr(value, "code", "") if isinstance(value, Exception) else value,
)
async def test_failures(
    model: Callable[[], BedrockModel], server: BedrockServer, failure: Exception, code: ErrorCode
) -> None:
    async def failing(_asked: Asked) -> AsyncGenerator[Piece, None]:
        if not isinstance(failure, Refused):
            yield "first"
        raise failure

    server.script = failing
    with pytest.raises(ModelError) as failed:
        await read(model())
    assert failed.value.code is code


async def test_one_of_our_models_answers(model: Callable[[], BedrockModel], server: BedrockServer) -> None:
    server.script = of_model(EchoModel())
    *texts, finish = await read(model())
    assert "".join(map(str, texts)) == "hello there"
    assert isinstance(finish, Finish)
    server.script = of_model(EchoModel(EchoOptions(fail=EchoFailure.THROTTLED)))
    with pytest.raises(ModelError) as failed:
        await read(model())
    assert failed.value.code is ErrorCode.MODEL_THROTTLED


def test_only_who_may_invoke_the_model_gets_an_answer(
    server: BedrockServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The permission that AWS asks for, and not the name of the call."""
    server.script = greeting
    folder = tmp_path_factory.mktemp("auth")
    with Emulator(python=emulator_python(), folder=folder, bedrock_url=server.url, auth=True) as emulator:
        assert _converse(emulator, "bedrock:InvokeModelWithResponseStream", "named") == "안녕 hi"
        with pytest.raises(ClientError, match="AccessDenied"):
            _converse(emulator, "bedrock:ConverseStream", "other")


def _converse(emulator: Emulator, action: str, user: str) -> str:
    """What a user gets who may do this one thing."""
    iam = emulator.client("iam")
    iam.create_user(UserName=user)
    model = "arn:aws:bedrock:*::foundation-model/a.model-v1:0"
    statement = {"Effect": "Allow", "Action": action, "Resource": model}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=user, PolicyName="one", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    bedrock = emulator.client(
        "bedrock-runtime",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        config=ONCE,
    )
    question = {"role": "user", "content": [{"text": "hi"}]}
    events = bedrock.converse_stream(modelId="a.model-v1:0", messages=[question])["stream"]
    return "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
