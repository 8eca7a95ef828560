"""What other apps of the user ask and are answered, and how their list of conversations changes, as an app reads it."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Generic, Self, TypeVar

from answerback.client.driver import Driver
from answerback.client.effects import Show, WatchFailed, WatchHeld
from answerback.client.errors import AnswerbackError, RequestTimeout
from answerback.client.events import Asked, ChangesMissed, Done, Failed, TurnsMissed, Watched, WatchEvent
from answerback.client.session import Session
from answerback.client.stream import add
from answerback.client.watch_state import MAX_MISSED
from answerback.protocol.frames import ConversationChanged

T = TypeVar("T")

_MAX_CHANGES: Final = 1_000
"""Conversations with changes that nobody has read; after that the list is to be read again."""


class Watch(ABC, Generic[T]):
    """Something that is watched, from `async with` on, or from the first item of a plain `async for` on.

    It is over at the end of the outermost `async with`.
    """

    def __init__(self, hub: "WatchHub", conversation_id: str | None, after: str | None = None) -> None:
        self.is_live = False
        self._hub = hub
        self._conversation_id = conversation_id
        self._after = after
        self._news = asyncio.Event()
        self._held = asyncio.Event()
        self._error: AnswerbackError | None = None
        self._has_begun = False
        self._entered = 0
        self._is_closed = False

    async def __aenter__(self) -> Self:
        """Raises: RequestFailed: the server does not know this; RequestTimeout: it is not there; Closed.

        RuntimeError: it is over.
        """
        if self._is_closed:
            raise RuntimeError("this watch is over; begin another one")
        self._start()
        self._entered += 1
        try:
            async with asyncio.timeout(self._hub.timeout_s):
                await self._held.wait()
        except TimeoutError:
            self.close()
            raise RequestTimeout("watch", self._hub.timeout_s) from None
        except BaseException:
            self.close()
            raise
        if self._error is not None:
            raise self._error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered:
            self.close()

    def close(self) -> None:
        """Watch no longer; nothing of it is kept."""
        if not self._is_closed:
            self._is_closed, self.is_live = True, False
            if self._has_begun:
                self._hub.end(self, self._conversation_id)
            self._clear()
            self._news.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while True:
                try:
                    item = await self.next()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if not self._entered:
                self.close()

    async def next(self) -> T:
        """Wait for the next item. Raises: StopAsyncIteration: it is closed; otherwise as `async with`."""
        self._start()
        while not self._is_closed:
            if (item := self._pop()) is not None:
                return item
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    def _start(self) -> None:
        if not self._has_begun and not self._is_closed:
            self._hub.begin(self, self._conversation_id, self._after)
            self._has_begun = True

    # --- what the client reports ------------------------------------------------------------------------

    def held(self, *, is_live: bool) -> None:
        """The server has answered."""
        self.is_live = is_live
        self._held.set()

    def fail(self, error: AnswerbackError) -> None:
        """It is over."""
        self.is_live = False
        self._error = error
        self._held.set()
        self._news.set()

    def push(self, item: T) -> None:
        """Something happened. What is not read yet takes no more room than the answers themselves."""
        if not self._is_closed:
            self._add(item)
            self._news.set()

    @abstractmethod
    def _add(self, item: T) -> None: ...

    @abstractmethod
    def _pop(self) -> T | None: ...

    @abstractmethod
    def _clear(self) -> None: ...


class AnswerWatch(Watch[Watched]):
    """A conversation in which other apps of the user ask, laptop and phone, say, or two windows.

        async with app.watch("trip") as answers:
            async for request_id, event in answers:
                match event:
                    case Asked(question=question):
                        print(">", question)
                    case Text():
                        print(event.delta, end="", flush=True)

    `Asked` comes first of each request, then the events of `AnswerStream.events`, and `Done` or `Failed` last. So it is
    with an answer that ended while the connection was lost. One that runs already is shown from its start. What this
    app asks itself does not come. After `async with` has begun, every turn is in the history or comes here.

    `is_live`: false while the server has no room for one more that watches, or has not answered yet. Then turns come
    whole, after they have ended. What is not read yet is kept as one piece for each answer; of answers that have ended,
    the oldest are dropped for a reader that leaves too many, and `TurnsMissed` says so.
    """

    def __init__(self, hub: "WatchHub", conversation_id: str, after: str | None) -> None:
        super().__init__(hub, conversation_id, after)
        self.conversation_id = conversation_id
        self._unread: dict[str, deque[WatchEvent]] = {}
        self._has_missed = False

    def _add(self, item: Watched) -> None:
        request_id, event = item
        add(self._unread.setdefault(request_id, deque()), event)
        if len(self._unread) > MAX_MISSED:
            for oldest, unread in self._unread.items():
                if isinstance(unread[0], Asked | TurnsMissed) and isinstance(unread[-1], Done | Failed):
                    del self._unread[oldest]
                    self._has_missed = True
                    return

    def _pop(self) -> Watched | None:
        for request_id, unread in self._unread.items():
            if self._has_missed:
                self._has_missed = False
                return Watched(request_id, TurnsMissed())
            event = unread.popleft()
            if not unread:
                del self._unread[request_id]
            return Watched(request_id, event)
        return None

    def _clear(self) -> None:
        self._unread.clear()


class ChangeWatch(Watch[ConversationChanged | ChangesMissed]):
    """The list of the user's conversations, as other apps of the user change it.

        async for change in app.changes():
            match change:
                case ChangesMissed():
                    rows = {row.conversation_id: row async for row in app.conversations()}
                case ConversationChanged(conversation_id=conversation_id, title=title):
                    print(conversation_id, "is now", title)

    `ChangesMissed` comes first, and again after the connection was lost. Of several changes that are not read yet the
    latest of each conversation is kept.
    """

    def __init__(self, hub: "WatchHub") -> None:
        super().__init__(hub, None)
        self._unread: dict[str | None, ConversationChanged | ChangesMissed] = {}

    def _add(self, item: ConversationChanged | ChangesMissed) -> None:
        if isinstance(item, ChangesMissed) or len(self._unread) >= _MAX_CHANGES:
            self._unread = {None: ChangesMissed()}
        else:
            self._unread.pop(item.conversation_id, None)
            self._unread[item.conversation_id] = item

    def _pop(self) -> ConversationChanged | ChangesMissed | None:
        for key in self._unread:
            return self._unread.pop(key)
        return None

    def _clear(self) -> None:
        self._unread.clear()


class WatchHub:
    """The watches of a client: several of one conversation are one to the server.

    `check` raises if nothing can be watched here and now.
    """

    def __init__(self, session: Session, driver: Driver, *, timeout_s: float, check: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self._session = session
        self._driver = driver
        self._check = check
        self._watches: dict[str | None, list[Watch[Any]]] = {}
        self._is_live: dict[str | None, bool] = {}

    def begin(self, watch: Watch[Any], conversation_id: str | None, after: str | None) -> None:
        """Show it to one more reader.

        Raises: RequestFailed: the server does not know this. RuntimeError: wrong loop. ValueError: wrong `after`.
        """
        self._check()
        others = self._watches.get(conversation_id)
        if others is None:
            effects = self._session.watch(conversation_id, after=after, now=self._driver.now)
            self._watches[conversation_id] = [watch]
            self._driver.carry_out(effects)
            return
        if after is not None:
            raise ValueError(f"conversation {conversation_id!r} is watched already; the first watch says after what")
        others.append(watch)
        for item in [ChangesMissed()] if conversation_id is None else self._session.shown_so_far(conversation_id):
            watch.push(item)
        if (is_live := self._is_live.get(conversation_id)) is not None:
            watch.held(is_live=is_live)

    def end(self, watch: Watch[Any], conversation_id: str | None) -> None:
        """A reader has gone. If it was the last one, the server shows nothing more of it."""
        watches = self._watches.get(conversation_id, [])
        if watch in watches:
            watches.remove(watch)
            if not watches:
                del self._watches[conversation_id]
                self._is_live.pop(conversation_id, None)
                self._driver.carry_out(self._session.unwatch(conversation_id))

    def on_effect(self, effect: Show | WatchHeld | WatchFailed) -> None:
        """The session has something for the readers."""
        watches = self._watches.get(effect.conversation_id, [])
        match effect:
            case Show(_, item):
                for watch in watches:
                    watch.push(item)
            case WatchHeld(_, is_live):
                self._is_live[effect.conversation_id] = is_live
                for watch in watches:
                    watch.held(is_live=is_live)
            case WatchFailed(_, error):
                self._watches.pop(effect.conversation_id, None)
                self._is_live.pop(effect.conversation_id, None)
                for watch in watches:
                    watch.fail(error)
