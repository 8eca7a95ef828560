"""The scrolling list of a conversation's blocks. Only what is near the eye exists as widgets.

Heights of what was never shown are guesses, so the list is held by an anchor: the block at the top edge and how much of
it is above the edge. Whatever changes its height elsewhere, the anchor stays where it is; while the list is pinned to
its end, the end is the anchor.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, groupby
from typing import Final

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QFrame, QWidget

from answerback_desktop.records import TurnStatus
from answerback_desktop.ui.chat.blocks import Block, BlockKind, BlockSignals, BlockView, TurnBlocks
from answerback_desktop.ui.chat.code import CodeView
from answerback_desktop.ui.chat.find import Finder
from answerback_desktop.ui.chat.footer import FooterView, state_line
from answerback_desktop.ui.chat.prose import FoldView, ProseView, TableView
from answerback_desktop.ui.chat.question import QuestionView
from answerback_desktop.ui.chat.selection import Selection
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels import TurnViewModel

COLUMN_PX: Final = 760
"""The widest column at the default font size: about 90 letters a line."""
NEAR_END_PX: Final = 24
_VIEWS: Final = {
    BlockKind.QUESTION: QuestionView,
    BlockKind.PROSE: ProseView,
    BlockKind.CODE: CodeView,
    BlockKind.TABLE: TableView,
    BlockKind.FOLD: FoldView,
    BlockKind.FOOTER: FooterView,
}


def column_in(room: int, theme: Theme) -> tuple[int, int]:
    """The left edge and the width of the column in the middle of a pane, which answers and the composer share."""
    margin = theme.space(6 if room > 560 else 4)
    width = max(120, min(room - 2 * margin, round(COLUMN_PX * theme.body_px / 15)))
    return (room - width) // 2, width


class Transcript(QAbstractScrollArea):
    """Shows turns. `signals` is what the person does with them. `edit_of` says of a request which edit of its question
    is kept, and whether its editor is open. `blocks` are all of them, from top to bottom, whether they have views or
    not. `is_pinned`: the end is in sight, so that new text scrolls the list.
    """

    near_start = Signal()
    pinned_changed = Signal(bool)

    def __init__(self, appearance: Appearance, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.appearance = appearance
        self.signals = BlockSignals(self)
        self.edit_of: Callable[[str], tuple[str, bool]] = lambda _request_id: ("", False)
        self._turns: dict[str, TurnBlocks] = {}
        self.blocks: list[Block] = []
        self._ends: list[int] = []
        self._width = 0
        self.is_pinned = True
        self._is_arranging = False
        self._is_stale = True
        self._is_online = True
        self._hovered = ""
        self._anchor: tuple[Block, int] | None = None
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)  # its width never changes the lines
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(appearance.texts.chat.transcript_name)
        self.verticalScrollBar().setSingleStep(appearance.theme.body_px * 3)
        self.signals.height_changed.connect(self._view_changed)
        self.signals.hovered.connect(self._hover)
        self.signals.folded.connect(self._toggle_fold)
        self.selection = Selection(self)
        self.finder = Finder(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.arrange)
        QApplication.instance().focusChanged.connect(self._focus_moved)  # type: ignore[union-attr]

    # --- what is shown

    @property
    def views(self) -> Sequence[BlockView]:
        """The views that exist now, from top to bottom."""
        return [block.view for block in self.blocks if block.view is not None]

    def show_turns(self, turns: Iterable[TurnViewModel]) -> None:
        """The whole list, oldest first. Turns that were shown before keep their views and the place on the screen."""
        self._keep_anchor()
        known, self._turns = self._turns, {}
        for turn in turns:
            old = known.get(turn.request_id)
            if old is not None and old.turn is turn:
                self._turns[turn.request_id] = known.pop(turn.request_id)
            else:
                self._turns[turn.request_id] = TurnBlocks(turn)
            self._drop(self._turns[turn.request_id].refresh())
        for old in known.values():
            self._drop(old.blocks)
        self.rebuild()

    def refresh(self, request_ids: Iterable[str]) -> None:
        """These turns have changed or grown."""
        self._keep_anchor()
        for request_id in request_ids:
            if (turn := self._turns.get(request_id)) is not None:
                self._drop(turn.refresh())
        self.rebuild()

    def set_appearance(self, appearance: Appearance) -> None:
        """Another theme, language or size: everything is drawn again, at the same place."""
        self.end_composition()
        self._keep_anchor()
        self.appearance = appearance
        self.setAccessibleName(appearance.texts.chat.transcript_name)
        self.verticalScrollBar().setSingleStep(appearance.theme.body_px * 3)
        self._drop(self.blocks)
        self._width = 0
        self.rebuild()

    def set_online(self, *, is_online: bool) -> None:
        """For what waits in the outbox."""
        self._is_online = is_online
        for view in self.views:
            if isinstance(view, FooterView):
                view.set_online(is_online=is_online)

    def to_end(self) -> None:
        """Scroll to the newest text and stay there."""
        self._set_pinned(is_pinned=True)
        self.arrange()

    def to_turn(self, request_id: str) -> None:
        """Scroll so that the turn begins at the top, as after a search."""
        turn = self._turns.get(request_id)
        if turn is not None:
            self._anchor = (next(turn.blocks), 0)
            self._set_pinned(is_pinned=False)
            self.arrange(keeps_anchor=False)

    def end_composition(self) -> None:
        """Take what is being composed in an editor into its text."""
        for view in self.views:
            if isinstance(view, QuestionView) and view.editor is not None:
                view.editor.end_composition()

    def to_place(self, block: Block, place: Callable[[BlockView], int]) -> None:
        """Scroll so that a line of a block is in the upper third. `place`: where the line is in the block's view."""
        self._set_pinned(is_pinned=False)
        self._anchor = (block, 0)
        self.arrange(keeps_anchor=False)
        if block.view is not None:
            self._anchor = (block, place(block.view) - self.viewport().height() // 3)
            self.arrange(keeps_anchor=False)

    def parse(self, turn: TurnViewModel) -> None:
        """Parse all of a turn, as a search needs it; `rebuild` shows it."""
        self._keep_anchor()
        blocks = self._turns.get(turn.request_id)
        while blocks is not None and (unread := blocks.unread):
            self._split(unread[0])

    def open_fold(self, block: Block) -> None:
        """Show what is in a fold; `rebuild` shows it."""
        self._keep_anchor()
        if block.segment is not None and not block.is_open:
            self._drop(self._turns[block.turn.request_id].toggle(block.segment.start))

    def edit_last(self) -> bool:
        """Open the editor of the last question; whether there is one."""
        last = next((block for block in reversed(self.blocks) if block.kind is BlockKind.QUESTION), None)
        if last is None:
            return False
        self.to_turn(last.turn.request_id)
        view = last.view
        if isinstance(view, QuestionView):
            view.start_edit()
        return True

    # --- the geometry

    def _column(self) -> tuple[int, int]:
        return column_in(self.width(), self.appearance.theme)

    def _guess(self, block: Block) -> int:
        """The height of a block that was never shown."""
        theme = self.appearance.theme
        line = theme.body_px * 1.6
        letters = max(20.0, self._width / (theme.body_px * 0.52))
        if block.kind is BlockKind.FOOTER:
            return round(line * 1.8)
        text = block.turn.question
        lines, length = (text.count("\n") + 1, len(text)) if block.segment is None else block.segment.size
        if block.kind is BlockKind.CODE:
            return round(line * (lines + 1))
        if block.kind is BlockKind.QUESTION:
            return round(line * min(15, lines + length / letters) + line * 2.2)
        if block.kind is BlockKind.TABLE:
            return round(line * 1.8 * lines)
        return round(line * (lines * 0.8 + length / letters))

    def rebuild(self) -> None:
        """Blocks have come or gone: lay all out again."""
        self._join_failures()
        self.blocks = [block for turn in self._turns.values() for block in turn.blocks]
        self._is_stale = True
        self.arrange(keeps_anchor=False)
        self.selection.show()
        self.finder.refresh()

    def _join_failures(self) -> None:
        """Turns in a row that failed for one reason have one card, under the last of them."""
        for reason, group in groupby(self._turns.values(), key=self._failure):
            turns = list(group)
            for one in turns:
                is_last = one is turns[-1]
                alike = tuple(each.turn for each in turns) if reason and is_last else ()
                one.tell_failure(alike, is_told_below=bool(reason) and not is_last)

    def _failure(self, turn: TurnBlocks) -> str:
        """What the card of a failed turn says; empty: it has not failed."""
        if turn.turn.status is not TurnStatus.FAILED:
            return ""
        return state_line(turn.turn, self.appearance.texts.chat, is_online=True).text

    def _toggle_fold(self, request_id: str, start: int) -> None:
        self._set_pinned(is_pinned=False)
        self._keep_anchor()
        self._drop(self._turns[request_id].toggle(start))
        self.rebuild()

    def _keep_anchor(self) -> None:
        if self.is_pinned or not self.blocks:
            return
        top = self.verticalScrollBar().value() - self._pad
        at = min(bisect_right(self._ends, top), len(self.blocks) - 1)
        self._anchor = (self.blocks[at], top - (self._ends[at] - self.blocks[at].height))

    @property
    def _pad(self) -> int:
        return self.appearance.theme.space(2)

    def arrange(self, *, keeps_anchor: bool = True) -> None:
        """Measure what is near, hold the anchor, place the views."""
        if self._is_arranging or self.viewport().width() <= 0:
            return
        self._is_arranging = True
        try:
            if keeps_anchor:
                self._keep_anchor()
            self._arrange()
        finally:
            self._is_arranging = False
        self._place()

    def _arrange(self) -> None:
        _, width = self._column()
        if width != self._width:
            self._width = width
            for block in self.blocks:
                block.height, block.is_measured = 0, False
        self._guess_missing()
        for _ in range(24):
            self._sum()
            self._apply_anchor()
            if self._split_near():
                continue
            fresh = [block for block in self._near(1.0) if block.view is None or not block.is_measured]
            if not fresh:
                break
            for block in fresh:
                self._make(block)
        self._drop(self._far())
        if not self.verticalScrollBar().maximum():
            self._set_pinned(is_pinned=True)

    def _split_near(self) -> bool:
        """What nobody has parsed yet and comes near gets its real blocks; whether there was any."""
        near = [block for block in self._near(1.0) if block.kind is BlockKind.UNREAD]
        for block in near:
            self._split(block)
        if near:
            self.blocks = [block for turn in self._turns.values() for block in turn.blocks]
            self._is_stale = True
            self._guess_missing()
        return bool(near)

    def _split(self, block: Block) -> None:
        new = self._turns[block.turn.request_id].split(block)
        if self._anchor is not None and self._anchor[0] is block:
            offset = self._anchor[1]
            for one in new:
                one.height = self._guess(one)
                self._anchor = (one, min(offset, one.height))
                if (offset := offset - one.height) < 0:
                    break

    def _guess_missing(self) -> None:
        for block in self.blocks:
            if not block.height:
                block.height = self._guess(block)
                self._is_stale = True

    def _sum(self) -> None:
        """Where each block ends, and the scroll bar's range; only if a height has changed."""
        if not self._is_stale and self.verticalScrollBar().pageStep() == self.viewport().height():
            return
        self._is_stale = False
        self._ends = list(accumulate(block.height for block in self.blocks))
        total = (self._ends[-1] if self._ends else 0) + 2 * self._pad + self.appearance.theme.space(4)
        bar = self.verticalScrollBar()
        page = self.viewport().height()
        bar.blockSignals(True)
        bar.setPageStep(page)
        bar.setRange(0, max(0, total - page))
        bar.setEnabled(total > page)
        bar.blockSignals(False)

    def _apply_anchor(self) -> None:
        bar = self.verticalScrollBar()
        value = bar.maximum()
        if not self.is_pinned:
            value = bar.value()
            if self._anchor is not None and self._anchor[0] in self.blocks:
                at = self.blocks.index(self._anchor[0])
                value = self._ends[at] - self.blocks[at].height + self._anchor[1] + self._pad
        bar.blockSignals(True)
        bar.setValue(value)
        bar.blockSignals(False)

    def _near(self, pages: float) -> list[Block]:
        """The blocks that reach into the viewport or within so many pages of it."""
        page = self.viewport().height()
        top = self.verticalScrollBar().value() - self._pad
        first = bisect_right(self._ends, top - page * pages)
        last = bisect_right(self._ends, top + page * (1 + pages), lo=first)
        return self.blocks[first : last + 1]

    def _far(self) -> list[Block]:
        near = {id(block) for block in self._near(3.0)}
        return [
            block
            for block in self.blocks
            if block.view is not None and id(block) not in near and not block.view.is_busy
        ]

    def _make(self, block: Block) -> None:
        if block.view is None:
            view = _VIEWS[block.kind](block.turn, self.appearance, self.signals, self.viewport())
            block.view = view
            if isinstance(view, FooterView):
                view.set_online(is_online=self._is_online)
            if isinstance(view, QuestionView):
                text, is_open = self.edit_of(block.turn.request_id)
                view.set_edit(text, is_open=is_open)
            view.show_block(block)
            view.set_active(is_active=self._is_active(block.turn))
            _remove_from_tab_chain(view)
            self.selection.adopt(view)
            self.finder.mark(block)
        height = block.view.arrange(self._width)
        self._is_stale |= height != block.height
        block.height, block.is_measured = height, True

    def _place(self) -> None:
        left, width = self._column()
        scrolled = self.verticalScrollBar().value() - self._pad
        for end, block in zip(self._ends, self.blocks, strict=True):
            view = block.view
            if view is None:
                continue
            view.setGeometry(left, end - block.height - scrolled, width, block.height)
            if view.isHidden():
                view.show()

    def _drop(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if block.view is not None:
                block.view.hide()
                block.view.deleteLater()
                block.view = None

    # --- what happens

    def scrollContentsBy(self, dx: int, dy: int) -> None:  # noqa: N802 - Qt's name
        if self._is_arranging:
            return
        bar = self.verticalScrollBar()
        self._set_pinned(is_pinned=bar.value() >= bar.maximum() - NEAR_END_PX)
        self.arrange()
        if bar.value() < self.viewport().height() * 2:
            self.near_start.emit()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        super().resizeEvent(event)
        if self._ends:
            self.arrange()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Home and End; the scroll area knows the other keys."""
        bar = self.verticalScrollBar()
        if event.key() == Qt.Key.Key_End:
            self.to_end()
        elif event.key() == Qt.Key.Key_Home:
            bar.setValue(bar.minimum())
        elif event.matches(QKeySequence.StandardKey.Copy):
            self.selection.copy()
        elif event.matches(QKeySequence.StandardKey.SelectAll):
            self.selection.select_all()
        else:
            super().keyPressEvent(event)

    def _set_pinned(self, *, is_pinned: bool) -> None:
        if is_pinned != self.is_pinned:
            self.is_pinned = is_pinned
            self.pinned_changed.emit(is_pinned)

    def _view_changed(self, view: BlockView) -> None:
        block = next((block for block in self.blocks if block.view is view), None)
        if block is None or self._is_arranging:
            return
        self._keep_anchor()
        _remove_from_tab_chain(view)
        block.height = view.arrange(self._width)
        self._is_stale = True
        self._later.start(0)

    def _is_active(self, turn: TurnViewModel) -> bool:
        return turn.request_id == self._hovered or (bool(self.blocks) and self.blocks[-1].turn is turn)

    def _hover(self, request_id: str, is_over: bool) -> None:
        self._hovered = request_id if is_over else ""
        for view in self.views:
            view.set_active(is_active=self._is_active(view.turn))

    # --- the keyboard

    def focusNextPrevChild(self, next: bool) -> bool:  # noqa: N802 - Qt's name
        """Tab goes through the blocks as they are read, then out of the list."""
        stops = [stop for view in self.views for stop in view.tab_stops if stop.isVisible() and stop.isEnabled()]
        focused = self.focusWidget() if not self.hasFocus() else None
        at = stops.index(focused) if focused in stops else (-1 if next else len(stops))
        at += 1 if next else -1
        if 0 <= at < len(stops):
            stops[at].setFocus(Qt.FocusReason.TabFocusReason if next else Qt.FocusReason.BacktabFocusReason)
            return True
        if not next and not self.hasFocus():
            self.setFocus(Qt.FocusReason.BacktabFocusReason)
            return True
        return self._focus_out(forward=next)

    def _focus_out(self, *, forward: bool) -> bool:
        widget: QWidget | None = self
        while widget is not None:
            widget = widget.nextInFocusChain() if forward else widget.previousInFocusChain()
            if widget is None or widget is self:
                break
            takes = bool(widget.focusPolicy() & Qt.FocusPolicy.TabFocus) and widget.isVisible() and widget.isEnabled()
            if takes and not self.isAncestorOf(widget) and not widget.isWindow():
                widget.setFocus(Qt.FocusReason.TabFocusReason if forward else Qt.FocusReason.BacktabFocusReason)
                return True
        return False

    def _focus_moved(self, old: QObject | None, new: QWidget | None) -> None:
        if new is None or not self.viewport().isAncestorOf(new) or QApplication.mouseButtons():
            return
        top = new.mapTo(self.viewport(), new.rect().topLeft()).y()
        height = min(new.height(), self.viewport().height() // 2)
        bar = self.verticalScrollBar()
        if top < 0:
            bar.setValue(bar.value() + top - self.appearance.theme.space(6))
        elif top + height > self.viewport().height():
            bar.setValue(bar.value() + top + height - self.viewport().height() + self.appearance.theme.space(6))

    def viewportEvent(self, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """A new screen scale draws the icons again."""
        if event.type() == QEvent.Type.DevicePixelRatioChange:
            self.set_appearance(self.appearance)
        return super().viewportEvent(event)


def _remove_from_tab_chain(view: BlockView) -> None:
    """Views come and go, so Qt's chain is in no order: the transcript moves the focus among them itself."""
    for child in view.findChildren(QWidget):
        if child.focusPolicy() & Qt.FocusPolicy.TabFocus:
            child.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
