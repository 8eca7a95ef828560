"""What a connection that cannot be opened says: each status, each way in which a proxy or TLS fails."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

import refusals
from answerback.client import AnswerbackError, CannotConnect, Forbidden, Obstacle, Timing, Unauthorized
from answerback.client.failures import MAX_RETRY_AFTER_S, OpenFailed, explain
from answerback.client.link import Address, open_socket
from certificates import make_certificate
from listening import listening

pytestmark = pytest.mark.usefixtures("own_network")


@asynccontextmanager
async def answering(answer: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that reads the head of a request and says this (None: hangs up); its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer or b"")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with listening(serve, tls) as port:
        yield port


async def why(url: str, *, token: str | None = None) -> AnswerbackError:
    error = await refusals.why(url, token=token)
    text = str(error)
    assert text.count("Cannot connect to") == isinstance(error, CannotConnect), text  # said once
    return error


def http(status: int, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("answer", "says", "obstacle"),
    [
        (http(200, "<html>"), "a web server answers there and no gateway (HTTP 200)", Obstacle.NOT_WEBSOCKET),
        (http(204), "the server answers HTTP 204, and no WebSocket begins", Obstacle.NOT_WEBSOCKET),
        (http(301, "", "Location: http://h.example/"), "http://h.example/", Obstacle.REDIRECT),
        (http(304), "the server redirects elsewhere (HTTP 304)", Obstacle.REDIRECT),
        (http(400, "The session id is too long.\n"), "(HTTP 400): The session id is too long", Obstacle.NOT_WEBSOCKET),
        (http(400, "<html>no</html>"), "the server does not take this request (HTTP 400)", Obstacle.NOT_WEBSOCKET),
        (http(404), "nothing is served at this path (HTTP 404)", Obstacle.NOT_WEBSOCKET),
        (http(407), "a proxy in between wants a user and a password", Obstacle.PROXY_LOGIN),
        (http(418), "the server does not take this request (HTTP 418)", Obstacle.NOT_WEBSOCKET),
        (http(426), "a proxy in between does not pass WebSocket upgrades", Obstacle.UPGRADE),
        (http(429), "takes no more connections now", Obstacle.SERVER),
        (http(500), "the server failed (HTTP 500)", Obstacle.SERVER),
        (http(502), "a proxy in between cannot reach the gateway", Obstacle.SERVER),
        (http(503), "takes no connections now", Obstacle.SERVER),
        (http(504), "a proxy in between gets no answer from the gateway", Obstacle.SERVER),
        (http(520), "the server, or a proxy before it, failed (HTTP 520)", Obstacle.SERVER),
        (http(101), "the handshake failed (missing Connection header)", Obstacle.NOT_WEBSOCKET),
        (b"220 mail.example ESMTP\r\n\r\n", "its answer is not HTTP", Obstacle.NOT_WEBSOCKET),
        (None, "the connection was closed while it was opened", Obstacle.UPGRADE),
    ],
)  # fmt: skip
async def test_each_answer_has_its_row(answer: bytes | None, says: str, obstacle: Obstacle) -> None:
    async with answering(answer) as port:
        error = await why(f"ws://127.0.0.1:{port}")
    assert isinstance(error, CannotConnect)
    assert says in error.reason
    assert error.obstacle is obstacle


async def test_a_token_that_is_wrong_and_one_that_is_missing() -> None:
    async with answering(http(401)) as port:
        url = f"ws://127.0.0.1:{port}"
        wrong, missing = await why(url, token="t"), await why(url)
    assert isinstance(wrong, Unauthorized)
    assert "did not accept the token" in str(wrong)
    assert isinstance(missing, Unauthorized)
    assert "wants a token, and none was given" in str(missing)


async def test_the_refusals_own_sentence_is_shown_if_it_is_one() -> None:
    async with answering(http(403, "This Origin may not connect.\n")) as port:
        error = await why(f"ws://127.0.0.1:{port}")
    assert isinstance(error, Forbidden)
    assert "(This Origin may not connect)" in str(error)
    async with answering(http(403, "\x1b]0;hacked\x07")) as port:
        assert "hacked" not in str(await why(f"ws://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("answer", "says", "obstacle"),
    [
        (http(407), "wants a user and a password (HTTP 407)", Obstacle.PROXY_LOGIN),
        (http(403), "refuses the way to the server (HTTP 403)", Obstacle.PROXY),
        (http(500), "cannot reach the server (HTTP 500)", Obstacle.PROXY),
        (http(502), "cannot reach the server (HTTP 502)", Obstacle.PROXY),
        (b"SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy", Obstacle.PROXY),
        (None, "does not answer as an HTTP proxy", Obstacle.PROXY),
        (b"HTTP/1.1 200 OK\r\nVia:", "does not answer as an HTTP proxy", Obstacle.PROXY),
        (b"HTTP/1.1 200 OK\r\n\r\n", "closed the connection", Obstacle.PROXY),
    ],
)
async def test_a_proxy_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: bytes | None,
    says: str,
    obstacle: Obstacle,
) -> None:
    async with answering(answer) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        error = await why("wss://answerback.example")
    assert isinstance(error, CannotConnect)
    assert error.reason.startswith(f"the proxy 127.0.0.1:{port} of HTTPS_PROXY")
    assert says in error.reason
    assert "secret" not in str(error)
    assert not [record for record in caplog.records if record.name == "asyncio"], "a traceback on the terminal"
    assert error.obstacle is obstacle


@pytest.mark.parametrize(
    ("proxy", "says", "obstacle"),
    [
        ("http://127.0.0.1:{port}", "cannot be reached", Obstacle.PROXY),
        ("http://user@127.0.0.1:{port}", "cannot be used (username provided without password)", Obstacle.SETUP),
        ("socks5://127.0.0.1:{port}", "python-socks", Obstacle.SETUP),
        ("carrier-pigeon://127.0.0.1:{port}", "is not http://HOST:PORT", Obstacle.SETUP),
    ],
)
async def test_a_proxy_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, proxy: str, says: str, obstacle: Obstacle
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.format(port=unused_tcp_port))
    error = await why("wss://answerback.example")
    assert "HTTPS_PROXY" in str(error)
    assert says in str(error)
    assert error.obstacle is obstacle


@pytest.mark.parametrize(
    ("error", "obstacle"),
    [
        (ConnectionRefusedError(111, "x"), Obstacle.REFUSED),
        (socket.gaierror(-2, "Name or service not known"), Obstacle.NAME),
        (OSError(101, "Network is unreachable"), Obstacle.NETWORK),
        (TimeoutError(), Obstacle.TIMEOUT),
    ],
)
def test_what_the_network_says(error: OSError, obstacle: Obstacle) -> None:
    assert explain("wss://h.example", error, proxy=None, has_token=False).obstacle is obstacle


async def test_a_gateway_on_this_machine_is_never_asked_for_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert "nothing listens there" in str(await why(f"ws://127.0.0.1:{unused_tcp_port}"))


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (ssl.TLSVersion.TLSv1_2, "TLS cannot be agreed upon (SSLV3_ALERT_HANDSHAKE_FAILURE)"),
        (ssl.TLSVersion.TLSv1_3, "the server wants a certificate of the client"),
    ],
)
async def test_a_server_that_wants_a_certificate_of_the_client(
    tmp_path: Path, version: ssl.TLSVersion, says: str
) -> None:
    cert, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(cert)
    server.verify_mode, server.minimum_version, server.maximum_version = ssl.CERT_REQUIRED, version, version

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with server.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLError):
                tls.do_handshake()
            tls.shutdown(socket.SHUT_WR)
            while socket.socket.recv(tls, 4_096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        address = Address(url=f"wss://127.0.0.1:{listener.getsockname()[1]}", session="s")
        trusting = ssl.create_default_context(cafile=cert)
        with pytest.raises(OpenFailed) as failed:
            await open_socket(address, token=None, timing=Timing(), ssl_context=trusting)
        await refusing
    assert failed.value.obstacle is Obstacle.TLS
    assert says in str(failed.value)


async def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    async with answering(http(418), server) as port:
        plain = await why(f"ws://127.0.0.1:{port}")
        assert isinstance(plain, CannotConnect)
        assert (plain.reason, plain.obstacle) == (
            "this port speaks TLS; use wss:// in the URL",
            Obstacle.TLS_WANTED,
        )
        url = f"wss://127.0.0.1:{port}"
        untrusted = await why(url)
        assert isinstance(untrusted, CannotConnect)
        assert untrusted.obstacle is Obstacle.CERTIFICATE
        assert re.search("certificate is not trusted .*--ca-file or ANSWERBACK_CA_FILE", str(await why(url)))
        monkeypatch.setenv("ANSWERBACK_CA_FILE", str(tmp_path / "missing.pem"))
        assert "missing.pem of ANSWERBACK_CA_FILE cannot be read" in str(await why(url))
        for name in ("ANSWERBACK_CA_FILE", "SSL_CERT_FILE"):
            monkeypatch.delenv("ANSWERBACK_CA_FILE", raising=False)
            monkeypatch.setenv(name, str(cert))
            assert "HTTP 418" in str(await why(url))


@pytest.mark.parametrize(("host", "hours", "says"), [("h.example", 1, "another name"), (None, -1, "has expired")])
async def test_a_certificate_that_no_authority_would_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str | None, hours: float, says: str
) -> None:
    cert, key = make_certificate(tmp_path, host=host, hours=hours)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    monkeypatch.setenv("ANSWERBACK_CA_FILE", str(cert))
    async with answering(http(418), server) as port:
        error = await why(f"wss://127.0.0.1:{port}")
    assert isinstance(error, CannotConnect)
    assert error.obstacle is Obstacle.CERTIFICATE_UNFIT
    assert says in str(error)
    assert "--ca-file" not in str(error)


async def test_a_tls_port_that_answers_plain_http_in_words() -> None:
    """As nginx, Go and Apache do: HTTP 400 on the very port that speaks TLS."""
    speaks_tls = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_handshake = await reader.read(1) == b"\x16"
        alert = b"\x15\x03\x03\x00\x02\x02\x28"  # it refuses this handshake, and in TLS
        writer.write(alert if is_handshake and speaks_tls else http(400, "HTTP to an HTTPS port"))
        await writer.drain()
        writer.close()

    async with listening(serve) as port:
        wanted = await why(f"ws://127.0.0.1:{port}")
        speaks_tls = False
        plain, encrypted = await why(f"ws://127.0.0.1:{port}"), await why(f"wss://127.0.0.1:{port}")
    found = [error.obstacle for error in (wanted, plain, encrypted) if isinstance(error, CannotConnect)]
    assert found == [Obstacle.TLS_WANTED, Obstacle.NOT_WEBSOCKET, Obstacle.NO_TLS]


@pytest.mark.parametrize("space", ["{}\n", " {}\r\n", "\ufeff{}", "Bearer {}", "\ufeffbearer  {} \n"])
async def test_a_token_out_of_a_file_is_shown_without_what_is_around_it(space: str) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(403))
        writer.close()

    async with listening(serve) as port:
        await why(f"ws://127.0.0.1:{port}", token=space.format("a.b.c"))
    assert b"Authorization: Bearer a.b.c\r\n" in heard[0]


@pytest.mark.parametrize(
    ("said", "pause_s"), [("2", 2.0), ("86400", MAX_RETRY_AFTER_S), ("9" * 400, MAX_RETRY_AFTER_S)]
)
def test_a_server_keeps_no_app_away_for_longer_than_minutes(said: str, pause_s: float) -> None:
    refused = InvalidStatus(Response(503, "busy", Headers({"Retry-After": said})))
    assert explain("ws://127.0.0.1/", refused, proxy=None, has_token=False).retry_after_s == pause_s
