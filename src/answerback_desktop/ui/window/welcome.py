"""The page shown instead of the chat while a gateway, an address or a sign-in is missing."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec
from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus, GatewayStatus, SignInStatus
from answerback_desktop.settings import AuthMode, Field, Settings, server_url_of
from answerback_desktop.texts import Texts
from answerback_desktop.ui.parts import button, label, row
from answerback_desktop.ui.theme import Icon, Theme, pixmap
from answerback_desktop.ui.window.connection import detail_text
from answerback_desktop.viewmodels import AppViewModel


class Screen(StrEnum):
    """What has to be done before the app is of use; CHAT: nothing."""

    CHAT = "chat"
    OFFER = "offer"
    """Nobody answers on this machine: start a gateway, or connect to another."""
    STARTING = "starting"
    START_FAILED = "start-failed"
    UNREACHABLE = "unreachable"
    """Nobody answers at an address elsewhere."""
    SIGN_IN = "sign-in"
    BROWSER = "browser"


class WelcomePage(QScrollArea):
    """Shows one `Screen`. Signals: `settings_wanted()`, `put_off()`: the person wants to look around first."""

    settings_wanted = Signal()
    put_off = Signal()

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._app = app
        self._texts = texts
        self._theme = theme
        self._screen = Screen.CHAT
        self._about: tuple[object, ...] = ()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._typed_url = ""
        self._typed_user = ""

    @property
    def shown(self) -> Screen:
        return self._screen

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self._build()

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts
        self._build()

    def show_screen(self, screen: Screen) -> None:
        """Show what this screen needs; what was typed stays as long as the screen does."""
        settings, sign_in = self._app.settings, self._app.sign_in
        why = (self._app.connection.reason, self._app.connection.state.detail)
        about = (settings.server_url, settings.auth, sign_in.url, self._app.gateway.log, why, self._app.local_models)
        if (screen, about) != (self._screen, self._about):
            self._screen, self._about = screen, about
            self._build()

    # --- the pages

    def _build(self) -> None:
        """Build the page of the screen again; typed texts are kept."""
        theme = self._theme
        page = QWidget()
        page.setObjectName("welcome")
        page.setStyleSheet(f"#welcome {{ background: {theme.colours.surface}; }}")
        outer = QHBoxLayout(page)
        outer.addStretch(1)
        box = QWidget()
        box.setMaximumWidth(theme.space(130))
        outer.addWidget(box, 1000)
        outer.addStretch(1)
        column = QVBoxLayout(box)
        column.setSpacing(theme.space(3))
        column.setContentsMargins(*[theme.space(5)] * 4)
        column.addStretch(1)
        self._mark(column)
        match self._screen:
            case Screen.OFFER | Screen.UNREACHABLE:
                self._offer(column)
            case Screen.STARTING:
                self._starting(column)
            case Screen.START_FAILED:
                self._start_failed(column)
            case Screen.SIGN_IN:
                self._sign_in(column)
            case Screen.BROWSER:
                self._browser(column)
            case _:
                pass
        column.addStretch(2)
        self.setWidget(page)

    def _mark(self, column: QVBoxLayout) -> None:
        mark = QLabel()
        size = self._theme.space(10)
        mark.setPixmap(pixmap(Icon.CHAT, self._theme.colours.accent, size, scale=self.devicePixelRatioF()))
        column.addWidget(mark)

    def _offer(self, column: QVBoxLayout) -> None:
        words = self._texts.status
        column.addWidget(label(words.welcome_title, "title"))
        column.addWidget(label(words.welcome_text))
        self._obstacle(column)
        if self._screen is Screen.OFFER:
            start = self._card(column, words.start_title, words.start_text)
            self._button(start, words.start, self._app.commands.start_gateway, is_primary=True)
            if self._app.local_models:
                name = self._app.local_models[0]
                start.addWidget(label(words.start_ollama_text, "muted"))
                self._button(start, words.start_ollama.format(model=name), lambda: self._start_with(name))
        if "server_url" not in self._app.locked:
            self._connect_card(column)
        settings = button(words.open_settings, self.settings_wanted.emit, "quiet")
        column.addLayout(row(None, settings, button(words.later, self.put_off.emit, "quiet")))

    def _connect_card(self, column: QVBoxLayout) -> None:
        """Another address, and a name there."""
        words, settings = self._texts.status, self._app.settings
        connect = self._card(column, words.connect_title, words.connect_text)
        form = QFormLayout()
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        form.setHorizontalSpacing(self._theme.space(3))
        self.url_box = QLineEdit(self._typed_url or ("" if self._screen is Screen.OFFER else settings.server_url))
        self.url_box.setPlaceholderText("wss://chat.example.com")
        self.url_box.setAccessibleName(words.server_url)
        self.user_box = QLineEdit(self._typed_user or settings.user)
        self.user_box.setPlaceholderText(words.user_placeholder)
        self.user_box.setAccessibleName(words.user_name)
        self._problem = label("", "error")
        self._problem.hide()
        form.addRow(words.server_url, self.url_box)
        form.addRow(words.user_name, self.user_box)
        connect.addLayout(form)
        connect.addWidget(self._problem)
        self._button(connect, words.connect, self.connect_to_server, is_primary=self._screen is not Screen.OFFER)
        self.url_box.textEdited.connect(self._typed)
        self.user_box.textEdited.connect(self._typed)
        self.url_box.returnPressed.connect(self.connect_to_server)
        self.user_box.returnPressed.connect(self.connect_to_server)

    def _start_with(self, name: str) -> None:
        self._app.use_local_model(name)
        self._app.commands.start_gateway()

    def _obstacle(self, column: QVBoxLayout) -> None:
        """What is in the way to the server of the settings, and what the client says about it."""
        words, connection = self._texts.status, self._app.connection
        address = words.not_connected_to.format(url=_unbroken(self._app.settings.server_url))
        column.addWidget(label(f"{address} {words.reasons[connection.reason]}", can_copy=True))
        detail = detail_text(connection.state.detail, self._texts)
        if detail and self._screen is not Screen.OFFER:
            column.addWidget(label(detail, "muted", can_copy=True))

    def _starting(self, column: QVBoxLayout) -> None:
        column.addWidget(label(self._texts.status.starting_title, "title"))
        column.addWidget(label(self._texts.status.starting_text))
        bar = QProgressBar()
        bar.setRange(0, 0)
        bar.setAccessibleName(self._texts.status.starting_title)
        column.addWidget(bar)

    def _start_failed(self, column: QVBoxLayout) -> None:
        words = self._texts.status
        column.addWidget(label(words.start_failed_title, "title"))
        column.addWidget(label(words.start_failed_text, can_copy=True))
        line = QHBoxLayout()
        self._button(line, words.start_again, self._app.commands.start_gateway, is_primary=True)
        if self._app.gateway.log:
            self._button(line, words.show_log, self._show_log)
        self._button(line, words.open_settings, self.settings_wanted.emit)
        line.addStretch(1)
        column.addLayout(line)

    def _sign_in(self, column: QVBoxLayout) -> None:
        words, settings, reason = self._texts.status, self._app.settings, self._app.connection.reason
        is_refused = reason is ConnectionReason.TOKEN_REFUSED
        column.addWidget(label(words.welcome_refused_title if is_refused else words.welcome_signin_title, "title"))
        text = words.reasons[reason] if is_refused else words.welcome_signin_text
        column.addWidget(label(text.format(url=_unbroken(settings.server_url))))
        line = QHBoxLayout()
        if settings.auth is AuthMode.OIDC:
            self._button(line, words.sign_in, self._app.commands.sign_in, is_primary=True)
        self._button(
            line, words.open_settings, self.settings_wanted.emit, is_primary=settings.auth is not AuthMode.OIDC
        )
        line.addStretch(1)
        column.addLayout(line)

    def _browser(self, column: QVBoxLayout) -> None:
        words = self._texts.status
        column.addWidget(label(words.browser_title, "title"))
        column.addWidget(label(words.browser_text))
        line = QHBoxLayout()
        if self._app.sign_in.url:
            self._button(line, words.browser_copy_link, self._copy_link)
        self._button(line, words.cancel, self._app.commands.cancel_sign_in)
        line.addStretch(1)
        column.addLayout(line)

    # --- its parts

    def _card(self, column: QVBoxLayout, title: str, text: str) -> QVBoxLayout:
        card = QFrame()
        card.setProperty("variant", "card")
        inner = QVBoxLayout(card)
        inner.setContentsMargins(*[self._theme.space(4)] * 4)
        inner.setSpacing(self._theme.space(2.5))
        head = QLabel(title)
        head.setFont(self._theme.font(weight=self._theme.font().Weight.DemiBold))
        inner.addWidget(head)
        inner.addWidget(label(text, "muted"))
        column.addWidget(card)
        return inner

    def _button(
        self, into: QVBoxLayout | QHBoxLayout, text: str, act: Callable[[], object], *, is_primary: bool = False
    ) -> None:
        made = button(text, act, "primary" if is_primary else "")
        if isinstance(into, QVBoxLayout):
            into.addLayout(row(made, None))
        else:
            into.addWidget(made)

    # --- what a person does

    def connect_to_server(self) -> None:
        """Take the address and the name that were typed; what is wrong is said beside them."""
        settings: Settings = msgspec.structs.replace(
            self._app.settings,
            server_url=server_url_of(self.url_box.text()),
            user=self.user_box.text().strip(),
        )
        wrong = self._app.change_settings(settings)
        words = self._texts.status
        problem = words.bad_url if Field.SERVER_URL in wrong else words.bad_user if wrong else ""
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))
        if wrong:
            (self.url_box if Field.SERVER_URL in wrong else self.user_box).setFocus()

    def _typed(self) -> None:
        self._typed_url, self._typed_user = self.url_box.text(), self.user_box.text()

    def _copy_link(self) -> None:
        QGuiApplication.clipboard().setText(self._app.sign_in.url or "")

    def _show_log(self) -> None:
        if self._app.gateway.log:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(Path(self._app.gateway.log))))


def _unbroken(url: str) -> str:
    """With word joiners (U+2060), so that no line ends inside it."""
    return "\u2060".join(url)


def screen_of(app: AppViewModel) -> Screen:
    """Choose the screen from the state of the connection, the sign-in and the gateway. Online is always the chat."""
    if app.connection.is_online:
        return Screen.CHAT
    if app.sign_in.status is SignInStatus.WAITING_FOR_BROWSER:
        return Screen.BROWSER
    if app.connection.status is ConnectionStatus.SIGNED_OUT or app.sign_in.status is SignInStatus.SIGNED_OUT:
        return Screen.SIGN_IN
    match app.gateway.status:
        case GatewayStatus.OFFERED:
            return Screen.OFFER
        case GatewayStatus.STARTING:
            return Screen.STARTING
        case GatewayStatus.FAILED:
            return Screen.START_FAILED
        case GatewayStatus.RUNNING:
            return Screen.CHAT  # being connected to
        case _:
            return Screen.UNREACHABLE if app.connection.reason.is_nowhere else Screen.CHAT
