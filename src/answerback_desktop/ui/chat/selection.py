"""One selection over all blocks of the transcript. The blocks stay text widgets of Qt; each is told its part of it.

A place is a block and a position in its document. A block that has no view now is selected all the same, and gets its
part when it is made.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QEvent, QMimeData, QObject, QPoint, Qt, QTimer
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence, QMouseEvent, QTextCursor
from PySide6.QtWidgets import QTextEdit, QWidget

from answerback_desktop.ui.chat.blocks import Block, BlockKind, BlockView
from answerback_desktop.ui.chat.document import in_cell, shown, units
from answerback_desktop.ui.markdown import Segment, Span, html_of, markdown_of, neutralised, visible_code
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.viewmodels import TurnViewModel

if TYPE_CHECKING:
    from answerback_desktop.ui.chat.transcript import Transcript

_END: Final = 1 << 30
_SCROLL_MS: Final = 40
_SIGN: Final = re.compile(r"⟦U\+([0-9A-F]{4})⟧")
Place = tuple[Block, int]


class Selection(QObject):
    """What is selected, by mouse and by keys, and what of it is copied."""

    def __init__(self, transcript: "Transcript") -> None:
        super().__init__(transcript)
        self._transcript = transcript
        self._start: Place | None = None
        self._end: Place | None = None
        self._pressed: Place | None = None
        self._is_wide = False  # it is more than Qt's own in one block
        self._is_showing = False
        self._mouse = QPoint()
        self._scrolling = QTimer(self, interval=_SCROLL_MS)
        self._scrolling.timeout.connect(self._scroll)

    def adopt(self, view: BlockView) -> None:
        """A view has been made: it shows its part, and its mouse and keys are heard."""
        edit = view.edit
        if edit is None:
            return
        edit.installEventFilter(self)
        edit.viewport().installEventFilter(self)
        edit.selected = self.copied  # type: ignore[attr-defined]
        edit.selectionChanged.connect(lambda: self._changed_in(view))
        self._show_in(view)

    def select_all(self) -> None:
        blocks = self._transcript.blocks
        if blocks:
            self._start, self._end, self._is_wide = (blocks[0], 0), (blocks[-1], _END), True
            self.show()

    def clear(self) -> None:
        self._start = self._end = None
        self._is_wide = False
        self._show_ranges({})

    def show(self) -> None:
        """Every view shows its part of the selection."""
        if self._start is not None:
            self._show_ranges(self._ranges())

    def copy(self) -> None:
        if self._start is not None:
            QGuiApplication.clipboard().setMimeData(self.copied())

    def copied(self) -> QMimeData:
        """What is selected, in three forms: the program that takes it chooses."""
        markdown, is_code = _copied(list(self._ranges().values()), self._transcript.appearance)
        data = QMimeData()
        data.setText(markdown)
        if not is_code:
            data.setData("text/markdown", markdown.encode())
            data.setHtml(html_of(markdown))
        return data

    # --- what is selected

    def _ranges(self) -> dict[int, tuple[Block, int, int]]:
        """The part of each block that is in it, from top to bottom, by the block's identity."""
        blocks = self._transcript.blocks
        at = {id(block): number for number, block in enumerate(blocks)}
        if self._start is None or self._end is None or not {id(self._start[0]), id(self._end[0])} <= at.keys():
            return {}
        (first, start), (last, end) = sorted(((at[id(block)], place) for block, place in (self._start, self._end)))
        return {
            id(blocks[n]): (blocks[n], start if n == first else 0, end if n == last else _END)
            for n in range(first, last + 1)
        }

    def _show_ranges(self, ranges: dict[int, tuple[Block, int, int]]) -> None:
        for block in self._transcript.blocks:
            if block.view is not None and block.view.edit is not None:
                _, start, end = ranges.get(id(block), (block, 0, 0))
                self._select(block.view.edit, start, end)

    def _show_in(self, view: BlockView) -> None:
        block = self._block_of(view)
        if self._start is not None and block is not None and view.edit is not None:
            _, start, end = self._ranges().get(id(block), (block, 0, 0))
            self._select(view.edit, start, end)

    def _select(self, edit: QTextEdit, start: int, end: int) -> None:
        start, end = _clipped(edit, start, end)
        cursor = edit.textCursor()
        is_empty = start == end and not cursor.hasSelection()
        if is_empty or (cursor.selectionStart(), cursor.selectionEnd()) == (start, end):
            return
        cursor.setPosition(start)
        cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
        bar = edit.horizontalScrollBar()
        scrolled = bar.value()
        with self._showing():
            edit.setTextCursor(cursor)
        bar.setValue(scrolled)  # Qt scrolls to the cursor

    @contextmanager
    def _showing(self) -> Iterator[None]:
        before, self._is_showing = self._is_showing, True
        yield
        self._is_showing = before

    def _changed_in(self, view: BlockView) -> None:
        """Something was selected in one view by Qt itself: by a double click, or by keys."""
        block, edit = self._block_of(view), view.edit
        if self._is_showing or block is None or edit is None:
            return
        cursor = edit.textCursor()
        is_known = self._is_wide and id(block) in (ranges := self._ranges())
        if is_known and _clipped(edit, *ranges[id(block)][1:]) == (cursor.selectionStart(), cursor.selectionEnd()):
            return  # Qt says so at the end of a drag, too
        if cursor.hasSelection():
            self._start, self._end = (block, cursor.anchor()), (block, cursor.position())
            self._is_wide = False
            self.show()
        elif self._start is not None and self._start[0] is block and not self._is_wide:
            self._start = self._end = None

    def _block_of(self, view: BlockView) -> Block | None:
        return next((block for block in self._transcript.blocks if block.view is view), None)

    # --- the mouse and the keys

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            return self._key(event)
        if isinstance(event, QMouseEvent) and isinstance(watched, QWidget) and not isinstance(watched, QTextEdit):
            at = watched.mapTo(self._transcript.viewport(), event.position().toPoint())
            is_left = event.button() == Qt.MouseButton.LeftButton
            if event.type() == QEvent.Type.MouseButtonPress and is_left:
                return self._press(at, is_longer=bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier))
            if event.type() == QEvent.Type.MouseMove and event.buttons() & Qt.MouseButton.LeftButton:
                return self._move(at)
            if event.type() == QEvent.Type.MouseButtonRelease and is_left:
                self._pressed = None
                self._scrolling.stop()
        return False

    def _key(self, event: QKeyEvent) -> bool:
        if event.matches(QKeySequence.StandardKey.SelectAll):
            self.select_all()
        elif event.matches(QKeySequence.StandardKey.Copy) and self._start is not None:
            self.copy()
        elif event.key() == Qt.Key.Key_Escape and self._start is not None:
            self.clear()
        else:
            return False
        return True

    def _press(self, at: QPoint, *, is_longer: bool) -> bool:
        place = self._place_at(at)
        if place is None:
            return False
        if is_longer and self._start is not None:
            self._pressed = self._start
            self._end, self._is_wide = place, True
            self.show()
            return True
        self.clear()
        self._pressed = place
        return False

    def _move(self, at: QPoint) -> bool:
        """Within one block Qt selects; once the pointer has left it, or the list, this does."""
        place = self._place_at(at)
        is_outside = not 0 <= at.y() < self._transcript.viewport().height()
        if self._pressed is None or place is None:
            return False
        if place[0] is self._pressed[0] and not (self._is_wide or is_outside):
            return False
        self._mouse = at
        self._start, self._end, self._is_wide = self._pressed, place, True
        self.show()
        if is_outside and not self._scrolling.isActive():
            self._scrolling.start()
        elif not is_outside:
            self._scrolling.stop()
        return True

    def _scroll(self) -> None:
        bar, height, y = self._transcript.verticalScrollBar(), self._transcript.viewport().height(), self._mouse.y()
        bar.setValue(bar.value() + (y if y < 0 else max(0, y - height)))
        place = self._place_at(QPoint(self._mouse.x(), min(max(y, 0), height - 1)))
        if place is not None and self._pressed is not None:
            self._end = place
            self.show()

    def _place_at(self, at: QPoint) -> Place | None:
        """The place in a text that is nearest to a point of the viewport."""
        best: tuple[int, Block, QTextEdit] | None = None
        for block in self._transcript.blocks:
            edit = None if block.view is None else block.view.edit
            if edit is None or not edit.isVisible():
                continue
            top = edit.mapTo(self._transcript.viewport(), QPoint(0, 0)).y()
            away = max(top - at.y(), at.y() - top - edit.height(), 0)
            if best is None or away < best[0]:
                best = away, block, edit
        if best is None:
            return None
        _, block, edit = best
        point = edit.viewport().mapFrom(self._transcript.viewport(), at)
        return block, edit.cursorForPosition(point).position()


# --- what is copied


def _clipped(edit: QTextEdit, start: int, end: int) -> tuple[int, int]:
    last = edit.document().characterCount() - 1
    first = 1 if edit.document().rootFrame().childFrames() else 0  # before a table is an empty paragraph
    start = min(max(start, first), last)
    return start, max(start, min(end, last))


def _slice(text: str, start: int, end: int) -> str:
    return text.encode("utf-16-le", "surrogatepass")[2 * max(0, start) : 2 * end].decode("utf-16-le", "replace")


def _copied(ranges: list[tuple[Block, int, int]], appearance: Appearance) -> tuple[str, bool]:
    """The selected parts as Markdown, and whether they are a piece of one code block.

    What is selected whole is copied as the model wrote it.
    """
    pieces: list[str | _Source] = []
    is_single = len(ranges) == 1
    for block, start, end in ranges:
        segment = block.segment
        if block.kind is BlockKind.QUESTION:
            question = block.turn.question if end == _END and not start else _slice(block.turn.question, start, end)
            pieces.append(question if is_single else "\n".join(f"> {line}" for line in question.split("\n")))
        elif segment is not None and block.kind is BlockKind.CODE and is_single:
            code = _slice(visible_code(segment.text), start, end)
            return _SIGN.sub(lambda sign: chr(int(sign[1], 16)), code), True
        elif segment is not None:
            for piece in _pieces(segment, start, end, appearance):
                last = pieces[-1] if pieces else ""
                if isinstance(piece, str):
                    pieces.append(piece)
                elif isinstance(last, _Source) and last.turn is block.turn:
                    last.end = max(last.end, piece[1])
                else:
                    pieces.append(_Source(block.turn, *piece))
    texts = (piece.text if isinstance(piece, _Source) else piece for piece in pieces)
    return "\n\n".join(text for text in texts if text.strip()), False


@dataclass(slots=True)
class _Source:
    """A stretch of an answer, as the model wrote it."""

    turn: TurnViewModel
    start: int
    end: int

    @property
    def text(self) -> str:
        return neutralised(dedent(self.turn.answer[self.start : self.end].rstrip()).strip("\n"))


def _pieces(segment: Segment, start: int, end: int, appearance: Appearance) -> Iterator[str | tuple[int, int]]:
    """What of a segment is selected: where it is in the answer if that is whole, else as Markdown."""
    if segment.parts:
        at = 0
        for part in segment.parts:
            length = sum(units(shown(span, appearance.theme, appearance.texts.chat)) for span in part.spans)
            if start <= at and end >= at + length and (length or start < end):
                yield part.start, part.end
            elif start < at + length and end > at:
                yield markdown_of(_cut(part.spans, start - at, end - at, appearance))
            at += length + 1
    elif segment.rows:
        yield from _table_pieces(segment, start, end, appearance)
    elif segment.text and start <= 0 and end >= units(visible_code(segment.text)):
        yield segment.start, segment.end
    elif segment.text and start < end:
        yield f"```{segment.title}\n{_slice(visible_code(segment.text), start, end)}\n```"


def _table_pieces(segment: Segment, start: int, end: int, appearance: Appearance) -> Iterator[str | tuple[int, int]]:
    """Whole rows, under the table's head; letters of one cell by themselves."""
    at, rows = 1, []
    for number, row in enumerate(segment.rows):
        for spans in row:
            length = sum(units(in_cell(shown(span, appearance.theme, appearance.texts.chat))) for span in spans)
            if at <= start and end <= at + length:
                yield markdown_of(_cut(spans, start - at, end - at, appearance))
                return
            if start <= at + length and end >= at and number not in rows:
                rows.append(number)
            at += length + 1
    if len(rows) == len(segment.rows):
        yield segment.start, segment.end
    elif rows:
        lines = [
            f"| {' | '.join(markdown_of(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in segment.rows
        ]
        marks = {"left": ":---", "right": "---:", "center": ":---:"}
        ruler = f"|{'|'.join(marks.get(align, '---') for align in segment.aligns)}|"
        yield "\n".join((lines[0], ruler, *(lines[number] for number in rows if number)))


def _cut(spans: tuple[Span, ...], start: int, end: int, appearance: Appearance) -> Iterator[Span]:
    at = 0
    for span in spans:
        text = shown(span, appearance.theme, appearance.texts.chat)
        length = units(text)
        if start < at + length and end > at:
            is_whole = "math" in span.styles or (start <= at and end >= at + length)
            yield span if is_whole else replace(span, text=_slice(text, start - at, end - at))
        at += length
