"""One question and its answer."""

from dataclasses import replace

from answerback_desktop.records import Failure, Times, Tokens, Turn, TurnStatus


class TurnViewModel:
    """Read it; only `ConversationViewModel` changes it.

    `answer` only grows while `revision` stays; when `revision` has risen, the text is another one (a new attempt).
    Markdown, untrusted.
    """

    __slots__ = ("_parts", "_text", "_turn", "length", "revision")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._parts: list[str] = []
        self._text: str | None = turn.answer
        self.length = len(turn.answer)
        self.revision = 0

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
    def replaces(self) -> str | None:
        """The turn whose place this one takes."""
        return self._turn.replaces

    @property
    def model(self) -> str | None:
        """The model that answered, or was asked for."""
        return self._turn.model

    @property
    def tokens(self) -> Tokens | None:
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
