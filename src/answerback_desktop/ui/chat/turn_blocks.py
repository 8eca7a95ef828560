"""The blocks of one turn, as its answer grows."""

from collections.abc import Iterator
from typing import Final

from answerback_desktop.ui.chat.blocks import Block, BlockKind
from answerback_desktop.ui.markdown import Segment, SegmentKind, Splitter
from answerback_desktop.viewmodels.turn import TurnViewModel

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
