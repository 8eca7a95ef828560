"""The history of a run: everything that was asked, sent, shown, run and stored, in the order in which it was seen.

A history as Jepsen has it. Apps, proxies, models and fault injectors add events while a run goes on, and what the
stores hold is added at its end. `answerback_proof.checker` then says which promises the history breaks.

Each event about a request names it by `request`: its id, or a longer name where ids alone are not unique in the run.
"""

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from answerback.clock import epoch_ms
from answerback.core.assembly import AnswerPart
from answerback.core.parts import Content, stretches, visible
from answerback.core.request import Question, Record, RequestKey
from answerback.ports import DailyUsage, History, Requests, StoredTurn
from answerback.protocol.frames import (
    ClientFrame,
    Hello,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    ServerFrame,
    Watch,
)

_PAGE = 200
ANSWERS = (MessageAccepted, MessageStarted, MessageDelta, MessageResponse)
"""Frames about one accepted request."""


class Promise(StrEnum):
    """The promises of GUARANTEE.md."""

    OWN_ANSWER = "G1"
    ONE_ENDING = "G2"
    EXACT_TEXT = "G3"
    ORDER = "G4"
    ANSWERED = "G5"
    EXPLICIT_CANCELLATION = "G6"
    ONE_RUN = "G7"


class ViolationKind(StrEnum):
    """What was seen that must not happen: the columns of a report."""

    LOST = "lost"
    REPEATED = "repeated"
    FOREIGN = "foreign"
    DIFFERENT = "different"
    DISORDERED = "disordered"
    BROKEN = "broken"


class Result(StrEnum):
    """How a request ended for its app. TIMED_OUT: the app's own client gave up."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed out"


def parts_in(content: Content) -> tuple[AnswerPart, ...]:
    """What an answer is made of; nothing if that is text alone."""
    text, marks = content
    found = stretches(marks, 0, len(text))
    return tuple(AnswerPart(one.mark.kind, one.mark.name, text[one.start : one.end]) for one in found)


# --- events


class Event(Struct, frozen=True, kw_only=True):
    """What a history has. A Violation is an event where its writer sees it happen."""


class _AboutRequest(Event, frozen=True, kw_only=True):
    request: str


class _OnConnection(_AboutRequest, frozen=True, kw_only=True):
    connection: str
    session: str


class Asked(_AboutRequest, frozen=True, kw_only=True):
    """An app asks. `text`: the question. `answer`: the whole answer, where the model is known to echo.

    `parts`: the kinds of parts that it wants besides. `may_time_out`: the app's client gives up after a while.
    """

    user: str
    session: str
    conversation: str | None
    text: str
    answer: str | None = None
    stream: bool = True
    parts: tuple[str, ...] = ()
    may_time_out: bool = False


class Cancelled(_AboutRequest, frozen=True, kw_only=True):
    """A user cancels."""


class Shown(_AboutRequest, frozen=True, kw_only=True):
    """An app adds a piece of the answer to its screen. `observer`: which run of the app."""

    observer: str
    offset: int
    delta: str


class Cleared(_AboutRequest, frozen=True, kw_only=True):
    """An app takes the answer off its screen: another attempt begins."""

    observer: str


class WatchBegun(Event, frozen=True, kw_only=True):
    """An app watches a conversation from now on; the server has said so. What it sees of it has this `observer`."""

    observer: str
    user: str
    session: str
    conversation: str


class WatchLeft(Event, frozen=True, kw_only=True):
    """It watches no longer: its user has left the conversation, or its program has ended."""

    observer: str


class TurnsRead(Event, frozen=True, kw_only=True):
    """An app that watches has read the history: these turns are there."""

    observer: str
    requests: tuple[str, ...]


class QuestionShown(_AboutRequest, frozen=True, kw_only=True):
    """An app that watches adds a question that another session has asked to its screen."""

    observer: str
    conversation: str
    question: str
    is_cut: bool = False


class Ended(_AboutRequest, frozen=True, kw_only=True):
    """An app sees the end of a request. `attempt` 0: the ending does not say. `code`: of a failure."""

    observer: str
    result: Result
    text: str = ""
    attempt: int = 0
    code: str = ""
    parts: tuple[AnswerPart, ...] = ()


class ToServer(_OnConnection, frozen=True, kw_only=True):
    """A frame about a request arrives at the server."""

    frame: ClientFrame


class Resumed(_OnConnection, frozen=True, kw_only=True):
    """A `hello` or `watch` arrives at the server and says that its app has `offset` code points of an attempt."""

    attempt: int
    offset: int


class ToApp(_OnConnection, frozen=True, kw_only=True):
    """A frame leaves the server. `request` is '' if the frame is about none."""

    frame: ServerFrame | None


class ModelRun(_AboutRequest, frozen=True, kw_only=True):
    """The model begins an attempt. `text`: all of the answer that it says in it, if that is known before.

    `parts`: all that it says in it of the kinds that the app wants, if that is more than the text.
    """

    attempt: int
    text: str | None = None
    parts: tuple[AnswerPart, ...] = ()


class Fault(Event, frozen=True, kw_only=True):
    """A fault is injected."""

    name: str


class Stored(_AboutRequest, frozen=True, kw_only=True):
    """What the store has of a request at the end. `has_question`: it was accepted, and not refused.

    `answer` is the text for the person, `content` all that was said, if that is more, and `parts` what it is made of.
    """

    record: Record
    answer: str
    has_question: bool
    content: str | None = None
    parts: tuple[AnswerPart, ...] = ()

    @classmethod
    def of(cls, record: Record, content: Content, *, has_question: bool, prefix: str = "") -> "Stored":
        """The request whose record this is."""
        return cls(
            request=prefix + record.request_id,
            record=record,
            answer=visible(content),
            content=content.text,
            parts=parts_in(content),
            has_question=has_question,
        )

    @property
    def whole(self) -> str:
        """All that was said."""
        return self.answer if self.content is None else self.content


class Turn(_AboutRequest, frozen=True, kw_only=True):
    """A turn of a conversation at the end; the turns of a conversation are added oldest first."""

    user: str
    turn: StoredTurn


class Usage(Event, frozen=True, kw_only=True):
    """What a user is said to have used on one day."""

    usage: DailyUsage


class Violation(Event, frozen=True, kw_only=True):
    """A broken promise. `promise` is '' for what is wrong and breaks none; `request` is '' if it is about none."""

    promise: str
    kind: ViolationKind
    request: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise or self.kind}: {self.request}{': ' if self.request else ''}{self.detail}"


def broken(promise: str, detail: str, *, request: str = "") -> Violation:
    """A violation of a promise, or of another invariant, that was seen inside of a run."""
    return Violation(promise=promise, kind=ViolationKind.BROKEN, request=request, detail=detail)


class RunHistory:
    """An append-only list of events, each with its instant in milliseconds by `clock`.

    `asked`, `accepted`, `ended` (for who asked), `watched` (all observers that watch), `faults` and `noticed` are kept
    beside it, for a run that looks while it goes on.
    """

    def __init__(self, clock: Callable[[], int] = epoch_ms) -> None:
        self._clock = clock
        self.events: list[tuple[int, Event]] = []
        self.asked: dict[str, Asked] = {}
        self.accepted: set[str] = set()
        self.ended: set[str] = set()
        self.watched: dict[str, WatchBegun] = {}
        self.faults: Counter[str] = Counter()
        self.noticed: list[Violation] = []

    def add(self, event: Event) -> None:
        """This happens now."""
        self.events.append((self._clock(), event))
        match event:
            case ToApp(request=request, frame=frame):
                if isinstance(frame, ANSWERS):
                    self.accepted.add(request)
            case Asked(request=request):
                self.asked[request] = event
            case WatchBegun(observer=observer):
                self.watched[observer] = event
            case Ended(request=request, observer=observer) if observer not in self.watched:
                self.ended.add(request)
            case Fault(name=name):
                self.faults[name] += 1
            case Violation():
                self.noticed.append(event)
            case _:
                pass

    def broke(self, detail: str, *, request: str = "") -> None:
        """Something went wrong that is no promise of its own, as an error in a log."""
        self.add(broken("", detail, request=request))

    @property
    def pending(self) -> int:
        return len(self.asked.keys() - self.ended)

    def add_from_app(self, frame: ClientFrame | None, *, connection: str, session: str, prefix: str = "") -> None:
        """A frame arrives at the server. `prefix`: what the names of the user's requests have before their ids."""
        for point in frame.resume if isinstance(frame, Hello | Watch) else ():
            told = {"attempt": point.attempt, "offset": point.offset}
            self.add(Resumed(connection=connection, session=session, request=prefix + point.request_id, **told))
        if frame is not None and (request_id := getattr(frame, "request_id", None)):
            self.add(ToServer(connection=connection, session=session, request=prefix + request_id, frame=frame))

    def add_to_app(self, frame: ServerFrame | None, *, connection: str, session: str, prefix: str = "") -> None:
        """A frame leaves the server."""
        request_id = getattr(frame, "request_id", None)
        request = prefix + request_id if request_id else ""
        self.add(ToApp(connection=connection, session=session, request=request, frame=frame))

    def records(self) -> dict[str, Record]:
        return {event.request: event.record for _, event in self.events if isinstance(event, Stored)}


async def add_stores(history: RunHistory, requests: Requests, turns: History) -> None:
    """Add what the stores hold of everything asked, whose request ids are the names of the requests.

    Raises: Unavailable: a store cannot be read.
    """
    users = sorted({asked.user for asked in history.asked.values()})
    found: dict[str, Record] = {}
    for asked in history.asked.values():
        if (record := await requests.read(RequestKey(asked.user, asked.request))) is not None:
            found[asked.request] = record
    for record in await requests.unfinished():
        if record.user_id in users:  # the database need not be only ours
            found.setdefault(record.request_id, record)
    for record in found.values():
        question: Question | None = await requests.question(record.key)
        history.add(Stored.of(record, await requests.answer(record.key), has_question=question is not None))
    for user in users:
        for conversation_id in await _conversations(turns, user):
            for turn in await _turns(turns, user, conversation_id):
                history.add(Turn(request=turn.request_id, user=user, turn=turn))


async def _conversations(history: History, user: str) -> list[str]:
    found: list[str] = []
    before: tuple[int, str] | None = None
    while page := await history.conversations(user, before=before, limit=_PAGE):
        found += (conversation.conversation_id for conversation in page)
        before = (page[-1].updated_at_ms, page[-1].conversation_id)
    return found


async def _turns(history: History, user: str, conversation_id: str) -> list[StoredTurn]:
    found: list[StoredTurn] = []
    before: int | None = None
    while page := await history.turns(user, conversation_id, before=before, limit=_PAGE):
        found += page
        before = page[-1].position
    return found[::-1]
