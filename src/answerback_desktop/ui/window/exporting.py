"""A conversation becomes a file where the person wants it."""

from pathlib import Path

from PySide6.QtCore import QObject, QStandardPaths, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QWidget

from answerback_desktop.engine.events import Exported
from answerback_desktop.texts import Texts
from answerback_desktop.ui.window.toast import Toast

__all__ = ["Exporter"]


class Exporter(QObject):
    """Asks for a place and writes there. Signals: `told(Toast)`: how it went."""

    told = Signal(object)

    def __init__(self, texts: Texts, parent: QWidget) -> None:
        super().__init__(parent)
        self._window = parent
        self._texts = texts
        self.dialog: QFileDialog | None = None

    def set_texts(self, texts: Texts) -> None:
        """Another language."""
        self._texts = texts

    def save(self, exported: Exported) -> None:
        """Ask where, then write."""
        words = self._texts.window
        is_json = exported.file_name.endswith(".json")
        folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        dialog = QFileDialog(self._window, words.export_title, str(Path(folder) / exported.file_name))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilter(words.json_files if is_json else words.markdown_files)
        dialog.setDefaultSuffix("json" if is_json else "md")
        dialog.fileSelected.connect(lambda path: self.write(Path(path), exported.text))
        dialog.finished.connect(dialog.deleteLater)
        self.dialog = dialog
        dialog.open()

    def write(self, path: Path, text: str) -> None:
        """Write the file and say so."""
        words = self._texts.window
        try:
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError:
            self.told.emit(Toast(text=words.export_failed))
            return
        show = lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent)))  # noqa: E731
        self.told.emit(Toast(text=words.exported.format(file=path.name), action=words.show_file, act=show))
