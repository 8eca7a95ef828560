"""The dialogs of the window: one of each at a time."""

from collections.abc import Iterable
from pathlib import Path

import PySide6
from PySide6.QtCore import QObject, Qt, QUrl, Signal, qVersion
from PySide6.QtGui import QDesktopServices, QFont
from PySide6.QtWidgets import (
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QWidget,
)

from answerback import __version__
from answerback.client.uploads import disk_name
from answerback_desktop.engine.events import Exported, FileFetched
from answerback_desktop.texts import Texts
from answerback_desktop.ui.parts import Appearance, CheckBox, Choice, Dialog, button, column, file_dialog, label, row
from answerback_desktop.ui.settings_dialog import SettingsDialog
from answerback_desktop.ui.shortcuts import GROUPS, shown
from answerback_desktop.ui.theme import Icon
from answerback_desktop.ui.window.notifications import Toast, Tray
from answerback_desktop.viewmodels import AppViewModel, Changes, ConversationViewModel

QT_SOURCE_URL = "https://code.qt.io/"


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

    def show_settings(self, appearance: Appearance) -> None:
        if self.settings is not None:
            self.settings.raise_()
            return
        dialog = SettingsDialog(
            self._app, appearance, has_tray=self._tray.is_there, log_path=self._log_path, parent=self._window
        )
        self.settings = dialog
        dialog.previewed.connect(self.previewed)
        dialog.finished.connect(self._settings_closed)
        dialog.about_button.clicked.connect(lambda: AboutDialog(appearance, self._log_path, dialog).open())
        dialog.open()

    def choose_import(self, texts: Texts) -> None:
        """A file with conversations."""
        dialog = file_dialog(self._window, texts.window.import_title, kinds=texts.window.import_files)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(lambda path: self._app.commands.import_file(Path(path)))
        dialog.open()

    def apply(self, changes: Changes) -> None:
        """Update open dialogs after a change."""
        if self.settings is not None:
            self.settings.apply(changes)

    def _settings_closed(self, result: int) -> None:
        self.settings = None
        if not result:
            self.previewed.emit(self._app.settings)


class Exporter(QObject):
    """Writes a conversation, or a file of a question, where the person chooses.

    Signals: `reported(Toast)`: how it went.
    """

    reported = Signal(object)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._window = parent
        self.dialog: QFileDialog | None = None

    def save(self, exported: Exported | FileFetched, texts: Texts) -> None:
        words = texts.window
        match exported:
            case Exported(file_name=name, text=text):
                title, told, data = words.export_title, words.exported, text.encode()
            case FileFetched(file):
                title, told, name, data = words.save_title, words.saved, disk_name(file.name), file.data
        dialog = file_dialog(self._window, title, name)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        if isinstance(exported, Exported):
            is_json = name.endswith(".json")
            dialog.setNameFilter(words.json_files if is_json else words.markdown_files)
            dialog.setDefaultSuffix("json" if is_json else "md")
        dialog.fileSelected.connect(lambda path: self.write(Path(path), data, told, texts))
        self.dialog = dialog
        dialog.open()

    def write(self, path: Path, data: bytes, told: str, texts: Texts) -> None:
        words = texts.window
        try:
            path.write_bytes(data)
        except OSError:
            self.reported.emit(Toast(text=words.export_failed))
            return
        show = lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent)))  # noqa: E731
        self.reported.emit(Toast(text=told.format(file=path.name), action=words.show_file, act=show))


class AboutDialog(Dialog):
    """Version, licences, and where the log is."""

    def __init__(self, appearance: Appearance, log_path: Path, parent: QWidget) -> None:
        words, theme = appearance.texts.window, appearance.theme
        super().__init__(parent, words.about, theme, margin=6)
        mark = QLabel()
        mark.setPixmap(theme.pixmap(Icon.CHAT, theme.space(10), "accent", scale=self.devicePixelRatioF()))
        self.column.addWidget(mark)
        self.column.addWidget(label(words.about_title, "title"))
        qt = words.about_qt.format(qt=qVersion(), pyside=PySide6.__version__)
        for text, variant in (
            (words.about_version.format(version=__version__), "muted"),
            (words.about_what, ""),
            (words.about_licence, ""),
            (qt, ""),
            (words.about_others, "muted"),
            (f"{words.about_log}: {log_path}", "muted"),
        ):
            line = label(text, variant, can_copy=True)
            line.setMinimumWidth(theme.space(100))
            self.column.addWidget(line)
        buttons = QDialogButtonBox()
        source = button(words.about_qt_source, lambda: QDesktopServices.openUrl(QUrl(QT_SOURCE_URL)), "quiet")
        buttons.addButton(source, QDialogButtonBox.ButtonRole.ActionRole)
        close = buttons.addButton(words.close, QDialogButtonBox.ButtonRole.RejectRole)
        close.setDefault(True)
        close.setFocus()
        buttons.rejected.connect(self.reject)
        self.column.addSpacing(theme.space(2))
        self.column.addWidget(buttons)


class HelpDialog(Dialog):
    """All keyboard shortcuts, in groups."""

    def __init__(self, appearance: Appearance, parent: QWidget) -> None:
        words, theme = appearance.texts.window, appearance.theme
        super().__init__(parent, words.help_title, theme, margin=6, gap=5)
        groups = QHBoxLayout()
        groups.setSpacing(theme.space(10))
        left, right = column(theme, gap=5), column(theme, gap=5)
        for side in (left, right):
            groups.addLayout(side, 1)
        for side, (name, group) in zip((left, left, right), GROUPS.items(), strict=True):
            side.addLayout(_group(words.shortcut_groups[name], group, appearance))
        left.addStretch(1)
        right.addStretch(1)
        self.column.addLayout(groups)
        bottom = QHBoxLayout()
        bottom.addWidget(label(words.help_hint.format(key=shown("help")), "muted"), 1)
        buttons = QDialogButtonBox()
        buttons.addButton(words.close, QDialogButtonBox.ButtonRole.RejectRole)
        buttons.rejected.connect(self.reject)
        bottom.addWidget(buttons)
        self.column.addLayout(bottom)


def _group(title: str, shortcuts: Iterable[str], appearance: Appearance) -> QGridLayout:
    grid, theme = QGridLayout(), appearance.theme
    grid.setHorizontalSpacing(theme.space(8))
    grid.setVerticalSpacing(theme.space(2))
    grid.setColumnStretch(0, 1)
    head = QLabel(title)
    head.setFont(theme.font(weight=QFont.Weight.DemiBold))
    grid.addWidget(head, 0, 0, 1, 2)
    for line, shortcut in enumerate(shortcuts, start=1):
        grid.addWidget(QLabel(appearance.texts.window.shortcuts[shortcut]), line, 0)
        key = label(shown(shortcut), "muted", wraps=False)
        key.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(key, line, 1)
    return grid


class ConversationDialog(Dialog):
    """Show it with `open()`. What is saved holds from the next question on, in this app only."""

    def __init__(
        self, app: AppViewModel, conversation: ConversationViewModel, appearance: Appearance, parent: QWidget
    ) -> None:
        words, theme = appearance.texts.window, appearance.theme
        super().__init__(parent, words.conversation_title, theme)
        self._conversation = conversation
        traits, settings = conversation.traits, app.settings
        self.tags = QLineEdit(", ".join(traits.tags))
        usual = settings.model or next(iter(app.connection.models), None)
        default = words.model_default if usual is None else words.model_default_named.format(model=usual)
        names = {name: name for name in (*app.connection.models, traits.model) if name is not None}
        self.model = Choice(theme, {None: default, **names}, traits.model)
        self.own_system = CheckBox(words.own_system, theme)
        self.own_system.setChecked(traits.system is not None)
        self.system = QPlainTextEdit((settings.system or "") if traits.system is None else traits.system)
        self.system.setTabChangesFocus(True)
        self.system.setAccessibleName(words.own_system)
        self.system.setEnabled(traits.system is not None)
        self.own_system.toggled.connect(self.system.setEnabled)
        form = QFormLayout()
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        form.setVerticalSpacing(theme.space(2))
        form.addRow(words.tags, self.tags)
        form.addRow("", label(words.tags_hint, "muted"))
        form.addRow(words.model_name, self.model)
        self.column.addLayout(form)
        self.column.addWidget(self.own_system)
        self.column.addWidget(self.system, 1)
        self.column.addWidget(label(words.own_system_hint, "muted"))
        self.save_button = button(words.save, self.save, "primary")
        self.save_button.setDefault(True)
        self.column.addLayout(row(None, button(appearance.texts.status.cancel, self.reject), self.save_button))
        self.resize(theme.space(130), theme.space(110))

    def save(self) -> None:
        tags = (" ".join(tag.split()).lstrip("#") for tag in self.tags.text().split(","))
        self._conversation.set_traits(
            tags=tuple(dict.fromkeys(tag for tag in tags if tag)),
            model=self.model.currentData(),
            system=self.system.toPlainText() if self.own_system.isChecked() else None,
        )
        self.accept()
