"""The one workload of the proof: what apps ask, and an app that asks it with the real client.

Chaos, simulation and demo drive `App`s. A load test takes the requests alone: the client would be what it measures.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final, Generic, TypeVar

from msgspec import structs

from answerback.client import (
    Answer,
    AnswerbackError,
    Client,
    Closed,
    Done,
    Failed,
    File,
    PendingRequest,
    ProtocolViolation,
    RequestCancelled,
    RequestTimeout,
    Restarted,
    SessionReplaced,
    Text,
    TurnsMissed,
)
from answerback.client import Asked as AskedElsewhere
from answerback.client.stream import AnswerStream
from answerback.client.watching import AnswerWatch
from answerback.protocol.frames import SendMessage
from answerback_proof.history import (
    Asked,
    Cancelled,
    Cleared,
    Ended,
    QuestionShown,
    Result,
    RunHistory,
    Shown,
    TurnsRead,
    WatchBegun,
    WatchLeft,
)

_WORDS: Final = ("word", "단어", "слово", "語", "🙂", "é", "\n")

PARTS_SHARE: Final = 0.6

READ_AGAIN_S: Final = 2.0
"""Until an app that watches tries again what it could not read or watch."""

# --- what is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request of an app. `timeout_s`: when its client gives up. `is_repeated`: asked again once it is completed."""

    request_id: str
    text: str
    conversation: str | None = None
    stream: bool = True
    model: str | None = None
    max_tokens: int | None = None
    timeout_s: float | None = None
    cancel_after_s: float | None = None
    is_repeated: bool = False
    parts: tuple[str, ...] = ()
    files: tuple[File, ...] = ()

    def frame(self) -> SendMessage:
        return SendMessage(
            request_id=self.request_id,
            message=self.text,
            stream=self.stream,
            conversation_id=self.conversation,
            model=self.model,
            max_tokens=self.max_tokens,
            parts=self.parts if self.stream else (),
            attachments=tuple(file.attachment for file in self.files),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How the requests of a run differ. `streamed`, `cancelled`, `timed` and `repeated` are shares of them.

    `words`: lengths of questions. `cancel_within_s`: of asking. `timeouts_s`: the least and the most of those timed.
    `parts`: kinds of parts that some of them want.
    """

    streamed: float
    words: Sequence[int]
    cancelled: float = 0.0
    cancel_within_s: float = 0.0
    timed: float = 0.0
    timeouts_s: tuple[float, float] = (0.0, 0.0)
    repeated: float = 0.0
    parts: tuple[str, ...] = ()

    def draw(self, rng: Random, request_id: str, conversations: Sequence[str | None]) -> PlannedRequest:
        return PlannedRequest(
            request_id=request_id,
            text=question(request_id, rng.choice(self.words), rng),
            conversation=rng.choice(conversations),
            stream=rng.random() < self.streamed,
            parts=self.parts if self.parts and rng.random() < PARTS_SHARE else (),
            timeout_s=rng.uniform(*self.timeouts_s) if rng.random() < self.timed else None,
            cancel_after_s=rng.uniform(0, self.cancel_within_s) if rng.random() < self.cancelled else None,
            is_repeated=rng.random() < self.repeated,
        )


def question(name: str, words: int, rng: Random | None = None, *, min_bytes: int = 0) -> str:
    """A question each of whose words names it, filled up to `min_bytes`. With `rng` some words are not ASCII."""
    text = " ".join([f"{name}:{number}{rng.choice(_WORDS) if rng else ''}" for number in range(words)])
    return text + "." * (min_bytes - len(text))


# --- who asks


W = TypeVar("W", bound="Window")


class App(ABC, Generic[W]):
    """One app of one user. Its program may be started again and again; what outlives it is on the `disk`.

    `is_echo`: every answer has to be its question. `prefix` stands before the ids of requests in the history, where
    users have the same ones.
    """

    def __init__(
        self, *, user: str, session: str, history: RunHistory, is_echo: bool = False, prefix: str = ""
    ) -> None:
        self.user = user
        self.session = session
        self.history = history
        self.is_echo = is_echo
        self.prefix = prefix
        self.disk: dict[str, PendingRequest] = {}
        self.outcomes: list[tuple[str, Answer | AnswerbackError]] = []
        self.results: dict[str, asyncio.Future[Ended]] = {}
        self.windows: list[W] = []
        self.watches: set[str] = set()
        """Conversations that its user looks at: whichever window is open watches them."""

    @abstractmethod
    def new_window(self, name: str) -> W:
        """A run of the program, with a client of its own."""

    def saw(self, request_id: str, event: object) -> None:
        """The client has said something about a request, or how it ended."""

    @property
    def window(self) -> W:
        """The one that its user looks at."""
        return self.windows[-1]

    @property
    def open_requests(self) -> list[str]:
        """What has no ending yet."""
        return [request_id for request_id, result in self.results.items() if not result.done()]

    async def open(self) -> None:
        """Start the program, which goes on with what is on the disk. Raises: AnswerbackError: it cannot connect."""
        self.windows.append(self.new_window(f"window {len(self.windows)}"))
        await self.window.open()

    async def restart(self) -> None:
        if self.window.is_open:
            await self.window.close()
            await self.open()

    def ask(self, request: PlannedRequest, *, again: bool = False) -> asyncio.Future[Ended]:
        """Ask; what will be seen of its end. `again`: it has ended before."""
        request_id = request.request_id
        if not again:
            asked = Asked(
                request=self.prefix + request_id,
                user=self.user,
                session=self.session,
                conversation=request.conversation,
                text=request.text,
                answer=request.text if self.is_echo else None,
                stream=request.stream,
                parts=request.parts,
                may_time_out=request.timeout_s is not None,
            )
            self.history.add(asked)
        paths = tuple(file.path for file in request.files)
        self.disk[request_id] = PendingRequest(frame=request.frame(), paths=paths)
        self.results[request_id] = asyncio.get_running_loop().create_future()
        if self.window.is_open:
            self.window.ask(request, f"{self.window.name}, again" if again else self.window.name)
        if request.cancel_after_s is not None and not again:
            asyncio.get_running_loop().call_later(request.cancel_after_s, self.cancel, request_id)
        return self.results[request_id]

    def cancel(self, request_id: str) -> None:
        self.history.add(Cancelled(request=self.prefix + request_id))
        if self.window.is_open:
            self.window.client.cancel(request_id)

    def watch(self, conversation: str) -> None:
        """The user opens a conversation, to see there what is asked on other devices."""
        self.watches.add(conversation)
        if self.window.is_open:
            self.window.watch(conversation)

    def unwatch(self, conversation: str) -> None:
        self.watches.discard(conversation)
        self.window.unwatch(conversation)

    def stop_watched(self, request_id: str, conversation: str) -> None:
        if self.window.is_open:
            self.history.add(Cancelled(request=self.prefix + request_id))
            self.window.client.cancel(request_id, conversation=conversation)

    def saw_question(self, request_id: str, conversation: str) -> None:
        """An app that watches is shown a question."""

    def see(self, request_id: str, observer: str, outcome: Answer | AnswerbackError) -> None:
        ended = ending(self.prefix + request_id, observer, outcome)
        self.outcomes.append((request_id, outcome))
        self.history.add(ended)
        if isinstance(outcome, ProtocolViolation):
            self.history.broke(str(outcome), request=ended.request)
        if (result := self.results.get(request_id)) is not None and not result.done():
            result.set_result(ended)
        self.saw(request_id, outcome)


class Window:
    """One run of an app's program: a client, made with `options`, and readers of its answers.

    It is the client's Outbox, over the app's disk.
    """

    def __init__(self, app: App[Any], name: str, url: str, **options: Any) -> None:
        self.app = app
        self.name = name
        self.is_open = False
        self.client = Client(url, session=app.session, outbox=self, **options)
        self._unseen: dict[str, Answer | AnswerbackError] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._watches: dict[str, tuple[str, AnswerWatch]] = {}
        self._numbers = count(1)

    async def open(self) -> None:
        """Connect, show the endings that came right before the last window went, and read the answers that are due."""
        self.is_open = True
        for window in self.app.windows[:-1]:
            if not window.is_open:
                for request_id, outcome in window.take_unseen():
                    self.app.see(request_id, self.name, outcome)
        await self.client.open()
        for stream in self.client.restored:
            self.spawn(self._read(stream.request_id, self.name, stream))
        for conversation in sorted(self.app.watches):
            self.watch(conversation)

    async def close(self) -> None:
        """The program ends; what it has asked goes on at the server."""
        self.is_open = False
        self.leave()
        await self.client.aclose()
        await asyncio.gather(*self._readers)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    def take_unseen(self) -> list[tuple[str, Answer | AnswerbackError]]:
        """The endings that were stored and never shown."""
        unseen, self._unseen = self._unseen, {}
        return list(unseen.items())

    def ask(self, request: PlannedRequest, observer: str) -> None:
        self.spawn(self._ask(request, observer))

    async def _ask(self, request: PlannedRequest, observer: str) -> None:
        options: dict[str, Any] = {
            "conversation": request.conversation,
            "request_id": request.request_id,
            "model": request.model,
            "max_tokens": request.max_tokens,
            "attachments": request.files,
        }
        try:
            if request.stream:
                stream = self.client.stream(
                    request.text, total_timeout=request.timeout_s, parts=request.parts, **options
                )
                await self._read(request.request_id, observer, stream)
            else:
                answer = await self.client.ask(request.text, timeout=request.timeout_s, **options)
                self._see(request.request_id, observer, answer)
        except AnswerbackError as error:
            self._see(request.request_id, observer, error)

    async def _read(self, request_id: str, observer: str, stream: AnswerStream) -> None:
        """Read an answer as an app would show it."""
        request = self.app.prefix + request_id
        try:
            async for event in stream.events():
                self._add_shown(request, observer, event)
                self.app.saw(request_id, event)
            self._see(request_id, observer, await stream.answer)
        except AnswerbackError as error:
            self._see(request_id, observer, error)

    def _add_shown(self, request: str, observer: str, event: object) -> None:
        if isinstance(event, Text):
            shown = Shown(request=request, observer=observer, offset=event.offset, delta=event.delta)
            self.app.history.add(shown)
        elif isinstance(event, Restarted):
            self.app.history.add(Cleared(request=request, observer=observer))

    # --- what others ask

    def watch(self, conversation: str) -> None:
        if conversation not in self._watches:
            observer = f"{self.app.session}, {self.name}, watch {next(self._numbers)}"
            watch = self.client.watch(conversation)
            self._watches[conversation] = observer, watch
            self.spawn(self._follow(conversation, observer, watch))

    def unwatch(self, conversation: str) -> None:
        if (found := self._watches.pop(conversation, None)) is not None:
            observer, watch = found
            self.app.history.add(WatchLeft(observer=observer))
            watch.close()

    def leave(self) -> None:
        """The program is gone, and sees nothing more."""
        for observer, _ in self._watches.values():
            self.app.history.add(WatchLeft(observer=observer))
        self._watches.clear()

    async def _follow(self, conversation: str, observer: str, watch: AnswerWatch) -> None:
        """Show a conversation that is watched."""
        app = self.app
        if self._watches.get(conversation, ("",))[0] != observer:
            return  # it was left before it began
        try:
            async with watch:
                begun = WatchBegun(observer=observer, user=app.user, session=app.session, conversation=conversation)
                app.history.add(begun)
                self.spawn(self._read_turns(conversation, observer))
                async for request_id, event in watch:
                    self._show(conversation, observer, request_id, event)
        except (Closed, SessionReplaced):
            pass
        except RequestTimeout:
            self.unwatch(conversation)
            await asyncio.sleep(READ_AGAIN_S)
            if self.is_open and conversation in app.watches:
                self.watch(conversation)
        except AnswerbackError as error:
            app.history.broke(f"{observer}: {error!r}")
        if self._watches.get(conversation, ("",))[0] == observer:
            self.unwatch(conversation)

    async def _read_turns(self, conversation: str, observer: str) -> None:
        """Read what the conversation has, until it can be read."""
        while self._watches.get(conversation, ("",))[0] == observer:
            try:
                turns = [self.app.prefix + turn.request_id async for turn in self.client.history(conversation)]
            except (Closed, SessionReplaced):
                return
            except AnswerbackError:
                await asyncio.sleep(READ_AGAIN_S)
            else:
                self.app.history.add(TurnsRead(observer=observer, requests=tuple(turns)))
                return

    def _show(self, conversation: str, observer: str, request_id: str, event: object) -> None:
        """What an app shows of a conversation that it watches."""
        history, request = self.app.history, self.app.prefix + request_id
        match event:
            case AskedElsewhere(conversation_id=where, question=question, is_cut=is_cut):
                history.add(
                    QuestionShown(
                        request=request, observer=observer, conversation=where, question=question, is_cut=is_cut
                    )
                )
                self.app.saw_question(request_id, conversation)
            case Text() | Restarted():
                self._add_shown(request, observer, event)
            case Done(outcome) | Failed(outcome):
                history.add(ending(request, observer, outcome))
                if isinstance(outcome, ProtocolViolation):
                    history.broke(f"{observer}: {outcome}", request=request)
            case TurnsMissed():
                self.spawn(self._read_turns(conversation, observer))
            case _:
                pass

    def _see(self, request_id: str, observer: str, outcome: Answer | AnswerbackError) -> None:
        self._unseen.pop(request_id, None)
        if not isinstance(outcome, Closed | SessionReplaced):  # endings of this window only
            self.app.see(request_id, observer, outcome)

    # --- client.Outbox

    def load(self) -> Sequence[PendingRequest]:
        return list(self.app.disk.values())

    def save(self, pending: PendingRequest) -> None:
        if self.is_open:
            self.app.disk[pending.frame.request_id] = pending

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        if self.is_open and self.app.disk.pop(request_id, None) is not None:
            self._unseen[request_id] = outcome


def ending(request: str, observer: str, outcome: Answer | AnswerbackError) -> Ended:
    """What the client says about the end of a request, as an event."""
    answer: Answer | None
    match outcome:
        case Answer():
            result, answer, code = Result.COMPLETED, outcome, ""
        case RequestCancelled():
            result, answer, code = Result.CANCELLED, outcome.answer, ""
        case RequestTimeout():
            return Ended(request=request, observer=observer, result=Result.TIMED_OUT, text=outcome.text)
        case _:
            result, answer, code = Result.FAILED, getattr(outcome, "answer", None), outcome.code
    ended = Ended(request=request, observer=observer, result=result, code=code)
    if answer is None:
        return ended
    return structs.replace(ended, text=answer.text, attempt=answer.attempt, parts=answer.parts)
