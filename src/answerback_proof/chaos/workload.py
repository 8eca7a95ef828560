"""One desktop app: the real client, asking in several conversations, sometimes impatient, sometimes killed itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from answerback.client import (
    Answer,
    AnswerbackError,
    AnswerStream,
    Client,
    Closed,
    Done,
    PendingRequest,
    ProtocolViolation,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    Restarted,
    SessionReplaced,
    Text,
)
from answerback_proof.chaos.book import Asked, Book, Kind, Outcome, Result, now_ms
from answerback_proof.chaos.plan import ChaosPlan, trusting

IMPATIENT: Final = "impatient"
"""An unstreamed question that is given up after a second or so."""
HOWS: Final = ("stream", "ask", "cancel", IMPATIENT, "again")
_WEIGHTS: Final = (40, 30, 12, 6, 12)
_BURSTS: Final = (1, 1, 1, 2, 3)
_TRUSTING_EACH: Final = 3
_PATIENCE_S: Final = 300.0
_WORDS: Final = ("word", "단어", "слово", "語", "🙂", "é", "\n")


class MemoryOutbox:
    """What an app would keep on its disk; it outlives the client, as a disk does."""

    def __init__(self) -> None:
        self._pending: dict[str, PendingRequest] = {}

    def load(self) -> Sequence[PendingRequest]:
        """See Outbox."""
        return list(self._pending.values())

    def save(self, pending: PendingRequest) -> None:
        """See Outbox."""
        self._pending[pending.frame.request_id] = pending

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        """See Outbox."""
        del outcome
        self._pending.pop(request_id, None)


class App:
    """One app. `run` asks until `stop`, and returns when every question has its ending."""

    def __init__(self, number: int, *, url: str, plan: ChaosPlan, book: Book, rng: random.Random) -> None:
        self.session = f"s{plan.seed}{plan.name}-app{number}"
        self.user = f"u{plan.seed}{plan.name}-{number // plan.apps_a_user}"
        self._url = url
        self._timing = trusting(plan.timing) if number % _TRUSTING_EACH == 0 else plan.timing
        self._plan = plan
        self._book = book
        self._rng = rng
        self._outbox = MemoryOutbox()
        self._client = self._new_client()
        self._is_up = asyncio.Event()
        self._restored: dict[str, AnswerStream] = {}
        self._asked = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Live."""
        await self._open()
        try:
            conversations = (f"{self.session}-a", f"{self.session}-b", None)
            async with asyncio.TaskGroup() as lanes:
                for conversation in conversations[: self._rng.choice((1, 2, 3))]:
                    lanes.create_task(self._talk(conversation, stop))
        finally:
            await self._client.aclose()

    async def restart(self, cut: Callable[[str], None]) -> None:
        """The app is killed and started again: only its outbox is left. `cut` severs the connections of a session."""
        if not self._is_up.is_set():
            return
        self._is_up.clear()
        cut(self.session)
        await self._client.aclose()
        self._client = self._new_client()
        await self._open()

    async def _open(self) -> None:
        await self._client.open()
        self._restored = {stream.request_id: stream for stream in self._client.restored}
        self._is_up.set()

    def _new_client(self) -> Client:
        return Client(
            self._url,
            session=self.session,
            user=self.user,
            offline_start=True,
            outbox=self._outbox,
            timing=self._timing,
            rng=random.Random(self._rng.random()),  # noqa: S311 - chaos that can be repeated
        )

    # --- talking

    async def _talk(self, conversation: str | None, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            async with asyncio.TaskGroup() as burst:
                for _ in range(self._rng.choice(_BURSTS)):
                    number += 1
                    how = self._rng.choices(HOWS, _WEIGHTS)[0]
                    burst.create_task(self._one(conversation, number, how))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0, 2 * self._plan.think_s)):
                    await stop.wait()

    async def _one(self, conversation: str | None, number: int, how: str) -> None:
        await self._is_up.wait()
        self._asked += 1
        request_id = f"{self.session}-{self._asked}"
        asked = self._book.ask(
            Asked(
                request_id=request_id,
                user=self.user,
                session=self.session,
                conversation=conversation,
                number=number,
                text=self._question(request_id),
                how=how,
                asked_at_ms=now_ms(),
            )
        )
        ask = self._streamed if how in {"stream", "cancel"} else self._whole
        outcome = await self._outcome(asked, lambda: ask(asked))
        self._book.end(asked, outcome)
        if how == "again" and outcome.result is Result.COMPLETED:
            await self._repeat(asked, outcome)

    async def _repeat(self, asked: Asked, first: Outcome) -> None:
        """The same request again: the same answer, and no second run of the model (G7)."""
        await self._is_up.wait()
        asked.note(app="asks again")
        again = await self._outcome(asked, lambda: self._whole(asked))
        if again != first and again.result is not Result.TIMED_OUT:
            detail = (
                f"asked again it was {again.result} (attempt {again.attempt}), not as before (attempt {first.attempt})"
            )
            self._book.violate(Kind.REPEATED, asked.request_id, detail)

    async def _outcome(self, asked: Asked, ask: Callable[[], Awaitable[Answer]]) -> Outcome:
        """The ending, wherever it comes: here, or after the app was started again."""
        try:
            return _completed(await ask())
        except Closed:
            pass
        except AnswerbackError as error:
            return self._failed(asked, error)
        while True:
            await self._is_up.wait()
            stream = self._restored.get(asked.request_id)
            if stream is None:
                self._book.violate(Kind.LOST, asked.request_id, "the outbox had forgotten it without an ending")
                return Outcome(result=Result.FAILED, text="", attempt=0, code="forgotten")
            asked.note(app="taken up from the outbox")
            try:
                return _completed(await self._read(asked, stream, None))
            except Closed:
                continue
            except AnswerbackError as error:
                return self._failed(asked, error)

    def _failed(self, asked: Asked, error: AnswerbackError) -> Outcome:
        match error:
            case RequestCancelled():
                return Outcome(result=Result.CANCELLED, text=error.answer.text, attempt=error.answer.attempt)
            case RequestTimeout():
                return Outcome(result=Result.TIMED_OUT, text=error.text, attempt=0)
            case RequestFailed(answer=answer):
                text, attempt = ("", 0) if answer is None else (answer.text, answer.attempt)
                return Outcome(result=Result.FAILED, text=text, attempt=attempt, code=error.code)
            case ProtocolViolation() | SessionReplaced():
                self._book.violate(Kind.BROKEN, asked.request_id, str(error))
            case _:
                pass
        return Outcome(result=Result.FAILED, text="", attempt=0, code=error.code)

    async def _whole(self, asked: Asked) -> Answer:
        timeout_s = self._rng.uniform(0.05, 1.5) if asked.how == IMPATIENT else _PATIENCE_S
        return await self._client.ask(
            asked.text, timeout=timeout_s, conversation=asked.conversation, request_id=asked.request_id
        )

    async def _streamed(self, asked: Asked) -> Answer:
        stream = self._client.stream(asked.text, conversation=asked.conversation, request_id=asked.request_id)
        cancel_after = self._rng.choice((0, 0, 1, 2, 5)) if asked.how == "cancel" else None
        return await self._read(asked, stream, cancel_after)

    async def _read(self, asked: Asked, stream: AnswerStream, cancel_after: int | None) -> Answer:
        """Read as an app would show it. `cancel_after`: so many pieces of text."""
        shown, pieces, endings = "", 0, 0
        if cancel_after == 0:
            await asyncio.sleep(self._rng.uniform(0, 0.2))
            stream.cancel()
        async for event in stream.events():
            match event:
                case Restarted():
                    shown = ""
                case Text():
                    if event.offset != len(shown):
                        self._book.violate(
                            Kind.DIFFERENT, asked.request_id, f"a piece at {event.offset} was shown late"
                        )
                    shown += event.delta
                    pieces += 1
                    if pieces == cancel_after:
                        stream.cancel()
                case Done():
                    endings += 1
                case _:
                    pass
        answer = await stream.answer
        if endings != 1:
            self._book.violate(Kind.REPEATED, asked.request_id, f"{endings} endings were shown")
        if asked.how != "ask" and shown not in ("", answer.text):
            self._book.violate(Kind.DIFFERENT, asked.request_id, "what was shown while it came is not the answer")
        return answer

    def _question(self, request_id: str) -> str:
        count = self._rng.choice((3, 10, 20, 40, 40, 80))
        return " ".join(f"{request_id}:{word}{self._rng.choice(_WORDS)}" for word in range(count))


def _completed(answer: Answer) -> Outcome:
    return Outcome(result=Result.COMPLETED, text=answer.text, attempt=answer.attempt)
