"""The appearance: every colour, size, font and drawing that the widgets use, and the style sheet made of them."""

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

BODY_PX: Final = 15
MIN_BODY_PX: Final = 10
MAX_BODY_PX: Final = 44
TEXT_FAMILIES: Final = (
    *("Inter", ".AppleSystemUIFont", "Segoe UI Variable Text", "Segoe UI"),
    *("Cantarell", "Ubuntu", "Roboto", "Noto Sans"),
    *("Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR", "Noto Sans KR"),
    *("Hiragino Sans", "Yu Gothic UI", "Noto Sans CJK JP"),
    *("PingFang SC", "Microsoft YaHei UI", "Noto Sans CJK SC"),
    *("Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji", "DejaVu Sans"),
)
"""Tried in this order, glyph by glyph: Latin of each system first, then Korean, Japanese, Chinese, emoji."""
MONO_FAMILIES: Final = (
    *("JetBrains Mono", "SF Mono", "Menlo", "Cascadia Mono", "Consolas", "Ubuntu Mono", "Noto Sans Mono"),
    *("DejaVu Sans Mono", "Noto Sans Mono CJK KR", "Apple SD Gothic Neo", "Malgun Gothic"),
    *("Apple Color Emoji", "Segoe UI Emoji", "Noto Color Emoji"),
)
"""The same for code."""
COLOURS: Final = {
    "window": ("#f5f6f8", "#16171a"),
    "surface": ("#ffffff", "#1d1e22"),
    "raised": ("#ffffff", "#26282d"),
    "hover_fill": ("#eaecf0", "#2b2d33"),
    "selected_fill": ("#e3e8f8", "#2b3150"),
    "bubble_fill": ("#eef1f8", "#2a2e3a"),
    "code_fill": ("#f6f7f9", "#15161a"),
    "text": ("#1b1d22", "#e9eaee"),
    "text_muted": ("#5a6070", "#a5abb8"),
    "border": ("#e1e4ea", "#34373f"),
    "control_border": ("#868d9c", "#757c8b"),
    "scroll": ("#cdd2db", "#454953"),
    "accent": ("#3355d1", "#8ea6ff"),
    "accent_hover": ("#2844ad", "#a9bbff"),
    "on_accent": ("#ffffff", "#0f1430"),
    "accent_fill": ("#e8edfc", "#283056"),
    "link": ("#2d4fc9", "#9db2ff"),
    "focus": ("#3355d1", "#8ea6ff"),
    "selection": ("#c3d0f9", "#3d4c8c"),
    "on_selection": ("#11131a", "#ffffff"),
    "found_fill": ("#ffe69c", "#5c4a12"),
    "danger": ("#b3261e", "#ff9e95"),
    "danger_fill": ("#fdeceb", "#3a2123"),
    "warning": ("#7d5200", "#f0c36b"),
    "warning_fill": ("#fff3d9", "#3a2f19"),
    "success": ("#1a7440", "#7fd6a4"),
    "shadow": ("#1b1d22", "#000000"),
}
"""In the light scheme, and in the dark one. A `…_fill` is a ground that text stands on, `on_accent` text on `accent`.

Every text colour reaches 4.5:1 on each ground that it is used on (WCAG 2.2, 1.4.3), every edge that says what a control
is reaches 3:1 (1.4.11); tests hold both.
"""

CODE_COLOURS: Final = {
    "keyword": ("#7c3aad", "#cba6f7"),
    "string": ("#1f7039", "#a0d9a8"),
    "number": ("#95500a", "#f2b98a"),
    "comment": ("#646b7a", "#9097a6"),
    "function": ("#2655c0", "#93b8ff"),
    "type": ("#0b6b7a", "#83d5e0"),
    "decorator": ("#8a5a00", "#e8c57a"),
    "deleted": ("#b3261e", "#ff9e95"),
    "inserted": ("#1a7440", "#7fd6a4"),
}
"""Of highlighted code, each readable on `code_fill`."""
_ROLES: Final = {
    QPalette.ColorRole.Window: "window",
    QPalette.ColorRole.WindowText: "text",
    QPalette.ColorRole.Base: "surface",
    QPalette.ColorRole.AlternateBase: "code_fill",
    QPalette.ColorRole.Text: "text",
    QPalette.ColorRole.Button: "raised",
    QPalette.ColorRole.ButtonText: "text",
    QPalette.ColorRole.BrightText: "danger",
    QPalette.ColorRole.ToolTipBase: "raised",
    QPalette.ColorRole.ToolTipText: "text",
    QPalette.ColorRole.PlaceholderText: "text_muted",
    QPalette.ColorRole.Highlight: "selection",
    QPalette.ColorRole.HighlightedText: "on_selection",
    QPalette.ColorRole.Accent: "accent",
    QPalette.ColorRole.Link: "link",
    QPalette.ColorRole.LinkVisited: "link",
    QPalette.ColorRole.Light: "raised",
    QPalette.ColorRole.Midlight: "hover_fill",
    QPalette.ColorRole.Mid: "border",
    QPalette.ColorRole.Dark: "control_border",
    QPalette.ColorRole.Shadow: "shadow",
}
_SCALES: Final = (1.0, 1.5, 2.0, 3.0)
_PX_PER_PT: Final = 96 / 72
"""Logical pixels: Qt scales them for the screen."""


class Scheme(StrEnum):
    """Which of the two colour schemes."""

    LIGHT = "light"
    DARK = "dark"


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

    @property
    def small_px(self) -> int:
        """Status lines, labels, captions."""
        return round(self.body_px * 13 / 15)

    def space(self, steps: float) -> int:
        """`steps` of the spacing scale, 4 px each at the default size; grows with the font, half as fast."""
        return round(steps * 4 * (1 + self.body_px / BODY_PX) / 2)

    def colour(self, name: str) -> QColor:
        """One of `COLOURS`."""
        return QColor(COLOURS[name][self.scheme is Scheme.DARK])

    def code_colour(self, name: str) -> QColor:
        """One of `CODE_COLOURS`."""
        return QColor(CODE_COLOURS[name][self.scheme is Scheme.DARK])

    def pixmap(self, drawing: "Icon", size_px: int, colour: str = "text_muted", *, scale: float = 1.0) -> QPixmap:
        """A drawing of `size_px` logical pixels, in one of `COLOURS`, at a device pixel ratio of `scale`."""
        name = self.colour(colour).name()
        key, drawn = f"{drawing.name} {name} {size_px} {scale}", QPixmap()
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

    def icon(self, drawing: "Icon", size_px: int, colour: str = "text_muted", *, disabled: str = "") -> QIcon:
        """An icon, sharp at the usual device pixel ratios. Give the button `setIconSize` of the same size."""
        made = QIcon()
        for scale in _SCALES:
            made.addPixmap(self.pixmap(drawing, size_px, colour, scale=scale))
            if disabled:
                made.addPixmap(self.pixmap(drawing, size_px, disabled, scale=scale), QIcon.Mode.Disabled)
        return made

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
        palette = QPalette()
        for role, name in _ROLES.items():
            palette.setColor(role, self.colour(name))
        for role in (QPalette.ColorRole.WindowText, QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, role, self.colour("text_muted"))
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


def theme_of(settings: Settings, application: QApplication) -> Theme:
    """Scheme and size."""
    is_chosen = settings.theme is not ThemeChoice.SYSTEM
    scheme = Scheme(settings.theme.value) if is_chosen else system_scheme(application)
    return Theme(scheme=scheme, body_px=min(MAX_BODY_PX, max(MIN_BODY_PX, round(settings.font_size * _PX_PER_PT))))


def stylesheet(theme: Theme) -> str:
    """The style sheet of the application. Sizes: logical pixels."""
    steps = {"s05": 0.5, "s1": 1, "s15": 1.5, "s2": 2, "s25": 2.5, "s3": 3, "s35": 3.5, "s4": 4, "s6": 6}
    spaces = {name: theme.space(step) for name, step in steps.items()}
    template = Template(files(__package__).joinpath("app.qss").read_text(encoding="utf-8"))
    return template.substitute(
        {name: theme.colour(name).name() for name in COLOURS},
        **spaces,
        s15m=max(0, spaces["s15"] - 1),
        s25m=max(0, spaces["s25"] - 1),
        s35m=max(0, spaces["s35"] - 1),
        small=theme.small_px,
        title=round(theme.body_px * 22 / 15),
        line=round(theme.body_px * 1.4),
        bar=12,
        barhalf=3,
        chip=round(theme.small_px * 0.6) + spaces["s1"],  # Qt draws no round corners above half of the height
    )


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
