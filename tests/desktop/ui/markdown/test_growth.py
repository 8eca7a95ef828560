"""A growing answer: the same however it came, nothing changed behind, and never long to read."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from answerback_desktop.ui.markdown import Part, Segment, Splitter, chunks, references_of, split
from answerback_desktop.ui.markdown.splitter import CHUNK_CHARACTERS, HARD_CHARACTERS, SOFT_CHARACTERS

LINES = [
    *("", "", "", "text here", "**bold(x)**는", "- item", "- other", "  more of it", "   three", "    four"),
    *("  - nested", "    - deep", "1. one", "2. two", "1) par", "* star", "+ plus", "   1. nested number"),
    *("```py", "```", "  ```", "   ```sh", "   ```", "~~~", "# head", "  ## head in", "> quote", "> - q item", ">"),
    *("| a | b |", "|---|---|", "| 1 | 2 |", "a | b", "-|-", "---", "===", "***", "$$", "x^2", "\\[ y \\]", "$$z$$"),
    *(
        "[r]: https://example.com",
        "see [r]",
        "    code?",
        "\tcode tab",
        "\ttab\r",
        "- ",
        "1.",
        "-",
        "10. ten",
        "word\\",
    ),
    *("end  ", "- [ ] task", "- ```py", "  x = 1", "> ```", "> code", "<think>", "</think>", "<think>a</think>b"),
    *(
        "[^1]: note",
        "x[^1]",
        "> [!TIP]",
        "> [!bug] Seen",
        "> - [!tip]",
        "a@b.example",
        "<details><summary>S</summary>",
        "</details>",
        "\u202ex",
        "🙂",
        "\x00",
    ),
]
TEXTS = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join) | st.text(max_size=120)


def grown(text: str, steps: list[int]) -> Splitter:
    splitter, at = Splitter(), 0
    for step in steps:
        at = min(len(text), at + step)
        splitter.update(text[:at], is_over=False, references=references_of(text[:at]))
    splitter.update(text, is_over=True, references=references_of(text))
    return splitter


@given(TEXTS, st.lists(st.integers(1, 30), max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_way_of_growing_gives_the_same_segments(text: str, steps: list[int]) -> None:
    assert grown(text, steps).segments == split(text)


@given(TEXTS, TEXTS)
@example("text", "text\n")
@settings(deadline=None)
@example("-", "-|-")  # a text that was over and goes on
def test_a_text_that_restarts_forgets_the_old_one(old: str, new: str) -> None:
    splitter = grown(old, [5, 7])
    splitter.update(new, is_over=True, references=references_of(new))
    assert splitter.segments == split(new)


def leaves(segments: tuple[Segment, ...]) -> list[Part | Segment]:
    return [leaf for segment in segments for leaf in (segment.parts or (segment,))]


WHOLE = [
    *("A paragraph of **prose** with `code`.", "1. one\n\n   ```sh\n   ls\n\n   # no head\n   ```\n\n   more\n2. two"),
    *("```py\ndef a():\n\n    return 1\n\nb = a()\n```", "> quote\n>\n> > more", "| a | b |\n|---|---|\n| 1 | 2 |"),
    *(
        "<think>\nso\n\nit is\n</think>",
        "# Head\nText",
        "$$\nx\n$$",
        "- a\n\n- b\n\n  c",
        "See [r].",
        "> ```\n> x\n> ```",
    ),
    *("<details>\n<summary>S</summary>\n\nx\n\n</details>", "~~~\n```\n\nText\n~~~", "강조는 **이것(1)**입니다."),
]


@given(st.lists(st.sampled_from(WHOLE), min_size=3, max_size=12), st.integers(10, 60))
@settings(deadline=None)
def test_a_long_answer_read_in_stretches_is_the_same(blocks: list[str], size: int) -> None:
    text = "\n\n".join([*blocks, "[r]: https://example.com"]) + "\n"
    references = references_of(text)
    found: list[Part | Segment] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("answerback_desktop.ui.markdown.splitter.CHUNK_CHARACTERS", size)
        stretches = list(chunks(text))
    for start, end in stretches:
        splitter = Splitter(start=start)
        splitter.update(text[start:end], is_over=True, references=references)
        found += leaves(splitter.segments)
    assert "".join(text[start:end] for start, end in stretches) == text
    assert found == leaves(split(text))


def test_what_is_finished_is_not_touched_again() -> None:
    splitter, text = Splitter(), "A paragraph.\n\n" * 2_000
    splitter.update(text, is_over=False)
    before = splitter.segments
    splitter.update(text + "more", is_over=False)
    assert all(new is old for new, old in zip(splitter.segments, before[:-1], strict=False))
    assert len(splitter.segments) >= len(before)


def test_long_prose_is_cut_between_paragraphs_only() -> None:
    paragraph = "word " * 100 + "\n\n"
    segments = split(paragraph * 40)
    assert len(segments) > 5
    assert {part.end - part.start for segment in segments for part in segment.parts} == {len(paragraph) - 1}
    assert max(segment.end - segment.start for segment in segments) < SOFT_CHARACTERS + 2 * len(paragraph)


def test_a_line_without_end_is_cut_all_the_same() -> None:
    text = "x" * 200_000
    segments = split(text)
    assert "".join(span.text for segment in segments for part in segment.parts for span in part.spans) == text
    assert max(segment.end - segment.start for segment in segments) <= 2 * HARD_CHARACTERS


CODE = "x = compute(value, other)  # note\n"
WORST = {
    "code in an item": "- step\n  ```py\n" + ("  " + CODE) * 1_700,
    "code": "```py\n" + CODE * 1_700,
    "rows": "| a | b | c |\n|---|---|---|\n" + "| one cell | two **bold** | `three` |\n" * 300,
    "a line": "word **bold** `code` " * 1_000,
    "a quote": "> some quoted **text** here\n" * 700,
    "a nested list": "- a\n" + "  - nested item with **bold** text\n" * 500,
    "brackets": "[" * 5_000,
    "stars": "*a " * 2_000,
    "bold stars": "**a" * 2_000,
    "ticks": "".join("`" * (1 + n % 40) + "a" for n in range(1_000)),
    "dollars": "$a " * 3_000,
    "angles": "<a " * 3_000,
    "tags": "<b>" * 2_000,
    "half links": "[a](" * 1_500,
    "half images": "![a" * 1_500,
    "quotes": ">" * 5_000,
    "math": "$$ " + "x+" * 4_000,
    "thoughts": "<think>\n" + "reason about it. " * 3_600,
    "backslashes": "\\(" * 3_000,
    "pipes": "|" * 5_000,
    "columns": "|" * 4_000 + "\n" + "|-" * 4_000,
    "steps": "\n".join("  " * n + "- x" for n in range(200)),
    "folds": "<details>\n" * 1_000,
    "addresses": "https://e.com/" + "a)" * 4_000,
    "Hangul": "**강조(괄호)**는 " * 1_000,
}
LIMIT_S = 3.0
"""CPU for all of it. Each takes a twentieth of that; what grows as the square of its length takes minutes."""


@pytest.mark.parametrize("text", WORST.values(), ids=WORST.keys())
def test_no_text_takes_long(text: str) -> None:
    splitter, begun = Splitter(), time.process_time()
    splitter.update(text[:-40], is_over=False)
    splitter.update(text[:-20], is_over=False)
    splitter.update(text, is_over=True)
    list(chunks(text))
    assert time.process_time() - begun < LIMIT_S


def test_a_long_answer_has_stretches_of_a_size() -> None:
    sizes = [end - start for start, end in chunks("A paragraph of text.\n\n" * 2_000)]
    assert all(CHUNK_CHARACTERS <= size < CHUNK_CHARACTERS + 100 for size in sizes[:-1])
