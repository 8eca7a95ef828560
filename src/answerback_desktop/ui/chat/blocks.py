"""What the transcript is made of: a view for each block, each of a height that follows from its width."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import takewhile

from PySide6.QtCore import QEvent, QObject, QRectF, Signal
from PySide6.QtGui import QEnterEvent, QPaintEvent
from PySide6.QtWidgets import QTextEdit, QWidget

from answerback_desktop.ui.chat.document import bars_of
from answerback_desktop.ui.chat.text_view import draw_bar
from answerback_desktop.ui.markdown import (
    CHUNK_CHARACTERS,
    Segment,
    SegmentKind,
    Splitter,
    chunks,
    references_of,
)
from answerback_desktop.ui.parts import Appearance, painter_on
from answerback_desktop.viewmodels import TurnViewModel


class BlockKind(StrEnum):
    """One view class each; UNREAD has none: it becomes others before it is seen."""

    QUESTION = "question"
    PROSE = "prose"
    CODE = "code"
    TABLE = "table"
    FOLD = "fold"
    UNREAD = "unread"
    FOOTER = "footer"


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """One piece of a turn. `view` is there only near what is seen; `height` is a guess until `is_measured`."""

    kind: BlockKind
    turn: TurnViewModel
    segment: Segment | None = None
    height: int = 0
    is_measured: bool = False
    is_open: bool = False  # of a fold
    joins: str = ""  # the containers that it shares with the block before it
    alike: tuple[TurnViewModel, ...] = ()  # of a footer: turns in a row that failed for one reason, up to this one
    is_told_below: bool = False  # of a footer: the next request failed for the same reason
    view: "BlockView | None" = field(default=None)


class BlockSignals(QObject):
    """The signals of a view to the transcript."""

    height_changed = Signal(object)  # the view
    hovered = Signal(str, bool)  # request id, whether the pointer came
    copy = Signal(str)
    regenerate = Signal(str)
    retry = Signal(object)  # request ids
    stop = Signal(str)
    edited = Signal(str, str)  # request id, the new question
    edit_changed = Signal(str, object, bool)  # request id, the text so far or None, whether the editor is open
    version = Signal(str, int)  # request id, 1 for the later one, -1 for the earlier one
    link = Signal(str, str)
    file_wanted = Signal(object)  # the attachment
    folded = Signal(str, int)  # request id, where the fold begins in the answer


class BlockView(QWidget):
    """A view of one block. `signals` is the transcript's. `edit`: its text, if it has one that can be selected."""

    edit: QTextEdit | None = None
    path = ""  # the containers of an answer that it is in
    is_open = False  # of a fold
    joins = ""  # the containers that it shares with the view before it

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(parent)
        self.turn = turn
        self.appearance = appearance
        self.signals = signals

    @property
    def is_busy(self) -> bool:
        """Whether the person is doing something in it, so that it must not be taken away."""
        focused = self.window().focusWidget()
        return focused is not None and self.isAncestorOf(focused) and focused.hasFocus()

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        """What the Tab key goes to, in order."""
        return ()

    def show_block(self, block: Block) -> None:
        """The block has changed: show it as it is now."""
        self.is_open, self.joins = block.is_open, block.joins
        self.take(block.segment)

    def take(self, segment: Segment | None) -> None:
        """Show this of it."""

    def arrange(self, width: int) -> int:
        """Lay everything out in this width. Returns the height that it needs."""
        raise NotImplementedError

    def set_active(self, *, is_active: bool) -> None:
        """Whether the pointer is on this view's turn, or it is the last one: its actions are shown."""

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The bars of the quotes that code or a table is in."""
        self._draw_bars(self.path, self.height())

    def _draw_bars(self, path: str, bottom: int) -> None:
        if bars := bars_of(path, self.appearance.theme):
            painter = painter_on(self)
            top = -3 if self.joins else 0  # its round ends are covered
            for left, colour in bars:
                draw_bar(painter, QRectF(left, top, 3, bottom - top + 3), self.appearance.theme.colour(colour))

    def enterEvent(self, event: QEnterEvent) -> None:  # noqa: N802 - Qt's name
        self.signals.hovered.emit(self.turn.request_id, True)
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        self.signals.hovered.emit(self.turn.request_id, False)
        super().leaveEvent(event)


@dataclass(slots=True, kw_only=True)
class _Stretch:
    """A stretch of an answer that is parsed by itself, when it is first near. `splitter`: None before that."""

    start: int
    end: int
    splitter: Splitter | None = None
    blocks: list[Block] = field(default_factory=list)


class TurnBlocks:
    """The blocks of one turn, kept as its answer grows. What was never near is one block, or one for 4,000 letters."""

    def __init__(self, turn: TurnViewModel) -> None:
        self.turn = turn
        self._question = Block(kind=BlockKind.QUESTION, turn=turn)
        self._footer = Block(kind=BlockKind.FOOTER, turn=turn)
        self._open_folds: dict[int, Splitter] = {}
        self._begin()

    def _begin(self) -> None:
        self._text = ""
        self._stretches: list[_Stretch] = []
        self._references: dict[str, dict[str, str]] = {}
        self._searched = 0  # link definitions are known up to here
        self._open_folds.clear()

    @property
    def blocks(self) -> Iterator[Block]:
        """From the question to the line of state."""
        yield self._question
        for stretch in self._stretches:
            yield from stretch.blocks
        yield self._footer

    @property
    def unread(self) -> list[Block]:
        """Those that nobody has parsed yet."""
        return [stretch.blocks[0] for stretch in self._stretches if stretch.splitter is None]

    def tell_failure(self, alike: tuple[TurnViewModel, ...], *, is_told_below: bool) -> None:
        """Whether the line of state tells of other failures too, or leaves its own to the next turn."""
        if (alike, is_told_below) != (self._footer.alike, self._footer.is_told_below):
            self._footer.alike, self._footer.is_told_below = alike, is_told_below
            _take(self._footer)

    def refresh(self) -> list[Block]:
        """Bring the blocks up to date. Returns those whose view is no longer wanted."""
        _take(self._footer)
        answer = self.turn.answer
        gone: list[Block] = []
        if not answer.startswith(self._text):
            gone = [block for stretch in self._stretches for block in stretch.blocks]
            self._begin()
        if answer and not self._stretches:
            self._stretches.append(_Stretch(start=0, end=0))
        known, self._text = len(self._references), answer
        self._find_references()
        for stretch in self._stretches if known != len(self._references) else self._stretches[-1:]:
            gone += self._update(stretch)
        return gone

    def split(self, block: Block) -> list[Block]:
        """An unread block is near: its real ones are wanted. Returns those that take its place."""
        at, stretch = next((at, one) for at, one in enumerate(self._stretches) if block in one.blocks)
        new = [stretch]
        if stretch.end - stretch.start > 2 * CHUNK_CHARACTERS:
            text = self._text[stretch.start : stretch.end]
            new = [_Stretch(start=stretch.start + start, end=stretch.start + end) for start, end in chunks(text)]
        if len(new) == 1:
            new[0].splitter, new[0].blocks = Splitter(start=stretch.start), []
        self._stretches[at : at + 1] = new
        for one in new:
            self._update(one)
        return [block for one in new for block in one.blocks]

    def toggle(self, start: int) -> list[Block]:
        """Open or close the fold that begins there. Returns the blocks whose view is no longer wanted."""
        if self._open_folds.pop(start, None) is None:
            self._open_folds[start] = Splitter(path="q")
        return [block for stretch in self._stretches for block in self._update(stretch)]

    def _find_references(self) -> None:
        """Link definitions may stand after their links; half a line may not be one."""
        end = len(self._text) if self.turn.status.is_over else self._text.rfind("\n") + 1
        if end > self._searched:
            self._references = references_of(self._text[self._searched : end]) | self._references
            self._searched = end

    def _update(self, stretch: _Stretch) -> list[Block]:
        """Bring the blocks of a stretch up to date. Returns those whose view is no longer wanted."""
        is_last = stretch is self._stretches[-1]
        if is_last:
            stretch.end = len(self._text)
        text = self._text[stretch.start : stretch.end]
        if stretch.splitter is None:
            segments = [Segment(kind=SegmentKind.UNREAD, start=stretch.start, end=stretch.end, text=text)]
        else:
            is_over = not is_last or self.turn.status.is_over
            stretch.splitter.update(text, is_over=is_over, references=self._references)
            segments = list(self._with_folds(stretch.splitter.segments))
        blocks = stretch.blocks
        gone: list[Block] = []
        path = ""
        for number, segment in enumerate(segments):
            kind = BlockKind(segment.kind.value)
            if number < len(blocks) and blocks[number].kind is not kind:
                gone += blocks[number:]
                del blocks[number:]
            if number == len(blocks):
                blocks.append(Block(kind=kind, turn=self.turn, segment=segment))
            block = blocks[number]
            block.joins = _shared(path, segment.paths[0])
            path, is_open = segment.paths[1], kind is BlockKind.FOLD and segment.start in self._open_folds
            if block.segment is not segment or block.is_open is not is_open:
                block.segment, block.is_open = segment, is_open
                _take(block)
        gone += blocks[len(segments) :]
        del blocks[len(segments) :]
        return gone

    def _with_folds(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """The segments, with those in the folds that are open."""
        for segment in segments:
            yield segment
            inner = self._open_folds.get(segment.start) if segment.kind is SegmentKind.FOLD else None
            if inner is not None:
                inner.start = segment.inner
                is_over = segment.is_closed or self.turn.status.is_over
                inner.update(segment.text, is_over=is_over, references=self._references)
                yield from self._with_folds(inner.segments)


def _shared(one: str, other: str) -> str:
    """What two paths of containers begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _take(block: Block) -> None:
    """The block has changed: its view shows it, and its height is measured again."""
    block.is_measured = False
    if block.view is not None:
        block.view.show_block(block)
