"""Fixtures of the gateway's tests."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from answerback.core.handshake import Hosts, Rules, origins
from answerback.gateway.listener import Listener
from answerback.gateway.settings import Caps
from answerback.gateway.sockets import Sockets, SocketSender
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Tokens
from answerback.tasks import Tasks

# Tests are imported by path (importmode=importlib), which leaves this folder's own modules unfound.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_peers import Listening, ScriptedFront


@pytest.fixture
async def listen() -> AsyncIterator[Callable[..., Awaitable[Listening]]]:
    """`await listen(caps=..., tokens=..., allow_origins=...)`; stopped at the end."""
    started: list[tuple[Listener, Tasks]] = []

    async def start(
        *,
        caps: Caps | None = None,
        tokens: Tokens | None = None,
        allow_origins: tuple[str, ...] = (),
        allow_hosts: tuple[str, ...] = (),
    ) -> Listening:
        front, sockets, tasks = ScriptedFront(), Sockets(), Tasks()
        listener = Listener(
            front=front,
            validator=HandshakeValidator(
                rules=Rules(hosts=Hosts.of("127.0.0.1", allow_hosts), allow_origins=origins(allow_origins)),
                tokens=tokens,
                clock=lambda: 1_750_000_000_000,
            ),
            sockets=sockets,
            caps=caps or Caps(),
            tasks=tasks,
        )
        started.append((listener, tasks))
        port = await listener.start("127.0.0.1", 0)
        return Listening(front, listener, sockets, SocketSender(sockets), port)

    yield start
    for listener, tasks in started:
        await listener.close(grace_s=0.2)
        await tasks.settle(grace_s=0.2)
