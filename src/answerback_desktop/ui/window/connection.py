"""The connection indicator in the header, and its details."""

from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QToolButton, QWidget

from answerback.client import BudgetInfo
from answerback.clock import epoch_ms
from answerback.texts.korean import translated
from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus
from answerback_desktop.engine.export import instant_ms
from answerback_desktop.settings import Language
from answerback_desktop.texts import Texts
from answerback_desktop.ui.parts import Appearance, button, column, label, row, set_icon
from answerback_desktop.ui.theme import Icon
from answerback_desktop.viewmodels import AppViewModel
from answerback_desktop.viewmodels.connection import local_time

_COLOURS: Final = {
    ConnectionStatus.ONLINE: "success",
    ConnectionStatus.CONNECTING: "text_muted",
    ConnectionStatus.OFFLINE: "warning",
}
"""Of the dot; all other states are alarming."""


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

    `show_settings`: what the details' button does.
    """

    def __init__(self, app: AppViewModel, appearance: Appearance, show_settings: Callable[[], object]) -> None:
        super().__init__()
        self._app = app
        self._show_settings = show_settings
        self._details: ConnectionDetails | None = None
        self._is_short = False
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._countdown = QTimer(self, interval=1000)
        self._countdown.timeout.connect(self.refresh)
        self.clicked.connect(self._show_details)
        self.set_appearance(appearance)

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        self.refresh()

    def set_short(self, is_short: bool) -> None:
        if is_short != self._is_short:
            self._is_short = is_short
            self.refresh()

    def refresh(self) -> None:
        connection, texts, theme = self._app.connection, self._appearance.texts, self._appearance.theme
        text, drawing = headline(self._app, texts), Icon.ONLINE if connection.is_online else Icon.OFFLINE
        set_icon(self, theme, drawing, theme.space(4), _COLOURS.get(connection.status, "danger"))
        # The bar over the question says why and when: offline is told once.
        shown = texts.status.offline if connection.status is ConnectionStatus.OFFLINE else text
        self.setText("" if self._is_short else " " + shown)
        self.setToolTip(text)
        self.setAccessibleName(texts.status.indicator_name.format(state=text))
        if connection.state.retry_at_ms is not None and not connection.is_online:
            self._countdown.start()
        else:
            self._countdown.stop()
        if self._details is not None:
            self._details.refresh()

    def _show_details(self) -> None:
        details = ConnectionDetails(self._app, self._appearance, self._show_settings, self.window())
        details.destroyed.connect(self._forget_details)
        self._details = details
        down = self.height() + self._appearance.theme.space(1)
        details.move(self.mapToGlobal(QPoint(self.width() - details.width(), down)))
        details.show()

    def _forget_details(self) -> None:
        self._details = None


class ConnectionDetails(QFrame):
    """A popover: whom we talk to, as whom, how far away, and what to do if not."""

    def __init__(
        self, app: AppViewModel, appearance: Appearance, show_settings: Callable[[], object], parent: QWidget
    ) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        texts, theme = appearance.texts, appearance.theme
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
            name = label(getattr(texts.status, key), "muted", wraps=False)
            name.setAlignment(Qt.AlignmentFlag.AlignTop)
            value.setWordWrap(True)
            value.setFont(theme.font(px=theme.small_px))
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            grid.addWidget(name, line, 0)
            grid.addWidget(value, line, 1)
            self._rows.append((name, value))
        self.retry_button = button(texts.status.retry_now, self._app.commands.reconnect)
        self.settings_button = button(texts.status.open_settings, self.close)
        self.settings_button.clicked.connect(show_settings)
        self._column = column(theme, margin=4, gap=3, into=self)
        for part in (self._title, self._reason):
            self._column.addWidget(part)
        self._column.addLayout(grid)
        self._column.addLayout(row(None, self.settings_button, self.retry_button))
        self.refresh()

    def refresh(self) -> None:
        connection, words = self._app.connection, self._texts.status
        self._title.setText(headline(self._app, self._texts))
        self._reason.setText(words.reasons[connection.reason])
        self._reason.setVisible(connection.reason is not ConnectionReason.NONE)
        limits, pending = connection.limits, 0 if connection.is_online else self._app.unsent
        rate = limits.requests_per_minute if limits else None
        shown = {
            "server": connection.server_url,
            "detail": detail_text(connection.state.detail, self._texts),
            "user": connection.state.user or "",
            "budget": budget_text(connection.budget, self._texts),
            "round_trip": _milliseconds(connection.round_trip_ms, self._texts),
            "models": ", ".join(connection.models),
            "rate": "" if rate is None else words.rate_a_minute.format(count=rate) if rate else words.rate_unlimited,
            "outbox": words.outbox_hint.format(count=pending) if pending else "",
        }
        for (name, value), text in zip(self._rows, shown.values(), strict=True):
            value.setText(text)
            name.setVisible(bool(text))
            value.setVisible(bool(text))
        self.retry_button.setVisible(not connection.is_online)
        self._column.activate()
        self.resize(self.width(), self._column.totalHeightForWidth(self.width()))


def _milliseconds(round_trip_ms: float | None, texts: Texts) -> str:
    if round_trip_ms is None:
        return ""
    return texts.status.round_trip_ms.format(ms="< 1" if round_trip_ms < 1 else round(round_trip_ms))
