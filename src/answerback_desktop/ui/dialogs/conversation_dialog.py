"""What one conversation has of its own: tags, a model, instructions."""

from PySide6.QtWidgets import (
    QFormLayout,
    QLineEdit,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.fields import CheckBox, Choice, Dialog
from answerback_desktop.ui.parts import button, label, row
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels import AppViewModel, ConversationViewModel


class ConversationDialog(Dialog):
    """Show it with `open()`. What is saved holds from the next question on, in this app only."""

    def __init__(
        self, app: AppViewModel, conversation: ConversationViewModel, texts: Texts, theme: Theme, parent: QWidget
    ) -> None:
        words = texts.window
        super().__init__(parent, words.conversation_title)
        self._conversation = conversation
        traits, settings = conversation.traits, app.settings
        self.tags = QLineEdit(", ".join(traits.tags))
        self.model = Choice(theme)
        usual = settings.model or next(iter(app.connection.models), None)
        default = words.model_default if usual is None else words.model_default_named.format(model=usual)
        names = [*app.connection.models]
        if traits.model is not None and traits.model not in names:
            names.append(traits.model)
        self.model.addItem(default, None)
        for name in names:
            self.model.addItem(name, name)
        self.model.setCurrentIndex(0 if traits.model is None else names.index(traits.model) + 1)
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
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(5)] * 4)
        column.setSpacing(theme.space(3))
        column.addLayout(form)
        column.addWidget(self.own_system)
        column.addWidget(self.system, 1)
        column.addWidget(label(words.own_system_hint, "muted"))
        self.save_button = button(words.save, self.save, "primary")
        self.save_button.setDefault(True)
        column.addLayout(row(None, button(texts.status.cancel, self.reject), self.save_button))
        self.resize(theme.space(130), theme.space(110))

    def save(self) -> None:
        tags = (" ".join(tag.split()).lstrip("#") for tag in self.tags.text().split(","))
        self._conversation.set_traits(
            tags=tuple(dict.fromkeys(tag for tag in tags if tag)),
            model=self.model.currentData(),
            system=self.system.toPlainText() if self.own_system.isChecked() else None,
        )
        self.accept()
