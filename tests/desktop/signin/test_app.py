"""Signed in, the app speaks to a gateway that checks the provider's tokens."""

import json
import threading

import pytest

from answerback.gateway.app import Gateway
from answerback.gateway.settings import AuthSettings, GatewaySettings
from answerback_desktop.engine.events import ConnectionReason, ConnectionStatus, NoticeCode, SignInStatus
from answerback_desktop.records import TurnStatus
from answerback_desktop.settings import AuthMode, Settings
from answerback_desktop.signin.vault import MemoryVault
from desktop_app import DesktopApp
from oidc_provider import CLIENT


@pytest.fixture
async def gateway(provider, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(provider.public_keys()))
    auth = AuthSettings(jwks_file=keys, issuer=provider.issuer, audience="answerback")
    chosen = GatewaySettings(
        models=("echo",), rate_limit=0, port=0, admin_port=None, data_dir=tmp_path / "gateway", grace_s=0.0, auth=auth
    )
    async with Gateway(chosen) as gateway:
        yield gateway


@pytest.fixture
def browser(provider):
    threads = []

    def open_browser(url):
        threads.append(threading.Thread(target=provider.visit, args=(url,)))
        threads[-1].start()
        return True

    yield open_browser
    for thread in threads:
        thread.join()


async def test_sign_in_ask_close_and_come_back(provider, gateway, browser, tmp_path):
    settings = Settings(server_url=gateway.url, auth=AuthMode.OIDC, oidc_issuer=provider.issuer, oidc_client_id=CLIENT)
    vault = MemoryVault()
    app = DesktopApp(tmp_path, "one", settings, vault=vault, open_browser=browser)
    async with app:
        await app.until(lambda: app.model.connection.status is ConnectionStatus.SIGNED_OUT)
        app.engine.sign_in()
        await app.online()
        assert app.model.sign_in.status is SignInStatus.SIGNED_IN
        assert (app.model.sign_in.user, app.model.connection.state.user) == ("Ada Lovelace", "ada")
        turn = await app.ask("who am I?")
        await app.until(lambda: turn.status is TurnStatus.COMPLETED)
    async with DesktopApp(tmp_path, "one", vault=vault) as again:
        await again.online()
        assert [one.title for one in again.model.conversations] == ["who am I?"]
        again.engine.sign_out()
        await again.until(lambda: again.model.connection.status is ConnectionStatus.SIGNED_OUT)
        await again.until(lambda: again.model.sign_in.status is SignInStatus.SIGNED_OUT)
        assert not again.model.conversations
    written = b"".join(path.read_bytes() for path in tmp_path.joinpath("one").rglob("*") if path.is_file())
    assert not [token for token in provider.refresh_tokens if token.encode() in written]
    assert b"eyJ" not in written


async def test_a_refresh_token_that_is_revoked_signs_out_and_keeps_the_questions(provider, gateway, browser, tmp_path):
    settings = Settings(server_url=gateway.url, auth=AuthMode.OIDC, oidc_issuer=provider.issuer, oidc_client_id=CLIENT)
    vault = MemoryVault()
    async with DesktopApp(tmp_path, "one", settings, vault=vault, open_browser=browser) as app:
        app.engine.sign_in()
        await app.online()
    provider.refresh_tokens.clear()
    async with DesktopApp(tmp_path, "one", vault=vault, open_browser=browser) as app:
        await app.until(lambda: app.model.connection.reason is ConnectionReason.SIGN_IN_NEEDED)
        await app.until(lambda: app.model.account)
        await app.until(lambda: NoticeCode.SIGN_IN_FAILED in [notice.code for notice in app.model.notices])
        turn = await app.ask("later")
        assert turn.status is TurnStatus.OUTBOX
        app.engine.sign_in()
        await app.until(lambda: app.model.conversations and app.model.pending == 0)
        conversation = app.model.open(app.model.conversations[0].conversation_id)
        await app.until(lambda: conversation.messages and conversation.messages[0].answer == "later")


async def test_a_sign_in_that_is_given_up(provider, gateway, tmp_path):
    settings = Settings(server_url=gateway.url, auth=AuthMode.OIDC, oidc_issuer=provider.issuer, oidc_client_id=CLIENT)
    async with DesktopApp(tmp_path, "one", settings, open_browser=lambda _: False) as app:
        app.engine.sign_in()
        await app.until(lambda: app.model.sign_in.url)
        app.engine.cancel_sign_in()
        await app.until(lambda: app.model.sign_in.status is SignInStatus.SIGNED_OUT)
