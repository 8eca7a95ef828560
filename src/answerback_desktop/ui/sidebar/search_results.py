"""What a search found: the conversation, and the place with the match marked."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QObject, QPersistentModelIndex, QPointF, QRect, QSize, Qt
from PySide6.QtGui import QFont, QFontMetrics, QPainter, QTextCharFormat, QTextLayout, QTextOption
from PySide6.QtWidgets import QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from answerback_desktop.records import SearchHit
from answerback_desktop.texts import Texts
from answerback_desktop.ui.theme import Theme

Index = QModelIndex | QPersistentModelIndex


class HitRole(IntEnum):
    """What the delegate and the sidebar ask for."""

    HIT = Qt.ItemDataRole.UserRole
    TITLE = Qt.ItemDataRole.UserRole + 1


class SearchResultModel(QAbstractListModel):
    """One row a hit. `title_of` knows the conversations' titles."""

    def __init__(self, title_of: Callable[[str], str], texts: Texts, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._title_of = title_of
        self._texts = texts
        self._hits: Sequence[SearchHit] = ()

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts

    def show(self, hits: Sequence[SearchHit]) -> None:
        self.beginResetModel()
        self._hits = hits
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: N802, B008
        return 0 if parent.isValid() else len(self._hits)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not 0 <= index.row() < len(self._hits):
            return None
        hit = self._hits[index.row()]
        match role:
            case HitRole.HIT:
                return hit
            case HitRole.TITLE:
                return self._title_of(hit.conversation_id) or self._texts.window.untitled
            case Qt.ItemDataRole.DisplayRole:
                return hit.excerpt
            case Qt.ItemDataRole.AccessibleTextRole:
                return f"{self._title_of(hit.conversation_id)}: {hit.excerpt}"
            case _:
                return None


class SearchResultDelegate(QStyledItemDelegate):
    """The title, small; below it up to two lines of text around the match."""

    def __init__(self, theme: Theme, texts: Texts, parent: QWidget) -> None:
        super().__init__(parent)
        self.set_theme(theme)
        self.set_texts(texts)

    def set_theme(self, theme: Theme) -> None:
        self._theme = theme
        self._title = theme.font(px=theme.small_px, weight=QFont.Weight.DemiBold)
        self._text = theme.font(px=theme.small_px)

    def set_texts(self, texts: Texts) -> None:
        self._texts = texts

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
        is_selected = bool(option.state & QStyle.StateFlag.State_Selected)
        if is_selected or option.state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._theme.colour("selected_fill" if is_selected else "hover_fill"))
            painter.drawRoundedRect(box, self._theme.space(2), self._theme.space(2))
        inner = box.adjusted(self._theme.space(3), self._theme.space(1.5), -self._theme.space(3), 0)
        metrics = QFontMetrics(self._title)
        title = metrics.elidedText(str(index.data(HitRole.TITLE)), Qt.TextElideMode.ElideRight, inner.width())
        painter.setFont(self._title)
        painter.setPen(self._theme.colour("text"))
        line = QRect(inner.left(), inner.top(), inner.width(), metrics.height())
        painter.drawText(line, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), title)
        painter.setPen(self._theme.colour("text_muted"))
        layout = self._layout(index, inner.width())
        layout.draw(painter, QPointF(inner.left(), inner.top() + metrics.height() + self._theme.space(0.5)))
        painter.restore()

    def _layout(self, index: Index, width: int) -> QTextLayout:
        """The excerpt in at most two lines, its words marked."""
        hit: SearchHit = index.data(HitRole.HIT)
        text = self._texts.window.found_title if hit.request_id is None else hit.excerpt
        layout = QTextLayout(text, self._text)
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
        marked.start = _units(hit.excerpt[:start])
        marked.length = _units(hit.excerpt[start:end])
        appearance = QTextCharFormat()
        appearance.setForeground(self._theme.colour("text"))
        appearance.setBackground(self._theme.colour("selection"))
        marked.format = appearance
        return marked


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
