"""One question and its answer, as the client's session keeps it."""

from dataclasses import dataclass
from enum import StrEnum

from answerback.client.events import Answer
from answerback.client.outbox import PendingRequest
from answerback.core.assembly import Assembly
from answerback.core.keys import normal_id
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ResumePoint, SendMessage, Status


class Phase(StrEnum):
    """How far the question has got, as far as the client knows."""

    WAITING = "waiting"
    SENT = "sent"
    ACCEPTED = "accepted"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """When the client gives a question up. `total_s` runs from the call.

    `silence_s` is the longest time without a frame about it. It runs only while connected and after the answer has
    started; `from_call`: from the call on, connected or not. It begins again only where signs of life come.
    """

    total_s: float
    silence_s: float | None = None
    from_call: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """Mutable; only `Session` and its `Questions` change it. Instants are monotonic seconds; None: not due.

    `deadline`: give up. `silent_at`: give up, because nothing was heard of it. `probe_at`: ask the server about
    it. `resume_at`: ask it for missing text. `resend_at`: not to be sent again before. `hello_id`: the `hello` that is
    out for it (at most one). `refusal`: why the server could not take it when it last spoke of it. `is_held`: its files
    are not at the server, so neither it nor what comes after it in its order is sent; `brought`: how often they were.
    """

    frame: SendMessage
    timeouts: Timeouts
    deadline: float
    assembly: Assembly
    phase: Phase = Phase.WAITING
    was_sent: bool = False
    is_cancelled: bool = False
    conversation_id: str | None = None
    silent_at: float | None = None
    probe_at: float | None = None
    probe_pause_s: float = 0.0
    gap_pause_s: float = 0.0
    resume_at: float | None = None
    resend_at: float | None = None
    hello_id: str | None = None
    wants_resume: bool = False
    refusal: ErrorCode | None = None
    is_held: bool = False
    brought: int = 0

    @property
    def request_id(self) -> str:
        """Its name."""
        return self.frame.request_id

    @property
    def key(self) -> str | None:
        """Its ordering key inside the user: the conversation it names, else none."""
        return None if self.frame.conversation_id is None else normal_id(self.frame.conversation_id)

    @property
    def resume_point(self) -> ResumePoint:
        """What the client holds of it."""
        return ResumePoint(request_id=self.request_id, attempt=self.assembly.attempt, offset=self.assembly.length)

    @property
    def pending(self) -> PendingRequest:
        """What has to be kept of it."""
        return PendingRequest(
            frame=self.frame, is_accepted=self.phase is Phase.ACCEPTED, conversation_id=self.conversation_id
        )

    @property
    def so_far(self) -> Answer:
        """What there is of the answer to a question that ends here and not at the server."""
        return Answer(
            text=self.assembly.text,
            parts=self.assembly.parts,
            request_id=self.request_id,
            status=Status.CANCELLED,
            attempt=self.assembly.attempt,
            conversation_id=self.conversation_id,
        )

    @property
    def gives_up_at(self) -> float:
        """When it ends as a time-out, if nothing more is heard of it."""
        return self.deadline if self.silent_at is None else min(self.deadline, self.silent_at)

    def due_at(self) -> float:
        """The first instant at which something is to be done about it."""
        due = self.gives_up_at
        for instant in (self.probe_at, self.resume_at, self.resend_at):
            if instant is not None and instant < due:
                due = instant
        return due
