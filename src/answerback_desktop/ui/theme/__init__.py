"""The appearance: tokens, theme, style sheet and icons."""

from answerback_desktop.ui.theme.theme import (
    BODY_PX,
    MAX_BODY_PX,
    MIN_BODY_PX,
    Icon,
    Theme,
    apply,
    icon,
    pixmap,
    system_scheme,
)
from answerback_desktop.ui.theme.tokens import Colours, Scheme, contrast

__all__ = [
    "BODY_PX",
    "MAX_BODY_PX",
    "MIN_BODY_PX",
    "Colours",
    "Icon",
    "Scheme",
    "Theme",
    "apply",
    "contrast",
    "icon",
    "pixmap",
    "system_scheme",
]
