"""The ways to a server that a company has: certificates, proxies, presets; and what is said of each that fails."""

import asyncio
import json
import ssl

import pytest

from answerback import __version__
from answerback.gateway.app import Gateway
from answerback.gateway.settings import AuthSettings, GatewaySettings
from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus, NoticeCode
from answerback_desktop.settings import AuthMode, Field, Settings, problems
from answerback_desktop.signin.vault import MemoryVault
from certificates import make_certificate
from desktop_app import DesktopApp
from listening import listening

pytestmark = pytest.mark.usefixtures("own_network")


@pytest.fixture
async def answering(stack):
    """A server that says the same to everybody; its port."""

    async def start(answer: bytes, tls: ssl.SSLContext | None = None) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if tls is not None:
                    await writer.start_tls(tls)
                await reader.read(1)
                writer.write(answer)
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                writer.transport.abort()  # nobody tells a stream whose TLS has failed that it is closed
            else:
                writer.close()

        return await stack.enter_async_context(listening(serve))

    return start


@pytest.fixture
async def at(stack, tmp_path):
    """An app with these settings."""

    async def at(url: str, **chosen: object) -> DesktopApp:
        settings = Settings(server_url=url, **{"user": "ada", **chosen})
        return await stack.enter_async_context(DesktopApp(tmp_path / "profiles", "one", settings))

    return at


def http(status: int) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()


async def reason(app: DesktopApp) -> ConnectionReason:
    await app.until(lambda: app.model.connection.state.detail)
    return app.model.connection.reason


def tls_of(folder) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(folder))
    return context


async def test_tls_on_the_wrong_side(answering, at, tmp_path, caplog):
    app = await at(f"ws://127.0.0.1:{await answering(b'', tls_of(tmp_path))}")
    assert await reason(app) is ConnectionReason.TLS_WANTED
    assert "not connected to 127.0.0.1: this port speaks TLS" in caplog.text


async def test_no_tls_where_it_is_wanted(answering, at):
    assert await reason(await at(f"wss://127.0.0.1:{await answering(http(400))}")) is ConnectionReason.NO_TLS


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (200, ConnectionReason.NOT_WEBSOCKET),
        (302, ConnectionReason.REDIRECT),
        (426, ConnectionReason.UPGRADE),
        (503, ConnectionReason.SERVER),
    ],
)
async def test_another_kind_of_server(answering, at, status, why):
    assert await reason(await at(f"ws://127.0.0.1:{await answering(http(status))}")) is why


@pytest.mark.parametrize(("status", "why"), [(403, ConnectionReason.PROXY), (407, ConnectionReason.PROXY_LOGIN)])
async def test_the_proxy_of_the_settings_is_asked_and_named(answering, at, status, why):
    port = await answering(http(status))
    app = await at("wss://chat.example", proxy=f"http://127.0.0.1:{port}")
    assert await reason(app) is why
    assert f"127.0.0.1:{port}" in app.model.connection.state.detail


async def test_the_proxy_of_the_environment_is_left_out_on_wish(monkeypatch, answering, at, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{await answering(http(407))}")
    app = await at("wss://localhost.localdomain.invalid", proxy="direct")
    assert await reason(app) is ConnectionReason.NAME


async def test_a_private_authority_is_trusted_once_it_is_named(stack, at, tmp_path):
    cert, key = make_certificate(tmp_path)
    gateway = await stack.enter_async_context(
        Gateway(
            GatewaySettings(
                port=0, admin_port=None, data_dir=tmp_path / "g", models=("echo",), tls_cert=cert, tls_key=key
            )
        )
    )
    app = await at(gateway.url)
    assert await reason(app) is ConnectionReason.CERTIFICATE
    missing = tmp_path / "none.pem"
    for ca_file, holds in ((missing, ConnectionReason.SETUP), (cert, ConnectionReason.NONE)):
        app.model.change_settings(Settings(server_url=gateway.url, user="ada", ca_file=str(ca_file)))
        await app.until(lambda holds=holds: app.model.connection.reason is holds)
    await app.online()


async def test_a_token_that_is_refused_and_one_that_is_missing(stack, tmp_path):
    auth = AuthSettings(secret="s" * 32)
    gateway = await stack.enter_async_context(
        Gateway(GatewaySettings(port=0, admin_port=None, data_dir=tmp_path / "g", models=("echo",), auth=auth))
    )
    vault = MemoryVault()
    vault.set(f"refused token {gateway.url}", "a.b.c")
    for name, mode, why in (
        ("refused", AuthMode.TOKEN, ConnectionReason.TOKEN_REFUSED),
        ("missing", AuthMode.NONE, ConnectionReason.SIGN_IN_NEEDED),
    ):
        settings = Settings(server_url=gateway.url, auth=mode)
        app = await stack.enter_async_context(DesktopApp(tmp_path, name, settings, vault=vault))
        await app.until(lambda app=app: app.model.connection.status is ConnectionStatus.SIGNED_OUT)
        assert app.model.connection.reason is why


async def test_what_the_administrator_presets_holds_and_a_locked_server_stays(stack, network, tmp_path):
    path = tmp_path / "desktop.json"
    path.write_text(json.dumps({"settings": {"server_url": network.url, "user": "ada"}, "locked": ["server_url"]}))
    app = await stack.enter_async_context(DesktopApp(tmp_path / "profiles", "one", preset_path=path))
    await app.online()
    assert app.model.locked == {"server_url"}
    app.model.change_settings(Settings(server_url="ws://127.0.0.1:1", user="ada", system="Be brief."))
    await app.until(lambda: app.model.settings.system == "Be brief.")
    assert app.model.settings.server_url == network.url
    assert json.loads(app.profile.settings_path.read_text()) == {"system": "Be brief."}


async def test_a_wrong_preset_is_told_and_the_app_works(open_app, tmp_path):
    path = tmp_path / "desktop.json"
    path.write_text('{"settings": {"servr_url": "wss://h"}}')
    app = await open_app(preset_path=path)
    await app.online()
    [notice] = app.model.notices
    assert notice.code is NoticeCode.PRESET_WRONG
    assert notice.facts == {"path": str(path), "reason": "there is no setting servr_url"}


async def test_a_server_can_want_a_later_version(stack, at, tmp_path):
    settings = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path, models=("echo",), least_client="999.1")
    app = await at((await stack.enter_async_context(Gateway(settings))).url)
    await app.until(lambda: app.model.notices)
    [notice] = app.model.notices
    assert (notice.code, notice.facts) == (NoticeCode.UPDATE_NEEDED, {"version": __version__, "least": "999.1"})


@pytest.mark.parametrize(
    "proxy", ["10.0.0.1:3128", "http://", "http://me:secret@proxy:3128", "pigeon://x", "http://a b"]
)
def test_a_proxy_that_cannot_be_chosen(proxy):
    assert problems(Settings(proxy=proxy)) == (Field.PROXY,)
