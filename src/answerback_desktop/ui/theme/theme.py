"""One appearance at one font size, and how it is put on the application."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Template
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QPalette
from PySide6.QtWidgets import QApplication

from answerback_desktop.settings import Settings
from answerback_desktop.settings import Theme as ThemeChoice
from answerback_desktop.ui.theme.tokens import DARK, LIGHT, MONO_FAMILIES, TEXT_FAMILIES, Colours, Scheme

BODY_PX: Final = 15
MIN_BODY_PX: Final = 10
MAX_BODY_PX: Final = 44


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A scheme and a body size in logical pixels. Everything else follows from the two.

    Sizes are logical pixels; Qt multiplies them on high-DPI screens.
    """

    scheme: Scheme = Scheme.LIGHT
    body_px: int = BODY_PX

    def __post_init__(self) -> None:
        if not MIN_BODY_PX <= self.body_px <= MAX_BODY_PX:
            raise ValueError(f"body_px is {self.body_px}; choose {MIN_BODY_PX} to {MAX_BODY_PX}")

    @cached_property
    def colours(self) -> Colours:
        return LIGHT if self.scheme is Scheme.LIGHT else DARK

    @property
    def small_px(self) -> int:
        """Status lines, labels, captions."""
        return round(self.body_px * 13 / 15)

    def space(self, steps: float) -> int:
        """`steps` of the spacing scale, 4 px each at the default size; grows with the font, half as fast."""
        return round(steps * 4 * (1 + self.body_px / BODY_PX) / 2)

    def colour(self, name: str) -> QColor:
        return QColor(getattr(self.colours, name))

    def font(self, *, px: int | None = None, weight: QFont.Weight = QFont.Weight.Normal) -> QFont:
        """The text font; `px` defaults to the body size."""
        font = QFont()
        font.setFamilies(list(TEXT_FAMILIES))
        font.setPixelSize(self.body_px if px is None else px)
        font.setWeight(weight)
        return font

    def mono_font(self, *, px: int | None = None) -> QFont:
        """The font of code, a little smaller than the text around it, since its letters are wider."""
        font = QFont()
        font.setFamilies(list(MONO_FAMILIES))
        font.setStyleHint(QFont.StyleHint.Monospace)
        font.setFixedPitch(True)
        font.setPixelSize(round(self.body_px * 0.9) if px is None else px)
        return font

    @cached_property
    def palette(self) -> QPalette:
        """The palette, for what style sheets do not reach and for text documents."""
        colours = self.colours
        palette = QPalette()
        for role, colour in {
            QPalette.ColorRole.Window: colours.window,
            QPalette.ColorRole.WindowText: colours.text,
            QPalette.ColorRole.Base: colours.surface,
            QPalette.ColorRole.AlternateBase: colours.code_fill,
            QPalette.ColorRole.Text: colours.text,
            QPalette.ColorRole.Button: colours.raised,
            QPalette.ColorRole.ButtonText: colours.text,
            QPalette.ColorRole.BrightText: colours.danger,
            QPalette.ColorRole.ToolTipBase: colours.raised,
            QPalette.ColorRole.ToolTipText: colours.text,
            QPalette.ColorRole.PlaceholderText: colours.text_muted,
            QPalette.ColorRole.Highlight: colours.selection,
            QPalette.ColorRole.HighlightedText: colours.on_selection,
            QPalette.ColorRole.Accent: colours.accent,
            QPalette.ColorRole.Link: colours.link,
            QPalette.ColorRole.LinkVisited: colours.link,
            QPalette.ColorRole.Light: colours.raised,
            QPalette.ColorRole.Midlight: colours.hover_fill,
            QPalette.ColorRole.Mid: colours.border,
            QPalette.ColorRole.Dark: colours.control_border,
            QPalette.ColorRole.Shadow: colours.shadow,
        }.items():
            palette.setColor(role, QColor(colour))
        for role in (QPalette.ColorRole.WindowText, QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, role, QColor(colours.text_muted))
        return palette


def apply(application: QApplication, theme: Theme) -> None:
    """Put the theme on every window: style, palette, font and style sheet.

    The palette is set outright: the scheme request of Qt 6.8 does nothing on a bare X11 session.
    """
    if application.style().name() != "fusion":
        application.setStyle("Fusion")
    application.setPalette(theme.palette)
    application.setFont(theme.font())
    application.setStyleSheet(stylesheet(theme))


def system_scheme(application: QApplication) -> Scheme:
    """What the desktop asks for; light if it does not say. Changes come by `styleHints().colorSchemeChanged`."""
    dark = application.styleHints().colorScheme() is Qt.ColorScheme.Dark
    return Scheme.DARK if dark else Scheme.LIGHT


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


def stylesheet(theme: Theme) -> str:
    """The style sheet of the application. Sizes: logical pixels."""
    colours, body_px = theme.colours, theme.body_px
    steps = {"s05": 0.5, "s1": 1, "s15": 1.5, "s2": 2, "s25": 2.5, "s3": 3, "s35": 3.5, "s4": 4, "s6": 6}
    spaces = {name: theme.space(step) for name, step in steps.items()}
    template = Template(files(__package__).joinpath("app.qss").read_text(encoding="utf-8"))
    return template.substitute(
        {name: getattr(colours, name) for name in colours.__slots__ if name != "code"},
        **spaces,
        s15m=max(0, spaces["s15"] - 1),
        s25m=max(0, spaces["s25"] - 1),
        s35m=max(0, spaces["s35"] - 1),
        body=body_px,
        small=theme.small_px,
        title=round(body_px * 22 / 15),
        line=round(body_px * 1.4),
        bar=12,
        barhalf=3,
        chip=round(theme.small_px * 0.6) + spaces["s1"],  # Qt draws no round corners above half of the height
    )
