"""Math is drawn, or shown as it is written; it is never corrupted."""

import pytest
from PySide6.QtGui import QColor, QImage, QPainter, QTextDocument
from PySide6.QtWidgets import QApplication

from answerback_desktop.ui.chat import formula as module
from answerback_desktop.ui.chat.document import read_out, writer_of
from answerback_desktop.ui.chat.formula import formula
from answerback_desktop.ui.markdown import split
from answerback_desktop.ui.theme import Theme
from chat_samples import CHAT_EN

DRAWN = [
    *("x", r"\frac{1}{2}\,y", "a*b*c", r"\sum_{i=1}^n i^2", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\sqrt[3]{x}"),
    *(
        r"\begin{cases}1 & x>0\\0 & \text{else}\end{cases}",
        r"\text{정확도} = \frac{\text{맞은 수}}{n}",
        r"\binom{n}{k}",
    ),
    *(r"\begin{aligned}a &= b\\ c &= d\end{aligned}", r"\log x", r"\ce{H2O}", r"속도 = \frac{거리}{시간}"),
]


@pytest.fixture(autouse=True)
def _fresh(qapp: QApplication) -> None:
    formula.cache_clear()


@pytest.mark.parametrize("tex", DRAWN)
@pytest.mark.parametrize("is_display", [False, True])
def test_what_is_drawn(theme: Theme, tex: str, is_display: bool) -> None:
    drawn = formula(tex, is_display=is_display, theme=theme)
    assert drawn is not None
    assert drawn.width(15) > 3
    assert drawn.ascent(15) + drawn.descent(15) > 3
    assert drawn.speech
    assert b"#01" not in drawn.svg


def painted(tex: str, theme: Theme) -> list[int]:
    """How many pixels of ink each row has."""
    (segment,) = split(f"$${tex}$$")
    document = QTextDocument()
    writer_of(theme).show_parts(document, segment.parts, (), CHAT_EN)
    document.setTextWidth(300)
    image = QImage(300, round(document.size().height()), QImage.Format.Format_RGB32)
    image.fill(QColor("white"))
    painter = QPainter(image)
    document.drawContents(painter)
    painter.end()
    dark = [[image.pixelColor(x, y).lightness() < 128 for x in range(300)] for y in range(image.height())]
    return [sum(row) for row in dark]


def test_korean_words_stand_over_and_under_the_line(theme: Theme) -> None:
    rows = painted(r"\frac{맞은}{n}", theme)
    line = rows.index(max(rows))
    assert sum(rows[:line]) > 2 * sum(rows[line + 3 :]) > 0, "the words are above, the small letter is below"


@pytest.mark.parametrize(
    "tex", ["x" * 2_001, "{" * 500 + "x" + "}" * 500, r"\begin{array}{c|cc}1&2&3\\4&5&6\end{array}"]
)
def test_what_is_not_drawn_is_shown_as_it_is_written(theme: Theme, tex: str) -> None:
    drawn = formula(tex, is_display=False, theme=theme)
    (segment,) = split(f"\\({tex}\\) and $a*b*c$")
    document = QTextDocument()
    writer_of(theme).show_parts(document, segment.parts, (), CHAT_EN)
    assert (drawn is None) == (tex in document.toPlainText().replace("\u2028", "\n"))


def test_without_the_library_nothing_is_lost(theme: Theme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "mathra", None)
    (segment,) = split(r"Let \(x=\frac{1}{2}\,y\) and $a*b*c$ be")
    document = QTextDocument()
    writer_of(theme).show_parts(document, segment.parts, (), CHAT_EN)
    assert document.toPlainText() == r"Let x=\frac{1}{2}\,y and a*b*c be"


def test_a_screen_reader_hears_the_markers_and_the_math(theme: Theme) -> None:
    (segment,) = split("1. Half is $\\frac{1}{2}$.\n2. ![cat](x)")
    assert read_out(segment.parts, theme, CHAT_EN) == "1. Half is 1 over 2.\n2. [image: cat]"


def test_a_formula_is_as_wide_as_its_paragraph_at_most(theme: Theme) -> None:
    tex = " + ".join(f"x_{{{n}}}" for n in range(20))
    (segment,) = split(f"- $${tex}$$")
    document = QTextDocument()
    writer_of(theme).show_parts(document, segment.parts, (), CHAT_EN)
    drawn = formula(tex, is_display=True, theme=theme)
    assert drawn is not None
    for width in (2_000, round(drawn.width(theme.body_px) * 0.8), 2_000):
        document.setTextWidth(width)
        line = document.begin().layout().lineAt(0)
        assert line.naturalTextWidth() <= width
        assert (line.naturalTextWidth() < drawn.width(theme.body_px)) == (width < 2_000)
