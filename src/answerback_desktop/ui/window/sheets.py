"""The dialogs of the window: one of each at a time."""

from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from answerback_desktop.settings import Settings
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.about import AboutSheet
from answerback_desktop.ui.dialogs.help import HelpSheet
from answerback_desktop.ui.dialogs.settings import SettingsDialog
from answerback_desktop.ui.theme import Theme
from answerback_desktop.ui.tray import Tray
from answerback_desktop.viewmodels import AppViewModel, Changes

__all__ = ["Sheets"]


class Sheets(QObject):
    """Signals: `previewed(Settings)`: how they would look; the saved ones again after Cancel."""

    previewed = Signal(object)

    def __init__(self, app: AppViewModel, tray: Tray, log_path: Path, window: QWidget) -> None:
        super().__init__(window)
        self._app = app
        self._tray = tray
        self._log_path = log_path
        self._window = window
        self.settings: SettingsDialog | None = None

    def show_settings(self, texts: Texts, theme: Theme) -> None:
        """Open the settings, or bring them to the front."""
        if self.settings is not None:
            self.settings.raise_()
            return
        dialog = SettingsDialog(
            self._app, texts, theme, has_tray=self._tray.is_there, log_path=self._log_path, parent=self._window
        )
        self.settings = dialog
        dialog.previewed.connect(self._preview)
        dialog.finished.connect(self._settings_closed)
        dialog.about_button.clicked.connect(lambda: self._show_about(texts, theme))
        dialog.open()

    def show_help(self, texts: Texts, theme: Theme) -> None:
        """The shortcuts."""
        HelpSheet(texts, theme, self._window).open()

    def apply(self, changes: Changes) -> None:
        """Something happened behind an open dialog."""
        if self.settings is not None:
            self.settings.apply(changes)

    def _show_about(self, texts: Texts, theme: Theme) -> None:
        AboutSheet(texts, theme, self._log_path, self.settings or self._window).open()

    def _preview(self, settings: Settings) -> None:
        self.previewed.emit(settings)

    def _settings_closed(self, result: int) -> None:
        self.settings = None
        if not result:
            self.previewed.emit(self._app.settings)
