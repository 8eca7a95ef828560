"""What an app of a chaos run asks.

It has several conversations; its questions are streamed or whole, some cancelled, some given up, some asked twice.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from answerback.client import (
    Answer,
    AnswerbackError,
    AnswerStream,
    Client,
    Closed,
    Done,
    PendingRequest,
    ProtocolViolation,
    SessionReplaced,
    Text,
)
from answerback_proof.chaos.plan import ChaosPlan, trusting
from answerback_proof.history import (
    Asked,
    Cancelled,
    Ended,
    History,
    Kind,
    Promise,
    Result,
    Violation,
)
from answerback_proof.observe import ending, show


class How(StrEnum):
    """How a question is asked. SHORT_TIMEOUT: whole, and given up after a second or so. AGAIN: whole, and twice."""

    STREAM = "stream"
    WHOLE = "ask"
    CANCEL = "cancel"
    SHORT_TIMEOUT = "impatient"
    AGAIN = "again"


_WEIGHTS: Final = (40, 30, 12, 6, 12)
_BURSTS: Final = (1, 1, 1, 2, 3)
_TRUSTING_EACH: Final = 3
_TIMEOUT_S: Final = 300.0
_WORDS: Final = ("word", "단어", "слово", "語", "🙂", "é", "\n")


class MemoryOutbox:
    """client.Outbox in memory: it outlives the client, as a disk does."""

    def __init__(self) -> None:
        self._pending: dict[str, PendingRequest] = {}

    def load(self) -> Sequence[PendingRequest]:
        return list(self._pending.values())

    def save(self, pending: PendingRequest) -> None:
        self._pending[pending.frame.request_id] = pending

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        del outcome
        self._pending.pop(request_id, None)


class App:
    """One app with the real client. `run` asks until `stop`, and returns when every question has its ending.

    `on_ended` is called at each ending.
    """

    def __init__(
        self,
        number: int,
        *,
        url: str,
        plan: ChaosPlan,
        history: History,
        rng: random.Random,
        on_ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.session = f"s{plan.seed}{plan.name}-app{number}"
        self.user = f"u{plan.seed}{plan.name}-{number // plan.apps_a_user}"
        self._url = url
        self._timing = trusting(plan.timing) if number % _TRUSTING_EACH == 0 else plan.timing
        self._plan = plan
        self._history = history
        self._on_ended = on_ended
        self._rng = rng
        self._outbox = MemoryOutbox()
        self._client = self._new_client()
        self._is_up = asyncio.Event()
        self._restored: dict[str, AnswerStream] = {}
        self._asked = 0
        self._starts = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask, until all is asked and answered."""
        await self._open()
        try:
            conversations = (f"{self.session}-a", f"{self.session}-b", None)
            async with asyncio.TaskGroup() as talks:
                for conversation in conversations[: self._rng.choice((1, 2, 3))]:
                    talks.create_task(self._talk(conversation, stop))
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
        self._starts += 1
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
        while not stop.is_set():
            async with asyncio.TaskGroup() as burst:
                for _ in range(self._rng.choice(_BURSTS)):
                    how = self._rng.choices(tuple(How), _WEIGHTS)[0]
                    burst.create_task(self._one(conversation, how))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0, 2 * self._plan.think_s)):
                    await stop.wait()

    async def _one(self, conversation: str | None, how: How) -> None:
        await self._is_up.wait()
        self._asked += 1
        request = f"{self.session}-{self._asked}"
        text = self._question(request)
        asked = Asked(
            request=request,
            user=self.user,
            session=self.session,
            conversation=conversation,
            text=text,
            answer=text,
            stream=how in {How.STREAM, How.CANCEL},
            may_time_out=how is How.SHORT_TIMEOUT,
        )
        self._history.add(asked)
        ended = await self._outcome(asked, self._streamed(asked, how) if asked.stream else self._whole(asked))
        self._history.add(ended)
        self._on_ended()
        if how is How.AGAIN and ended.result is Result.COMPLETED:
            await self._is_up.wait()
            again = await self._outcome(asked, self._whole(asked))
            self._history.add(replace(again, observer="asked again"))

    async def _outcome(self, asked: Asked, asking: Awaitable[Answer]) -> Ended:
        """The ending, wherever it comes: here, or after the app was started again."""
        while True:
            try:
                answer = await asking
            except Closed:
                await self._is_up.wait()
            except AnswerbackError as error:
                if isinstance(error, ProtocolViolation | SessionReplaced):
                    self._history.broke(str(error), request=asked.request)
                return ending(asked.request, self._observer, error)
            else:
                return ending(asked.request, self._observer, answer)
            stream = self._restored.get(asked.request)
            if stream is None:
                self._violate(asked, Promise.ANSWERED, Kind.LOST, "the outbox had forgotten it without an ending")
                return Ended(request=asked.request, observer=self._observer, result=Result.FAILED, code="forgotten")
            asking = self._read(asked, stream, None)

    @property
    def _observer(self) -> str:
        """This run of the app, in the history."""
        return f"run {self._starts}"

    def _violate(self, asked: Asked, promise: Promise, kind: Kind, detail: str) -> None:
        self._history.add(Violation(promise=promise, kind=kind, request=asked.request, detail=detail))

    async def _whole(self, asked: Asked) -> Answer:
        timeout_s = self._rng.uniform(0.05, 1.5) if asked.may_time_out else _TIMEOUT_S
        return await self._client.ask(
            asked.text, timeout=timeout_s, conversation=asked.conversation, request_id=asked.request
        )

    async def _streamed(self, asked: Asked, how: How) -> Answer:
        stream = self._client.stream(asked.text, conversation=asked.conversation, request_id=asked.request)
        cancel_after = self._rng.choice((0, 0, 1, 2, 5)) if how is How.CANCEL else None
        return await self._read(asked, stream, cancel_after)

    async def _read(self, asked: Asked, stream: AnswerStream, cancel_after: int | None) -> Answer:
        """Read as an app would show it. `cancel_after`: so many pieces of text."""
        observer, pieces, endings = self._observer, 0, 0
        if cancel_after == 0:
            await asyncio.sleep(self._rng.uniform(0, 0.2))
            self._cancel(asked, stream)
        async for event in stream.events():
            show(self._history, asked.request, observer, event)
            endings += isinstance(event, Done)
            if isinstance(event, Text):
                pieces += 1
                if pieces == cancel_after:
                    self._cancel(asked, stream)
        answer = await stream.answer
        if endings != 1:
            self._violate(asked, Promise.ONE_ENDING, Kind.REPEATED, f"{endings} endings were shown")
        return answer

    def _cancel(self, asked: Asked, stream: AnswerStream) -> None:
        self._history.add(Cancelled(request=asked.request))
        stream.cancel()

    def _question(self, request_id: str) -> str:
        count = self._rng.choice((3, 10, 20, 40, 40, 80))
        return " ".join(f"{request_id}:{word}{self._rng.choice(_WORDS)}" for word in range(count))
