"""Whole gateways, on real sockets and a real store."""

import asyncio
import base64
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import boto3
import pytest
import websockets
from botocore.config import Config
from botocore.exceptions import ClientError
from gateway_peers import TEXT, raw_connection

from answerback.auth import make_token
from answerback.gateway.app import Gateway
from answerback.gateway.logging import JsonFormatter, TextFormatter
from answerback.gateway.settings import AuthSettings, Caps, GatewaySettings, SettingsError
from answerback.texts import escaped
from certificates import make_certificate

SECRET = "0123456789abcdef0123456789abcdef"
Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Gateway:
            base: dict[str, Any] = {
                "port": 0,
                "admin_port": 0,
                "data_dir": tmp_path / "data",
                "models": ("echo",),
                "rate_limit": 0,
                "grace_s": 5.0,
            }
            gateway = Gateway(GatewaySettings(**{**base, **options}))
            return await stack.enter_async_context(gateway)

        yield start


def question(request_id: str, text: str = "hello there", **more: Any) -> str:
    return json.dumps({"action": "sendMessage", "requestId": request_id, "message": text, **more})


async def ending(ws: websockets.ClientConnection, request_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            frame = json.loads(await ws.recv())
            if frame["action"] == "messageResponse" and frame["requestId"] == request_id:
                return frame


def key_of(tmp_path: Path) -> str:
    return (tmp_path / "data" / "admin.key").read_text().strip()


async def admin(
    gateway: Gateway, method: str, path: str, *, key: str | None = None, **options: Any
) -> tuple[int, str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{gateway.admin_url}{path}", headers={**headers, **options.pop("headers", {})}, **options
        ) as response,
    ):
        return response.status, await response.text(), response.headers


# --- the life of a gateway


async def test_a_question_is_answered(start: Start) -> None:
    gateway = await start()
    async with websockets.connect(gateway.url) as ws:
        await ws.send(question("r1", userId="user_001", timestamp="2025-01-01T00:00:00Z"))
        frame = await ending(ws, "r1")
    assert (frame["status"], frame["response"]) == ("completed", "hello there")


async def test_one_gateway_a_store(start: Start) -> None:
    await start()
    with pytest.raises(SettingsError, match="Another gateway"):
        await start()


async def test_a_stop_lets_a_running_answer_end_and_says_1001(start: Start) -> None:
    gateway = await start(models=("echo:delay_ms=5",))
    serving = asyncio.create_task(gateway.serve_forever())
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        await ws.send(question("r1", "one two three four five six", stream=True))
        while json.loads(await ws.recv())["action"] != "messageDelta":
            pass
        stopping = asyncio.create_task(gateway.stop())
        assert (await ending(ws, "r1"))["status"] == "completed"
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1001
        await stopping
        await serving


async def test_what_does_not_end_within_the_grace_is_resumed_by_the_next_start(start: Start) -> None:
    gateway = await start(models=("echo:first_ms=3600000",), grace_s=0.0)
    async with websockets.connect(gateway.url + "/?sessionId=s&userId=u") as ws:
        for name in ("r1", "r2"):
            await ws.send(question(name))
            assert json.loads(await ws.recv())["action"] == "messageAccepted"
        await gateway.stop()
    after = await start(models=("echo",))
    async with websockets.connect(after.url + "/?sessionId=s&userId=u") as ws:
        resume = [{"requestId": name, "attempt": 0, "offset": 0} for name in ("r1", "r2")]
        await ws.send(json.dumps({"action": "hello", "helloId": "h", "resume": resume}))
        frames = {}
        while len(frames) < 2:
            frame = json.loads(await ws.recv())
            if frame["action"] == "messageResponse":
                frames[frame["requestId"]] = frame
    assert [frames[name]["response"] for name in ("r1", "r2")] == ["hello there"] * 2
    assert frames["r1"]["attempt"] == 2, "its first attempt was cut off, and its lease is void"
    assert frames["r2"]["attempt"] == 1


async def test_serve_forever_ends_with_stop(start: Start) -> None:
    gateway = await start()
    serving = asyncio.create_task(gateway.serve_forever())
    await asyncio.sleep(0)
    await gateway.stop()
    await serving
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", gateway.port)


async def test_idle_connections_are_closed(start: Start) -> None:
    gateway = await start(idle_timeout_s=0.05, janitor_interval_s=0.02)
    async with websockets.connect(gateway.url) as ws:
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1000


# --- settings that it does not start with


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "0.0.0.0"}, "--auth-secret-file"),
        ({"host": "192.0.2.1"}, "--auth-secret-file"),
        ({"tls_cert": Path("cert.pem")}, "--tls-key"),
        ({"models": ()}, "--model"),
        ({"port": 70_000}, "--port"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Gateway(replace(GatewaySettings(data_dir=tmp_path), **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"auth": AuthSettings(secret="short")}, "at least 32"),
        ({"auth": AuthSettings(secret="")}, "at least 32"),
        ({"auth": AuthSettings(jwks_url="https://id.example/jwks")}, "--issuer and --audience"),
        ({"auth": AuthSettings(secret=SECRET, jwks_url="https://id.example/jwks")}, "one of"),
        ({"tls_cert": Path("no.pem"), "tls_key": Path("no.key")}, "PEM"),
        ({"models": ("nothing:",)}, "nothing"),
        ({"models": ("echo", "echo")}, "echo"),
    ],
)
async def test_settings_that_cannot_be_used_are_refused(start: Start, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        await start(**changes)


async def test_a_wildcard_bind_with_tokens(start: Start) -> None:
    gateway = await start(host="0.0.0.0", auth=AuthSettings(secret=SECRET))
    assert gateway.url == f"ws://127.0.0.1:{gateway.port}"
    token = make_token("alice", secret=SECRET, ttl_s=60)
    async with websockets.connect(gateway.url, additional_headers={"Authorization": f"Bearer {token}"}) as ws:
        await ws.send(question("r1"))
        assert (await ending(ws, "r1"))["response"] == "hello there"
    with pytest.raises(websockets.InvalidStatus, match="401"):
        await websockets.connect(gateway.url)
    for url in gateway.urls:
        async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None):
            pass


async def test_who_is_named_by_the_first_frame_counts_as_well(start: Start) -> None:
    gateway = await start(caps=Caps(connections_per_user=2))
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(websockets.connect(gateway.url)) for _ in range(4)]
        first, second, third, nobody = sockets
        for number, ws in enumerate((first, second, first)):
            await ws.send(question(f"r{number}", userId="ann"))
            assert (await ending(ws, f"r{number}"))["status"] == "completed"
        await third.send(question("r3", userId="ann"))
        refused = json.loads(await third.recv())
        assert (refused["action"], refused["code"]) == ("error", "overloaded")
        await third.wait_closed()
        await nobody.send(question("r4"))
        assert (await ending(nobody, "r4"))["status"] == "completed"
        with pytest.raises(websockets.InvalidStatus, match="429"):
            await websockets.connect(gateway.url + "/?userId=ann")
        assert len({socket.bucket for socket in gateway.sockets}) == 2, "one rate of frames for ann"
        await first.close()
        async with websockets.connect(gateway.url) as again:
            await again.send(question("r5", userId="ann"))
            assert (await ending(again, "r5"))["status"] == "completed"


async def test_what_other_machines_use_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("answerback.gateway.app.own_addresses", lambda host: ["192.0.2.7", "2001:db8::7"])
    options = {"host": "0.0.0.0", "auth": AuthSettings(secret=SECRET)}
    gateway = await start(**options)
    assert gateway.urls[1:] == (f"ws://192.0.2.7:{gateway.port}", f"ws://[2001:db8::7]:{gateway.port}")
    gateway = await start(**options, data_dir=gateway._settings.data_dir / "named", allow_hosts=("chat.example",))
    assert gateway.urls[1:] == (f"ws://chat.example:{gateway.port}",), "the only name that it goes by"
    gateway = await start(data_dir=gateway._settings.data_dir / "loopback")
    assert gateway.urls == (gateway.url,)


# --- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


async def test_tls(start: Start, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    gateway = await start(tls_cert=cert, tls_key=key)
    assert gateway.url.startswith("wss://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(cert))
    async with websockets.connect(gateway.url, ssl=trusting) as ws:
        assert ws.transport.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        await ws.send(question("r1", "x" * 20_000))
        assert (await ending(ws, "r1"))["response"] == "x" * 20_000
    with pytest.raises(websockets.InvalidMessage):
        await websockets.connect(gateway.url.replace("wss", "ws"), open_timeout=5)


# --- the admin port


async def test_health_needs_no_key_and_everything_else_does(start: Start, tmp_path: Path) -> None:
    gateway = await start()
    status, text, _ = await admin(gateway, "GET", "/healthz")
    assert status == 200
    assert json.loads(text)["status"] == "ok"
    for path in ("/metrics", "/requests", "/users", "/@connections/abc", "/nothing"):
        assert (await admin(gateway, "GET", path))[0] == 403
        assert (await admin(gateway, "GET", path, key="x" * 43))[0] == 403
    basic = "Basic " + base64.b64encode(f"prometheus:{key_of(tmp_path)}".encode()).decode()
    assert (await admin(gateway, "GET", "/metrics", headers={"Authorization": basic}))[0] == 200
    assert (await admin(gateway, "GET", "/nothing", key=key_of(tmp_path)))[0] == 404


async def test_health_reports_that_the_store_is_unavailable(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from answerback.ports import Unavailable
    from answerback.stores.store import SqlStore

    gateway = await start()

    async def read(*_: object) -> None:
        raise Unavailable("disk full at /secret")

    monkeypatch.setattr(SqlStore, "read", read)
    status, text, _ = await admin(gateway, "GET", "/healthz")
    assert status == 503
    assert "secret" not in text


@pytest.mark.parametrize("header", [{"Host": "evil.example"}, {"Origin": "http://127.0.0.1"}])
async def test_web_pages_cannot_use_the_admin_port(start: Start, header: dict[str, str], tmp_path: Path) -> None:
    gateway = await start()
    assert (await admin(gateway, "GET", "/healthz", headers=header))[0] == 403
    assert (await admin(gateway, "GET", "/requests", key=key_of(tmp_path), headers=header))[0] == 403


async def test_the_admin_key_is_kept_and_private(start: Start, tmp_path: Path) -> None:
    gateway = await start()
    key = key_of(tmp_path)
    assert (tmp_path / "data" / "admin.key").stat().st_mode & 0o777 == 0o600
    await gateway.stop()
    gateway = await start()
    assert key_of(tmp_path) == key
    await gateway.stop()
    (tmp_path / "data" / "admin.key").chmod(0o644)
    with pytest.raises(SettingsError, match="Others may read"):
        await start()


async def test_metrics_count_what_happened(start: Start, tmp_path: Path) -> None:
    gateway = await start(rate_limit=2)
    async with websockets.connect(gateway.url + "/?userId=u") as ws:
        await ws.send(question("r1", stream=True))
        await ending(ws, "r1")
        await ws.send(question("r1", stream=True))
        await ending(ws, "r1")
        await ws.send(question("r2", "", stream=True))
        assert (await ending(ws, "r2"))["status"] == "failed"
        _, text, _ = await admin(gateway, "GET", "/metrics", key=key_of(tmp_path))
    lines = set(text.splitlines())
    assert 'answerback_requests_total{code="",status="completed"} 1.0' in lines
    assert 'answerback_refused_total{code="invalid_frame"} 1.0' in lines
    for line in (
        "answerback_connections 1.0",
        "answerback_accepted_total 1.0",
        "answerback_attached_total 1.0",
        "answerback_frames_in_total 3.0",
        "answerback_queue_depth 0.0",
        "answerback_first_text_seconds_count 1.0",
        "answerback_accept_seconds_count 1.0",
        "answerback_text_code_points_total 22.0",
    ):
        assert line in lines


async def test_live_requests_are_listed_and_cancelled(start: Start, tmp_path: Path) -> None:
    gateway = await start(models=("echo:first_ms=3600000",), grace_s=0.0)
    key = key_of(tmp_path)
    async with websockets.connect(gateway.url + "/?userId=a%2Fb") as ws:
        for name in ("r/1", "r2"):
            await ws.send(question(name))
            assert json.loads(await ws.recv())["action"] == "messageAccepted"
        listed = json.loads((await admin(gateway, "GET", "/requests", key=key))[1])
        assert [(item["requestId"], item["userId"]) for item in listed["requests"]] == [("r/1", "a/b"), ("r2", "a/b")]
        assert "message" not in listed["requests"][0]
        assert (await admin(gateway, "DELETE", "/requests/a%2Fb/r2", key=key))[0] == 200
        assert (await ending(ws, "r2"))["status"] == "cancelled"
        assert (await admin(gateway, "DELETE", "/requests/a%2Fb/r%2F1", key=key))[0] == 202
        assert (await ending(ws, "r/1"))["status"] == "cancelled"
        assert (await admin(gateway, "DELETE", "/requests/a%2Fb/unknown", key=key))[0] == 404


async def test_users_over_the_admin_port(start: Start, tmp_path: Path) -> None:
    gateway = await start(rate_limit=1)
    key = key_of(tmp_path)
    assert (await admin(gateway, "GET", "/users/me", key=key))[0] == 404
    assert (await admin(gateway, "PUT", "/users/me/limit", key=key, json={"perMinute": 0}))[0] == 200
    async with websockets.connect(gateway.url + "/?userId=me") as ws:
        for number in range(3):
            await ws.send(question(f"r{number}"))
            assert (await ending(ws, f"r{number}"))["status"] == "completed"
    shown = json.loads((await admin(gateway, "GET", "/users/me", key=key))[1])
    assert (shown["userId"], shown["perMinute"]) == ("me", 0)
    assert json.loads((await admin(gateway, "GET", "/users?limit=5", key=key))[1])["users"] == [shown]
    usage = json.loads((await admin(gateway, "GET", "/usage?user=me", key=key))[1])["usage"]
    assert [row["requests"] for row in usage] == [3]
    for bad in ({}, {"perMinute": -1}, {"perMinute": True}, [], {"perMinute": 1.5}):
        assert (await admin(gateway, "PUT", "/users/me/limit", key=key, json=bad))[0] == 400
    assert (await admin(gateway, "GET", "/usage?since=yesterday", key=key))[0] == 400
    assert (await admin(gateway, "DELETE", "/users/me", key=key))[0] == 200
    assert (await admin(gateway, "DELETE", "/users/me", key=key))[0] == 404


async def test_boto3_manages_connections(start: Start, tmp_path: Path) -> None:
    gateway = await start(caps=Caps(write_buffer_bytes=50_000))

    def client(key: str) -> Any:
        return boto3.client(
            "apigatewaymanagementapi",
            endpoint_url=gateway.admin_url,
            aws_access_key_id=key,
            aws_secret_access_key="x",
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}),
        )

    async def call(made: Any, method: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(lambda: getattr(made, method)(**arguments))

    async def failure(made: Any, method: str, **arguments: Any) -> tuple[str, int]:
        with pytest.raises(ClientError) as caught:
            await call(made, method, **arguments)
        response = caught.value.response
        return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]

    api = client(key_of(tmp_path))
    async with websockets.connect(gateway.url, max_size=None) as ws:
        await ws.send(json.dumps({"action": "hello", "helloId": "h"}))
        connection_id = json.loads(await ws.recv())["connectionId"]
        assert connection_id.endswith("=")
        got = await call(api, "get_connection", ConnectionId=connection_id)
        assert got["Identity"]["SourceIp"] == "127.0.0.1"
        assert got["Identity"]["UserAgent"].startswith("Python")
        assert got["ConnectedAt"].tzinfo is not None
        assert got["LastActiveAt"] >= got["ConnectedAt"]

        sent = await call(api, "post_to_connection", ConnectionId=connection_id, Data=b'{"action":"hi"}')
        assert sent["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert await ws.recv() == '{"action":"hi"}'
        await call(api, "post_to_connection", ConnectionId=connection_id, Data=b"x" * 131_072)
        assert len(await ws.recv()) == 131_072
        post = {"ConnectionId": connection_id}
        assert await failure(api, "post_to_connection", **post, Data=b"x" * 131_073) == (
            "PayloadTooLargeException",
            413,
        )
        assert await failure(api, "post_to_connection", **post, Data=b"x" * 5_000_000) == (
            "PayloadTooLargeException",
            413,
        )
        assert await failure(client("wrong"), "post_to_connection", **post, Data=b"x") == ("ForbiddenException", 403)

        deleted = await call(api, "delete_connection", ConnectionId=connection_id)
        assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204
        for method, more in (("get_connection", {}), ("post_to_connection", {"Data": b"x"}), ("delete_connection", {})):
            assert await failure(api, method, **post, **more) == ("GoneException", 410)
        with pytest.raises(websockets.ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 1000


async def test_a_post_to_a_client_that_does_not_read_gets_429(start: Start, tmp_path: Path) -> None:
    gateway = await start(caps=Caps(write_buffer_bytes=50_000))
    async with raw_connection(gateway.port, receive_buffer=4096) as (raw, _):
        raw.send(TEXT, b'{"action":"hello","helloId":"h"}')
        connection_id = json.loads((await raw.receive())[1])["connectionId"]
        path, key = f"/@connections/{quote(connection_id)}", key_of(tmp_path)
        statuses = {200}
        for _ in range(1_000):
            status, _text, headers = await admin(gateway, "POST", path, key=key, data=b"x" * 100_000)
            statuses.add(status)
            if status != 200:
                break
        assert statuses == {200, 429}
        assert headers["x-amzn-ErrorType"] == "LimitExceededException"
        assert (await admin(gateway, "POST", path, key=key, data=b"\xff"))[0] == 400


# --- the log


def test_log_lines_are_one_line_with_their_facts() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("answerback.test")
    logger.addHandler(handler)
    handler.setFormatter(TextFormatter())
    logger.info("a frame", extra={"requestId": "r1 x=y\n", "conversationId": "c", "attempt": 2})
    handler.setFormatter(JsonFormatter())
    logger.info("a frame", extra={"requestId": "r1", "other": "not shown"})
    text, as_json = stream.getvalue().splitlines()
    assert text.endswith('INFO answerback.test a frame requestId="r1 x=y\\n" conversationId=c attempt=2')
    assert json.loads(as_json).keys() == {"time", "level", "logger", "message", "requestId"}


@pytest.mark.parametrize("steering", ["\x1b]0;title\x07", "\x9b31m", "\x7f", "\r", "\u202e", "\u2066"])
def test_no_text_of_an_error_forges_a_line_or_steers_the_reader_s_terminal(steering: str) -> None:
    forged = f"a reason{steering}\n2026-01-01T00:00:00.000Z INFO answerback.admin operator: a user was blocked"
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("answerback.test")
    logger.addHandler(handler)
    for formatter in (TextFormatter(), JsonFormatter()):
        handler.setFormatter(formatter)
        logger.error("it failed: %s", forged, exc_info=ValueError(forged))
    assert steering not in stream.getvalue()
    first, *traceback, as_json = stream.getvalue().split("\n")[:-1]
    assert first.endswith("a user was blocked")
    assert traceback[-2].endswith(f"a reason{escaped(steering)}")
    assert all(line.startswith("  ") for line in traceback)
    assert json.loads(as_json)["message"] == f"it failed: {forged}"
