"""Highlighting: the right colours on the right characters, also while the code grows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from answerback_desktop.ui.chat.code import MAX_CHARACTERS, Highlighter, Span, language_name
from answerback_desktop.ui.theme import CODE_COLOURS

PYTHON = '''import os

def greet(name: str) -> str:
    """Say
    hello."""
    return "hi" + name  # 1
'''


def lines_of(code: str, language: str = "python") -> list[tuple[Span, ...]]:
    highlighter = Highlighter(language)
    highlighter.update(code, is_whole=True)
    return highlighter.lines


def test_keywords_strings_and_comments() -> None:
    lines = lines_of(PYTHON)
    assert lines[0][0] == Span(0, 6, "keyword")
    assert Span(4, 5, "function") in lines[2]
    assert lines[3] == (Span(4, 6, "string"),)
    assert lines[4] == (Span(0, 13, "string"),), "a string goes on over lines"
    assert lines[5][-1] == Span(24, 3, "comment")


@settings(max_examples=30)
@given(st.sampled_from([PYTHON, PYTHON * 20, '{"a": [1, null]}\n']), st.data())
def test_growing_code_ends_as_if_it_had_come_at_once(code: str, data: st.DataObject) -> None:
    highlighter, at = Highlighter("python"), 0
    while at < len(code):
        at += data.draw(st.integers(60, 900))
        highlighter.update(code[:at], is_whole=False)
        assert len(highlighter.lines) == code[:at].count("\n") + 1
    highlighter.update(code, is_whole=True)
    assert highlighter.lines == lines_of(code)


def test_long_growing_code_is_not_read_again_from_its_start() -> None:
    highlighter = Highlighter("python")
    highlighter.update(PYTHON * 100, is_whole=False)
    assert highlighter.update(PYTHON * 100 + "x", is_whole=False) > 500


def test_unknown_languages_and_huge_code_stay_plain() -> None:
    assert lines_of("x = 1", "no-such-language") == []
    assert lines_of("x = 1\n" * MAX_CHARACTERS) == []


def test_every_colour_is_a_token_of_the_theme() -> None:
    source = "\n".join([PYTHON, "@d\nclass A(int): pass\nx = 1 and print"])
    assert {span.colour for line in lines_of(source) for span in line} <= set(CODE_COLOURS)


def test_names_for_people() -> None:
    assert language_name("py") == "Python"
    assert language_name("c++") == "C++"
    assert language_name("mylang") == "mylang"
    assert language_name("") == ""
    assert language_name("text") == "text"
