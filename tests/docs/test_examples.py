"""The Python examples run, against a real gateway with the echo model."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings

WITH_SCRIPTS = ("README.md", "docs/tutorial.md", "docs/ko/tutorial.md", "docs/sdk.md")
DOCUMENTED_URL = "ws://127.0.0.1:8765"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway on a thread of its own: the examples call asyncio.run themselves."""
    settings = GatewaySettings(
        port=0, admin_port=None, rate_limit=0, models=("echo",), data_dir=tmp_path_factory.mktemp("gateway")
    )
    told: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = queue.Queue()

    async def serve() -> None:
        stop = asyncio.Event()
        async with Gateway(settings) as gateway:
            told.put((asyncio.get_running_loop(), stop, gateway.url))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, stop, where = told.get(timeout=30)
    yield where
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.mark.parametrize("script", WITH_SCRIPTS)
def test_the_scripts_of_a_document_run(
    document: Callable[[str], Any],
    script: str,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = document(script).blocks("python")
    assert blocks
    for block in blocks:
        assert DOCUMENTED_URL in block
        exec(compile(block.replace(DOCUMENTED_URL, url), script, "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out


def test_the_outbox_example_has_its_answer_the_next_time(
    document: Callable[[str], Any],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in document("docs/sdk.md").blocks("python") if "class FileOutbox" in block)
    exec(compile(block.replace(DOCUMENTED_URL, url), "docs/sdk.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "from last time: What is a WebSocket?\n"


def test_the_two_frame_client_gets_its_own_answers(document: Callable[[str], Any], url: str) -> None:
    names: dict[str, Any] = {"__name__": "two_frames"}
    (block,) = (block for block in document("PROTOCOL.md").blocks("python") if "class App" in block)
    exec(compile(block, "PROTOCOL.md", "exec"), names)

    async def main() -> None:
        apps = [names["App"](f"user_{n}") for n in range(3)]
        for app in apps:
            await app.connect(url)
        asked = [(app, f"question {n} of {app.user_id}") for n in range(20) for app in apps]
        answers = await asyncio.gather(*(app.ask(question) for app, question in asked))
        assert answers == [question for _, question in asked]
        for app in apps:
            await app.close()

    asyncio.run(main())
