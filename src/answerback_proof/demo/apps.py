"""The apps of the demo: each an SDK client with a user and a session of its own, asking everything at once."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from answerback.client import Answer, AnswerbackError, PartText, Queued, Restarted, Started, Text
from answerback.core.parts import KINDS
from answerback.texts import spoken
from answerback_proof.history import RunHistory
from answerback_proof.workload import App, PlannedRequest, Window

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
    """One question of one app, as the app sees it. Instants are monotonic seconds.

    `aside`: what the model says before the text, or in between; empty while the text comes.
    """

    number: int
    question: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    phase: Phase = Phase.ASKED
    position: int = 0
    text: str = ""
    aside: str = ""
    asked_at: float = 0.0
    first_text_at: float | None = None
    ended_at: float | None = None
    answer: Answer | None = None
    error: str = ""

    @property
    def is_over(self) -> bool:
        return self.phase in {Phase.DONE, Phase.FAILED}

    @property
    def first_text_s(self) -> float | None:
        """From the question to its first words."""
        return None if self.first_text_at is None else self.first_text_at - self.asked_at

    @property
    def total_s(self) -> float | None:
        """From the question to its ending."""
        return None if self.ended_at is None else self.ended_at - self.asked_at

    def take(self, event: object) -> None:
        match event:
            case Queued(position=position):
                self.phase, self.position = Phase.QUEUED, position
            case Started() | Restarted():
                self.phase, self.text, self.aside = Phase.WRITING, "", ""
            case PartText(kind=kind, name=name):
                self.aside = f"{spoken(kind)}{f' {name}' if name else ''}: {event.snapshot}"
            case Text():
                self.phase, self.text, self.aside = Phase.WRITING, event.snapshot, ""
                self.first_text_at = self.first_text_at or time.monotonic()
            case Answer():
                self.phase, self.answer, self.text, self.aside = Phase.DONE, event, event.text, ""
                self.ended_at = time.monotonic()
            case AnswerbackError():
                self.phase, self.error, self.ended_at = Phase.FAILED, str(event), time.monotonic()
            case _:
                pass


Changed = Callable[["DemoApp", OpenQuestion], None]


class DemoApp(App[Window]):
    """One app with its questions. `url` is where it connects; a `token`, if there is one, says who its user is."""

    def __init__(
        self,
        number: int,
        questions: Sequence[str],
        *,
        history: RunHistory,
        url: str = "",
        name: str = "",
        token: str | None = None,
    ) -> None:
        super().__init__(user=f"{name}user_{number:03}", session=f"{name}session-{number:03}", history=history)
        self.name = f"app {number}"
        self.url = url
        self.token = token
        self.questions = [OpenQuestion(number=place, question=text) for place, text in enumerate(questions, start=1)]
        self._on_change: Changed = lambda app, asked: None

    def new_window(self, name: str) -> Window:
        return Window(self, name, self.url, user=None if self.token else self.user, token=self.token)

    def saw(self, request_id: str, event: object) -> None:
        asked = next(asked for asked in self.questions if asked.request_id == request_id)
        asked.take(event)
        self._on_change(self, asked)

    async def run(self, ready: asyncio.Barrier, *, max_tokens: int, on_change: Changed) -> None:
        """Connect, wait for the others, and ask everything at once."""
        self._on_change = on_change
        await self.open()
        try:
            await ready.wait()
            results = []
            for asked in self.questions:
                asked.asked_at = time.monotonic()
                request = PlannedRequest(
                    request_id=asked.request_id,
                    text=asked.question,
                    max_tokens=max_tokens,
                    parts=tuple(sorted(KINDS)),
                )
                results.append(self.ask(request))
                on_change(self, asked)
            await asyncio.gather(*results)
        finally:
            await self.window.close()


def questions_of(app: int, count: int) -> tuple[str, ...]:
    """The questions of app 1, 2, …; those of the first few are all different."""
    return tuple(QUESTIONS[((app - 1) * count + number) % len(QUESTIONS)] for number in range(count))


async def ask_all(apps: Sequence[DemoApp], *, max_tokens: int, on_change: Changed) -> None:
    """Connect every app, then let all of them ask everything at once; return when every question has its ending.

    Raises: AnswerbackError: an app could not connect.
    """
    ready = asyncio.Barrier(len(apps))
    try:
        async with asyncio.TaskGroup() as group:
            for app in apps:
                group.create_task(app.run(ready, max_tokens=max_tokens, on_change=on_change), name=app.name)
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from exc
