"""The list of conversations as Qt's model: what a row says, and the fewest changes from one order to the next."""

from collections.abc import Collection, Container, Sequence
from datetime import date, datetime
from enum import IntEnum
from typing import Any, Final

from PySide6.QtCore import (
    QAbstractListModel,
    QDate,
    QLocale,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    QTime,
)

from answerback_desktop.texts import Texts
from answerback_desktop.viewmodels import ConversationViewModel

Index = QModelIndex | QPersistentModelIndex
_RESET_ABOVE: Final = 64
"""More rows than this that changed places are one new list, not that many moves."""
_QUARTER_MS: Final = 15 * 60 * 1000
"""Of an hour: the days of all time zones begin with one."""


class Role(IntEnum):
    """What the delegate asks for, besides Qt's own roles."""

    CONVERSATION_ID = Qt.ItemDataRole.UserRole
    TIME = Qt.ItemDataRole.UserRole + 1
    NOTE = Qt.ItemDataRole.UserRole + 2
    UNREAD = Qt.ItemDataRole.UserRole + 3
    IS_STREAMING = Qt.ItemDataRole.UserRole + 4
    HEADING = Qt.ItemDataRole.UserRole + 5
    """What stands over the row: a day, where another one than that of the row above begins."""


class ConversationListModel(QAbstractListModel):
    """One row a conversation, in the order given to `show`."""

    def __init__(self, texts: Texts, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[ConversationViewModel] = []
        self._row_of: dict[str, int] = {}
        self._is_online = False
        self.headings: dict[int, str] = {}
        self._today = date.min
        self._days: dict[int, str] = {}
        self._sections: list[str] = []
        self.set_texts(texts)

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts
        self._locale = QLocale(texts.locale)
        self._days = {}
        self.touch()

    def set_online(self, is_online: bool) -> None:
        """Without a connection nothing is being answered."""
        if is_online != self._is_online:
            self._is_online = is_online
            self.touch()

    # --- what is in it

    def show(self, conversations: Sequence[ConversationViewModel]) -> None:
        """A new order or set. Rows that stay keep their selection and the view its place."""
        wanted = list(conversations)
        if wanted != self._rows:
            self._change(wanted)
        self._head()

    def _change(self, wanted: list[ConversationViewModel]) -> None:
        known = set(map(id, self._rows))
        gone = known.difference(map(id, wanted))
        if len(gone) + self._moves(wanted, gone) > _RESET_ABOVE:
            self.beginResetModel()
            self._rows = wanted
            self._index()
            self.endResetModel()
            return
        if gone:
            for row in range(len(self._rows) - 1, -1, -1):
                if id(self._rows[row]) in gone:
                    self.beginRemoveRows(QModelIndex(), row, row)
                    del self._rows[row]
                    self.endRemoveRows()
        for row, conversation in enumerate(wanted):
            if row < len(self._rows) and self._rows[row] is conversation:
                continue
            if id(conversation) in known:
                at = self._rows.index(conversation, row)  # below: all above are in place
                self.beginMoveRows(QModelIndex(), at, at, QModelIndex(), row)
                self._rows.insert(row, self._rows.pop(at))
                self.endMoveRows()
            else:
                self.beginInsertRows(QModelIndex(), row, row)
                self._rows.insert(row, conversation)
                self.endInsertRows()
        self._index()

    def update_rows(self, conversation_ids: Collection[str]) -> None:
        """These say something else now."""
        rows = [row for one in conversation_ids if (row := self._row_of.get(one)) is not None]
        if any(self._section(self._rows[row]) != self._sections[row] for row in rows):
            self._head()
        for row in rows:
            index = self.index(row)
            self.dataChanged.emit(index, index)

    def touch(self) -> None:
        """Every row says something else now: another day, another language."""
        self._head()
        if self._rows:
            self.dataChanged.emit(self.index(0), self.index(len(self._rows) - 1))

    def row_of(self, conversation_id: str) -> int | None:
        return self._row_of.get(conversation_id)

    def conversation(self, index: Index) -> ConversationViewModel | None:
        return self._rows[index.row()] if 0 <= index.row() < len(self._rows) else None

    def _moves(self, wanted: list[ConversationViewModel], gone: Container[int]) -> int:
        """How many rows are inserted, or moved up to their place."""
        placed = set[int]()
        rest = iter([one for one in self._rows if id(one) not in gone])
        below = next(rest, None)
        for conversation in wanted:
            while below is not None and id(below) in placed:
                below = next(rest, None)
            if conversation is below:
                below = next(rest, None)
            else:
                placed.add(id(conversation))
        return len(placed)

    def _index(self) -> None:
        self._row_of = {conversation.conversation_id: row for row, conversation in enumerate(self._rows)}

    def _head(self) -> None:
        """Find the rows over which a heading stands; the view lays out again what changed."""
        if (today := datetime.now().date()) != self._today:
            self._today, self._days = today, {}
        self._sections = [self._section(conversation) for conversation in self._rows]
        found = {
            row: section
            for row, (section, above) in enumerate(zip(self._sections, ("", *self._sections), strict=False))
            if section and section != above
        }
        if found != self.headings:
            self.headings = found
            self.layoutChanged.emit()

    def _section(self, conversation: ConversationViewModel) -> str:
        at_ms = conversation.updated_at_ms
        if at_ms is None:
            return ""
        if conversation.traits.is_pinned:
            return self._texts.window.pinned
        quarter = at_ms // _QUARTER_MS
        if quarter not in self._days:
            self._days[quarter] = self._day(datetime.fromtimestamp(at_ms / 1000).date())
        return self._days[quarter]

    def _day(self, day: date) -> str:
        words, days = self._texts.window, (self._today - day).days
        for limit, name in ((0, words.today), (1, words.yesterday), (6, words.past_week), (29, words.past_month)):
            if days <= limit:
                return name
        if self._locale.language() == QLocale.Language.Korean:
            return f"{day.year}년 {day.month}월"
        return self._locale.toString(QDate(day.year, day.month, 1), "MMMM yyyy")

    # --- Qt's questions

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(self._rows)

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Chosen and renamed in place; one that nothing was asked in has no title yet."""
        conversation = self.conversation(index)
        if conversation is None:
            return Qt.ItemFlag.NoItemFlags
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemNeverHasChildren
        return flags if conversation.record is None else flags | Qt.ItemFlag.ItemIsEditable

    def setData(self, index: Index, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:  # noqa: N802
        conversation = self.conversation(index)
        if role != Qt.ItemDataRole.EditRole or conversation is None:
            return False
        title = " ".join(str(value).split())
        if title and title != conversation.title:
            conversation.rename(title)
        return True

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        conversation = self.conversation(index)
        if conversation is None:
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole | Qt.ItemDataRole.ToolTipRole:
                return self._title(conversation)
            case Qt.ItemDataRole.EditRole:
                return conversation.title
            case Qt.ItemDataRole.AccessibleTextRole:
                return self._spoken(conversation)
            case Role.CONVERSATION_ID:
                return conversation.conversation_id
            case Role.TIME:
                return self._time(conversation)
            case Role.NOTE:
                return self._note(conversation)
            case Role.HEADING:
                return self.headings.get(index.row(), "")
            case Role.UNREAD:
                return conversation.unread
            case Role.IS_STREAMING:
                return conversation.is_streaming and self._is_online
            case _:
                return None

    def _title(self, conversation: ConversationViewModel) -> str:
        return conversation.title or self._texts.window.untitled

    def _time(self, conversation: ConversationViewModel) -> str:
        """When it was used last, behind its tags."""
        at_ms = conversation.updated_at_ms
        if at_ms is None:
            return ""
        return " ".join([*(f"#{tag}" for tag in conversation.traits.tags), self.time_of(at_ms)])

    def time_of(self, at_ms: int) -> str:
        """A moment, as short as it can be."""
        return when(at_ms, now=datetime.now(), locale=self._locale, yesterday=self._texts.window.yesterday)

    def _note(self, conversation: ConversationViewModel) -> str:
        """The second line, if it is more than the time."""
        words = self._texts.window
        if conversation.is_accepted and not self._is_online:
            return words.interrupted
        if conversation.is_streaming:
            return words.answering
        if conversation.pending:
            return words.queued if self._is_online else words.waiting
        if conversation.has_draft:
            return words.draft.format(text=" ".join(conversation.draft.split())[:120])
        return ""

    def _spoken(self, conversation: ConversationViewModel) -> str:
        unread = self._texts.window.unread_name.format(count=conversation.unread) if conversation.unread else ""
        parts = (self._title(conversation), unread, self._note(conversation), self._time(conversation))
        return ", ".join(part for part in parts if part)


def when(epoch_ms: int, *, now: datetime, locale: QLocale, yesterday: str) -> str:
    """A local moment, as short as it can be: `14:05`, `Yesterday`, `Tuesday`, `3 Nov`, `03/11/2025`."""
    moment = datetime.fromtimestamp(epoch_ms / 1000)
    days = (now.date() - moment.date()).days
    if days <= 0:
        return locale.toString(QTime(moment.hour, moment.minute), QLocale.FormatType.ShortFormat)
    if days == 1:
        return yesterday
    date = QDate(moment.year, moment.month, moment.day)
    if days < 7:
        return locale.toString(date, "dddd")
    if moment.year == now.year:
        is_korean = locale.language() == QLocale.Language.Korean
        return locale.toString(date, "M월 d일" if is_korean else "d MMM")
    return locale.toString(date, QLocale.FormatType.ShortFormat)
