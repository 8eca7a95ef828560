import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import cast

import aiohttp
import pytest
import websockets
from aiohttp import web
from gateway_peers import TEXT, Listening, raw_connection

from answerback.gateway.http import Handler, Server
from answerback.gateway.settings import Caps
from answerback.gateway.upgrade import new_connection_id
from answerback.ports import Identity, TokenRefused, Unavailable

Listen = Callable[..., Awaitable[Listening]]


class TwoUsers:
    async def identify(self, token: str) -> Identity:
        if token == "down":
            raise Unavailable("the provider is down at https://secret.example")
        if token not in {"alice", "bob"}:
            raise TokenRefused("bad signature, secret detail")
        return Identity(token, 1_800_000_000_000)


async def refused(listening: Listening, path: str = "/", **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    base = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{listening.port}{path}", headers={**base, **named}) as response,
    ):
        return response.status, await response.text(), response


async def test_a_plain_get_says_what_this_is(listen: Listen) -> None:
    listening = await listen()
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{listening.port}/") as response:
        assert response.status == 426
        assert response.headers["Upgrade"] == "websocket"
        assert "Answerback gateway" in await response.text()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8765"])
async def test_a_web_page_is_refused(listen: Listen, origin: str) -> None:
    status, text, _ = await refused(await listen(), Origin=origin)
    assert status == 403
    assert "--allow-origin" in text


async def test_an_allowed_page_and_a_desktop_app_connect(listen: Listen) -> None:
    listening = await listen(allow_origins=("https://app.example",))
    async with websockets.connect(listening.url, origin=websockets.Origin("https://app.example")):
        pass
    async with websockets.connect(listening.url):
        pass
    assert len(listening.front.connected) == 2


async def test_a_later_connection_is_newer_although_the_clock_stands_still(listen: Listen) -> None:
    listening = await listen()
    async with websockets.connect(listening.url), websockets.connect(listening.url):
        pass
    first, second = listening.front.connected
    assert first.connected_at_ms == first.last_activity_ms == second.last_activity_ms
    assert second.connected_at_ms > first.connected_at_ms


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.1"])
async def test_a_foreign_host_is_refused(listen: Listen, host: str) -> None:
    status, text, _ = await refused(await listen(), Host=host)
    assert status == 403
    assert "--allow-host" in text


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "[::1]:99", "127.0.0.1", "named.example."])
async def test_own_names_are_accepted(listen: Listen, host: str) -> None:
    listening = await listen(allow_hosts=("Named.Example",))
    async with raw_connection(listening.port, headers={"Host": host}) as (_, head):
        assert head.startswith(b"HTTP/1.1 101")


async def test_without_a_host_it_is_refused(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port, headers={"Host": ""}) as (_, head):
        assert head.split()[1] in {b"400", b"403"}


async def test_a_token_by_header_query_or_subprotocol(listen: Listen) -> None:
    listening = await listen(tokens=TwoUsers())
    async with websockets.connect(listening.url, additional_headers={"Authorization": "Bearer alice"}) as ws:
        assert ws.subprotocol is None
    async with websockets.connect(listening.url + "/?token=alice"):
        pass
    protocols = [websockets.Subprotocol(name) for name in ("answerback.v1", "bearer.bob")]
    async with websockets.connect(listening.url, subprotocols=protocols) as ws:
        assert ws.subprotocol == "answerback.v1"
    users = [connection.user_id for connection in listening.front.connected]
    assert users == ["alice", "alice", "bob"]
    assert all(connection.authenticated for connection in listening.front.connected)
    assert listening.front.connected[0].token_expires_at_ms == 1_800_000_000_000


async def test_no_token_and_a_bad_token_get_different_challenges_and_no_details(listen: Listen) -> None:
    listening = await listen(tokens=TwoUsers())
    status, text, response = await refused(listening)
    assert status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="answerback"'
    status, text, response = await refused(listening, Authorization="Bearer eve")
    assert status == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert "secret" not in text
    status, text, response = await refused(listening, Authorization="Bearer down")
    assert (status, response.headers["Retry-After"]) == (503, "5")
    assert "secret" not in text
    assert (await refused(listening, Authorization="Basic YWxpY2U="))[0] == 401
    assert not listening.front.connected


async def test_a_user_id_that_is_not_the_tokens_is_refused(listen: Listen) -> None:
    listening = await listen(tokens=TwoUsers())
    assert (await refused(listening, "/?userId=bob", Authorization="Bearer alice"))[0] == 403
    async with websockets.connect(listening.url + "/?userId=alice&token=alice"):
        pass


async def test_a_bearer_subprotocol_alone_is_refused_and_not_logged(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    listening = await listen(tokens=TwoUsers())
    with caplog.at_level(logging.DEBUG):
        status, text, _ = await refused(listening, Sec_WebSocket_Protocol="bearer.alice-token")
        await refused(listening, "/?token=alice-token")
        twice = {"Sec-WebSocket-Protocol": "bearer.alice-token", "Sec-WebSocket-protocol": "answerback.v1"}
        async with raw_connection(listening.port, headers=twice) as (_, head):
            assert head.split()[1] == b"400"
    assert status == 400
    assert "alice-token" not in text + caplog.text


@pytest.mark.parametrize("query", ["sessionId=", "sessionId=a%20b", "userId=%00", "userId=" + "x" * 129])
async def test_ids_are_checked(listen: Listen, query: str) -> None:
    status, text, _ = await refused(await listen(), "/?" + query)
    assert status == 400
    assert "visible characters" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": "not base64 !"}, 400),
        ({"Upgrade": "h2c"}, 426),
    ],
)
async def test_handshakes_that_are_none(listen: Listen, headers: dict[str, str], status: int) -> None:
    listening = await listen()
    async with raw_connection(listening.port, headers=headers) as (_, head):
        assert int(head.split()[1]) == status


async def test_session_and_user_come_from_the_url_and_a_connection_alone_is_its_own_session(listen: Listen) -> None:
    listening = await listen()
    async with websockets.connect(listening.url + "/?sessionId=desk%2F1&userId=user_001"):
        pass
    async with websockets.connect(listening.url), websockets.connect(listening.url):
        pass
    named, one, other = listening.front.connected
    assert (named.session_id, named.user_id, named.authenticated) == ("desk/1", "user_001", False)
    assert named.source_ip == "127.0.0.1"
    assert one.session_id != other.session_id
    assert one.user_id is None


def test_connection_ids_look_like_api_gateways() -> None:
    ids = {new_connection_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == 16 and name.endswith("=") for name in ids)


async def test_caps_on_connections_and_on_those_of_a_user(listen: Listen) -> None:
    listening = await listen(caps=Caps(connections=3, connections_per_user=1))
    async with websockets.connect(listening.url + "/?userId=a"):
        assert (await refused(listening, "/?userId=a"))[0] == 429
        async with websockets.connect(listening.url + "/?userId=b"), websockets.connect(listening.url):
            status, _, response = await refused(listening)
            assert (status, response.headers["Retry-After"]) == (503, "30")
    await listening.front.until(lambda: len(listening.front.disconnected) == 3)
    async with websockets.connect(listening.url + "/?userId=a"):
        pass


async def test_a_head_that_does_not_come_is_cut(listen: Listen) -> None:
    listening = await listen(caps=Caps(handshake_timeout_s=0.05))
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_frames_before_the_answer_are_refused(listen: Listen) -> None:
    listening = await listen()
    async with raw_connection(listening.port, after=b"\x81\x02hi") as (_, head):
        assert head.startswith(b"HTTP/1.1 400")


async def test_who_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, listen: Listen) -> None:
    monkeypatch.setattr("answerback.gateway.listener.SPARE_CONNECTIONS", 2)
    listening = await listen(caps=Caps(connections=2, handshake_timeout_s=3_600.0))
    listening.echo()
    async with AsyncExitStack() as stack:
        raw, _ = await stack.enter_async_context(raw_connection(listening.port))
        silent = [await asyncio.open_connection("127.0.0.1", listening.port) for _ in range(20)]
        async with raw_connection(listening.port) as (other, head), asyncio.timeout(20):
            assert head.startswith(b"HTTP/1.1 101")
            for one in (raw, other):
                one.send(TEXT, b"still here")
                assert await one.receive() == (TEXT, b"still here")
            for reader, _ in silent[:17]:  # the newest are the last to go
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        for _, writer in silent:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_what_is_not_http_gets_a_short_answer(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    listening = await listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    with caplog.at_level(logging.INFO):
        writer.write(b"\x16\x03\x01secret\r\n\r\n")
        async with asyncio.timeout(20):
            answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] == b"400"
    assert answer.endswith(b"This is not a valid HTTP request.\n")
    assert "secret" not in caplog.text


async def test_a_client_that_is_gone_before_its_answer_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    has_come, is_gone, is_handled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        handler = cast("Handler", request.protocol)
        handler.on_lost = is_gone.set
        has_come.set()
        await is_gone.wait()
        asyncio.get_running_loop().call_soon(is_handled.set)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        return ws

    server = Server(answer, max_connections=1, handshake_timeout_s=60)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await has_come.wait()
        writer.transport.abort()
        await is_handled.wait()
    listening.close()
    await server.shutdown(timeout=1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
