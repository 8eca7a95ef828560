"""Runs server cases against a URL."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from answerback_proof.conformance.attempt import Attempt
from answerback_proof.conformance.cases import DEFAULT_WITHIN_MS, BrokenCase, Case, Needs, Open, ServerCase
from answerback_proof.conformance.dialer import Dialer, server_peer
from answerback_proof.conformance.patterns import BrokenPattern, matches
from answerback_proof.conformance.peer import CaseFailed, Transcript

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
    limits: Mapping[str, Any]

    @property
    def deployment(self) -> str:
        """API Gateway ends every connection after two hours, and says so; the embedded gateway has no such limit."""
        return "gateway" if self.limits.get("maxConnectionMs") is None else "aws"


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
            return ServerFacts(user_id=welcome["userId"], models=welcome["models"], limits=welcome["limits"])
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
        section = case.case.section
        missing = self._missing(case.case.needs, facts)
        if missing is not None:
            return Result(name=case.name, section=section, status=CaseStatus.SKIPPED, why=missing)
        user = f"conform-{uuid.uuid4()}" if self._token is None else facts.user_id
        attempt = Attempt(self._dialer, case.case, {"user": user, "token": self._token, "limits": dict(facts.limits)})
        try:
            await attempt.run()
        except CaseFailed as exc:
            limited = attempt.was_rate_limited and not case.case.needs.limits
            return Result(
                name=case.name,
                section=section,
                status=CaseStatus.FAILED,
                why=f"{RATE_HINT} ({exc})" if limited else str(exc),
                step=attempt.step,
                transcript=tuple(attempt.transcript.lines),
                rate_limited=limited,
            )
        except BrokenPattern as exc:
            raise BrokenCase(f"{case.name}, step {attempt.step}: {exc}") from exc
        return Result(name=case.name, section=section, status=CaseStatus.PASSED)

    def _missing(self, needs: Needs, facts: ServerFacts) -> str | None:
        """Why the server cannot be tried with a case."""
        absent = [name for name in needs.models if name not in facts.models]
        if absent:
            return f"needs the model {', '.join(absent)}"
        if needs.tokens is not None and needs.tokens != (self._token is not None):
            return "needs a server that asks for tokens" if needs.tokens else "needs a server that asks for no token"
        if needs.deployment not in (None, facts.deployment):
            return "is about the embedded gateway" if needs.deployment == "gateway" else "is about API Gateway"
        if needs.limits is not None and not matches(needs.limits, dict(facts.limits)):
            return f"needs a server with the limits {json.dumps(needs.limits)}"
        return None
