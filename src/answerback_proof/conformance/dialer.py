"""How a case connects to a server: as its steps say, with what the run adds."""

import asyncio
import base64
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from answerback.outbound import tls_context
from answerback.protocol.codec import FrameError, decode_server
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ServerFrame
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback_proof.conformance.cases import Http, Open
from answerback_proof.conformance.patterns import Variables, substitute
from answerback_proof.conformance.peer import CaseFailed, Frame, Peer, Transcript

CONNECT_TIMEOUT_S: Final = 10.0
SERVER_ACTIONS: Final = frozenset(str(frame.__struct_config__.tag) for frame in get_args(ServerFrame))

_CODES: Final = re.compile(r'"(?:code|errorCode)"\s*:\s*"(\w+)"')
"""A reader takes any word for a code. A server may use those of the protocol only."""


class Dialer:
    """Opens connections to one server, with a token where one is asked for."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._url = url
        self._token = token

    async def connect(self, step: Open, variables: Variables) -> ClientConnection:
        """The socket that the step asks for. Raises: as `websockets` does."""
        headers = dict(substitute(step.headers, variables))
        query = dict(substitute(step.query, variables))
        if not step.bare:
            if self._token is not None:
                headers.setdefault("Authorization", f"Bearer {self._token}")
            else:
                query.setdefault("userId", variables["user"])
        offered = [Subprotocol(str(name)) for name in substitute(list(step.subprotocols), variables)]
        return await connect_socket(
            self._with_query(query),
            additional_headers=headers,
            subprotocols=offered or None,
            compression=None,
            max_size=None,
            max_queue=None,
            ping_interval=None,
            open_timeout=CONNECT_TIMEOUT_S,
            proxy=None,
        )

    def _with_query(self, query: Mapping[str, Any]) -> str:
        parts = urlsplit(self._url)
        known = [parts.query] if parts.query else []
        added = [urlencode(query)] if query else []
        return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", "&".join(known + added), ""))

    async def open(self, step: Open, variables: Variables, transcript: Transcript) -> Peer:
        """Do the step. Raises: CaseFailed: the server refuses."""
        try:
            socket = await self.connect(step, variables)
        except InvalidStatus as exc:
            raise CaseFailed(f"{step.on}: the server refused with HTTP {exc.response.status_code}") from None
        except (OSError, InvalidHandshake, TimeoutError) as exc:
            raise CaseFailed(f"{step.on}: the connection cannot be opened ({type(exc).__name__})") from None
        transcript.note(step.on, "--", "open")
        peer = server_peer(step.on, socket, transcript)
        if socket.subprotocol != step.subprotocol:
            await peer.leave()
            raise CaseFailed(f"{step.on}: the subprotocol should be {step.subprotocol}, but is {socket.subprotocol}")
        return peer

    async def http(self, step: Http, variables: Variables) -> int:
        """Send an upgrade request and return the status of its answer."""
        parts = urlsplit(self._url)
        tls = tls_context() if parts.scheme == "wss" else None
        port = parts.port or (443 if tls else 80)
        query = substitute(dict(step.query), variables)
        headers: dict[str, Any] = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
            **({"Authorization": f"Bearer {self._token}"} if self._token else {}),
            **substitute(dict(step.headers), variables),
        }
        target = urlsplit(self._with_query(query))._replace(scheme="", netloc="")
        if step.path is not None:
            target = target._replace(path=step.path)
        lines = [f"{step.method} {target.geturl()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
        if len(status) < 2 or not status[1].isdigit():
            raise CaseFailed("the server gave no HTTP answer")
        return int(status[1])


def server_peer(name: str, socket: ClientConnection, transcript: Transcript) -> Peer:
    """The server at the other end of a socket. Actions that this version does not know are ignored, as clients must."""
    peer = Peer(name, socket, transcript, check_frame)
    peer.on_frame = _is_unknown
    return peer


def _is_unknown(frame: Frame) -> bool:
    return frame.get("action") not in SERVER_ACTIONS


def check_frame(message: str) -> str | None:
    """What is wrong with a message of a server, whatever the case is about."""
    size = len(message.encode())
    if size > MAX_FRAME_BYTES:
        return f"a frame of {size} bytes came; {MAX_FRAME_BYTES} are allowed"
    try:
        decode_server(message)
    except FrameError as exc:
        return f"a message came that is no frame of the protocol ({exc.detail}): {message[:200]}"
    unknown = [code for code in _CODES.findall(message) if code not in set(ErrorCode)]
    return f"a code came that the protocol does not have: {unknown[0]}" if unknown else None
