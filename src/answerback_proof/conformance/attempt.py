"""One server case under way: its variables, its connections, its steps."""

import asyncio
import uuid
from typing import assert_never

from answerback_proof.answer_text import AnswerText, Flaw
from answerback_proof.conformance.cases import (
    Answer,
    Close,
    Closed,
    Drop,
    Expect,
    Http,
    Open,
    Raw,
    Read,
    Send,
    ServerCase,
    ServerStep,
    Silent,
    Skip,
    Wait,
)
from answerback_proof.conformance.dialer import Dialer
from answerback_proof.conformance.patterns import BrokenPattern, Mismatch, Variables, match, substitute
from answerback_proof.conformance.peer import CaseFailed, Frame, Peer, Transcript
from answerback_proof.history import Kind


class Attempt:
    """One case under way."""

    def __init__(self, dialer: Dialer, case: ServerCase, variables: Variables) -> None:
        self.step = 0
        self.transcript = Transcript()
        self._dialer = dialer
        self._case = case
        self._variables = {**variables, **{name: str(uuid.uuid4()) for name in case.fresh}}
        self._peers: dict[str, Peer] = {}
        self._all_peers: list[Peer] = []

    @property
    def was_rate_limited(self) -> bool:
        """Whether a question was refused for its rate."""
        return any("rate_limited" in line and " <- " in line for line in self.transcript.lines)

    async def run(self) -> None:
        """Every step, then what must hold at the end. Raises: CaseFailed; BrokenPattern."""
        try:
            for step in self._case.steps:
                self.step += 1
                await self._do(step)
            for peer in self._all_peers:
                peer.check_nothing_is_left()
        finally:
            await asyncio.gather(*(peer.leave() for peer in self._all_peers))

    async def _do(self, step: ServerStep) -> None:
        match step:
            case Open():
                peer = await self._dialer.open(step, self._variables, self.transcript)
                self._peers[step.on] = peer
                self._all_peers.append(peer)
            case Http():
                await self._http(step)
            case Read():
                await self._read(step)
            case Answer():
                await self._answer(step)
            case Wait():
                await asyncio.sleep(step.ms / 1000)
            case _:
                await self._do_on(self._peer(step.on), step)

    async def _do_on(self, peer: Peer, step: Send | Raw | Expect | Silent | Skip | Close | Drop | Closed) -> None:
        match step:
            case Send():
                await peer.send(step, self._variables)
            case Raw():
                peer.write(bytes.fromhex(step.hex))
            case Expect():
                await peer.expect(step, self._variables)
            case Silent():
                await peer.silent(step)
            case Skip():
                peer.unread.clear()
            case Close():
                await peer.close(step)
            case Drop():
                await peer.drop()
                peer.unread.clear()
            case Closed():
                await peer.closed(step)
            case _:
                assert_never(step)

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            raise BrokenPattern(f"the connection {name} was never opened")
        return peer

    async def _http(self, step: Http) -> None:
        try:
            status = await self._dialer.http(step, self._variables)
            match(step.status, status, self._variables, "the HTTP status")
        except Mismatch as exc:
            raise CaseFailed(str(exc)) from None
        except (OSError, TimeoutError) as exc:
            raise CaseFailed(f"the server gave no HTTP answer ({type(exc).__name__})") from None

    async def _read(self, step: Read) -> None:
        text, ending = AnswerText(), None
        request_id = substitute(step.request_id, self._variables)
        while text.length < step.at_least and ending is None:
            ending = await self._feed(text, self._peer(step.on), request_id, step.within_ms)
        if ending is not None:
            raise CaseFailed(f"{step.on}: the answer ended before {step.at_least} code points had come")
        self._variables[step.capture] = {"attempt": text.attempt, "offset": text.length, "text": text.text}

    async def _answer(self, step: Answer) -> None:
        before = substitute(step.after or {}, self._variables)
        text, ending = AnswerText(attempt=before.get("attempt", 0), text=before.get("text", "")), None
        request_id = substitute(step.request_id, self._variables)
        while ending is None:
            ending = await self._feed(text, self._peer(step.on), request_id, step.within_ms)
        for what, pattern, found in (
            ("the text", step.text, text.text),
            ("the ending", step.frame, ending),
            ("the offset of the first piece", step.starts_at, text.first_offset),
        ):
            try:
                if pattern is not None:
                    match(substitute(pattern, self._variables), found, self._variables, what)
            except Mismatch as exc:
                raise CaseFailed(f"{step.on}: {exc}") from None

    async def _feed(self, text: AnswerText, peer: Peer, request_id: str, within_ms: int) -> Frame | None:
        """Take the next frame about the request; the frame, if it is the ending."""
        frame: Frame = await peer.next_frame(request_id, within_ms=within_ms, what=f"frames about {request_id}")
        flaw: Flaw | None = None
        match frame["action"]:
            case "messageStarted":
                flaw = text.begin(frame["attempt"])
            case "messageDelta":
                flaw = text.add(frame["attempt"], frame["offset"], frame["delta"])
            case "messageResponse":
                flaw = text.end(frame["attempt"], frame["length"], frame["response"])
                if frame["status"] == "failed" and "error" not in frame:
                    raise CaseFailed(f"{peer.name}: a failed request has no error")
            case "messageAccepted":
                pass
            case action:
                raise CaseFailed(f"{peer.name}: about {frame.get('requestId')} there came {action}: {frame}")
        if flaw is not None and flaw.kind is not Kind.REPEATED:  # a server may send known text again
            raise CaseFailed(f"{peer.name}: {flaw.detail}")
        return frame if frame["action"] == "messageResponse" else None
