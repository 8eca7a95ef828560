"""The text of one answer, put together from the frames of one connection."""

from typing import NamedTuple

from answerback_proof.history import ViolationKind


class Flaw(NamedTuple):
    """What is wrong with a piece of text."""

    kind: ViolationKind
    detail: str


class AnswerText:
    """The text of one answer as one connection brings it, piece by piece; cheap enough for a load test.

    `first_offset`: of the first piece that came. A piece that brings known text again is REPEATED, one of an older
    attempt DISORDERED: a connection that resumes may bring the first, a redelivered request the second.
    """

    __slots__ = ("_parts", "attempt", "first_offset", "has_ended", "length")

    def __init__(self, attempt: int = 0, text: str = "") -> None:
        self.attempt = attempt
        self.length = len(text)
        self.first_offset: int | None = None
        self.has_ended = False
        self._parts = [text]

    @property
    def text(self) -> str:
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def begin(self, attempt: int, text: str = "") -> Flaw | None:
        """An attempt begins; the text of older ones is void."""
        if attempt < self.attempt:
            return Flaw(ViolationKind.DISORDERED, f"attempt {attempt} came after attempt {self.attempt}")
        if attempt > self.attempt:
            self.attempt, self.length, self._parts = attempt, len(text), [text]
        return None

    def add(self, attempt: int, offset: int, delta: str) -> Flaw | None:
        if attempt != self.attempt and (flaw := self.begin(attempt)) is not None:
            return flaw
        if self.first_offset is None:
            self.first_offset = offset
        length = self.length
        if self.has_ended:
            return Flaw(ViolationKind.REPEATED, f"a piece at offset {offset} came after the ending")
        if offset == length:
            self._parts.append(delta)
            self.length = length + len(delta)
            return None
        if offset > length:
            return Flaw(ViolationKind.LOST, f"a piece at offset {offset} came when the text had {length} code points")
        text = self.text
        if not delta.startswith(text[offset : offset + len(delta)]):
            return Flaw(ViolationKind.DIFFERENT, f"a piece at offset {offset} is not the text that came before there")
        if offset + len(delta) > length:
            self._parts = [text[:offset] + delta]
            self.length = offset + len(delta)
        return Flaw(ViolationKind.REPEATED, f"a piece at offset {offset} came when the text had {length} code points")

    def end(self, attempt: int, length: int, response: str | None) -> Flaw | None:
        """The ending comes. Without a response, and before any piece, nothing can be said of its length."""
        if self.has_ended:
            return Flaw(ViolationKind.REPEATED, "a second ending came")
        self.has_ended = True
        if response is not None:
            self.attempt, self.length, self._parts = attempt, len(response), [response]
        else:
            self.begin(attempt)
        if (response is not None or self.first_offset is not None) and length != self.length:
            return Flaw(ViolationKind.LOST, f"the ending says {length} code points, but {self.length} came")
        return None
