"""All words of the app: those of each language are in a file beside this one, which also names them.

A text that the code reads and the catalogue lacks, and one that nothing reads, is found by tests/desktop/texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from answerback.texts import words_of
from answerback_desktop.attachments import Refusal
from answerback_desktop.engine.events import ConnectionReason, NoticeCode
from answerback_desktop.records import FailureCode
from answerback_desktop.settings import AuthMode, Field, Language, Theme
from answerback_desktop.signin.provider import SignInFailure


class _Words:
    """A table of the catalogue. Its texts are attributes; those that are no single text are declared."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        vars(self).update(words)

    def __getattr__(self, name: str) -> str:
        raise AttributeError(f"the catalogue has no text {name!r}", name=name, obj=self)


class WindowTexts(_Words):
    """Sidebar, header, tray, menus and the dialogs over the window. `…_name` are read by screen readers."""

    shortcut_groups: Mapping[str, str]
    shortcuts: Mapping[str, str]


class StatusTexts(_Words):
    """`{names}` are filled in with `str.format`; those of `notices` are the facts of the notice."""

    reasons: Mapping[ConnectionReason, str]
    notices: Mapping[NoticeCode, str]
    sign_in_failures: Mapping[SignInFailure, str]


class PreferencesTexts(_Words):
    """`…_hint` stands below a field. `problems` stand beside a field that cannot be used as it is."""

    auth_modes: Mapping[AuthMode, str]
    auth_hints: Mapping[AuthMode, str]
    themes: Mapping[Theme, str]
    languages: Mapping[Language, str]
    problems: Mapping[Field, str]


class ChatTexts(_Words):
    """What is shown in the chat, or read out by a screen reader (`…_name`)."""

    refusals: Mapping[Refusal, str]
    examples: Sequence[str]
    language_names: Mapping[str, str]
    alerts: Mapping[str, str]
    failures: Mapping[FailureCode, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The words of one language. `locale`: its name for dates and numbers (BCP 47)."""

    language: Language
    locale: str
    window: WindowTexts = field(compare=False)
    status: StatusTexts = field(compare=False)
    preferences: PreferencesTexts = field(compare=False)
    chat: ChatTexts = field(compare=False)


@cache
def texts_of(language: Language, *, system_locale: str) -> Texts:
    """The words of a language; `system` means that of `system_locale`, English if there is no such translation."""
    is_korean = system_locale.lower().startswith("ko") if language is Language.SYSTEM else language is Language.KOREAN
    chosen = Language.KOREAN if is_korean else Language.ENGLISH
    # A system of another language keeps its own way to write dates only if it writes them in English.
    is_english = system_locale.lower().startswith("en")
    words = words_of(chosen, package=__name__)
    return Texts(
        language=chosen,
        locale="ko-KR" if is_korean else system_locale if is_english else "en-GB",
        window=WindowTexts(words["window"]),
        status=StatusTexts(words["status"]),
        preferences=PreferencesTexts(words["preferences"]),
        chat=ChatTexts({**words["chat"], "failures": words_of(chosen)["failures"]}),
    )
