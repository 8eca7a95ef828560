"""Client-side assembly: frames about one request in, the exact text and one ending out.

Theory of operation. The text of one attempt only grows, and every delta says where it belongs. So a duplicate is
dropped, an overlap gives its new part, and a gap asks for a resume. A higher attempt voids the text of a lower one. An
ending counts when the text is whole, and is held until then. In whatever order the frames arrive, lost or repeated, the
text is at every moment a prefix of one attempt's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from answerback.protocol.frames import MessageDelta, MessageResponse, MessageStarted, Status
from answerback.protocol.limits import MAX_ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Started:
    """The model works on the request."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The answer starts again: all text before is void. Show only what follows."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """New text at code point `offset` of the answer. Both texts are built when they are asked for."""

    offset: int
    parts: Sequence[str] = field(repr=False, compare=False)
    start: int = field(repr=False)
    end: int = field(repr=False)

    @property
    def delta(self) -> str:
        return "".join(self.parts[self.start : self.end])

    @property
    def snapshot(self) -> str:
        """The answer up to and with the new text."""
        return "".join(self.parts[: self.end])

    def joined(self, later: "Text") -> "Text | None":
        """This and the piece right after it as one; None if `later` does not follow."""
        if later.parts is not self.parts or later.start != self.end:
            return None
        return Text(offset=self.offset, parts=self.parts, start=self.start, end=later.end)


@dataclass(frozen=True, slots=True)
class Ended:
    """The one ending. `text` is whole."""

    response: MessageResponse
    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Text is missing: ask the server to go on from the assembly's `attempt` and `length`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The server contradicts itself or the protocol. Nothing more of this request can be trusted."""

    detail: str


AssemblyEvent: TypeAlias = Started | Restarted | Text | Ended | Missing | Broken
AnswerFrame: TypeAlias = MessageStarted | MessageDelta | MessageResponse


class Assembly:
    """One request's answer as the client has it.

    `attempt` and `length` (code points) are the resume point. After `Ended` or `Broken` every frame is swallowed.
    """

    __slots__ = ("_bytes", "_held", "_is_over", "_max_bytes", "_parts", "_started", "_streamed", "attempt", "length")

    def __init__(self, *, streamed: bool, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.attempt = 0
        self.length = 0
        self._streamed = streamed
        self._max_bytes = max_bytes
        self._bytes = 0
        self._parts: list[str] = []
        self._started = False
        self._held: MessageResponse | None = None
        self._is_over = False

    @property
    def text(self) -> str:
        """What has been assembled of the present attempt."""
        return "".join(self._parts)

    @property
    def is_over(self) -> bool:
        """Whether the ending has been emitted."""
        return self._is_over

    @property
    def has_started(self) -> bool:
        """Whether the model is known to work, or to have worked, on the request."""
        return self._started

    def receive(self, frame: AnswerFrame) -> list[AssemblyEvent]:
        """Take one frame about this request. Returns what it changed, in order.

        Never raises for what a server sent: a contradiction is the event `Broken`.
        """
        events: list[AssemblyEvent] = []
        if self._is_over or frame.attempt < self.attempt:
            return events
        if frame.attempt == 0 and not isinstance(frame, MessageResponse):
            return events  # attempts count from 1; only a request that never ran ends without one
        match frame:
            case MessageStarted():
                self._enter(frame.attempt, events, says_start=True)
            case MessageDelta():
                self._enter(frame.attempt, events, says_start=True)
                self._take(frame.offset, frame.delta, events)
            case MessageResponse():
                self._enter(frame.attempt, events, says_start=False)
                self._end(frame, events)
        return events

    def _enter(self, attempt: int, events: list[AssemblyEvent], *, says_start: bool) -> None:
        """Move on to a higher attempt. Emit that, if the caller could know of the one before."""
        if attempt > self.attempt:
            showed = self.length > 0
            self.attempt = attempt
            self._held = None
            self._clear()
            if showed or (says_start and self._started):
                events.append(Restarted(attempt))
        if says_start and not self._started:
            self._started = True
            events.append(Started(attempt))

    def _clear(self) -> None:
        self._parts = []  # a new list: `Text` events that were emitted keep the old one
        self.length = 0
        self._bytes = 0

    def _take(self, offset: int, delta: str, events: list[AssemblyEvent]) -> None:
        if offset > self.length:
            events.append(Missing())
            return
        known = self.length - offset
        if known and self.text[offset : offset + len(delta)] != delta[:known]:
            self._start_over(events)  # one attempt cannot have two texts at one place: get it from the start
            return
        if len(delta) > known and not self._append(delta[known:], events):
            return
        self._try_end(events)

    def _append(self, piece: str, events: list[AssemblyEvent]) -> bool:
        size = len(piece.encode("utf-8", "surrogatepass"))
        if self._bytes + size > self._max_bytes:
            self._break(f"the answer is longer than {self._max_bytes} bytes", events)
            return False
        start = len(self._parts)
        self._parts.append(piece)
        events.append(Text(offset=self.length, parts=self._parts, start=start, end=start + 1))
        self.length += len(piece)
        self._bytes += size
        return True

    def _end(self, response: MessageResponse, events: list[AssemblyEvent]) -> None:
        if response.length > self._max_bytes:
            self._break(f"the answer is said to be longer than {self._max_bytes} bytes", events)
            return
        if response.response is not None:
            self._take_whole(response, response.response, events)
            return
        self._held = response
        if not self._streamed and response.status is not Status.COMPLETED:
            self._finish(response, events)  # an unstreamed answer that failed sends no text, whatever its length
            return
        if self.length < response.length:
            events.append(Missing())
        else:
            self._try_end(events)

    def _take_whole(self, response: MessageResponse, text: str, events: list[AssemblyEvent]) -> None:
        if len(text) != response.length:
            self._break("the answer's text and its length differ", events)
            return
        shown = self.text
        if not text.startswith(shown):
            self._clear()
            events.append(Restarted(response.attempt))
            shown = ""
        if len(text) > len(shown) and not self._append(text[len(shown) :], events):
            return
        self._finish(response, events)

    def _try_end(self, events: list[AssemblyEvent]) -> None:
        held = self._held
        if held is None or self.length < held.length:
            return
        if self.length > held.length:
            self._start_over(events)
        else:
            self._finish(held, events)

    def _start_over(self, events: list[AssemblyEvent]) -> None:
        """What we have is not this attempt's text: drop it and ask for all of it."""
        self._clear()
        events.extend((Restarted(self.attempt), Missing()))

    def _finish(self, response: MessageResponse, events: list[AssemblyEvent]) -> None:
        self._is_over = True
        self._held = None
        events.append(Ended(response, self.text))

    def _break(self, detail: str, events: list[AssemblyEvent]) -> None:
        self._is_over = True
        self._held = None
        events.append(Broken(detail))
