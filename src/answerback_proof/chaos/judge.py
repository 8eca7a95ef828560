"""The judgement, after the gateway has stopped: the book against the store, request by request."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set

from answerback.core.request import Policy, Record, RequestKey, State
from answerback.ports import History, Requests, StoredTurn
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Status
from answerback_proof.chaos.book import Asked, Book, Kind, Outcome, Result, now_ms
from answerback_proof.chaos.workload import IMPATIENT

_TURNS_A_PAGE = 200
_STATES: Mapping[Result, State] = {
    Result.COMPLETED: State.COMPLETED,
    Result.CANCELLED: State.CANCELLED,
    Result.FAILED: State.FAILED,
}


class Judge:
    """Compares everything with everything and enters what is wrong into the book.

    `deaths`: faults after which the model may be run once more for what was running. What it read stays in `records`
    and `turns`, by request.
    """

    def __init__(self, book: Book, requests: Requests, history: History, *, deaths: Set[str]) -> None:
        self._book = book
        self._requests = requests
        self._history = history
        self._texts = {asked.text: asked.request_id for asked in book.asked.values()}
        self._max_attempts = Policy().max_attempts
        self._deaths = sorted(at_ms for at_ms, fault in book.faults if fault in deaths)
        self.records: dict[str, Record] = {}
        self.turns: dict[str, StoredTurn] = {}

    async def judge(self) -> None:
        """Everything. Raises: Unavailable: the store cannot be read."""
        users = {asked.user for asked in self._book.asked.values()}
        for record in await self._requests.unfinished():
            if record.user_id not in users:
                continue  # somebody else's, in a database that is not only ours
            self._violate(Kind.LOST, record.request_id, f"it has no ending in the store: {record.state}")
        for asked in self._book.asked.values():
            await self._judge_request(asked)
        await self._judge_history(users)
        self._judge_runs()
        self._judge_order()

    # --- one request

    async def _judge_request(self, asked: Asked) -> None:
        record = await self._requests.read(RequestKey(asked.user, asked.request_id))
        if record is not None:
            self.records[asked.request_id] = record
        if len(asked.outcomes) > 1:
            self._violate(Kind.REPEATED, asked.request_id, f"its app saw {len(asked.outcomes)} endings")
        if not asked.outcomes:
            self._violate(Kind.LOST, asked.request_id, "its app saw no ending")
            return
        outcome = asked.outcomes[0]
        if outcome.result is Result.TIMED_OUT and asked.how != IMPATIENT:
            self._violate(Kind.LOST, asked.request_id, "its app's client gave up waiting")
        if record is None:
            if asked.accepted_at_ms is not None or outcome.result in {Result.COMPLETED, Result.FAILED}:
                self._violate(Kind.LOST, asked.request_id, f"the store has no record; the app saw {outcome.result}")
            return
        if record.session_id != asked.session:
            self._violate(Kind.FOREIGN, asked.request_id, f"its record belongs to session {record.session_id}")
        stored = await self._requests.answer(record.key)
        if not asked.text.startswith(stored):
            self._foreign_or_different(asked, stored, "the stored answer")
        if outcome.result is not Result.TIMED_OUT:
            self._compare(asked, outcome, record, stored)

    def _compare(self, asked: Asked, outcome: Outcome, record: Record, stored: str) -> None:
        ending = record.ending
        if record.state is not _STATES[outcome.result] or ending is None:
            detail = f"its app saw {outcome.result} {outcome.code}, the store has {record.state}"
            self._violate(Kind.DIFFERENT, asked.request_id, detail)
            return
        if outcome.attempt and outcome.attempt != ending.attempt:
            detail = f"its app saw attempt {outcome.attempt}, the store has {ending.attempt}"
            self._violate(Kind.DIFFERENT, asked.request_id, detail)
        if outcome.code and outcome.code != ending.error_code:
            detail = f"its app saw {outcome.code}, the store has {ending.error_code}"
            self._violate(Kind.DIFFERENT, asked.request_id, detail)
        deaths = self._deaths_during(record)
        if outcome.code == ErrorCode.INTERNAL and deaths < self._max_attempts:
            self._violate(Kind.LOST, asked.request_id, f"it was given up after the deaths of {deaths} processes")
        if outcome.result is Result.COMPLETED and outcome.text != asked.text:
            self._foreign_or_different(asked, outcome.text, "what its app got")
        elif outcome.text != stored and (outcome.text or asked.how in {"stream", "cancel"}):
            self._foreign_or_different(asked, outcome.text, "what its app got, beside the stored answer,")

    def _foreign_or_different(self, asked: Asked, text: str, what: str) -> None:
        other = self._texts.get(text)
        if other is not None and other != asked.request_id:
            self._violate(Kind.FOREIGN, asked.request_id, f"{what} is the answer to {other}")
        else:
            self._violate(Kind.DIFFERENT, asked.request_id, f"{what} has {len(text)} of {len(asked.text)} code points")

    # --- the history

    async def _judge_history(self, users: Set[str]) -> None:
        """Every accepted request has one turn, in its own conversation; nothing else has (G2, G4)."""
        seen: Counter[str] = Counter()
        for user in users:
            for conversation_id in await self._conversations(user):
                turns = await self._turns(user, conversation_id)
                seen.update(turn.request_id for turn in turns)
                self.turns.update((turn.request_id, turn) for turn in turns)
                self._judge_conversation(user, turns)
        for request_id, count in seen.items():
            if count > 1:
                self._violate(Kind.REPEATED, request_id, f"it has {count} turns in the history")
        for request_id, record in self.records.items():
            if record.state is State.COMPLETED and not seen[request_id]:
                self._violate(Kind.LOST, request_id, "it was completed and is not in the history")

    def _judge_conversation(self, user: str, turns: Sequence[StoredTurn]) -> None:
        """`turns`: newest first."""
        last: Asked | None = None
        for turn in reversed(turns):
            asked = self._book.asked.get(turn.request_id)
            if asked is None or asked.user != user:
                self._violate(Kind.FOREIGN, turn.request_id, f"a turn that user {user} never asked for")
                continue
            if turn.question != asked.text or (turn.status is Status.COMPLETED and turn.answer != asked.text):
                self._violate(Kind.DIFFERENT, turn.request_id, "its turn in the history has another text")
            if asked.conversation is not None:
                if last is not None and asked.number < last.number:
                    detail = f"accepted after {last.request_id}, though asked before it"
                    self._violate(Kind.DISORDERED, asked.request_id, detail)
                last = asked

    async def _conversations(self, user: str) -> list[str]:
        found: list[str] = []
        before: tuple[int, str] | None = None
        while page := await self._history.conversations(user, before=before, limit=_TURNS_A_PAGE):
            found += (conversation.conversation_id for conversation in page)
            before = (page[-1].updated_at_ms, page[-1].conversation_id)
        return found

    async def _turns(self, user: str, conversation_id: str) -> list[StoredTurn]:
        found: list[StoredTurn] = []
        before: int | None = None
        while page := await self._history.turns(user, conversation_id, before=before, limit=_TURNS_A_PAGE):
            found += page
            before = page[-1].position
        return found

    # --- the model

    def _judge_runs(self) -> None:
        """One run an attempt, and another attempt only after the death of a process (G7)."""
        for request_id, attempts in self._book.runs.items():
            record = self.records.get(request_id)
            if len(set(attempts)) < len(attempts):
                self._violate(Kind.REPEATED, request_id, f"the model was run twice for one attempt: {attempts}")
            if attempts != sorted(attempts):
                self._violate(Kind.REPEATED, request_id, f"an older attempt was run after a newer one: {attempts}")
            if record is None or record.ending is None:
                continue
            if attempts[-1] > record.ending.attempt:
                self._violate(Kind.REPEATED, request_id, f"the model was run again after its ending: {attempts}")
            deaths = self._deaths_during(record)
            if len(attempts) > 1 + deaths:
                detail = f"{len(attempts)} runs of the model, though only {deaths} processes died meanwhile"
                self._violate(Kind.REPEATED, request_id, detail)
        for request_id, record in self.records.items():
            if record.state is State.COMPLETED and record.attempt not in self._book.runs.get(request_id, ()):
                self._violate(Kind.FOREIGN, request_id, "it was completed without a run of the model")

    def _deaths_during(self, record: Record) -> int:
        """How many processes died between the acceptance of a request and its ending."""
        ended_at_ms = now_ms() if record.ending is None else record.ending.ended_at_ms
        return sum(record.accepted_at_ms <= at_ms <= ended_at_ms for at_ms in self._deaths)

    def _judge_order(self) -> None:
        """Questions of one conversation are begun in the order asked (G4)."""
        last: defaultdict[tuple[str, str], int] = defaultdict(int)
        for request_id in self._book.run_order:
            asked = self._book.asked.get(request_id)
            if asked is None or asked.conversation is None:
                continue
            key = (asked.user, asked.conversation)
            if asked.number < last[key]:
                self._violate(Kind.DISORDERED, request_id, f"the model was run for it after number {last[key]}")
            last[key] = max(last[key], asked.number)

    def _violate(self, kind: Kind, request_id: str, detail: str) -> None:
        self._book.violate(kind, request_id, detail)
