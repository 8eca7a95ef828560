"""Bedrock: ConverseStream as it streams, from a server of ours, under the permission that AWS asks for."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from answerback_aws.emulator.patches import private, replace

_PATH: Final = re.compile(r"/model/[^/]+/converse-stream")
_ALLOWED: Final = b"x-emulated-allowed"
_PIECE_BYTES: Final = 64 * 1024

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def patch(url: str) -> None:
    """Apply. `url`: where ConverseStream is answered. The emulator checks signature and permission first.

    Raises: Moved.
    """

    def action(service: str, *call: Any) -> Any:
        found = action_was(service, *call)
        return "bedrock:InvokeModelWithResponseStream" if found == "bedrock:ConverseStream" else found

    def allowed(*_call: Any) -> Any:
        """Reached by those who may; what they get comes from `url`."""
        return 200, {_ALLOWED.decode(): "1"}, b""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _PATH.fullmatch(scope["path"]):
            await app_was(scope, receive, send)
            return
        call = _Call(receive, send)
        await app_was(scope, call.receive, call.send)
        if call.allowed:
            await _stream(url, scope, bytes(call.body), receive, send)

    action_was = replace("core.iam_actions", "extract_iam_action", action)
    replace("services.bedrock_runtime", "_converse_stream", allowed)
    private("app", "main")
    app_was = replace("app", "app", app)


class _Call:
    """Keeps the body of a call, and holds the emulator's answer back if it is that the call is allowed."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.body = bytearray()
        self.allowed = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.body += message.get("body", b"")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.allowed = any(name.lower() == _ALLOWED for name, _ in message["headers"])
        if not self.allowed:
            await self._send(message)


async def _stream(url: str, scope: Any, body: bytes, receive: Receive, send: Send) -> None:
    """Pass the call on, and the response as it arrives; when one side hangs up, the other is closed."""
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    # Of HTTP 1.0, so that the answer comes in no chunks: its end is the end of the connection.
    writer.write(f"POST {path} HTTP/1.0\r\nHost: {host.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    hung_up = asyncio.create_task(_hang_up(receive, writer))
    try:
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [line.partition(": ")[::2] for line in lines if line]
        kept = [(name.lower().encode(), value.encode()) for name, value in headers if name.lower() != "connection"]
        await send({"type": "http.response.start", "status": int(status.split()[1]), "headers": kept})
        while piece := await reader.read(_PIECE_BYTES):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        hung_up.cancel()
        writer.close()


async def _hang_up(receive: Receive, writer: asyncio.StreamWriter) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    writer.transport.abort()
