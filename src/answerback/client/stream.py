"""One streamed answer, as the application reads it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Self, TypeAlias, TypeVar, cast

from answerback.client.errors import AnswerbackError, AnswerRestarted
from answerback.client.events import Answer, Done, Event, Queued, Thinking, Uploading
from answerback.core.assembly import PartStarted, PartText, Restarted, Text

Outcome: TypeAlias = Answer | AnswerbackError


EventT = TypeVar("EventT")


def add(unread: deque[EventT], event: EventT) -> None:
    """Keep an event until it is read. Text that was not read yet is joined, and dropped when it is void."""
    last = unread[-1] if unread else None
    joined = last.joined(event) if isinstance(last, Text | PartText) else None
    if joined is not None:
        unread[-1] = cast("EventT", joined)
    elif isinstance(event, Thinking | Uploading) and type(event) is type(last):
        unread[-1] = event
    else:
        if isinstance(event, Restarted):
            for void in [one for one in unread if isinstance(one, Text | PartStarted | PartText)]:
                unread.remove(void)
        unread.append(event)


class _Final(Awaitable[Answer]):
    """`await stream.answer`, as often as wanted; nothing is left behind if nobody awaits it."""

    def __init__(self, wait: Callable[[], Awaitable[Answer]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, Answer]:
        return self._wait().__await__()


class AnswerStream:
    """The answer to one question while it comes.

        async for piece in app.stream("Tell me a story."):
            print(piece, end="", flush=True)

    Iterating gives the text, `events()` the typed events, `await .answer` the whole; each raises the error of a request
    that failed. Iterate once, by text or by events; what is not read yet is kept as one piece, so that a slow reader
    costs no memory. Dropping the stream stops nothing: `cancel()` does, and so does leaving it as a context
    (`async with app.stream(…) as answer`) before the end.
    """

    def __init__(self, request_id: str, *, cancel: Callable[[str], None], abandon: Callable[[str], None]) -> None:
        self.request_id = request_id
        self.conversation_id: str | None = None
        self._loop = asyncio.get_running_loop()
        self._cancel = cancel
        self._abandon = abandon
        self._unread: deque[Event] = deque()
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._outcome: Outcome | None = None
        self._given: list[str] = []
        self._is_replay = False
        self._is_read_out = False

    @property
    def answer(self) -> Awaitable[Answer]:
        """The whole answer, to be awaited.

        Raises: RequestFailed, RequestCancelled, RequestTimeout, ProtocolViolation, SessionReplaced, Closed.
        """
        return _Final(self._final)

    @property
    def is_over(self) -> bool:
        """Whether the ending has come."""
        return self._outcome is not None

    def cancel(self) -> None:
        """Stop the request at the server, which then ends it: RequestCancelled, or an answer that was whole."""
        if self._outcome is None:
            self._cancel(self.request_id)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        """The next piece of text.

        Raises: the request's error; AnswerRestarted: the answer restarted (after a crash of the server) with other
        words than were yielded. One that restarts with the same words just goes on.
        """
        while True:
            match await self._next():
                case Restarted():
                    self._is_replay = True
                case Text() as text if self._is_replay:
                    if piece := self._go_on(text.snapshot):
                        return piece
                case Text() as text:
                    self._given.append(text.delta)
                    return self._given[-1]
                case Done(answer):
                    if self._is_replay and answer.text != "".join(self._given):
                        raise AnswerRestarted(self.request_id)
                    raise StopAsyncIteration
                case _:
                    continue

    def _go_on(self, snapshot: str) -> str:
        """After a restart: what `snapshot` has beyond the text given out; nothing while it is behind."""
        given = "".join(self._given)
        if snapshot.startswith(given):
            self._is_replay = False
            self._given = [snapshot]
            return snapshot[len(given) :]
        if not given.startswith(snapshot):
            self._is_read_out = True
            raise AnswerRestarted(self.request_id)
        return ""

    async def events(self) -> AsyncIterator[Event]:
        """Queued, Started, Text…, Done; after a crash of the server also Restarted (drop the text so far), Text… again.

        While the model says nothing, Thinking comes every few seconds; before it, while files are sent, Uploading. Of
        the kinds that `parts` of the question names there are PartStarted and PartText; Restarted voids these, too.

        Raises: as `answer`.
        """
        while True:
            try:
                event = await self._next()
            except StopAsyncIteration:
                return
            yield event
            if isinstance(event, Done):
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._outcome is None:
            self._abandon(self.request_id)

    # --- what the client reports ------------------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Something happened. Text that was not read yet is joined."""
        if isinstance(event, Queued):
            self.conversation_id = event.conversation_id
        add(self._unread, event)
        if isinstance(event, Done):
            self._outcome = event.answer
            self._over.set()
        self._news.set()

    def fail(self, error: AnswerbackError) -> None:
        """The request ended with an error."""
        self._outcome = error
        self._over.set()
        self._news.set()

    async def _next(self) -> Event:
        while not self._unread:
            if self._is_read_out or isinstance(self._outcome, Answer):
                raise StopAsyncIteration
            if self._outcome is not None:
                self._is_read_out = True
                raise self._outcome
            self._news.clear()
            await self._wait(self._news)
        return self._unread.popleft()

    async def _final(self) -> Answer:
        await self._wait(self._over)
        outcome = self._outcome
        if isinstance(outcome, Answer):
            return outcome
        if outcome is None:
            raise RuntimeError("the stream is over without an outcome")
        raise outcome

    async def _wait(self, event: asyncio.Event) -> None:
        if not event.is_set() and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the answer belongs to a client in another event loop; read it there")
        await event.wait()
