"""The same client for programs without an event loop: the asyncio client on a thread of its own."""

import asyncio
import concurrent.futures
import inspect
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from answerback.client.asking import AskOptions, StreamOptions
from answerback.client.client import Client, ClientOptions, ValueT
from answerback.client.errors import Closed
from answerback.client.events import Answer, ChangesMissed, ConnectionState, Event, Watched
from answerback.client.outbox import PendingRequest
from answerback.client.stream import AnswerStream
from answerback.client.uploads import File
from answerback.client.watching import Watch
from answerback.protocol import frames

T = TypeVar("T")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_POLL_S = 0.2
"""A wait in pieces, so that Ctrl-C gets through on every platform."""


class _LoopThread:
    """An event loop on a private thread, of the process that made it.

    Ctrl-C can come between any two steps of a thread that waits here. So it waits for a plain lock of its own call and
    shares nothing else with the loop: an interrupted `Condition` would stay locked, and the loop would wait for it for
    ever. Nor does it hold the task: where a task goes, Python runs a callback that swallows an interruption.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._has_ended = False
        self._thread = threading.Thread(target=self._serve, name="answerback-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._has_ended = True

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end and return the result; Ctrl-C cancels it there and is raised here.

        Raises: RuntimeError: nobody would run it: another process, an ended thread, or the one that it would block.
        """
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        is_over = threading.Lock()
        running: list[asyncio.Task[T]] = []

        def start() -> None:
            task = self._loop.create_task(coroutine)
            running.append(task)
            task.add_done_callback(end)

        def end(task: "asyncio.Task[T]") -> None:
            running.clear()
            _copy_result(task, into=result)
            is_over.release()

        def cancel() -> None:
            if running:
                running[0].cancel()
            else:
                coroutine.close()

        is_over.acquire()
        try:
            self._check()
            self._loop.call_soon_threadsafe(start)
            while not is_over.acquire(timeout=_POLL_S):
                self._check()
        except BaseException as exc:
            if self.is_here:
                self._loop.call_soon_threadsafe(cancel)
            else:
                coroutine.close()
            if self._loop.is_closed() and isinstance(exc, RuntimeError):  # its own, or of `_check`: it has ended
                raise Closed from None
            raise
        return result.result()

    def stop(self) -> None:
        """End the thread. Nothing can be run afterwards. In a forked process there is none to end."""
        if not self.is_here:
            return
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def is_here(self) -> bool:
        """Whether this is the process that the thread belongs to, and the thread runs."""
        return os.getpid() == self._process and not self._has_ended and not self._loop.is_closed()

    def _check(self) -> None:
        """Raises: RuntimeError: the thread will not run anything for this caller, who would wait for ever."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "the client was opened in another process, before a fork; make a new BlockingClient in this one"
            )
        if self._has_ended:
            raise RuntimeError("the client's thread has ended; make a new BlockingClient")
        if threading.current_thread() is self._thread:
            raise RuntimeError("the client cannot be called from its own callbacks; hand the work to another thread")


def _copy_result(task: "asyncio.Task[T]", *, into: "concurrent.futures.Future[T]") -> None:
    if task.cancelled():
        into.cancel()
    elif (error := task.exception()) is not None:
        into.set_exception(error)
    else:
        into.set_result(task.result())


class BlockingAnswerStream:
    """A streamed answer: iterate over it for the text or over `events()`; `.answer` waits for the whole."""

    def __init__(self, stream: AnswerStream, thread: _LoopThread) -> None:
        self._stream = stream
        self._thread = thread
        self.request_id = stream.request_id

    @property
    def conversation_id(self) -> str | None:
        """Where the turn is kept, once the server has accepted it."""
        return self._stream.conversation_id

    @property
    def answer(self) -> Answer:
        """The whole answer; waits for it. Raises: as `AnswerStream.answer`."""
        return self._thread.run(_awaited(self._stream))

    def cancel(self) -> None:
        """Stop the request at the server; see `AnswerStream.cancel`."""
        self._thread.run(_called(self._stream.cancel))

    def __iter__(self) -> Iterator[str]:
        return _iterate(aiter(self._stream), self._thread)

    def events(self) -> Iterator[Event]:
        """Iterate over the events, as `AnswerStream.events` does."""
        return _iterate(self._stream.events(), self._thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run(self._stream.__aexit__())


class BlockingWatch(Generic[T]):
    """What `AnswerWatch` or `ChangeWatch` shows: use it in a `with` and iterate over it, or just iterate."""

    def __init__(self, watch: Watch[T], thread: _LoopThread) -> None:
        self._watch = watch
        self._thread = thread
        self._is_entered = False
        self._items: deque[T] = deque()

    @property
    def is_live(self) -> bool:
        """Whether the server shows it while it happens; see `AnswerWatch`."""
        return self._watch.is_live

    def close(self) -> None:
        """Watch no longer."""
        with suppress(Closed):
            self._thread.run(_called(self._watch.close))

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                try:
                    self._thread.run(self._wait())
                except StopAsyncIteration:
                    return
                try:
                    item = self._items.popleft()
                except IndexError:  # another thread that iterates has taken it
                    continue
                yield item
        finally:
            if not self._is_entered:
                self.close()

    async def _wait(self) -> None:
        """Put the next item where it is found although Ctrl+C came in between."""
        if not self._items:
            self._items.append(await self._watch.next())

    def __enter__(self) -> Self:
        """Raises: as `AnswerWatch`."""
        self._thread.run(self._watch.__aenter__())
        self._is_entered = True
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Closed):
            self._thread.run(self._watch.__aexit__())


def _as_in(method: Callable[..., Any]) -> Callable[[FunctionT], FunctionT]:
    """Show the arguments of a method of `Client`, to which they are passed on."""

    def mark(function: FunctionT) -> FunctionT:
        shown = inspect.signature(method).replace(return_annotation=inspect.signature(function).return_annotation)
        vars(function)["__signature__"] = shown
        return function

    return mark


class BlockingClient:
    """`Client` without asyncio; the same arguments, methods and errors.

        with BlockingClient("ws://127.0.0.1:8765") as app:
            print(app.ask("What is a WebSocket?").text)

    May be used from several threads. `on_state`, a token function and the outbox are called on its private thread.
    """

    @_as_in(Client.__init__)
    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        self._client = Client(url, **options)
        self._running: _LoopThread | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect; what `with` does. Raises: CannotConnect, Unauthorized, Forbidden."""
        thread = _LoopThread()
        try:
            thread.run(self._client.open())
        except BaseException:
            thread.stop()
            raise
        self._running = thread

    def close(self) -> None:
        """Close the connection and end the thread. Questions under way go on at the server."""
        if self._running is not None and self._running.is_here:
            self._running.run(self._client.aclose())
            self._running.stop()

    @property
    def session_id(self) -> str:
        """The app's session id."""
        return self._client.session_id

    @property
    def state(self) -> ConnectionState:
        """The connection's state now."""
        return self._client.state

    @property
    def wanted_version(self) -> str | None:
        """The least version that the server likes to see; see `Client.wanted_version`."""
        return self._client.wanted_version

    def model_info(self, name: str | None = None) -> frames.ModelInfo:
        """What the server has said of a model; see `Client.model_info`."""
        return self._client.model_info(name)

    @overload
    def ask(self, message: str, *, type: type[ValueT], repair: int = 0, **options: Unpack[AskOptions]) -> ValueT: ...

    @overload
    def ask(self, message: str, **options: Unpack[AskOptions]) -> Answer: ...

    @_as_in(Client.ask)
    def ask(
        self, message: str, *, type: type[ValueT] | None = None, repair: int = 0, **options: Unpack[AskOptions]
    ) -> Answer | ValueT:
        """Ask and wait for the whole answer; see `Client.ask`. Ctrl-C stops the request at the server."""
        if type is None:
            return self._thread.run(self._client.ask(message, **options))
        return self._thread.run(self._client.ask(message, type=type, repair=repair, **options))

    @_as_in(Client.stream)
    def stream(self, message: str, **options: Unpack[StreamOptions]) -> BlockingAnswerStream:
        """Ask, and read the answer while it comes: `for piece in app.stream(…)`; see `Client.stream`."""
        stream = self._thread.run(_called(lambda: self._client.stream(message, **options)))
        return BlockingAnswerStream(stream, self._thread)

    def cancel(self, request_id: str, *, conversation: str | None = None) -> None:
        """Stop a question; see `Client.cancel`."""
        self._thread.run(_called(lambda: self._client.cancel(request_id, conversation=conversation)))

    def watch(self, conversation: str, *, after: str | None = None) -> BlockingWatch[Watched]:
        """Show what other apps of the user ask in a conversation: `for request_id, event in …`; see `Client.watch`."""
        return BlockingWatch(self._client.watch(conversation, after=after), self._thread)

    def changes(self) -> BlockingWatch[frames.ConversationChanged | ChangesMissed]:
        """Tell when other apps of the user change the list of conversations; see `Client.changes`."""
        return BlockingWatch(self._client.changes(), self._thread)

    @property
    def restored(self) -> tuple[BlockingAnswerStream, ...]:
        """The answers to questions of an earlier run; see `Client.restored`."""
        return tuple(BlockingAnswerStream(stream, self._thread) for stream in self._client.restored)

    def pending(self) -> list[PendingRequest]:
        """Every question without an ending, in the order asked."""
        return self._thread.run(_called(self._client.pending))

    def conversations(self) -> Iterator[frames.ConversationSummary]:
        """The user's conversations, last used first."""
        return _iterate(self._client.conversations(), self._thread)

    def history(self, conversation: str, *, superseded: bool = False, parts: bool = False) -> Iterator[frames.Turn]:
        """A conversation's turns, newest first, each whole; see `Client.history`."""
        return _iterate(self._client.history(conversation, superseded=superseded, parts=parts), self._thread)

    def attachment(self, named: frames.Attachment, *, progress: Callable[[int], None] = lambda _: None) -> File:
        """A file of an earlier question; see `Client.attachment`. `progress` is called on the private thread."""
        return self._thread.run(self._client.attachment(named, progress=progress))

    def rename(self, conversation: str, title: str) -> frames.Conversation:
        """Give a conversation a title of at most 200 characters."""
        return self._thread.run(self._client.rename(conversation, title))

    def delete(self, conversation: str) -> frames.Conversation:
        """Delete a conversation; `restore` brings it back."""
        return self._thread.run(self._client.delete(conversation))

    def restore(self, conversation: str) -> frames.Conversation:
        """Bring a deleted conversation back."""
        return self._thread.run(self._client.restore(conversation))

    def budget(self) -> frames.BudgetInfo | None:
        """How the user's budget stands now; None: there is none, or the server knows no budgets."""
        return self._thread.run(self._client.budget())

    def ping(self) -> float:
        """The round trip to the server and back, in seconds."""
        return self._thread.run(self._client.ping())

    @property
    def _thread(self) -> _LoopThread:
        if self._running is None:
            raise RuntimeError("the client is not open; use it as `with BlockingClient(…) as app:`")
        return self._running


def _iterate(source: AsyncIterator[T], thread: _LoopThread) -> Iterator[T]:
    while True:
        try:
            item = thread.run(_next(source))
        except StopAsyncIteration:
            return
        yield item


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def _awaited(stream: AnswerStream) -> Answer:
    return await stream.answer


async def _called(function: Callable[[], T]) -> T:
    return function()
