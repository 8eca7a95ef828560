"""What the transcript is made of: a view for each block, each of a height that follows from its width."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from PySide6.QtCore import QEvent, QObject, Signal
from PySide6.QtGui import QEnterEvent
from PySide6.QtWidgets import QWidget

from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.markdown import Segment
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
    """What every view is drawn with."""

    theme: Theme
    texts: ChatTexts


class BlockSignals(QObject):
    """The signals of a view to the transcript."""

    height_changed = Signal(object)  # the view
    hovered = Signal(str, bool)  # request id, whether the pointer came
    copy = Signal(str)
    regenerate = Signal(str)
    retry = Signal(str)
    stop = Signal(str)
    edited = Signal(str, str)  # request id, the new question
    link = Signal(str)


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
