"""The client's tokens: asked for, renewed, refused."""

import asyncio
import base64
import json
import time
from itertools import chain, repeat

import pytest

from answerback.client import Client, Timing, Unauthorized
from answerback.client.tokens import expires_at_s

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5)


def jwt(**claims):
    parts = ({"alg": "none"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), "x"])


async def test_a_token_is_asked_for_at_every_connect(gateway):
    tokens = iter(["one", "two", "three"])

    async def fresh():
        return next(tokens)

    gateway.refuse = [401]
    async with Client(gateway.url, token=fresh, timing=QUICK):
        peer = await gateway.peer()
        assert peer.headers["Authorization"] == "Bearer two"
        await peer.cut()
        assert (await gateway.peer()).headers["Authorization"] == "Bearer three"


async def test_a_token_refused_twice_is_refused(gateway):
    gateway.refuse = [401, 401]
    with pytest.raises(Unauthorized):
        async with Client(gateway.url, token=lambda: "t", timing=QUICK):
            pass


async def test_a_token_function_that_fails_is_called_again(gateway, caplog):
    answers = iter([RuntimeError("no network"), "good"])

    def fresh():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Client(gateway.url, token=fresh, timing=QUICK):
        assert (await gateway.peer()).headers["Authorization"] == "Bearer good"
    assert "the token function failed" in caplog.text


async def test_a_token_is_renewed_before_it_expires(gateway):
    soon, later = jwt(exp=time.time() + 30), jwt(exp=time.time() + 7200)
    tokens = iter([soon, later])
    async with Client(gateway.url, token=lambda: next(tokens), timing=Timing(watch_s=0.01)) as app:
        peer = await gateway.peer()
        renewal = await peer.get("renewToken")
        assert renewal["token"] == later
        await peer.send({"action": "tokenRenewed", "requestId": renewal["requestId"]})
        asking = asyncio.create_task(app.ask("?"))
        await peer.answer((await peer.get("sendMessage"))["requestId"], "still here")
        assert (await asking).text == "still here"


async def test_a_token_that_was_renewed_is_not_renewed_again_before_it_expires(gateway, monkeypatch):
    real, looked, calls = time.time, asyncio.Event(), 0
    tokens = (jwt(exp=real() + (30 if number == 0 else 7200 + number)) for number in range(1_000))

    def wall():
        nonlocal calls
        calls += 1
        if calls > 30:
            looked.set()
        return real()

    async with Client(gateway.url, token=lambda: next(tokens), timing=Timing(watch_s=0.001)) as app:
        peer = await gateway.peer()
        renewal = await peer.get("renewToken")
        await peer.send({"action": "tokenRenewed", "requestId": renewal["requestId"]})
        monkeypatch.setattr("answerback.client.driver.time.time", wall)
        await looked.wait()
        asking = asyncio.create_task(app.ask("?"))
        question = await peer.get("sendMessage")  # and no other renewal before it
        await peer.answer(question["requestId"], "still here")
        assert (await asking).text == "still here"


async def test_a_renewal_that_is_refused_means_a_new_connection(gateway):
    # For the third there may be a look before the connection ends, too, and then it is asked for once more.
    tokens = chain([jwt(exp=time.time() + 30), jwt(exp=time.time() + 40)], repeat("third"))
    timing = Timing(watch_s=0.01, backoff_min_s=0.001, close_s=0.1)
    async with Client(gateway.url, token=lambda: next(tokens), timing=timing):
        peer = await gateway.peer()
        renewal = await peer.get("renewToken")
        refusal = {"action": "error", "code": "unauthorized", "message": "No.", "requestId": renewal["requestId"]}
        await peer.send(refusal)
        assert (await gateway.peer()).headers["Authorization"] == "Bearer third"


@pytest.mark.parametrize(
    "claims", ['{"exp": 1' + "0" * 400 + "}", '{"exp": "soon"}', "[" * 100_000, '{"exp": true}', "[1]", "\xff"]
)
def test_an_expiry_that_cannot_be_read_is_none(claims: str) -> None:
    payload = base64.urlsafe_b64encode(claims.encode("latin-1")).decode().rstrip("=")
    assert expires_at_s(f"head.{payload}.signature") is None
