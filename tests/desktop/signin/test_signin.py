"""Signing in against a real provider, and everything that can be wrong with one."""

import asyncio
import threading
import urllib.error
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from answerback_desktop.signin.provider import SignInError, SignInFailure
from answerback_desktop.signin.session import Identity, TokenSource, sign_in
from oidc_provider import CLIENT

SCOPES = ("openid", "offline_access")


async def signed_in(provider, **changes):
    """The person agrees in a thread of their own, as a browser would."""
    browsers = []

    def show(url):
        def visit():
            try:
                provider.visit(url, **changes)
            except (urllib.error.HTTPError, ConnectionError):
                pass

        browsers.append(threading.Thread(target=visit))
        browsers[-1].start()

    try:
        return await sign_in(provider.issuer, CLIENT, SCOPES, show=show)
    finally:
        for browser in browsers:
            await asyncio.to_thread(browser.join)


async def refused(provider, **changes):
    with pytest.raises(SignInError) as caught:
        await signed_in(provider, **changes)
    return caught.value.failure


async def test_the_way_through_the_browser(provider):
    identity, grant = await signed_in(provider)
    assert (identity.subject, identity.name) == ("ada", "Ada Lovelace")
    assert identity.refresh_token in provider.refresh_tokens
    assert grant.access_token
    (form,) = provider.forms
    assert "client_secret" not in form
    assert Identity.decoded(identity.encoded()) == identity


async def test_what_is_asked_of_the_provider(provider):
    seen = []

    def show(url):
        seen.append(url)
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        await sign_in(provider.issuer, CLIENT, ("email",), show=show)
    query = {name: values[0] for name, values in parse_qs(urlsplit(seen[0]).query).items()}
    assert query["redirect_uri"].startswith("http://127.0.0.1:")
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    assert query["scope"] == "openid email"
    assert min(len(query[name]) for name in ("state", "nonce", "code_challenge")) >= 43


async def test_a_page_that_does_not_know_the_state_changes_nothing(provider):
    pages = []

    def show(url):
        def visit():
            for wrong in ({"state": "guessed"}, {"state": None}, {"code": None, "state": "x", "error": "denied"}):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    provider.visit(url, **wrong)
                caught.value.close()
            pages.append(provider.visit(url))

        threads.append(threading.Thread(target=visit))
        threads[-1].start()

    threads = []
    identity, _ = await sign_in(provider.issuer, CLIENT, SCOPES, show=show)
    await asyncio.to_thread(threads[0].join)
    assert identity.subject == "ada"
    assert "close this page" in pages[0]


async def test_the_person_says_no(provider):
    assert await refused(provider, code=None, error="access_denied") is SignInFailure.DENIED


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"iss": "http://127.0.0.1:1"},
        {"exp": 1},
        {"sub": None},
        {"azp": "another-client"},
    ],
    ids=str,
)
async def test_an_id_token_that_does_not_hold(provider, claims):
    provider.id_claims = claims
    assert await refused(provider) is SignInFailure.BAD_TOKEN


async def test_an_id_token_of_another_key(provider):
    keys = provider.public_keys()
    provider.key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    provider.public_keys = lambda: keys
    assert await refused(provider) is SignInFailure.BAD_TOKEN


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "http://127.0.0.1:1"},
        {"token_endpoint": "http://example.com/token"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
    ],
    ids=str,
)
async def test_a_provider_that_is_none(provider, metadata):
    provider.metadata = metadata
    assert await refused(provider) is SignInFailure.BAD_PROVIDER


async def test_a_client_that_is_not_registered(provider):
    provider.refusal = (401, "invalid_client")
    assert await refused(provider) is SignInFailure.REFUSED


async def test_nobody_answers(provider):
    gone = provider.issuer.rpartition(":")[0] + ":9"
    with pytest.raises(SignInError) as caught:
        await sign_in(gone, CLIENT, SCOPES, show=pytest.fail)
    assert (caught.value.failure, caught.value.is_final) == (SignInFailure.UNREACHABLE, False)


def token_source_of(provider, identity, grant, now):
    told = []
    token_source = TokenSource(
        identity,
        grant,
        issuer=provider.issuer,
        client_id=CLIENT,
        monotonic=lambda: now[0],
        on_rotated=told.append,
        on_failure=told.append,
    )
    return token_source, told


async def test_tokens_are_fresh_and_the_refresh_token_rotates(provider):
    identity, grant = await signed_in(provider)
    now = [0.0]
    token_source, told = token_source_of(provider, identity, grant, now)
    assert [await token_source(), await token_source()] == [grant.access_token] * 2
    now[0] = provider.lifetime_s - 60
    first, second = await asyncio.gather(token_source(), token_source())
    assert first == second != grant.access_token
    assert [one.refresh_token for one in told] == list(provider.refresh_tokens)
    token_source.invalidate()
    assert await token_source() != first


async def test_a_provider_in_trouble_is_asked_again_and_one_that_refuses_is_not(provider):
    identity, _ = await signed_in(provider)
    token_source, told = token_source_of(provider, identity, None, [0.0])
    provider.refusal = (503, "temporarily_unavailable")
    with pytest.raises(SignInError):
        await token_source()
    provider.refusal = None
    assert await token_source()
    provider.refresh_tokens.clear()
    token_source.invalidate()
    with pytest.raises(SignInError):
        await token_source()
    assert [error.is_final for error in told if isinstance(error, SignInError)] == [False, True]
