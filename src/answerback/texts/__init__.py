"""What people read, in their language. English sentences stand in the code; `ko.toml` has the same in Korean.

A sentence is looked up where it is shown, by its own text. So logs, JSON and `--help` stay English by themselves.
"""

import locale
import os
import re
import sys
import tomllib
from collections.abc import Mapping
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
