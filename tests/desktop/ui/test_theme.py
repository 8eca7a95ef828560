"""The appearance: readable colours, sizes that follow the font, and nothing that Qt cannot parse."""

from itertools import product

import pytest
from PySide6.QtCore import QSize
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QLabel
from pytestqt.qtbot import QtBot

from answerback_desktop.ui.theme import CODE_COLOURS, Icon, Scheme, Theme, apply, stylesheet

GROUNDS = ("window", "surface", "raised", "hover_fill", "selected_fill", "bubble_fill", "code_fill", "accent_fill")
TEXTS = ("text", "text_muted", "link", "danger", "warning", "success", "accent")
PAIRS = [
    *product(TEXTS, GROUNDS),
    ("danger", "danger_fill"),
    ("warning", "warning_fill"),
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
    ("on_selection", "selection"),
    ("text", "found_fill"),
]
SCHEMES = pytest.mark.parametrize("look", [Theme(scheme=scheme) for scheme in Scheme], ids=list(Scheme))


def contrast(one: str | QColor, other: str | QColor) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    lighter, darker = sorted((luminance(QColor(one)), luminance(QColor(other))), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: QColor) -> float:
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (colour.redF(), colour.greenF(), colour.blueF())
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_ratio_is_the_standards_one() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#ffffff", "#777777") == contrast("#777777", "#ffffff")


@SCHEMES
def test_text_is_readable_on_every_ground(look: Theme) -> None:
    poor = {(t, g): contrast(look.colour(t), look.colour(g)) for t, g in PAIRS}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


@SCHEMES
def test_code_is_readable(look: Theme) -> None:
    ratios = {name: contrast(look.code_colour(name), look.colour("code_fill")) for name in CODE_COLOURS}
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


@SCHEMES
def test_the_edges_of_controls_and_the_focus_ring_are_seen(look: Theme) -> None:
    for ground in ("window", "surface", "raised"):
        assert contrast(look.colour("control_border"), look.colour(ground)) >= 3
        assert contrast(look.colour("focus"), look.colour(ground)) >= 3


def test_every_size_follows_the_font() -> None:
    small, large = Theme(body_px=12), Theme(body_px=24)
    assert small.small_px < large.small_px
    assert small.space(4) < large.space(4)
    assert Theme().space(4) == 16
    assert large.font().pixelSize() == 24
    assert "font-size: 21px" in stylesheet(large)


@pytest.mark.parametrize("body_px", [9, 45])
def test_a_size_out_of_range_says_what_to_choose(body_px: int) -> None:
    with pytest.raises(ValueError, match="choose 10 to 44"):
        Theme(body_px=body_px)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_it_is_put_on_the_application(qapp: QApplication, qtbot: QtBot, scheme: Scheme) -> None:
    theme = Theme(scheme=scheme, body_px=18)
    apply(qapp, theme)
    label = QLabel("text")
    qtbot.addWidget(label)
    label.ensurePolished()
    assert qapp.style().name() in {"fusion", ""}  # a style sheet's own style stands before it
    assert label.palette().color(QPalette.ColorRole.WindowText) == theme.colour("text")
    assert qapp.font().pixelSize() == 18


@pytest.mark.parametrize("drawing", list(Icon), ids=lambda drawing: drawing.name)
def test_every_icon_draws_something(qapp: QApplication, drawing: Icon) -> None:
    image = Theme().pixmap(drawing, 24, "danger", scale=2).toImage()
    assert image.width() == 48
    assert any(image.pixelColor(x, y).alpha() for x in range(48) for y in range(48))


def test_an_icon_is_sharp_on_a_high_density_screen(qapp: QApplication) -> None:
    assert Theme().icon(Icon.SEND, 20).pixmap(QSize(20, 20), 2.0).width() == 40
