"""The sidebar: a new conversation, the search, the list, and what can be done to one conversation."""

from collections.abc import Callable, Sequence
from typing import Final

from PySide6.QtCore import QAbstractItemModel, QEvent, QModelIndex, QObject, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QKeyEvent, QKeySequence, QPainter, QPaintEvent, QStandardItem, QStandardItemModel
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QLabel,
    QLineEdit,
    QListView,
    QMenu,
    QPushButton,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from answerback_desktop.engine.export import ExportFormat
from answerback_desktop.records import SearchHit
from answerback_desktop.ui.parts import Appearance, button, label, pop_up, row, set_icon, set_name
from answerback_desktop.ui.theme import Icon, Theme
from answerback_desktop.ui.window.conversation_model import ConversationListModel, Index
from answerback_desktop.ui.window.rows import ConversationDelegate, HitRole, SearchResultDelegate
from answerback_desktop.viewmodels import AppViewModel, Changes, ConversationViewModel


class SearchBox(QLineEdit):
    """A line edit with a magnifier that grows with the text; Qt's own icons in a line edit have one size."""

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self.setTextMargins(self._side + theme.space(1), 0, 0, 0)
        self.update()

    @property
    def _side(self) -> int:
        return self._theme.body_px + 1

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        super().paintEvent(event)
        drawn = self._theme.pixmap(Icon.SEARCH, self._side, scale=self.devicePixelRatioF())
        QPainter(self).drawPixmap(self._theme.space(2.5), (self.height() - self._side) // 2, drawn)


_SEARCH_AFTER_MS: Final = 150
"""Typing pauses that are shorter do not start a search."""
_TOUCH_MS: Final = 60_000


class Sidebar(QFrame):
    """Shows `app.conversations`.

    Signals: `opened(conversation_id, request_id)`: the request is "" except for a search hit; `settled()`: the person
    has chosen a row and will not go on to the next one; `delete_wanted(conversation)`; `details_wanted(conversation)`:
    its tags and instructions; `import_wanted()`. What its buttons do is the window's.
    """

    opened = Signal(str, str)
    settled = Signal()
    delete_wanted = Signal(object)
    details_wanted = Signal(object)
    import_wanted = Signal()

    def __init__(self, app: AppViewModel, appearance: Appearance) -> None:
        super().__init__()
        self._app = app
        self._texts, self._theme = appearance.texts, appearance.theme
        self.setObjectName("sidebar")
        self._make()
        self._connect()
        self.set_appearance(appearance)
        self.refresh()

    # --- building

    def _make(self) -> None:
        self.new_button, self.archive_button = QPushButton(), button("", lambda: self.show_archive(False), "quiet")
        self.new_button.setProperty("variant", "quiet")
        self.hide_button, self.menu_button = QToolButton(), QToolButton()
        self.settings_button, self.help_button = QToolButton(), QToolButton()
        self.settings_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.search_box = SearchBox()
        self.search_box.setClearButtonEnabled(False)
        self._clear_action = QAction(self)
        self._search_timer = QTimer(self, singleShot=True, interval=_SEARCH_AFTER_MS)
        self._day_timer = QTimer(self, interval=_TOUCH_MS)
        self._model = ConversationListModel(self._texts, self)
        self.list = list_view(self._model)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._hits = QStandardItemModel(self)
        self.results = list_view(self._hits)
        self._empty, self._empty_title, self._empty_hint = _empty()
        self._stack = QStackedWidget()
        for page in (self.list, self.results, self._empty):
            self._stack.addWidget(page)
        self._top = row(self.new_button, self.hide_button)
        self._top.setStretch(0, 1)
        self._column = QVBoxLayout(self)
        self._column.addLayout(self._top)
        self._column.addWidget(self.search_box)
        self._column.addWidget(self.archive_button)
        self._column.addWidget(self._stack, 1)
        self._column.addLayout(row(self.settings_button, None, self.menu_button, self.help_button))

    def _connect(self) -> None:
        self.menu_button.clicked.connect(self._show_list_menu)
        self.search_box.textChanged.connect(self._search_typed)
        self.search_box.installEventFilter(self)
        self.list.installEventFilter(self)
        self._clear_action.triggered.connect(self.clear_search)
        self._search_timer.timeout.connect(self._search)
        self._day_timer.timeout.connect(self._model.touch)
        self._day_timer.start()
        self.list.selectionModel().currentChanged.connect(self._row_chosen)
        self.list.clicked.connect(self.settled)
        self.list.customContextMenuRequested.connect(self._show_menu)
        self.results.clicked.connect(self._hit_chosen)
        self.results.activated.connect(self._hit_chosen)

    def set_appearance(self, appearance: Appearance) -> None:
        self._texts, self._theme = appearance.texts, appearance.theme
        theme, words = self._theme, self._texts.window
        self._column.setContentsMargins(theme.space(3), theme.space(3), theme.space(3), theme.space(2))
        self._column.setSpacing(theme.space(2))
        for one, drawing, name in (
            (self.hide_button, Icon.SIDEBAR, words.hide_sidebar),
            (self.help_button, Icon.HELP, words.help),
            (self.menu_button, Icon.MORE, words.list_menu),
        ):
            set_icon(one, theme, drawing, theme.space(5))
            set_name(one, name)
        for wide, drawing, text, colour in (
            (self.new_button, Icon.NEW_CHAT, words.new_conversation, "text"),
            (self.settings_button, Icon.SETTINGS, words.settings, "text_muted"),
            (self.archive_button, Icon.CHEVRON_LEFT, words.archived, "text_muted"),
        ):
            set_icon(wide, theme, drawing, theme.space(5), colour)
            wide.setText(" " + text)
        self.archive_button.setToolTip(words.leave_archive)
        self.search_box.set_theme(theme)
        self.search_box.setPlaceholderText(words.search)
        self._clear_action.setIcon(theme.icon(Icon.CLOSE, theme.space(4)))
        self._clear_action.setToolTip(words.clear_search)
        for part, name in (
            (self, words.sidebar_name),
            (self.search_box, words.search_name),
            (self.list, words.list_name),
            (self.results, words.results_name),
        ):
            part.setAccessibleName(name)
        self._model.set_texts(appearance.texts)
        self.list.setItemDelegate(ConversationDelegate(appearance, self.list, headed=lambda: self._model.headings))
        self.results.setItemDelegate(SearchResultDelegate(appearance, self.results))
        # Never narrower than the words of its buttons.
        top = self.new_button.sizeHint().width() + self.hide_button.sizeHint().width() + self._top.spacing()
        self.setMinimumWidth(max(200, top + 2 * (theme.space(3) + self.frameWidth() + 1)))
        self._show_page()

    # --- what is shown

    def apply(self, changes: Changes) -> None:
        if changes.everything:
            self.clear_search()
        if changes.everything or changes.list:
            self.refresh()
        if changes.connection or changes.everything:
            self._model.set_online(self._app.connection.is_online)
        self._model.update_rows(changes.conversations | changes.drafts)
        if changes.search or changes.list:
            self._show_page()

    def refresh(self) -> None:
        """Show the list as it is now, the current conversation chosen."""
        self._model.show(self._app.conversations)
        self.archive_button.setVisible(self._app.shows_archive)
        self.mark_current()
        self._show_page()

    def touch_current(self) -> None:
        """The draft of the current conversation was typed in."""
        if self._app.current is not None:
            self._model.update_rows((self._app.current.conversation_id,))

    def mark_current(self) -> None:
        current = self._app.current
        row = None if current is None else self._model.row_of(current.conversation_id)
        selection = self.list.selectionModel()
        if row is None:
            selection.clear()
            return
        index = self._model.index(row)
        if self.list.currentIndex() != index or not selection.isSelected(index):
            self.list.setCurrentIndex(index)
            self.list.scrollTo(index, QAbstractItemView.ScrollHint.EnsureVisible)

    def neighbour(self, step: int) -> ConversationViewModel | None:
        """The conversation `step` rows below the current one, round the ends."""
        count = self._model.rowCount()
        if not count:
            return None
        current = self._app.current
        row = None if current is None else self._model.row_of(current.conversation_id)
        if row is None:
            return self._model.conversation(self._model.index(0 if step > 0 else count - 1))
        return self._model.conversation(self._model.index((row + step) % count))

    def _show_page(self) -> None:
        words, found = self._texts.window, self._app.search_result
        if self._app.search_query:
            if found is None or found.query != self._app.search_query:
                return  # the answer is on its way; what is shown stays
            self._show_hits(found.hits)
            hint = words.found_nothing_hint.format(query=self._app.search_query)
            self._turn_to(self.results if found.hits else self._empty, words.found_nothing, hint)
            return
        page = self.list if self._model.rowCount() else self._empty
        if self._app.shows_archive:
            self._turn_to(page, words.no_archive, words.no_archive_hint)
        else:
            self._turn_to(page, words.no_conversations, words.no_conversations_hint)

    def _show_hits(self, hits: Sequence[SearchHit]) -> None:
        self._hits.clear()
        for hit in hits:
            conversation = self._app.conversation(hit.conversation_id)
            title = "" if conversation is None else conversation.title
            item = QStandardItem(hit.excerpt)
            item.setEditable(False)
            item.setData(hit, HitRole.HIT)
            item.setData(title or self._texts.window.untitled, HitRole.TITLE)
            item.setData(f"{title}: {hit.excerpt}", Qt.ItemDataRole.AccessibleTextRole)
            self._hits.appendRow(item)

    def _turn_to(self, page: QWidget, title: str, hint: str) -> None:
        self._empty_title.setText(title)
        self._empty_hint.setText(hint)
        self._stack.setCurrentWidget(page)

    # --- searching

    def focus_search(self) -> None:
        self.search_box.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.search_box.selectAll()

    def clear_search(self) -> None:
        self.search_box.clear()
        self._search()

    def _search_typed(self, text: str) -> None:
        has_clear = self._clear_action in self.search_box.actions()
        if text and not has_clear:
            self.search_box.addAction(self._clear_action, QLineEdit.ActionPosition.TrailingPosition)
        elif not text and has_clear:
            self.search_box.removeAction(self._clear_action)
        self._search_timer.start()
        if not text.strip():
            self._search()

    def _search(self) -> None:
        self._search_timer.stop()
        self._app.search(self.search_box.text())
        self._show_page()

    # --- what a person does in the list

    def _row_chosen(self, index: QModelIndex) -> None:
        conversation = self._model.conversation(index)
        if conversation is not None and conversation is not self._app.current:
            self.opened.emit(conversation.conversation_id, "")

    def _hit_chosen(self, index: QModelIndex) -> None:
        hit = index.data(HitRole.HIT)
        if hit is not None:
            self.opened.emit(hit.conversation_id, hit.request_id or "")
            self.settled.emit()

    # --- what a person does with all of them

    def show_archive(self, is_shown: bool) -> None:
        """The conversations of the archive, or the others again."""
        self.clear_search()
        self._app.show_archive(is_shown)
        self.refresh()

    def list_menu(self, parent: QWidget) -> QMenu:
        """Everything that can be done with all conversations."""
        words, menu, app = self._texts.window, QMenu(parent), self._app
        commands = app.commands
        self._add(menu, words.export_all_markdown, Icon.EXPORT, lambda: commands.export(None, ExportFormat.MARKDOWN))
        self._add(menu, words.export_all_json, Icon.EXPORT, lambda: commands.export(None, ExportFormat.JSON))
        self._add(menu, words.import_file, Icon.DOWN, self.import_wanted.emit).setEnabled(not app.is_kept)
        menu.addSeparator()
        self._add(menu, words.show_archive, Icon.ARCHIVE, lambda: self.show_archive(True))
        if app.kept:
            kept_menu = menu.addMenu(self._theme.icon(Icon.CLOCK, self._theme.space(4)), words.kept)
            for one in app.kept:
                form = words.kept_copy if one.is_copy else words.kept_store
                text = form.format(count=one.conversations, time=self._model.time_of(one.changed_at_ms))
                kept_menu.addAction(text).triggered.connect(lambda _on=False, name=one.name: commands.open_kept(name))
        return menu

    def _add(self, menu: QMenu, text: str, drawing: Icon, act: Callable[[], object]) -> QAction:
        action = menu.addAction(self._theme.icon(drawing, self._theme.space(4)), text)
        action.triggered.connect(lambda _checked=False: act())
        return action

    def _show_list_menu(self) -> None:
        menu = self.list_menu(self)
        pop_up(menu, self.menu_button.mapToGlobal(QPoint(0, -menu.sizeHint().height())))

    # --- what a person does with one

    def rename(self, conversation_id: str) -> None:
        self.clear_search()
        row = self._model.row_of(conversation_id)
        if row is not None:
            index = self._model.index(row)
            self.list.scrollTo(index)
            self.list.edit(index)

    def menu_for(self, conversation: ConversationViewModel, parent: QWidget) -> QMenu:
        """Everything that can be done to one conversation."""
        words, menu, traits = self._texts.window, QMenu(parent), conversation.traits
        has_record = conversation.record is not None
        pin = words.unpin if traits.is_pinned else words.pin
        archive = words.unarchive if traits.is_archived else words.archive
        actions = (
            (words.rename, Icon.EDIT, lambda: self.rename(conversation.conversation_id), has_record),
            (pin, Icon.PIN, lambda: conversation.set_traits(is_pinned=not traits.is_pinned), has_record),
            (words.conversation_settings, Icon.TAG, lambda: self.details_wanted.emit(conversation), True),
            (words.export_markdown, Icon.EXPORT, lambda: conversation.export(ExportFormat.MARKDOWN), has_record),
            (words.export_json, Icon.EXPORT, lambda: conversation.export(ExportFormat.JSON), has_record),
            (archive, Icon.ARCHIVE, lambda: conversation.set_traits(is_archived=not traits.is_archived), has_record),
            (words.delete, Icon.TRASH, lambda: self.delete_wanted.emit(conversation), True),
        )
        for text, drawing, act, is_enabled in actions:
            if drawing is Icon.TRASH:
                menu.addSeparator()
            self._add(menu, text, drawing, act).setEnabled(is_enabled)
        return menu

    def _show_menu(self, place: QPoint) -> None:
        conversation = self._model.conversation(self.list.indexAt(place))
        if conversation is not None:
            pop_up(self.menu_for(conversation, self), self.list.viewport().mapToGlobal(place))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Keys that move between the box and the lists, and act on the chosen row."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            if watched is self.search_box and self._search_key(event):
                return True
            if watched is self.list and self._list_key(event):
                return True
        return super().eventFilter(watched, event)

    def _search_key(self, event: QKeyEvent) -> bool:
        shown = self._stack.currentWidget()
        match event.key():
            case Qt.Key.Key_Escape if self.search_box.text():
                self.clear_search()
            case Qt.Key.Key_Down if isinstance(shown, QListView):
                shown.setFocus(Qt.FocusReason.TabFocusReason)
                if not shown.currentIndex().isValid():
                    shown.setCurrentIndex(shown.model().index(0, 0))
            case Qt.Key.Key_Return | Qt.Key.Key_Enter if shown is self.results:
                self._hit_chosen(self._hits.index(max(0, self.results.currentIndex().row()), 0))
            case _:
                return False
        return True

    def _list_key(self, event: QKeyEvent) -> bool:
        conversation = self._model.conversation(self.list.currentIndex())
        if conversation is None or self.list.state() == QAbstractItemView.State.EditingState:
            return False
        if event.matches(QKeySequence.StandardKey.Delete):
            self.delete_wanted.emit(conversation)
        elif event.key() == Qt.Key.Key_F2:
            self.rename(conversation.conversation_id)
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit(conversation.conversation_id, "")
            self.settled.emit()
        else:
            return False
        return True


class _ListView(QListView):
    """What a row says changes no height, so that nothing is laid out again for it: that takes a frame and more."""

    def dataChanged(self, first: Index, last: Index, roles: Sequence[int] = ()) -> None:  # noqa: N802
        QAbstractItemView.dataChanged(self, first, last, roles)


def list_view(model: QAbstractItemModel) -> QListView:
    """A list, of the conversations or of what a search finds."""
    view = _ListView()
    view.setModel(model)
    view.setFrameShape(QFrame.Shape.NoFrame)
    view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
    view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    view.setMouseTracking(True)
    view.setResizeMode(QListView.ResizeMode.Adjust)
    return view


def _empty() -> tuple[QWidget, QLabel, QLabel]:
    """A page for nothing: a title and what to do."""
    page = QWidget()
    title, hint = label(), label(variant="muted")
    below = QVBoxLayout(page)
    below.addStretch(1)
    for part in (title, hint):
        part.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        below.addWidget(part)
    below.addStretch(2)
    return page, title, hint
