"""One question and its answer."""

from dataclasses import replace

from answerback.client import Attachment, Usage
from answerback_desktop.records import Failure, Times, Turn, TurnStatus
from answerback_desktop.viewmodels.connection import Countdown


class TurnViewModel:
    """Read it; only `ConversationViewModel` changes it.

    `versions`: the ids of its earlier versions, of itself and of its later ones, oldest first; `version`: its place
    among them.
    `answer` only grows while `revision` stays; when `revision` has risen, the text is another one (a new attempt).
    Markdown, untrusted.
    """

    __slots__ = ("_countdown", "_parts", "_text", "_turn", "length", "revision", "version", "versions")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._parts: list[str] = []
        self._text: str | None = turn.answer
        self.length = len(turn.answer)
        self.revision = 0
        self.versions: tuple[str, ...] = (turn.request_id,)
        self.version = 0
        self._countdown = _countdown_of(turn)

    @property
    def request_id(self) -> str:
        return self._turn.request_id

    @property
    def question(self) -> str:
        """What was asked, as it was typed."""
        return self._turn.question

    @property
    def answer(self) -> str:
        if self._text is None:
            self._parts = ["".join(self._parts)]
            self._text = self._parts[0]
        return self._text

    @property
    def status(self) -> TurnStatus:
        return self._turn.status

    @property
    def position(self) -> int | None:
        """While queued: unfinished questions before it; 0: it is next."""
        return self._turn.position

    @property
    def failure(self) -> Failure | None:
        return self._turn.failure

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files that were asked with."""
        return self._turn.attachments

    @property
    def sent_percent(self) -> int | None:
        """How much of them is at the server, while they are brought there."""
        return self._turn.sent_percent

    @property
    def is_elsewhere(self) -> bool:
        """Another device asked it, and its answer still comes."""
        return self._turn.is_elsewhere

    @property
    def is_cut(self) -> bool:
        """The answer ended at a limit, not by itself."""
        return self._turn.finish_reason == "length"

    @property
    def can_stop(self) -> bool:
        return not self._turn.status.is_over

    @property
    def can_retry(self) -> bool:
        """Whether `retry` makes sense: there is no whole answer, and asking again may help."""
        if self._turn.status is TurnStatus.CANCELLED or (self._turn.status is TurnStatus.COMPLETED and not self.length):
            return True
        return self._turn.failure is not None and self._turn.failure.is_retryable

    @property
    def retry_in_s(self) -> int | None:
        """Seconds until asking again makes sense; None: it does not."""
        if not self.can_retry:
            return None
        return 0 if self._countdown is None else self._countdown.left_s

    @property
    def replaces(self) -> str | None:
        """The turn whose place this one takes."""
        return self._turn.replaces

    @property
    def superseded_by(self) -> str | None:
        """The turn that took its place, or the place of a turn before it."""
        return self._turn.superseded_by

    @property
    def model(self) -> str | None:
        """The model that answered, or was asked for."""
        return self._turn.model

    @property
    def tokens(self) -> Usage | None:
        return self._turn.tokens

    @property
    def times(self) -> Times | None:
        """At the server, once it is over; None for a turn of another device."""
        return self._turn.times

    @property
    def asked_at_ms(self) -> int:
        """Epoch."""
        return self._turn.asked_at_ms

    @property
    def answered_at_ms(self) -> int | None:
        """Epoch."""
        return self._turn.answered_at_ms

    @property
    def order(self) -> tuple[bool, int, str]:
        return self._turn.order

    # --- by the conversation ------------------------------------------------------------------------------

    def take(self, turn: Turn) -> bool:
        """Take a new state; returns whether it differs."""
        text = self.answer
        if text == turn.answer and replace(self._turn, answer=text) == turn:
            return False
        if not turn.answer.startswith(text):
            self.revision += 1
        if turn.failure != self._turn.failure:
            self._countdown = _countdown_of(turn)
        self._turn = turn
        self._parts = [turn.answer]
        self._text = turn.answer
        self.length = len(turn.answer)
        return True

    def append(self, offset: int, delta: str) -> int | None:
        """New text at `offset`; where it really begins after what is there already. None: nothing new, or a gap."""
        known = self.length - offset
        if known < 0 or known >= len(delta):
            return None
        start = self.length
        if self._text is not None:
            self._parts = [self._text]
            self._text = None
        self._parts.append(delta[known:])
        self.length += len(delta) - known
        return start


def _countdown_of(turn: Turn) -> Countdown | None:
    """To when it may be asked again. Its length is known even if the clock was set since it failed."""
    at_ms = None if turn.failure is None else turn.failure.retry_at_ms
    if at_ms is None:
        return None
    return Countdown(at_ms, longest_ms=None if turn.answered_at_ms is None else at_ms - turn.answered_at_ms)
