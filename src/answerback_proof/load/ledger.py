"""Who asked what, and what came home: the independent check of load and demo.

It knows nothing of the client SDK and shares no code with it. It is told every question and every frame, and counts
what must never happen. A load client never resumes, so here every text comes once, in order, or something is wrong.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    ServerFrame,
    Status,
)

_MAX_EXAMPLES = 10


@dataclass(slots=True, kw_only=True)
class Verdicts:
    """What must be zero. `examples` tells the first few in words.

    `misrouted`: a frame, or a text, that belongs to another app or request. `lost`: a request without an ending, or
    text that is missing. `repeated`: a second ending, or text that came twice.
    """

    misrouted: int = 0
    lost: int = 0
    repeated: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether all is well."""
        return not (self.misrouted or self.lost or self.repeated)

    def add_misrouted(self, example: str) -> None:
        """Count one."""
        self.misrouted += 1
        self._note(f"misrouted: {example}")

    def add_lost(self, example: str) -> None:
        """Count one."""
        self.lost += 1
        self._note(f"lost: {example}")

    def add_repeated(self, example: str) -> None:
        """Count one."""
        self.repeated += 1
        self._note(f"repeated: {example}")

    def compare(self, name: str, *, got: str, want: str, is_of_another: Callable[[str], bool] | None = None) -> None:
        """Count how `got` differs from the text that should have come home.

        `is_of_another`: whether a text is the answer to another request.
        """
        if got == want:
            return
        where = next((at for at, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        example = f"{name}: {len(got)} code points instead of {len(want)}, different from {where} on"
        if is_of_another is not None and is_of_another(got):
            self.add_misrouted(example)
        elif len(got) > len(want):
            self.add_repeated(example)
        else:
            self.add_lost(example)

    def __str__(self) -> str:
        return f"{self.misrouted} misrouted, {self.lost} lost, {self.repeated} repeated"

    def _note(self, example: str) -> None:
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(example)


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One question. Instants in seconds on the caller's clock; `due_at` is when it should have been sent."""

    app: int
    request_id: str
    expected: str | None
    due_at: float
    accepted_at: float | None = None
    first_text_at: float | None = None
    last_text_at: float | None = None
    ended_at: float | None = None
    attempt: int = 0
    length: int = 0
    text: str | None = None
    parts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For messages."""
        return f"request {self.request_id} of app {self.app}"


class Ledger:
    """Takes every question and every frame; says which entry has just ended.

    `on_gap` gets the seconds between two pieces of one answer. `keep_texts`: ended entries keep their text.
    """

    def __init__(self, *, on_gap: Callable[[float], None] | None = None, keep_texts: bool = False) -> None:
        self.verdicts = Verdicts()
        self.failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.frames = 0
        self.deltas = 0
        self.ended: list[Entry] = []
        self._on_gap = on_gap
        self._keep_texts = keep_texts
        self._entries: dict[str, Entry] = {}

    @property
    def pending(self) -> int:
        """Questions without an ending."""
        return len(self._entries) - len(self.ended)

    def asked(self, app: int, request_id: str, *, expected: str | None, due_at: float) -> None:
        """A question goes out. `expected`: the text that must come home, if it is known before."""
        self._entries[request_id] = Entry(app=app, request_id=request_id, expected=expected, due_at=due_at)

    def received(self, app: int, frame: ServerFrame | None, *, now: float) -> Entry | None:
        """A frame has come to this app; the entry that it ends, if it ends one."""
        self.frames += 1
        match frame:
            case MessageDelta():
                entry = self._owned(app, frame.request_id)
                if entry is not None:
                    self._text(entry, frame, now)
            case MessageAccepted():
                entry = self._owned(app, frame.request_id)
                if entry is not None and entry.accepted_at is None:
                    entry.accepted_at = now
            case MessageStarted():
                entry = self._owned(app, frame.request_id)
                if entry is not None:
                    self._attempt(entry, frame.attempt)
            case MessageResponse():
                entry = self._owned(app, frame.request_id)
                return None if entry is None else self._end(entry, frame, now)
            case Error():
                return self._refused(app, frame, now)
            case _:
                pass
        return None

    def close(self) -> None:
        """Nothing more comes: what has no ending is lost."""
        for entry in self._entries.values():
            if entry.ended_at is None:
                self.verdicts.add_lost(f"{entry.name}: no ending")

    def _owned(self, app: int, request_id: str) -> Entry | None:
        entry = self._entries.get(request_id)
        if entry is None or entry.app != app:
            owner = "nobody" if entry is None else f"app {entry.app}"
            self.verdicts.add_misrouted(f"a frame about request {request_id} of {owner} came to app {app}")
            return None
        return entry

    def _attempt(self, entry: Entry, attempt: int) -> None:
        if attempt > entry.attempt:
            entry.attempt = attempt
            entry.length = 0
            entry.parts.clear()

    def _text(self, entry: Entry, frame: MessageDelta, now: float) -> None:
        self.deltas += 1
        self._attempt(entry, frame.attempt)
        if frame.attempt < entry.attempt:
            return
        if entry.first_text_at is None:
            entry.first_text_at = now
        elif self._on_gap is not None and entry.last_text_at is not None:
            self._on_gap(now - entry.last_text_at)
        entry.last_text_at = now
        if frame.offset < entry.length or entry.ended_at is not None:
            self.verdicts.add_repeated(f"{entry.name}: text at {frame.offset} again, {entry.length} were there")
        elif frame.offset > entry.length:
            self.verdicts.add_lost(f"{entry.name}: text from {entry.length} to {frame.offset} is missing")
        entry.parts.append(frame.delta)
        entry.length = max(entry.length, frame.offset + len(frame.delta))

    def _end(self, entry: Entry, frame: MessageResponse, now: float) -> Entry | None:
        if entry.ended_at is not None:
            self.verdicts.add_repeated(f"{entry.name}: a second ending")
            return None
        entry.ended_at = now
        if frame.status is not Status.COMPLETED:
            self.failures[str(frame.error.code if frame.error else frame.status)] += 1
        else:
            text = "".join(entry.parts) if frame.response is None else frame.response
            entry.text = text if self._keep_texts else None
            if len(text) != frame.length:
                self.verdicts.compare(
                    f"{entry.name} (its own length)", got=text, want=text[: frame.length].ljust(frame.length)
                )
            if entry.expected is not None:
                self.verdicts.compare(entry.name, got=text, want=entry.expected, is_of_another=self._is_of_another)
        self._over(entry)
        return entry

    def _refused(self, app: int, frame: Error, now: float) -> Entry | None:
        if frame.request_id is None or frame.code is ErrorCode.SESSION_REPLACED:
            self.errors[str(frame.code)] += 1
            return None
        entry = self._owned(app, frame.request_id)
        if entry is None or entry.ended_at is not None:
            return None
        entry.ended_at = now
        self.failures[str(frame.code)] += 1
        self._over(entry)
        return entry

    def _over(self, entry: Entry) -> None:
        """Keep what a later frame is judged by, and the instants; texts would be the memory of a long run."""
        self.ended.append(entry)
        entry.parts = []
        entry.length = 0

    def _is_of_another(self, text: str) -> bool:
        return any(entry.expected == text for entry in self._entries.values())
