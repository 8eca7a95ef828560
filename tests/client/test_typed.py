"""Typed answers: the schema goes out, the text is checked here, and a second answer is asked for only on demand."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, v1

from answerback.client import AnswerInvalid, BlockingClient, Client
from answerback.client.typed import read_as, schema_of, without_fence
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.protocol.limits import MAX_MESSAGE_BYTES

INVOICE = '{"number": "A-17", "lines": [{"what": "차", "price": 3}]}'


class Line(msgspec.Struct):
    what: str
    price: int


class Invoice(msgspec.Struct):
    number: str
    lines: list[Line]


@dataclass
class Point:
    x: int
    y: int = 0


class Person(BaseModel):
    name: str


class Old(v1.BaseModel):
    name: str


class Node(BaseModel):
    value: int
    inner: "list[Node]" = []


@pytest.mark.parametrize("kind", [5, "Person", asyncio.Lock])
def test_what_is_no_type_of_an_answer_is_told_in_words(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"an answer cannot be a .*; ask for a msgspec Struct, a dataclass, a pydantic"):
        schema_of(kind)


@pytest.fixture
async def app(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        models = ("echo", "context=echo:context=1")
        settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, grace_s=0.1, models=models, rate_limit=0)
        gateway = await stack.enter_async_context(Gateway(settings))
        yield await stack.enter_async_context(Client(gateway.url, user="kim"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Invoice, INVOICE, Invoice("A-17", [Line("차", 3)])),
        (Invoice, f"```json\n{INVOICE}\n```\n", Invoice("A-17", [Line("차", 3)])),
        (Point, '{"x": 1}', Point(1)),
        (Point, '\ufeff```json5 \r\n{"x": 1}\r\n```', Point(1)),
        (Person, '{"name": "Kim"}', Person(name="Kim")),
        (Old, '{"name": "Kim"}', Old(name="Kim")),
        (list[Person], '[{"name": "Kim"}]', [Person(name="Kim")]),
        (dict[str, Node | None], '{"a": {"value": 1}, "b": null}', {"a": Node(value=1), "b": None}),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, Point], '{"a": {"x": 1, "y": 2}}', {"a": Point(1, 2)}),
    ],
)
async def test_an_answer_is_a_value_of_the_type(app: Client, kind: Any, text: str, value: Any) -> None:
    assert await app.ask(text, type=kind) == value


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (Invoice, "Here it is: {}", "malformed"),
        (Invoice, '{"number": 17, "lines": []}', "number"),
        (Point, '{"y": 1}', "x"),
        (Person, '{"name": 1}', "name"),
        (Point, '{"x": 1} and more', "trailing"),
    ],
)
async def test_an_answer_of_another_type_is_told_with_its_text(app: Client, kind: Any, text: str, why: str) -> None:
    with pytest.raises(AnswerInvalid, match=why) as caught:
        await app.ask(text, type=kind, conversation="c")
    assert caught.value.answer.text == text
    assert caught.value.why in str(caught.value)
    assert len([turn async for turn in app.history("c")]) == 1


async def test_one_more_answer_is_asked_for_only_where_the_app_says_so(app: Client) -> None:
    with pytest.raises(AnswerInvalid) as caught:
        await app.ask("no JSON", type=Point, repair=1, conversation="c")
    turns = [turn async for turn in app.history("c", superseded=True)]
    assert [turn.question for turn in turns][1] == "no JSON"
    asked = turns[0].question
    assert asked.startswith("no JSON\n\nAn earlier answer was:\nno JSON\n\nIt is not valid: ")
    assert turns[0].replaces == turns[1].request_id
    assert caught.value.answer.request_id == turns[0].request_id


async def test_what_was_answered_is_not_lost_where_the_second_question_is_too_large(app: Client) -> None:
    long = "x" * (MAX_MESSAGE_BYTES - 1_000)
    with pytest.raises(AnswerInvalid) as caught:
        await app.ask(long, type=Point, repair=1)
    assert long.startswith(caught.value.answer.text)


async def test_a_repair_is_within_the_time_of_its_question(app: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    begin = app._begin

    def noted(frame: Any, timeouts: Any, files: Any) -> Any:
        given.append(timeouts.total_s)
        return begin(frame, timeouts, files)

    monkeypatch.setattr(app, "_begin", noted)
    with pytest.raises(AnswerInvalid):
        await app.ask("no JSON", type=Point, repair=1, timeout=20)
    assert given[1] < given[0] == 20


async def test_a_model_that_cannot_keep_to_a_schema_is_told_of_it(app: Client) -> None:
    answer = await app.ask("Where?", model="context", system="Be brief.", schema=schema_of(Point))
    first, *_ = answer.text.split("\nuser: ")
    assert first.startswith("system: Be brief.\n\nAnswer with one JSON value and nothing else")
    assert '"required": ["x"]' in first
    assert app.model_info("context").format is False


async def test_another_schema_under_a_known_id_is_another_question(app: Client) -> None:
    one, again = schema_of(Point), dict(reversed(schema_of(Point).items()))
    await app.ask("1", request_id="r", schema=one)
    assert (await app.ask("1", request_id="r", schema=again)).text == "1"
    for other in (None, schema_of(Invoice)):
        with pytest.raises(Exception, match="used for something else"):
            await app.ask("1", request_id="r", schema=other)


async def test_a_schema_that_is_too_large_or_none_is_told(app: Client) -> None:
    large = {"description": "x" * 16_384}
    with pytest.raises(Exception, match="may have 16384 bytes"):
        await app.ask("1", schema=large)
    deep: dict[str, Any] = {}
    for _ in range(64):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="it may be 64 levels deep"):
        await app.ask("1", schema=deep)
    assert (await app.ask("1", schema=deep["a"])).text == "1"
    with pytest.raises(ValueError, match="not a JSON object"):
        await app.ask("1", schema={"a": object()})


def test_the_top_of_a_schema_is_no_reference() -> None:
    schema = schema_of(Invoice)
    assert (schema["type"], schema["required"]) == ("object", ["number", "lines"])
    assert schema["properties"]["lines"]["items"] == {"$ref": "#/$defs/Line"}
    assert schema["$defs"]["Line"]["type"] == "object"
    assert schema_of(Person)["properties"]["name"]["type"] == "string"
    assert (schema_of(Node)["type"], "$ref" in schema_of(Node)) == ("object", False)


def test_a_method_of_that_name_makes_no_pydantic_model() -> None:
    @dataclass
    class Report:
        pages: int

        def model_json_schema(self) -> str:
            return "of the model"

    assert schema_of(Report)["properties"].keys() == {"pages"}
    assert read_as(Report, '{"pages": 3}') == Report(3)


@pytest.mark.parametrize("fenced", ["```json\n{}\n```", "\ufeff```\n{}```\n", " ```\n{}\n``` "])
def test_a_fence_is_taken_off(fenced: str) -> None:
    assert without_fence(fenced) == "{}"


def test_what_is_no_fence_is_left_alone() -> None:
    with pytest.raises(ValueError, match="malformed"):
        read_as(Point, 'Here:\n```json\n{"x": 1}\n```')


def test_the_blocking_client_gives_typed_answers_too(tmp_path) -> None:
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, grace_s=0.1, models=("echo",))

    async def main() -> Point:
        async with Gateway(settings) as gateway:

            def ask() -> Point:
                with BlockingClient(gateway.url) as app:
                    return app.ask('{"x": 7}', type=Point)

            return await asyncio.to_thread(ask)

    assert asyncio.run(main()) == Point(7)
