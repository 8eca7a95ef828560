"""The apps of the demo: each an SDK client with a user and a session of its own, asking everything at once."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from answerback.client import AnswerbackError, Client
from answerback.client.events import Answer, Done, Queued, Restarted, Started, Text
from answerback_proof.history import Asked, History
from answerback_proof.observe import ending, show

QUESTIONS: Final = (
    "What is a WebSocket?",
    "Why is the sky blue?",
    "Give me one tip for writing clear emails.",
    "What does a database do?",
    "How do bees make honey?",
    "Why should I drink water in the morning?",
    "What is a message queue?",
    "What makes the tides rise and fall?",
    "How can I remember names better?",
    "What is the difference between a thread and a process?",
    "How do birds find their way?",
    "What should I pack for a day in the mountains?",
)
"""Short questions that a small English model can answer."""


class Phase(StrEnum):
    """Where a question is, for the screen."""

    ASKED = "asked"
    QUEUED = "queued"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True, eq=False, kw_only=True)
class OpenQuestion:
    """One question of one app, as the app sees it. Instants are monotonic seconds."""

    number: int
    question: str
    request_id: str = ""
    phase: Phase = Phase.ASKED
    position: int = 0
    text: str = ""
    asked_at: float = 0.0
    first_text_at: float | None = None
    ended_at: float | None = None
    answer: Answer | None = None
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has its ending."""
        return self.phase in {Phase.DONE, Phase.FAILED}

    @property
    def first_text_s(self) -> float | None:
        """From the question to its first words."""
        return None if self.first_text_at is None else self.first_text_at - self.asked_at

    @property
    def total_s(self) -> float | None:
        """From the question to its ending."""
        return None if self.ended_at is None else self.ended_at - self.asked_at


@dataclass(slots=True, eq=False, kw_only=True)
class App:
    """One desktop app. `url` is where it connects; with a `token`, that says who its user is, and not `user`."""

    number: int
    user: str
    session: str
    url: str
    token: str | None = None
    questions: list[OpenQuestion] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For people."""
        return f"app {self.number}"


def make_apps(count: int, questions: int, *, url: str, name: str = "", token: str | None = None) -> list[App]:
    """Apps with users and sessions of their own; the first few ask different questions."""
    return [
        App(
            number=number,
            user=f"{name}user_{number:03}",
            session=f"{name}session-{number:03}",
            url=url,
            token=token,
            questions=[
                OpenQuestion(number=place, question=question)
                for place, question in enumerate(questions_of(number - 1, questions), start=1)
            ],
        )
        for number in range(1, count + 1)
    ]


def questions_of(app: int, count: int) -> tuple[str, ...]:
    """The questions of one app; those of the first few apps are all different."""
    return tuple(QUESTIONS[(app * count + number) % len(QUESTIONS)] for number in range(count))


Changed = Callable[[App, OpenQuestion], None]


async def ask_all(apps: Sequence[App], *, history: History, max_tokens: int, on_change: Changed) -> None:
    """Connect every app, then let all of them ask everything at once; return when every question has its ending.

    Raises: AnswerbackError: an app could not connect.
    """
    ready = asyncio.Barrier(len(apps))
    try:
        async with asyncio.TaskGroup() as group:
            for app in apps:
                group.create_task(
                    _run(app, ready, history=history, max_tokens=max_tokens, on_change=on_change), name=app.name
                )
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from exc


async def _run(app: App, ready: asyncio.Barrier, *, history: History, max_tokens: int, on_change: Changed) -> None:
    async with Client(app.url, user=None if app.token else app.user, token=app.token, session=app.session) as client:
        await ready.wait()
        async with asyncio.TaskGroup() as group:
            for asked in app.questions:
                group.create_task(_ask(app, client, asked, history=history, max_tokens=max_tokens, on_change=on_change))


async def _ask(
    app: App, client: Client, asked: OpenQuestion, *, history: History, max_tokens: int, on_change: Changed
) -> None:
    asked.asked_at = time.monotonic()
    stream = client.stream(asked.question, max_tokens=max_tokens)
    request = asked.request_id = stream.request_id
    history.add(Asked(request=request, user=app.user, session=app.session, conversation=None, text=asked.question))
    on_change(app, asked)
    try:
        async for event in stream.events():
            show(history, request, app.name, event)
            match event:
                case Queued(position=position):
                    asked.phase, asked.position = Phase.QUEUED, position
                case Started() | Restarted():
                    asked.phase, asked.text = Phase.WRITING, ""
                case Text():
                    asked.phase, asked.text = Phase.WRITING, event.snapshot
                    asked.first_text_at = asked.first_text_at or time.monotonic()
                case Done(answer):
                    asked.phase, asked.answer, asked.text = Phase.DONE, answer, answer.text
                    asked.ended_at = time.monotonic()
                    history.add(ending(request, app.name, answer))
            on_change(app, asked)
    except AnswerbackError as exc:
        history.add(ending(request, app.name, exc))
        asked.phase, asked.error, asked.ended_at = Phase.FAILED, str(exc), time.monotonic()
        on_change(app, asked)
