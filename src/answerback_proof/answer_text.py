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

    __slots__ = ("_kind", "_marks", "_part", "_parts", "attempt", "first_offset", "has_ended", "length")

    def __init__(self, attempt: int = 0, text: str = "") -> None:
        self.attempt = attempt
        self.length = len(text)
        self.first_offset: int | None = None
        self.has_ended = False
        self._parts = [text]
        self._marks: list[tuple[int, str, str | None]] = []
        self._part, self._kind = -1, ""

    @property
    def parts(self) -> list[tuple[str, str | None, str]]:
        """(kind, name, text) of each part, as far as they came in pieces."""
        text = self.text
        ends = [*(offset for offset, _, _ in self._marks[1:]), len(text)]
        return [(kind, name, text[start:end]) for (start, kind, name), end in zip(self._marks, ends, strict=False)]

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
            self._marks, self._part, self._kind = [], -1, ""
        return None

    def add(
        self, attempt: int, offset: int, delta: str, *, part: int = 0, kind: str = "text", name: str | None = None
    ) -> Flaw | None:
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
            return None if part == self._part and kind == self._kind else self._begin_part(offset, part, kind, name)
        if offset > length:
            return Flaw(ViolationKind.LOST, f"a piece at offset {offset} came when the text had {length} code points")
        text = self.text
        if not delta.startswith(text[offset : offset + len(delta)]):
            return Flaw(ViolationKind.DIFFERENT, f"a piece at offset {offset} is not the text that came before there")
        if offset + len(delta) > length:
            self._parts = [text[:offset] + delta]
            self.length = offset + len(delta)
        return Flaw(ViolationKind.REPEATED, f"a piece at offset {offset} came when the text had {length} code points")

    def _begin_part(self, offset: int, part: int, kind: str, name: str | None) -> Flaw | None:
        # A connection that resumes begins with any part.
        is_next = part == self._part + 1 or (self._part < 0 and offset > 0)
        if not is_next or part == self._part:
            return Flaw(ViolationKind.DIFFERENT, f"part {part} ({kind}) came after part {self._part} ({self._kind})")
        self._part, self._kind = part, kind
        self._marks.append((offset, kind, name))
        return None

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
