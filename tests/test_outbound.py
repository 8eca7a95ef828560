"""The one rule for proxies and certificates, against real sockets."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from answerback.outbound import CaFileError, FetchError, ProxyError, fetch, is_loopback, proxy_for, tls_context, trust
from certificates import make_certificate

pytestmark = pytest.mark.usefixtures("own_network")


@contextmanager
def listening(serve: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on this machine that treats each connection as `serve` does; its port."""

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with (
                suppress(OSError),
                closing(tls.wrap_socket(connection, server_side=True) if tls else connection) as one,
            ):
                serve(one)
            connection.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return serve


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("localhost", True), ("LOCALHOST.", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
     ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_this_machine(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


@pytest.mark.parametrize(
    ("url", "variables", "named"),
    [
        ("https://h.example", {}, None),
        ("https://h.example", {"https_proxy": "http://p:3128"}, "the proxy p:3128 of https_proxy"),
        ("https://h.example", {"HTTPS_PROXY": " http://p:3128 "}, "the proxy p:3128 of HTTPS_PROXY"),
        ("https://h.example", {"HTTPS_PROXY": "p:3128"}, "the proxy p:3128 of HTTPS_PROXY"),
        ("https://h.example", {"ALL_PROXY": "http://u:secret@p"}, "the proxy p of ALL_PROXY"),
        ("https://h.example", {"HTTP_PROXY": "http://p"}, None),
        ("http://h.example", {"HTTP_PROXY": "http://p"}, "the proxy p of HTTP_PROXY"),
        ("https://h.example", {"HTTPS_PROXY": "http://p", "NO_PROXY": "example"}, None),
        ("https://h.example:8443", {"HTTPS_PROXY": "http://p", "NO_PROXY": "h.example:8443"}, None),
        ("wss://h.example", {"HTTPS_PROXY": "http://p"}, "the proxy p of HTTPS_PROXY"),
        ("wss://h.example", {"HTTPS_PROXY": "http://p", "WSS_PROXY": "http://w"}, "the proxy w of WSS_PROXY"),
        ("ws://h.example", {"HTTP_PROXY": "http://p"}, "the proxy p of HTTP_PROXY"),
        *((f"{scheme}://{host}", {"ALL_PROXY": "http://p", "HTTP_PROXY": "http://p", "HTTPS_PROXY": "http://p"}, None)
          for scheme in ("ws", "wss", "http", "https") for host in ("localhost", "127.0.0.1:8765", "[::1]:1")),
    ],
)  # fmt: skip
def test_which_proxy(monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], named: str | None) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(url)
    assert (str(found) if found else None) == named
    assert "secret" not in f"{found} {found!r}"


@pytest.mark.parametrize("value", ["socks5://p:1080", "carrier-pigeon://p", "http://", "http://p:0", "http://p:http"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value.replace("//", "//me:secret@"))
    with pytest.raises(ProxyError, match=r"of HTTPS_PROXY .* NO_PROXY") as refused:
        proxy_for("https://h.example")
    assert "secret" not in str(refused.value)


def test_a_file_of_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    with listening(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), server) as port:
        url = f"https://127.0.0.1:{port}/"

        def get() -> bytes:
            return fetch(url, timeout_s=10, max_bytes=10)[1]

        with pytest.raises(FetchError, match=r"not trusted .*--ca-file or ANSWERBACK_CA_FILE"):
            get()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert get() == b"hi"
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("ANSWERBACK_CA_FILE", str(cert))
        assert get() == b"hi"
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.setenv("ANSWERBACK_CA_FILE", str(make_certificate(other)[0]))
        with pytest.raises(FetchError, match="ANSWERBACK_CA_FILE names another authority"):
            get()


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_file_of_authorities_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CaFileError, match=r"ca\.pem of --ca-file"):
        tls_context(path)
    monkeypatch.setenv("ANSWERBACK_CA_FILE", str(path))
    with pytest.raises(CaFileError, match=r"ca\.pem of ANSWERBACK_CA_FILE"):
        tls_context()
    with pytest.raises(CaFileError, match=r"ca\.pem of ANSWERBACK_CA_FILE"):
        trust(path)  # as a command has it, whose flag the variable stands for


@pytest.mark.parametrize(
    "drip", [b"", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: "]
)
def test_a_server_that_drips_is_given_up_in_time(drip: bytes) -> None:
    """A time-out of the socket alone would begin again at every byte."""
    is_over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(drip)
        while not is_over.wait(0.02):
            connection.sendall(b"x")

    with listening(serve) as port:
        started = time.monotonic()
        with pytest.raises(FetchError, match="no answer in time"):
            fetch(f"http://127.0.0.1:{port}/", timeout_s=0.3, max_bytes=10_000)
        assert time.monotonic() - started < 5
        is_over.set()


def test_a_server_that_drips_after_a_slow_connection_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over there is no socket yet that could be shut down."""
    is_over = threading.Event()
    connect, real_timer, fire = http.client.HTTPConnection.connect, threading.Timer, []

    class Timer(real_timer):  # type: ignore[misc, valid-type]
        def start(self) -> None:
            fire.append(self.function)

    def connect_late(connection: http.client.HTTPConnection) -> None:
        fire[0]()
        connect(connection)

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not is_over.wait(0.02):
            connection.sendall(b"x")

    monkeypatch.setattr(threading, "Timer", Timer)
    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect_late)
    with listening(serve) as port:
        with pytest.raises(FetchError, match="no answer in time"):
            fetch(f"http://127.0.0.1:{port}/", timeout_s=30, max_bytes=10_000)
        is_over.set()


def test_a_redirect_is_not_followed_and_a_large_body_is_refused() -> None:
    with listening(saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")) as port:
        assert fetch(f"http://127.0.0.1:{port}/", timeout_s=10, max_bytes=10) == (302, b"")
    large = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world")
    with listening(large) as port, pytest.raises(FetchError, match="more than 10 bytes"):
        fetch(f"http://127.0.0.1:{port}/", timeout_s=10, max_bytes=10)


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with listening(refuse) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{port}")
        with pytest.raises(FetchError, match=f"407.*through the proxy 127.0.0.1:{port} of HTTPS_PROXY"):
            fetch("https://keys.example/", timeout_s=10, max_bytes=10)
    assert b"CONNECT keys.example:443" in heard[0]
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in heard[0]


def test_the_proxy_of_answerback_comes_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://old:1")
    monkeypatch.setenv("WSS_PROXY", "http://old:2")
    for url in ("https://h.example", "wss://h.example", "ws://h.example"):
        monkeypatch.setenv("ANSWERBACK_PROXY", "new:3")
        found = proxy_for(url)
        assert found is not None
        assert (found.url, str(found)) == ("http://new:3", "the proxy new:3 of ANSWERBACK_PROXY")
        monkeypatch.setenv("ANSWERBACK_PROXY", "direct")
        assert proxy_for(url) is None
    monkeypatch.setenv("ANSWERBACK_PROXY", "pigeon://new")
    with pytest.raises(ProxyError, match="ANSWERBACK_PROXY"):
        proxy_for("wss://h.example")
    assert proxy_for("ws://127.0.0.1:8765") is None
