"""A real Chromium without a screen, driven by its DevTools protocol: one page, its script, and what it complains of."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PATIENCE_S = 30.0
PROGRAM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


class Page:
    """One page. `complaints`: errors of its script, and what its security policy refused."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._loaded: set[str] = set()
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        about = {"sessionId": self._session} if self._session else {}
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **about}))
        async with asyncio.timeout(PATIENCE_S):
            while (told := await self._told()).get("id") != number:
                pass
        assert "error" not in told, told
        found: dict[str, Any] = told["result"]
        return found

    async def _told(self) -> dict[str, Any]:
        """What the browser says next."""
        told: dict[str, Any] = json.loads(await self._socket.recv())
        match told:
            case {"method": "Runtime.exceptionThrown" | "Log.entryAdded", "params": params}:
                self.complaints.append(json.dumps(params))
            case {"method": "Page.lifecycleEvent", "params": {"name": "load", "loaderId": document}}:
                self._loaded.add(document)
        return told

    async def open(self, url: str) -> None:
        """Open the page, or load it again, until its script has run."""
        if self._session is None:
            target = await self.call("Target.createTarget", url="about:blank")
            attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Runtime", "Log", "Page"):
                await self.call(f"{domain}.enable")
            await self.call("Page.setLifecycleEventsEnabled", enabled=True)
            await self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        document = (await self.call("Page.navigate", url=url))["loaderId"]
        async with asyncio.timeout(PATIENCE_S):
            while document not in self._loaded:
                await self._told()

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until the expression is true, looked at between two frames of the browser."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.run(condition):
                await self.run("new Promise((resolve) => setTimeout(resolve, 20))")

    async def click(self, element: str) -> None:
        """Click what the expression finds as soon as a person could: its middle is to be seen, and nothing covers it.

        The look and the click are one step of the page: between two, what is clicked may move.
        """
        await self.until(
            f"(() => {{ const found = {element}; if (!found?.getClientRects().length) return false; "
            "found.scrollIntoView({block: 'center'}); const at = found.getBoundingClientRect(); "
            "if (!found.contains(document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2))) return false; "
            "found.focus(); found.click(); return true; })()"
        )

    async def type(self, text: str) -> None:
        """Into what has the focus, and Enter."""
        await self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    async def picture(self, *, dark: bool = False, width: int = 1280) -> bytes:
        """The whole page as a PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", height=400, **size)
        height = await self.run("document.documentElement.scrollHeight")
        await self.call("Emulation.setDeviceMetricsOverride", height=height, **size)
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def browser(folder: Path, *, language: str) -> AsyncIterator[Page]:
    """A page in a browser of its own whose user reads that language."""
    assert PROGRAM is not None
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *switches,
        f"--user-data-dir={folder}",
        f"--accept-lang={language}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # Chromium writes there where it listens.
        where = folder / "DevToolsActivePort"
        async with asyncio.timeout(PATIENCE_S):
            while not where.exists() or where.read_text().count("\n") < 1:
                assert process.returncode is None, "the browser did not start"
                await asyncio.sleep(0.02)
        port, path = where.read_text().split()
        async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with all its children
        await process.wait()
