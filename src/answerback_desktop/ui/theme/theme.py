"""One appearance at one font size, and how it is put on the application."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from importlib.resources import files
from string import Template
from typing import Final

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QIcon, QPainter, QPalette, QPixmap, QPixmapCache
from PySide6.QtSvg import QSvgRenderer
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
    sheet = stylesheet(theme)
    if application.styleSheet() == sheet:
        return  # Qt would style every widget again
    if application.style().name() != "fusion":
        application.setStyle("Fusion")
    application.setPalette(theme.palette)
    application.setFont(theme.font())
    application.setStyleSheet(sheet)


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


_SCALES = (1.0, 1.5, 2.0, 3.0)


class Icon(StrEnum):
    """The drawings: the value is the content of an SVG with a 24 by 24 view box, stroked and not filled."""

    SEND = '<path d="M12 19V5M5.5 11.5 12 5l6.5 6.5"/>'
    STOP = '<rect x="6.5" y="6.5" width="11" height="11" rx="2" fill="currentColor"/>'
    COPY = '<rect x="9" y="9" width="11" height="11" rx="2.5"/><path d="M15 9V6.5A2.5 2.5 0 0 0 12.5 4h-6A2.5 2.5 0 0 0 4 6.5v6A2.5 2.5 0 0 0 6.5 15H9"/>'  # noqa: E501
    CHECK = '<path d="m5 12.5 4.5 4.5L19 7.5"/>'
    REGENERATE = '<path d="M19.5 12a7.5 7.5 0 1 1-2.4-5.5L19.5 9M19.5 4v5h-5"/>'
    EDIT = '<path d="M4.5 19.5 5.6 15 16 4.6a1.9 1.9 0 0 1 2.7 0l.7.7a1.9 1.9 0 0 1 0 2.7L9 18.4zM14 6.6l3.4 3.4"/>'
    DOWN = '<path d="M12 5v14M5.5 12.5 12 19l6.5-6.5"/>'
    CHEVRON_DOWN = '<path d="m6.5 9.5 5.5 5.5 5.5-5.5"/>'
    CHEVRON_LEFT = '<path d="M14.5 6.5 9 12l5.5 5.5"/>'
    CHEVRON_UP = '<path d="m6.5 14.5 5.5-5.5 5.5 5.5"/>'
    CHEVRON_RIGHT = '<path d="m9.5 6.5 5.5 5.5-5.5 5.5"/>'
    CLOSE = '<path d="m6.5 6.5 11 11M17.5 6.5l-11 11"/>'
    WARNING = '<path d="M12 4.5 3.5 19h17zM12 10v4M12 16.6v.1"/>'
    ERROR = '<circle cx="12" cy="12" r="8"/><path d="M12 8v4.5M12 15.6v.1"/>'
    CLOCK = '<circle cx="12" cy="12" r="8"/><path d="M12 7.5V12l3 2"/>'
    OFFLINE = '<path d="M4 4.5 20 20M8.2 15.3a5.4 5.4 0 0 1 5.1-1.4M4.8 11.6a10 10 0 0 1 4.7-2.7M13 8.5a10 10 0 0 1 6.2 3.1M12 19.2v.1"/>'  # noqa: E501
    ONLINE = '<path d="M8.2 15.4a5.4 5.4 0 0 1 7.6 0M4.8 11.8a10.2 10.2 0 0 1 14.4 0M12 19.1v.1"/>'
    NEW_CHAT = '<path d="M12 4.5H7A2.5 2.5 0 0 0 4.5 7v10A2.5 2.5 0 0 0 7 19.5h10a2.5 2.5 0 0 0 2.5-2.5v-5M9.5 14.5l.7-2.8 7.2-7.2a1.5 1.5 0 0 1 2.1 2.1l-7.2 7.2z"/>'  # noqa: E501
    SEARCH = '<circle cx="10.5" cy="10.5" r="6"/><path d="m15 15 4.5 4.5"/>'
    SETTINGS = '<path d="M4 7h9M17.5 7H20M4 17h2.5M11 17h9"/><circle cx="15.2" cy="7" r="2.3"/><circle cx="8.8" cy="17" r="2.3"/>'  # noqa: E501
    TRASH = '<path d="M4.5 7h15M9.5 7V4.5h5V7M6.5 7l.8 12.5h9.4L17.5 7M10 11v5M14 11v5"/>'
    MORE = '<path d="M6 12v.1M12 12v.1M18 12v.1" stroke-width="2.6"/>'
    SIDEBAR = '<rect x="3.5" y="5" width="17" height="14" rx="2.5"/><path d="M9.5 5v14"/>'
    EXPORT = '<path d="M12 15V4.5M7.8 8.5 12 4.3l4.2 4.2M5 14.5v3A2 2 0 0 0 7 19.5h10a2 2 0 0 0 2-2v-3"/>'
    SPARK = '<path d="M12 4c.9 4.6 3.4 7.1 8 8-4.6.9-7.1 3.4-8 8-.9-4.6-3.4-7.1-8-8 4.6-.9 7.1-3.4 8-8z"/>'
    CHAT = '<path d="M5.5 5h13A1.5 1.5 0 0 1 20 6.5v9a1.5 1.5 0 0 1-1.5 1.5H11l-4.5 3.5V17h-1A1.5 1.5 0 0 1 4 15.5v-9A1.5 1.5 0 0 1 5.5 5z"/>'  # noqa: E501
    HELP = '<circle cx="12" cy="12" r="8"/><path d="M9.7 9.6a2.4 2.4 0 1 1 3.4 2.6c-.7.3-1.1.8-1.1 1.5M12 16.4v.1"/>'
    TABLE = '<rect x="4" y="5" width="16" height="14" rx="2"/><path d="M4 10h16M10 10v9"/>'
    PIN = '<path d="M9 4.5h6l-.8 6 3.3 3.5h-11l3.3-3.5zM12 14v5.5"/>'
    ARCHIVE = '<rect x="4" y="5" width="16" height="4.5" rx="1.5"/><path d="M5.5 9.5V17a2 2 0 0 0 2 2h9a2 2 0 0 0 2-2V9.5M10 13h4"/>'  # noqa: E501
    TAG = '<path d="M4.5 5.5v6l8 8 7-7-8-8h-6a1 1 0 0 0-1 1zM8.5 9v.1"/>'
    ATTACH = '<path d="m19 11.5-7.2 7.2a4.4 4.4 0 0 1-6.3-6.2l7.7-7.7a2.9 2.9 0 0 1 4.2 4.1l-7.4 7.4a1.5 1.5 0 0 1-2.1-2.1l6.6-6.6"/>'  # noqa: E501
    USER = '<circle cx="12" cy="8.5" r="3.7"/><path d="M5 19.5c.8-3.4 3.6-5.2 7-5.2s6.2 1.8 7 5.2"/>'


def pixmap(drawing: Icon, colour: QColor | str, size_px: int, *, scale: float = 1.0) -> QPixmap:
    """One drawing of `size_px` logical pixels at a device pixel ratio of `scale`."""
    name = QColor(colour).name()
    key = f"{drawing.name} {name} {size_px} {scale}"
    drawn = QPixmap()
    if QPixmapCache.find(key, drawn):
        return drawn
    body = drawing.value.replace("currentColor", name)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{name}" '
        f'stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round">{body}</svg>'
    )
    drawn = QPixmap(round(size_px * scale), round(size_px * scale))
    drawn.fill(Qt.GlobalColor.transparent)
    painter = QPainter(drawn)
    QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(0, 0, drawn.width(), drawn.height()))
    painter.end()
    drawn.setDevicePixelRatio(scale)
    QPixmapCache.insert(key, drawn)
    return drawn


def icon(drawing: Icon, colour: QColor | str, size_px: int, *, disabled: QColor | str | None = None) -> QIcon:
    """An icon, sharp at the usual device pixel ratios. Give the button `setIconSize` of the same size."""
    made = QIcon()
    for scale in _SCALES:
        made.addPixmap(pixmap(drawing, colour, size_px, scale=scale))
        if disabled is not None:
            made.addPixmap(pixmap(drawing, disabled, size_px, scale=scale), QIcon.Mode.Disabled)
    return made
