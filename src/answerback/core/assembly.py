"""Client-side assembly: frames about one request in, the exact text and one ending out.

Theory of operation. The text of one attempt only grows, and every delta says where it belongs. So a duplicate is
dropped, an overlap gives its new part, and a gap asks for a resume. A higher attempt voids the text of a lower one. An
ending counts when the text is whole, and is held until then. In whatever order the frames arrive, lost or repeated, the
text is at every moment a prefix of one attempt's answer.

Each delta belongs to one part of the answer. `length` counts all parts. What is shown as the answer is those of kind
`text`, put together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from answerback.core.parts import TEXT
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

    def joined(self, later: object) -> "Text | None":
        """This and the piece right after it as one; None if `later` does not follow."""
        if not isinstance(later, Text) or later.parts is not self.parts or later.start != self.end:
            return None
        return Text(offset=self.offset, parts=self.parts, start=self.start, end=later.end)


@dataclass(frozen=True, slots=True)
class PartStarted:
    """A part begins that is no text: number `part` of the answer. `name`: of a tool, for example."""

    part: int
    kind: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartText:
    """New text of a part that is not the answer's own text. Both texts are built when they are asked for."""

    part: int
    kind: str
    name: str | None
    pieces: Sequence[str] = field(repr=False, compare=False)
    start: int = field(repr=False)
    end: int = field(repr=False)

    @property
    def delta(self) -> str:
        return "".join(self.pieces[self.start : self.end])

    @property
    def snapshot(self) -> str:
        """The part up to and with the new text."""
        return "".join(self.pieces[: self.end])

    def joined(self, later: object) -> "PartText | None":
        """This and the piece right after it as one; None if `later` does not follow."""
        if not isinstance(later, PartText) or later.pieces is not self.pieces or later.start != self.end:
            return None
        return replace(self, end=later.end)


class AnswerPart(NamedTuple):
    """One part of an answer."""

    kind: str
    name: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The one ending. `text` is whole. `parts`: all of them, if the answer is not text alone."""

    response: MessageResponse
    text: str
    parts: tuple[AnswerPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """Text is missing: ask the server to go on from the assembly's `attempt` and `length`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The server contradicts itself or the protocol. Nothing more of this request can be trusted."""

    detail: str


AssemblyEvent: TypeAlias = Started | Restarted | Text | PartStarted | PartText | Ended | Missing | Broken
AnswerFrame: TypeAlias = MessageStarted | MessageDelta | MessageResponse


class Assembly:
    """One request's answer as the client has it.

    `attempt` and `length` (code points) are the resume point. `has_started`: the model is known to work, or to have
    worked, on the request. `is_over`: `Ended` or `Broken` was emitted, and every frame is swallowed.
    """

    __slots__ = (
        *("_bytes", "_held", "_max_bytes", "_parts", "_pieces", "_shown", "_shown_length", "_streamed"),
        *("attempt", "has_started", "is_over", "length"),
    )

    def __init__(self, *, streamed: bool, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.attempt = 0
        self._streamed = streamed
        self._max_bytes = max_bytes
        self._clear()
        self.has_started = False
        self._held: MessageResponse | None = None
        self.is_over = False

    @property
    def text(self) -> str:
        """The text that has been assembled of the present attempt."""
        return "".join(self._shown)

    @property
    def content(self) -> str:
        """All that has been assembled of the present attempt, of whatever part."""
        return "".join(self._pieces)

    @property
    def parts(self) -> tuple[AnswerPart, ...]:
        """All parts so far; none of an answer that is text alone."""
        if self._is_text:
            return ()
        return tuple(AnswerPart(kind, name, "".join(pieces)) for kind, name, pieces in self._parts)

    @property
    def _is_text(self) -> bool:
        return not self._parts or (len(self._parts) == 1 and self._parts[0][0] == TEXT)

    @property
    def lacks_text(self) -> bool:
        """Whether its ending has come, and not all that is before it."""
        return self._held is not None and self.length < self._held.length

    def receive(self, frame: AnswerFrame) -> list[AssemblyEvent]:
        """Take one frame about this request. Returns what it changed, in order.

        Never raises for what a server sent: a contradiction is the event `Broken`.
        """
        events: list[AssemblyEvent] = []
        if self.is_over or frame.attempt < self.attempt:
            return events
        if frame.attempt == 0 and not isinstance(frame, MessageResponse):
            return events  # attempts count from 1; only a request that never ran ends without one
        match frame:
            case MessageStarted():
                self._enter(frame.attempt, events, says_start=True)
            case MessageDelta():
                self._enter(frame.attempt, events, says_start=True)
                self._take(frame, events)
            case MessageResponse():
                self._enter(frame.attempt, events, says_start=False)
                self._end(frame, events)
        return events

    def so_far(self) -> list[Started | Text | PartStarted | PartText]:
        """The events that lead to what there is now, for a reader that comes late."""
        events: list[Started | Text | PartStarted | PartText] = [Started(self.attempt)] if self.has_started else []
        shown = 0
        for part, (kind, name, pieces) in enumerate(self._parts):
            if kind == TEXT:
                offset, end = sum(map(len, self._shown[:shown])), shown + len(pieces)
                events.append(Text(offset=offset, parts=self._shown, start=shown, end=end))
                shown = end
            else:
                events.append(PartStarted(part, kind, name))
                events.append(PartText(part=part, kind=kind, name=name, pieces=pieces, start=0, end=len(pieces)))
        return events

    def _enter(self, attempt: int, events: list[AssemblyEvent], *, says_start: bool) -> None:
        """Move on to a higher attempt. Emit that, if the caller could know of the one before."""
        if attempt > self.attempt:
            showed = self.length > 0
            self.attempt = attempt
            self._held = None
            self._clear()
            if showed or (says_start and self.has_started):
                events.append(Restarted(attempt))
        if says_start and not self.has_started:
            self.has_started = True
            events.append(Started(attempt))

    def _clear(self) -> None:
        # New lists: events that were emitted keep the old ones.
        self._pieces: list[str] = []
        self._shown: list[str] = []
        self._parts: list[tuple[str, str | None, list[str]]] = []
        self.length = self._shown_length = self._bytes = 0

    def _take(self, frame: MessageDelta, events: list[AssemblyEvent]) -> None:
        offset, delta = frame.offset, frame.delta
        if offset > self.length:
            events.append(Missing())
            return
        known = self.length - offset
        if known and "".join(self._pieces)[offset : offset + len(delta)] != delta[:known]:
            self._start_over(events)  # one attempt cannot have two texts at one place: get it from the start
            return
        if len(delta) > known:
            last = len(self._parts) - 1
            if frame.part == last + 1 and not known:
                self._parts.append((frame.kind, frame.name, []))
                if frame.kind != TEXT:
                    events.append(PartStarted(frame.part, frame.kind, frame.name))
            elif frame.part != last or frame.kind != self._parts[last][0]:
                self._break(f"text of part {frame.part} ({frame.kind}) comes after part {last}", events)
                return
            if not self._append(delta[known:], events):
                return
        self._try_end(events)

    def _append(self, piece: str, events: list[AssemblyEvent]) -> bool:
        """Add new text to the last part."""
        size = len(piece.encode("utf-8", "surrogatepass"))
        if self._bytes + size > self._max_bytes:
            self._break(f"the answer is longer than {self._max_bytes} bytes", events)
            return False
        kind, name, pieces = self._parts[-1]
        pieces.append(piece)
        self._pieces.append(piece)
        if kind == TEXT:
            self._shown.append(piece)
            end = len(self._shown)
            events.append(Text(offset=self._shown_length, parts=self._shown, start=end - 1, end=end))
            self._shown_length += len(piece)
        else:
            part, end = len(self._parts) - 1, len(pieces)
            events.append(PartText(part=part, kind=kind, name=name, pieces=pieces, start=end - 1, end=end))
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
        if not (self._is_text and text.startswith(shown)):
            self._clear()
            events.append(Restarted(response.attempt))
            shown = ""
        if len(text) > len(shown):
            self._parts = self._parts or [(TEXT, None, [])]
            if not self._append(text[len(shown) :], events):
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
        self.is_over = True
        self._held = None
        events.append(Ended(response, self.text, self.parts))

    def _break(self, detail: str, events: list[AssemblyEvent]) -> None:
        self.is_over = True
        self._held = None
        events.append(Broken(detail))
