"""The window: sidebar, header, chat, and what comes over them. It only joins; each part shows its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from PySide6.QtCore import QByteArray, QEvent, QPoint, QSettings, Signal
from PySide6.QtGui import QAction, QCloseEvent, QHideEvent, QKeySequence, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QApplication, QMainWindow, QSplitter, QStackedWidget, QWidget

from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus
from answerback_desktop.settings import AuthMode, Settings
from answerback_desktop.texts import Texts
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.dialogs import ConversationDialog, Dialogs, Exporter, HelpDialog
from answerback_desktop.ui.parts import Appearance, column, pop_up
from answerback_desktop.ui.shortcuts import KEYS
from answerback_desktop.ui.theme import Theme, apply, theme_of
from answerback_desktop.ui.window.header import Banner, Header
from answerback_desktop.ui.window.notifications import DesktopNotifier, Toast, ToastStack, Tray, short_title
from answerback_desktop.ui.window.sidebar import Sidebar
from answerback_desktop.ui.window.welcome import Screen, WelcomePage, screen_of
from answerback_desktop.viewmodels import AppViewModel, Changes, ConversationViewModel

NARROW_PX: Final = 640
_SIDEBAR_PX: Final = 272


class MainWindow(QMainWindow):
    """The main window. `apply` gets every `Changes`; `state` keeps its place and size.

    Signals: `quit_wanted()`: the person wants to end the app; `visibility_changed(is_visible)`; `acted()`: the person
    did something that the engine will say something about.
    """

    quit_wanted = Signal()
    visibility_changed = Signal(bool)
    acted = Signal()

    def __init__(
        self, app: AppViewModel, texts: Texts, theme: Theme, *, state: QSettings, tray: Tray, log_path: Path
    ) -> None:
        super().__init__()
        self._app = app
        self._appearance = Appearance(theme=theme, texts=texts, titles=app.connection.titles)
        self._state = state
        self._tray = tray
        self._is_narrow = False
        self._is_sidebar_wanted = True
        self._is_put_off = False
        self._make(log_path)
        self._connect()
        self._make_actions()
        self.set_texts(texts)
        self._restore()

    def _make(self, log_path: Path) -> None:
        self.setMinimumSize(360, 420)
        self.sidebar = Sidebar(self._app, self._appearance)
        self.header = Header(self._app, self._appearance, self.show_settings)
        self.banner = Banner(self._appearance)
        self.chat = ChatPane(self._app, self._appearance)
        self.welcome = WelcomePage(self._app, self._appearance, self.show_settings)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.chat)
        self.pages.addWidget(self.welcome)
        self.right = QWidget()
        below = column(self._appearance.theme, into=self.right)
        below.addWidget(self.header)
        below.addWidget(self.banner)
        below.addWidget(self.pages, 1)
        self.splitter = QSplitter()
        self.splitter.setHandleWidth(1)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.addWidget(self.sidebar)
        self.splitter.addWidget(self.right)
        self.splitter.setStretchFactor(1, 1)
        self.setCentralWidget(self.splitter)
        self.toasts = ToastStack(self.right, self._appearance, lift=self._toast_lift)
        self.exporter = Exporter(self)
        self.notifier = DesktopNotifier(self._app, self._tray, self)
        self.dialogs = Dialogs(self._app, self._tray, log_path, self)

    def _connect(self) -> None:
        self.sidebar.opened.connect(self.open_conversation)
        self.sidebar.settled.connect(self.chat.focus_composer)
        self.sidebar.details_wanted.connect(
            lambda conversation: ConversationDialog(self._app, conversation, self._appearance, self).open()
        )
        self.sidebar.import_wanted.connect(lambda: self.dialogs.choose_import(self._texts))
        self.sidebar.delete_wanted.connect(self.delete_conversation)
        for pressed, act in (
            (self.sidebar.new_button, self.new_conversation),
            (self.sidebar.settings_button, self.show_settings),
            (self.sidebar.help_button, self.show_help),
            (self.sidebar.hide_button, self.toggle_sidebar),
            (self.header.sidebar_button, self.toggle_sidebar),
            (self.header.new_button, self.new_conversation),
            (self.header.more_button, self._show_more),
        ):
            pressed.clicked.connect(act)
        self.welcome.put_off.connect(self._put_off)
        self.exporter.reported.connect(self.toasts.show_toast)
        self.notifier.reported.connect(self.toasts.show_toast)
        self.dialogs.previewed.connect(self._preview)
        self.chat.composer.changed.connect(self.sidebar.touch_current)
        self.chat.composer.sent.connect(lambda _text: self.acted.emit())
        self._tray.open_wanted.connect(self._open_from_tray)
        self._tray.new_wanted.connect(self._new_from_tray)
        self._tray.quit_wanted.connect(self.quit_wanted)

    def _make_actions(self) -> None:
        acts = {
            "new": self.new_conversation,
            "search": self.search,
            "find": self.chat.open_find,
            "next": lambda: self._step(1),
            "previous": lambda: self._step(-1),
            "composer": self._write,
            "attach": self.chat.pick_files,
            "copy_answer": self._copy_answer,
            "question_before": lambda: self.chat.step_question(-1),
            "question_after": lambda: self.chat.step_question(1),
            "sidebar": self.toggle_sidebar,
            "settings": self.show_settings,
            "larger": lambda: self._zoom(1),
            "smaller": lambda: self._zoom(-1),
            "usual_size": lambda: self._zoom(0),
            "help": self.show_help,
            "close": self.close,
            "quit": self.quit_wanted.emit,
        }
        self.shortcuts: dict[str, QAction] = {}
        for shortcut, act in acts.items():
            action = QAction(self)
            action.setShortcuts([QKeySequence(key) for key in KEYS[shortcut]])
            action.triggered.connect(lambda _checked=False, act=act: act())
            self.addAction(action)
            self.shortcuts[shortcut] = action

    # --- appearance and language

    @property
    def _texts(self) -> Texts:
        return self._appearance.texts

    def set_theme(self, theme: Theme) -> None:
        if theme == self._appearance.theme:
            return
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        apply(application, theme)
        self._set_appearance(theme=theme)

    def set_texts(self, texts: Texts) -> None:
        self._set_appearance(texts=texts)
        self._tray.set_texts(texts)
        for shortcut, action in self.shortcuts.items():
            action.setText(texts.window.shortcuts[shortcut])
        self._refresh_title()
        self._refresh_screen()

    def _set_appearance(self, **changed: Any) -> None:
        self._appearance = replace(self._appearance, **changed)
        for part in (self.sidebar, self.header, self.banner, self.chat, self.welcome, self.toasts):
            part.set_appearance(self._appearance)

    # --- what happened

    def apply(self, changes: Changes) -> None:
        if changes.connection and self._app.connection.titles != self._appearance.titles:
            self._appearance = replace(self._appearance, titles=self._app.connection.titles)
            self.chat.set_appearance(self._appearance)
        if changes.everything:
            self._begin()
        self.sidebar.apply(changes)
        self.chat.apply(changes)
        current = self._app.current
        is_ours = current is not None and current.conversation_id in changes.conversations
        if changes.everything or changes.connection or changes.settings or changes.current or is_ours:
            self.header.refresh()
        if changes.current and not changes.everything and current is None:
            self._begin()
        is_told = changes.notices or bool(changes.conversations)
        if changes.connection or changes.sign_in or changes.gateway or changes.everything or changes.list or is_told:
            self._refresh_screen()
            self.toasts.place()
        if changes.settings:
            # A desktop shows notifications only of an icon that is there.
            self._tray.set_shown(self._app.settings.tray or self._app.settings.notifications)
        if changes.conversations or changes.list or changes.everything:
            self._refresh_title()
        if changes.exported and self._app.exported is not None:
            self.exporter.save(self._app.exported, self._texts)
        self.notifier.apply(changes, self._texts)
        self.dialogs.apply(changes)

    def _begin(self) -> None:
        """Another account, or the current conversation is gone: show the one used last here, or a new one."""
        wanted = self._app.conversation(str(self._state.value("current", "")))
        if wanted is None:
            wanted = next(iter(self._app.conversations), None)
        if wanted is None:
            self._app.new_conversation()
        else:
            self._app.open(wanted.conversation_id)
        self._show_current()
        self.chat.focus_composer()

    def _refresh_screen(self) -> None:
        screen = screen_of(self._app)
        if screen is Screen.CHAT:
            self._is_put_off = False
        has_history = any(conversation.record is not None for conversation in self._app.conversations)
        is_page = screen is not Screen.CHAT and not has_history and not self._is_put_off
        if is_page:
            self.welcome.show_screen(screen)
        page = self.welcome if is_page else self.chat
        if page is not self.pages.currentWidget():
            self.pages.setCurrentWidget(page)
            if page is self.chat:
                self.chat.focus_composer()
        self._refresh_banner(Screen.CHAT if is_page else screen)

    def _refresh_banner(self, screen: Screen) -> None:
        """One bar tells what is wrong: the one over the chat, if something can be done, or the one over the box."""
        words, app = self._texts.status, self._app
        is_off = app.connection.status in (ConnectionStatus.OFFLINE, ConnectionStatus.STOPPED) and not app.is_kept
        is_told_above = screen not in (Screen.CHAT, Screen.UNREACHABLE)
        self.chat.tell_offline(words.reasons[app.connection.reason] if is_off and not is_told_above else "")
        if app.is_kept:
            self.banner.say(words.kept, (words.leave_kept, lambda: app.commands.open_kept(None)))
            return
        if app.other_store is not None:
            kept = next((one.name for one in app.kept if not one.is_copy), None)
            show = [] if kept is None else [(words.show_kept, lambda: app.commands.open_kept(kept))]
            self.banner.say(words.other_store.format_map(app.other_store.facts), *show, (words.go_on, self._go_on))
            return
        if app.missing:
            keep, remove = (
                (lambda: app.commands.settle_missing(keep=True)),
                (lambda: app.commands.settle_missing(keep=False)),
            )
            choices = ((words.remove_lost, remove), (words.keep_lost, keep))
            self.banner.say(words.lost.format(count=app.missing), *choices)
            return
        match screen:
            case Screen.OFFER:
                self.banner.say(
                    words.nobody_answers.format(url=app.settings.server_url), (words.start, app.commands.start_gateway)
                )
            case Screen.STARTING:
                self.banner.say(words.starting_title)
            case Screen.START_FAILED:
                self.banner.say(words.gateway_stopped, (words.start, app.commands.start_gateway))
            case Screen.SIGN_IN:
                is_refused = app.connection.reason is ConnectionReason.TOKEN_REFUSED
                title = words.welcome_refused_title if is_refused else words.welcome_signin_title
                by_browser = app.settings.auth is AuthMode.OIDC
                act = app.commands.sign_in if by_browser else self.show_settings
                self.banner.say(title, (words.sign_in if by_browser else words.open_settings, act))
            case Screen.BROWSER:
                self.banner.say(words.browser_title, (words.cancel, app.commands.cancel_sign_in))
            case _:
                self.banner.say("")

    def _refresh_title(self) -> None:
        unread = self._app.unread
        self.setWindowTitle(f"({unread}) Answerback" if unread else "Answerback")
        self._tray.set_unread(unread)

    # --- what a person does

    def new_conversation(self) -> None:
        self._app.new_conversation()
        self.sidebar.clear_search()
        self.sidebar.refresh()
        self._show_current()
        self.chat.focus_composer()

    def open_conversation(self, conversation_id: str, request_id: str = "") -> None:
        """Show it; `request_id`: the turn that a search found."""
        if self._app.open(conversation_id) is None:
            return
        self._show_current()
        if request_id:
            self.chat.show_turn(request_id, self._app.search_query)

    def delete_conversation(self, conversation: ConversationViewModel) -> None:
        """At once, with a way back."""
        words = self._texts.window
        is_current = conversation is self._app.current
        neighbour = self.sidebar.neighbour(1) if is_current else None
        conversation.delete()
        if neighbour is not None and neighbour is not conversation:
            self.open_conversation(neighbour.conversation_id)
        text = words.deleted.format(title=short_title(conversation.title, self._texts))
        undo = lambda: self._app.commands.undo_delete(conversation.conversation_id)  # noqa: E731
        self.toasts.show_toast(Toast(text=text, action=words.undo, act=undo))

    def search(self) -> None:
        """The cursor into the search box, the sidebar in sight."""
        self._is_sidebar_wanted = self._is_sidebar_wanted or not self._is_narrow
        self._arrange(show_list=True)
        self.sidebar.focus_search()

    def _write(self) -> None:
        """The cursor into the box, the chat in sight."""
        if self._is_narrow:
            self._arrange(show_list=False)
        self.chat.focus_composer()

    def _copy_answer(self) -> None:
        if self.chat.copy_last_answer():
            self.toasts.show_toast(Toast(text=self._texts.window.copied))

    def toggle_sidebar(self) -> None:
        is_shown = self.sidebar.isVisibleTo(self)
        if not self._is_narrow:
            self._is_sidebar_wanted = not is_shown
        self._arrange(show_list=not is_shown)

    def show_settings(self) -> None:
        self.dialogs.show_settings(self._appearance)

    def show_help(self) -> None:
        HelpDialog(self._appearance, self).open()

    def bring_to_front(self) -> None:
        """Out of the tray, from behind other windows."""
        if self.isMinimized():
            self.showNormal()
        self.show()
        self.raise_()
        self.activateWindow()

    def _show_current(self) -> None:
        self.acted.emit()
        current = self._app.current
        self._state.setValue("current", "" if current is None else current.conversation_id)
        self.chat.apply(Changes())
        self.sidebar.mark_current()
        self.header.refresh()
        if self._is_narrow:
            self._arrange(show_list=False)

    def _toast_lift(self) -> int:
        """Toasts stand over the input box and the offline line, not on them."""
        return self.chat.foot_height() if self.pages.currentWidget() is self.chat else 0

    def _step(self, step: int) -> None:
        neighbour = self.sidebar.neighbour(step)
        if neighbour is not None:
            self.open_conversation(neighbour.conversation_id)

    def _zoom(self, step: int) -> None:
        usual = Settings().font_size
        size = usual if step == 0 else self._app.settings.font_size + step
        settings = msgspec.structs.replace(self._app.settings, font_size=min(21, max(9, size)))
        self._app.change_settings(settings)

    def _go_on(self) -> None:
        self._app.other_store = None
        self._refresh_screen()

    def _show_more(self) -> None:
        if self._app.current is not None:
            menu, pressed = self.sidebar.menu_for(self._app.current, self), self.header.more_button
            pop_up(menu, pressed.mapToGlobal(pressed.rect().bottomRight()) - QPoint(menu.sizeHint().width(), 0))

    def _put_off(self) -> None:
        self._is_put_off = True
        self._refresh_screen()

    def _preview(self, settings: Settings) -> None:
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        self.set_theme(theme_of(settings, application))

    def _open_from_tray(self, conversation_id: str) -> None:
        self.bring_to_front()
        if conversation_id:
            self.open_conversation(conversation_id)

    def _new_from_tray(self) -> None:
        self.bring_to_front()
        self.new_conversation()

    # --- place and size

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """With little room there is the list or the chat."""
        super().resizeEvent(event)
        is_narrow = event.size().width() < NARROW_PX
        if is_narrow != self._is_narrow:
            self._is_narrow = is_narrow
            self._arrange(show_list=False)

    def _arrange(self, *, show_list: bool) -> None:
        """`show_list`: in a narrow window the list takes the chat's place."""
        is_list_shown = show_list if self._is_narrow else self._is_sidebar_wanted
        self.sidebar.setVisible(is_list_shown)
        self.right.setVisible(not (self._is_narrow and is_list_shown))
        self.header.set_sidebar_shown(is_list_shown)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        """In front or not: only what is in front is read."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.ActivationChange, QEvent.Type.WindowStateChange):
            self._report_shown()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self.visibility_changed.emit(True)
        self._report_shown()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        super().hideEvent(event)
        self.visibility_changed.emit(False)
        self._report_shown()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Hide into the tray if the settings say so, else quit."""
        self.keep_state()
        event.ignore()
        if self._app.settings.tray and self._tray.is_there:
            self.hide()
            if not self._state.value("told_of_tray", False, type=bool):
                self._state.setValue("told_of_tray", True)
                self._tray.notify(self._texts.window.tray_stays, "")
            return
        self.quit_wanted.emit()

    def keep_state(self) -> None:
        """Write down place, size and what is open."""
        self._state.setValue("geometry", self.saveGeometry())
        if not self._is_narrow:
            self._state.setValue("splitter", self.splitter.saveState())
        self._state.setValue("sidebar", self._is_sidebar_wanted)
        self._state.sync()

    def _restore(self) -> None:
        self.resize(1100, 760)
        geometry, splitter = self._state.value("geometry"), self._state.value("splitter")
        if isinstance(geometry, QByteArray):
            self.restoreGeometry(geometry)
        self.splitter.setSizes([_SIDEBAR_PX, max(200, self.width() - _SIDEBAR_PX)])
        if isinstance(splitter, QByteArray):
            self.splitter.restoreState(splitter)
        self._is_sidebar_wanted = bool(self._state.value("sidebar", True, type=bool))
        self._arrange(show_list=False)

    def _report_shown(self) -> None:
        is_visible = self.isVisible() and not self.isMinimized()
        self._app.set_shown(is_visible and self.isActiveWindow(), is_visible=is_visible)
