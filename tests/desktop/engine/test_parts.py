"""What a model says besides its answer, as Markdown: the same while it comes and when it is whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.client import AnswerPart, PartStarted, PartText, Text
from answerback_desktop.engine.parts import Writer, written
from answerback_desktop.ui.markdown import answer_of
from answerback_desktop.ui.markdown.segments import SegmentKind
from answerback_desktop.ui.markdown.splitter import split

SEA = [
    AnswerPart("reasoning", None, "Where? </think> Look it up."),
    AnswerPart("tool", "search", '{"q": "sea"}'),
    AnswerPart("result", "search", "3 ``` 7"),
    AnswerPart("text", None, "The sea"),
    AnswerPart("status", None, "Nearly\ndone"),
    AnswerPart("citation", None, '{"title": "Sea [1]", "url": "https://sea.example/a"}'),
    AnswerPart("text", None, " is deep."),
    AnswerPart("citation", None, '{"title": "Sea [1]", "url": "https://sea.example/a"}'),
    AnswerPart("citation", None, '{"url": "javascript:alert(1)"}'),
    AnswerPart("citation", None, "no JSON"),
    AnswerPart("citation", None, "[" * 100_000),
]


def test_thoughts_and_calls_are_folded_and_sources_listed() -> None:
    text = written(SEA)
    folds = [segment for segment in split(text) if segment.kind is SegmentKind.FOLD]
    assert [segment.title for segment in folds] == ["think", "search", "search →", "Nearly done"]
    assert all(segment.is_closed for segment in folds)
    assert "Look it up." in folds[0].text
    assert answer_of(text) == "The sea\n\n is deep.\n\n- [Sea (1)](https://sea.example/a)\n- javascript:alert(1)"


@pytest.mark.parametrize(
    ("answer", "copied"),
    [
        ("<think>\nhm\n</think>\n\nIt is 4.", "It is 4."),
        ("<think>hm</think>It is <b>4</b>.", "It is <b>4</b>."),
        ("It is <think> that.", "It is <think> that."),
        ("```\n<think>\nx\n</think>\n```\nso", "```\n<think>\nx\n</think>\n```\nso"),
        ("a\n\n<details><summary>b</summary>\n\nc\n\n</details>\n\nd",) * 2,
        ("<think>\nit thinks still", ""),
        ("<details part><summary>it looks", ""),
        ("  code\n", "  code"),
    ],
)
def test_what_is_copied_is_the_answer_alone(answer: str, copied: str) -> None:
    assert answer_of(answer) == copied


def test_text_alone_is_as_it_came() -> None:
    assert written([AnswerPart("text", None, "a\n<think>")]) == "a\n<think>"


kinds = st.sampled_from(("text", "reasoning", "tool", "result", "status", "later"))
texts = st.text(min_size=1, max_size=9) | st.text("`</x\n", min_size=1, max_size=9)


@given(st.lists(st.tuples(kinds, st.sampled_from((None, "s", "<b>")), texts), max_size=9))
def test_what_was_shown_while_it_came_is_the_beginning_of_the_whole(said: list[tuple[str, str | None, str]]) -> None:
    parts: list[AnswerPart] = []
    for kind, name, text in said:
        if kind == "text" and parts and parts[-1].kind == "text":
            parts[-1] = AnswerPart("text", None, parts[-1].text + text)
        else:
            parts.append(AnswerPart(kind, None if kind == "text" else name, text))
    writer, shown = Writer(), ""
    for number, (kind, name, text) in enumerate(parts):
        if kind != "text":
            shown += writer.take(PartStarted(number, kind, name))
        for letter in text:
            piece = {"start": 0, "end": 1}
            if kind == "text":
                shown += writer.take(Text(offset=0, parts=[letter], **piece))
            else:
                shown += writer.take(PartText(part=number, kind=kind, name=name, pieces=[letter], **piece))
    assert writer.text == shown
    assert writer.length == len(shown)
    assert written(parts).startswith(shown)
