"""How a row of the list looks, and the box in which a title is typed."""

from collections.abc import Callable, Container
from typing import Final

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QLineEdit, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from answerback_desktop.texts import Texts
from answerback_desktop.ui.sidebar.conversation_model import Role
from answerback_desktop.ui.theme import Theme

Index = QModelIndex | QPersistentModelIndex
_TITLE_LENGTH: Final = 200
"""Of a conversation's title (PROTOCOL.md, updateConversation)."""


class ConversationDelegate(QStyledItemDelegate):
    """Two lines: the title; below it the tags and the time, or what goes on. A badge counts answers that nobody has
    seen. Over the first conversation of a day stands the day.
    """

    def __init__(self, theme: Theme, texts: Texts, parent: QWidget, *, headed: Callable[[], Container[int]]) -> None:
        """`headed`: the rows over which a heading stands."""
        super().__init__(parent)
        self._headed = headed
        self.set_theme(theme)
        self.set_texts(texts)

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self._title = theme.font()
        self._title_unread = theme.font(weight=QFont.Weight.DemiBold)
        self._small = theme.font(px=theme.small_px)
        small = QFontMetrics(self._small).height()
        height = QFontMetrics(self._title).height() + small + theme.space(4.5)
        self._size = QSize(80, height)
        self._first_size = QSize(80, height + small + theme.space(2))
        self._headed_size = QSize(80, height + small + theme.space(4))
        self._badge = theme.font(px=theme.small_px - 2, weight=QFont.Weight.DemiBold)

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:  # noqa: N802
        """Asked for each row whenever a row changes, so it only looks up."""
        row = index.row()
        if row not in self._headed():
            return self._size
        return self._first_size if row == 0 else self._headed_size

    def _heading_height(self, index: Index) -> int:
        return self.sizeHint(QStyleOptionViewItem(), index).height() - self._size.height()

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        heading = self._heading_height(index)
        if heading:
            small = QFontMetrics(self._small).height()
            line = QRect(option.rect.left(), option.rect.top() + heading - small - self._theme.space(1), 0, small)
            line = line.adjusted(self._theme.space(3), 0, option.rect.width() - self._theme.space(6), 0)
            self._draw(painter, line, self._badge, self._theme.colour("text_muted"), str(index.data(Role.HEADING)))
        box = option.rect.adjusted(0, 1 + heading, 0, -1)
        self._paint_ground(painter, option, box)
        inner = box.adjusted(
            self._theme.space(3), self._theme.space(1.5), -self._theme.space(3), -self._theme.space(1.5)
        )
        unread = int(index.data(Role.UNREAD) or 0)
        right = self._paint_mark(painter, inner, unread, is_streaming=bool(index.data(Role.IS_STREAMING)))
        self._paint_lines(painter, inner, right, index, is_unread=bool(unread))
        painter.restore()

    def _paint_ground(self, painter: QPainter, option: QStyleOptionViewItem, box: QRect) -> None:
        is_selected = bool(option.state & QStyle.StateFlag.State_Selected)
        is_hovered = bool(option.state & QStyle.StateFlag.State_MouseOver)
        if is_selected or is_hovered:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("selected_fill" if is_selected else "hover_fill"))
            painter.drawRoundedRect(box, self._theme.space(2), self._theme.space(2))
        if option.state & QStyle.StateFlag.State_HasFocus and option.state & QStyle.StateFlag.State_KeyboardFocusChange:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(self._theme.colour("focus"))
            painter.drawRoundedRect(
                QRectF(box).adjusted(0.5, 0.5, -0.5, -0.5), self._theme.space(2), self._theme.space(2)
            )

    def _paint_mark(self, painter: QPainter, inner: QRect, unread: int, *, is_streaming: bool) -> int:
        """The badge or the dot at the right; returns where the text must end."""
        if unread:
            return self._paint_badge(painter, inner, "99+" if unread > 99 else str(unread))
        if is_streaming:
            radius = self._theme.space(1)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("accent"))
            painter.drawEllipse(QPointF(inner.right() - radius, inner.center().y() + 0.5), radius, radius)
            return inner.right() - radius * 2 - self._theme.space(2)
        return inner.right()

    def _paint_badge(self, painter: QPainter, inner: QRect, count: str) -> int:
        metrics = QFontMetrics(self._badge)
        height = metrics.height() + self._theme.space(0.5)
        width = max(height, metrics.horizontalAdvance(count) + self._theme.space(2.5))
        pill = QRectF(inner.right() - width, inner.center().y() - height / 2 + 0.5, width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colour("accent"))
        painter.drawRoundedRect(pill, height / 2, height / 2)
        painter.setFont(self._badge)
        painter.setPen(self._theme.colour("on_accent"))
        painter.drawText(pill, Qt.AlignmentFlag.AlignCenter, count)
        return round(pill.left()) - self._theme.space(2)

    def _paint_lines(self, painter: QPainter, inner: QRect, right: int, index: Index, *, is_unread: bool) -> None:
        title, note = str(index.data(Qt.ItemDataRole.DisplayRole)), str(index.data(Role.NOTE) or "")
        time = str(index.data(Role.TIME) or "")
        font = self._title_unread if is_unread else self._title
        metrics = QFontMetrics(font)
        has_second = bool(note or time)
        top = inner.top() if has_second else inner.center().y() - metrics.height() // 2
        line = QRect(inner.left(), top, right - inner.left(), metrics.height())
        self._draw(painter, line, font, self._theme.colour("text"), title)
        small = QFontMetrics(self._small)
        below = QRect(inner.left(), inner.bottom() - small.height() + 1, right - inner.left(), small.height())
        is_live = bool(index.data(Role.IS_STREAMING))
        self._draw(painter, below, self._small, self._theme.colour("accent" if is_live else "text_muted"), note or time)

    @staticmethod
    def _draw(painter: QPainter, box: QRect, font: QFont, colour: QColor, text: str) -> None:
        shown = QFontMetrics(font).elidedText(" ".join(text.split()), Qt.TextElideMode.ElideRight, box.width())
        painter.setFont(font)
        painter.setPen(colour)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), shown)

    # --- renaming in place

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:  # noqa: N802
        editor = QLineEdit(parent)
        editor.setMaxLength(_TITLE_LENGTH)
        editor.setAccessibleName(self._texts.window.rename_name)
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:  # noqa: N802
        """As high as a line wants to be, in the middle of the row."""
        height = editor.sizeHint().height()
        box = option.rect.adjusted(self._theme.space(1), self._heading_height(index), -self._theme.space(1), 0)
        editor.setGeometry(box.left(), box.center().y() - height // 2, box.width(), height)
