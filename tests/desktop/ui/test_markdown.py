"""Splitting a growing answer: nothing lost, nothing changed behind, and the same however the text came."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answerback_desktop.ui.markdown import HARD_CHARACTERS, SOFT_CHARACTERS, Segment, SegmentKind, Splitter, split

PIECES = st.sampled_from(
    [
        *("```", "````", "~~~", "```python\n", "``` js title=x\n", "`a`", "\n", "\r\n", "\n\n", " ", "    ", "\t"),
        *(
            "- ",
            "1. ",
            "> ",
            "# ",
            "| a | b |",
            "|---|:-:|",
            "|",
            "---",
            "text",
            "한글",
            "🙂",
            "\\|",
            "x" * 500,
            ".",
            "\r",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=200)


def kinds(text: str) -> list[SegmentKind]:
    return [segment.kind for segment in split(text)]


def joined(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)


@given(TEXTS)
def test_the_segments_joined_are_the_text(text: str) -> None:
    segments = split(text)
    assert joined(segments) == text
    assert all(segment.text for segment in segments)


@given(TEXTS, st.data())
@settings(max_examples=300)
def test_any_way_of_growing_gives_the_same_segments(text: str, data: st.DataObject) -> None:
    splitter, at = Splitter(), 0
    while at < len(text):
        at += data.draw(st.integers(1, max(1, len(text) - at)))
        before = splitter.segments
        changed = splitter.update(text[:at])
        assert splitter.segments[:changed] == before[:changed], "what was said to stay has changed"
        assert splitter.segments == split(text[:at])


@given(TEXTS, TEXTS)
def test_a_text_that_restarts_forgets_the_old_one(old: str, new: str) -> None:
    splitter = Splitter()
    splitter.update(old)
    splitter.update(new)
    assert splitter.segments == split(new)


def test_prose_and_code() -> None:
    prose, code, rest = split("Appearance:\n```python\nprint(1)\n\n```\n\nDone.\n")
    assert (prose.text, rest.text) == ("Appearance:\n", "Done.\n")
    assert (code.kind, code.language, code.code, code.is_closed) == (SegmentKind.CODE, "python", "print(1)\n", True)


def test_code_that_still_streams() -> None:
    (code,) = split("```rust\nfn main() {")
    assert (code.language, code.code, code.is_closed) == ("rust", "fn main() {", False)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```\n~~~\n```", "~~~"),
        ("~~~\n```\n~~~", "```"),
        ("````md\n```\nx\n```\n````", "```\nx\n```"),
        ("```\r\na\r\nb\r\n```\r\n", "a\nb"),
        ("   ```\n   a\n     b\n   ```", "a\n  b"),
        ("```\n", ""),
        ("```", ""),
        ("```\n```", ""),
        ("```\n``` no\n```", "``` no"),
    ],
)
def test_what_is_between_the_fences(text: str, code: str) -> None:
    (segment,) = split(text)
    assert segment.kind is SegmentKind.CODE
    assert segment.code == code


@pytest.mark.parametrize("text", ["``` a ` b\n", "    ```\n    x\n", "``\n", "text ```\n", "> ```\n> x\n> ```\n"])
def test_what_is_no_fence(text: str) -> None:
    assert kinds(text) == [SegmentKind.PROSE]


def test_code_in_a_list_item_loses_the_items_indentation() -> None:
    before, code, after = split("1. First:\n\n    ```sh\n    ls\n      -l\n    ```\n\n    then\n2. Second\n")
    assert code.code == "ls\n  -l"
    assert before.text == "1. First:\n\n"
    assert after.markdown == "then\n2. Second\n"
    assert after.text == "    then\n2. Second\n"


def test_a_fence_on_the_line_of_the_item() -> None:
    code, rest = split("- ```\n  x\n  ```\n- y\n")
    assert (code.code, rest.text) == ("x", "- y\n")


def test_a_table_is_a_segment_of_its_own() -> None:
    text = "Results:\n| a | b |\n|---|--:|\n| 1 | 2 |\n\nSo.\n"
    assert kinds(text) == [SegmentKind.PROSE, SegmentKind.TABLE, SegmentKind.PROSE]
    assert split(text)[1].text == "| a | b |\n|---|--:|\n| 1 | 2 |\n\n"


@pytest.mark.parametrize("text", ["a | b\n- | -\n1 | 2", "|a\\|b|\n|-|\n|1|", "| a |\n|:-:|"])
def test_forms_of_tables(text: str) -> None:
    assert kinds(text) == [SegmentKind.TABLE]


@pytest.mark.parametrize("text", ["a | b\n", "| a | b |\n|---|\n", "- a | b\n---|---\n", "    a | b\n    -|-\n"])
def test_what_is_no_table(text: str) -> None:
    assert SegmentKind.TABLE not in kinds(text)


def test_long_prose_is_cut_between_paragraphs_only() -> None:
    paragraph = "word " * 100 + "\n\n"
    segments = split(paragraph * 40)
    assert len(segments) > 5
    assert all(segment.text.endswith("\n\n") for segment in segments)
    assert max(len(segment.text) for segment in segments) < SOFT_CHARACTERS + 2 * len(paragraph)


def test_a_long_list_is_not_torn_apart_before_it_must_be() -> None:
    assert len(split("- a point\n\n" * (SOFT_CHARACTERS // 10))) == 1


def test_a_line_without_end_is_cut_all_the_same() -> None:
    text = "x" * 1_000_000
    segments = split(text)
    assert joined(segments) == text
    assert max(len(segment.text) for segment in segments) <= 2 * HARD_CHARACTERS


def test_a_growing_answer_is_not_read_again_from_its_start() -> None:
    splitter = Splitter()
    text = "A paragraph.\n\n" * 2_000
    splitter.update(text)
    last = len(splitter.segments) - 1
    assert splitter.update(text + "more") >= last
