"""`answerback serve --model bedrock:…`: a gateway whose model is a Bedrock on loopback that streams."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from answerback.client import Client, RequestFailed
from answerback.models.echo import EchoModel
from answerback.ports import Piece
from answerback_aws.emulator.bedrock import Asked, BedrockServer, Broken, Refused, of_model
from cli_process import GatewayProcess, start_gateway

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def bedrock() -> Iterator[BedrockServer]:
    with BedrockServer(of_model(EchoModel())) as server:
        yield server


@pytest.fixture
def gateway(bedrock: BedrockServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GatewayProcess]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", bedrock.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    running = start_gateway(
        "--model", "wise=bedrock:some.model-v1:0?region=eu-central-1", data_dir=tmp_path / "data", log=tmp_path / "log"
    )
    yield running
    assert running.stop() == 0
    running.process.stdout.close()


async def test_it_streams_and_knows_the_conversation_and_its_usage(
    gateway: GatewayProcess, bedrock: BedrockServer
) -> None:
    async with Client(gateway.url, user="ann") as app:
        first = await app.ask("one two", conversation="c", timeout=30)
        stream = app.stream("three four", conversation="c", system="be brief", max_tokens=50)
        pieces = [piece async for piece in stream]
    assert first.text == "one two"
    assert first.model == "wise"
    assert first.usage is not None
    assert first.usage.output_tokens
    assert "".join(pieces) == "three four"
    body = bedrock.asked[1].body
    assert bedrock.asked[1].model_id == "some.model-v1:0"
    assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
    assert body["system"] == [{"text": "be brief"}]
    assert body["inferenceConfig"] == {"maxTokens": 50}


async def test_an_error_before_the_first_word_is_retried_and_a_later_one_reported(
    gateway: GatewayProcess, bedrock: BedrockServer
) -> None:
    echo = of_model(EchoModel())

    async def troubled(asked: Asked) -> AsyncGenerator[Piece, None]:
        if asked.number == 1:
            raise Refused(429, "ThrottlingException")
        async with aclosing(echo(asked)) as pieces:
            async for piece in pieces:
                yield piece
                if asked.number == 3:
                    raise Broken("modelStreamErrorException")

    bedrock.script = troubled
    async with Client(gateway.url, user="ann") as app:
        assert (await app.ask("one two", timeout=30)).text == "one two"
        assert len(bedrock.asked) == 2
        with pytest.raises(RequestFailed) as caught:
            await app.ask("three four", timeout=30)
    assert caught.value.code == "model_failed"
    assert "script" not in str(caught.value)
