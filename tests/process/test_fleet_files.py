"""Files and budgets of several gateways: what one of them was told counts at all."""

import asyncio
import base64
import hashlib
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import connect

from answerback import Client
from answerback.client import RateLimited
from answerback.clock import epoch_ms
from answerback.core.budget import Budget, Period, Unit
from answerback.stores.fleet import FleetStore
from balancer import Balancer
from cli_process import GatewayProcess, Serve

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.timeout(120)]

LIMIT_MICRO_USD = 2_000
SUPPORT = Path(__file__).parents[1] / "support"
FILE = b"%PDF-1.7\n" + bytes(range(256)) * 1_000
SHA256 = hashlib.sha256(FILE).hexdigest()


async def call(gateway: GatewayProcess, *frames: dict[str, Any], user: str = "ann") -> list[dict[str, Any]]:
    """What a gateway answers to the frames of an app that comes and goes, one after the other."""
    answers = []
    async with connect(f"{gateway.url}/?userId={user}&sessionId=s") as socket:
        for frame in frames:
            await socket.send(json.dumps(frame))
            while (answer := json.loads(await socket.recv()))["action"] == "messageAccepted":
                pass
            answers.append(answer)
    return answers


def piece(offset: int | None = None, upload: str | None = None, size: int = 65_536) -> dict[str, Any]:
    frame: dict[str, Any] = {"action": "putPiece", "requestId": "p", "sha256": SHA256, "bytes": len(FILE)}
    if offset is not None:
        frame |= {"offset": offset, "data": base64.b64encode(FILE[offset : offset + size]).decode()}
    return frame if upload is None else frame | {"upload": upload}


async def test_a_file_begun_at_one_gateway_is_finished_at_another_and_shown_at_a_third(join: Serve) -> None:
    a, b, c = [
        await asyncio.to_thread(join, node, "--model", "python:files_model:make", source=SUPPORT) for node in "abc"
    ]
    (begun,) = await call(a, piece())
    upload = begun["upload"]
    states = await call(a, piece(0, upload), piece(65_536, upload))
    assert [state["offset"] for state in states] == [65_536, 131_072]
    await asyncio.to_thread(a.stop, signal.SIGKILL)
    (known,) = await call(b, piece())
    assert (known["upload"], known["offset"], known["complete"]) == (upload, 131_072, False)
    *_, finished = await call(b, piece(131_072, upload), piece(196_608, upload))
    assert finished["complete"]
    attached = {"sha256": SHA256, "bytes": len(FILE), "mediaType": "application/pdf", "name": "그림.pdf"}
    question = {"action": "sendMessage", "requestId": "r1", "message": "What is it?", "attachments": [attached]}
    (shown,) = await call(c, question)
    assert shown["response"] == f"그림.pdf application/pdf {SHA256}\n"
    (asked,) = await call(c, piece())
    assert asked["complete"]
    (others,) = await call(c, piece(), user="bob")
    assert not others["complete"], "a file is its user's"


async def draw(app: Client, number: int) -> bool:
    """Ask; whether the budget had room for the question."""
    text = f"question {number} " + "with some words " * 8
    try:
        answer = await app.ask(text, max_tokens=60)
    except RateLimited as refused:
        assert refused.reason == "budget"
        return False
    assert answer.text == text
    return True


async def test_a_budget_is_drawn_at_three_gateways_at_once_and_one_of_them_dies(join: Serve, database: str) -> None:
    gateways = [await asyncio.to_thread(join, node, "--model", "echo:delay_ms=20&price=1/1") for node in "abc"]
    store = FleetStore(database, node="operator")
    await store.open()
    limit = Budget(LIMIT_MICRO_USD, Unit.MICRO_USD, Period.MONTH)
    await store.set_budget("ann", Period.MONTH, limit, now_ms=epoch_ms())
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(Balancer([gateway.port for gateway in gateways]))
        apps = [Client(f"ws://127.0.0.1:{balancer.port}", user="ann") for _ in range(9)]
        for app in apps:
            await stack.enter_async_context(app)
        asked = [asyncio.create_task(draw(app, n)) for n in range(6) for app in apps]
        await asyncio.sleep(0.4)
        await asyncio.to_thread(gateways[2].stop, signal.SIGKILL)
        answered = Counter(await asyncio.gather(*asked))
    assert answered.keys() == {True, False}, "some found room, and others did not"
    ((_, counter),) = (await store.counters()).items()
    await store.close()
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT record FROM answerback.requests").fetchall()
    endings = [json.loads(record)["ending"] for (record,) in rows]
    assert (counter.reserved, counter.used) == (0, sum(ending.get("cost_micro_usd", 0) for ending in endings))
    assert counter.used <= LIMIT_MICRO_USD
