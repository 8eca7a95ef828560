"""The theme that the settings ask for."""

from typing import Final

from PySide6.QtWidgets import QApplication

from answerback_desktop.settings import Settings
from answerback_desktop.settings import Theme as ThemeChoice
from answerback_desktop.ui.theme import MAX_BODY_PX, MIN_BODY_PX, Theme, system_scheme
from answerback_desktop.ui.theme.tokens import Scheme

__all__ = ["theme_of"]

_PX_PER_PT: Final = 96 / 72
"""Logical pixels: Qt scales them for the screen."""


def theme_of(settings: Settings, application: QApplication) -> Theme:
    """Scheme and size."""
    match settings.theme:
        case ThemeChoice.LIGHT:
            scheme = Scheme.LIGHT
        case ThemeChoice.DARK:
            scheme = Scheme.DARK
        case _:
            scheme = system_scheme(application)
    return Theme(scheme=scheme, body_px=min(MAX_BODY_PX, max(MIN_BODY_PX, round(settings.font_size * _PX_PER_PT))))
