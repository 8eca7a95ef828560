"""Math as small vector pictures, made by mathra. A formula that it cannot draw is shown as it is written."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from PySide6.QtCore import QByteArray, QObject, QPointF, QRect, QRectF, QSizeF
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetricsF,
    QPainter,
    QPyTextObject,
    QTextDocument,
    QTextFormat,
)
from PySide6.QtSvg import QSvgRenderer

from answerback_desktop.ui.theme import Theme

try:
    import mathra
except ImportError:  # there is none for Windows on ARM
    mathra = None  # type: ignore[assignment]

OBJECT_TYPE: Final = QTextFormat.ObjectTypes.UserObject.value + 1
TEX: Final = QTextFormat.Property.UserProperty.value + 10
IS_DISPLAY: Final = QTextFormat.Property.UserProperty.value + 11
_LONGEST: Final = 2_000
_LARGEST_EM: Final = 200
_SMALLEST: Final = 0.4
"""No formula is made smaller than that, so that it can be read."""
_EM: Final = 1_000
"""The pictures' units in the height of a letter."""
_LETTER: Final = r"[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]"
_CJK: Final = re.compile(f"{_LETTER}(?: ?{_LETTER})*")
_IN_TEXT: Final = re.compile(r"(\\(?:text|mathrm|textbf|textrm|textit|mbox|operatorname)\*?)\{([^{}]*)\}")
_VIEW_BOX: Final = re.compile(r'viewBox="([-\d.]+) ([-\d.]+) ([-\d.]+) ([-\d.]+)"')
_RECT: Final = re.compile(
    r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"(?: fill="#01(\w{4})")?[^>]*/>'
)
_UNDRAWN: Final = re.compile(
    r"<title.*?</title>|<metadata>.*?</metadata>|<style>.*?</style>|<text .*?</text>", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class _Word:
    """Letters that the picture's font lacks: where they stand, and how high one is, in the picture's units."""

    left: float
    base: float
    size: float
    text: str


@dataclass(frozen=True, slots=True)
class Formula:
    """A picture of math. Sizes are in the height of a letter. `speech`: how it is read out."""

    svg: bytes
    box: QRectF
    words: tuple[_Word, ...]
    speech: str

    def width(self, em: float) -> float:
        return self.box.width() / _EM * em

    def ascent(self, em: float) -> float:
        return -self.box.top() / _EM * em

    def descent(self, em: float) -> float:
        return self.box.bottom() / _EM * em

    def paint(self, painter: QPainter, origin: QPointF, em: float, colour: QColor, font: QFont) -> None:
        """Draw it with its base line at the origin."""
        left, base = origin.x(), origin.y()
        area = QRectF(left, base - self.ascent(em), self.width(em), self.box.height() / _EM * em)
        _renderer(self.svg, colour.name()).render(painter, area)
        painter.setPen(colour)
        for word in self.words:
            font.setPixelSize(max(4, round(word.size / _EM * em)))
            painter.setFont(font)
            place = QPointF(left + (word.left - self.box.left()) / _EM * em, base + word.base / _EM * em)
            painter.drawText(place, word.text)


@lru_cache(maxsize=512)
def _renderer(svg: bytes, colour: str) -> QSvgRenderer:
    return QSvgRenderer(QByteArray(svg.replace(b"currentColor", colour.encode())))


@lru_cache(maxsize=2_000)
def formula(tex: str, *, is_display: bool, theme: Theme) -> Formula | None:
    """The picture of a formula; None: it is shown as it is written."""
    if mathra is None or len(tex) > _LONGEST:
        return None
    words: list[str] = []
    metrics = QFontMetricsF(theme.font(px=100))

    def rule(found: re.Match[str]) -> str:
        # A black box as wide as the word, in a colour that says which word; the word is painted in its place.
        words.append(found[0])
        width = metrics.horizontalAdvance(found[0]) / 100
        return rf"\textcolor{{#01{len(words):04x}}}{{\rule[-0.2em]{{{width:.3f}em}}{{1em}}}}"

    def out_of_text(found: re.Match[str]) -> str:
        pieces = re.split(f"({_CJK.pattern})", found[2])
        return (
            "{" + "".join(piece if n % 2 else f"{found[1]}{{{piece}}}" for n, piece in enumerate(pieces) if piece) + "}"
        )

    source = _CJK.sub(rule, _IN_TEXT.sub(out_of_text, tex) if _CJK.search(tex) else tex)
    try:
        drawn = mathra.render(source, display=is_display)
        speech = mathra.render(tex, display=is_display)["speech"] if words else drawn["speech"]
    except Exception:
        return None
    svg, head = _UNDRAWN.sub("", drawn["svg"]), _VIEW_BOX.search(drawn["svg"])
    if head is None:
        return None
    box = QRectF(*(float(head[n]) for n in range(1, 5)))
    spots = []
    for found in _RECT.finditer(svg):
        left, low, width, height = (float(found[n]) for n in range(1, 5))  # upwards from the base line
        rect = QRectF(left, -low - height, width, height)
        if found[5] and 0 < (number := int(found[5], 16)) <= len(words):
            spots.append(_Word(left, -low - height * 0.2, height, words[number - 1]))
        elif not box.adjusted(-50, -50, 50, 50).contains(rect):
            return None  # a line of an array outside of the picture
    if box.isEmpty() or max(box.width(), box.height()) > _LARGEST_EM * _EM:
        return None
    svg = _RECT.sub(lambda found: "" if found[5] else found[0], svg)
    return Formula(svg.encode(), box, tuple(spots), str(speech))


class FormulaObject(QPyTextObject):
    """Draws the formulas of a document, their base lines on those of the text."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme

    def _formula(
        self, document: QTextDocument, place: int, form: QTextFormat
    ) -> tuple[Formula | None, float, float, float]:
        """The formula, the size of its letters, its height for Qt, and where the base line is in it.

        One that is wider than its paragraph is made smaller. Qt puts the middle of an object that is aligned to the
        middle a quarter of an x over the base line.
        """
        is_display = bool(form.property(IS_DISPLAY))
        drawn = formula(str(form.property(TEX)), is_display=is_display, theme=self._theme)
        if drawn is None:
            return None, 0, 0, 0
        font = form.toCharFormat().font()
        em = font.pixelSize() * (1.12 if is_display else 1.05)
        if document.textWidth() > 0:
            room = document.textWidth() - document.findBlock(place).blockFormat().leftMargin() - 4
            em *= max(_SMALLEST, min(1.0, room / drawn.width(em)))
        quarter = QFontMetricsF(font).xHeight() / 2
        height = max(2 * drawn.ascent(em) - quarter, 2 * drawn.descent(em) + quarter)
        return drawn, em, height, (height + quarter) / 2

    def intrinsicSize(self, document: QTextDocument, place: int, form: QTextFormat) -> QSizeF:  # noqa: N802 - Qt's name
        drawn, em, height, _ = self._formula(document, place, form)
        return QSizeF(0, 0) if drawn is None else QSizeF(drawn.width(em) + 2, height)

    def drawObject(  # noqa: N802 - Qt's name
        self, painter: QPainter, area: QRectF | QRect, document: QTextDocument, place: int, form: QTextFormat
    ) -> None:
        drawn, em, _, base = self._formula(document, place, form)
        if drawn is not None:
            colour = form.toCharFormat().foreground().color()
            drawn.paint(painter, QPointF(area.left() + 1, area.top() + base), em, colour, self._theme.font())


@lru_cache(maxsize=4)
def _object_of(theme: Theme) -> tuple[QObject, FormulaObject]:
    made = FormulaObject(theme)
    return made, made


def draws_formulas(document: QTextDocument, theme: Theme) -> None:
    """Let a document draw its formulas."""
    document.documentLayout().registerHandler(OBJECT_TYPE, _object_of(theme)[0])
