"""What the client says where it cannot connect, or is not let in."""

import pytest

import answerback
from answerback.client import CannotConnect, Client, Forbidden, Timing, Unauthorized
from answerback.client.link import Address
from listening import listening
from refusals import why

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, close_s=0.5)


async def test_nobody_listens(unused_tcp_port):
    with pytest.raises(CannotConnect, match="answerback serve") as failed:
        async with Client(f"ws://127.0.0.1:{unused_tcp_port}"):
            pass
    assert isinstance(failed.value, ConnectionError)


async def test_tls_to_a_port_without_it():
    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    async with listening(refuse) as port:
        with pytest.raises(CannotConnect, match="this port speaks ws://, without TLS"):
            async with Client(f"wss://127.0.0.1:{port}"):
                pass


async def test_what_listens_is_no_websocket_server():
    async def speak(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    async with listening(speak) as port:
        with pytest.raises(CannotConnect, match="does not speak WebSocket"):
            async with Client(f"ws://127.0.0.1:{port}"):
                pass


async def test_what_listens_is_no_answerback_server(gateway):
    gateway.greets = False
    error = await why(gateway.url)
    assert isinstance(error, CannotConnect)
    assert "is it an Answerback server" in str(error)


async def test_what_listens_says_nothing():
    async def wait(reader, writer):
        await reader.read(-1)
        writer.close()

    async with listening(wait) as port:
        with pytest.raises(CannotConnect, match="no answer in time"):
            async with Client(f"ws://127.0.0.1:{port}", connect_timeout=0.1):
                pass


async def test_a_server_that_stays_busy(gateway):
    gateway.refuse = [503] * 100_000
    error = await why(gateway.url)
    assert isinstance(error, CannotConnect)
    assert "HTTP 503" in str(error)


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Forbidden), (404, CannotConnect), (400, CannotConnect)]
)
async def test_refused_for_good(gateway, status, error):
    gateway.refuse = [status]
    with pytest.raises(error):
        async with Client(gateway.url, token="t"):
            pass
    assert len(gateway.handshakes) == 1


async def test_a_fixed_token_that_is_refused_later_stops_the_client(gateway):
    async with Client(gateway.url, token="t", timing=QUICK) as app:
        stream = app.stream("?")
        gateway.refuse = [401]
        await (await gateway.peer()).cut()
        with pytest.raises(Unauthorized):
            await stream.answer
        with pytest.raises(Unauthorized):
            await app.ask("?")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:8765", "ws://", "", "ws://h:99999", "ws://h:eight", "ws://h:0", "ws://[::1"]
)
def test_not_a_websocket_url(url):
    with pytest.raises(ValueError, match="is not a WebSocket URL"):
        Client(url)


@pytest.mark.parametrize("name", ["Kim Chul-su", "a\n", "x" * 129])
def test_a_name_that_no_server_takes(name):
    with pytest.raises(ValueError, match="user must be 1 to 128 visible characters"):
        Client("ws://127.0.0.1:1", user=name)
    with pytest.raises(ValueError, match="session must be 1 to 128 visible characters"):
        Client("ws://127.0.0.1:1", session=name)


async def test_a_token_that_cannot_stand_in_a_header_is_not_accepted(gateway):
    with pytest.raises(Unauthorized, match="did not accept the token"):
        async with Client(gateway.url, token="two\nlines"):
            pass


async def test_a_host_and_a_proxy_that_cannot_be_used(monkeypatch):
    with pytest.raises(CannotConnect, match="not a name that can be looked up"):
        async with Client(f"ws://{'x' * 70}.test"):
            pass
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://127.0.0.1:1")
    monkeypatch.setenv("WS_PROXY", "carrier-pigeon://127.0.0.1:1")
    with pytest.raises(CannotConnect, match="proxy"):
        async with Client("ws://answerback.test"):
            pass


@pytest.mark.parametrize(
    ("url", "with_user", "uri"),
    [
        ("ws://h:1", True, "ws://h:1/?sessionId=a%26b&userId=%EA%B0%80"),
        ("ws://h:1", False, "ws://h:1/?sessionId=a%26b"),
        (
            "wss://x.execute-api.eu-west-1.amazonaws.com/prod",
            False,
            "wss://x.execute-api.eu-west-1.amazonaws.com/prod?sessionId=a%26b",
        ),
        ("wss://h/p/?k=v&e=", True, "wss://h/p/?k=v&e=&sessionId=a%26b&userId=%EA%B0%80"),
        ("ws://[::1]:9", False, "ws://[::1]:9/?sessionId=a%26b"),
    ],
)
def test_uri(url, with_user, uri):
    assert Address(url=url, session="a&b", user="가").uri(with_user=with_user) == uri


async def test_who_is_asking(gateway):
    async with Client(gateway.url, session="s", user="user_001"):
        peer = await gateway.peer()
        assert peer.path == "/?sessionId=s&userId=user_001"
        assert peer.headers["User-Agent"] == f"answerback/{answerback.__version__}"
    async with Client(gateway.url, session="s", user="user_001", token="secret"):
        peer = await gateway.peer()
        assert (peer.path, peer.headers["Authorization"]) == ("/?sessionId=s", "Bearer secret")
