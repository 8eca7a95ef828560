"""Good clients amid the attack: every answer of theirs has to come, and to be theirs."""

import asyncio
import time
from dataclasses import dataclass, field

from answerback import Client

_PAUSE_S = 0.05


@dataclass(slots=True)
class GoodClients:
    """`count` apps that ask until `stop`. `wrong` says what did not come as it should."""

    url: str
    count: int
    asked: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Ask nothing more."""
        self._over.set()

    async def run(self) -> None:
        """Ask until `stop`; returns when everything is answered."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._ask_on(number))

    async def _ask_on(self, number: int) -> None:
        async with Client(self.url, user=f"client-{number}") as app:
            turn = 0
            while not self._over.is_set():
                turn += 1
                question = f"Question {turn} of client {number}: é \U0001f600 " + "word " * (turn % 7)
                await self._ask(app, question.strip(), streamed=turn % 2 == 0)
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self, app: Client, question: str, *, streamed: bool) -> None:
        self.asked += 1
        began = time.monotonic()
        try:
            if streamed:
                async with app.stream(question) as stream:
                    text = "".join([piece async for piece in stream])
            else:
                text = (await app.ask(question)).text
        except Exception as exc:
            self.wrong.append(f"{type(exc).__name__} for {question!r}")
            return
        self.waits_s.append(time.monotonic() - began)
        if text == question:
            self.answered += 1
        else:
            self.wrong.append(f"{text!r} for {question!r}")
