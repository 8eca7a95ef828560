"""Every text in both languages, complete, and Korean without English left in it."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from string import Formatter

import pytest

from answerback_desktop.engine.events import ConnectionReason, NoticeCode
from answerback_desktop.records import FailureCode
from answerback_desktop.settings import AuthMode, Field, Language, Theme
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


def strings(texts: object, where: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(texts):
        yield from within(getattr(texts, field.name), f"{where}{field.name}")


def within(value: object, name: str) -> Iterator[tuple[str, str]]:
    if dataclasses.is_dataclass(value):
        yield from strings(value, f"{name}.")
    elif isinstance(value, Mapping):
        for key, text in value.items():
            yield from within(text, f"{name}[{key}]")
    elif isinstance(value, tuple):
        for number, text in enumerate(value):
            yield from within(text, f"{name}[{number}]")
    elif isinstance(value, str) and name not in {"language", "locale"}:
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
