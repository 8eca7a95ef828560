"""The design tokens: every colour, size and family that the widgets use. No Qt in here."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Scheme(StrEnum):
    """Which of the two colour schemes."""

    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeColours:
    """Colours of highlighted code, `#rrggbb`, each readable on `Colours.code_fill`."""

    keyword: str
    string: str
    number: str
    comment: str
    function: str
    type: str
    decorator: str
    deleted: str
    inserted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """One appearance, `#rrggbb`. A `…_fill` is a ground that text stands on; `on_accent` is text on `accent`.

    Every text colour reaches 4.5:1 on each ground that it is used on (WCAG 2.2, 1.4.3), every edge that says what a
    control is reaches 3:1 (1.4.11); tests hold both.
    """

    window: str
    surface: str
    raised: str
    hover_fill: str
    selected_fill: str
    bubble_fill: str
    code_fill: str
    text: str
    text_muted: str
    border: str
    control_border: str
    scroll: str
    accent: str
    accent_hover: str
    on_accent: str
    accent_fill: str
    link: str
    focus: str
    selection: str
    on_selection: str
    found_fill: str
    danger: str
    danger_fill: str
    warning: str
    warning_fill: str
    success: str
    shadow: str
    code: CodeColours


_COLOURS: Final = {
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
"""In the light scheme, and in the dark one."""

_CODE: Final = {
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


def _scheme(at: int) -> Colours:
    code = CodeColours(**{name: colours[at] for name, colours in _CODE.items()})
    return Colours(code=code, **{name: colours[at] for name, colours in _COLOURS.items()})


LIGHT: Final = _scheme(0)
DARK: Final = _scheme(1)

TEXT_FAMILIES: Final = (
    "Inter",
    ".AppleSystemUIFont",
    "Segoe UI Variable Text",
    "Segoe UI",
    "Cantarell",
    "Ubuntu",
    "Roboto",
    "Noto Sans",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Hiragino Sans",
    "Yu Gothic UI",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Microsoft YaHei UI",
    "Noto Sans CJK SC",
    "Apple Color Emoji",
    "Segoe UI Emoji",
    "Noto Color Emoji",
    "DejaVu Sans",
)
"""Tried in this order, glyph by glyph: Latin of each system first, then Korean, Japanese, Chinese, emoji."""

MONO_FAMILIES: Final = (
    "JetBrains Mono",
    "SF Mono",
    "Menlo",
    "Cascadia Mono",
    "Consolas",
    "Ubuntu Mono",
    "Noto Sans Mono",
    "DejaVu Sans Mono",
    "Noto Sans Mono CJK KR",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Apple Color Emoji",
    "Segoe UI Emoji",
    "Noto Color Emoji",
)
"""The same for code."""


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two `#rrggbb` colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)
