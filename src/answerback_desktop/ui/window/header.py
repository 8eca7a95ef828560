"""The line above the chat: which conversation, which model, how the connection is."""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QActionGroup, QFont, QFontMetrics, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QLabel, QMenu, QSizePolicy, QToolButton

from answerback_desktop.ui.chat import column_in
from answerback_desktop.ui.parts import Appearance, button, label, row, set_icon, set_name
from answerback_desktop.ui.theme import Icon
from answerback_desktop.ui.window.connection import ConnectionIndicator, budget_text
from answerback_desktop.viewmodels import AppViewModel

_NARROW_EM: Final = 40


class Header(QFrame):
    """What its buttons do is the window's. `show_settings`: what the connection's details offer."""

    def __init__(self, app: AppViewModel, appearance: Appearance, show_settings: Callable[[], object]) -> None:
        super().__init__()
        self._app = app
        self.setObjectName("header")
        self.sidebar_button = QToolButton()
        self.new_button = QToolButton()
        self.title = ElidedLabel()
        self.model_button = QToolButton()
        self.model_button.setProperty("variant", "chip")
        self.model_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.model_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.model_button.setLayoutDirection(Qt.LayoutDirection.RightToLeft)  # the drawing after the name
        self.indicator = ConnectionIndicator(app, appearance, show_settings)
        self.more_button = QToolButton()
        self._row = row(
            *(self.sidebar_button, self.new_button, self.title),
            *(self.model_button, self.indicator, self.more_button),
            into=self,
        )
        self._row.setStretchFactor(self.title, 1)
        self._models_shown: object = None
        self._model_shown = ""
        self._is_narrow = False
        self.set_appearance(appearance)
        self.set_sidebar_shown(True)

    def set_appearance(self, appearance: Appearance) -> None:
        self._texts, self._theme = appearance.texts, appearance.theme
        theme, words = appearance.theme, appearance.texts.window
        self._row.setContentsMargins(*self._margins())
        self._row.setSpacing(theme.space(1.5))
        for one, drawing, name in (
            (self.sidebar_button, Icon.SIDEBAR, words.show_sidebar),
            (self.new_button, Icon.NEW_CHAT, words.new_conversation),
            (self.more_button, Icon.MORE, words.more),
        ):
            set_icon(one, theme, drawing, theme.space(5))
            set_name(one, name)
        set_icon(self.model_button, theme, Icon.CHEVRON_DOWN, theme.space(3.5))
        self.title.setFont(theme.font(weight=QFont.Weight.DemiBold))
        self.indicator.set_appearance(appearance)
        self._fit()
        self._models_shown = None
        self.refresh()

    def _margins(self) -> tuple[int, int, int, int]:
        """The title begins where the answers do, unless buttons stand before it."""
        theme = self._theme
        return (
            theme.space(3) if self.sidebar_button.isVisibleTo(self) else column_in(self.width(), theme)[0],
            theme.space(2),
            theme.space(3),
            theme.space(2),
        )

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._row.setContentsMargins(*self._margins())
        self._fit()

    def refresh(self) -> None:
        current = self._app.current
        # The list and its button say "New conversation" already.
        is_new = current is None or current.record is None
        untitled = "" if is_new and self.sidebar_button.isHidden() else self._texts.window.untitled
        self.title.setText(untitled if current is None or not current.title else current.title)
        self.more_button.setEnabled(current is not None)
        self.indicator.refresh()
        self._refresh_models()
        told = (
            f"{self._texts.window.model_name}: {self._model_shown}",
            budget_text(self._app.connection.budget, self._texts),
        )
        self.model_button.setToolTip("\n".join(filter(None, told)))

    def set_sidebar_shown(self, is_shown: bool) -> None:
        """With the sidebar its buttons are there already."""
        self.sidebar_button.setVisible(not is_shown)
        self.new_button.setVisible(not is_shown)
        self._row.setContentsMargins(*self._margins())
        self.refresh()

    def _fit(self) -> None:
        """Little room for the title: the indicator loses its words, an only model its button (it is in the settings).

        Large letters need more of it.
        """
        is_narrow = self.width() < _NARROW_EM * self._theme.body_px
        if is_narrow != self._is_narrow:
            self.indicator.set_short(is_narrow)
            self._is_narrow = is_narrow
            self._models_shown = None
            self._refresh_models()

    def _refresh_models(self) -> None:
        """The model of this conversation; its default is that of the settings, or else of the server."""
        models, current = self._app.models, self._app.current
        chosen = None if current is None else current.traits.model
        usual = self._app.settings.model or (models[0] if models else None)
        is_locked = "model" in self._app.locked
        if (models, chosen, usual, current is None, is_locked) == self._models_shown:
            return
        self._models_shown = (models, chosen, usual, current is None, is_locked)
        words, title_of = self._texts.window, self._app.connection.title_of
        default = words.model_default if usual is None else words.model_default_named.format(model=title_of(usual))
        menu = QMenu(self.model_button)
        group = QActionGroup(menu)
        choices: list[tuple[str, str | None]] = [(title_of(model), model) for model in models]
        if self._app.has_default_model:
            choices.insert(0, (default, None))
        if chosen is not None and chosen not in models:
            choices.append((words.model_gone.format(model=chosen), chosen))
        for text, model in choices:
            action = menu.addAction(text.replace("&", "&&"))
            action.setCheckable(True)
            action.setChecked(model == chosen)
            action.triggered.connect(lambda _checked=False, model=model: self._choose(model))
            group.addAction(action)
        old = self.model_button.menu()
        self.model_button.setMenu(menu)
        if old is not None:
            old.deleteLater()
        named = chosen or usual
        shown = words.model_default if named is None else title_of(named)
        metrics = QFontMetrics(self.model_button.font())
        self.model_button.setText(metrics.elidedText(shown, Qt.TextElideMode.ElideMiddle, self._theme.space(44)))
        self._model_shown = shown
        self.model_button.setAccessibleName(f"{words.model_name}: {shown}")
        self.model_button.setEnabled(not is_locked)
        is_one = len(choices) <= 2 and chosen in (None, *models)
        has_choice = current is not None and not self._app.is_kept and (bool(models) or chosen is not None)
        self.model_button.setVisible(has_choice and not (self._is_narrow and is_one))

    def _choose(self, model: str | None) -> None:
        if self._app.current is not None:
            self._app.current.set_traits(model=model)


class ElidedLabel(QLabel):
    """One line of text that gives up its end where there is no room, and says the whole as a tool tip."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

    def setText(self, text: str) -> None:  # noqa: N802
        """What to show; line breaks become spaces."""
        super().setText(" ".join(text.split()))
        self.setToolTip(self.text())
        self.setAccessibleName(self.text())

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        return QSize(24, self.fontMetrics().height() + 2)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        shown = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, self.width())
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), shown)


Choice: TypeAlias = tuple[str, Callable[[], object]]
"""A button's text, and what it does."""


class Banner(QFrame):
    """Hidden until it has something to say."""

    def __init__(self, appearance: Appearance) -> None:
        super().__init__()
        self.setProperty("variant", "banner")
        self._choices: tuple[Choice, ...] = ()
        self.text = label()
        self.button, self.second_button = (button("", partial(self._pressed, number)) for number in range(2))
        self._row = row(self.text, self.button, self.second_button, into=self)
        self._row.setStretch(0, 1)
        self.set_appearance(appearance)
        self.hide()

    def set_appearance(self, appearance: Appearance) -> None:
        space = appearance.theme.space
        self._row.setContentsMargins(space(3), space(1.5), space(1.5), space(1.5))
        self._row.setSpacing(space(3))

    def say(self, text: str, *choices: Choice) -> None:
        """Show this with at most two buttons; an empty text hides it."""
        self._choices = choices
        self.text.setText(text)
        for number, one in enumerate((self.button, self.second_button)):
            one.setText(choices[number][0] if number < len(choices) else "")
            one.setVisible(number < len(choices))
        self.setVisible(bool(text))

    def _pressed(self, number: int) -> None:
        self._choices[number][1]()
