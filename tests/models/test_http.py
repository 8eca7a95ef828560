"""The HTTP client of the `openai:` adapter, against servers that are scripted byte by byte."""

import asyncio
import gzip
import socket
import struct
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from yarl import URL

from answerback.models.http import (
    TRANSPORT_ERRORS,
    HttpClient,
    is_transient,
)
from answerback.ports import ModelError
from answerback.protocol.errors import ErrorCode
from listening import listening

pytestmark = pytest.mark.usefixtures("own_network")


class Peer:
    """One connection, as the server sees it: `count` connections came before it."""

    def __init__(self, count: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count = count
        self._reader = reader
        self._writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await self._reader.readexactly(int(length.partition(b":")[2]))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, body: bytes, *headers: bytes) -> None:
        length = b"Content-Length: %d" % len(body)
        await self.send(b"\r\n".join((b"HTTP/1.1 200 OK", length, *headers, b"", body)))

    def reset(self) -> None:
        """Close, with a reset and not an end."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[URL]:
    """A server that runs `script` for each connection and closes it then."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        peer = Peer(connections, reader, writer)
        connections += 1
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with listening(serve) as port:
        yield URL(f"http://127.0.0.1:{port}/v1")


@asynccontextmanager
async def client_of(url: URL) -> AsyncIterator[HttpClient]:
    client = HttpClient(url, headers={}, connect_timeout_s=30, silence_timeout_s=30)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: HttpClient, body: bytes = b"{}") -> bytes:
    async with await client.post(body) as response:
        return b"".join([data async for data in client.read(response)])


# --- pooled connections -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_stale_pooled_connection_is_replaced_at_once(is_reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"%d" % peer.count)
        if peer.count < 2:
            await peer.request()
            if is_reset:
                peer.reset()

    async with serving(script) as url, client_of(url) as client:
        assert sorted(await asyncio.gather(ask(client), ask(client))) == [b"0", b"1"]
        # Both are pooled, and both break; each request gets a connection of its own.
        assert sorted(await asyncio.gather(ask(client), ask(client))) == [b"2", b"3"]


async def test_it_is_replaced_once() -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()
        if peer.count == 0:
            await peer.answer(b"first")
            await peer.request()

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == b"first"
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(client)
    assert len(connections) == 2


async def test_a_new_connection_that_breaks_is_not_replaced() -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(client)
    assert len(connections) == 1


@pytest.mark.parametrize(
    "after_request", [b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_a_response_that_has_begun_is_not_asked_for_again(after_request: bytes) -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()
        await peer.answer(b"first")
        await peer.request()
        await peer.send(after_request)

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == b"first"
        with pytest.raises(TRANSPORT_ERRORS):
            await ask(client)
    assert len(connections) == 1


async def test_a_silent_pooled_connection_is_not_replaced() -> None:
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()
        await peer.answer(b"first")
        await peer.request()
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == b"first"
        client._connect_timeout_s = client._silence_timeout_s = 0.01  # until the head
        with pytest.raises(TimeoutError) as caught:
            await ask(client)
    assert not is_transient(caught.value)
    assert len(connections) == 1


async def test_a_response_left_early_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        try:
            await peer.request()
        finally:
            closed.set()

    async with serving(script) as url, client_of(url) as client:
        async with await client.post(b"{}") as response:
            assert await anext(client.read(response)) == b"half"
            assert not closed.is_set()
        await closed.wait()


async def test_no_cookie_passes_from_one_answer_to_the_next() -> None:
    heads = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.answer(b"", b"Set-Cookie: user=ann")

    async with serving(script) as url, client_of(url) as client:
        await ask(client)
        await ask(client)
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


# --- the end ------------------------------------------------------------------------------------------------


async def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        async with await client.post(b"{}") as waits, await client.post(b"{}") as pauses:
            bodies = [client.read(waits), client.read(pauses)]
            assert [await anext(body) for body in bodies] == [b"half", b"half"]
            waiting = asyncio.ensure_future(anext(bodies[0]))
            await asyncio.sleep(0)
            await client.close()
            for rest in (waiting, anext(bodies[1])):
                with pytest.raises(TRANSPORT_ERRORS):
                    await rest
        with pytest.raises(ModelError) as caught:
            await client.post(b"{}")
    assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE


async def test_closing_ends_a_request_that_waits_for_its_head() -> None:
    asked = asyncio.Event()
    connections = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()
        await peer.answer(b"first")
        await peer.request()
        asked.set()
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == b"first"
        waiting = asyncio.ensure_future(ask(client))
        await asked.wait()
        await client.close()
        with pytest.raises(TRANSPORT_ERRORS):
            await waiting
    assert len(connections) == 1, "a closed client does not replace a connection"


async def test_what_came_before_an_error_is_not_lost() -> None:
    client = HttpClient(URL("http://models.example/v1"), headers={}, connect_timeout_s=30, silence_timeout_s=30)
    content = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
    body = client.read(SimpleNamespace(content=content))
    content.feed_data(b"one ")
    assert await anext(body) == b"one "
    content.feed_data(b"two ")
    content.feed_data(b"three")
    content.set_exception(aiohttp.ClientPayloadError("cut"))
    assert await anext(body) == b"two three"
    with pytest.raises(aiohttp.ClientPayloadError):
        await anext(body)


# --- silence ------------------------------------------------------------------------------------------------


async def test_silence_before_the_head_is_bounded() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        client._connect_timeout_s = client._silence_timeout_s = 0.01
        with pytest.raises(TimeoutError) as caught:
            await ask(client)
    assert not is_transient(caught.value)


async def test_silence_inside_a_body_is_bounded(pass_time: Callable) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await peer.request()

    async with serving(script) as url, client_of(url) as client, await client.post(b"{}") as response:
        body = client.read(response)
        assert await anext(body) == b"half"
        waiting = asyncio.ensure_future(anext(body))
        await asyncio.sleep(0)
        pass_time(60)
        with pytest.raises(TimeoutError):
            await waiting


async def test_a_reader_that_pauses_is_no_silence(pass_time: Callable) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await read.wait()
        await peer.send(b"full")

    async with serving(script) as url, client_of(url) as client, await client.post(b"{}") as response:
        body = client.read(response)
        assert await anext(body) == b"half"
        pass_time(60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # in this turn of the loop the time-out was due
        read.set()
        assert await anext(body) == b"full"


async def test_a_server_that_does_not_take_the_request_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with client_of(URL(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")) as client:
            client._connect_timeout_s = client._silence_timeout_s = 0.2
            with pytest.raises(TimeoutError) as caught:
                await ask(client, b"x" * 50_000_000)
    assert not is_transient(caught.value)


async def test_a_long_request_is_whole() -> None:
    async def script(peer: Peer) -> None:
        _, body = await peer.request()
        await peer.answer(b"%d" % len(body))

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client, b"x" * 3_000_000) == b"3000000"


# --- encodings ----------------------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compress.compress(data) + compress.flush()


@pytest.mark.parametrize(
    ("name", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
async def test_encodings_that_are_asked_for_are_decoded(name: str, encode: Callable[[bytes], bytes]) -> None:
    body = b"".join(b"data: word %d\n\n" % n for n in range(20_000))
    heads = []

    async def script(peer: Peer) -> None:
        heads.append((await peer.request())[0])
        await peer.answer(encode(body), b"Content-Encoding: " + name.encode())

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == body
    accepted = next(line for line in heads[0].lower().split(b"\r\n") if line.startswith(b"accept-encoding:"))
    assert name.lower().encode() in accepted


async def test_a_compressed_stream_is_not_held_back() -> None:
    compress = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
        await peer.send(compress.compress(b"one ") + compress.flush(zlib.Z_SYNC_FLUSH))
        await read.wait()
        await peer.send(compress.compress(b"two") + compress.flush())

    async with serving(script) as url, client_of(url) as client, await client.post(b"{}") as response:
        body = client.read(response)
        assert await anext(body) == b"one "
        read.set()
        assert b"".join([data async for data in body]) == b"two"


@pytest.mark.parametrize(
    "body", [b"this is no gzip at all", gzip.compress(b"a")[:10] + b"\xff" * 50], ids=["no gzip", "broken gzip"]
)
async def test_what_cannot_be_decoded_is_an_error(body: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(body, b"Content-Encoding: gzip")
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        with pytest.raises(TRANSPORT_ERRORS) as caught:
            await ask(client)
        assert "gzip" in client.explain(caught.value)


# --- what is no HTTP ----------------------------------------------------------------------------------------


NO_HTTP = [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000]


@pytest.mark.parametrize("sent", NO_HTTP, ids=["another protocol", "an endless header"])
async def test_what_is_no_http_is_an_error(sent: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.request()

    async with serving(script) as url, client_of(url) as client:
        with pytest.raises(TRANSPORT_ERRORS) as caught:
            await client.post(b"{}")
        assert is_transient(caught.value)
        assert "http://" not in client.explain(caught.value)


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"Content-Length: 9\r\n\r\nok"])
async def test_a_body_that_ends_early_is_an_error(framing: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing)

    async with serving(script) as url, client_of(url) as client, await client.post(b"{}") as response:
        body = client.read(response)
        assert await anext(body) == b"ok"
        with pytest.raises(TRANSPORT_ERRORS) as caught:
            await anext(body)
        assert "http://" not in client.explain(caught.value)


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_chunk_without_a_length_does_not_hang(pass_time: Callable, is_waiting: bool) -> None:
    """aiohttp closes the connection then, and does not wake the reader."""
    read, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await read.wait()
        await peer.send(b"no length\r\n")
        try:
            await peer.request()
        finally:
            closed.set()

    async with serving(script) as url, client_of(url) as client, await client.post(b"{}") as response:
        body = client.read(response)
        assert await anext(body) == b"ok"
        rest = asyncio.ensure_future(anext(body)) if is_waiting else anext(body)
        read.set()
        await closed.wait()
        pass_time(60)
        with pytest.raises(TRANSPORT_ERRORS):
            await rest


async def test_long_headers_are_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"ok", b"Content-Security-Policy: " + b"x" * 30_000)

    async with serving(script) as url, client_of(url) as client:
        assert await ask(client) == b"ok"


async def test_a_port_without_tls() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(script) as url, client_of(url.with_scheme("https")) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await ask(client)
        assert is_transient(caught.value)


async def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody)
    async with client_of(URL("http://models.example/v1")) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await ask(client)
        assert is_transient(caught.value)
        assert "Name or service not known" in client.explain(caught.value)


@pytest.mark.parametrize(
    ("host", "reason"), [("256.1.1.1", "IPv4"), ("1.2.3", "IPv4"), ("a..b", "label"), ("a" * 64 + ".example", "label")]
)
def test_a_host_that_cannot_be(host: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HttpClient(URL(f"http://{host}/v1"), headers={}, connect_timeout_s=1, silence_timeout_s=1)


# --- proxies ------------------------------------------------------------------------------------------------


async def test_a_proxy_is_used_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.answer(b"ok")

    async with serving(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", str(proxy.origin().with_user("ann").with_password("secret")))
        async with client_of(URL("http://models.example/v1?a=b")) as client:
            # The second uses the connection again.
            assert [await ask(client), await ask(client)] == [b"ok", b"ok"]
    for head in heads:
        assert head.startswith(b"POST http://models.example/v1?a=b HTTP/1.1\r\n")
        assert b"Host: models.example\r\n" in head
        assert b"Proxy-Authorization: Basic " + b64encode(b"ann:secret") in head


async def test_a_proxy_that_refuses_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async with serving(script) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", str(proxy.origin().with_user("ann").with_password("secret")))
        async with client_of(URL("https://models.example/v1")) as client:
            with pytest.raises(aiohttp.ClientHttpProxyError) as caught:
                await ask(client)
            assert not is_transient(caught.value)
            detail = client.explain(caught.value)
    assert "HTTPS_PROXY" in detail
    assert "secret" not in detail


async def test_a_proxy_that_is_not_there_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Peer.request) as proxy:
        pass
    monkeypatch.setenv("HTTP_PROXY", str(proxy.origin()))
    async with client_of(URL("http://models.example/v1")) as client:
        with pytest.raises(aiohttp.ClientProxyConnectionError) as caught:
            await ask(client)
        assert is_transient(caught.value)
        assert "HTTP_PROXY" in client.explain(caught.value)
