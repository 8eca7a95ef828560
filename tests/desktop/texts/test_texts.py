"""Every text in both languages, complete, and Korean without English left in it."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter

import pytest

import answerback_desktop
from answerback_desktop.engine.events import ConnectionReason, NoticeCode
from answerback_desktop.records import FailureCode
from answerback_desktop.settings import AuthMode, Field, Language, Settings, Theme
from answerback_desktop.signin.provider import SignInFailure
from answerback_desktop.texts import Texts, texts_of

ENGLISH = texts_of(Language.ENGLISH, system_locale="en-US")
KOREAN = texts_of(Language.KOREAN, system_locale="en-US")

NAMES = (
    "http://user:password@host:port|http://host:port|HTTPS_PROXY|Ollama|ollama.com|PDF|CA|VPN|PEM|pem|crt|cer|direct|"
    "Answerback|Apache License|Apache|Ctrl|GNU|ID|JSON|LGPL-3.0|LGPL|msgspec|MB|Markdown|markdown-it-py|mathra|PySide6|"
    "OpenID Connect|PNG|JPEG|Pygments|Qt|SmolLM2|"
    "anonymous|keyring|md|json|ms|pt|websockets|English|WebSocket|Shift|Enter|Esc|URL|HTML|AI|"
    r"https?://|`answerback token`|pip install '\.\[server,local-llm\]'|wss?://[a-z.:]*|"
    "USD|US|TCP|UDP|SQL|Python|HTTP"
)
"""What is written in Latin letters in Korean too: names, units, commands, addresses."""


SECTIONS = ("window", "status", "preferences", "chat")


def strings(texts: Texts) -> Iterator[tuple[str, str]]:
    for section in SECTIONS:
        yield from within(vars(getattr(texts, section)), section)


def within(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, text in value.items():
            yield from within(text, f"{name}[{key}]")
    elif isinstance(value, list):
        for number, text in enumerate(value):
            yield from within(text, f"{name}[{number}]")
    else:
        assert isinstance(value, str)
        yield name, value


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


EN, KO = dict(strings(ENGLISH)), dict(strings(KOREAN))


def test_both_languages_have_the_same_texts_and_none_is_empty():
    assert EN.keys() == KO.keys()
    assert [name for texts in (EN, KO) for name, text in texts.items() if not text.strip()] == []


@pytest.mark.parametrize("name", sorted(EN))
def test_a_text_has_the_same_places_to_fill_in(name: str):
    assert placeholders(EN[name]) == placeholders(KO[name])


def test_korean_has_no_english_left():
    left = {}
    for name, text in KO.items():
        bare = re.sub(r"\{[^}]*\}", "", text)
        bare = re.sub(NAMES, "", bare)
        if words := re.findall(r"[A-Za-z]{2,}", bare):
            left[name] = words
    assert left == {}


@pytest.mark.parametrize("texts", [ENGLISH, KOREAN], ids=["en", "ko"])
def test_every_code_has_its_sentence(texts: Texts):
    assert set(texts.status.reasons) == set(ConnectionReason)
    assert set(texts.status.notices) == set(NoticeCode)
    assert set(texts.status.sign_in_failures) == set(SignInFailure)
    assert set(texts.preferences.problems) == set(Field)
    assert set(texts.preferences.auth_modes) == set(texts.preferences.auth_hints) == set(AuthMode)
    assert set(texts.preferences.themes) == set(Theme)
    assert set(texts.preferences.languages) == set(Language)
    assert set(texts.chat.failures) == set(FailureCode)


def section_of(node: ast.AST, known: Mapping[str, str]) -> str:
    """The table of the catalogue that an expression is; empty: it is none."""
    if isinstance(node, ast.IfExp):
        return section_of(node.body, known)
    if isinstance(node, ast.Attribute) and node.attr in SECTIONS and "texts" in ast.unparse(node.value):
        return node.attr
    return known.get(ast.unparse(node), "")


def bound(tree: ast.AST, known: Mapping[str, str]) -> dict[str, str]:
    """What variables and arguments are tables of the catalogue."""
    found = dict(known)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            found[node.arg] = ast.unparse(node.annotation).removesuffix("Texts").lower()
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            are_many = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for one, its in zip(target.elts, value.elts, strict=True) if are_many else [(target, value)]:
                found[ast.unparse(one)] = section_of(its, found)
    return {name: section for name, section in found.items() if section in SECTIONS}


def texts_read() -> Iterator[tuple[str, str]]:
    """Every text that the code reads: its table and its name."""
    for path in Path(answerback_desktop.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shared = {name: section for name, section in bound(tree, {}).items() if name.startswith("self.")}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                known = bound(function, shared)
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and (section := section_of(node.value, known)):
                        yield section, node.attr


def test_every_text_that_is_read_is_there_and_no_other() -> None:
    read = set(texts_read())
    there = {(section, name) for section in SECTIONS for name in vars(getattr(ENGLISH, section))}
    assert read - there == set()
    by_name = {
        ("preferences", name + suffix)
        for name in Settings.__struct_fields__
        for suffix in ("", "_hint", "_placeholder")
    }
    by_name |= {
        ("status", name) for name in ("server", "detail", "user", "round_trip", "models", "rate", "outbox", "budget")
    }
    assert there - read - by_name == set()


def test_the_systems_language_is_taken_where_there_is_a_translation():
    def of(locale: str) -> Language:
        return texts_of(Language.SYSTEM, system_locale=locale).language

    assert [of(locale) for locale in ("ko-KR", "ko", "en-US", "de-DE", "C")] == [
        Language.KOREAN,
        Language.KOREAN,
        *[Language.ENGLISH] * 3,
    ]
    assert texts_of(Language.ENGLISH, system_locale="ko-KR").language is Language.ENGLISH
    assert texts_of(Language.SYSTEM, system_locale="en-AU").locale == "en-AU"
