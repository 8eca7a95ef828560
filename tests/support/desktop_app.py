"""The desktop app without its looks: the engine and the view models, driven by a test's event loop."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from answerback.client import Timing
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.engine.answers import SILENCE_S, WAIT_S
from answerback_desktop.engine.events import Event
from answerback_desktop.profile import Profile
from answerback_desktop.settings import Settings, SettingsFile
from answerback_desktop.signin.vault import MemoryVault
from answerback_desktop.viewmodels import AppViewModel, ConversationViewModel, TurnViewModel

TIMEOUT_S = 30.0
QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.01, queue_wait_s=WAIT_S, stream_silence_s=SILENCE_S)


class DesktopApp:
    """Start it with `async with`. Leaving closes the engine; `kill` does what a power cut does to it."""

    def __init__(self, root: Path, name: str, settings: Settings | None = None, **environment: Any) -> None:
        self.profile = Profile.named(name, root=root)
        if settings is not None:
            self.profile.folder.mkdir(parents=True, exist_ok=True)
            SettingsFile(self.profile.settings_path).save(settings)
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        chosen = {"vault": MemoryVault(), "timing": QUICK, **environment}
        self.engine = Engine(
            Environment(profile=self.profile, **chosen), on_event=lambda: loop.call_soon_threadsafe(self._news.set)
        )
        self.model = AppViewModel(self.engine)
        self.events: list[Event] = []
        self.changes: list[Any] = []

    async def __aenter__(self) -> "DesktopApp":
        await asyncio.to_thread(self.engine.start)
        self.pump()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.engine.close()
        assert await asyncio.to_thread(self.engine.join, TIMEOUT_S)
        self.pump()

    def pump(self) -> None:
        events = self.engine.drain()
        self.events += events
        self.changes.append(self.model.apply(events))

    async def until(self, condition: Callable[[], object]) -> None:
        """Take events until it holds."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    self._news.clear()
                    self.pump()
                    if condition():
                        return
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it never came to be: {self.describe()}") from None

    async def online(self) -> None:
        await self.until(lambda: self.model.connection.is_online)

    async def ask(self, text: str, conversation: ConversationViewModel | None = None) -> TurnViewModel:
        """Ask, and wait until the turn is shown."""
        conversation = conversation or self.model.new_conversation()
        request_id = conversation.ask(text)
        await self.until(lambda: conversation.turn(request_id) is not None)
        return conversation.turn(request_id)

    async def shows(self, turn: TurnViewModel, text: str) -> None:
        await self.until(lambda: turn.answer == text)

    def describe(self) -> object:
        return (
            self.model.connection.status,
            self.model.connection.reason,
            [(one.title, [(t.question, t.status, t.answer) for t in one.messages]) for one in self.model.conversations],
            [notice.code for notice in self.model.notices],
        )
