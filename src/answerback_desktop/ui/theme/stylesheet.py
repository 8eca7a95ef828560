"""The one style sheet, made from the tokens.

Widgets choose a variant by a dynamic property, so that no widget carries style of its own:
`QPushButton[variant=…]` primary · secondary · quiet · danger; `QToolButton[variant=…]` quiet (the default) · primary;
`QLabel[variant=…]` muted · title · error · warning; `QFrame[variant=…]` card · banner · notice.
"""

from string import Template
from typing import Final

from answerback_desktop.ui.theme.tokens import Colours

_TEMPLATE: Final = Template("""
* { outline: none; }
QWidget { color: $text; }
QMainWindow, QDialog, QMessageBox { background: $window; }
QToolTip {
  background: $raised; color: $text; border: 1px solid $border; padding: ${s1}px ${s2}px; font-size: ${small}px;
}
QLabel { background: transparent; }
QLabel[variant="muted"] { color: $text_muted; font-size: ${small}px; }
QLabel[variant="title"] { font-size: ${title}px; font-weight: 600; }
QLabel[variant="error"] { color: $danger; font-size: ${small}px; }
QLabel[variant="warning"] { color: $warning; font-size: ${small}px; }
QFrame[variant="card"] { background: $raised; border: 1px solid $border; border-radius: ${s3}px; }
QFrame[variant="banner"] { background: $warning_fill; border: none; border-radius: ${s2}px; }
QFrame[variant="banner"] QLabel { color: $warning; }
QFrame[variant="notice"] { background: $danger_fill; border: none; border-radius: ${s2}px; }
QFrame[variant="notice"] QLabel { color: $danger; }

QPushButton {
  background: $raised; color: $text; border: 1px solid $control_border; border-radius: ${s2}px;
  padding: ${s15}px ${s35}px; min-height: ${line}px;
}
QPushButton:hover { background: $hover_fill; }
QPushButton:pressed { background: $border; }
QPushButton:focus { border: 2px solid $focus; padding: ${s15m}px ${s35m}px; }
QPushButton:disabled { color: $text_muted; background: transparent; border-color: $border; }
QPushButton[variant="primary"] { background: $accent; color: $on_accent; border: 1px solid $accent; font-weight: 600; }
QPushButton[variant="primary"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[variant="primary"]:focus { border: 2px solid $text; }
QPushButton[variant="primary"]:disabled { background: $hover_fill; color: $text_muted; border-color: $hover_fill; }
QPushButton[variant="danger"] { background: transparent; color: $danger; border-color: $danger; }
QPushButton[variant="danger"]:hover { background: $danger_fill; }
QPushButton[variant="quiet"] { background: transparent; border: 2px solid transparent; }
QPushButton[variant="quiet"]:hover { background: $hover_fill; }
QPushButton[variant="quiet"]:focus { border-color: $focus; }
QFrame[variant="banner"] QPushButton { color: $warning; font-weight: 600; }
QFrame[variant="banner"] QPushButton:hover { background: $raised; }

QToolButton {
  background: transparent; color: $text_muted; border: 2px solid transparent; border-radius: ${s15}px;
  padding: ${s05}px; font-size: ${small}px;
}
QToolButton:hover { background: $hover_fill; color: $text; }
QToolButton:pressed, QToolButton:checked { background: $selected_fill; color: $text; }
QToolButton:focus { border-color: $focus; }
QToolButton:disabled { color: $border; }
QToolButton::menu-indicator { image: none; }
QToolButton[variant="primary"] { background: $accent; color: $on_accent; border-radius: ${s2}px; }
QToolButton[variant="primary"]:hover { background: $accent_hover; }
QToolButton[variant="primary"]:focus { border-color: $text; }
QToolButton[variant="primary"]:disabled { background: $hover_fill; }
QToolButton[variant="chip"] {
  background: $raised; color: $text; border: 1px solid $control_border; border-radius: ${chip}px;
  padding: ${s1}px ${s3}px;
}
QToolButton[variant="chip"]:hover { background: $hover_fill; }
QToolButton[variant="chip"]:focus { border: 2px solid $focus; }

QLineEdit, QComboBox, QAbstractSpinBox, QPlainTextEdit, QTextEdit, QKeySequenceEdit {
  background: $surface; color: $text; border: 1px solid $control_border; border-radius: ${s2}px;
  padding: ${s15}px ${s25}px; selection-background-color: $selection; selection-color: $on_selection;
}
QLineEdit, QComboBox, QAbstractSpinBox { min-height: ${line}px; }
QLineEdit:focus, QComboBox:focus, QAbstractSpinBox:focus, QPlainTextEdit:focus, QTextEdit:focus {
  border: 2px solid $focus; padding: ${s15m}px ${s25m}px;
}
QLineEdit:disabled, QComboBox:disabled, QAbstractSpinBox:disabled { color: $text_muted; border-color: $border; }
QComboBox::drop-down { border: none; width: ${s6}px; }
QComboBox QAbstractItemView {
  background: $raised; border: 1px solid $border; selection-background-color: $selected_fill;
  selection-color: $text; padding: ${s1}px;
}
QTextEdit[variant="plain"], QPlainTextEdit[variant="plain"], QTextBrowser[variant="plain"] {
  background: transparent; border: none; padding: 0;
}

QCheckBox, QRadioButton { spacing: ${s2}px; min-height: ${line}px; border: 2px solid transparent; }
QCheckBox:focus, QRadioButton:focus { border-color: $focus; border-radius: ${s1}px; }
QGroupBox { border: none; margin-top: ${s6}px; font-weight: 600; }
QGroupBox::title { subcontrol-origin: margin; left: 0; padding: 0; }

QTabBar::tab { padding: ${s2}px ${s4}px; border: none; border-bottom: 2px solid transparent; color: $text_muted; }
QTabBar::tab:selected { color: $text; border-bottom-color: $accent; }
QTabBar::tab:focus { border: 2px solid $focus; }
QTabWidget::pane { border: none; border-top: 1px solid $border; }

QListView, QTreeView, QTableView {
  background: transparent; border: none; selection-background-color: $selected_fill; selection-color: $text;
}
QListView::item { border-radius: ${s2}px; padding: ${s15}px ${s2}px; }
QListView::item:hover { background: $hover_fill; }
QListView::item:selected { background: $selected_fill; color: $text; }
QHeaderView::section { background: $window; color: $text_muted; border: none; padding: ${s1}px ${s2}px; }

QMenu { background: $raised; border: 1px solid $border; border-radius: ${s2}px; padding: ${s1}px; }
QMenu::item { padding: ${s15}px ${s6}px ${s15}px ${s3}px; border-radius: ${s1}px; }
QMenu::item:selected { background: $selected_fill; }
QMenu::item:disabled { color: $text_muted; }
QMenu::separator { height: 1px; background: $border; margin: ${s1}px ${s2}px; }
QMenuBar { background: $window; }
QMenuBar::item { padding: ${s1}px ${s2}px; border-radius: ${s1}px; }
QMenuBar::item:selected { background: $hover_fill; }
QStatusBar { background: $window; color: $text_muted; font-size: ${small}px; }
QStatusBar::item { border: none; }

QScrollArea { background: transparent; border: none; }
QScrollBar:vertical { background: transparent; width: ${bar}px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: ${bar}px; margin: 0; }
QScrollBar::handle:vertical { min-height: 32px; background: $scroll; border-radius: ${barhalf}px; margin: 2px 3px; }
QScrollBar::handle:horizontal { min-width: 32px; background: $scroll; border-radius: ${barhalf}px; margin: 3px 2px; }
QScrollBar::handle:hover { background: $control_border; }
QScrollBar::handle:vertical:disabled { background: transparent; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }

QSplitter::handle { background: $border; }
QSplitter::handle:horizontal { width: 1px; }
QProgressBar { background: $border; border: none; border-radius: 2px; max-height: 4px; color: transparent; }
QProgressBar::chunk { background: $accent; border-radius: 2px; }
""")


def stylesheet(colours: Colours, *, body_px: int, small_px: int) -> str:
    """The style sheet of the application. Sizes: logical pixels."""
    unit = 4 * (1 + body_px / 15) / 2
    steps = {"s05": 0.5, "s1": 1, "s15": 1.5, "s2": 2, "s25": 2.5, "s3": 3, "s35": 3.5, "s4": 4, "s6": 6}
    spaces = {name: round(step * unit) for name, step in steps.items()}
    return _TEMPLATE.substitute(
        {name: getattr(colours, name) for name in colours.__slots__ if name != "code"},
        **spaces,
        s15m=max(0, spaces["s15"] - 1),
        s25m=max(0, spaces["s25"] - 1),
        s35m=max(0, spaces["s35"] - 1),
        body=body_px,
        small=small_px,
        title=round(body_px * 22 / 15),
        line=round(body_px * 1.4),
        bar=12,
        barhalf=3,
        chip=round(body_px * 0.95),
    )
