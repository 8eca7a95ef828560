"""The one checker of the promises G1 to G7 (GUARANTEE.md) over the history of a run.

It looks from the outside only: what apps asked and saw, what went over their connections, how often the model ran, and
what the stores hold at the end. Chaos, demo and simulation use it; a load test uses `AnswerText` for each answer.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from answerback.core.assembly import AnswerPart
from answerback.core.request import Policy
from answerback.core.transitions import State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageAsked,
    MessageDelta,
    MessageProgress,
    MessageResponse,
    Status,
    Watch,
)
from answerback_proof.answer_text import AnswerText
from answerback_proof.history import (
    ANSWERS,
    Asked,
    Cancelled,
    Cleared,
    Ended,
    Fault,
    ModelRun,
    Promise,
    QuestionShown,
    Result,
    Resumed,
    RunHistory,
    Shown,
    Stored,
    ToApp,
    ToServer,
    Turn,
    TurnsRead,
    Usage,
    Violation,
    WatchLeft,
)
from answerback_proof.history import ViolationKind as Kind

_STATES = {Result.COMPLETED: State.COMPLETED, Result.CANCELLED: State.CANCELLED, Result.FAILED: State.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """What a run can see; what it cannot see is not checked.

    `records`: of every request, its record in the store. `turns`: every turn of the conversations. `runs`: every run
    of the model. `usage`: what the users are said to have used. `ordered`: the frames of a connection are seen in the
    order in which the server sent them. `undisturbed`: nothing is cancelled, and no connection is cut, so that every
    answer comes over its connection once and whole. `deaths`: names of faults after each of which the model may be run
    once more for what was running. `thaws`: a process that was taken for dead may go on, and begin an attempt that it
    had claimed before. `skew_ms`: how far the server's clocks are apart.
    """

    records: bool = True
    turns: bool = True
    runs: bool = True
    usage: bool = False
    ordered: bool = True
    undisturbed: bool = False
    deaths: Set[str] = frozenset()
    thaws: bool = False
    skew_ms: int = 0


class ViolationCounts(NamedTuple):
    """Violations in three numbers, for people. A text that is not the same counts as lost."""

    misrouted: int
    lost: int
    repeated: int

    def __str__(self) -> str:
        return f"{self.misrouted} misrouted, {self.lost} lost, {self.repeated} repeated"


def count(violations: Iterable[Violation]) -> ViolationCounts:
    """How many of each."""
    kinds = Counter(violation.kind for violation in violations)
    misrouted, repeated = kinds[Kind.FOREIGN], kinds[Kind.REPEATED]
    return ViolationCounts(misrouted=misrouted, lost=kinds.total() - misrouted - repeated, repeated=repeated)


def check(history: RunHistory, visible: Visible) -> list[Violation]:
    """Every broken promise of the history, those that were noticed on the way first."""
    facts = _Facts(history, visible)
    return history.noticed + [
        Violation(
            promise=Promise.OWN_ANSWER if kind is Kind.FOREIGN else promise,
            kind=kind,
            request=request,
            detail=detail,
        )
        for promise, rules in _RULES.items()
        for rule in rules
        for kind, request, detail in rule(facts)
    ]


_Found = Iterator[tuple[Kind, str, str]]
"""What a rule finds: what was seen, the request, and the detail."""


E = TypeVar("E", Ended, ModelRun, Turn, Shown | Cleared | Ended)


def _by_request(events: Iterable[E]) -> dict[str, list[E]]:
    found: dict[str, list[E]] = {}
    for event in events:
        found.setdefault(event.request, []).append(event)
    return found


def _without_fenced(
    runs: Iterable[tuple[int, ModelRun]], ended: Mapping[str, Stored], *, behind_ms: int
) -> Iterator[ModelRun]:
    """The runs but those that begin after a newer attempt of their request: what they say goes nowhere.

    A newer attempt may have ended without a run, as one that was cancelled. `behind_ms`: how far the clock that its
    ending has been read from is behind.
    """
    newest: dict[str, int] = {}
    for at_ms, run in runs:
        ending = ended[run.request].record.ending if run.request in ended else None
        is_over = ending is not None and ending.attempt > run.attempt and at_ms >= ending.ended_at_ms + behind_ms
        if run.attempt >= newest.get(run.request, 0) and not is_over:
            newest[run.request] = run.attempt
            yield run


class _Facts:
    """The events of a history by what they are about."""

    def __init__(self, history: RunHistory, visible: Visible) -> None:
        events = [event for _, event in history.events]
        self.visible = visible
        self.history = history
        self.asked = history.asked
        self.accepted = history.accepted
        self.cancelled = {event.request for event in events if isinstance(event, Cancelled)}
        self.watched = history.watched
        self.questions = [event for event in events if isinstance(event, QuestionShown)]
        self.ended = _by_request(event for event in events if isinstance(event, Ended))
        """As anybody has seen it."""
        self.answered = _by_request(
            event for event in events if isinstance(event, Ended) and event.observer not in history.watched
        )
        """As the app has seen it that asked."""
        self.screens = _by_request(event for event in events if isinstance(event, Shown | Cleared | Ended))
        self.wire = [event for event in events if isinstance(event, ToServer | Resumed | ToApp)]
        self.stored = {event.request: event for event in events if isinstance(event, Stored)}
        self.runs = said = [event for event in events if isinstance(event, ModelRun)]
        if visible.thaws:
            timed = [(at_ms, event) for at_ms, event in history.events if isinstance(event, ModelRun)]
            # One that may be fenced, as far as the clocks tell, is held to nothing, and what it said may be shown.
            self.runs = list(_without_fenced(timed, self.stored, behind_ms=-visible.skew_ms))
            said = list(_without_fenced(timed, self.stored, behind_ms=visible.skew_ms))
        self.attempts = {name: [run.attempt for run in runs] for name, runs in _by_request(self.runs).items()}
        self.turns = [event for event in events if isinstance(event, Turn)]
        self.kept_turns = {turn.request for turn in self.turns}
        self.usage = [event.usage for event in events if isinstance(event, Usage)]
        self.deaths = [at for at, e in history.events if isinstance(e, Fault) and e.name in visible.deaths]
        self._said = {name: [run.attempt for run in runs] for name, runs in _by_request(said).items()}
        self._generated = {(run.request, run.attempt): run for run in said if run.text is not None}
        self._owners = {asked.answer: request for request, asked in self.asked.items() if asked.answer}
        self._owners |= {run.text: request for (request, _), run in self._generated.items() if run.text}
        self._owners |= {stored.answer: request for request, stored in self.stored.items() if stored.answer}

    def text(self, request: str, attempt: int) -> str | None:
        """The whole answer of an attempt, if it is known: from the model, the question, or the store."""
        if (generated := self._generated.get((request, attempt))) is not None:
            return generated.text
        if (asked := self.asked.get(request)) is not None and asked.answer is not None:
            return asked.answer
        stored = self.stored.get(request)
        is_whole = stored is not None and stored.record.state is State.COMPLETED and stored.record.attempt == attempt
        return stored.answer if stored is not None and is_whole else None

    def content(self, request: str, attempt: int) -> str | None:
        """All that an attempt said, if it is known: the whole answer with its parts."""
        if (generated := self._generated.get((request, attempt))) is not None and generated.parts:
            return "".join(text for _, _, text in generated.parts)
        asked, stored = self.asked.get(request), self.stored.get(request)
        if asked is None or not asked.parts or not asked.stream:
            return self.text(request, attempt)
        is_whole = stored is not None and stored.record.state is State.COMPLETED and stored.record.attempt == attempt
        return stored.whole if stored is not None and is_whole else None

    def parts(self, request: str, attempt: int) -> tuple[AnswerPart, ...] | None:
        generated = self._generated.get((request, attempt))
        return generated.parts if generated is not None and generated.parts else None

    def kept(self, request: str) -> str | None:
        """The answer as the server keeps it, all parts of it, if it is completed."""
        if (stored := self.stored.get(request)) is not None:
            return stored.whole if stored.record.state is State.COMPLETED else None
        return next((t.turn.answer for t in self.turns if t.request == request and _is_completed(t)), None)

    def begins(self, request: str, text: str, *, is_stored: bool = False) -> bool:
        """Whether this is the beginning of an answer to the request, in any attempt. A store takes nothing fenced."""
        stored = self.stored.get(request)
        said = self.attempts if is_stored else self._said
        attempts = {0, *said.get(request, ()), *(() if stored is None else (stored.record.attempt,))}
        known = [whole for attempt in attempts if (whole := self.text(request, attempt)) is not None]
        return not known or any(whole.startswith(text) for whole in known)

    def wrong(self, request: str, text: str, what: str) -> tuple[Kind, str, str]:
        """That `what` is not the text that it has to be."""
        owner = self._owners.get(text, request)
        if owner != request:
            return Kind.FOREIGN, request, f"{what} is the answer to {owner}"
        return Kind.DIFFERENT, request, f"{what} is not the same: {len(text)} code points, ending {text[-40:]!r}"

    def deaths_during(self, stored: Stored) -> int:
        """How many processes died between the acceptance of a request and its ending."""
        record, skew_ms = stored.record, self.visible.skew_ms
        first_ms = record.accepted_at_ms - skew_ms
        last_ms = float("inf") if record.ending is None else record.ending.ended_at_ms + skew_ms
        return sum(first_ms <= at_ms <= last_ms for at_ms in self.deaths)


def _is_completed(turn: Turn) -> bool:
    return turn.turn.status is Status.COMPLETED


# --- own answer


def _frames_go_to_their_session(facts: _Facts) -> _Found:
    """Answers go to the session that asked and to those of its user that watch the conversation.

    An error may also go to a session that named the request.
    """
    named: set[tuple[str, str]] = set()
    watched: set[tuple[str, str | None]] = set()
    users = {one.session: one.user for one in facts.asked.values()}
    users |= {one.session: one.user for one in facts.watched.values()}
    for event in facts.wire:
        if not isinstance(event, ToApp):
            named.add((event.session, event.request))
            if isinstance(event, ToServer) and isinstance(event.frame, Watch):
                watched.add((event.session, event.frame.conversation_id))
        elif event.request and isinstance(event.frame, (*ANSWERS, MessageAsked, MessageProgress, Error)):
            asked = facts.asked.get(event.request)
            if asked is not None and asked.session == event.session:
                if isinstance(event.frame, MessageAsked):
                    yield Kind.REPEATED, event.request, f"session {event.session} was told what it has asked"
                continue
            is_watched = asked is not None and (event.session, asked.conversation) in watched
            if is_watched and asked is not None and users.get(event.session, asked.user) == asked.user:
                continue
            if not isinstance(event.frame, Error) or (event.session, event.request) not in named:
                owner = "nobody" if asked is None else f"session {asked.session}"
                detail = f"{type(event.frame).__name__} about a request of {owner} went to {event.session}"
                yield Kind.FOREIGN, event.request, detail


def _everything_was_asked(facts: _Facts) -> _Found:
    for run in facts.runs:
        if run.request not in facts.asked:
            yield Kind.FOREIGN, run.request, "the model was run for a question that nobody asked"
    for turn in facts.turns:
        if turn.request not in facts.asked or facts.asked[turn.request].user != turn.user:
            yield Kind.FOREIGN, turn.request, f"a turn that user {turn.user} never asked for"
    for request, stored in facts.stored.items():
        if request in facts.asked and facts.asked[request].session != stored.record.session_id:
            yield Kind.FOREIGN, request, f"its record belongs to session {stored.record.session_id}"


def _questions_of_others(facts: _Facts) -> _Found:
    """Who watches is shown what another session of its user has asked in this conversation, once."""
    for shown in facts.questions:
        watch, asked = facts.watched.get(shown.observer), facts.asked.get(shown.request)
        is_own = watch is not None and asked is not None and asked.user == watch.user
        if watch is None or asked is None or not is_own or asked.conversation != watch.conversation:
            yield Kind.FOREIGN, shown.request, f"{shown.observer} was shown a question of somewhere else"
        elif shown.question != asked.text and not (shown.is_cut and asked.text.startswith(shown.question)):
            yield Kind.DIFFERENT, shown.request, f"{shown.observer} was shown another question"
    for (observer, request), times in Counter((one.observer, one.request) for one in facts.questions).items():
        if times > 1:
            yield Kind.REPEATED, request, f"{observer} was shown the question {times} times"


# --- one ending


def _one_ending(facts: _Facts) -> _Found:
    """Each observer sees one ending, all see the same, and the server sends no other."""
    for request, endings in facts.ended.items():
        for observer, times in Counter(ending.observer for ending in endings).items():
            if times > 1:
                yield Kind.REPEATED, request, f"{observer} saw {times} endings"
        served = {_essence(ending) for ending in endings if ending.result is not Result.TIMED_OUT}
        own = facts.answered.get(request, ())
        attempts = {ending.attempt for ending in own if ending.result is Result.COMPLETED} - {0}
        if len(served) > 1 or len(attempts) > 1:
            detail = f"it ended in several ways: {sorted(served)}, in the attempts {sorted(attempts)}"
            yield Kind.REPEATED, request, detail
    sent: defaultdict[str, set[tuple[str, int, int]]] = defaultdict(set)
    for event in facts.wire:
        if isinstance(event, ToApp) and isinstance(event.frame, MessageResponse):
            sent[event.request].add((event.frame.status.value, event.frame.attempt, event.frame.length))
    for request, several in sent.items():
        if len(several) > 1:
            yield Kind.REPEATED, request, f"the server sent several endings: {sorted(several)}"


def _essence(ending: Ended) -> tuple[str, str, str]:
    """What two observers must see alike. A text that broke off may have come further on one screen."""
    return (ending.result, ending.code, ending.text if ending.result is Result.COMPLETED else "")


def _stored_as_seen(facts: _Facts) -> _Found:
    """The ending that an app saw is the stored one."""
    for request, endings in facts.ended.items():
        stored = facts.stored.get(request)
        if stored is None:
            continue
        record, ending = stored.record, stored.record.ending
        for seen in endings:
            if seen.result is Result.TIMED_OUT:
                continue
            if ending is None or record.state is not _STATES[seen.result]:
                detail = f"its app saw {seen.result} {seen.code}, the store has {record.state}"
                yield Kind.DIFFERENT, request, detail
            elif seen.code and seen.code != ending.error_code:
                yield Kind.DIFFERENT, request, f"its app saw {seen.code}, the store has {ending.error_code}"


def _one_turn(facts: _Facts) -> _Found:
    """Every accepted request that has ended has one turn with that ending; nothing else has one."""
    if not facts.visible.turns:
        return
    found = _by_request(facts.turns)
    for request, turns in found.items():
        stored, turn = facts.stored.get(request), turns[0].turn
        ending = None if stored is None else stored.record.ending
        if len(turns) > 1:
            yield Kind.REPEATED, request, f"it has {len(turns)} turns in its conversation"
        if facts.visible.records and (stored is None or ending is None or not stored.has_question):
            yield Kind.FOREIGN, request, "a turn of a request that was not accepted, or has not ended"
        if ending is not None:
            has = (turn.status, turn.error_code, turn.input_tokens, turn.output_tokens)
            expected = (ending.status, ending.error_code, ending.input_tokens, ending.output_tokens)
            if has != expected:
                yield Kind.DIFFERENT, request, f"its turn has {has}, its record {expected}"
    for request, stored in facts.stored.items():
        is_kept = stored.has_question or stored.record.state is State.COMPLETED
        if stored.record.ending is not None and is_kept and request not in found:
            yield Kind.LOST, request, f"{stored.record.state}, and not in its conversation"
    for request, endings in facts.ended.items():
        is_completed = any(ending.result is Result.COMPLETED for ending in endings)
        if not facts.visible.records and is_completed and request not in found:
            yield Kind.LOST, request, "it was completed, and is not in its conversation"


# --- exact text


def _sent_text(facts: _Facts) -> _Found:
    """What goes over the wire is a part of the answer."""
    for event in facts.wire:
        if not isinstance(event, ToApp):
            continue
        match event.frame:
            case MessageDelta(attempt=attempt, offset=offset, delta=delta):
                whole = facts.content(event.request, attempt)
                if whole is not None and not whole.startswith(delta, offset):
                    detail = f"text at {offset} of attempt {attempt} on the wire is not its own"
                    yield Kind.FOREIGN, event.request, detail
            case MessageResponse(status=Status.COMPLETED, attempt=attempt, response=response, length=length):
                whole = facts.content(event.request, attempt)
                if whole is not None and response not in (None, whole):
                    yield facts.wrong(event.request, response or "", "the response on the wire")
                elif whole is not None and length != len(whole):
                    yield Kind.DIFFERENT, event.request, f"its ending says {length} code points, it has {len(whole)}"
            case _:
                pass


def _no_gaps(facts: _Facts) -> _Found:
    """On one connection text goes on where it was, or where the app said that it has it.

    It need not be whole at its ending: a cancellation that comes too late is answered with the ending alone.
    """
    reached: Counter[tuple[str, str, int]] = Counter()
    resumed: set[tuple[str, str, int, int]] = set()
    for event in facts.wire if facts.visible.ordered else ():
        match event:
            case Resumed():
                resumed.add((event.connection, event.request, event.attempt, event.offset))
            case ToApp(frame=MessageDelta(attempt=attempt, offset=offset, delta=delta)):
                place = (event.connection, event.request, attempt)
                if offset > reached[place] and (*place, offset) not in resumed:
                    detail = f"on {event.connection} text of attempt {attempt} at {offset} follows {reached[place]}"
                    yield Kind.LOST, event.request, detail
                reached[place] = max(reached[place], offset + len(delta))
            case _:
                pass


def _whole_on_the_wire(facts: _Facts) -> _Found:
    """Each answer comes over its connection once, in order, and whole."""
    texts: defaultdict[tuple[str, str], AnswerText] = defaultdict(AnswerText)
    for event in facts.wire if facts.visible.undisturbed else ():
        if not isinstance(event, ToApp):
            continue
        text, flaw = texts[event.connection, event.request], None
        match event.frame:
            case MessageDelta(attempt=attempt, offset=offset, delta=delta, part=part, kind=kind, name=name):
                flaw = text.add(attempt, offset, delta, part=part, kind=kind, name=name)
            case MessageResponse(attempt=attempt, length=length, response=response):
                flaw = text.end(attempt, length, response)
                kept = facts.kept(event.request)
                if event.frame.status is Status.COMPLETED and kept is not None and text.text != kept:
                    yield facts.wrong(event.request, text.text, "what went over the wire")
            case _:
                pass
        if flaw is not None and flaw.kind is not Kind.DISORDERED:  # a client ignores the text of an older attempt
            yield flaw.kind, event.request, f"on {event.connection} {flaw.detail}"


def _shown_text(facts: _Facts) -> _Found:
    """Each screen shows at any moment the beginning of one attempt's answer, and what it ends with at the end."""
    for request, steps in facts.screens.items():
        screens: dict[str, str] = {}
        for step in steps:
            before = screens.get(step.observer, "")
            match step:
                case Cleared():
                    screens[step.observer] = ""
                case Shown(offset=offset, delta=delta):
                    text = screens[step.observer] = before + delta
                    if offset != len(before):
                        yield Kind.DIFFERENT, request, f"{step.observer} showed text at {offset} after {len(before)}"
                    if not facts.begins(request, text):
                        yield Kind.DIFFERENT, request, f"{step.observer} showed {text!r}"
                        break
                case Ended(result=Result.COMPLETED, text=text) if before not in ("", text):
                    yield Kind.DIFFERENT, request, f"what {step.observer} showed while it came is not the answer"
                case Ended():
                    pass


def _answers(facts: _Facts) -> _Found:
    """The answer at the app is the model's, the stored one, and that of the turn."""
    turns = {turn.request: turn.turn for turn in facts.turns}
    for request, endings in facts.ended.items():
        stored, turn, asked = facts.stored.get(request), turns.get(request), facts.asked.get(request)
        for seen in endings:
            is_whole, is_watcher = seen.result is Result.COMPLETED, seen.observer in facts.watched
            if is_whole and facts.text(request, 0 if is_watcher else seen.attempt) not in (None, seen.text):
                yield facts.wrong(request, seen.text, "what its app got")
            if is_whole and turn is not None and turn.visible != seen.text:
                yield facts.wrong(request, seen.text, "what its app got, beside its turn,")
            if stored is None or stored.record.ending is None or seen.result is Result.TIMED_OUT:
                continue
            # A turn of the history does not say which attempt it was: who watches counts from those that it has seen.
            is_newer = seen.attempt > stored.record.ending.attempt
            if is_newer or (not is_watcher and seen.attempt not in (0, stored.record.ending.attempt)):
                detail = f"its app saw attempt {seen.attempt}, the store has {stored.record.ending.attempt}"
                yield Kind.DIFFERENT, request, detail
            is_streamed = asked is not None and asked.stream
            if seen.text != stored.answer and (seen.text or is_streamed or is_whole):
                yield facts.wrong(request, seen.text, "what its app got, beside the stored answer,")
            if is_streamed and seen.attempt and seen.parts != stored.parts:
                yield Kind.DIFFERENT, request, f"its app has the parts {seen.parts}, the store {stored.parts}"


def _stored_text(facts: _Facts) -> _Found:
    """What is stored is the answer, or the beginning of it, and as long as its ending says."""
    for request, stored in facts.stored.items():
        record, ending = stored.record, stored.record.ending
        is_whole = record.state is State.COMPLETED
        if not facts.begins(request, stored.answer, is_stored=True) or (
            is_whole and facts.text(request, record.attempt) not in (None, stored.answer)
        ):
            yield facts.wrong(request, stored.answer, "the stored answer")
        if is_whole and facts.parts(request, record.attempt) not in (None, stored.parts):
            yield Kind.DIFFERENT, request, f"the store has the parts {stored.parts}"
        if ending is not None and ending.length != len(stored.whole):
            detail = f"the store says {ending.length} code points, and has {len(stored.whole)}"
            yield Kind.DIFFERENT, request, detail
    for turn in facts.turns:
        asked, kept = facts.asked.get(turn.request), facts.stored.get(turn.request)
        if asked is not None and turn.turn.question != asked.text:
            yield Kind.DIFFERENT, turn.request, "its turn has another question"
        if kept is not None and turn.turn.answer != kept.whole:
            yield facts.wrong(turn.request, turn.turn.answer, "the answer of its turn")


# --- order


def _order(facts: _Facts) -> _Found:
    """Questions of one app in one conversation are begun, and kept, in the order asked."""
    numbers = {request: number for number, request in enumerate(facts.asked)}
    # A turn without a conversation is in one that others of the user may have, too.
    kept = [turn.request for turn in facts.turns if _has_conversation(facts, turn.request)]
    for what, requests in (("begun", [run.request for run in facts.runs]), ("kept", kept)):
        last: dict[tuple[str, str | None], str] = {}
        for request in requests:
            if (asked := facts.asked.get(request)) is None:
                continue
            before = last.get((asked.session, asked.conversation), request)
            if numbers[request] < numbers[before]:
                yield Kind.DISORDERED, request, f"it was asked before {before} and {what} after it"
            else:
                last[asked.session, asked.conversation] = request


def _has_conversation(facts: _Facts, request: str) -> bool:
    return request in facts.asked and facts.asked[request].conversation is not None


# --- accepted means answered


def _answered(facts: _Facts) -> _Found:
    """Every question has an ending at its app, and every accepted one has it in the store."""
    for request, asked in facts.asked.items():
        seen = {ending.result for ending in facts.answered.get(request, ())}
        if not seen:
            yield Kind.LOST, request, "its app saw no ending"
        if Result.TIMED_OUT in seen and not asked.may_time_out:
            yield Kind.LOST, request, "its app's client gave up waiting"
        is_served = request in facts.accepted or seen & {Result.COMPLETED, Result.FAILED}
        if facts.visible.records and request not in facts.stored and is_served:
            yield Kind.LOST, request, f"the store has no record; its app saw {', '.join(sorted(seen))}"
    for request, stored in facts.stored.items():
        ending = stored.record.ending
        if ending is None:
            yield Kind.LOST, request, f"it has no ending in the store: {stored.record.state}"
        elif ending.error_code is ErrorCode.INTERNAL and facts.visible.deaths:
            deaths = facts.deaths_during(stored)
            if deaths < Policy().max_attempts:
                yield Kind.LOST, request, f"it was given up after the deaths of {deaths} processes"


def _watched(facts: _Facts) -> _Found:
    """Who watches and stays has each turn that others ask there: live, to its ending, or in the history that it read.

    The history is read once the server has said that the session watches.
    """
    for observer, request in owed_to_watchers(facts.history, facts.kept_turns):
        yield Kind.LOST, request, f"{observer} watches, and has not seen its ending"
    for request, endings in facts.ended.items():
        for ending in endings:
            if ending.observer in facts.watched and ending.result is Result.TIMED_OUT:
                yield Kind.LOST, request, f"{ending.observer} gave up waiting for its ending"


def owed_to_watchers(history: RunHistory, kept: Set[str]) -> list[tuple[str, str]]:
    """Who watches and stays, and has not yet been shown which of the turns `kept`, or how what it was shown ended."""
    staying = dict(history.watched)
    owed: set[tuple[str, str]] = set()
    had: set[tuple[str, str]] = set()
    for _, event in history.events:
        match event:
            case WatchLeft(observer=observer):
                staying.pop(observer, None)
            case QuestionShown(observer=observer, request=request):
                owed.add((observer, request))
            case Ended(observer=observer, request=request) if observer in history.watched:
                had.add((observer, request))
            case TurnsRead(observer=observer, requests=requests):
                had.update((observer, request) for request in requests)
            case _:
                pass
    there: defaultdict[tuple[str, str | None], list[Asked]] = defaultdict(list)
    for request in kept & history.asked.keys():
        asked = history.asked[request]
        there[asked.user, asked.conversation].append(asked)
    for observer, watch in staying.items():
        asked_there = there[watch.user, watch.conversation]
        owed.update((observer, asked.request) for asked in asked_there if asked.session != watch.session)
    return sorted((observer, request) for observer, request in owed - had if observer in staying)


# --- explicit cancellation only


def _cancelled_on_request(facts: _Facts) -> _Found:
    """Only what its user cancelled, or its app's client gave up, is cancelled."""
    for request in (facts.ended.keys() | facts.stored.keys()) - facts.cancelled:
        seen = {ending.result for ending in facts.ended.get(request, ())}
        stored = facts.stored.get(request)
        is_stored = stored is not None and stored.record.state is State.CANCELLED
        has_given_up = Result.TIMED_OUT in seen
        own = {ending.result for ending in facts.answered.get(request, ())}
        if Result.CANCELLED in (own if has_given_up else seen) or (is_stored and not has_given_up):
            yield Kind.DIFFERENT, request, "it was cancelled by nobody"


# --- at most one model run


def _one_run(facts: _Facts) -> _Found:
    """The model runs an attempt once, and another attempt only after the death of a process."""
    if not facts.visible.runs:
        return
    for request, attempts in facts.attempts.items():
        if len(set(attempts)) < len(attempts):
            yield Kind.REPEATED, request, f"the model was run twice for one attempt: {attempts}"
        if attempts != sorted(attempts):
            yield Kind.REPEATED, request, f"an older attempt was run after a newer one: {attempts}"
    for request, stored in facts.stored.items():
        record, attempts = stored.record, facts.attempts.get(request, [])
        if record.ending is not None and max(attempts, default=0) > record.ending.attempt:
            yield Kind.REPEATED, request, f"the model was run again after its ending: {attempts}"
        if record.ending is not None and len(attempts) > 1 + facts.deaths_during(stored):
            detail = f"{len(attempts)} runs of the model, though {facts.deaths_during(stored)} processes died meanwhile"
            yield Kind.REPEATED, request, detail
        if record.state is State.COMPLETED and record.attempt not in attempts:
            yield Kind.FOREIGN, request, "it was completed without a run of the model"
        if record.state is State.COMPLETED and record.attempt > 1 and not facts.deaths:
            yield Kind.REPEATED, request, f"it took {record.attempt} attempts, and no process died"


def _usage(facts: _Facts) -> _Found:
    """What users are said to have used is what their turns add up to."""
    used: Counter[tuple[str, str]] = Counter()
    for turn in facts.turns:
        used[turn.user, "requests"] += 1
        used[turn.user, "tokens in"] += turn.turn.input_tokens or 0
        used[turn.user, "tokens out"] += turn.turn.output_tokens or 0
    counted: Counter[tuple[str, str]] = Counter()
    for day in facts.usage:
        counted[day.user_id, "requests"] += day.requests
        counted[day.user_id, "tokens in"] += day.input_tokens
        counted[day.user_id, "tokens out"] += day.output_tokens
    for user, what in sorted(used.keys() | counted.keys()) if facts.visible.usage else ():
        if used[user, what] != counted[user, what]:
            yield (
                Kind.DIFFERENT,
                "",
                f"{user} is said to have used {counted[user, what]} {what}, not {used[user, what]}",
            )


_RULES: dict[Promise, tuple[Callable[[_Facts], _Found], ...]] = {
    Promise.OWN_ANSWER: (_frames_go_to_their_session, _everything_was_asked, _questions_of_others),
    Promise.ONE_ENDING: (_one_ending, _stored_as_seen, _one_turn),
    Promise.EXACT_TEXT: (_sent_text, _no_gaps, _whole_on_the_wire, _shown_text, _answers, _stored_text),
    Promise.ORDER: (_order,),
    Promise.ANSWERED: (_answered, _watched),
    Promise.EXPLICIT_CANCELLATION: (_cancelled_on_request,),
    Promise.ONE_RUN: (_one_run, _usage),
}
