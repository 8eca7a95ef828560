"""The reader of model servers' answers: what is after the end, and what nobody reads, changes nothing."""

import itertools
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.models import reader
from answerback.ports import Finish, ModelError
from harness.model_reader import answer_to

TEXT = "One 둘 😀."

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def choice(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, "finish_reason": finish}


WHOLE = event({"choices": [choice(TEXT)]}) + event({"choices": [choice("", "stop")]})


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_after_the_end_change_nothing(after: bytes, is_event: bool) -> None:
    got = answer_to(WHOLE + (b"data: " + after + b"\n\n" if is_event else after))
    assert isinstance(got, list)
    assert got[:-1] == [TEXT]
    assert isinstance(got[-1], Finish)
    assert got[-1].reason == "stop"


@given(json_values, st.sampled_from(["error", "choices", "usage", "object"]))
def test_any_document_after_the_end_changes_nothing_but_the_counts(value: Any, member: str) -> None:
    got = answer_to(WHOLE + event({member: value}))
    assert isinstance(got, list)
    assert got[:-1] == [TEXT]


@given(json_values, st.text(max_size=8), st.sampled_from(["document", "choice", "delta", "usage"]))
def test_any_json_in_a_member_that_nobody_reads_changes_nothing(value: Any, name: str, place: str) -> None:
    said = choice(TEXT, "stop")
    document: dict[str, Any] = {"choices": [said], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    holder = {"document": document, "choice": said, "delta": said["delta"], "usage": document["usage"]}[place]
    holder.setdefault(f"x-{name}", value)
    assert answer_to(event(document)) == [TEXT, Finish(input_tokens=1, output_tokens=2)]


@pytest.mark.parametrize("place", ["document", "choice", "delta"])
def test_a_chunk_of_text_alone_is_told_from_one_that_says_more(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("error", "type", "object", "usage", "message", "finish_reason", "index", "refusal", "reasoning", "content")
    values = (None, 0, 1, "", "x", "error", [], ["y"], {"error": {"code": 429}}, {"content": "y"}, {"prompt_tokens": 1})
    chunks = []
    for name, value in itertools.product((*names, "role", "tool_calls", "annotations"), values):
        said = choice("a")
        document = {"choices": [said], "object": "chat.completion.chunk", "usage": None}
        {"document": document, "choice": said, "delta": said["delta"]}[place][name] = value
        chunks.append(document)
    told = [_told(document) for document in chunks]
    monkeypatch.setattr(reader, "_plain", lambda _: "")
    assert told == [_told(document) for document in chunks]


def _told(document: dict[str, Any]) -> object:
    try:
        return reader.chat_completion(document)
    except ModelError as error:
        return str(error), error.code


@given(st.lists(json_values, max_size=4))
def test_documents_that_say_nothing_cost_nothing(documents: list[Any]) -> None:
    odd = [document for document in documents if not isinstance(document, dict)]
    assert answer_to(*map(event, odd), WHOLE) == [TEXT, Finish()]


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_any_split_gives_the_same_answer(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    assert answer_to(*(WHOLE[start:end] for start, end in pairwise(edges))) == [TEXT, Finish()]


@given(st.text(), st.integers(1, 7))
def test_text_that_is_cut_anywhere_is_joined(text: str, size: int) -> None:
    """In UTF-16, as a server of JavaScript's cuts it: also between the halves of a pair."""
    units = text.encode("utf-16-be", "surrogatepass")
    pieces = [units[n : n + 2 * size].decode("utf-16-be", "surrogatepass") for n in range(0, len(units), 2 * size)]
    body = b"".join(
        b"data: " + json.dumps({"choices": [choice(piece)]}).encode() + b"\n\n" for piece in pieces
    ) + event({"choices": [choice("", "stop")]})
    got = answer_to(body)
    assert isinstance(got, list)
    assert "".join(map(str, got[:-1])) == text
