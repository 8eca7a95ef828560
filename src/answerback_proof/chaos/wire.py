"""What goes over one connection, read along and judged frame by frame, whatever the app's client makes of it."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from answerback.protocol.codec import FrameError, decode_client, decode_server
from answerback.protocol.frames import (
    CancelMessage,
    Error,
    Hello,
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    MessageStarted,
    SendMessage,
    Status,
)
from answerback_proof.chaos.book import Asked, Book, Kind, now_ms
from answerback_proof.load.websocket import TEXT, FrameReader, LoadConnectionError


class Wire:
    """Both directions of one connection. The model is an echo, so every text must be a part of its question."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.session = ""
        self.from_app = Texts(masked=True, on_head=self._greeted, on_text=self._said)
        self.from_gateway = Texts(masked=False, on_head=lambda _: None, on_text=self._heard)

    def _greeted(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1].decode("latin-1")
        self.session = parse_qs(urlsplit(target).query).get("sessionId", [""])[0]

    def _said(self, text: bytes) -> None:
        """Only for the trace."""
        frame = decode_client(text)
        if isinstance(frame, SendMessage | CancelMessage):
            self._note(frame.request_id, app=type(frame).__name__)
        elif isinstance(frame, Hello):
            for point in frame.resume:
                self._note(point.request_id, app="resume", attempt=point.attempt, offset=point.offset)

    def _note(self, request_id: str, **facts: Any) -> None:
        asked = self._book.asked.get(request_id)
        if asked is not None:
            asked.note(**facts)

    def _heard(self, text: bytes) -> None:
        self._book.frames += 1
        frame = decode_server(text)
        match frame:
            case Error():
                self._book.errors[frame.code.value] += 1
                if frame.request_id is not None and (asked := self._own(frame.request_id)) is not None:
                    asked.note(gateway="error", code=frame.code.value)
            case MessageAccepted() | MessageStarted() | MessageDelta() | MessageResponse():
                asked = self._own(frame.request_id)
                if asked is not None:
                    self._judge(asked, frame)
            case _:
                pass

    def _own(self, request_id: str) -> Asked | None:
        """The question, if it is this session's (G1)."""
        asked = self._book.asked.get(request_id)
        if asked is None or asked.session != self.session:
            self._book.violate(Kind.FOREIGN, request_id, f"a frame about it went to session {self.session}")
            return None
        return asked

    def _judge(self, asked: Asked, frame: MessageAccepted | MessageStarted | MessageDelta | MessageResponse) -> None:
        if asked.accepted_at_ms is None:
            asked.accepted_at_ms = now_ms()
        match frame:
            case MessageAccepted():
                asked.note(gateway="accepted", position=frame.position)
            case MessageStarted():
                asked.note(gateway="started", attempt=frame.attempt)
            case MessageDelta():
                asked.note(gateway="delta", attempt=frame.attempt, offset=frame.offset, length=len(frame.delta))
                if not asked.text.startswith(frame.delta, frame.offset):
                    detail = f"text at {frame.offset} of attempt {frame.attempt} is not its own"
                    self._book.violate(Kind.FOREIGN, asked.request_id, detail)
            case MessageResponse():
                self._judge_ending(asked, frame)

    def _judge_ending(self, asked: Asked, frame: MessageResponse) -> None:
        asked.note(gateway="response", status=frame.status.value, attempt=frame.attempt, length=frame.length)
        ending = (frame.status.value, frame.attempt, frame.length)
        if asked.ending_on_wire is None:
            asked.ending_on_wire = ending
        elif asked.ending_on_wire != ending:
            detail = f"two endings went out: {asked.ending_on_wire} and {ending}"
            self._book.violate(Kind.REPEATED, asked.request_id, detail)
        if frame.status is Status.COMPLETED and frame.response is not None and frame.response != asked.text:
            self._book.violate(Kind.FOREIGN, asked.request_id, "the response on the wire is not its own")


class Texts:
    """The text messages in one direction of a connection, after the HTTP head."""

    def __init__(self, *, masked: bool, on_head: Callable[[bytes], None], on_text: Callable[[bytes], None]) -> None:
        self._frames = FrameReader(masked=masked)
        self._on_head = on_head
        self._on_text = on_text
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> None:
        """The next bytes, however they are cut. What is not WebSocket is passed over."""
        if self._head is not None:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            if not found:
                self._head = head
                return
            self._head = None
            self._on_head(head)
        try:
            for opcode, payload in self._frames.feed(data):
                if opcode == TEXT:
                    self._on_text(payload)
        except (LoadConnectionError, FrameError):
            pass
