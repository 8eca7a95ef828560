"""The one checker of the promises G1 to G7 (GUARANTEE.md) over the history of a run.

It looks from the outside only: what apps asked and saw, what went over their connections, how often the model ran, and
what the stores hold at the end. Load test, chaos, demo and simulation all use it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import NamedTuple

from answerback.core.request import Policy, Record, State
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Error,
    MessageDelta,
    MessageResponse,
    Status,
)
from answerback_proof.history import (
    ANSWERS,
    Asked,
    Cancelled,
    Cleared,
    Ended,
    Fault,
    History,
    Kind,
    ModelRun,
    Promise,
    Result,
    Resumed,
    Shown,
    Stored,
    ToApp,
    ToServer,
    Turn,
    Usage,
    Violation,
)

_STATES = {Result.COMPLETED: State.COMPLETED, Result.CANCELLED: State.CANCELLED, Result.FAILED: State.FAILED}
_Place = tuple[str, str, int]
"""Connection, request, attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """What a run can see; what it cannot see is not checked.

    `records`: of every request, its record in the store. `turns`: every turn of the conversations. `runs`: every run
    of the model. `usage`: what the users are said to have used. `ordered`: the frames of a connection are seen in the
    order in which the server sent them. `undisturbed`: nothing is cancelled, and no connection is cut, so that every
    answer comes over its connection once and whole. `deaths`: names of faults after each of which the model may be run
    once more for what was running. `skew_ms`: how far the server's clocks are apart.
    """

    records: bool = True
    turns: bool = True
    runs: bool = True
    usage: bool = False
    ordered: bool = True
    undisturbed: bool = False
    deaths: Set[str] = frozenset()
    skew_ms: int = 0


class Counts(NamedTuple):
    """Violations in three numbers, for people. A text that is not the same counts as lost."""

    misrouted: int
    lost: int
    repeated: int

    def __str__(self) -> str:
        return f"{self.misrouted} misrouted, {self.lost} lost, {self.repeated} repeated"


def count(violations: Iterable[Violation]) -> Counts:
    """How many of each."""
    kinds = Counter(violation.kind for violation in violations)
    misrouted, repeated = kinds[Kind.FOREIGN], kinds[Kind.REPEATED]
    return Counts(misrouted=misrouted, lost=kinds.total() - misrouted - repeated, repeated=repeated)


def check(history: History, visible: Visible) -> list[Violation]:
    """Every broken promise of the history, those that were noticed on the way first."""
    facts = _Facts(history)
    return [
        *history.noticed,
        *_own_answer(facts),
        *_one_ending(facts),
        *_exact_text(facts, visible),
        *_order(facts),
        *_accepted_means_answered(facts, visible),
        *_explicit_cancellation_only(facts),
        *_one_run(facts, visible),
        *(_stored_is_shown(facts) if visible.records else ()),
        *(_turns(facts, visible) if visible.turns else ()),
        *(_usage(facts) if visible.usage else ()),
    ]


class _Facts:
    """The events of a history by what they are about."""

    def __init__(self, history: History) -> None:
        self.asked = history.asked
        self.accepted = history.accepted
        self.cancelled: set[str] = set()
        self.ended: defaultdict[str, list[Ended]] = defaultdict(list)
        self.screens: defaultdict[str, list[Shown | Cleared | Ended]] = defaultdict(list)
        self.wire: list[ToServer | Resumed | ToApp] = []
        self.runs: list[ModelRun] = []
        self.attempts: defaultdict[str, list[int]] = defaultdict(list)
        self.stored: dict[str, Stored] = {}
        self.turns: list[Turn] = []
        self.usage: list[Usage] = []
        self.faults: list[tuple[int, str]] = []
        self.end_ms = history.events[-1][0] if history.events else 0
        self._said: dict[tuple[str, int], str] = {}
        for at_ms, event in history.events:
            match event:
                case ToServer() | Resumed() | ToApp():
                    self.wire.append(event)
                case Shown() | Cleared():
                    self.screens[event.request].append(event)
                case Ended():
                    self.ended[event.request].append(event)
                    self.screens[event.request].append(event)
                case Cancelled():
                    self.cancelled.add(event.request)
                case ModelRun():
                    self.runs.append(event)
                    self.attempts[event.request].append(event.attempt)
                    if event.text is not None:
                        self._said[event.request, event.attempt] = event.text
                case Fault():
                    self.faults.append((at_ms, event.name))
                case Stored():
                    self.stored[event.request] = event
                case Turn():
                    self.turns.append(event)
                case Usage():
                    self.usage.append(event)
                case Asked() | Violation():
                    pass
        self._texts = {asked.answer: request for request, asked in self.asked.items() if asked.answer}
        self._texts |= {text: request for (request, _), text in self._said.items() if text}
        self._texts |= {stored.answer: request for request, stored in self.stored.items() if stored.answer}

    def text(self, request: str, attempt: int) -> str | None:
        """The whole answer of an attempt, if it is known: by the model, by the question, or from the store."""
        if (said := self._said.get((request, attempt))) is not None:
            return said
        asked = self.asked.get(request)
        if asked is not None and asked.answer is not None:
            return asked.answer
        stored = self.stored.get(request)
        if stored is None or stored.record.ending is None or stored.record.state is not State.COMPLETED:
            return None
        return stored.answer if stored.record.ending.attempt == attempt else None

    def kept(self, request: str) -> str | None:
        """The answer as the server keeps it, if it is completed."""
        if (stored := self.stored.get(request)) is not None:
            return stored.answer if stored.record.state is State.COMPLETED else None
        turns = [turn.answer for turn in self.turns if turn.request == request and turn.status is Status.COMPLETED]
        return turns[0] if turns else None

    def begins(self, request: str, text: str) -> bool:
        """Whether this is the beginning of an answer to the request, in any attempt."""
        texts = [self.text(request, attempt) for attempt in {0, *self.attempts.get(request, ())}]
        stored = self.stored.get(request)
        if stored is not None and stored.record.ending is not None:
            texts.append(self.text(request, stored.record.ending.attempt))
        known = [whole for whole in texts if whole is not None]
        return not known or any(whole.startswith(text) for whole in known)

    def wrong_text(self, request: str, text: str, what: str) -> Violation:
        """The violation that `what` is not the text that it has to be."""
        other = self._texts.get(text)
        if other is not None and other != request:
            return Violation(
                promise=Promise.OWN_ANSWER,
                kind=Kind.FOREIGN,
                request=request,
                detail=f"{what} is the answer to {other}",
            )
        return _different(request, f"{what} is not the same: {len(text)} code points, ending {text[-40:]!r}")


def _different(request: str, detail: str, promise: Promise = Promise.EXACT_TEXT) -> Violation:
    return Violation(promise=promise, kind=Kind.DIFFERENT, request=request, detail=detail)


def _foreign(request: str, detail: str) -> Violation:
    return Violation(promise=Promise.OWN_ANSWER, kind=Kind.FOREIGN, request=request, detail=detail)


def _lost(request: str, detail: str) -> Violation:
    return Violation(promise=Promise.ANSWERED, kind=Kind.LOST, request=request, detail=detail)


def _repeated(promise: Promise, request: str, detail: str) -> Violation:
    return Violation(promise=promise, kind=Kind.REPEATED, request=request, detail=detail)


def _disordered(request: str, detail: str) -> Violation:
    return Violation(promise=Promise.ORDER, kind=Kind.DISORDERED, request=request, detail=detail)


# --- own answer


def _own_answer(facts: _Facts) -> Iterator[Violation]:
    """Frames about a request go to the session that asked it; an error may go to one that named the request, too."""
    named: set[tuple[str, str]] = set()
    for event in facts.wire:
        if not isinstance(event, ToApp):
            named.add((event.session, event.request))
            continue
        if not event.request or not isinstance(event.frame, (*ANSWERS, Error)):
            continue
        asked = facts.asked.get(event.request)
        is_own = asked is not None and asked.session == event.session
        if not is_own and not (isinstance(event.frame, Error) and (event.session, event.request) in named):
            owner = "nobody" if asked is None else f"session {asked.session}"
            detail = f"{type(event.frame).__name__} about a request of {owner} went to {event.session}"
            yield _foreign(event.request, detail)
    for run in facts.runs:
        if run.request not in facts.asked:
            yield _foreign(run.request, "the model was run for a question that nobody asked")
    for request, stored in facts.stored.items():
        asked = facts.asked.get(request)
        if asked is not None and stored.record.session_id != asked.session:
            yield _foreign(request, f"its record belongs to session {stored.record.session_id}")


# --- one ending


def _one_ending(facts: _Facts) -> Iterator[Violation]:
    """Each observer sees one ending, all see the same, and the server sends no other."""
    for request, endings in facts.ended.items():
        for observer, times in Counter(ending.observer for ending in endings).items():
            if times > 1:
                yield _repeated(Promise.ONE_ENDING, request, f"{observer} saw {times} endings")
        served = [ending for ending in endings if ending.result is not Result.TIMED_OUT]
        if len({_essence(ending) for ending in served}) > 1:
            yield _repeated(Promise.ONE_ENDING, request, f"it ended in several ways: {[*map(_essence, served)]}")
    sent: defaultdict[str, set[tuple[Status, int, int]]] = defaultdict(set)
    for event in facts.wire:
        if isinstance(event, ToApp) and isinstance(event.frame, MessageResponse):
            sent[event.request].add((event.frame.status, event.frame.attempt, event.frame.length))
    for request, several in sent.items():
        if len(several) > 1:
            yield _repeated(Promise.ONE_ENDING, request, f"the server sent several endings: {sorted(several)}")


def _essence(ending: Ended) -> tuple[str, str, int, int]:
    """What two observers must see alike. A text that broke off may have come further on one screen."""
    if ending.result is not Result.COMPLETED:
        return (ending.result, ending.code, 0, 0)
    return (ending.result, ending.code, ending.attempt, hash(ending.text))


# --- exact text


def _exact_text(facts: _Facts, visible: Visible) -> Iterator[Violation]:
    """What is sent, shown and ended with is the answer, or the beginning of it."""
    for event in facts.wire:
        if isinstance(event, ToApp):
            yield from _sent_text(facts, event)
    if visible.ordered:
        yield from _continuous(facts.wire)
    if visible.undisturbed:
        yield from _whole_on_the_wire(facts)
    for request, steps in facts.screens.items():
        yield from _shown_text(facts, request, steps)
    for request, endings in facts.ended.items():
        for ending in endings:
            whole = facts.text(request, ending.attempt)
            if ending.result is Result.COMPLETED and whole is not None and ending.text != whole:
                yield facts.wrong_text(request, ending.text, "what its app got")


def _sent_text(facts: _Facts, event: ToApp) -> Iterator[Violation]:
    match event.frame:
        case MessageDelta(attempt=attempt, offset=offset, delta=delta):
            whole = facts.text(event.request, attempt)
            if whole is not None and not whole.startswith(delta, offset):
                yield _foreign(event.request, f"text at {offset} of attempt {attempt} on the wire is not its own")
        case MessageResponse(status=Status.COMPLETED, attempt=attempt, response=response, length=length):
            whole = facts.text(event.request, attempt)
            if whole is None:
                return
            if response is not None and response != whole:
                yield facts.wrong_text(event.request, response, "the response on the wire")
            elif length != len(whole):
                yield _different(event.request, f"its ending says {length} code points, it has {len(whole)}")
        case _:
            pass


def _continuous(wire: Iterable[ToServer | Resumed | ToApp]) -> Iterator[Violation]:
    """On one connection text goes on where it was, or where the app said that it has it.

    It need not be whole at its ending: a cancellation that comes too late is answered with the ending alone.
    """
    reached: defaultdict[_Place, int] = defaultdict(int)
    resumed: defaultdict[_Place, set[int]] = defaultdict(set)
    for event in wire:
        match event:
            case Resumed():
                resumed[event.connection, event.request, event.attempt].add(event.offset)
            case ToApp(frame=MessageDelta(attempt=attempt, offset=offset, delta=delta)):
                place = (event.connection, event.request, attempt)
                if offset > reached[place] and offset not in resumed[place]:
                    yield _lost_text(event, f"text of attempt {attempt} at {offset} follows {reached[place]}")
                reached[place] = max(reached[place], offset + len(delta))
            case _:
                pass


def _lost_text(event: ToApp, detail: str) -> Violation:
    return Violation(
        promise=Promise.EXACT_TEXT, kind=Kind.LOST, request=event.request, detail=f"on {event.connection} {detail}"
    )


def _whole_on_the_wire(facts: _Facts) -> Iterator[Violation]:
    """Each answer comes over its connection once, in order, and whole."""
    texts: defaultdict[tuple[str, str], AnswerText] = defaultdict(AnswerText)
    for event in facts.wire:
        if not isinstance(event, ToApp):
            continue
        text, flaw = texts[event.connection, event.request], None
        match event.frame:
            case MessageDelta(attempt=attempt, offset=offset, delta=delta):
                flaw = text.add(attempt, offset, delta)
            case MessageResponse(attempt=attempt, length=length, response=response):
                flaw = text.end(attempt, length, response)
                kept = facts.kept(event.request)
                if event.frame.status is Status.COMPLETED and kept is not None and text.text != kept:
                    yield facts.wrong_text(event.request, text.text, "what went over the wire")
            case _:
                pass
        if flaw is not None and flaw.kind is not Kind.DISORDERED:  # a client ignores the text of an older attempt
            detail = f"on {event.connection} {flaw.detail}"
            yield Violation(promise=Promise.EXACT_TEXT, kind=flaw.kind, request=event.request, detail=detail)


def _shown_text(facts: _Facts, request: str, steps: Iterable[Shown | Cleared | Ended]) -> Iterator[Violation]:
    """Each screen shows at any moment the beginning of one attempt's answer, and what it ends with at the end."""
    screens: defaultdict[str, str] = defaultdict(str)
    for step in steps:
        before = screens[step.observer]
        match step:
            case Cleared():
                screens[step.observer] = ""
            case Shown(offset=offset, delta=delta):
                if offset != len(before):
                    yield _different(request, f"{step.observer} showed text at {offset} after {len(before)}")
                screens[step.observer] = before + delta
                if not facts.begins(request, before + delta):
                    yield _different(request, f"{step.observer} showed {before + delta!r}")
                    return
            case Ended(result=Result.COMPLETED, text=text):
                if before not in ("", text):
                    yield _different(request, f"what {step.observer} showed while it came is not the answer")
            case Ended():
                pass


# --- order


def _order(facts: _Facts) -> Iterator[Violation]:
    """Questions of one app in one conversation are begun, and kept, in the order asked."""
    numbers = {request: number for number, request in enumerate(facts.asked)}
    for what, requests in (("begun", [run.request for run in facts.runs]), ("kept", [t.request for t in facts.turns])):
        last: dict[tuple[str, str | None], str] = {}
        for request in requests:
            asked = facts.asked.get(request)
            if asked is None or (what == "kept" and asked.conversation is None):
                continue  # a turn without a conversation is in one that others of the user may have, too
            lane = (asked.session, asked.conversation)
            before = last.get(lane)
            if before is not None and numbers[request] < numbers[before]:
                yield _disordered(request, f"it was asked before {before} and {what} after it")
            else:
                last[lane] = request


# --- accepted means answered


def _accepted_means_answered(facts: _Facts, visible: Visible) -> Iterator[Violation]:
    """Every question has an ending at its app, and every accepted one has it in the store."""
    for request, asked in facts.asked.items():
        endings = facts.ended.get(request, [])
        if not endings:
            yield _lost(request, "its app saw no ending")
        if not asked.may_time_out and any(ending.result is Result.TIMED_OUT for ending in endings):
            yield _lost(request, "its app's client gave up waiting")
        if visible.records and request not in facts.stored:
            seen = {ending.result for ending in endings}
            if request in facts.accepted or seen & {Result.COMPLETED, Result.FAILED}:
                yield _lost(request, f"the store has no record; its app saw {', '.join(sorted(seen))}")
    if not visible.records:
        return
    for request, stored in facts.stored.items():
        ending = stored.record.ending
        if ending is None:
            yield _lost(request, f"it has no ending in the store: {stored.record.state}")
        elif ending.error_code is ErrorCode.INTERNAL and visible.deaths:
            deaths = _deaths(facts, stored.record, visible)
            if deaths < Policy().max_attempts:
                yield _lost(request, f"it was given up after the deaths of {deaths} processes")


def _deaths(facts: _Facts, record: Record, visible: Visible) -> int:
    """How many processes died between the acceptance of a request and its ending."""
    until_ms = facts.end_ms if record.ending is None else record.ending.ended_at_ms
    first_ms, last_ms = record.accepted_at_ms - visible.skew_ms, until_ms + visible.skew_ms
    return sum(name in visible.deaths and first_ms <= at_ms <= last_ms for at_ms, name in facts.faults)


# --- explicit cancellation only


def _explicit_cancellation_only(facts: _Facts) -> Iterator[Violation]:
    """Only what its user cancelled, or its app's client gave up, is cancelled."""
    for request in facts.ended.keys() | facts.stored.keys():
        results = {ending.result for ending in facts.ended.get(request, ())}
        stored = facts.stored.get(request)
        is_cancelled = Result.CANCELLED in results
        if stored is not None and stored.record.state is State.CANCELLED and Result.TIMED_OUT not in results:
            is_cancelled = True
        if is_cancelled and request not in facts.cancelled:
            yield _different(request, "it was cancelled by nobody", Promise.EXPLICIT_CANCELLATION)


# --- at most one model run


def _one_run(facts: _Facts, visible: Visible) -> Iterator[Violation]:
    """The model runs an attempt once, and another attempt only after the death of a process."""
    if not visible.runs:
        return
    died = any(name in visible.deaths for _, name in facts.faults)
    for request, attempts in facts.attempts.items():
        if len(set(attempts)) < len(attempts):
            yield _repeated(Promise.ONE_RUN, request, f"the model was run twice for one attempt: {attempts}")
        if attempts != sorted(attempts):
            yield _repeated(Promise.ONE_RUN, request, f"an older attempt was run after a newer one: {attempts}")
        stored = facts.stored.get(request)
        if stored is None or stored.record.ending is None:
            continue
        if attempts[-1] > stored.record.ending.attempt:
            yield _repeated(Promise.ONE_RUN, request, f"the model was run again after its ending: {attempts}")
        deaths = _deaths(facts, stored.record, visible)
        if len(attempts) > 1 + deaths:
            detail = f"{len(attempts)} runs of the model, though only {deaths} processes died meanwhile"
            yield _repeated(Promise.ONE_RUN, request, detail)
    for request, stored in facts.stored.items():
        record = stored.record
        if record.state is not State.COMPLETED:
            continue
        if record.attempt not in facts.attempts.get(request, ()):
            yield _foreign(request, "it was completed without a run of the model")
        if record.attempt > 1 and not died:
            yield _repeated(Promise.ONE_RUN, request, f"it took {record.attempt} attempts, and no process died")


# --- the store and the conversations


def _stored_is_shown(facts: _Facts) -> Iterator[Violation]:
    """What the store holds is what the app saw, and the beginning of an answer to the question."""
    for request, stored in facts.stored.items():
        record, asked = stored.record, facts.asked.get(request)
        if not facts.begins(request, stored.answer):
            yield facts.wrong_text(request, stored.answer, "the stored answer")
        if record.ending is None or asked is None:
            continue
        whole = facts.text(request, record.ending.attempt)
        if record.state is State.COMPLETED and whole is not None and stored.answer != whole:
            yield facts.wrong_text(request, stored.answer, "the stored answer")
        if record.ending.length != len(stored.answer):
            yield _different(request, f"the store says {record.ending.length} code points, has {len(stored.answer)}")
        for ending in facts.ended.get(request, ()):
            if ending.result is not Result.TIMED_OUT:
                yield from _ended_as_stored(facts, asked, ending, stored)


def _ended_as_stored(facts: _Facts, asked: Asked, seen: Ended, stored: Stored) -> Iterator[Violation]:
    record, ending = stored.record, stored.record.ending
    if ending is None or record.state is not _STATES[seen.result]:
        detail = f"its app saw {seen.result} {seen.code}, the store has {record.state}"
        yield _different(asked.request, detail, Promise.ONE_ENDING)
        return
    if seen.attempt and seen.attempt != ending.attempt:
        yield _different(asked.request, f"its app saw attempt {seen.attempt}, the store has {ending.attempt}")
    if seen.code and seen.code != ending.error_code:
        detail = f"its app saw {seen.code}, the store has {ending.error_code}"
        yield _different(asked.request, detail, Promise.ONE_ENDING)
    if seen.text != stored.answer and (seen.text or asked.stream or seen.result is Result.COMPLETED):
        yield facts.wrong_text(asked.request, seen.text, "what its app got, beside the stored answer,")


def _turns(facts: _Facts, visible: Visible) -> Iterator[Violation]:
    """Every accepted request that has ended has one turn, with its own texts; nothing else has one."""
    found = {turn.request: turn for turn in facts.turns}
    for request, times in Counter(turn.request for turn in facts.turns).items():
        if times > 1:
            yield _repeated(Promise.ONE_ENDING, request, f"it has {times} turns in its conversation")
    for turn in found.values():
        asked, stored = facts.asked.get(turn.request), facts.stored.get(turn.request)
        if asked is None or asked.user != turn.user:
            yield _foreign(turn.request, f"a turn that user {turn.user} never asked for")
            continue
        if visible.records and (stored is None or stored.record.ending is None or not stored.has_question):
            yield _foreign(turn.request, "a turn of a request that was not accepted, or has not ended")
        yield from _turn(facts, asked, turn, stored)
    for request, stored in facts.stored.items():
        is_kept = stored.has_question or stored.record.state is State.COMPLETED
        if stored.record.ending is not None and is_kept and request not in found:
            yield _lost(request, f"{stored.record.state}, and not in its conversation")
    if not visible.records:
        for request, endings in facts.ended.items():
            if any(ending.result is Result.COMPLETED for ending in endings) and request not in found:
                yield _lost(request, "it was completed, and is not in its conversation")


def _turn(facts: _Facts, asked: Asked, turn: Turn, stored: Stored | None) -> Iterator[Violation]:
    if turn.question != asked.text:
        yield _different(turn.request, "its turn has another question")
    if turn.status is Status.COMPLETED and asked.answer is not None and turn.answer != asked.answer:
        yield facts.wrong_text(turn.request, turn.answer, "the answer of its turn")
    for seen in facts.ended.get(turn.request, ()):
        if seen.result is Result.COMPLETED and seen.text != turn.answer:
            yield facts.wrong_text(turn.request, seen.text, "what its app got, beside its turn,")
    if stored is None or stored.record.ending is None:
        return
    if turn.answer != stored.answer:
        detail = f"its turn has {len(turn.answer)} code points, the stored answer {len(stored.answer)}"
        yield _different(turn.request, detail)
    ending = stored.record.ending
    has, expected = (turn.status, turn.code), (ending.status, ending.error_code)
    if has != expected:
        yield _different(turn.request, f"its turn has {has}, its record {expected}", Promise.ONE_ENDING)
    if turn.tokens is not None and turn.tokens != (ending.input_tokens, ending.output_tokens):
        detail = f"its turn has {turn.tokens} tokens, its record {(ending.input_tokens, ending.output_tokens)}"
        yield _different(turn.request, detail, Promise.ONE_RUN)


def _usage(facts: _Facts) -> Iterator[Violation]:
    """What users are said to have used is what their turns add up to."""
    used: Counter[tuple[str, str]] = Counter()
    for turn in facts.turns:
        tokens_in, tokens_out = turn.tokens or (None, None)
        used[turn.user, "requests"] += 1
        used[turn.user, "tokens in"] += tokens_in or 0
        used[turn.user, "tokens out"] += tokens_out or 0
    said: Counter[tuple[str, str]] = Counter()
    for event in facts.usage:
        said[event.usage.user_id, "requests"] += event.usage.requests
        said[event.usage.user_id, "tokens in"] += event.usage.input_tokens
        said[event.usage.user_id, "tokens out"] += event.usage.output_tokens
    for user, what in sorted(used.keys() | said.keys()):
        if used[user, what] != said[user, what]:
            detail = f"usage of {user}: {said[user, what]} {what} said, {used[user, what]} in the turns"
            yield _different("", detail, Promise.ONE_RUN)


# --- one answer on one connection


class Flaw(NamedTuple):
    """What is wrong with a piece of text."""

    kind: Kind
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
        """What came so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def begin(self, attempt: int, text: str = "") -> Flaw | None:
        """An attempt begins; the text of older ones is void."""
        if attempt < self.attempt:
            return Flaw(Kind.DISORDERED, f"attempt {attempt} came after attempt {self.attempt}")
        if attempt > self.attempt:
            self.attempt, self.length, self._parts = attempt, len(text), [text]
        return None

    def add(self, attempt: int, offset: int, delta: str) -> Flaw | None:
        """A piece comes."""
        if attempt != self.attempt and (flaw := self.begin(attempt)) is not None:
            return flaw
        if self.first_offset is None:
            self.first_offset = offset
        length = self.length
        if self.has_ended:
            return Flaw(Kind.REPEATED, f"a piece at offset {offset} came after the ending")
        if offset == length:
            self._parts.append(delta)
            self.length = length + len(delta)
            return None
        if offset > length:
            return Flaw(Kind.LOST, f"a piece at offset {offset} came when the text had {length} code points")
        text = self.text
        if not delta.startswith(text[offset : offset + len(delta)]):
            return Flaw(Kind.DIFFERENT, f"a piece at offset {offset} is not the text that came before there")
        if offset + len(delta) > length:
            self._parts = [text[:offset] + delta]
            self.length = offset + len(delta)
        return Flaw(Kind.REPEATED, f"a piece at offset {offset} came when the text had {length} code points")

    def end(self, attempt: int, length: int, response: str | None) -> Flaw | None:
        """The ending comes. Without a response, and before any piece, nothing can be said of its length."""
        if self.has_ended:
            return Flaw(Kind.REPEATED, "a second ending came")
        self.has_ended = True
        if response is not None:
            self.attempt, self.length, self._parts = attempt, len(response), [response]
        else:
            self.begin(attempt)
        if (response is not None or self.first_offset is not None) and length != self.length:
            return Flaw(Kind.LOST, f"the ending says {length} code points, but {self.length} came")
        return None

    def forget(self) -> None:
        """Let the text go: a long run cannot keep the text of every answer."""
        self._parts = []
