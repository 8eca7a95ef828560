"""Target `model_reader`: the body of a model server's response, with how it is cut."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from answerback.core.context import Message, Role
from answerback.core.finish import MAX_TOKENS, REASONS
from answerback.models.documents import DocumentDecoder, decode
from answerback.models.reader import chat_completion, read_answer
from answerback.ports import Finish, ModelError, Piece, Prompt
from harness.reading import Script, cut

_PROMPT = Prompt(messages=(Message(Role.USER, "?"),))
_SAID = {"index": 0, "delta": {"content": "One 둘."}, "finish_reason": "stop"}
_WHOLE = b"data: " + json.dumps({"choices": [_SAID]}).encode() + b"\n\n"


def model_reader(data: bytes) -> None:
    """The same answer however it is cut; text that can be stored, and one Finish; after the end nothing counts."""
    script = Script(data)
    sizes = script.block()
    body = script.rest()
    got = answer_to(*cut(body, sizes))
    assert got == answer_to(body)
    if isinstance(got, list):
        *texts, last = got
        for text in texts:
            assert isinstance(text, str)
            assert text
            text.encode()
        assert isinstance(last, Finish)
        assert last.reason in REASONS
        assert all(count is None or 0 <= count <= MAX_TOKENS for count in (last.input_tokens, last.output_tokens))

    told = answer_to(_WHOLE, *cut(body, sizes))
    assert isinstance(told, list)
    assert told[:-1] == ["One 둘."]
    unread = {"choices": [_SAID | {"x": decode(body)}], "x": decode(body)}
    try:
        event = b"data: " + json.dumps(unread).encode() + b"\n\n"
    except (TypeError, ValueError, RecursionError):
        return  # the bytes are no JSON, or the encoder itself gives up
    assert answer_to(event) == ["One 둘.", Finish()]


def answer_to(*parts: bytes) -> list[Piece] | str:
    """What a body, in these parts, is read as; an error by its code."""

    async def documents() -> AsyncGenerator[Any, None]:
        decoder = DocumentDecoder()
        for part in parts:
            for document in decoder.feed(part):
                yield document
        for document in decoder.close():
            yield document

    async def main() -> list[Piece] | str:
        try:
            return [piece async for piece in read_answer(documents(), chat_completion, _PROMPT)]
        except ModelError as error:
            return f"{error.code}"

    return asyncio.run(main())
