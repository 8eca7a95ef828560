"""The example of docs/your-own-model.md: what the page shows is what runs."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiohttp import web
from botocore.stub import Stubber

from answerback.core.context import Message, Role
from answerback.models import build_model
from answerback.ports import Finish, Part, Piece, Prompt
from answerback.protocol.errors import ErrorCode
from answerback_aws.deploy.package import Target, build_package
from answerback_aws.emulator.bedrock import Asked, BedrockServer, ThreadedServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-own-model.md"


@pytest.fixture(autouse=True)
def _at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])


async def test_the_smallest_one(read: Callable, ask: Callable) -> None:
    model = build_model("python:examples.own_model.shout:make")
    assert await read(model, ask("hello there")) == (["HELLO ", "THERE ", Finish()], None)
    await model.close()


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("When does the workshop close on Saturday?", "# Opening hours"),
        ("How much is delivery to Busan?", "# Delivery"),
        ("May a machine be returned?", "# Returns"),
        ("What must I bring when I return a machine?", "# Returns"),
    ],
)
async def test_the_model_is_given_the_page_that_fits(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch, question: str, page: str
) -> None:
    monkeypatch.setenv("HANDBOOK_MODEL", "echo:context=1&concurrency=4&context_tokens=1000")
    model = build_model("handbook=python:examples.own_model.handbook:make")
    assert (model.name, model.concurrency, model.context_tokens) == ("handbook", 4, 800)
    earlier = (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello"))
    pieces, error = await read(model, Prompt(messages=(*earlier, Message(Role.USER, question))))
    assert error is None
    given = "".join(pieces[:-1])
    assert page in given
    assert given.endswith(f"user: Hi\nassistant: Hello\nuser: {question}")
    await model.close()


async def test_it_says_what_it_does_not_know(read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDBOOK_MODEL", "echo")
    model = build_model("python:examples.own_model.handbook:make")
    for question in ("Qu'est-ce?", "Who is the king of France?", "What is the weather like?"):
        pieces, _ = await read(model, ask(question))
        assert pieces == ["The handbook says nothing about that.", Finish()]
    await model.close()


def test_a_korean_handbook_is_searched(tmp_path: Path) -> None:
    from examples.own_model.handbook import best_note, read_notes

    (tmp_path / "delivery.md").write_text("배송은 시내에서 무료입니다. 그 밖에는 15유로입니다.", "utf-8")
    (tmp_path / "hours.md").write_text("영업 시간은 9시부터 6시까지입니다.", "utf-8")
    notes = read_notes(tmp_path)
    titles = [
        note and note.title
        for note in (best_note(notes, asked) for asked in ("배송비가 얼마예요?", "몇 시간 열어요?", "비가 와?"))
    ]
    assert titles == ["delivery", "hours", None]


async def test_a_knowledge_base_is_asked_before_the_model(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against stubs of both services of Bedrock, over HTTP; nobody has run it on AWS."""
    asked: list[dict[str, Any]] = []

    async def retrieve(request: web.Request) -> web.Response:
        asked.append({"path": request.path, **await request.json()})
        texts = ["Machines come back within 30 days.", "A receipt is needed."]
        results = [{"content": {"text": text}, "location": {"type": "S3"}} for text in texts]
        return web.json_response({"retrievalResults": results})

    @asynccontextmanager
    async def app() -> AsyncIterator[web.Application]:
        app = web.Application()
        app.router.add_post("/knowledgebases/{id}/retrieve", retrieve)
        yield app

    async def echo(_asked: Asked) -> AsyncGenerator[Piece, None]:
        yield "Within 30 days [1]."

    with ThreadedServer("knowledge-base", app) as base, BedrockServer(echo) as bedrock:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME": base.url,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url,
            "KNOWLEDGE_BASE_ID": "ABCD1234EF",
        }.items():
            monkeypatch.setenv(name, value)
        model = build_model("handbook=python:examples.own_model.knowledge_base:make")
        pieces, error = await read(model, ask("May a machine be returned?", system="Be brief."))
        await model.close()
    assert (pieces[:-1], error) == (["Within 30 days [1]."], None)
    assert [(one["path"], one["retrievalQuery"]["text"]) for one in asked] == [
        ("/knowledgebases/ABCD1234EF/retrieve", "May a machine be returned?")
    ]
    system = bedrock.asked[0].body["system"][0]["text"]
    assert system.startswith("Be brief.\n\nAnswer from these passages")
    assert system.endswith("[1] Machines come back within 30 days.\n\n[2] A receipt is needed.")


async def test_a_knowledge_base_that_may_not_be_asked(
    read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.own_model.knowledge_base import KnowledgeBase

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    client = boto3.client("bedrock-agent-runtime", region_name="us-east-1")
    with Stubber(client) as stub:
        stub.add_client_error("retrieve", "AccessDeniedException", "not authorized to perform: bedrock:Retrieve")
        model = KnowledgeBase(client, "ABCD1234EF", build_model("echo"))
        pieces, error = await read(model, ask("May a machine be returned?"))
    assert pieces == []
    assert error.code is ErrorCode.MODEL_UNAVAILABLE
    assert "bedrock:Retrieve" in error.detail


def test_the_policy_of_the_example_allows_what_it_calls() -> None:
    policy = json.loads((ROOT / "examples/own_model/knowledge_base_policy.json").read_text("utf-8"))
    allowed = {statement["Action"]: statement["Resource"] for statement in policy["Statement"]}
    assert set(allowed) == {"bedrock:Retrieve", "bedrock:InvokeModelWithResponseStream"}
    assert allowed["bedrock:InvokeModelWithResponseStream"].endswith("amazon.nova-lite-v1:0"), "the model of `make`"


def test_the_example_is_packaged_as_a_module_of_its_own(tmp_path: Path) -> None:
    package = build_package(
        Target.here(),
        cache=ROOT / ".cache" / "wheels",
        models=["kb=python:knowledge_base:make"],
        include=[ROOT / "examples" / "own_model" / "knowledge_base.py"],
    )
    assert "knowledge_base.py" in package.names


@pytest.mark.local_llm
async def test_it_answers_by_the_embedded_model(
    local_model: object, read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDBOOK_MODEL", "local")
    model = build_model("python:examples.own_model.handbook:make")
    (question,) = re.findall('answerback ask "(What.*)"', PAGE.read_text("utf-8"))
    for _ in range(2):
        pieces, error = await read(model, ask(question))
        assert error is None
        assert "receipt" in "".join(pieces[:-1])
        assert pieces[-1].output_tokens > 0
    await model.close()


async def test_a_model_says_more_than_its_answer(read: Callable, ask: Callable) -> None:
    pieces, error = await read(build_model("python:examples.own_model.hours:make"), ask("When are you open?"))
    assert error is None
    assert [piece.kind if isinstance(piece, Part) else piece for piece in pieces[:-1]] == [
        *("status", "tool", "result", "We are open from 9 to 17.", "citation"),
    ]


def test_every_code_block_of_the_page_is_in_the_example() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    sources = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "examples" / "own_model").glob("*.py")))
    assert blocks
    for block in blocks:
        assert block in sources


def test_every_spec_of_the_page_can_be_built() -> None:
    specs = re.findall(r"--model (\S+[a-z])$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(specs) >= 3
    for spec in specs:
        assert build_model(spec).name
