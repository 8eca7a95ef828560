"""Find in a conversation: all hits lit, one after the other, and the bar to do it with."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QObject, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QLineEdit, QTextEdit, QToolButton, QWidget

from answerback_desktop.ui.chat.blocks import Block, BlockKind, BlockView
from answerback_desktop.ui.chat.document import in_cell, shown, units
from answerback_desktop.ui.markdown import Segment, visible_code
from answerback_desktop.ui.parts import Appearance, set_icon, set_name
from answerback_desktop.ui.theme import Icon
from answerback_desktop.viewmodels import TurnViewModel

if TYPE_CHECKING:
    from answerback_desktop.ui.chat.transcript import Transcript

_SLICE_S: Final = 0.008
"""So long the search reads answers before it lets the window draw."""
_TYPED_MS: Final = 120


@dataclass(frozen=True, slots=True)
class Hit:
    """Found words. `line`: the paragraph of the block's document; `start`, `end`: in it, as Qt counts."""

    block: Block
    line: int
    start: int
    end: int


class Finder(QObject):
    """The hits of a phrase in all turns. Where it is nowhere as it stands, each of its words counts.

    `changed`: the number of hits or the current one.
    """

    changed = Signal()

    def __init__(self, transcript: "Transcript") -> None:
        super().__init__(transcript)
        self._transcript = transcript
        self._phrase: re.Pattern[str] | None = None
        self._words: re.Pattern[str] | None = None
        self._words_list: list[str] = []
        self._wanted_turn = ""
        self._known: dict[int, tuple[Block, Segment | None, re.Pattern[str], list[Hit]]] = {}
        self._passed: set[tuple[str, int]] = set()  # unread turns that do not have the words, and their length
        self._unread: list[TurnViewModel] = []
        self.hits: list[Hit] = []
        self.current = -1
        self._reading = QTimer(self, interval=0)
        self._reading.timeout.connect(self._read)

    @property
    def is_active(self) -> bool:
        return self._phrase is not None

    def search(self, phrase: str, *, turn: str = "") -> None:
        """Light a phrase. `turn`: the one to go to, else the nearest hit below what is on the screen's top."""
        words = self._words_list = phrase.split()
        self._phrase = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE) if words else None
        self._words = re.compile("|".join(map(re.escape, words)), re.IGNORECASE) if words else None
        self._known.clear()
        self._passed.clear()
        self._wanted_turn, self.current = turn, -1
        self.refresh()
        self._open_folds()
        if self.hits:
            self._go_first()

    def clear(self) -> None:
        self.search("")

    def go(self, step: int) -> None:
        """To the next hit, round the ends."""
        if self.hits:
            self.current = (self.current + step) % len(self.hits) if self.current >= 0 else 0
            self._show_current()

    def refresh(self) -> None:
        """The turns have changed: find again what is new."""
        if not self.is_active and not self.hits:
            return
        self._look_for_unread()
        current = self.hits[self.current] if 0 <= self.current < len(self.hits) else None
        self.hits = list(self._find(self._phrase))
        is_missing = self._wanted_turn and all(hit.block.turn.request_id != self._wanted_turn for hit in self.hits)
        if self._words is not None and (not self.hits or is_missing):
            self.hits = list(self._find(self._words))
        self.current = self.hits.index(current) if current in self.hits else min(self.current, len(self.hits) - 1)
        for block in self._transcript.blocks:
            self.mark(block)
        self.changed.emit()

    def mark(self, block: Block) -> None:
        """Light the hits of a block, if it has a view."""
        edit = None if block.view is None else block.view.edit
        if edit is None or not (self.hits or edit.extraSelections()):
            return
        theme, current = self._transcript.appearance.theme, self.hits[self.current] if self.current >= 0 else None
        lit, here = QTextCharFormat(), QTextCharFormat()
        lit.setBackground(theme.colour("found_fill"))
        lit.setForeground(theme.colour("text"))
        here.setBackground(theme.colour("accent"))
        here.setForeground(theme.colour("on_accent"))
        marks = []
        for hit in self.hits_in(block):
            mark = QTextEdit.ExtraSelection()
            mark.cursor, mark.format = _cursor(edit, hit), here if hit is current else lit
            marks.append(mark)
        edit.setExtraSelections(marks)

    def hits_in(self, block: Block) -> list[Hit]:
        return [hit for hit in self.hits if hit.block is block]

    def _look_for_unread(self) -> None:
        """Which turns must be read before they can be searched: those that may have the words."""
        words = self._words_list
        turns = {
            block.turn.request_id: block.turn for block in self._transcript.blocks if block.kind is BlockKind.UNREAD
        }
        new = [turn for turn in turns.values() if words and (turn.request_id, turn.length) not in self._passed]
        self._unread = [turn for turn in new if all(_may_have(word, turn) for word in words)]
        self._passed |= {(turn.request_id, turn.length) for turn in new}
        self._passed -= {(turn.request_id, turn.length) for turn in self._unread}
        self._unread.sort(key=lambda turn: turn.request_id == self._wanted_turn)  # read from its end
        self._reading.start() if self._unread else self._reading.stop()

    def _open_folds(self) -> None:
        """What is folded and has the words is shown."""
        while folds := [block for block in self._transcript.blocks if self._is_folded_hit(block)]:
            for block in folds:
                self._transcript.open_fold(block)
            self._transcript.rebuild()

    def _is_folded_hit(self, block: Block) -> bool:
        if block.kind is not BlockKind.FOLD or block.segment is None or block.is_open or not self._words_list:
            return False
        return all(word.casefold() in block.segment.text.casefold() for word in self._words_list)

    def _read(self) -> None:
        """Parse some of the turns that may have the words."""
        end, some = time.monotonic() + _SLICE_S, list[TurnViewModel]()
        while self._unread and (not some or time.monotonic() < end):
            some.append(self._unread.pop())
            self._transcript.parse(some[-1])
        self._transcript.rebuild()
        self._open_folds()
        if self.current < 0 and self.hits:
            self._go_first()

    def _go_first(self) -> None:
        """To the turn that was asked for, else to the first hit that is not above what is on the screen."""
        wanted = [n for n, hit in enumerate(self.hits) if hit.block.turn.request_id == self._wanted_turn]
        if self._wanted_turn and not wanted and self._unread:
            return
        tops = {id(view) for view in self._transcript.views if view.y() + view.height() > 0}
        below = [n for n, hit in enumerate(self.hits) if id(hit.block.view) in tops]
        self.current = (wanted or below or [0])[0]
        self._show_current()

    def _show_current(self) -> None:
        hit = self.hits[self.current]

        def place(view: BlockView) -> int:
            edit = view.edit
            return 0 if edit is None else edit.y() + edit.cursorRect(_cursor(edit, hit)).top()

        self._transcript.to_place(hit.block, place)
        for block in self._transcript.blocks:
            self.mark(block)
        self.changed.emit()

    def _find(self, pattern: re.Pattern[str] | None) -> Iterator[Hit]:
        if pattern is None:
            return
        for block in self._transcript.blocks:
            known = self._known.get(id(block))
            if known is None or not all(map(is_, known, (block, block.segment, pattern))):
                hits = [
                    Hit(block, number, units(line[: found.start()]), units(line[: found.end()]))
                    for number, line in enumerate(_lines(block, self._transcript.appearance))
                    for found in pattern.finditer(line)
                ]
                self._known[id(block)] = known = block, block.segment, pattern, hits
            yield from known[3]


def _may_have(word: str, turn: TurnViewModel) -> bool:
    """Whether a word may be in a turn; signs of Markdown may stand within it."""
    pieces = re.findall(r"\w+", word)
    text = f"{turn.question}\n{turn.answer}".casefold()
    return all(piece.casefold() in text for piece in pieces)


def _lines(block: Block, appearance: Appearance) -> list[str]:
    """The paragraphs of a block's document."""
    segment = block.segment
    if block.kind is BlockKind.QUESTION:
        return block.turn.question.split("\n")
    if segment is None or block.kind in {BlockKind.UNREAD, BlockKind.FOLD}:
        return []
    if segment.parts:
        return [
            "".join(shown(s, appearance.theme, appearance.texts.chat) for s in part.spans) for part in segment.parts
        ]
    if segment.rows:
        cells = (cell for row in segment.rows for cell in row)
        texts = ("".join(in_cell(shown(s, appearance.theme, appearance.texts.chat)) for s in cell) for cell in cells)
        return ["", *texts]
    return visible_code(segment.text).split("\n")


def _cursor(edit: QTextEdit, hit: Hit) -> QTextCursor:
    paragraph = edit.document().findBlockByNumber(hit.line)
    if not paragraph.isValid():
        return QTextCursor()
    cursor = QTextCursor(paragraph)
    last = paragraph.position() + paragraph.length() - 1
    cursor.setPosition(min(paragraph.position() + hit.start, last))
    cursor.setPosition(min(paragraph.position() + hit.end, last), QTextCursor.MoveMode.KeepAnchor)
    return cursor


class FindBar(QWidget):
    """The box of what is looked for, how many there are, and the way to the next. `closed`: by Esc or its button."""

    closed = Signal()

    def __init__(self, finder: Finder, appearance: Appearance, parent: QWidget) -> None:
        super().__init__(parent)
        self._finder = finder
        self._appearance = appearance
        card = QFrame(self)
        card.setProperty("variant", "card")
        self.box = QLineEdit(card)
        self.count = QLabel(card)
        self.count.setProperty("variant", "muted")
        self.previous, self.next, self.close_button = (QToolButton(card) for _ in range(3))
        self._row, self._around = QHBoxLayout(card), QHBoxLayout(self)
        for part in (self.box, self.count, self.previous, self.next, self.close_button):
            self._row.addWidget(part)
        self._around.addStretch()
        self._around.addWidget(card)
        self._typed = QTimer(self, singleShot=True, interval=_TYPED_MS)
        self._typed.timeout.connect(self._search)
        self.box.textChanged.connect(self._typed.start)
        self.previous.clicked.connect(lambda: self._go(-1))
        self.next.clicked.connect(lambda: self._go(1))
        self.close_button.clicked.connect(self.close_find)
        finder.changed.connect(self._show_count)
        self.set_appearance(appearance)
        self.hide()

    def set_appearance(self, appearance: Appearance) -> None:
        self._appearance = appearance
        theme, texts = appearance.theme, appearance.texts.chat
        self.box.setPlaceholderText(texts.find)
        self.box.setAccessibleName(texts.find)
        self.box.setMinimumWidth(theme.space(45))
        self.count.setMinimumWidth(self.count.fontMetrics().horizontalAdvance("000 / 000"))
        self.count.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._row.setContentsMargins(theme.space(2), theme.space(1), theme.space(1), theme.space(1))
        self._row.setSpacing(theme.space(1))
        self._around.setContentsMargins(theme.space(3), theme.space(2), theme.space(3), theme.space(1))
        for button, drawing, name in (
            (self.previous, Icon.CHEVRON_UP, texts.find_previous),
            (self.next, Icon.CHEVRON_DOWN, texts.find_next),
            (self.close_button, Icon.CLOSE, texts.find_close),
        ):
            set_icon(button, theme, drawing, theme.body_px + 3)
            set_name(button, name)
        self._show_count()

    def open(self, phrase: str = "", *, turn: str = "") -> None:
        """Show the bar; with a phrase, as from a search in all conversations, its hits are lit at once."""
        self.show()
        self.raise_()
        if phrase:
            self.box.blockSignals(True)
            self.box.setText(phrase)
            self.box.blockSignals(False)
            self._finder.search(phrase, turn=turn)
        else:
            self.box.setFocus(Qt.FocusReason.ShortcutFocusReason)
            self.box.selectAll()
            if self.box.text() and not self._finder.is_active:
                self._search()

    def close_find(self) -> None:
        self._typed.stop()
        self._finder.clear()
        self.hide()
        self.closed.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Enter and Shift+Enter go on, Esc closes."""
        if event.key() == Qt.Key.Key_Escape:
            self.close_find()
        elif event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self._go(-1 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1)
        else:
            super().keyPressEvent(event)

    def _go(self, step: int) -> None:
        if self._typed.isActive():
            self._search()
        else:
            self._finder.go(step)

    def _search(self) -> None:
        self._typed.stop()
        self._finder.search(self.box.text())

    def _show_count(self) -> None:
        finder = self._finder
        texts = self._appearance.texts.chat
        words = texts.find_count.format(number=finder.current + 1, count=len(finder.hits)) if finder.hits else ""
        self.count.setText(words if finder.hits or not finder.is_active else texts.find_nothing)
        for button in (self.previous, self.next):
            button.setEnabled(bool(finder.hits))
