"""All texts of the app, a frozen record for each language, so that mypy finds a missing one."""

from dataclasses import dataclass

from answerback_desktop.settings import Language
from answerback_desktop.texts.chat import CHAT_EN, CHAT_KO, ChatTexts
from answerback_desktop.texts.preferences import PREFERENCES_EN, PREFERENCES_KO, PreferencesTexts
from answerback_desktop.texts.status import STATUS_EN, STATUS_KO, StatusTexts
from answerback_desktop.texts.window import WINDOW_EN, WINDOW_KO, WindowTexts

__all__ = ["ChatTexts", "PreferencesTexts", "StatusTexts", "Texts", "WindowTexts", "texts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The words of one language. `locale`: its name for dates and numbers (BCP 47)."""

    language: Language
    locale: str
    window: WindowTexts
    status: StatusTexts
    preferences: PreferencesTexts
    chat: ChatTexts


def texts_of(language: Language, *, system_locale: str) -> Texts:
    """The words of a language; `system` means that of `system_locale`, English if there is no such translation."""
    is_korean = system_locale.lower().startswith("ko") if language is Language.SYSTEM else language is Language.KOREAN
    if is_korean:
        return Texts(
            language=Language.KOREAN,
            locale="ko-KR",
            window=WINDOW_KO,
            status=STATUS_KO,
            preferences=PREFERENCES_KO,
            chat=CHAT_KO,
        )
    # A system of another language keeps its own way to write dates only if it writes them in English.
    is_english = system_locale.lower().startswith("en")
    return Texts(
        language=Language.ENGLISH,
        locale=system_locale if is_english else "en-GB",
        window=WINDOW_EN,
        status=STATUS_EN,
        preferences=PREFERENCES_EN,
        chat=CHAT_EN,
    )
