"""The chat pane: one conversation, from its first question to the box for the next."""

import time
from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QPalette, QResizeEvent
from PySide6.QtWidgets import QStackedWidget, QToolButton, QVBoxLayout, QWidget

from answerback_desktop.engine.events import ConnectionStatus
from answerback_desktop.ui.chat.blocks import Appearance
from answerback_desktop.ui.chat.composer import Composer
from answerback_desktop.ui.chat.find import FindBar
from answerback_desktop.ui.chat.links import LinkDialog, is_openable
from answerback_desktop.ui.chat.states import EmptyState, OfflineBanner
from answerback_desktop.ui.chat.transcript import Transcript
from answerback_desktop.ui.theme import Icon, icon
from answerback_desktop.viewmodels.app import AppViewModel
from answerback_desktop.viewmodels.changes import Changes
from answerback_desktop.viewmodels.conversation import ConversationViewModel

FRAME_MS: Final = 33
"""Text that streams is drawn at most this often: 30 times a second."""
FRAME_SHARE: Final = 8
"""And less often where that is slow (a table of 500 rows): drawing never takes more than an eighth of the time."""


class ChatPane(QWidget):
    """Give it every batch of changes by `apply`; it shows `app.current`.

    `conversation_needed` is sent before a question is asked while no conversation is open; the owner of the window may
    then do more than open one, which the pane does itself.
    """

    conversation_needed = Signal()

    def __init__(self, app: AppViewModel, appearance: Appearance, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._app = app
        self._appearance = appearance
        self._shown: ConversationViewModel | None = None
        self._wanted: str | None = None
        self._wanted_phrase = ""
        self._dirty: set[str] = set()
        self.transcript = Transcript(appearance, self)
        self.composer = Composer(appearance, self)
        self.find_bar = FindBar(self.transcript.finder, appearance, self)
        self.stack = QStackedWidget(self)
        self._column = QVBoxLayout(self)
        self._build()
        self._connect()
        self.jump_button = self._jump()
        self._frame = QTimer(self)
        self._frame.setSingleShot(True)
        self._frame.setInterval(FRAME_MS)
        self._frame.timeout.connect(self.flush)
        self._show_connection()
        self._show_conversation()

    # --- for the window

    def apply(self, changes: Changes) -> None:
        """Show what a batch of events changed."""
        if changes.connection or changes.everything:
            self._show_connection()
        if self._app.current is not self._shown or changes.everything:
            self._show_conversation()
            return
        shown = self._shown
        if shown is None:
            return
        if shown.conversation_id in changes.drafts:
            self.composer.set_text(shown.draft)
        if shown.conversation_id in changes.messages:
            self._show_turns()
        self._dirty |= changes.turns
        self._dirty |= {piece.request_id for piece in changes.appended}
        if self._dirty and not self._frame.isActive():
            self.flush()
            self._frame.start()
        if shown.conversation_id in changes.conversations or changes.turns:
            self.composer.set_running(is_running=shown.pending > 0)

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        self._fill()
        self.transcript.set_appearance(appearance)
        self.composer.set_appearance(appearance)
        self._replace_states()
        self._draw_jump(has_unseen=False)
        self.find_bar.set_appearance(appearance)
        self._space()
        self._show_connection()
        self._show_page()

    def focus_composer(self) -> None:
        """Put the cursor in the box."""
        self.composer.box.setFocus()

    def foot_height(self) -> int:
        """Pixels of the input box and of what stands over it."""
        banner = 0 if self.banner.isHidden() else self.banner.sizeHint().height() + self._lower.spacing()
        return self.composer.height() + banner

    def show_turn(self, request_id: str, phrase: str = "") -> None:
        """Scroll to a turn, as from a search, and light its words; older pages are loaded until it is there."""
        self._wanted, self._wanted_phrase = request_id, phrase
        self._go_to_wanted()

    def open_find(self) -> None:
        """Open the bar that finds words in this conversation."""
        if self.stack.currentWidget() is self.transcript:
            self.find_bar.open()
            self._load_for_find()

    def flush(self) -> None:
        """Draw the text that has come since the last frame."""
        dirty, self._dirty = self._dirty, set()
        if not dirty:
            return
        begun = time.thread_time()
        self.transcript.refresh(dirty)
        cost_ms = (time.thread_time() - begun) * 1000
        self._frame.setInterval(max(FRAME_MS, round(cost_ms * FRAME_SHARE)))
        if not self.transcript.is_pinned:
            self._draw_jump(has_unseen=True)

    # --- building

    def _build(self) -> None:
        self.setAutoFillBackground(True)
        self._fill()
        self._column.setSpacing(0)
        self._column.addWidget(self.find_bar)
        self._column.addWidget(self.stack, 1)
        self.stack.addWidget(self.transcript)
        self._make_states()
        self._lower = QVBoxLayout()
        self._lower.addWidget(self.banner)
        self._lower.addWidget(self.composer)
        self._column.addLayout(self._lower)
        self._space()

    def _fill(self) -> None:
        palette = QPalette(self._appearance.theme.palette)
        palette.setColor(QPalette.ColorRole.Window, QColor(self._appearance.theme.colours.surface))
        self.setPalette(palette)

    def _space(self) -> None:
        theme = self._appearance.theme
        self._column.setContentsMargins(0, 0, 0, 0)
        self._lower.setSpacing(theme.space(2))
        widest = round(784 * theme.body_px / 15)
        side = max(theme.space(3), (self.width() - widest) // 2)
        self._lower.setContentsMargins(side, theme.space(1), side, theme.space(4))

    def _make_states(self) -> None:
        texts, appearance = self._appearance.texts, self._appearance
        self.empty = EmptyState(appearance, texts.empty_title, texts.empty_text, examples=texts.examples)
        self.empty.chosen.connect(self._ask)
        self.loading = EmptyState(appearance, "", texts.loading)
        self.banner = OfflineBanner(appearance)
        self.banner.retry.connect(self._app.reconnect)
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self.loading)

    def _replace_states(self) -> None:
        self._lower.removeWidget(self.banner)
        for old in (self.empty, self.loading, self.banner):
            self.stack.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._make_states()
        self._lower.insertWidget(0, self.banner)

    def _jump(self) -> QToolButton:
        button = QToolButton(self)
        button.setProperty("variant", "chip")
        button.setCursor(Qt.CursorShape.PointingHandCursor)
        button.clicked.connect(self.transcript.to_end)
        button.hide()
        return button

    def _draw_jump(self, *, has_unseen: bool) -> None:
        theme, texts = self._appearance.theme, self._appearance.texts
        name = texts.newest_unseen if has_unseen else texts.newest
        side = theme.body_px + 5
        colour = "accent" if has_unseen else "text_muted"
        self.jump_button.setIconSize(QSize(side, side))
        self.jump_button.setIcon(icon(Icon.DOWN, theme.colour(colour), side))
        self.jump_button.setAccessibleName(name)
        self.jump_button.setToolTip(name)
        self._place_jump()

    def _place_jump(self) -> None:
        size = self.jump_button.sizeHint()
        stack = self.stack.geometry()
        self.jump_button.setGeometry(
            stack.center().x() - size.width() // 2,
            stack.bottom() - size.height() - self._appearance.theme.space(2),
            size.width(),
            size.height(),
        )

    def _connect(self) -> None:
        asks: dict[str, Callable[[ConversationViewModel, str], object]] = {
            "regenerate": lambda shown, request_id: shown.regenerate(request_id),
            "retry": lambda shown, request_id: shown.retry(request_id),
            "stop": lambda shown, request_id: shown.stop(request_id),
        }
        signals = self.transcript.signals
        for name, ask in asks.items():
            getattr(signals, name).connect(lambda request_id, ask=ask: self._with_shown(ask, request_id))
        signals.edited.connect(self._edited)
        signals.link.connect(self._ask_link)
        self.transcript.near_start.connect(self._load_more)
        self.transcript.pinned_changed.connect(self._pinned)
        self.composer.sent.connect(self._ask)
        self.composer.changed.connect(self._keep_draft)
        self.composer.stopped.connect(self._stop)
        self.find_bar.closed.connect(self.focus_composer)
        self.composer.recalled.connect(self.transcript.edit_last)

    # --- showing

    def _show_conversation(self) -> None:
        self._shown = self._app.current
        self._wanted = None
        if not self.find_bar.isHidden():
            self.find_bar.close_find()
        self._dirty.clear()
        self.transcript.show_turns(())
        self.composer.set_text("" if self._shown is None else self._shown.draft)
        self.composer.set_running(is_running=self._shown is not None and self._shown.pending > 0)
        self.transcript.to_end()
        self._show_turns()

    def _show_turns(self) -> None:
        if self._shown is not None:
            self.transcript.show_turns(self._shown.messages)
        self._show_page()
        self._go_to_wanted()
        self._load_for_find()

    def _load_for_find(self) -> None:
        """What is looked for may be in turns that were not loaded yet."""
        if not self.find_bar.isHidden() and self._shown is not None and self._shown.has_more:
            self._shown.load_more()

    def _go_to_wanted(self) -> None:
        shown, wanted = self._shown, self._wanted
        if shown is None or wanted is None:
            return
        if shown.turn(wanted) is not None:
            self._wanted = None
            self.transcript.to_turn(wanted)
            if self._wanted_phrase.strip():
                self.find_bar.open(self._wanted_phrase, turn=wanted)
        elif shown.is_loaded and not shown.has_more:
            self._wanted = None
        else:
            shown.load_more()

    def _show_page(self) -> None:
        shown = self._shown
        if shown is not None and shown.messages:
            page: QWidget = self.transcript
        elif shown is not None and shown.is_loading:
            page = self.loading
        else:
            page = self.empty
        if self.stack.currentWidget() is not page:
            self.stack.setCurrentWidget(page)
        self._pinned(self.transcript.is_pinned)

    def _show_connection(self) -> None:
        connection = self._app.connection
        is_offline = connection.status in {ConnectionStatus.OFFLINE, ConnectionStatus.STOPPED}
        self.banner.setVisible(is_offline)
        self.transcript.set_online(is_online=connection.is_online)
        self.composer.set_limit(None if connection.limits is None else connection.limits.max_message_bytes)

    def _pinned(self, is_pinned: bool) -> None:
        is_wanted = not is_pinned and self.stack.currentWidget() is self.transcript
        if is_wanted and self.jump_button.isHidden():
            self._draw_jump(has_unseen=False)
            self.jump_button.raise_()
        self.jump_button.setVisible(is_wanted)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """The composer keeps to the column."""
        super().resizeEvent(event)
        self._space()
        self._place_jump()

    # --- what the person does

    def _with_shown(self, ask: Callable[[ConversationViewModel, str], object], request_id: str) -> None:
        if self._shown is not None:
            ask(self._shown, request_id)

    def _ask(self, text: str) -> None:
        if self._app.current is None:
            self.conversation_needed.emit()
            if self._app.current is None:
                self._app.new_conversation()
            self._show_conversation()
        if self._shown is None:
            return
        self._shown.ask(text)
        self.composer.set_text("")
        self.transcript.to_end()

    def _keep_draft(self, text: str) -> None:
        if self._shown is not None:
            self._shown.set_draft(text)

    def _stop(self) -> None:
        if self._shown is not None:
            self._shown.stop_all()

    def _edited(self, request_id: str, text: str) -> None:
        if self._shown is not None:
            self._shown.edit_and_resend(request_id, text)
            self.transcript.to_end()
            self.focus_composer()

    def _load_more(self) -> None:
        if self._shown is not None:
            self._shown.load_more()

    def _ask_link(self, target: str) -> None:
        if is_openable(target):
            LinkDialog(target, self._appearance.texts, self._appearance.theme, self).open()
