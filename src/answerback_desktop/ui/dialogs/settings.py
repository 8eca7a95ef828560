"""The settings: pages that know their fields, checked while they are typed, saved together."""

from collections.abc import Collection, Mapping
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
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.engine.events import SignInStatus
from answerback_desktop.settings import AuthMode, Field, Language, Settings, is_ca_file, problems, server_url_of
from answerback_desktop.settings import Theme as ThemeChoice
from answerback_desktop.texts import Texts
from answerback_desktop.ui.dialogs.fields import CheckBox, Choice, Dialog, Number
from answerback_desktop.ui.parts import button, label, row
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels import AppViewModel, Changes

SIZES: Final = (9, 10, 11, 12, 13, 14, 16, 18, 21)
"""Of the text, in points."""


class Page(QWidget):
    """A form. Signals: `changed()`: something was typed or chosen."""

    changed = Signal()

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme) -> None:
        super().__init__()
        self._app = app
        self._texts = texts
        self._theme = theme
        self._complaints: dict[Field, tuple[QWidget, QLabel]] = {}
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(theme.space(1), theme.space(4), theme.space(3), theme.space(1))
        self._column.setSpacing(theme.space(4))

    def values(self) -> Mapping[str, Any]:
        """What stands in the fields, by the names of `Settings`."""
        raise NotImplementedError

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

    def _row(
        self,
        name: str,
        widget: QWidget,
        setting: str,
        *,
        hint: QLabel | str = "",
        field: Field | None = None,
        beside: QPushButton | None = None,
    ) -> QWidget:
        """A name, the field of a setting with a button beside it, room for what is wrong with it, and a hint."""
        title = QLabel(name)
        title.setBuddy(widget)
        widget.setAccessibleName(name)
        holder = widget
        if beside is not None:
            holder = QWidget()
            row(widget, beside, into=holder).setStretch(0, 1)
        parts: list[QWidget] = [title, holder]
        if field is not None:
            complaint = label(self._texts.preferences.problems[field], "error")
            complaint.hide()
            parts.append(complaint)
            self._complaints[field] = (widget, complaint)
        return self._stack(*parts, setting=setting, hint=hint)

    def _stack(self, *parts: QWidget, setting: str = "", hint: QLabel | str = "") -> QWidget:
        """One group of the page. What the administrator decides can be read, and not changed."""
        holder = QWidget()
        if setting in self._app.locked:
            hint = self._texts.preferences.locked
            for part in parts[-1:] if len(parts) == 1 else parts[1:]:
                part.setEnabled(False)
        policy = holder.sizePolicy()
        policy.setHeightForWidth(True)
        holder.setSizePolicy(policy)
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(self._theme.space(1))
        for part in parts:
            column.addWidget(part)
        if hint:
            column.addWidget(label(hint, "muted") if isinstance(hint, str) else hint)
        self._column.addWidget(holder)
        return holder


class ServerPage(Page):
    """The server, and who asks."""

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme) -> None:
        super().__init__(app, texts, theme)
        words, settings = texts.preferences, app.settings
        self.url = QLineEdit(settings.server_url)
        self.auth = Choice(theme, {mode: words.auth_modes[mode] for mode in AuthMode}, settings.auth)
        self.user = QLineEdit(settings.user)
        self.user.setPlaceholderText(words.user_placeholder)
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        if settings.auth is AuthMode.TOKEN:
            self.token.setPlaceholderText(words.token_kept)
        self.issuer = QLineEdit(settings.oidc_issuer)
        self.issuer.setPlaceholderText("https://id.example.com")
        self.client_id = QLineEdit(settings.oidc_client_id)
        self.starts_gateway = CheckBox(words.starts_gateway, theme)
        self.starts_gateway.setChecked(settings.starts_gateway)
        self.ca_file = QLineEdit(settings.ca_file)
        self.ca_file.setPlaceholderText(words.ca_file_placeholder)
        self.proxy = QLineEdit(settings.proxy)
        self.proxy.setPlaceholderText(words.proxy_placeholder)
        choose = button(words.ca_file_choose, self._choose_ca_file)

        self._row(words.server_url, self.url, "server_url", hint=words.server_url_hint, field=Field.SERVER_URL)
        self._auth_hint = label("", "muted")
        self._row(words.auth, self.auth, "auth", hint=self._auth_hint)
        self._of_mode = {
            self._row(words.user, self.user, "user", field=Field.USER): AuthMode.NONE,
            self._row(words.token, self.token, "token", hint=words.token_hint, field=Field.TOKEN): AuthMode.TOKEN,
            self._row(words.oidc_issuer, self.issuer, "oidc_issuer", field=Field.OIDC_ISSUER): AuthMode.OIDC,
            self._row(
                words.oidc_client_id, self.client_id, "oidc_client_id", field=Field.OIDC_CLIENT_ID
            ): AuthMode.OIDC,
            self._sign_in_row(): AuthMode.OIDC,
        }
        self._row(words.ca_file, self.ca_file, "ca_file", hint=words.ca_file_hint, field=Field.CA_FILE, beside=choose)
        self._row(words.proxy, self.proxy, "proxy", hint=words.proxy_hint, field=Field.PROXY)
        self._stack(self.starts_gateway, setting="starts_gateway", hint=words.starts_gateway_hint)
        models = {name: name for name in filter(None, (settings.local_model, *app.local_models))}
        self.local_model = Choice(theme, {"": words.local_model_embedded} | models, settings.local_model)
        self.local_model.currentIndexChanged.connect(self.changed)
        row = self._row(words.local_model, self.local_model, "local_model", hint=words.local_model_hint)
        row.setVisible(self.local_model.count() > 1)
        self._column.addStretch(1)
        for box in (self.url, self.user, self.token, self.issuer, self.client_id, self.ca_file, self.proxy):
            box.textChanged.connect(self.changed)
        self.url.editingFinished.connect(lambda: self.url.setText(server_url_of(self.url.text())))
        self.auth.currentIndexChanged.connect(self._mode_chosen)
        self.starts_gateway.toggled.connect(self.changed)
        self._mode_chosen()
        self.refresh_sign_in()

    @property
    def mode(self) -> AuthMode:
        return AuthMode(self.auth.currentData())

    def values(self) -> Mapping[str, Any]:
        return {
            "server_url": server_url_of(self.url.text()),
            "ca_file": self.ca_file.text().strip(),
            "proxy": self.proxy.text().strip(),
            "auth": self.mode,
            "user": self.user.text().strip(),
            "token": self.token.text().strip() if self.mode is AuthMode.TOKEN else "",
            "oidc_issuer": self.issuer.text().strip(),
            "oidc_client_id": self.client_id.text().strip(),
            "starts_gateway": self.starts_gateway.isChecked(),
            "local_model": self.local_model.currentData(),
        }

    def refresh_sign_in(self) -> None:
        """Who is signed in, and what can be done about it. Only the saved service can be signed in to."""
        words, state, saved = self._texts.preferences, self._app.sign_in, self._app.settings
        is_saved = saved.auth is AuthMode.OIDC
        match state.status:
            case SignInStatus.SIGNED_IN:
                text = words.signed_in_as.format(user=state.user) if state.user else words.signed_in
                label = words.sign_out
            case SignInStatus.WAITING_FOR_BROWSER:
                text, label = words.sign_in_waiting, words.sign_in_cancel
            case _:
                text, label = words.signed_out if is_saved else words.sign_in_save_first, words.sign_in
        self._sign_in_state.setText(text)
        self.sign_in_button.setText(label)
        self.sign_in_button.setVisible(is_saved)

    def wrong(self) -> frozenset[Field]:
        path = self.ca_file.text().strip()
        return frozenset({Field.CA_FILE} if path and not is_ca_file(path) else ())

    def _choose_ca_file(self) -> None:
        words = self._texts.preferences
        dialog = QFileDialog(self, words.ca_file, str(Path(self.ca_file.text() or Path.home()).parent))
        dialog.setNameFilters([words.ca_file_filter, words.all_files])
        dialog.fileSelected.connect(self.ca_file.setText)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _sign_in_row(self) -> QWidget:
        self._sign_in_state = label()
        self.sign_in_button = button("", self._sign_in_pressed)
        holder = QWidget()
        row(self._sign_in_state, self.sign_in_button, into=holder).setStretch(0, 1)
        self._column.addWidget(holder)
        return holder

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
        self._auth_hint.setText(self._texts.preferences.auth_hints[mode])
        for holder, its_mode in self._of_mode.items():
            holder.setVisible(its_mode is mode)
        self.changed.emit()


class AnswersPage(Page):
    """What questions are asked with."""

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme) -> None:
        super().__init__(app, texts, theme)
        words, settings = texts.preferences, app.settings
        self.model = Choice(theme)
        self._chosen = settings.model
        self.refresh_models()
        self.system = QPlainTextEdit(settings.system or "")
        self.system.setPlaceholderText(words.system_placeholder)
        self.system.setTabChangesFocus(True)
        self.system.setMinimumHeight(theme.space(30))
        self.max_tokens = Number(settings.max_tokens)
        self.max_tokens.setPlaceholderText(words.max_tokens_default)
        self._row(words.model, self.model, "model", hint=words.model_hint)
        self._row(words.system, self.system, "system", hint=words.system_hint, field=Field.SYSTEM)
        self._row(words.max_tokens, self.max_tokens, "max_tokens", hint=words.max_tokens_hint, field=Field.MAX_TOKENS)
        self.model.activated.connect(self._model_chosen)
        self.system.textChanged.connect(self.changed)
        self.max_tokens.textChanged.connect(self.changed)
        self._column.addStretch(1)

    def values(self) -> Mapping[str, Any]:
        return {
            "model": self._chosen,
            "system": self.system.toPlainText().strip() or None,
            "max_tokens": self.max_tokens.value(),
        }

    def refresh_models(self) -> None:
        """The server's models, and the chosen one even if it is not among them."""
        models = list(self._app.models)
        if self._chosen is not None and self._chosen not in models:
            models.append(self._chosen)
        self.model.clear()
        if self._app.has_default_model:
            self.model.addItem(self._texts.preferences.model_default, None)
        for model in models:
            self.model.addItem(self._app.connection.title_of(model), model)
        self.model.setCurrentIndex(self.model.findData(self._chosen))

    def _model_chosen(self) -> None:
        self._chosen = self.model.currentData()
        self.changed.emit()


class AppearancePage(Page):
    """Colours, size, language."""

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme) -> None:
        super().__init__(app, texts, theme)
        words, settings = texts.preferences, app.settings
        self.theme = Choice(theme, {choice: words.themes[choice] for choice in ThemeChoice}, settings.theme)
        sizes = {size: f"{size}{words.font_size_unit}" for size in sorted({*SIZES, settings.font_size})}
        self.font_size = Choice(theme, sizes, settings.font_size)
        languages = {language: words.languages[language] for language in Language}
        self.language = Choice(theme, languages, settings.language)
        self._row(words.theme, self.theme, "theme")
        self._row(words.font_size, self.font_size, "font_size", field=Field.FONT_SIZE)
        self._row(words.language, self.language, "language")
        self.theme.currentIndexChanged.connect(self.changed)
        self.font_size.currentIndexChanged.connect(self.changed)
        self.language.currentIndexChanged.connect(self.changed)
        self._column.addStretch(1)

    def values(self) -> Mapping[str, Any]:
        return {
            "theme": ThemeChoice(self.theme.currentData()),
            "font_size": int(self.font_size.currentData()),
            "language": Language(self.language.currentData()),
        }


class DesktopPage(Page):
    """Notifications, the tray, the log."""

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme, *, has_tray: bool, log_path: Path) -> None:
        super().__init__(app, texts, theme)
        words, settings = texts.preferences, app.settings
        self.notifications = CheckBox(words.notifications, theme)
        self.notifications.setChecked(settings.notifications)
        self.tray = CheckBox(words.tray, theme)
        self.tray.setChecked(settings.tray)
        self.tray.setEnabled(has_tray)
        for box, setting, hint in (
            (self.notifications, "notifications", words.notifications_hint),
            (self.tray, "tray", words.tray_hint if has_tray else words.tray_missing),
        ):
            box.setAccessibleDescription(hint)
            box.toggled.connect(self.changed)
            self._stack(box, setting=setting, hint=hint)
        holder = QWidget()
        show = button(words.show_log, lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(log_path))))
        row(label(str(log_path), "muted", can_copy=True), show, into=holder).setStretch(0, 1)
        self._stack(QLabel(words.log), holder)
        self._column.addStretch(1)

    def values(self) -> Mapping[str, Any]:
        return {"notifications": self.notifications.isChecked(), "tray": self.tray.isChecked()}


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
        self.desktop = DesktopPage(app, texts, theme, has_tray=has_tray, log_path=log_path)
        self._pages = (self.server, self.answers, self.appearance, self.desktop)
        words = texts.preferences
        self.tabs = QTabWidget()
        for name, *pages in (
            (words.page_server, self.server),
            (words.page_answers, self.answers),
            (words.page_app, self.appearance, self.desktop),
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
