"""What the log says of refused sockets, of requests that ended, and of what an operator did."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from gateway_peers import raw_connection

from answerback import __version__
from answerback.client import Client
from answerback.gateway.app import Gateway
from answerback.gateway.logging import TextFormatter
from answerback.gateway.settings import AuthSettings, Caps, GatewaySettings
from answerback.ports import Unavailable
from answerback.stores.sqlite import MemoryStore

SECRET = "a secret of thirty-two characters"


def settings(folder: Path, **options: Any) -> GatewaySettings:
    return GatewaySettings(
        **{"port": 0, "admin_port": 0, "data_dir": folder, "models": ("echo",), "grace_s": 0.0, **options}
    )


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [TextFormatter().format(record) for record in caplog.records if record.name == logger]


@pytest.mark.parametrize(
    ("headers", "options", "why"),
    [
        ({"Host": "evil.example"}, {}, "403: This gateway does not go by that Host name"),
        ({"Origin": "https://evil.example"}, {}, "403: Web pages of this Origin may not connect"),
        ({}, {"auth": AuthSettings(secret=SECRET)}, "401: This gateway needs a token"),
        ({"Authorization": "Bearer x"}, {"auth": AuthSettings(secret=SECRET)}, "401: The token is expired"),
        ({}, {"caps": Caps(connections=1)}, "503: The gateway has no room"),
        ({}, {"caps": Caps(connections_per_user=1)}, "429: This user has too many connections"),
    ],
)
async def test_a_refused_socket_is_logged_with_the_reason_and_the_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, headers: dict[str, str], options: dict[str, Any], why: str
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Gateway(settings(tmp_path, **options)) as gateway,
        raw_connection(gateway.port, path="/?userId=u") as _,
        raw_connection(gateway.port, path="/?userId=u", headers=headers),
    ):
        pass
    found = lines(caplog, "answerback.listener")
    assert [line for line in found if f"a socket was refused with {why}" in line and "remote=127.0.0.1" in line]
    assert "evil.example" not in caplog.text


@pytest.mark.parametrize(("trusted", "address"), [((), "127.0.0.1"), (("127.0.0.0/8",), "198.51.100.7")])
async def test_behind_a_trusted_proxy_the_log_names_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], address: str
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7", "Host": "evil.example"}
    async with Gateway(settings(tmp_path, trust_proxies=trusted)) as gateway:
        for _ in range(2):
            async with raw_connection(gateway.port, headers=headers):
                pass
    refused = lines(caplog, "answerback.listener")
    assert [line.rpartition("remote=")[2] for line in refused] == [address] * 2
    assert [" proxy=127.0.0.1 " in line for line in refused] == [bool(trusted)] * 2
    assert len(lines(caplog, "answerback.upgrade")) == 1, "who reaches the proxy can be any user: once"


async def test_an_app_is_logged_and_told_the_least_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Gateway(settings(tmp_path, least_client="2.1")) as gateway:
        async with Client(gateway.url, user="ann") as app:
            await app.ask("hello")
        async with websockets.connect(gateway.url) as ws:
            await ws.send(json.dumps({"action": "hello", "helloId": "h"}))
            welcome = json.loads(await ws.recv())
    assert welcome["server"]["leastClient"] == "2.1"
    (line,) = lines(caplog, "answerback.front")
    assert line.endswith(f"userId=ann client=answerback-python/{__version__}")


async def test_a_request_leaves_one_line_without_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        Gateway(settings(tmp_path, models=("echo", "broken=echo:fail=midstream"))) as gateway,
        websockets.connect(f"{gateway.url}/?userId=u") as ws,
    ):
        for request_id, model in (("r1", "echo"), ("r2", "broken"), ("r3", "none=1")):
            question = {"action": "sendMessage", "requestId": request_id, "message": "secret words", "model": model}
            await ws.send(json.dumps(question))
            while json.loads(await ws.recv())["action"] != "messageResponse":
                pass
    one, two = lines(caplog, "answerback.requests")
    assert " completed model=echo length=12 " in one
    assert one.endswith(" requestId=r1 userId=u attempt=1")
    assert " failed code=model_failed model=broken " in two
    assert "totalMs=" in one
    assert "secret" not in caplog.text


async def test_what_an_operator_does_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Gateway(settings(tmp_path, models=("echo:first_ms=3600000",))) as gateway:
        headers = {"Authorization": f"Bearer {(tmp_path / 'admin.key').read_text().strip()}"}
        async with (
            websockets.connect(f"{gateway.url}/?userId=u") as ws,
            aiohttp.ClientSession(gateway.admin_url, headers=headers) as session,
            asyncio.timeout(30),
        ):
            await ws.send(json.dumps({"action": "sendMessage", "requestId": "r1", "message": "secret words"}))
            await ws.recv()
            for method, path, body in (
                ("PUT", "/users/u/limit", {"perMinute": 7}),
                ("PUT", "/users/u/limit", {"perMinute": 0}),
                ("PUT", "/users/u/limit", {"perMinute": None}),
                ("PUT", "/budgets/team%20blue", {"period": "day", "budget": {"limit": 5000, "unit": "tokens"}}),
                ("PUT", "/budgets/u", {"period": "month", "budget": None}),
                ("PUT", "/users/u/retention", {"keepDays": 9}),
                ("DELETE", "/requests/u/r1", None),
                ("DELETE", "/users/u", None),
                ("GET", "/users", None),
            ):
                async with session.request(method, path, json=body) as response:
                    assert response.status < 300
    said = [line.partition("operator: ")[2] for line in lines(caplog, "answerback.admin")]
    assert said == [
        "a rate limit was set to 7 userId=u remote=127.0.0.1",
        "a rate limit was set to off userId=u remote=127.0.0.1",
        "a rate limit was set to default userId=u remote=127.0.0.1",
        'the budget of a day was set to 5,000 tokens holder="team blue" remote=127.0.0.1',
        "the budget of a month was set to none holder=u remote=127.0.0.1",
        "a retention was set to 9 days userId=u remote=127.0.0.1",
        "a request was cancelled requestId=r1 userId=u remote=127.0.0.1",
        "a user is to be erased userId=u remote=127.0.0.1",
    ]


async def test_an_export_that_the_store_cannot_finish_is_cut_off(tmp_path: Path) -> None:
    class Failing(MemoryStore):
        async def export(self, user_id: str) -> AsyncIterator[bytes]:
            async for line in super().export(user_id):
                yield line
                raise Unavailable("the disk is gone")

    store = Failing()
    await store.set_limit("ann", 5, now_ms=1)
    async with Gateway(settings(tmp_path), store=store) as gateway, aiohttp.ClientSession() as session:
        key = (tmp_path / "admin.key").read_text().strip()
        url = f"{gateway.admin_url}/users/ann/export"
        async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        async with session.get(url.replace("ann", "eve"), headers={"Authorization": f"Bearer {key}"}) as response:
            assert response.status == 404
