"""Shapes of documents that servers send and the OpenAI protocol does not have."""

import asyncio
import json
from collections.abc import Callable

import pytest
from aiohttp import web

from answerback.ports import Finish, Part
from answerback.protocol.errors import ErrorCode
from openai_server import DONE, END, answers, chunk, data, delta, model_of, streams

FINISH_COUNTS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")

pytestmark = pytest.mark.usefixtures("own_network")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        # Parts of text are text, thoughts are not.
        ([delta(content=[{"type": "text", "text": "One"}, {"type": "text", "text": " two."}]), END], "One two."),
        ([delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), chunk("a"), END], "a"),
        ([delta(content={"type": "text", "text": "a"}), END], "a"),
        ([delta(reasoning_content="hm", content=None), chunk("a"), END], "a"),
        ([delta(refusal="I cannot help with that."), END], "I cannot help with that."),
        ([data({"choices": [{"text": "an older protocol", "finish_reason": "stop"}]})], "an older protocol"),
        # Events with nothing in them.
        ([b"data:\n\n", b"data\n\n", data({}), data([]), data(b"null"), data(b"7"), chunk("a"), END], "a"),
        ([data({"message": "busy, please wait"}), data({"status": "queued"}), chunk("a"), END], "a"),
        ([data(b"not json"), data(b'{"choices": '), chunk("a"), END], "a"),
        ([data({"choices": 5}), data({"choices": [5]}), data({"choices": [{"delta": 5}]}), chunk("a"), END], "a"),
        ([data({"choices": {"delta": {"content": "a"}}}), END], "a"),
        # What some servers make of JSON and of events.
        ([data(b'{"choices":[{"delta":{"content":"\\alpha \\\\ \\u00e9 \\""}}]}'), END], '\\alpha \\ é "'),
        ([b"data: " + chunk("a"), b"data: " + END], "a"),
        (
            [b"[" + b",".join(part.removeprefix(b"data: ").strip() for part in (chunk("a"), chunk("b"), END)) + b"]"],
            "ab",
        ),
        # Halves of a character.
        (
            [
                data(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}'),
                data(b'{"choices":[{"delta":{"content":"\\ude00b"}}]}'),
                END,
            ],
            "a😀b",
        ),
        ([data(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}'), chunk("b"), END], "ab"),
        (
            [
                data(b'{"choices":[{"delta":{"content":"a\xed\x95"}}]}'),
                data(b'{"choices":[{"delta":{"content":"\x9cb"}}]}'),
                END,
            ],
            "a한b",
        ),
        ([data(b'{"choices":[{"delta":{"content":"a\xff"}}]}'), chunk("b"), END], "a\ufffdb"),
        # No text is taken twice.
        ([chunk("ab"), data({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]})], "ab"),
        ([data({"choices": [{"delta": {"content": "a"}, "message": {"content": "a"}, "text": "a"}]}), END], "a"),
        (
            [
                data({"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}),
                END,
            ],
            "a",
        ),
        # Nothing of another answer than the one that is asked for, its failure and its end among them.
        *(
            (
                [
                    chunk("a"),
                    data({"choices": [{"index": other, "delta": {"content": "b"}, "error": {"code": 502}}]}),
                    data({"choices": [{"index": other, "delta": {}, "finish_reason": "error"}, {"index": zero}]}),
                    data({"choices": [{"index": zero, "delta": {"content": "c"}, "finish_reason": "stop"}]}),
                ],
                "ac",
            )
            for zero, other in ((0, 1), ("0", "1"), (0.0, 1.0), (None, 12))
        ),
        # What nobody reads may be anything.
        (
            [data(b'{"x": NaN, "y": 1e999, "z": ' + b"9" * 5000 + b', "choices": [{"delta": {"content": "a"}}]}'), END],
            "a",
        ),
        ([data(b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b', "choices": [{"delta": {"content": "a"}}]}'), END], "a"),
        ([data(b'{"x": "\x01\\ud800\xff", "choices": [{"delta": {"content": "a"}}]}'), END], "a"),
        # Framing: the last event has no blank line, or not even an end of line.
        ([chunk("a"), END.rstrip()], "a"),
        ([chunk("a"), END.rstrip() + b"\n"], "a"),
    ],
)
async def test_odd_documents_cost_nothing_but_themselves(
    read: Callable, ask: Callable, parts: list[bytes], text: str
) -> None:
    async with model_of(streams(*parts)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    said = "".join(piece for piece in pieces[:-1] if not isinstance(piece, Part))
    assert (said, pieces[-1]) == (text, Finish())


def call(index: int | None, name: str | None, arguments: str | dict | None) -> dict:
    told = {"index": index, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in told.items() if value is not None}


CITED = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A", "start_index": 0}}
SOURCE = Part("citation", '{"url":"https://a.example","title":"A"}', new=True)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        # Thoughts, by the names that servers have for them.
        ([delta(reasoning_content="hm"), delta(reasoning=" so"), chunk("a"), END], [("hm", " so"), "a"]),
        (
            [delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), chunk("a"), END],
            [("hm",), "a"],
        ),
        # An emoji in halves.
        ([delta(reasoning_content="\ud83d"), delta(reasoning_content="\ude00"), END], [("😀",)]),
        # A call as it grows; one beside it waits; one without arguments.
        (
            [
                delta(tool_calls=[call(0, "search", "")]),
                delta(tool_calls=[call(0, None, '{"q":'), call(1, "time", None)]),
                delta(tool_calls=[call(1, None, '{"zone":')]),
                delta(tool_calls=[call(0, None, " 1}")]),
                delta(tool_calls=[call(1, None, " 2}"), call(2, "stop", "")]),
                chunk(finish="tool_calls"),
            ],
            [
                Part("tool", '{"q":', "search", new=True),
                Part("tool", " 1}", "search"),
                Part("tool", '{"zone": 2}', "time", new=True),
                Part("tool", "{}", "stop", new=True),
            ],
        ),
        ([delta(tool_calls=[call(None, "now", {})]), chunk(finish="stop")], [Part("tool", "{}", "now", new=True)]),
        ([delta(content="a", annotations=[CITED, 7, {"type": "other"}]), END], ["a", SOURCE]),
        # A server that does not stream, and one that says all again at the end.
        (
            [
                data(
                    {
                        "choices": [
                            {
                                "message": {"content": "a", "reasoning": "hm", "annotations": [CITED]},
                                "finish_reason": "stop",
                            }
                        ]
                    }
                )
            ],
            [("hm",), "a", SOURCE],
        ),
        (
            [
                delta(reasoning="hm"),
                chunk("a"),
                delta(tool_calls=[call(0, "now", "{}")]),
                data(
                    {
                        "choices": [
                            {
                                "message": {"content": "a", "reasoning": "hm", "tool_calls": [call(0, "now", "{}")]},
                                "finish_reason": "stop",
                            }
                        ]
                    }
                ),
            ],
            [("hm",), "a", Part("tool", "{}", "now", new=True)],
        ),
        # What is of another kind than it should be.
        (
            [
                delta(reasoning=5, tool_calls={"index": 0}, annotations="no"),
                delta(tool_calls=[5, {"function": 5}]),
                chunk("a"),
                END,
            ],
            ["a", Part("tool", "{}", new=True)],
        ),
    ],
)
async def test_what_is_no_text_comes_as_parts(read: Callable, ask: Callable, parts: list[bytes], said: list) -> None:
    async with model_of(streams(*parts)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    expected = []
    for one in said:
        expected += [Part("reasoning", text) for text in one] if isinstance(one, tuple) else [one]
    assert pieces[:-1] == expected


async def test_what_cannot_be_read_is_counted(read: Callable, ask: Callable) -> None:
    parts = [
        data(b"not json"),
        data({"choices": 5}),
        data(b'{"choices":[{"delta":{"content":"\xff"}}]}'),
        chunk("a"),
        END,
        chunk(" text after the end"),
    ]
    async with model_of(streams(*parts)) as model:
        await read(model, ask("?"))
        assert model.unread_documents == 4


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 3.0, "completion_tokens": 2}, (3, 2)),
        ({"prompt_tokens": -1, "completion_tokens": 2**63}, (None, None)),
        ({"prompt_tokens": 2**53, "completion_tokens": "2"}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": None}, (None, None)),
        ([1, 2], (None, None)),
        ("none", (None, None)),
        (
            {
                "prompt_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            (9, 7, 4, 5),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": 4, "completion_tokens_details": [5]}, (9, None)),
    ],
)
async def test_counts_are_read_each_by_itself(read: Callable, ask: Callable, usage: object, counts: tuple) -> None:
    last = data({"choices": [], "usage": usage})
    async with model_of(streams(chunk("a"), END, last, DONE)) as model:
        pieces, error = await read(model, ask("?"))
    assert error is None
    assert pieces == ["a", Finish(**dict(zip(FINISH_COUNTS, counts, strict=False)))]


async def test_a_byte_now_and_then_does_not_hold_the_end_back(read: Callable, ask: Callable) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await streams(chunk("a"), END)(request)
        for _ in range(10_000):
            await response.write(b": ping\n\n")
            await asyncio.sleep(0.01)
        raise AssertionError("nobody hung up")

    async with model_of(handler, usage_timeout_s=0.1) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain", ""])
@pytest.mark.parametrize("cut", [False, True])
async def test_a_whole_completion_is_known_by_its_first_byte(
    read: Callable, ask: Callable, content_type: str, cut: bool
) -> None:
    whole = {
        "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type} if content_type else {})
        await response.prepare(request)
        await response.write(b"\r\n" + json.dumps(whole, indent=2).encode())
        if cut:
            request.transport.abort()
        return response

    async with model_of(handler) as model:
        assert await read(model, ask("?")) == (["hello", Finish(input_tokens=3, output_tokens=1)], None)


async def test_events_that_call_themselves_json(read: Callable, ask: Callable) -> None:
    body = (chunk("a") + END + DONE).decode()
    async with model_of(answers(200, body, Content_Type="application/json")) as model:
        assert await read(model, ask("?")) == (["a", Finish()], None)


async def test_a_document_on_each_line(read: Callable, ask: Callable) -> None:
    body = "".join(part.decode().removeprefix("data: ").strip() + "\n" for part in (chunk("a"), chunk("b"), END))
    async with model_of(answers(200, body, Content_Type="application/x-ndjson")) as model:
        assert await read(model, ask("?")) == (["a", "b", Finish()], None)


async def test_a_body_that_is_no_answer_is_named_by_its_first_bytes(read: Callable, ask: Callable) -> None:
    async with model_of(answers(200, "<!DOCTYPE html><title>Sign in</title>", Content_Type="text/html")) as model:
        pieces, error = await read(model, ask("?"))
    assert pieces == []
    assert "<!DOCTYPE html>" in error.detail


async def test_an_endless_event_is_not_gathered(read: Callable, ask: Callable) -> None:
    async with model_of(streams(b"data: ", *[b"x" * 65536] * 40)) as model:
        _, error = await read(model, ask("?"))
    assert error.code is ErrorCode.MODEL_FAILED
