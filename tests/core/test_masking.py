"""What of a conversation may stand in the log: nothing."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.masking import MAX_LENGTH, masked, masked_error

SAID = ("Be kind to Sesam42.", 'my password is "hunter2", 내 비밀번호는 열려라참깨야')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HTTP 422: bad input: my password is hunter2", "HTTP 422: bad input: my … is …"),
        ("cannot read 'HUNTER2'", "cannot read '…'"),
        ("cut off: my passw", "cut off: my …"),
        (json.dumps({"input": SAID[1]}), '{"input": "my … is  … , … … …"}'),
        (json.dumps(json.dumps("비밀번호 hunter2")), '" … … "'),
        ("a line\\nhunter2", "a line …"),
        (repr(SAID[1].encode()), """b'my … is "…", … … …'"""),
        (quote(SAID[1]), 'my … is "…", … … …'),
        ("&quot;&#104;unter2&quot;", '"…"'),
        (f"bad image data:image/png;base64,{'iVBORw0KGgo' * 9}==", "bad image data:image/png;base64,…"),
        ("the 비밀번호는 and 참깨", "the … and …"),
        ("max_tokens is too large", "max_tokens is too large"),
        ("", ""),
    ],
)
def test_words_of_the_conversation_are_masked(text: str, shown: str) -> None:
    got = masked(text, SAID)
    assert got == shown
    assert "hunter" not in got
    assert "비밀" not in got


@given(st.text(min_size=4), st.text(), st.text())
def test_no_word_is_left(word: str, before: str, after: str) -> None:
    shown = masked(f"{before} {word} {after}", [word])
    if len(word) > 4 and word.isalnum() and not word.isascii() and len(before) < MAX_LENGTH // 2:
        assert word not in shown.split()


def test_texts_are_shortened() -> None:
    assert len(masked("word " * 10_000, ())) == MAX_LENGTH


def test_a_traceback_keeps_its_types_and_loses_its_texts() -> None:
    def fail() -> None:
        try:
            raise KeyError(SAID[1])
        except KeyError as exc:
            raise ValueError(f"no {SAID[1]}") from exc

    with pytest.raises(ValueError, match="no") as caught:
        fail()
    copy = masked_error(caught.value, SAID)
    assert type(copy).__name__ == "ValueError"
    assert type(copy.__cause__).__name__ == "KeyError"
    assert copy.__traceback__ is caught.value.__traceback__
    assert "hunter2" not in f"{copy} {copy.__cause__}"


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_as_many_causes_are_shown_as_are_asked_for(link: str) -> None:
    first = error = ValueError("0")
    for number in range(1, 30):
        setattr(error, link, ValueError(str(number)))
        error = getattr(error, link)
    shown, copy = 0, masked_error(first, (), depth=7)
    while (copy := getattr(copy, link)) is not None:
        shown += 1
    assert shown == 7


def test_an_exception_whose_text_cannot_be_made() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "cannot be made" in str(masked_error(Odd(), SAID))
