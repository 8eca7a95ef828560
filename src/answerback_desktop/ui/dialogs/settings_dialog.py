"""The settings: three pages, checked while they are typed, saved together."""

from pathlib import Path

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QDialogButtonBox,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.settings import Field, Settings, problems
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.fields import Dialog
from answerback_desktop.ui.dialogs.settings_pages import AnswersPage, AppearancePage, MannersPage, ServerPage
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels import AppViewModel, Changes


class SettingsDialog(Dialog):
    """Shows `app.settings`; Save gives the changed ones to `app.change_settings`.

    Signals: `previewed(Settings)`: theme, size or language were changed and can be looked at before they are saved.
    """

    previewed = Signal(object)

    def __init__(
        self, app: AppViewModel, texts: Texts, theme: Theme, *, has_tray: bool, log_path: Path, parent: QWidget
    ) -> None:
        super().__init__(parent, texts.preferences.title)
        self._app = app
        self._texts = texts
        self.server = ServerPage(app, texts, theme)
        self.answers = AnswersPage(app, texts, theme)
        self.appearance = AppearancePage(app, texts, theme)
        self.manners = MannersPage(app, texts, theme, has_tray=has_tray, log_path=log_path)
        self._pages = (self.server, self.answers, self.appearance, self.manners)
        words = texts.preferences
        self.tabs = QTabWidget()
        for name, *pages in (
            (words.page_server, self.server),
            (words.page_answers, self.answers),
            (words.page_app, self.appearance, self.manners),
        ):
            self.tabs.addTab(_scrolling(*pages), name)
        for page in self._pages:
            page.changed.connect(self._check)
        self.appearance.changed.connect(self._preview)
        self.about_button = QPushButton(texts.window.about)
        self.about_button.setProperty("variant", "quiet")
        self.about_button.setAutoDefault(False)
        self.buttons = QDialogButtonBox()
        self.save_button = self.buttons.addButton(words.save, QDialogButtonBox.ButtonRole.AcceptRole)
        self.save_button.setProperty("variant", "primary")
        self.buttons.addButton(words.cancel, QDialogButtonBox.ButtonRole.RejectRole)
        self.buttons.accepted.connect(self.save)
        self.buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(4)] * 4)
        column.setSpacing(theme.space(3))
        column.addWidget(self.tabs, 1)
        bottom = QHBoxLayout()
        bottom.addWidget(self.about_button)
        bottom.addWidget(self.buttons, 1)
        column.addLayout(bottom)
        tallest = max(page.sizeHint().height() for page in self._pages)
        room = parent.screen().availableGeometry().height() * 9 // 10
        self.resize(theme.space(130), min(tallest + theme.space(40), room))
        self.server.url.setFocus()
        self._check()

    @property
    def settings(self) -> Settings:
        settings = self._app.settings
        for page in self._pages:
            settings = msgspec.structs.replace(settings, **page.values())
        return settings

    def apply(self, changes: Changes) -> None:
        """The sign-in or the connection changed behind the dialog."""
        if changes.sign_in or changes.settings:
            self.server.refresh_sign_in()
        if changes.connection:
            self.answers.refresh_models()

    def save(self) -> None:
        """Let them hold and close; if something is wrong, show where."""
        wrong = self._wrong() or self._app.change_settings(self.settings)
        if not wrong:
            self.accept()
            return
        self._check()
        for page in self._pages:
            if page.first_wrong(wrong):
                self.tabs.setCurrentIndex(min(self._pages.index(page), self.tabs.count() - 1))
                return

    def _check(self) -> None:
        wrong = self._wrong()
        for page in self._pages:
            page.mark(wrong)
        self.save_button.setEnabled(not wrong)

    def _wrong(self) -> frozenset[Field]:
        return frozenset(problems(self.settings)).union(*(page.wrong() for page in self._pages))

    def _preview(self) -> None:
        if not problems(self.settings):
            self.previewed.emit(self.settings)


def _scrolling(*pages: QWidget) -> QScrollArea:
    """Pages below each other. A small screen and a large font leave little room."""
    holder = QWidget()
    column = QVBoxLayout(holder)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(0)
    for page in pages:
        column.addWidget(page)
    column.addStretch(1)
    area = QScrollArea()
    area.setWidget(holder)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    return area
