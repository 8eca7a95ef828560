"""Contract of ports.Tokens. A further implementation joins with its maker in TOKENS."""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from answerback.auth import FetchedKeys, FileKeys, JwtTokens
from answerback.ports import Identity, TokenRefused, Tokens, Unavailable

NOW_S = int(time.time())
DAY_S = 86_400
LEEWAY_S = 30
SECRET = "a secret of the contract tests, long enough"
Sign = Callable[[dict[str, Any]], str]
Made = tuple[Tokens, Sign, Sign]
"""What verifies, what signs for it, and what signs with another key."""


def by_secret(_: Path) -> Made:
    tokens = JwtTokens(secret=SECRET)
    return (
        tokens,
        lambda claims: jwt.encode(claims, SECRET, algorithm="HS256"),
        lambda claims: jwt.encode(claims, SECRET + "x", algorithm="HS256"),
    )


def by_file(folder: Path) -> Made:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    entry = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "k1", "use": "sig"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [entry]}))
    tokens = JwtTokens(keys=FileKeys(folder / "jwks.json"))
    headers = {"kid": "k1"}
    return (
        tokens,
        lambda claims: jwt.encode(claims, key, algorithm="ES256", headers=headers),
        lambda claims: jwt.encode(claims, other, algorithm="ES256", headers=headers),
    )


def by_url(_: Path) -> Made:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    entry = {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": "k1", "use": "sig"}

    async def fetch() -> str:
        return json.dumps({"keys": [entry]})

    headers = {"kid": "k1"}
    return (
        JwtTokens(keys=FetchedKeys(fetch)),
        lambda claims: jwt.encode(claims, key, algorithm="RS256", headers=headers),
        lambda claims: jwt.encode(claims, other, algorithm="RS256", headers=headers),
    )


TOKENS: dict[str, Callable[[Path], Made]] = {"secret": by_secret, "file": by_file, "url": by_url}


@pytest.fixture(params=TOKENS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return TOKENS[request.param](tmp_path)


async def refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(TokenRefused):
        await tokens.identify(token)


async def test_a_good_token_names_its_user_and_its_end(made: Made) -> None:
    tokens, sign, _ = made
    token = sign({"sub": "ann", "exp": NOW_S + DAY_S})
    assert await tokens.identify(token) == Identity("ann", (NOW_S + DAY_S + LEEWAY_S) * 1000)
    assert await tokens.identify(token) == Identity("ann", (NOW_S + DAY_S + LEEWAY_S) * 1000)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "ann", "exp": -DAY_S},
        {"sub": "ann"},
        {"exp": DAY_S},
        {"sub": "", "exp": DAY_S},
        {"sub": "two words", "exp": DAY_S},
        {"sub": 7, "exp": DAY_S},
        {"sub": "x" * 129, "exp": DAY_S},
        {"sub": "ann", "exp": 2 * DAY_S, "nbf": DAY_S},
        {"sub": "ann", "exp": "tomorrow"},
    ],
    ids=json.dumps,
)
async def test_claims_that_do_not_hold_are_refused(made: Made, claims: dict[str, Any]) -> None:
    """Times are from now on."""
    tokens, sign, _ = made
    at = {name: NOW_S + value for name, value in claims.items() if name in {"exp", "nbf"} and isinstance(value, int)}
    await refused(tokens, sign(claims | at))


async def test_another_key_is_refused(made: Made) -> None:
    tokens, _, sign_wrong = made
    await refused(tokens, sign_wrong({"sub": "ann", "exp": NOW_S + DAY_S}))


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "." * 10, "é", "x" * 100_000, "\0", "Bearer x"])
async def test_what_is_no_token_is_refused(made: Made, token: str) -> None:
    await refused(made[0], token)


async def test_a_token_that_was_changed_is_refused(made: Made) -> None:
    tokens, sign, _ = made
    head, _, signature = sign({"sub": "ann", "exp": NOW_S + DAY_S}).split(".")
    _, claims, _ = sign({"sub": "bob", "exp": NOW_S + DAY_S}).split(".")
    await refused(tokens, f"{head}.{claims}.{signature}")
    await refused(tokens, f"{head}.{claims}.")


async def test_the_token_does_not_choose_the_algorithm(made: Made) -> None:
    tokens, _, _ = made
    claims = {"sub": "ann", "exp": NOW_S + DAY_S}
    await refused(tokens, jwt.encode(claims, None, algorithm="none", headers={"kid": "k1"}))
    await refused(tokens, jwt.encode(claims, SECRET * 2, algorithm="HS512", headers={"kid": "k1"}))


async def test_keys_that_cannot_be_fetched_are_unavailable_and_refuse_nobody() -> None:
    async def fetch() -> str:
        raise OSError("planted")

    fetched: Callable[[], Awaitable[str]] = fetch
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode({"sub": "ann", "exp": NOW_S + DAY_S}, key, algorithm="RS256", headers={"kid": "k1"})
    with pytest.raises(Unavailable):
        await JwtTokens(keys=FetchedKeys(fetched)).identify(token)
