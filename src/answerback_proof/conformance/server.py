"""Runs server cases against a URL."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from answerback_proof.answer_text import AnswerText, Flaw
from answerback_proof.conformance.cases import (
    DEFAULT_WITHIN_MS,
    Answer,
    BrokenCase,
    Case,
    Drop,
    Http,
    Needs,
    Open,
    Read,
    ServerCase,
    ServerStep,
    Wait,
)
from answerback_proof.conformance.patterns import BrokenPattern, Variables, matches, substitute
from answerback_proof.conformance.peer import CaseFailed, CaseRun, Dialer, Frame, Peer, Transcript, server_peer
from answerback_proof.history import ViolationKind

RATE_HINT: Final = "the server limited the rate: start it with --rate-limit 0"


class CannotConnect(Exception):
    """There is no server to try, or it refuses; the text says what to do."""


class CaseStatus(StrEnum):
    """What came of a case."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case that was run. `why`: it failed or was skipped. `step`: where it failed, from 1. `rate_limited`: the server
    refused a question of it for its rate."""

    name: str
    section: str
    status: CaseStatus
    why: str = ""
    step: int | None = None
    transcript: tuple[str, ...] = ()
    rate_limited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself in `welcome`."""

    user_id: str
    models: Sequence[str]
    features: Sequence[str]
    limits: Mapping[str, Any]
    budget: Mapping[str, Any] | None = None

    @property
    def deployment(self) -> str:
        """API Gateway ends every connection after two hours, and says so; the embedded gateway has no such limit."""
        return "gateway" if self.limits.get("maxConnectionMs") is None else "aws"


class _ServerCaseRun(CaseRun):
    """One case under way."""

    def __init__(self, dialer: Dialer, case: ServerCase, variables: Variables) -> None:
        super().__init__(variables, case.fresh)
        self._dialer = dialer
        self._case = case
        self._all_peers: list[Peer] = []

    @property
    def was_rate_limited(self) -> bool:
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
                peer = await self._dialer.open(step, self.variables, self.transcript)
                self.peers[step.on] = peer
                self._all_peers.append(peer)
            case Http():
                await self._http(step)
            case Read():
                await self._read(step)
            case Answer():
                await self._answer(step)
            case Wait():
                await asyncio.sleep(step.ms / 1000)
            case Drop():
                await self.peer(step.on).drop()
                self.peer(step.on).unread.clear()
            case _:
                await self.do_on_peer(step)

    async def _http(self, step: Http) -> None:
        try:
            status = await self._dialer.http(step, self.variables)
        except (OSError, TimeoutError) as exc:
            raise CaseFailed(f"the server gave no HTTP answer ({type(exc).__name__})") from None
        self.match("the HTTP status", step.status, status)

    async def _read(self, step: Read) -> None:
        text, ending = AnswerText(), None
        request_id = substitute(step.request_id, self.variables)
        while text.length < step.at_least and ending is None:
            ending = await self._feed(text, self.peer(step.on), request_id, step.within_ms)
        if ending is not None:
            raise CaseFailed(f"{step.on}: the answer ended before {step.at_least} code points had come")
        self.variables[step.capture] = {"attempt": text.attempt, "offset": text.length, "text": text.text}

    async def _answer(self, step: Answer) -> None:
        before = substitute(step.after or {}, self.variables)
        text, ending = AnswerText(attempt=before.get("attempt", 0), text=before.get("text", "")), None
        request_id = substitute(step.request_id, self.variables)
        while ending is None:
            ending = await self._feed(text, self.peer(step.on), request_id, step.within_ms)
        for what, pattern, found in (
            ("the text", step.text, text.text),
            ("the parts", step.parts, [list(part) for part in text.parts]),
            ("the ending", step.frame, ending),
            ("the offset of the first piece", step.starts_at, text.first_offset),
        ):
            if pattern is not None:
                self.match(f"{step.on}: {what}", pattern, found)

    async def _feed(self, text: AnswerText, peer: Peer, request_id: str, within_ms: int) -> Frame | None:
        """Take the next frame about the request; the frame, if it is the ending."""
        frame: Frame = await peer.next_frame(request_id, within_ms=within_ms, what=f"frames about {request_id}")
        flaw: Flaw | None = None
        match frame["action"]:
            case "messageStarted":
                flaw = text.begin(frame["attempt"])
            case "messageDelta":
                about = {"part": frame.get("part", 0), "kind": frame.get("kind", "text"), "name": frame.get("name")}
                flaw = text.add(frame["attempt"], frame["offset"], frame["delta"], **about)
            case "messageResponse":
                flaw = text.end(frame["attempt"], frame["length"], frame["response"])
                if frame["status"] == "failed" and "error" not in frame:
                    raise CaseFailed(f"{peer.name}: a failed request has no error")
            case "messageAccepted" | "messageProgress":
                pass
            case action:
                raise CaseFailed(f"{peer.name}: about {frame.get('requestId')} there came {action}: {frame}")
        if flaw is not None and flaw.kind is not ViolationKind.REPEATED:  # a server may send known text again
            raise CaseFailed(f"{peer.name}: {flaw.detail}")
        return frame if frame["action"] == "messageResponse" else None


class ServerRun:
    """One run against one server.

    Every case gets sessions, requests and conversations of its own, and without a token a user of its own, so a run
    needs no clean server and leaves nothing running.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._url = url
        self._token = token
        self._dialer = Dialer(url, token=token)

    async def probe(self) -> ServerFacts:
        """Ask the server for what the cases' needs are compared with. Raises: CannotConnect."""
        try:
            socket = await self._dialer.connect(Open(), {"user": f"conform-{uuid.uuid4()}"})
        except InvalidStatus as exc:
            status = exc.response.status_code
            token = "the token is not accepted" if self._token else "give a token with --token"
            hint = token if status == 401 else "see its log"
            raise CannotConnect(f"{self._url} refuses the connection with HTTP {status}: {hint}") from exc
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as exc:
            raise CannotConnect(f"cannot connect to {self._url}: is the server running?") from exc
        peer = server_peer("a", socket, Transcript())
        try:
            await peer.send_frame({"action": "hello", "helloId": "conform"})
            welcome = await peer.next_frame("conform", within_ms=DEFAULT_WITHIN_MS, what="welcome")
            return ServerFacts(
                user_id=welcome["userId"],
                models=welcome["models"],
                features=welcome.get("features") or (),
                limits=welcome["limits"],
                budget=welcome.get("budget"),
            )
        except (CaseFailed, KeyError) as exc:
            raise CannotConnect(f"{self._url} does not answer `hello` with `welcome`: {exc}") from exc
        finally:
            await peer.leave()

    async def run(self, cases: Sequence[Case], facts: ServerFacts, *, jobs: int = 8) -> AsyncIterator[Result]:
        """Run cases, so many at a time; the results in the order of the cases."""
        places = asyncio.Semaphore(jobs)

        async def one(case: Case) -> Result:
            async with places:
                return await self.run_case(case, facts)

        tasks = [asyncio.create_task(one(case), name=case.name) for case in cases]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_case(self, case: Case, facts: ServerFacts) -> Result:
        """Run one case. Raises: BrokenCase: the case itself is wrong."""
        assert isinstance(case.case, ServerCase)
        result = Result(name=case.name, section=case.case.section, status=CaseStatus.PASSED)
        missing = self._missing(case.case.needs, facts)
        if missing is not None:
            return replace(result, status=CaseStatus.SKIPPED, why=missing)
        user = f"conform-{uuid.uuid4()}" if self._token is None else facts.user_id
        variables = {"user": user, "token": self._token, "limits": dict(facts.limits)}
        attempt = _ServerCaseRun(self._dialer, case.case, variables)
        try:
            await attempt.run()
        except CaseFailed as exc:
            limited = attempt.was_rate_limited and not case.case.needs.limits
            return replace(
                result,
                status=CaseStatus.FAILED,
                why=f"{RATE_HINT} ({exc})" if limited else str(exc),
                step=attempt.step,
                transcript=tuple(attempt.transcript.lines),
                rate_limited=limited,
            )
        except BrokenPattern as exc:
            raise BrokenCase(f"{case.name}, step {attempt.step}: {exc}") from exc
        return result

    def _missing(self, needs: Needs, facts: ServerFacts) -> str | None:
        """Why the server cannot be tried with a case."""
        for kind, needed, known in (("model", needs.models, facts.models), ("feature", needs.features, facts.features)):
            if absent := [name for name in needed if name not in known]:
                return f"needs the {kind} {', '.join(absent)}"
        if needs.tokens is not None and needs.tokens != (self._token is not None):
            return "needs a server that asks for tokens" if needs.tokens else "needs a server that asks for no token"
        if needs.deployment not in (None, facts.deployment):
            return "is about the embedded gateway" if needs.deployment == "gateway" else "is about API Gateway"
        if needs.limits is not None and not matches(needs.limits, dict(facts.limits)):
            return f"needs a server with the limits {json.dumps(needs.limits)}"
        if needs.budget is not None and not (facts.budget and matches(needs.budget, dict(facts.budget))):
            return f"needs a user with the budget {json.dumps(needs.budget)}"
        return None
