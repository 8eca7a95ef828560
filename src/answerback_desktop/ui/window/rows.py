"""How the rows of the two lists look, and the box in which a title is typed."""

from collections.abc import Callable, Container
from enum import IntEnum
from typing import Final

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QTextCharFormat, QTextLayout, QTextOption
from PySide6.QtWidgets import QLineEdit, QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from answerback_desktop.records import SearchHit
from answerback_desktop.ui.chat.document import units
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.window.conversation_model import Index, Role

_TITLE_LENGTH: Final = 200
"""Of a conversation's title (PROTOCOL.md, updateConversation)."""


class _RowDelegate(QStyledItemDelegate):
    def __init__(self, appearance: Appearance, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme, self._words = appearance.theme, appearance.texts.window
        self._small = self._theme.font(px=self._theme.small_px)

    def _paint_ground(self, painter: QPainter, option: QStyleOptionViewItem, box: QRect) -> None:
        is_selected = bool(option.state & QStyle.StateFlag.State_Selected)
        if is_selected or option.state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("selected_fill" if is_selected else "hover_fill"))
            painter.drawRoundedRect(box, self._theme.space(2), self._theme.space(2))

    @staticmethod
    def _draw(painter: QPainter, box: QRect, font: QFont, colour: QColor, text: str) -> None:
        shown = QFontMetrics(font).elidedText(" ".join(text.split()), Qt.TextElideMode.ElideRight, box.width())
        painter.setFont(font)
        painter.setPen(colour)
        painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), shown)


class ConversationDelegate(_RowDelegate):
    """Two lines: the title; below it the tags and the time, or what goes on. A badge counts answers that nobody has
    seen. Over the first conversation of a day stands the day.
    """

    def __init__(self, appearance: Appearance, parent: QWidget, *, headed: Callable[[], Container[int]]) -> None:
        """`headed`: the rows over which a heading stands."""
        super().__init__(appearance, parent)
        theme, self._headed = self._theme, headed
        self._title = theme.font()
        self._title_unread = theme.font(weight=QFont.Weight.DemiBold)
        self._badge = theme.font(px=theme.small_px - 2, weight=QFont.Weight.DemiBold)
        small = QFontMetrics(self._small).height()
        height = QFontMetrics(self._title).height() + small + theme.space(4.5)
        self._size = QSize(80, height)
        self._first_size = QSize(80, height + small + theme.space(2))
        self._headed_size = QSize(80, height + small + theme.space(4))

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
        super()._paint_ground(painter, option, box)
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

    # --- renaming in place

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:  # noqa: N802
        editor = QLineEdit(parent)
        editor.setMaxLength(_TITLE_LENGTH)
        editor.setAccessibleName(self._words.rename_name)
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:  # noqa: N802
        """As high as a line wants to be, in the middle of the row."""
        height = editor.sizeHint().height()
        box = option.rect.adjusted(self._theme.space(1), self._heading_height(index), -self._theme.space(1), 0)
        editor.setGeometry(box.left(), box.center().y() - height // 2, box.width(), height)


class HitRole(IntEnum):
    """What the delegate and the sidebar ask for."""

    HIT = Qt.ItemDataRole.UserRole
    TITLE = Qt.ItemDataRole.UserRole + 1


class SearchResultDelegate(_RowDelegate):
    """The title, small; below it up to two lines of text around the match."""

    def __init__(self, appearance: Appearance, parent: QWidget) -> None:
        super().__init__(appearance, parent)
        self._title = self._theme.font(px=self._theme.small_px, weight=QFont.Weight.DemiBold)

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:  # noqa: N802
        """As high as its text is at the width of the list."""
        parent = self.parent()
        width = parent.viewport().width() if isinstance(parent, QListView) else option.rect.width()
        layout = self._layout(index, max(40, width - self._theme.space(6)))
        return QSize(
            80, QFontMetrics(self._title).height() + round(layout.boundingRect().height()) + self._theme.space(4)
        )

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = option.rect.adjusted(0, 1, 0, -1)
        self._paint_ground(painter, option, box)
        inner = box.adjusted(self._theme.space(3), self._theme.space(1.5), -self._theme.space(3), 0)
        metrics = QFontMetrics(self._title)
        line = QRect(inner.left(), inner.top(), inner.width(), metrics.height())
        self._draw(painter, line, self._title, self._theme.colour("text"), str(index.data(HitRole.TITLE)))
        painter.setPen(self._theme.colour("text_muted"))
        layout = self._layout(index, inner.width())
        layout.draw(painter, QPointF(inner.left(), inner.top() + metrics.height() + self._theme.space(0.5)))
        painter.restore()

    def _layout(self, index: Index, width: int) -> QTextLayout:
        """The excerpt in at most two lines, its words marked."""
        hit: SearchHit = index.data(HitRole.HIT)
        text = self._words.found_title if hit.request_id is None else hit.excerpt
        layout = QTextLayout(text, self._small)
        option = QTextOption()
        option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        layout.setTextOption(option)
        if hit.request_id is not None:
            layout.setFormats([self._mark(hit, start, end) for start, end in hit.marks])
        layout.beginLayout()
        top = 0.0
        for _ in range(2):
            line = layout.createLine()
            if not line.isValid():
                break
            line.setLineWidth(width)
            line.setPosition(QPointF(0, top))
            top += line.height()
        layout.endLayout()
        return layout

    def _mark(self, hit: SearchHit, start: int, end: int) -> QTextLayout.FormatRange:
        """Qt counts UTF-16 units; the hit counts code points."""
        marked = QTextLayout.FormatRange()
        marked.start = units(hit.excerpt[:start])
        marked.length = units(hit.excerpt[start:end])
        appearance = QTextCharFormat()
        appearance.setForeground(self._theme.colour("text"))
        appearance.setBackground(self._theme.colour("selection"))
        marked.format = appearance
        return marked
