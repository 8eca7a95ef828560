"""The connection indicator in the header, and its details."""

from PySide6.QtCore import QPoint, QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from answerback.client import BudgetInfo
from answerback.clock import epoch_ms
from answerback.texts.korean import translated
from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.settings import Language
from answerback_desktop.texts import Texts
from answerback_desktop.ui.parts import button, row
from answerback_desktop.ui.theme import Icon, Theme, icon
from answerback_desktop.viewmodels import AppViewModel
from answerback_desktop.viewmodels.connection import local_time


def headline(app: AppViewModel, texts: Texts) -> str:
    """The state of the connection in a few words: with the round trip, or the seconds until the next try."""
    words, connection = texts.status, app.connection
    match connection.status:
        case ConnectionStatus.ONLINE if connection.round_trip_ms is not None:
            return f"{words.online} · {_milliseconds(connection.round_trip_ms, texts)}"
        case ConnectionStatus.ONLINE:
            return words.online
        case ConnectionStatus.CONNECTING:
            return words.connecting
        case ConnectionStatus.OFFLINE:
            seconds = connection.retry_in_s
            return words.retry_in.format(seconds=seconds) if seconds else words.offline
        case ConnectionStatus.SIGNED_OUT:
            return words.signed_out
        case _:
            return words.stopped


def detail_text(detail: str, texts: Texts) -> str:
    """What the client says about a failed connection, in the language of the app as far as the catalogue has it."""
    return (translated(detail) if texts.language is Language.KOREAN else None) or detail


def budget_text(budget: BudgetInfo | None, texts: Texts) -> str:
    """What is left of the user's budget, until when; empty if there is none."""
    if budget is None:
        return ""
    words = texts.status

    def shown(amount: int) -> str:
        if budget.unit == "tokens":
            return words.budget_tokens.format(amount=f"{amount:,}")
        return words.budget_money.format(amount=f"{amount // 10_000 / 100:,.2f}")

    left, until_ms = max(0, budget.limit - budget.used), instant_ms(budget.resets_at, epoch_ms())
    return words.budget_left.format(left=shown(left), limit=shown(budget.limit), when=local_time(until_ms))


class ConnectionIndicator(QToolButton):
    """A dot and a few words; a click opens the details. Counts down by itself while a try is planned.

    Signals: `settings_wanted()`.
    """

    settings_wanted = Signal()

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._app = app
        self._texts = texts
        self._theme = theme
        self._details: ConnectionDetails | None = None
        self._is_short = False
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._countdown = QTimer(self, interval=1000)
        self._countdown.timeout.connect(self.refresh)
        self.clicked.connect(self._show_details)
        self.refresh()

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.refresh()

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts
        self.refresh()

    def set_short(self, is_short: bool) -> None:
        if is_short != self._is_short:
            self._is_short = is_short
            self.refresh()

    def refresh(self) -> None:
        connection = self._app.connection
        text = headline(self._app, self._texts)
        size = self._theme.space(4)
        self.setIconSize(QSize(size, size))
        self.setIcon(icon(Icon.ONLINE if connection.is_online else Icon.OFFLINE, self._colour(), size))
        # The bar over the question says why and when: offline is told once.
        shown = self._texts.status.offline if connection.status is ConnectionStatus.OFFLINE else text
        self.setText("" if self._is_short else " " + shown)
        self.setToolTip(text)
        self.setAccessibleName(self._texts.status.indicator_name.format(state=text))
        if connection.state.retry_at_ms is not None and not connection.is_online:
            self._countdown.start()
        else:
            self._countdown.stop()
        if self._details is not None:
            self._details.refresh()

    def _colour(self) -> str:
        colours = self._theme.colours
        match self._app.connection.status:
            case ConnectionStatus.ONLINE:
                return colours.success
            case ConnectionStatus.CONNECTING:
                return colours.text_muted
            case ConnectionStatus.OFFLINE:
                return colours.warning
            case _:
                return colours.danger

    def _show_details(self) -> None:
        details = ConnectionDetails(self._app, self._texts, self._theme, self.window())
        details.settings_wanted.connect(self.settings_wanted)
        details.destroyed.connect(self._forget_details)
        self._details = details
        corner = self.mapToGlobal(QPoint(self.width() - details.width(), self.height() + self._theme.space(1)))
        details.move(corner)
        details.show()

    def _forget_details(self) -> None:
        self._details = None


class ConnectionDetails(QFrame):
    """A popover: whom we talk to, as whom, how far away, and what to do if not."""

    settings_wanted = Signal()

    def __init__(self, app: AppViewModel, texts: Texts, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setProperty("variant", "card")
        self.setAccessibleName(texts.status.details_title)
        self._app = app
        self._texts = texts
        self.setFixedWidth(theme.space(84))
        self._title = QLabel()
        self._title.setFont(theme.font(weight=theme.font().Weight.DemiBold))
        self._reason = QLabel()
        self._reason.setWordWrap(True)
        self._values = {
            key: QLabel() for key in ("server", "detail", "user", "budget", "round_trip", "models", "rate", "outbox")
        }
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        grid.setHorizontalSpacing(theme.space(4))
        grid.setVerticalSpacing(theme.space(1.5))
        self._rows: list[tuple[QLabel, QLabel]] = []
        for line, (key, value) in enumerate(self._values.items()):
            name = QLabel(getattr(texts.status, key))
            name.setProperty("variant", "muted")
            name.setAlignment(Qt.AlignmentFlag.AlignTop)
            value.setWordWrap(True)
            value.setFont(theme.font(px=theme.small_px))
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            grid.addWidget(name, line, 0)
            grid.addWidget(value, line, 1)
            self._rows.append((name, value))
        self.retry_button = button(texts.status.retry_now, self._app.commands.reconnect)
        self.settings_button = button(texts.status.open_settings, self._open_settings)
        column = QVBoxLayout(self)
        column.setContentsMargins(*[theme.space(4)] * 4)
        column.setSpacing(theme.space(3))
        for part in (self._title, self._reason):
            column.addWidget(part)
        column.addLayout(grid)
        column.addLayout(row(None, self.settings_button, self.retry_button))
        self.refresh()

    def refresh(self) -> None:
        connection, words = self._app.connection, self._texts.status
        self._title.setText(headline(self._app, self._texts))
        self._reason.setText(words.reasons[connection.reason])
        self._reason.setVisible(connection.reason is not ConnectionReason.NONE)
        limits, pending = connection.limits, self._waiting()
        rate = limits.requests_per_minute if limits else None
        shown = {
            "server": connection.server_url,
            "detail": detail_text(connection.state.detail, self._texts),
            "user": connection.state.user or "",
            "budget": budget_text(connection.budget, self._texts),
            "round_trip": ""
            if connection.round_trip_ms is None
            else _milliseconds(connection.round_trip_ms, self._texts),
            "models": ", ".join(connection.models),
            "rate": "" if rate is None else words.rate_a_minute.format(count=rate) if rate else words.rate_unlimited,
            "outbox": words.outbox_hint.format(count=pending) if pending else "",
        }
        for (name, value), text in zip(self._rows, shown.values(), strict=True):
            value.setText(text)
            name.setVisible(bool(text))
            value.setVisible(bool(text))
        self.retry_button.setVisible(not connection.is_online)
        column = self.layout()
        assert column is not None
        column.activate()
        self.resize(self.width(), column.totalHeightForWidth(self.width()))

    def _waiting(self) -> int:
        return 0 if self._app.connection.is_online else self._app.unsent

    def _open_settings(self) -> None:
        self.close()
        self.settings_wanted.emit()


def _milliseconds(round_trip_ms: float, texts: Texts) -> str:
    return texts.status.round_trip_ms.format(ms="< 1" if round_trip_ms < 1 else round(round_trip_ms))
