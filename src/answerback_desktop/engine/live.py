"""An answer while it comes: what is shown of it, also when it comes again from the start."""

from dataclasses import replace

from answerback.client.events import Queued, Restarted, Started, Text
from answerback_desktop.engine.events import TextAppended, TurnChanged
from answerback_desktop.records import Turn, TurnStatus


class LiveAnswer:
    """Pure. After a restart of the app the text that was kept is shown, and the same attempt comes from its start:
    what is there already is compared, not shown twice; the first difference begins the answer anew.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._parts = [turn.answer]
        self._length = len(turn.answer)
        self.is_unsaved = False

    @property
    def turn(self) -> Turn:
        """As it is now, with all the text."""
        return replace(self._turn, answer=self.text)

    @property
    def text(self) -> str:
        """What is shown."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    def receive(self, event: Queued | Started | Restarted | Text) -> TurnChanged | TextAppended | None:
        """What the person sees of it."""
        match event:
            case Queued(position=position):
                if self._turn.status is TurnStatus.STREAMING:
                    return None
                return self._become(TurnStatus.QUEUED, position=position)
            case Started(attempt) if self._turn.attempt in (0, attempt):
                return self._become(TurnStatus.STREAMING, attempt=attempt)
            case Started(attempt) | Restarted(attempt):
                self._set_text("")
                return self._become(TurnStatus.STREAMING, attempt=attempt)
            case Text():
                return self._take_text(event)

    def _become(self, status: TurnStatus, *, position: int | None = None, attempt: int = 0) -> TurnChanged:
        self._turn = replace(self._turn, status=status, position=position, attempt=attempt or self._turn.attempt)
        self.is_unsaved = True
        return TurnChanged(self.turn)

    def _take_text(self, event: Text) -> TurnChanged | TextAppended | None:
        delta = event.delta
        if event.offset != self._length:
            shown = self.text[event.offset : event.offset + len(delta)]
            if event.offset > self._length or not delta.startswith(shown):
                self._set_text(event.snapshot)
                return self._become(TurnStatus.STREAMING)
            delta = delta[len(shown) :]
            if not delta:
                return None
        offset = self._length
        self._parts.append(delta)
        self._length += len(delta)
        self.is_unsaved = True
        return TextAppended(
            conversation_id=self._turn.conversation_id,
            request_id=self._turn.request_id,
            attempt=self._turn.attempt,
            offset=offset,
            delta=delta,
        )

    def _set_text(self, text: str) -> None:
        self._parts = [text]
        self._length = len(text)
