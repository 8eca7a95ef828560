"""The settings: pages that know their fields, checked while they are typed, saved together."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import (
    QDialogButtonBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QWidget,
)

from answerback_desktop.engine.events import SignInStatus
from answerback_desktop.settings import AuthMode, Field, Language, Settings, is_ca_file, problems, server_url_of
from answerback_desktop.settings import Theme as ThemeChoice
from answerback_desktop.ui.parts import Appearance, CheckBox, Choice, Dialog, Number, button, column, label, row
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels import AppViewModel, Changes

SIZES: Final = (9, 10, 11, 12, 13, 14, 16, 18, 21)
"""Of the text, in points."""


class Page(QWidget):
    """A form. Signals: `changed()`: something was typed or chosen.

    The words of a setting have its name: `ca_file`, `ca_file_hint` below the field, `ca_file_placeholder` in it.
    """

    changed = Signal()

    def __init__(self, app: AppViewModel, appearance: Appearance) -> None:
        super().__init__()
        self._app = app
        self._words = appearance.texts.preferences
        self._theme = theme = appearance.theme
        self._complaints: dict[Field, tuple[QWidget, QLabel]] = {}
        self._read: dict[str, Callable[[], Any]] = {}
        self._column = column(theme, gap=4, into=self)
        self._column.setContentsMargins(theme.space(1), theme.space(4), theme.space(3), theme.space(1))

    def values(self) -> Mapping[str, Any]:
        """What stands in the fields, by the names of `Settings`."""
        return {setting: read() for setting, read in self._read.items()}

    def wrong(self) -> frozenset[Field]:
        """Fields whose content cannot be used on this computer."""
        return frozenset()

    def mark(self, wrong: Collection[Field]) -> None:
        """Say beside each field of this page what is wrong with it."""
        for field, (_, complaint) in self._complaints.items():
            complaint.setVisible(field in wrong)

    def first_wrong(self, wrong: Collection[Field]) -> bool:
        """Put the cursor in the first wrong field; whether this page has one."""
        for field, (widget, _) in self._complaints.items():
            if field in wrong:
                widget.setFocus()
                return True
        return False

    # --- fields

    def _line(
        self, setting: str, *, box: QLineEdit | None = None, placeholder: str = "", beside: QPushButton | None = None
    ) -> QLineEdit:
        box = QLineEdit(getattr(self._app.settings, setting)) if box is None else box
        box.setPlaceholderText(placeholder or getattr(self._words, f"{setting}_placeholder", ""))
        box.textChanged.connect(self.changed)
        self._read[setting] = lambda: box.text().strip()
        self._row(setting, box, beside=beside)
        return box

    def _choice(self, setting: str, names: Mapping[Any, str], *, hint: QLabel | None = None) -> Choice:
        usual = getattr(self._app.settings, setting)
        choice = Choice(self._theme, names, usual)
        choice.currentIndexChanged.connect(self.changed)
        self._read[setting] = lambda: type(usual)(choice.currentData())  # Qt keeps the text of an enumeration
        self._row(setting, choice, hint=hint)
        return choice

    def _check_box(self, setting: str, *, hint: str = "") -> CheckBox:
        box = CheckBox(getattr(self._words, setting), self._theme)
        box.setChecked(getattr(self._app.settings, setting))
        box.toggled.connect(self.changed)
        hint = hint or getattr(self._words, f"{setting}_hint")
        box.setAccessibleDescription(hint)
        self._read[setting] = box.isChecked
        self._stack(box, setting=setting, hint=hint)
        return box

    def _row(
        self, setting: str, widget: QWidget, *, hint: QLabel | None = None, beside: QPushButton | None = None
    ) -> None:
        """A name, the field of a setting with a button beside it, room for what is wrong with it, and a hint."""
        title = QLabel(getattr(self._words, setting))
        title.setBuddy(widget)
        widget.setAccessibleName(title.text())
        holder = widget
        if beside is not None:
            holder = QWidget()
            row(widget, beside, into=holder).setStretch(0, 1)
        parts: list[QWidget] = [title, holder]
        if setting in set(Field):
            complaint = label(self._words.problems[Field(setting)], "error")
            complaint.hide()
            parts.append(complaint)
            self._complaints[Field(setting)] = (widget, complaint)
        self._stack(*parts, setting=setting, hint=hint or str(getattr(self._words, f"{setting}_hint", "")))

    def _stack(self, *parts: QWidget, setting: str = "", hint: QLabel | str = "") -> None:
        """One group of the page. What the administrator decides can be read, and not changed."""
        holder = QWidget()
        if setting in self._app.locked:
            hint = self._words.locked
            for part in parts[-1:] if len(parts) == 1 else parts[1:]:
                part.setEnabled(False)
        policy = holder.sizePolicy()
        policy.setHeightForWidth(True)
        holder.setSizePolicy(policy)
        group = column(self._theme, gap=1, into=holder)
        for part in parts:
            group.addWidget(part)
        if hint:
            group.addWidget(label(hint, "muted") if isinstance(hint, str) else hint)
        self._column.addWidget(holder)


class ServerPage(Page):
    """The server, and who asks."""

    def __init__(self, app: AppViewModel, appearance: Appearance) -> None:
        super().__init__(app, appearance)
        words, settings = self._words, app.settings
        self.url = self._line("server_url")
        self._auth_hint = label("", "muted")
        self.auth = self._choice("auth", {mode: words.auth_modes[mode] for mode in AuthMode}, hint=self._auth_hint)
        self.user = self._line("user")
        self.token = self._line("token", placeholder=words.token_kept if settings.auth is AuthMode.TOKEN else "")
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.issuer = self._line("oidc_issuer", placeholder="https://id.example.com")
        self.client_id = self._line("oidc_client_id")
        self._sign_in_state = label()
        self.sign_in_button = button("", self._sign_in_pressed)
        holder = QWidget()
        row(self._sign_in_state, self.sign_in_button, into=holder).setStretch(0, 1)
        self._column.addWidget(holder)
        self.ca_file = self._line("ca_file", beside=button(words.ca_file_choose, self._choose_ca_file))
        self.proxy = self._line("proxy")
        self.starts_gateway = self._check_box("starts_gateway")
        models = {name: name for name in filter(None, (settings.local_model, *app.local_models))}
        self.local_model = self._choice("local_model", {"": words.local_model_embedded} | models)
        _group_of(self.local_model).setVisible(self.local_model.count() > 1)
        self._column.addStretch(1)
        self._of_mode = {
            self.user: AuthMode.NONE,
            self.token: AuthMode.TOKEN,
            self.issuer: AuthMode.OIDC,
            self.client_id: AuthMode.OIDC,
            self.sign_in_button: AuthMode.OIDC,
        }
        self._read["server_url"] = lambda: server_url_of(self.url.text())
        self._read["token"] = lambda: self.token.text().strip() if self.mode is AuthMode.TOKEN else ""
        self.url.editingFinished.connect(lambda: self.url.setText(server_url_of(self.url.text())))
        self.auth.currentIndexChanged.connect(self._mode_chosen)
        self._mode_chosen()
        self.refresh_sign_in()

    @property
    def mode(self) -> AuthMode:
        return AuthMode(self.auth.currentData())

    def refresh_sign_in(self) -> None:
        """Who is signed in, and what can be done about it. Only the saved service can be signed in to."""
        words, state, saved = self._words, self._app.sign_in, self._app.settings
        is_saved = saved.auth is AuthMode.OIDC
        match state.status:
            case SignInStatus.SIGNED_IN:
                text = words.signed_in_as.format(user=state.user) if state.user else words.signed_in
                offer = words.sign_out
            case SignInStatus.WAITING_FOR_BROWSER:
                text, offer = words.sign_in_waiting, words.sign_in_cancel
            case _:
                text, offer = words.signed_out if is_saved else words.sign_in_save_first, words.sign_in
        self._sign_in_state.setText(text)
        self.sign_in_button.setText(offer)
        self.sign_in_button.setVisible(is_saved)

    def wrong(self) -> frozenset[Field]:
        path = self.ca_file.text().strip()
        return frozenset({Field.CA_FILE} if path and not is_ca_file(path) else ())

    def _choose_ca_file(self) -> None:
        dialog = QFileDialog(self, self._words.ca_file, str(Path(self.ca_file.text() or Path.home()).parent))
        dialog.setNameFilters([self._words.ca_file_filter, self._words.all_files])
        dialog.fileSelected.connect(self.ca_file.setText)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _sign_in_pressed(self) -> None:
        match self._app.sign_in.status:
            case SignInStatus.SIGNED_IN:
                self._app.commands.sign_out()
            case SignInStatus.WAITING_FOR_BROWSER:
                self._app.commands.cancel_sign_in()
            case _:
                self._app.commands.sign_in()

    def _mode_chosen(self) -> None:
        mode = self.mode
        self._auth_hint.setText(self._words.auth_hints[mode])
        for widget, its_mode in self._of_mode.items():
            _group_of(widget).setVisible(its_mode is mode)
        self.changed.emit()


def _group_of(field: QWidget) -> QWidget:
    group = field.parentWidget()
    assert group is not None
    return group


class AnswersPage(Page):
    """What questions are asked with."""

    def __init__(self, app: AppViewModel, appearance: Appearance) -> None:
        super().__init__(app, appearance)
        settings = app.settings
        self.model = Choice(self._theme)
        self._chosen = settings.model
        self.refresh_models()
        self._row("model", self.model)
        self.system = QPlainTextEdit(settings.system or "")
        self.system.setPlaceholderText(self._words.system_placeholder)
        self.system.setTabChangesFocus(True)
        self.system.setMinimumHeight(self._theme.space(30))
        self._row("system", self.system)
        number = Number(settings.max_tokens)
        self.max_tokens = self._line("max_tokens", box=number, placeholder=self._words.max_tokens_default)
        self._read["max_tokens"] = number.value
        self._read["model"] = lambda: self._chosen
        self._read["system"] = lambda: self.system.toPlainText().strip() or None
        self.model.activated.connect(self._model_chosen)
        self.system.textChanged.connect(self.changed)
        self._column.addStretch(1)

    def refresh_models(self) -> None:
        """The server's models, and the chosen one even if it is not among them."""
        models = list(self._app.models)
        if self._chosen is not None and self._chosen not in models:
            models.append(self._chosen)
        self.model.clear()
        if self._app.has_default_model:
            self.model.addItem(self._words.model_default, None)
        for model in models:
            self.model.addItem(self._app.connection.title_of(model), model)
        self.model.setCurrentIndex(self.model.findData(self._chosen))

    def _model_chosen(self) -> None:
        self._chosen = self.model.currentData()
        self.changed.emit()


class AppearancePage(Page):
    """Colours, size, language."""

    def __init__(self, app: AppViewModel, appearance: Appearance) -> None:
        super().__init__(app, appearance)
        words = self._words
        sizes = {size: f"{size}{words.font_size_unit}" for size in sorted({*SIZES, app.settings.font_size})}
        self.theme = self._choice("theme", {choice: words.themes[choice] for choice in ThemeChoice})
        self.font_size = self._choice("font_size", sizes)
        self.language = self._choice("language", {language: words.languages[language] for language in Language})
        self._column.addStretch(1)


class DesktopPage(Page):
    """Notifications, the tray, the log."""

    def __init__(self, app: AppViewModel, appearance: Appearance, *, has_tray: bool, log_path: Path) -> None:
        super().__init__(app, appearance)
        words = self._words
        self.notifications = self._check_box("notifications")
        self.tray = self._check_box("tray", hint="" if has_tray else words.tray_missing)
        self.tray.setEnabled(has_tray and self.tray.isEnabled())
        holder = QWidget()
        show = button(words.show_log, lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(log_path))))
        row(label(str(log_path), "muted", can_copy=True), show, into=holder).setStretch(0, 1)
        self._stack(QLabel(words.log), holder)
        self._column.addStretch(1)


class SettingsDialog(Dialog):
    """Shows `app.settings`; Save gives the changed ones to `app.change_settings`.

    Signals: `previewed(Settings)`: theme, size or language were changed and can be looked at before they are saved.
    """

    previewed = Signal(object)

    def __init__(
        self, app: AppViewModel, appearance: Appearance, *, has_tray: bool, log_path: Path, parent: QWidget
    ) -> None:
        words, theme = appearance.texts.preferences, appearance.theme
        super().__init__(parent, words.title, theme, margin=4)
        self._app = app
        self.server = ServerPage(app, appearance)
        self.answers = AnswersPage(app, appearance)
        self.appearance = AppearancePage(app, appearance)
        self.desktop = DesktopPage(app, appearance, has_tray=has_tray, log_path=log_path)
        self._pages = (self.server, self.answers, self.appearance, self.desktop)
        self.tabs = QTabWidget()
        for name, *pages in (
            (words.page_server, self.server),
            (words.page_answers, self.answers),
            (words.page_app, self.appearance, self.desktop),
        ):
            self.tabs.addTab(_scrolling(theme, *pages), name)
        for page in self._pages:
            page.changed.connect(self._check)
        self.appearance.changed.connect(self._preview)
        self.about_button = QPushButton(appearance.texts.window.about)
        self.about_button.setProperty("variant", "quiet")
        self.about_button.setAutoDefault(False)
        self.buttons = QDialogButtonBox()
        self.save_button = self.buttons.addButton(words.save, QDialogButtonBox.ButtonRole.AcceptRole)
        self.save_button.setProperty("variant", "primary")
        self.buttons.addButton(words.cancel, QDialogButtonBox.ButtonRole.RejectRole)
        self.buttons.accepted.connect(self.save)
        self.buttons.rejected.connect(self.reject)
        self.column.addWidget(self.tabs, 1)
        bottom = QHBoxLayout()
        bottom.addWidget(self.about_button)
        bottom.addWidget(self.buttons, 1)
        self.column.addLayout(bottom)
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


def _scrolling(theme: Theme, *pages: QWidget) -> QScrollArea:
    """Pages below each other. A small screen and a large font leave little room."""
    holder = QWidget()
    below = column(theme, into=holder)
    for page in pages:
        below.addWidget(page)
    below.addStretch(1)
    area = QScrollArea()
    area.setWidget(holder)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    return area
