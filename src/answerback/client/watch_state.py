"""One thing that a session watches, and the answers in it that other sessions have asked for."""

from dataclasses import dataclass, field
from typing import Final

from answerback.client.events import Asked
from answerback.client.paging import TurnPages
from answerback.core.assembly import AnswerFrame, Assembly
from answerback.core.parts import TEXT
from answerback.protocol.errors import ERRORS, ErrorCode
from answerback.protocol.frames import (
    ErrorBody,
    MessageAsked,
    MessageDelta,
    MessageResponse,
    ResumePoint,
    Status,
    Turn,
    TurnPart,
    Watch,
)
from answerback.protocol.limits import MAX_RESUME_POINTS

MAX_MISSED: Final = 32
"""Turns that are given out at most after the app was away. The history has the others."""
PAGE: Final = 10
"""Turns that are looked at in any case: of two that ran at a time, the later one may have ended first."""
_MAX_KNOWN: Final = 256
"""Requests that are remembered as given out: more than a look at the history finds, and all that can be late."""


@dataclass(slots=True, eq=False, kw_only=True)
class Followed:
    """An answer that another session has asked for. Instants are monotonic seconds.

    `heard_at`: when the last frame about it came. `is_lost`: the server does not know the request any more, so only the
    history can tell how it ended.
    """

    asked: Asked
    heard_at: float
    assembly: Assembly = field(default_factory=lambda: Assembly(streamed=True))
    is_lost: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class WatchState:
    """Mutable; only `Watches` changes it. `conversation_id` None: the list of conversations.

    `known`: requests that are not to be shown (again), the latest last. `unopened`: requests of which something came,
    and not the frame that opens their answer; they may be of this conversation. `has_begun`: it is settled what is
    older than the watch: `floor`, the newest turn of that time, and all before it. `number`: of the newest `watch` on
    this connection. `is_out`: that is not answered. `was_held`: one was, on any connection. `is_refused`: one was
    since, so what ends may be shown to nobody. `send_at`: when the next one is due; `renew_at`: at the latest.
    `wants_more`: at once after the answer. `settled`: the turns that the history had when it was last read;
    `is_unsettled`: others may have ended unseen since. `pages`, `page_id`, `found`: of the history while it is read;
    `reads_again`: once more after that.
    """

    conversation_id: str | None
    known: dict[str, None]
    has_begun: bool
    floor: str | None
    unopened: dict[str, None] = field(default_factory=dict)
    answers: dict[str, Followed] = field(default_factory=dict)
    number: int = 0
    is_out: bool = False
    was_held: bool = False
    is_refused: bool = False
    send_at: float | None = None
    renew_at: float = 0.0
    pause_s: float = 0.0
    gap_pause_s: float = 0.0
    wants_more: bool = False
    is_unsettled: bool = False
    settled: frozenset[str] = frozenset()
    pages: TurnPages | None = None
    page_id: str = ""
    found: list[Turn] = field(default_factory=list)
    reads_again: bool = False

    @property
    def request_id(self) -> str:
        """Of the newest `watch`."""
        return f"watch-{self.number}"

    def frame(self, number: int, *, off: bool = False) -> Watch:
        """The next `watch`."""
        self.number = number
        held = () if off else (one for one in self.answers.values() if not one.is_lost)
        points = tuple(
            ResumePoint(request_id=one.asked.request_id, attempt=one.assembly.attempt, offset=one.assembly.length)
            for one in held
        )
        return Watch(
            request_id=self.request_id,
            conversation_id=self.conversation_id,
            number=number,
            off=off,
            resume=points[:MAX_RESUME_POINTS],
        )

    def begin(self, floor: str | None) -> None:
        """What is older than the watch is settled: this turn and all before it."""
        self.has_begun = True
        self.floor = floor
        if floor is not None:
            self.know(floor)
            self.settled = frozenset((floor,))

    def know(self, request_id: str) -> None:
        """It is not to be shown (again)."""
        self.unopened.pop(request_id, None)
        remember(request_id, self.known)

    def miss(self, request_id: str) -> None:
        """The frame that opens an answer may be lost: something else of it has come."""
        if self.has_begun:
            remember(request_id, self.unopened)
            self.reads_again = self.pages is not None  # the page on its way may be older than its ending

    def has_found_enough(self) -> bool:
        """Whether the history need not be read further back."""
        ids = {turn.request_id for turn in self.found}
        if len(ids) > MAX_MISSED or (self.pages is not None and self.pages.is_done):
            return True
        if not all(one.asked.request_id in ids for one in self.answers.values() if one.is_lost):
            return False
        return self.floor in ids or (len(ids) >= PAGE and not ids.isdisjoint(self.settled))

    def news(self) -> tuple[list[Turn], bool]:
        """The turns of those found that are not known, newest first, and whether more of them may be missing."""
        ids = [turn.request_id for turn in self.found]
        end, has_more = len(ids), False
        oldest = max((at for at, one in enumerate(ids) if one in self.settled), default=None)
        late = list[Turn]()
        if self.floor in ids:
            end = ids.index(self.floor)
            late = self._late(end, oldest or 0)
        elif self.pages is not None and not self.pages.is_done:
            end = end if oldest is None else oldest
            has_more = oldest is None and ids[-1] not in self.known
        news = [turn for turn in (*self.found[:end], *late) if turn.request_id not in self.known]
        return news[:MAX_MISSED], has_more or len(news) > MAX_MISSED

    def _late(self, floor: int, oldest: int) -> list[Turn]:
        """Of the turns found from the floor on, which stand in the order asked, those that ended after it and unseen.

        Endings are stamped before they are stored, by clocks that differ. So a turn has, too, if something came of it,
        and if the history had an older one when it was last read (up to `oldest`), and not this one.
        """
        settled_at = self.found[floor].answered_at
        return [
            turn
            for at, turn in enumerate(self.found[floor:], floor)
            if turn.answered_at > settled_at
            or turn.request_id in self.unopened
            or (at < oldest and turn.request_id not in self.settled)
        ]


def asked(frame: MessageAsked) -> Asked:
    """A question as the server shows it."""
    return Asked(
        request_id=frame.request_id,
        conversation_id=frame.conversation_id,
        question=frame.question,
        is_cut=frame.question_length is not None,
        model=frame.model,
        replaces=frame.replaces,
        accepted_at=frame.accepted_at,
    )


def asked_in(turn: Turn, conversation_id: str) -> Asked:
    """A question as the history has it."""
    return Asked(
        request_id=turn.request_id,
        conversation_id=conversation_id,
        question=turn.question,
        model=turn.model,
        replaces=turn.replaces,
        accepted_at=turn.asked_at,
    )


def frames_of(turn: Turn, assembly: Assembly) -> list[AnswerFrame]:
    """A stored turn as frames of its answer; of a new attempt, if it does not go on from what there is."""
    attempt = max(1, assembly.attempt) + (not turn.answer.startswith(assembly.content))
    whole = TurnPart(part=0, kind=TEXT, start=0, end=len(turn.answer))
    frames: list[AnswerFrame] = [
        MessageDelta(
            request_id=turn.request_id,
            attempt=attempt,
            offset=part.start,
            delta=turn.answer[part.start : part.end],
            part=part.part,
            kind=part.kind,
            name=part.name,
        )
        for part in turn.parts or (whole,)
        if part.end > part.start
    ]
    error = None
    if turn.status is Status.FAILED:
        code = turn.error_code or ErrorCode.INTERNAL
        error = ErrorBody(code=code, message=ERRORS[code].message, retryable=ERRORS[code].retryable)
    ending = MessageResponse(
        request_id=turn.request_id,
        status=turn.status,
        response=None,
        attempt=attempt,
        length=len(turn.answer),
        model=turn.model,
        usage=turn.usage,
        error=error,
    )
    return [*frames, ending]


def remember(request_id: str, among: dict[str, None]) -> None:
    """As the latest; the oldest of too many are forgotten."""
    among[request_id] = None
    while len(among) > _MAX_KNOWN:
        del among[next(iter(among))]
