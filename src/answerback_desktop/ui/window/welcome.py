"""The page shown instead of the chat while a gateway, an address or a sign-in is missing."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec
from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices, QFont, QGuiApplication
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
from answerback_desktop.ui.parts import Appearance, button, column, label, row
from answerback_desktop.ui.theme import Icon
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
    """Shows one `Screen`. Signals: `put_off()`: the person wants to look around first."""

    put_off = Signal()

    def __init__(self, app: AppViewModel, appearance: Appearance, show_settings: Callable[[], object]) -> None:
        super().__init__()
        self._app = app
        self._appearance = appearance
        self._show_settings = show_settings
        self.shown = Screen.CHAT
        self._about: tuple[object, ...] = ()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._typed_url = ""
        self._typed_user = ""

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        self._build()

    def show_screen(self, screen: Screen) -> None:
        """Show what this screen needs; what was typed stays as long as the screen does."""
        settings, sign_in = self._app.settings, self._app.sign_in
        why = (self._app.connection.reason, self._app.connection.state.detail)
        about = (settings.server_url, settings.auth, sign_in.url, self._app.gateway.log, why, self._app.local_models)
        if (screen, about) != (self.shown, self._about):
            self.shown, self._about = screen, about
            self._build()

    # --- the pages

    def _build(self) -> None:
        """Build the page of the screen again; typed texts are kept."""
        theme = self._appearance.theme
        page, box = QWidget(), QWidget()
        page.setObjectName("welcome")
        outer = QHBoxLayout(page)
        box.setMaximumWidth(theme.space(130))
        outer.addStretch(1)
        outer.addWidget(box, 1000)
        outer.addStretch(1)
        self._page = column(theme, margin=5, gap=3, into=box)
        self._page.addStretch(1)
        mark = QLabel()
        mark.setPixmap(theme.pixmap(Icon.CHAT, theme.space(10), "accent", scale=self.devicePixelRatioF()))
        self._page.addWidget(mark)
        match self.shown:
            case Screen.OFFER | Screen.UNREACHABLE:
                self._offer()
            case Screen.STARTING:
                self._starting()
            case Screen.START_FAILED:
                self._start_failed()
            case Screen.SIGN_IN:
                self._sign_in()
            case Screen.BROWSER:
                self._browser()
            case _:
                pass
        self._page.addStretch(2)
        self.setWidget(page)

    def _offer(self) -> None:
        words = self._appearance.texts.status
        self._page.addWidget(label(words.welcome_title, "title"))
        self._page.addWidget(label(words.welcome_text))
        self._obstacle()
        if self.shown is Screen.OFFER:
            start = self._card(words.start_title, words.start_text)
            start.addLayout(row(button(words.start, self._app.commands.start_gateway, "primary"), None))
            if self._app.local_models:
                name = self._app.local_models[0]
                start.addWidget(label(words.start_ollama_text, "muted"))
                use = button(words.start_ollama.format(model=name), lambda: self._start_with(name))
                start.addLayout(row(use, None))
        if "server_url" not in self._app.locked:
            self._connect_card()
        settings = button(words.open_settings, self._show_settings, "quiet")
        self._page.addLayout(row(None, settings, button(words.later, self.put_off.emit, "quiet")))

    def _connect_card(self) -> None:
        """Another address, and a name there."""
        words, settings = self._appearance.texts.status, self._app.settings
        connect = self._card(words.connect_title, words.connect_text)
        form = QFormLayout()
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        form.setHorizontalSpacing(self._appearance.theme.space(3))
        self.url_box = QLineEdit(self._typed_url or ("" if self.shown is Screen.OFFER else settings.server_url))
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
        variant = "" if self.shown is Screen.OFFER else "primary"
        connect.addLayout(row(button(words.connect, self.connect_to_server, variant), None))
        self.url_box.textEdited.connect(self._typed)
        self.user_box.textEdited.connect(self._typed)
        self.url_box.returnPressed.connect(self.connect_to_server)
        self.user_box.returnPressed.connect(self.connect_to_server)

    def _start_with(self, name: str) -> None:
        self._app.use_local_model(name)
        self._app.commands.start_gateway()

    def _obstacle(self) -> None:
        """What is in the way to the server of the settings, and what the client says about it."""
        words, connection = self._appearance.texts.status, self._app.connection
        address = words.not_connected_to.format(url=_unbroken(self._app.settings.server_url))
        self._page.addWidget(label(f"{address} {words.reasons[connection.reason]}", can_copy=True))
        detail = detail_text(connection.state.detail, self._appearance.texts)
        if detail and self.shown is not Screen.OFFER:
            self._page.addWidget(label(detail, "muted", can_copy=True))

    def _starting(self) -> None:
        self._page.addWidget(label(self._appearance.texts.status.starting_title, "title"))
        self._page.addWidget(label(self._appearance.texts.status.starting_text))
        bar = QProgressBar()
        bar.setRange(0, 0)
        bar.setAccessibleName(self._appearance.texts.status.starting_title)
        self._page.addWidget(bar)

    def _start_failed(self) -> None:
        words = self._appearance.texts.status
        self._page.addWidget(label(words.start_failed_title, "title"))
        self._page.addWidget(label(words.start_failed_text, can_copy=True))
        again = button(words.start_again, self._app.commands.start_gateway, "primary")
        log = [button(words.show_log, self._show_log)] if self._app.gateway.log else []
        self._page.addLayout(row(again, *log, button(words.open_settings, self._show_settings), None))

    def _sign_in(self) -> None:
        words, settings, reason = self._appearance.texts.status, self._app.settings, self._app.connection.reason
        is_refused = reason is ConnectionReason.TOKEN_REFUSED
        self._page.addWidget(label(words.welcome_refused_title if is_refused else words.welcome_signin_title, "title"))
        text = words.reasons[reason] if is_refused else words.welcome_signin_text
        self._page.addWidget(label(text.format(url=_unbroken(settings.server_url))))
        is_oidc = settings.auth is AuthMode.OIDC
        sign_in = [button(words.sign_in, self._app.commands.sign_in, "primary")] if is_oidc else []
        other = button(words.open_settings, self._show_settings, "" if is_oidc else "primary")
        self._page.addLayout(row(*sign_in, other, None))

    def _browser(self) -> None:
        words = self._appearance.texts.status
        self._page.addWidget(label(words.browser_title, "title"))
        self._page.addWidget(label(words.browser_text))
        copy = [button(words.browser_copy_link, self._copy_link)] if self._app.sign_in.url else []
        self._page.addLayout(row(*copy, button(words.cancel, self._app.commands.cancel_sign_in), None))

    # --- its parts

    def _card(self, title: str, text: str) -> QVBoxLayout:
        card, theme = QFrame(), self._appearance.theme
        card.setProperty("variant", "card")
        inner = column(theme, margin=4, gap=2.5, into=card)
        head = QLabel(title)
        head.setFont(theme.font(weight=QFont.Weight.DemiBold))
        inner.addWidget(head)
        inner.addWidget(label(text, "muted"))
        self._page.addWidget(card)
        return inner

    # --- what a person does

    def connect_to_server(self) -> None:
        """Take the address and the name that were typed; what is wrong is said beside them."""
        settings: Settings = msgspec.structs.replace(
            self._app.settings,
            server_url=server_url_of(self.url_box.text()),
            user=self.user_box.text().strip(),
        )
        wrong = self._app.change_settings(settings)
        words = self._appearance.texts.status
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
