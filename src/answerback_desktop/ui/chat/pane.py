"""The chat pane: one conversation, from its first question to the box for the next."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from PySide6.QtCore import Qt, QTimer, Signal, SignalInstance
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QPalette, QResizeEvent
from PySide6.QtWidgets import QFileDialog, QStackedWidget, QToolButton, QVBoxLayout, QWidget

from answerback.client import File
from answerback.texts import language_is_known, unknown_language
from answerback.texts.korean import with_particles
from answerback_desktop.attachments import ChosenFile, read_file, within
from answerback_desktop.engine.events import GatewayStatus
from answerback_desktop.settings import Language
from answerback_desktop.texts import ChatTexts, texts_of
from answerback_desktop.ui.chat.attach import AttachDialog
from answerback_desktop.ui.chat.composer import Composer, encoded_bytes
from answerback_desktop.ui.chat.find import FindBar
from answerback_desktop.ui.chat.input_box import attachments_in
from answerback_desktop.ui.chat.links import LinkDialog, is_openable
from answerback_desktop.ui.chat.states import Bar, EmptyState
from answerback_desktop.ui.chat.transcript import Transcript, column_in
from answerback_desktop.ui.markdown import answer_of
from answerback_desktop.ui.parts import Appearance, file_dialog, set_icon, set_name
from answerback_desktop.ui.theme import Icon
from answerback_desktop.viewmodels import AppViewModel, Changes, ConversationViewModel

FRAME_MS: Final = 33
"""Text that streams is drawn at most this often: 30 times a second."""
FRAME_SHARE: Final = 8
"""And less often where that is slow (a table of 500 rows): drawing never takes more than an eighth of the time."""


def names_of(languages: Sequence[str], texts: ChatTexts) -> str:
    """The names of languages, such as `en`."""
    return ", ".join(texts.language_names.get(tag.partition("-")[0].lower(), tag) for tag in languages)


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
        self._why_offline = ""
        self._languages: tuple[str, ...] = ()
        self._last_asked = ""
        self._at = ""
        self._offer: Callable[[], object] | None = None
        self.transcript = Transcript(appearance, self)
        self.composer = Composer(appearance, self)
        self.find_bar = FindBar(self.transcript.finder, appearance, self)
        self.stack = QStackedWidget(self)
        self._column = QVBoxLayout(self)
        self._build()
        self._connect()
        self.jump_button = self._jump()
        self._frame = QTimer(self, singleShot=True, interval=FRAME_MS)
        self._frame.timeout.connect(self.flush)
        self._show_connection()
        self._show_conversation()

    # --- for the window

    def apply(self, changes: Changes) -> None:
        """Show what a batch of events changed."""
        if changes.everything and self._app.is_kept is not self._appearance.is_read_only:
            self.set_appearance(self._appearance)
        if changes.connection or changes.everything:
            self._show_connection()
        if changes.connection or changes.settings or changes.gateway:
            if self._app.connection.info_of(self._app.model).languages != self._languages:
                self._replace_states()
                self._show_page()
            self._show_language()
        if self._app.current is not self._shown or changes.everything:
            self._show_conversation()
            return
        shown = self._shown
        if shown is None:
            return
        if shown.conversation_id in changes.drafts:
            self.composer.set_text(shown.draft)
            self.composer.set_files(shown.files)
        if shown.conversation_id in changes.messages:
            self._show_turns()
        self._dirty |= changes.turns | changes.appended
        if self._dirty and not self._frame.isActive():
            self.flush()
            self._frame.start()
        if shown.conversation_id in changes.conversations or changes.turns:
            self.composer.set_running(is_running=shown.pending > 0)

    def set_appearance(self, appearance: Appearance) -> None:
        appearance = dataclasses.replace(appearance, is_read_only=self._app.is_kept)
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

    def tell_offline(self, why: str) -> None:
        """Say over the composer why nothing can be sent now; empty: it can."""
        self._why_offline, texts = why, self._appearance.texts.chat
        self.banner.tell(f"{why} {texts.offline_kept}" if why else "", texts.offline_retry)

    def foot_height(self) -> int:
        """Pixels of the input box and of the bars over it, with a gap."""
        self._column.activate()
        return self.height() - self.stack.geometry().bottom() - self._lower.contentsMargins().bottom()

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
        self.setAcceptDrops(True)
        self._fill()
        self._column.setSpacing(0)
        self._column.addWidget(self.find_bar)
        self._column.addWidget(self.stack, 1)
        self.stack.addWidget(self.transcript)
        self._make_states()
        self._lower = QVBoxLayout()
        self._lower.addWidget(self.banner)
        self._lower.addWidget(self.language_bar)
        self._lower.addWidget(self.composer)
        self._column.addLayout(self._lower)
        self._space()

    def _fill(self) -> None:
        palette = QPalette(self._appearance.theme.palette)
        palette.setColor(QPalette.ColorRole.Window, self._appearance.theme.colour("surface"))
        self.setPalette(palette)

    def _space(self) -> None:
        theme = self._appearance.theme
        self._column.setContentsMargins(0, 0, 0, 0)
        self._lower.setSpacing(theme.space(2))
        side, _ = column_in(self.width(), theme)
        self._lower.setContentsMargins(side, theme.space(1), side, theme.space(4))

    def _make_states(self) -> None:
        texts, appearance = self._appearance.texts.chat, self._appearance
        text, examples = texts.empty_text, texts.examples
        self._languages = self._app.connection.info_of(self._app.model).languages
        if unknown_language(" ".join(examples), self._languages) and "en" in self._languages:
            text = texts.empty_foreign.format(known=names_of(self._languages, texts))
            examples = texts_of(Language.ENGLISH, system_locale="en").chat.examples
        self.empty = EmptyState(appearance, texts.empty_title, text, examples=examples)
        self.empty.chosen.connect(self._ask)
        self.loading = EmptyState(appearance, "", texts.loading)
        self.banner = Bar(appearance, "banner", Icon.OFFLINE)
        self.banner.pressed.connect(self._app.commands.reconnect)
        self.tell_offline(self._why_offline)
        self.language_bar = Bar(appearance, "card")
        self.language_bar.pressed.connect(self._take_offer)
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self.loading)

    def _replace_states(self) -> None:
        self._lower.removeWidget(self.banner)
        self._lower.removeWidget(self.language_bar)
        for old in (self.empty, self.loading, self.banner, self.language_bar):
            self.stack.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._make_states()
        self._lower.insertWidget(0, self.banner)
        self._lower.insertWidget(1, self.language_bar)
        self._show_language()

    def _jump(self) -> QToolButton:
        button = QToolButton(self)
        button.setProperty("variant", "chip")
        button.setCursor(Qt.CursorShape.PointingHandCursor)
        button.clicked.connect(self.transcript.to_end)
        button.hide()
        return button

    def _draw_jump(self, *, has_unseen: bool) -> None:
        theme, texts = self._appearance.theme, self._appearance.texts.chat
        set_icon(self.jump_button, theme, Icon.DOWN, theme.body_px + 5, "accent" if has_unseen else "text_muted")
        set_name(self.jump_button, texts.newest_unseen if has_unseen else texts.newest)
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
        signals = self.transcript.signals
        asks: dict[SignalInstance, Callable[..., object]] = {
            signals.regenerate: ConversationViewModel.regenerate,
            signals.retry: lambda shown, request_ids: shown.retry(*request_ids),
            signals.stop: ConversationViewModel.stop,
            self.composer.stopped: ConversationViewModel.stop_all,
            self.transcript.near_start: ConversationViewModel.load_more,
        }
        for signal, ask in asks.items():
            signal.connect(lambda *which, ask=ask: None if self._shown is None else ask(self._shown, *which))
        signals.edited.connect(self._edited)
        signals.edit_changed.connect(self._keep_edit)
        signals.version.connect(self._show_version)
        self.transcript.edit_of = self._edit_of
        signals.link.connect(self._ask_link)
        signals.file_wanted.connect(self._app.commands.fetch_file)
        self.transcript.pinned_changed.connect(self._pinned)
        self.composer.sent.connect(self._ask)
        self.composer.changed.connect(self._keep_draft)
        self.find_bar.closed.connect(self.focus_composer)
        self.composer.recalled.connect(self.transcript.edit_last)
        self.composer.attach_wanted.connect(self.pick_files)
        self.composer.dropped.connect(self._attach)
        self.composer.let_go.connect(self._let_go)

    # --- showing

    def _show_conversation(self) -> None:
        for box in (self.composer.box, self.transcript):
            box.end_composition()  # it belongs to what is left
        self._shown = self._app.current
        self._wanted = None
        self._last_asked = self._at = ""
        if not self.find_bar.isHidden():
            self.find_bar.close_find()
        self._dirty.clear()
        self.transcript.show_turns(())
        self.composer.set_text("" if self._shown is None else self._shown.draft)
        self.composer.set_files(() if self._shown is None else self._shown.files)
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
        self.composer.setVisible(not self._app.is_kept)
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

    # --- by keyboard

    def copy_last_answer(self) -> bool:
        """The last answer into the clipboard; whether there is one."""
        messages = [] if self._shown is None else self._shown.messages
        answer = next((turn.answer for turn in reversed(messages) if turn.length), "")
        if answer:
            QGuiApplication.clipboard().setText(answer_of(answer))
        return bool(answer)

    def step_question(self, step: int) -> None:
        """To the question before (-1) or after (1) the one that was gone to last; from the end at first."""
        messages = [] if self._shown is None else self._shown.messages
        if not messages:
            return
        ids = [turn.request_id for turn in messages]
        at = ids.index(self._at) if self._at in ids else len(ids)
        at = max(0, at + step)
        if at >= len(ids):
            self._at = ""
            self.transcript.to_end()
        else:
            self._at = ids[at]
            self.transcript.to_turn(self._at)

    # --- what the person does

    def _ask(self, text: str) -> None:
        self._need_conversation()
        if self._shown is None:
            return
        self._shown.ask(text)
        self._last_asked = text
        self.composer.set_text("")
        self.composer.set_files(self._shown.files)
        self.transcript.to_end()

    def _need_conversation(self) -> None:
        if self._app.current is None:
            self.conversation_needed.emit()
            if self._app.current is None:
                self._app.new_conversation()
            self._show_conversation()

    def _keep_draft(self, text: str) -> None:
        if self._shown is not None and self._app.conversation(self._shown.conversation_id) is self._shown:
            self._shown.set_draft(text)
        self._show_language()

    def _show_language(self) -> None:
        """Say that the model does not know the language in which a person writes or just asked. Offer another one."""
        app, was_told = self._app, not self.language_bar.isHidden()
        language = unknown_language(self.composer.text or self._last_asked, self._languages)
        self._offer = None
        if language is None:
            self.language_bar.tell("", "")
            return
        if not was_told:
            app.commands.find_local_models()
        # Koreans are told in Korean, whatever the app speaks.
        texts = texts_of(Language.KOREAN, system_locale="ko").chat if language == "ko" else self._appearance.texts.chat
        others = [name for name in app.models if language_is_known(language, app.connection.info_of(name).languages)]
        offer, how = "", texts.language_ask_operator
        if others:
            how, offer = texts.language_other_model, texts.language_use.format(model=app.connection.title_of(others[0]))
            self._offer = lambda: self._use_model(others[0])
        elif app.gateway.status is GatewayStatus.RUNNING and app.local_models:
            how, offer = texts.language_ollama, texts.language_use.format(model=app.local_models[0])
            self._offer = lambda: app.use_local_model(app.local_models[0])
        elif app.gateway.status is GatewayStatus.RUNNING:
            how = texts.language_get_ollama
        model = app.connection.title_of(app.model)
        known = texts.language_unknown.format(model=model, known=names_of(self._languages, texts))
        self.language_bar.tell(with_particles(f"{known} {how}"), offer)

    def _use_model(self, model: str) -> None:
        if self._shown is not None and self._shown.traits.model is not None:
            self._shown.set_traits(model=model)
        else:
            self._app.change_settings(replace(self._app.settings, model=model))

    def _take_offer(self) -> None:
        if self._offer is not None:
            self._offer()
        self.focus_composer()

    def _edited(self, request_id: str, text: str) -> None:
        if self._shown is not None:
            self._shown.edit_and_resend(request_id, text)
            self.transcript.to_end()
            self.focus_composer()

    def _edit_of(self, request_id: str) -> tuple[str, bool]:
        shown = self._shown
        return ("", False) if shown is None else (shown.edits.get(request_id, ""), request_id in shown.open_edits)

    def _keep_edit(self, request_id: str, text: str | None, is_open: bool) -> None:
        if self._shown is None or self._shown.turn(request_id) is None:
            return
        self._shown.set_edit(request_id, text)
        (self._shown.open_edits.add if is_open else self._shown.open_edits.discard)(request_id)

    def _show_version(self, request_id: str, step: int) -> None:
        if self._shown is not None and (name := self._shown.show_version(request_id, step)) is not None:
            self._show_turns()
            self.transcript.to_turn(name)

    def pick_files(self) -> None:
        """Choose files that go into the question, or with it."""
        dialog = file_dialog(self, self._appearance.texts.chat.attach)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        dialog.filesSelected.connect(lambda paths: self._attach([read_file(Path(path)) for path in paths]))
        dialog.open()

    def _attach(self, attachments: Sequence[ChosenFile]) -> None:
        room = self.composer.room_bytes
        beside = () if self._shown is None else self._shown.files
        fitting = within(attachments, room, measure=encoded_bytes, kinds=self._app.file_kinds, beside=beside)
        dialog = AttachDialog(fitting, room, self._appearance, self)
        dialog.accepted_text.connect(self.composer.insert_block)
        dialog.accepted_files.connect(self._add_files)
        dialog.open()

    def _add_files(self, files: Sequence[File]) -> None:
        text = self.composer.text
        self._need_conversation()
        if self._shown is not None:
            self._set_files((*self._shown.files, *files))
            if text and not self.composer.text:  # it was typed before there was a conversation
                self.composer.box.setPlainText(text)
        self.focus_composer()

    def _set_files(self, files: tuple[File, ...]) -> None:
        if self._shown is not None:
            self._shown.files = files
            self.composer.set_files(files)

    def _let_go(self, file: File) -> None:
        if self._shown is not None:
            self._set_files(tuple(one for one in self._shown.files if one is not file))
        self.focus_composer()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802 - Qt's name
        """Files may be dropped anywhere on the conversation."""
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """As into the box."""
        if attachments := attachments_in(event.mimeData()):
            event.acceptProposedAction()
            self._attach(attachments)

    def _ask_link(self, target: str, text: str) -> None:
        if is_openable(target):
            LinkDialog(target, self._appearance, self, text=text).open()
