"""The example of docs/your-own-model.md: what the page shows is what runs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from answerback.core.context import Message, Role
from answerback.models import build_model
from answerback.ports import Finish, Prompt

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
    pieces, _ = await read(model, ask("Qu'est-ce?"))
    assert pieces == ["The handbook says nothing about that.", Finish()]
    await model.close()


@pytest.mark.local_llm
async def test_it_answers_by_the_embedded_model(
    local_model: object, read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDBOOK_MODEL", "local")
    model = build_model("python:examples.own_model.handbook:make")
    pieces, error = await read(model, ask("When does the workshop open?", max_tokens=30))
    assert error is None
    assert "".join(pieces[:-1]).strip()
    assert pieces[-1].output_tokens > 0
    await model.close()


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
