"""What the transcript is made of: a view for each block, each of a height that follows from its width."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtGui import QEnterEvent
from PySide6.QtWidgets import QWidget

from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.markdown import Segment, SegmentKind, Splitter
from answerback_desktop.ui.theme import Theme
from answerback_desktop.viewmodels.turn import TurnViewModel


class BlockKind(StrEnum):
    """One view class each."""

    QUESTION = "question"
    PROSE = "prose"
    CODE = "code"
    TABLE = "table"
    FOOTER = "footer"


@dataclass(slots=True, kw_only=True)
class Block:
    """One piece of a turn. `view` is there only near what is seen; `height` is a guess until `is_measured`."""

    kind: BlockKind
    turn: TurnViewModel
    segment: Segment | None = None
    height: int = 0
    is_measured: bool = False
    view: "BlockView | None" = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """What every view is drawn with. `is_read_only`: nothing can be asked, so nothing is offered that asks.

    `titles`: of the models that have another name for people.
    """

    theme: Theme
    texts: ChatTexts
    is_read_only: bool = False
    titles: Mapping[str, str] = field(default_factory=dict)


class BlockSignals(QObject):
    """The signals of a view to the transcript."""

    height_changed = Signal(object)  # the view
    hovered = Signal(str, bool)  # request id, whether the pointer came
    copy = Signal(str)
    regenerate = Signal(str)
    retry = Signal(str)
    stop = Signal(str)
    edited = Signal(str, str)  # request id, the new question
    edit_changed = Signal(str, object, bool)  # request id, the text so far or None, whether the editor is open
    version = Signal(str, int)  # request id, 1 for the later one, -1 for the earlier one
    link = Signal(str, str)


class BlockView(QWidget):
    """A view of one block. `signals` is the transcript's."""

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

    def take(self, segment: Segment | None) -> None:
        """The block has changed: show it as it is now."""

    def arrange(self, width: int) -> int:
        """Lay everything out in this width. Returns the height that it needs."""
        raise NotImplementedError

    def set_active(self, *, is_active: bool) -> None:
        """Whether the pointer is on this view's turn, or it is the last one: its actions are shown."""

    def enterEvent(self, event: QEnterEvent) -> None:  # noqa: N802 - Qt's name
        self.signals.hovered.emit(self.turn.request_id, True)
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:  # noqa: N802 - Qt's name
        self.signals.hovered.emit(self.turn.request_id, False)
        super().leaveEvent(event)


_KINDS: Final = {
    SegmentKind.PROSE: BlockKind.PROSE,
    SegmentKind.CODE: BlockKind.CODE,
    SegmentKind.TABLE: BlockKind.TABLE,
}


class TurnBlocks:
    """The blocks of one turn, kept as its answer grows. One block stands for the answer until it is first looked at."""

    def __init__(self, turn: TurnViewModel) -> None:
        self.turn = turn
        self._splitter: Splitter | None = None
        self._answer: list[Block] = []
        self._question = Block(kind=BlockKind.QUESTION, turn=turn)
        self._footer = Block(kind=BlockKind.FOOTER, turn=turn)

    @property
    def blocks(self) -> Iterator[Block]:
        """From the question to the line of state."""
        yield self._question
        yield from self._answer
        yield self._footer

    def refresh(self) -> list[Block]:
        """Bring the blocks up to date. Returns those whose view is no longer wanted."""
        _take(self._footer)
        if self._splitter is None:
            whole = Segment(kind=SegmentKind.PROSE, text=self.turn.answer)
            self._answer = [Block(kind=BlockKind.PROSE, turn=self.turn, segment=whole)] if whole.text else []
            return []
        first = self._splitter.update(self.turn.answer)
        segments = self._splitter.segments
        gone: list[Block] = []
        for number in range(min(first, len(self._answer)), len(segments)):
            segment = segments[number]
            if number < len(self._answer) and self._answer[number].kind is _KINDS[segment.kind]:
                self._answer[number].segment = segment
                _take(self._answer[number])
                continue
            gone += self._answer[number:]
            del self._answer[number:]
            self._answer.append(Block(kind=_KINDS[segment.kind], turn=self.turn, segment=segment))
        gone += self._answer[len(segments) :]
        del self._answer[len(segments) :]
        return gone

    def split(self) -> bool:
        """The turn is near: its real blocks are wanted. Whether it had none until now."""
        if self._splitter is not None:
            return False
        self._splitter = Splitter()
        self._answer = []
        self.refresh()
        return True


def _take(block: Block) -> None:
    """The block has changed: its view shows it, and its height is measured again."""
    block.is_measured = False
    if block.view is not None:
        block.view.take(block.segment)
