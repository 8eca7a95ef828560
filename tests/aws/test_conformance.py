"""The stack passes the conformance cases, but for those that are about the embedded gateway alone."""

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from answerback.client import Client
from answerback_proof.conformance import Case, load_cases
from answerback_proof.conformance.cases import Expect
from answerback_proof.conformance.server import CaseStatus, ServerRun
from kept import FOLDER
from stack import Stack

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(300)]

JOBS = 4
"""Cases at a time."""


async def test_every_case_passes_that_can_be_tried_on_a_stack_without_tokens(conforming: Stack) -> None:
    await _warm_up(conforming)
    server = ServerRun(conforming.url)
    recorded = load_cases("server", FOLDER / "conformance")  # frames as ff0d8e5 sent them
    cases = [accepted_anywhere(case) for case in (*load_cases("server"), *recorded)]
    results = [result async for result in server.run(cases, await server.probe(), jobs=JOBS)]
    failed = {result.name: (result.why, result.transcript) for result in results if result.status is CaseStatus.FAILED}
    assert failed == {}
    skipped = Counter(result.why.split("{")[0].strip() for result in results if result.status is CaseStatus.SKIPPED)
    assert set(skipped) == {
        "is about the embedded gateway",
        "needs a server that asks for tokens",
        "needs a server with the limits",
    }
    assert sum(skipped.values()) < len(cases) / 5


def accepted_anywhere(case: Case) -> Case:
    """On AWS the worker may begin before the front has posted `messageAccepted`; any later frame implies it."""
    steps = [
        replace(step, anywhere=True)
        if isinstance(step, Expect) and isinstance(step.frame, dict) and step.frame.get("action") == "messageAccepted"
        else step
        for step in case.case.steps
    ]
    return replace(case, case=replace(case.case, steps=steps))


async def _warm_up(stack: Stack) -> None:
    """The cases wait seconds for a connection and an answer; the first call of each process may take as long."""

    async def ask() -> None:
        async with Client(stack.url, user=stack.name("user"), connect_timeout=60) as app:
            await app.ask("Hello?", conversation=stack.name("talk"), timeout=120)

    await asyncio.gather(*(ask() for _ in range(JOBS)))
