"""What people read, in their language. English sentences stand in the code; `ko.toml` has the same in Korean.

A sentence is looked up where it is shown, by its own text. So logs, JSON and `--help` stay English by themselves.
"""

import locale
import os
import re
import sys
import tomllib
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any, Final

_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Of POSIX, strongest first."""
_FRAMES: Final = re.compile(r"(answerback: (?:warning: )?)(.*)()|(\()(.*)(\))|()(.*)()", re.DOTALL)

STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All controls but tab and new line, and the marks that turn the direction of text: a server may not steer a terminal,
and nobody what the operator reads in the log."""


def escaped(text: str) -> str:
    """The text with the escapes of JSON for what steers a terminal."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def words_of(language: str, *, package: str = __name__) -> dict[str, Any]:
    """What a package's file of a language (`en`, `ko`) holds."""
    return tomllib.loads(files(package).joinpath(f"{language}.toml").read_text(encoding="utf-8"))


def locale_name(environment: Mapping[str, str] = os.environ) -> str:
    """The locale of messages, such as `ko_KR.UTF-8`; `C` if nobody says."""
    named = next(filter(None, map(environment.get, _VARIABLES)), None)
    if named is None and sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - only Windows is asked so

        return locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "C")
    return named or "C"


def speaks_korean() -> bool:
    """Whether the person at the terminal reads Korean, and the terminal can show it."""
    return locale_name().lower().startswith("ko") and shows_hangul()


def shows_hangul() -> bool:
    """Whether what is written to stderr can be Korean."""
    try:
        "가".encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def spoken(text: str, *, to_korean: bool = False) -> str:
    """The sentence in the language of the locale, as far as the catalogue has it; `to_korean`: to who reads Korean.

    A message and its hint, joined by a dash, are looked up one by one; the command's name and brackets around stay.
    """
    if not (shows_hangul() if to_korean else speaks_korean()):
        return text
    from answerback.texts.korean import translated  # noqa: PLC0415 - hundreds of patterns for those who need them

    found = _FRAMES.fullmatch(text)
    assert found is not None
    before, body, after = (part for part in found.groups() if part is not None)
    if before == "(" and (whole := translated(text)) is not None:
        return whole
    return before + " — ".join(translated(part) or part for part in body.split(" — ")) + after


_LETTERS: Final = (
    (re.compile("[가-힣ㄱ-ㅣ]"), ("ko",)),
    (re.compile("[ぁ-ヿ]"), ("ja",)),
    (re.compile("[一-鿿]"), ("zh", "ja")),
    (re.compile("[Ѐ-ӿ]"), ("ru", "uk", "bg", "sr", "be", "mk", "kk", "mn")),
    (re.compile("[\u0590-\u05ff]"), ("he", "yi")),
    (re.compile("[\u0600-\u06ff]"), ("ar", "fa", "ur", "ps")),
    (re.compile("[\u0900-\u097f]"), ("hi", "mr", "ne")),
    (re.compile("[\u0e00-\u0e7f]"), ("th",)),
    (re.compile("[\u0370-\u03ff]"), ("el",)),
)
"""Letters, and the languages written in them."""
NAMES: Final = {"en": "English", "ko": "Korean", "ja": "Japanese", "zh": "Chinese"}


def unknown_language(text: str, known: Collection[str]) -> str | None:
    """The language of letters in the text that none of the known ones is written in; None: all may be understood.

    `known`: BCP 47 tags; none: nobody has said what is known.
    """
    tags = {tag.partition("-")[0].lower() for tag in known}
    if not tags:
        return None
    return next((langs[0] for letters, langs in _LETTERS if not tags & {*langs} and letters.search(text)), None)


def language_is_known(language: str, known: Collection[str]) -> bool:
    """Whether a model that knows these may be asked in a language; one that says nothing may know all."""
    return not known or language in {tag.partition("-")[0].lower() for tag in known}


def names_of(tags: Collection[str]) -> str:
    """The languages by their English names."""
    return ", ".join(NAMES.get(tag.partition("-")[0].lower(), tag) for tag in tags)
