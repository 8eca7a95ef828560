"""One end of a WebSocket under the hand of a case: what came and was not taken yet, and what to send."""

import asyncio
import base64
import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, assert_never, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_socket
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from answerback.outbound import tls_context
from answerback.protocol.codec import FrameError, decode_server
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import ServerFrame
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback_proof.conformance.cases import Close, Closed, Drop, Expect, Http, Open, Raw, Send, Silent, Skip
from answerback_proof.conformance.patterns import (
    BrokenPattern,
    Mismatch,
    Variables,
    match,
    match_exactly,
    matches,
    substitute,
)

Frame: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[str], str | None]
PeerStep: TypeAlias = Send | Raw | Expect | Silent | Skip | Close | Drop | Closed

CLOSE_TIMEOUT_S: Final = 5.0
SHOWN_CHARACTERS: Final = 300
PIECE: Final = 8 * 1024
"""Characters, of at most four bytes each: API Gateway takes frames of 32 KB."""


class CaseFailed(Exception):
    """What is tried does not do what the case says; the text says how it differs."""


class Transcript:
    """What went over the sockets of one case, for the person who looks into a failure."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, on: str, sign: str, text: str) -> None:
        self.lines.append(f"{on} {sign} {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '...'}")


class Peer:
    """Reads one socket from the start. `check` says what is wrong with a message that came, None if nothing is."""

    def __init__(self, name: str, socket: Connection, transcript: Transcript, check: Check) -> None:
        self.name = name
        self.unread: list[Frame] = []
        self.on_frame: Callable[[Frame], bool] | None = None
        """Sees each frame first; true: it is dealt with."""
        self._socket = socket
        self._transcript = transcript
        self._check = check
        self._news = asyncio.Event()
        self._wrong: str | None = None
        self._has_ended = False
        self._endings: dict[str, Frame] = {}
        self._reader = asyncio.create_task(self._read(), name=f"peer {name}")

    # --- what comes

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                self._take_in(message)
                self._news.set()
        except ConnectionClosed:
            pass
        finally:
            self._has_ended = True
            self._transcript.note(self.name, "--", f"closed with {self._socket.close_code}")
            self._news.set()

    def _take_in(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.complain("a binary message came")
            return
        self._transcript.note(self.name, "<-", message)
        problem = self._check(message)
        if problem is not None:
            self.complain(problem)
            return
        frame = json.loads(message)
        if self.on_frame is None or not self.on_frame(frame):
            self.unread.append(frame)

    def complain(self, problem: str) -> None:
        """Say that something came that is wrong; the first complaint makes the case fail."""
        self._wrong = self._wrong or problem
        self._news.set()

    def check_so_far(self) -> None:
        """Raises: CaseFailed: something came that breaks the protocol whatever the case is about."""
        if self._wrong is not None:
            raise CaseFailed(f"{self.name}: {self._wrong}")

    async def expect(self, step: Expect, variables: Variables) -> None:
        pattern = substitute(step.frame, variables)
        about = about_of(pattern)
        frame = await self._next(
            partial(matches, pattern) if step.anywhere else lambda frame: about in (None, about_of(frame)),
            within_ms=step.within_ms,
            what=_shown(pattern),
        )
        try:
            (match_exactly if step.exact else match)(pattern, frame, variables)
        except Mismatch as exc:
            raise CaseFailed(f"{self.name}: in {_shown(frame)} {exc}") from None

    async def next_frame(self, about: Any, *, within_ms: int, what: str) -> Frame:
        """Take the first unread frame that is about something, or wait for it."""
        return await self._next(lambda frame: about_of(frame) == about, within_ms=within_ms, what=what)

    async def _next(self, is_wanted: Callable[[Frame], bool], *, within_ms: int, what: str) -> Frame:
        try:
            async with asyncio.timeout(within_ms / 1000):
                while True:
                    self.check_so_far()
                    for number, frame in enumerate(self.unread):
                        if is_wanted(frame):
                            return self._taken(self.unread.pop(number))
                    if self._has_ended:
                        code = self._socket.close_code
                        raise CaseFailed(f"{self.name}: waited for {what}, but it was closed with {code}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise CaseFailed(
                f"{self.name}: waited {within_ms} ms for {what}, but it did not come; unread: {_all(self.unread)}"
            ) from None

    def _taken(self, frame: Frame) -> Frame:
        if frame.get("action") == "messageResponse":
            self._endings[frame["requestId"]] = frame
        return frame

    def _surplus(self) -> list[Frame]:
        """Unread frames that may not come. Frames of a request that has ended may: they are late, or come twice. A
        second ending must be equal to the first."""
        return [frame for frame in self.unread if not self._may_be_late(frame)]

    def _may_be_late(self, frame: Frame) -> bool:
        ending = self._endings.get(frame.get("requestId", ""))
        if ending is None or frame["action"] == "error":
            return False
        return frame["action"] != "messageResponse" or frame == ending

    async def silent(self, step: Silent) -> None:
        await asyncio.sleep(step.for_ms / 1000)
        self.check_so_far()
        if surplus := self._surplus():
            raise CaseFailed(f"{self.name}: should be silent, but there came {_all(surplus)}")

    # --- what goes

    async def send(self, step: Send, variables: Variables) -> None:
        """Do the step. A connection that is closed meanwhile is for `closed` to find."""
        try:
            if step.fragments is not None:
                parts = [str(substitute(part, variables)) for part in step.fragments]
                self._transcript.note(self.name, "->", f"in {len(parts)} fragments: {''.join(parts)}")
                await self._socket.send(parts)
            elif step.utf8 is not None:
                self._transcript.note(self.name, "->", f"bytes as text: {step.utf8}")
                await self._socket.send(bytes.fromhex(step.utf8), text=True)
            elif step.binary is not None:
                self._transcript.note(self.name, "->", f"binary: {step.binary}")
                await self._socket.send(bytes.fromhex(step.binary))
            else:
                text = encoded(step, variables)
                self._transcript.note(self.name, "->", text)
                await self._socket.send(_fragments(text) if len(text) > PIECE else text)
        except ConnectionClosed:
            pass

    async def send_frame(self, frame: Frame) -> None:
        await self.send(Send(frame=frame), {})

    def write(self, data: bytes) -> None:
        self._transcript.note(self.name, "->", f"raw: {data.hex()}")
        self._socket.transport.write(data)

    # --- the end

    async def close(self, step: Close) -> None:
        await self._socket.close(step.code)
        await self._reader

    async def drop(self) -> None:
        self._socket.transport.abort()
        await self._reader

    async def closed(self, step: Closed) -> None:
        try:
            async with asyncio.timeout(step.within_ms / 1000):
                await asyncio.shield(self._reader)
        except TimeoutError:
            raise CaseFailed(f"{self.name}: should be closed within {step.within_ms} ms, but is open") from None
        self.check_so_far()
        try:
            if step.code is not None:
                match(step.code, int(self._socket.close_code or 0), {}, "the close code")
        except Mismatch as exc:
            raise CaseFailed(f"{self.name}: {exc}") from None

    async def leave(self) -> None:
        """Close if it is open, whatever the other side does."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
                await self._reader
        except TimeoutError:
            await self.drop()

    def check_nothing_is_left(self) -> None:
        """Raises: CaseFailed: frames came that no step took: each of them is one that should not have come."""
        self.check_so_far()
        if surplus := self._surplus():
            raise CaseFailed(f"{self.name}: at the end these frames were not expected: {_all(surplus)}")


class CaseRun:
    """A case under way: its variables, its connections, and the steps that both kinds of cases have."""

    def __init__(self, variables: Variables, fresh: Sequence[str]) -> None:
        self.step = 0
        self.transcript = Transcript()
        self.variables = {**variables, **{name: str(uuid.uuid4()) for name in fresh}}
        self.peers: dict[str, Peer] = {}

    def peer(self, name: str) -> Peer:
        """A connection of the case, by its name in there. Raises: BrokenPattern: it was never opened."""
        peer = self.peers.get(name)
        if peer is None:
            raise BrokenPattern(f"the connection {name} was never opened")
        return peer

    def match(self, what: str, pattern: Any, found: Any) -> None:
        """Raises: CaseFailed: `found` is not as the pattern says."""
        try:
            match(substitute(pattern, self.variables), found, self.variables, what)
        except Mismatch as exc:
            raise CaseFailed(str(exc)) from None

    async def do_on_peer(self, step: PeerStep) -> None:
        peer = self.peer(step.on)
        match step:
            case Send():
                await peer.send(step, self.variables)
            case Raw():
                peer.write(bytes.fromhex(step.hex))
            case Expect():
                await peer.expect(step, self.variables)
            case Silent():
                await peer.silent(step)
            case Skip():
                peer.unread.clear()
            case Close():
                await peer.close(step)
            case Drop():
                await peer.drop()
            case Closed():
                await peer.closed(step)
            case _:
                assert_never(step)


def encoded(step: Send, variables: Variables) -> str:
    """The text of a message: `text`, or `frame` as compact JSON."""
    if step.text is not None:
        return str(substitute(step.text, variables))
    return json.dumps(substitute(step.frame, variables), ensure_ascii=False, separators=(",", ":"))


def _fragments(text: str) -> list[str]:
    """One message in frames that every server takes."""
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def about_of(frame: Any) -> Any:
    """What a frame or a pattern is about: its request or its `hello`; None if it names none."""
    if not isinstance(frame, dict):
        return None
    found = frame.get("requestId", frame.get("helloId"))
    return found if isinstance(found, str) else None


def _all(frames: Iterable[Frame]) -> str:
    return "; ".join(_shown(frame) for frame in frames) or "nothing"


def _shown(frame: Any) -> str:
    text = json.dumps(frame, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


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
