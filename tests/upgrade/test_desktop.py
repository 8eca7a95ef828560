"""The desktop app of this version on the profile of ff0d8e5: all is shown, and what waited is sent and answered."""

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from answerback import Client
from cli_process import GatewayProcess
from desktop_app import DesktopApp
from kept import FOLDER, SLOW, assert_kept

pytestmark = [pytest.mark.process, pytest.mark.timeout(60)]

SERVER = "gateway.example"
"""The host in the kept settings; the account's file is named after the whole URL."""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A copy of the folder with ada's profile."""
    folder: Path = shutil.copytree(FOLDER / "desktop", tmp_path / "desktop")
    return folder


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Leads the host of the kept settings to a gateway of ours; None: nowhere."""
    real = socket.getaddrinfo
    target: list[int] = []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if host not in (SERVER, SERVER.encode()):
            return real(host, port, *arguments, **named)
        if not target:
            raise socket.gaierror(socket.EAI_NONAME, "planted")
        return real("127.0.0.1", target[0], *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def lead(url: str | None) -> None:
        port = None if url is None else urlsplit(url).port
        target[:] = [] if port is None else [port]

    return lead


async def test_everything_is_shown_without_a_server(profiles: Path, lead: Callable[[str | None], None]) -> None:
    lead(None)
    async with DesktopApp(profiles, "home") as app:
        assert app.model.settings.server_url == f"ws://{SERVER}:8765"
        assert_kept("desktop-shown.json", await shown(app))


async def test_what_waited_is_sent_and_answered(
    profiles: Path,
    lead: Callable[[str | None], None],
    copied_sqlite: tuple[str, ...],
    serve: Callable[..., GatewayProcess],
) -> None:
    gateway = serve(*copied_sqlite, "--allow-host", SERVER)
    lead(gateway.url)
    async with DesktopApp(profiles, "home") as app:
        await app.online()
        await app.until(lambda: app.model.pending == 0)
        answers = {turn["question"]: turn for talk in (await shown(app))["conversations"] for turn in talk["turns"]}
        for question in (
            f"느린 답: {SLOW}",
            "기다리는 질문",
            "오프라인에서 물어본 질문 📴",
            "and one more in the old talk",
        ):
            assert (answers[question]["answer"], answers[question]["status"]) == (question, "completed")
        async with asyncio.timeout(30), Client(gateway.url, user="ada") as other:
            # Each look is a round trip.
            while {row.title async for row in other.conversations()} != {
                "느린 대화",
                "소켓 이야기",
                "오프라인에서 물어본 질문 📴",
                "this answer breaks off half way",
            }:
                pass


async def shown(app: DesktopApp) -> dict[str, Any]:
    """Settings, and every conversation with its turns, as the view models have them."""
    settings, talks = app.model.settings, []
    for talk in app.model.conversations:
        app.model.open(talk.conversation_id)
        await app.until(lambda talk=talk: talk.is_loaded)
        talks.append(
            {
                "id": talk.conversation_id,
                "title": talk.title,
                "updatedAt": talk.updated_at_ms,
                "draft": talk.draft,
                "turns": [
                    {
                        "id": turn.request_id,
                        "question": turn.question,
                        "answer": turn.answer,
                        "status": turn.status.value,
                        "failure": None if turn.record.failure is None else turn.record.failure.code.value,
                        "canRetry": turn.can_retry,
                        "canStop": not turn.status.is_over,
                        "replaces": turn.record.replaces,
                        "model": turn.record.model,
                        "tokens": None
                        if turn.record.tokens is None
                        else [turn.record.tokens.input_tokens, turn.record.tokens.output_tokens],
                        "askedAt": turn.record.asked_at_ms,
                        "answeredAt": turn.record.answered_at_ms,
                    }
                    for turn in talk.messages
                ],
            }
        )
    return {
        "settings": {
            "user": settings.user,
            "auth": settings.auth.value,
            "model": settings.model,
            "system": settings.system,
            "maxTokens": settings.max_tokens,
            "theme": settings.theme.value,
            "fontSize": settings.font_size,
            "language": settings.language.value,
            "notifications": settings.notifications,
            "tray": settings.tray,
        },
        "pending": app.model.pending,
        "conversations": talks,
    }
