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


@pytest.mark.local_llm
async def test_it_answers_by_the_embedded_model(
    local_model: object, read: Callable, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDBOOK_MODEL", "local")
    model = build_model("python:examples.own_model.handbook:make")
    (question,) = re.findall('answerback ask "(What.*)"', PAGE.read_text("utf-8"))
    for _ in range(4):
        pieces, error = await read(model, ask(question))
        assert error is None
        assert "receipt" in "".join(pieces[:-1])
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
