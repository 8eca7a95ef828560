"""The dialogs of the window: one of each at a time."""

from pathlib import Path

from PySide6.QtCore import QObject, QStandardPaths, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QWidget

from answerback.client.uploads import disk_name
from answerback_desktop.engine.events import Exported, FileFetched
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.about import AboutDialog, HelpDialog
from answerback_desktop.ui.dialogs.conversation_dialog import ConversationDialog
from answerback_desktop.ui.dialogs.settings import SettingsDialog
from answerback_desktop.ui.theme import Theme
from answerback_desktop.ui.tray import Tray
from answerback_desktop.ui.window.toast import Toast
from answerback_desktop.viewmodels import AppViewModel, Changes, ConversationViewModel


class Dialogs(QObject):
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
        if self.settings is not None:
            self.settings.raise_()
            return
        dialog = SettingsDialog(
            self._app, texts, theme, has_tray=self._tray.is_there, log_path=self._log_path, parent=self._window
        )
        self.settings = dialog
        dialog.previewed.connect(self.previewed)
        dialog.finished.connect(self._settings_closed)
        dialog.about_button.clicked.connect(lambda: self._show_about(texts, theme))
        dialog.open()

    def show_help(self, texts: Texts, theme: Theme) -> None:
        HelpDialog(texts, theme, self._window).open()

    def show_conversation(self, conversation: ConversationViewModel, texts: Texts, theme: Theme) -> None:
        """What it has of its own."""
        ConversationDialog(self._app, conversation, texts, theme, self._window).open()

    def choose_import(self, texts: Texts) -> None:
        """A file with conversations."""
        words = texts.window
        folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        dialog = QFileDialog(self._window, words.import_title, folder, words.import_files)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(lambda path: self._app.commands.import_file(Path(path)))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def apply(self, changes: Changes) -> None:
        """Update open dialogs after a change."""
        if self.settings is not None:
            self.settings.apply(changes)

    def _show_about(self, texts: Texts, theme: Theme) -> None:
        AboutDialog(texts, theme, self._log_path, self.settings or self._window).open()

    def _settings_closed(self, result: int) -> None:
        self.settings = None
        if not result:
            self.previewed.emit(self._app.settings)


class Exporter(QObject):
    """Writes a conversation, or a file of a question, where the person chooses.

    Signals: `reported(Toast)`: how it went.
    """

    reported = Signal(object)

    def __init__(self, texts: Texts, parent: QWidget) -> None:
        super().__init__(parent)
        self._window = parent
        self._texts = texts
        self.dialog: QFileDialog | None = None

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts

    def save(self, exported: Exported | FileFetched) -> None:
        words = self._texts.window
        match exported:
            case Exported(file_name=name, text=text):
                title, told, data = words.export_title, words.exported, text.encode()
            case FileFetched(file):
                title, told, name, data = words.save_title, words.saved, disk_name(file.name), file.data
        folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        dialog = QFileDialog(self._window, title, str(Path(folder) / name))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        if isinstance(exported, Exported):
            is_json = name.endswith(".json")
            dialog.setNameFilter(words.json_files if is_json else words.markdown_files)
            dialog.setDefaultSuffix("json" if is_json else "md")
        dialog.fileSelected.connect(lambda path: self.write(Path(path), data, told))
        dialog.finished.connect(dialog.deleteLater)
        self.dialog = dialog
        dialog.open()

    def write(self, path: Path, data: bytes, told: str) -> None:
        words = self._texts.window
        try:
            path.write_bytes(data)
        except OSError:
            self.reported.emit(Toast(text=words.export_failed))
            return
        show = lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent)))  # noqa: E731
        self.reported.emit(Toast(text=told.format(file=path.name), action=words.show_file, act=show))
