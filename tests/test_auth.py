import asyncio
import json
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from answerback import auth
from answerback.auth import (
    MAX_ASKED_FOR,
    REFETCH_PAUSE_S,
    REFRESH_AFTER_S,
    AuthError,
    FetchedKeys,
    FileKeys,
    JwtTokens,
    fetched_keys,
    make_token,
    read_jwks,
)
from answerback.ports import Identity, TokenRefused, Unavailable

SECRET = "0123456789abcdef0123456789abcdef"
NOW = int(time.time())
DAY_S = 86_400
"""Room enough that no pause between collection and run matters: PyJWT reads the system's clock."""
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


BOTH = jwks(public_jwk(RSA_KEY, "rsa"), public_jwk(EC_KEY, "ec"))


class Provider:
    """A JWKS URL."""

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        self.fetches = 0

    async def __call__(self) -> str:
        self.fetches += 1
        if self.text is None:
            raise OSError("the provider is down")
        return self.text


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def with_secret(**options: Any) -> JwtTokens:
    return JwtTokens(secret=SECRET, **options)


def with_keys(text: str = BOTH, **options: Any) -> JwtTokens:
    keys = FetchedKeys(Provider(text), monotonic=Clock())
    options = {"issuer": "https://id.example", "audience": "answerback", **options}
    return JwtTokens(keys=keys, **options)


def claims(**changes: Any) -> dict[str, Any]:
    full = {"sub": "alice", "exp": NOW + DAY_S, "iss": "https://id.example", "aud": "answerback", **changes}
    return {name: value for name, value in full.items() if value is not None}


def signed(content: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None) -> str:
    return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


async def test_a_made_token_is_accepted() -> None:
    token = make_token("alice", secret=SECRET, ttl_s=DAY_S, now_s=NOW, issuer="i", audience="a")
    assert await with_secret(issuer="i", audience="a").identify(token) == Identity("alice", (NOW + DAY_S + 30) * 1000)


@pytest.mark.parametrize(("algorithm", "key", "kid"), [("RS256", RSA_KEY, "rsa"), ("ES256", EC_KEY, "ec")])
async def test_tokens_of_a_provider_are_accepted(algorithm: str, key: Any, kid: str) -> None:
    identity = await with_keys().identify(signed(claims(), key, algorithm, kid))
    assert identity.user_id == "alice"


async def test_another_user_claim() -> None:
    token = signed(claims(sub=None, email="a@b.example"), RSA_KEY, "RS256", "rsa")
    assert (await with_keys(user_claim="email").identify(token)).user_id == "a@b.example"


@pytest.mark.parametrize(
    ("why", "content"),
    [
        ("expired", claims(exp=NOW - 31)),
        ("no exp", claims(exp=None)),
        ("exp is text", claims(exp="tomorrow")),
        ("exp is true", claims(exp=True)),
        ("exp is huge", claims(exp=2**60)),
        ("exp is infinite", claims(exp=float("inf"))),
        ("exp is a number in quotes", claims(exp=str(NOW + DAY_S))),
        ("nbf is text", claims(nbf="yesterday")),
        ("not yet", claims(nbf=NOW + DAY_S)),
        ("another issuer", claims(iss="https://evil.example")),
        ("no issuer", claims(iss=None)),
        ("another audience", claims(aud="other")),
        ("other audiences", claims(aud=["other", "more"])),
        ("no audience", claims(aud=None)),
        ("no subject", claims(sub=None)),
        ("subject with white space", claims(sub="a b")),
        ("long subject", claims(sub="a" * 129)),
        ("subject is a number", claims(sub=7)),
    ],
)
async def test_claims_that_do_not_fit_are_refused(why: str, content: dict[str, Any]) -> None:
    with warnings.catch_warnings(action="ignore"), pytest.raises(TokenRefused):
        await with_keys().identify(signed(content, RSA_KEY, "RS256", "rsa"))


async def test_the_leeway_covers_a_clock_that_is_off() -> None:
    tokens = with_keys(leeway_s=2 * DAY_S)
    assert await tokens.identify(signed(claims(exp=NOW - DAY_S, nbf=NOW + DAY_S), RSA_KEY, "RS256", "rsa"))
    for beyond in (claims(exp=NOW - 3 * DAY_S), claims(nbf=NOW + 3 * DAY_S)):
        with pytest.raises(TokenRefused, match=r"expired|not valid yet"):
            await tokens.identify(signed(beyond, RSA_KEY, "RS256", "rsa"))


async def test_one_of_several_audiences_is_enough() -> None:
    assert await with_keys().identify(signed(claims(aud=["other", "answerback"]), RSA_KEY, "RS256", "rsa"))


async def test_without_a_pinned_issuer_and_audience_any_are_accepted() -> None:
    tokens = with_keys(issuer=None, audience=None)
    assert await tokens.identify(signed(claims(), RSA_KEY, "RS256", "rsa"))
    assert await tokens.identify(signed(claims(iss=None, aud=None), RSA_KEY, "RS256", "rsa"))


async def test_a_token_of_a_clock_that_is_ahead_is_accepted() -> None:
    assert await with_keys().identify(signed(claims(iat=NOW + DAY_S), RSA_KEY, "RS256", "rsa"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (claims(exp=NOW - 31), "expired"),
        (claims(exp=None), "there is no exp claim"),
        (claims(nbf=NOW + DAY_S), "not valid yet"),
        (claims(iss="https://evil.example"), "another issuer"),
        (claims(aud="other"), "another audience"),
        (claims(exp=2**60), "the claim exp is not a time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "claims",
)
async def test_the_operator_s_log_can_say_why(content: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenRefused, match=f"^{why}$"):
        await with_keys().identify(signed(content, RSA_KEY, "RS256", "rsa"))


async def test_an_identity_holds_as_long_as_its_token_is_accepted() -> None:
    token = signed(claims(exp=NOW - 29), RSA_KEY, "RS256", "rsa")
    identity = await with_keys(leeway_s=DAY_S).identify(token)
    assert identity.expires_at_ms == (NOW - 29 + DAY_S) * 1000, "or each question on the connection would be refused"


def unsigned(alg: str) -> str:
    def part(value: object) -> str:
        return jwt.utils.base64url_encode(json.dumps(value).encode()).decode()

    return f"{part({'alg': alg, 'typ': 'JWT', 'kid': 'rsa'})}.{part(claims())}."


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "RS512", ""])
async def test_the_token_does_not_choose_the_algorithm(alg: str) -> None:
    for tokens in (with_keys(), with_secret()):
        with pytest.raises(TokenRefused):
            await tokens.identify(unsigned(alg))


async def test_a_public_key_is_not_a_secret() -> None:
    public = public_jwk(RSA_KEY, "rsa")["n"]
    with pytest.raises(TokenRefused):
        await with_keys().identify(signed(claims(), public, "HS256", "rsa"))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "...",
        "x" * 20_000,
        signed(claims(), "another secret, just as long as the real one"),
        signed(claims(), RSA_KEY, "RS256", "rsa"),
        signed(claims()) + "x",
        "é.é.é",
    ],
    ids=["empty", "no JSON", "dots", "long", "another secret", "a public key", "changed", "not ASCII"],
)
async def test_other_tokens_are_refused_by_a_secret(token: str) -> None:
    with pytest.raises(TokenRefused):
        await with_secret().identify(token)


async def test_a_key_is_used_for_its_own_algorithm_alone() -> None:
    with pytest.raises(TokenRefused):
        await with_keys().identify(signed(claims(), EC_KEY, "ES256", "rsa"))


async def test_without_a_key_id_only_a_single_key_is_meant() -> None:
    token = signed(claims(), RSA_KEY, "RS256")
    assert await with_keys(jwks(public_jwk(RSA_KEY, "only"))).identify(token)
    with pytest.raises(TokenRefused, match="no key"):
        await with_keys().identify(token)


async def test_an_unknown_key_id_fetches_once_and_not_again_soon() -> None:
    provider, clock = Provider(jwks(public_jwk(RSA_KEY, "old"))), Clock()
    keys = FetchedKeys(provider, monotonic=clock)
    assert await keys.key_of("old")
    assert provider.fetches == 1
    with pytest.raises(Unavailable):
        await keys.key_of("unknown")
    assert provider.fetches == 1, "the first fetch was just now, so the key may be newer"
    provider.text = jwks(public_jwk(RSA_KEY, "new"))
    clock.now += REFETCH_PAUSE_S
    assert await keys.key_of("new")
    assert await keys.key_of("unknown") is None
    assert provider.fetches == 2
    await keys.close()


async def test_an_outsider_s_key_id_makes_nobody_s_new_key_a_wrong_one() -> None:
    provider, clock = Provider(jwks(public_jwk(RSA_KEY, "old"))), Clock()
    keys = FetchedKeys(provider, monotonic=clock)
    assert await keys.key_of("outsider 1") is None, "this fetch has looked for it"
    provider.text = jwks(public_jwk(EC_KEY, "new"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await keys.key_of("new")
    assert await keys.key_of("outsider 1") is None
    for number in range(5_000):
        with pytest.raises(Unavailable):
            await keys.key_of(f"made up {number}")
    assert len(keys._asked_for) <= MAX_ASKED_FOR
    clock.now += REFETCH_PAUSE_S
    assert await keys.key_of("outsider 2") is None
    assert await keys.key_of("new")
    assert await keys.key_of("old") is None, "a withdrawn key is known to be missing"
    provider.text = None
    clock.now += REFETCH_PAUSE_S
    with pytest.raises(Unavailable):
        await keys.key_of("outsider 3")
    assert await keys.key_of("new")


async def test_old_keys_hold_while_the_provider_is_down() -> None:
    provider, clock = Provider(BOTH), Clock()
    keys = FetchedKeys(provider, monotonic=clock)
    assert await keys.key_of("rsa")
    provider.text = None
    clock.now += REFRESH_AFTER_S
    assert await keys.key_of("rsa")
    assert keys._fetching is not None
    await keys._fetching
    assert provider.fetches == 2
    assert await keys.key_of("rsa")
    provider.text = jwks(public_jwk(EC_KEY, "ec"))
    clock.now += REFETCH_PAUSE_S
    assert await keys.key_of("rsa"), "refreshed behind, so this one still has the old keys"
    await keys._fetching
    assert await keys.key_of("rsa") is None, "a key that was withdrawn is not accepted any more"


async def test_without_any_keys_the_answer_is_unavailable_and_the_provider_is_not_flooded() -> None:
    provider, clock = Provider(BOTH), Clock()
    provider.text = None
    keys = FetchedKeys(provider, monotonic=clock)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await keys.key_of("rsa")
    assert provider.fetches == 1
    provider.text = BOTH
    clock.now += REFETCH_PAUSE_S
    assert await keys.key_of("rsa")


async def test_keys_by_url(http_server: Callable[[str], Awaitable[str]]) -> None:
    keys = fetched_keys(await http_server(BOTH))
    assert await keys.key_of("ec")
    await keys.close()


@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [(302, {"Location": "/keys"}, BOTH), (500, {}, BOTH), (200, {}, BOTH + " " * 1024 * 1024), (200, {}, "nonsense")],
)
async def test_keys_that_are_not_there_are_not_had(
    http_server: Callable[..., Awaitable[str]], status: int, headers: dict[str, str], text: str
) -> None:
    keys = fetched_keys(await http_server(text, status=status, headers=headers))
    with pytest.raises(Unavailable):
        await keys.key_of("ec")
    await keys.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
async def test_a_server_that_drips_keeps_no_thread_and_a_rotated_key_comes_when_it_is_well(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(auth, "FETCH_TIMEOUT_S", 0.3)
    is_well = False

    drips: set[asyncio.Task[Any] | None] = set()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        drips.add(asyncio.current_task())
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"" if is_well else first)
            while not is_well and not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.01)
            body = BOTH.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    # Fewer threads than fetches: one that is kept would keep the last fetch from running.
    executor = ThreadPoolExecutor(2)
    asyncio.get_running_loop().set_default_executor(executor)
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        clock = Clock()
        keys = fetched_keys(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks")
        keys._monotonic = clock
        for _ in range(4):
            with pytest.raises(Unavailable):
                await keys.key_of("ec")
            clock.now += REFETCH_PAUSE_S
        is_well = True
        assert await keys.key_of("ec")
        await keys.close()
    await asyncio.gather(*(one for one in drips if one is not None))
    await asyncio.to_thread(lambda: None)
    executor.shutdown(wait=True)


@pytest.fixture
async def http_server() -> Any:
    from aiohttp import web

    runners: list[web.ServerRunner] = []

    async def serve(text: str, *, status: int = 200, headers: dict[str, str] | None = None) -> str:
        async def answer(request: web.BaseRequest) -> web.Response:
            if request.path == "/keys":
                return web.Response(text=BOTH)
            return web.Response(text=text, status=status, headers=headers)

        runner = web.ServerRunner(web.Server(answer))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("url", ["http://id.example/jwks", "http://127.0.0.1.evil.example/", "file:///etc/passwd"])
def test_keys_come_over_a_safe_way(url: str) -> None:
    with pytest.raises(AuthError, match="https://"):
        fetched_keys(url)


async def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(BOTH)
    assert await FileKeys(path).key_of("rsa")
    with pytest.raises(AuthError, match="cannot be read"):
        FileKeys(tmp_path / "missing.json")
    for wrong in (b"[]", b"\xff\xfe"):
        path.write_bytes(wrong)
        with pytest.raises(AuthError, match="cannot be used"):
            FileKeys(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"keys": {}}',
        "[" * 100_000,
        '{"keys":' + "9" * 5_000 + "}",
        jwks(),
        jwks({"kty": "oct", "k": "c2VjcmV0"}),
        jwks(public_jwk(RSA_KEY, "a", use="enc")),
        jwks(public_jwk(ec.generate_private_key(ec.SECP384R1()), "p384")),
        jwks({"kty": "RSA", "n": "?", "e": "?"}),
    ],
)
def test_what_is_not_a_usable_jwks(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_jwks(text)


def test_setups_that_cannot_work_say_what_to_do() -> None:
    with pytest.raises(AuthError, match="token_urlsafe"):
        JwtTokens(secret="short")
    with pytest.raises(AuthError, match="either"):
        JwtTokens()
    with pytest.raises(AuthError, match="either"):
        JwtTokens(secret=SECRET, keys=FetchedKeys(Provider(BOTH)))
    with pytest.raises(AuthError, match="user id"):
        make_token("a b", secret=SECRET, ttl_s=1)
