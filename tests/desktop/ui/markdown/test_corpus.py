"""Answers as models write them: each is shown right at its end, and at every letter on the way there."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from answerback_desktop.ui.markdown import (
    Segment,
    SegmentKind,
    Span,
    Splitter,
    html_of,
    references_of,
    split,
    visible_code,
)

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("corpus.json").read_text("utf-8"))["cases"]
SIGNS = ("**", "```", "`", "~~", "](", "|", "$$", "\\(", "\\[", "<br", "<think", "[!", "#", "*", "===")
LONGEST_FLASH = 9
"""A table without outer pipes cannot be known before its second line is whole."""


def spans_in(segments: Iterable[Segment]) -> Iterable[Span]:
    for segment in segments:
        for part in segment.parts:
            yield from part.spans
        for row in segment.rows:
            for cell in row:
                yield from cell


def seen(segments: Iterable[Segment]) -> str:
    """What a person reads; math is looked at by itself."""
    lines = []
    for segment in segments:
        if segment.kind is SegmentKind.CODE:
            lines.append(visible_code(segment.text))
        for part in segment.parts:
            letters = "".join(span.text for span in part.spans if "math" not in span.styles)
            lines.append(f"{part.marker} {letters}")
        for row in segment.rows:
            lines += ["".join(span.text for span in cell if "math" not in span.styles) for cell in row]
    return "\n".join(lines)


def boxes(segments: Iterable[Segment]) -> list[list[object]]:
    found: list[list[object]] = []
    for segment in segments:
        if segment.kind is SegmentKind.PROSE:
            found += [
                ["prose", part.path.count("l"), len(part.path) - part.path.count("l"), part.marker]
                for part in segment.parts
            ]
        else:
            lists = segment.path.count("l")
            found.append([segment.kind.value, lists, len(segment.path) - lists, ""])
    return found


def read(text: str, *, is_over: bool = True) -> tuple[Segment, ...]:
    splitter = Splitter()
    splitter.update(text, is_over=is_over, references=references_of(text))
    return splitter.segments


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_end(case: dict[str, Any]) -> None:
    segments = read(case["markdown"], is_over=not case.get("streaming"))
    text, spans = seen(segments), list(spans_in(segments))
    assert [shown for shown in case["shows"] if shown not in text] == []
    assert [sign for sign in case["hides"] if sign in text] == []
    if "boxes" in case:
        assert boxes(segments) == case["boxes"]
    if "math" in case:
        assert [span.text for span in spans if "math" in span.styles] == case["math"]
    if "links" in case:
        links = [span.href for span in spans if span.href.startswith(("http", "mailto"))]
        assert list(dict.fromkeys(links)) == case["links"]
    if "warns" in case:
        assert [span.text for span in spans if "warning" in span.styles] == [f" ({case['warns']})"]
    if case.get("bold"):
        assert any("bold" in span.styles for span in spans)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_letter_on_the_way(case: dict[str, Any]) -> None:
    markdown, is_over = case["markdown"], not case.get("streaming")
    end = read(markdown, is_over=is_over)
    final, splitter, flash, longest = seen(end), Splitter(), 0, 0
    for length in range(1, len(markdown) + 1):
        text = markdown[:length]
        splitter.update(text, is_over=False, references=references_of(text))
        now = seen(splitter.segments)
        flash = flash + 1 if any(now.count(sign) > final.count(sign) for sign in SIGNS) else 0
        longest = max(longest, flash)
    assert longest <= (LONGEST_FLASH if case["id"] == "table-no-outer-pipes" else 0)
    splitter.update(markdown, is_over=is_over, references=references_of(markdown))
    assert splitter.segments == end


MORE = {
    "price in Korean": ("5$와 10$ 사이", "5$와 10$ 사이"),
    "two prices and words": ("It costs $5, or some 10$ more", "It costs $5, or some 10$ more"),
    "a price at the end": ("between $5 and 6$ now", "between $5 and 6$ now"),
    "bold prices": ("**$5** or **$6x**", "$5 or $6x"),
    "variables": (
        "$HOME/bin:$PATH, ${a}${b}, $a+$b, $('x').html($y)",
        "$HOME/bin:$PATH, ${a}${b}, $a+$b, $('x').html($y)",
    ),
    "bold underscores beside Hangul": ("이것은__꼭(1)__이고 파일_이름_수정", "이것은꼭(1)이고 파일_이름_수정"),
    "only the end of thoughts": ("So it is.\n</think>\n\nFour.", "So it is.\n Four."),
    "generics": ("Vec<u8> and Box<b> and Map<I, S>", "Vec<u8> and Box<b> and Map<I, S>"),
    "bold beside kana": ("これは**「重要\uff01」**だ", "これは「重要\uff01」だ"),
    "bold with a particle and a stop": ("**결과.**입니다", "결과.입니다"),
    "italic beside Hangul": ("*강조(1)*와 **둘**", "강조(1)와 둘"),
    "a particle after a link": ("https://example.kr/a에서 보세요", "https://example.kr/a에서 보세요"),
    "a comment": ("a <!-- hidden --> b", "a  b"),
    "bidi in a link's text": ("[ab\u202ecd](https://example.com)", "abcd"),
    "bidi as an entity": ("x&#x202E;y", "xy"),
    "isolates": ("a\u2066b\u2069c", "abc"),
    "a lone bracket": ("see [1] and [x", "see [1] and [x"),
    "nul": ("a\x00b", "a\ufffdb"),
    "math without its end": (r"Broken: \(\frac{1}{", r"Broken: \(\frac{1}{"),
    "long math without its end": (r"Cut \[ a_1 * b * c_2 \,d", r"Cut \[ a_1 * b * c_2 \,d"),
    "brackets that are escaped": (r"\(some words", "(some words"),
}


@pytest.mark.parametrize(("markdown", "text"), MORE.values(), ids=MORE.keys())
def test_more_of_their_kinds(markdown: str, text: str) -> None:
    assert seen(split(markdown)).strip() == text


@pytest.mark.parametrize(
    ("markdown", "target"),
    [
        ("(see https://e.com/a?x=1).", "https://e.com/a?x=1"),
        ("**https://e.com/b**", "https://e.com/b"),
        ("「https://e.com/c」", "https://e.com/c"),
        ("https://ko.wikipedia.org/wiki/한글", "https://ko.wikipedia.org/wiki/한글"),
        ("https://example.kr에서", "https://example.kr"),
        ("www.example.com/x!", "https://www.example.com/x"),
        ("'https://e.com/d'", "https://e.com/d"),
        ("http://localhost:8765/ui, then", "http://localhost:8765/ui"),
    ],
)
def test_bare_links_end_where_they_end(markdown: str, target: str) -> None:
    assert [span.href for span in spans_in(split(markdown)) if span.href] == [target]


@pytest.mark.parametrize(
    ("markdown", "host"),
    [
        ("[bank.example.com](https://evil.example)", "evil.example"),
        ("[https://www.google.com](https://www.google.com@evil.example/login)", "evil.example"),
        ("[docs](https://docs.example.org)", ""),
        ("[example.org](https://docs.example.org/x)", ""),
        ("[os.path](https://docs.python.org)", ""),
        ("[`https://a.example/x`](https://b.example/x)", "b.example"),
    ],
)
def test_a_link_that_names_another_host_says_where_it_leads(markdown: str, host: str) -> None:
    assert [span.text for span in spans_in(split(markdown)) if "warning" in span.styles] == (
        [f" ({host})"] if host else []
    )


@pytest.mark.parametrize(
    ("markdown", "container", "title"),
    [
        ("> [!info] **제목**입니다\n> 본문", "N", "제목입니다"),
        ("> [!danger]-\n> 본문", "C", "C"),
        ("> [!TIP]\n> 본문", "T", "T"),
        ("- [ ] x\n  > [!bug] Seen\n  > 본문", "lC", "Seen"),
    ],
)
def test_callouts_of_other_programs(markdown: str, container: str, title: str) -> None:
    *_, head, body = [part for segment in split(markdown) for part in segment.parts]
    assert (head.path, body.path) == (container, container)
    assert [span.text for span in head.spans] == [title]
    assert [span.text for span in body.spans] == ["본문"]


@pytest.mark.parametrize("markdown", ["> plain [!x]", "> a\n> [!tip]", "[!info] no quote", "> - [!tip] x"])
def test_what_is_no_callout(markdown: str) -> None:
    assert all("alert" not in span.styles for span in spans_in(split(markdown)))


def test_an_address_of_mail_is_a_link() -> None:
    found = [span for span in spans_in(split("Ask mina@example.com. or a@b, x@y.kr에")) if span.href]
    assert [(span.text, span.href) for span in found] == [
        ("mina@example.com", "mailto:mina@example.com"),
        ("x@y.kr", "mailto:x@y.kr"),
    ]


def test_signs_that_turn_text_are_nowhere() -> None:
    markdown = "![a\u202eb](x) [^\u202e1]\n\n[^\u202e2]: note\n\n```p\u202ey\nx\n```\n\n"
    markdown += "<details><summary>S\u202e</summary>x</details>"
    assert "\u202e" not in "".join(f"{seen([one])}{one.title}" for one in split(markdown))


def test_rich_text_is_what_is_read() -> None:
    assert html_of("5 &lt; 6 \\*no\\* **강조(1)**는 $x^2$<br>H<sub>2</sub>O[^1] ~~old~~\n\n- [x] done") == (
        "<p>5 &lt; 6 *no* <strong>강조(1)</strong>는 <code>x^2</code><br>H<sub>2</sub>O<sup>1</sup> <s>old</s></p>\n"
        '<ul class="contains-task-list">\n<li class="task-list-item">'
        '<input class="task-list-item-checkbox" disabled="" type="checkbox" checked=""> done</li>\n</ul>\n'
    )


def test_a_definition_after_its_link_counts() -> None:
    assert [span.href for span in spans_in(split("See [it][x].\n\nMore.\n\n[x]: https://example.com"))] == [
        *("", "https://example.com", "", "")
    ]


def test_code_in_a_list_loses_the_items_indentation_only() -> None:
    before, code, after = split("1. First:\n\n    ```sh\n    ls\n      -l\n    ```\n\n    then\n2. Second\n")
    assert (code.text, code.title, code.path) == ("ls\n  -l", "sh", "l")
    assert [part.marker for part in (*before.parts, *after.parts)] == ["1.", "", "2."]
    assert [part.path for part in after.parts] == ["l", "l"]


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
    assert segment.text == code


@pytest.mark.parametrize("text", ["a | b\n-- | --\n1 | 2", "|a\\|b|\n|-|\n|1|", "| a |\n|:-:|"])
def test_forms_of_tables(text: str) -> None:
    (segment,) = split(text)
    assert segment.kind is SegmentKind.TABLE


@pytest.mark.parametrize("text", ["a | b\n", "| a | b |\n|---|\n", "    a | b\n    -|-\n"])
def test_what_is_no_table(text: str) -> None:
    assert SegmentKind.TABLE not in [segment.kind for segment in split(text)]
