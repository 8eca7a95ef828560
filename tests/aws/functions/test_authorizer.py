"""The authorizer of `$connect`."""

import asyncio
from typing import Any

import pytest

from answerback.auth import JwtTokens, make_token
from answerback.core.handshake import Rules, origins
from answerback.ports import Identity, Unavailable
from answerback_aws.runtime.functions.authorizer import Unauthorized, authorize
from lambda_functions import METHOD_ARN, authorizer_event

SECRET = "0123456789abcdef0123456789abcdef"
TOKENS = JwtTokens(secret=SECRET)
TOKEN = make_token("kim", secret=SECRET, ttl_s=600)


def decide(**options: Any) -> dict[str, Any]:
    return asyncio.run(authorize(TOKENS, authorizer_event("c-1", **options), rules=Rules()))


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"headers": {"authorization": f"bearer  {TOKEN} "}},
        {"headers": {"Sec-WebSocket-Protocol": f"answerback.v1, bearer.{TOKEN}"}},
        {"headers": {"sec-websocket-protocol": f"answerback.v1,bearer.{TOKEN}"}},
        {"query": {"token": TOKEN}},
        {"query": {"token": TOKEN, "userId": "kim", "sessionId": "s"}},
    ],
)
def test_a_token_opens_this_connection_and_no_other_route(options: dict[str, Any]) -> None:
    policy = decide(**options)
    assert policy["principalId"] == "kim"
    (statement,) = policy["policyDocument"]["Statement"]
    assert statement == {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": METHOD_ARN}
    assert policy["context"]["userId"] == "kim"
    assert int(policy["context"]["expiresAtMs"]) > 0
    assert all(isinstance(value, str) for value in policy["context"].values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"Authorization": "Basic a2ltOg=="}},
        {"headers": {"Authorization": "Bearer"}, "query": {"token": TOKEN}},
        {"headers": {"Authorization": f"Bearer {TOKEN}x"}},
        {"headers": {"Authorization": f"Bearer {make_token('kim', secret='x' * 32, ttl_s=600)}"}},
        {"headers": {"Authorization": f"Bearer {make_token('kim', secret=SECRET, ttl_s=-600)}"}},
        {"headers": {"Sec-WebSocket-Protocol": "answerback.v1, bearer."}},
        {"query": {"token": ""}},
    ],
)
def test_without_an_accepted_one_the_client_gets_401(options: dict[str, Any]) -> None:
    """API Gateway makes 401 of exactly this text, and 500 of any other."""
    with pytest.raises(Unauthorized) as caught:
        decide(**options)
    assert str(caught.value) == "Unauthorized"


def test_another_user_s_name_is_denied() -> None:
    policy = decide(headers={"Authorization": f"Bearer {TOKEN}"}, query={"userId": "bob"})
    (statement,) = policy["policyDocument"]["Statement"]
    assert (statement["Effect"], statement["Resource"]) == ("Deny", METHOD_ARN)


@pytest.mark.parametrize("token", [TOKEN, "none", None])
def test_a_foreign_web_page_is_denied_whatever_its_token_is(token: str | None) -> None:
    headers = {"Origin": "https://evil.example"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    policy = decide(headers=headers)
    (statement,) = policy["policyDocument"]["Statement"]
    assert (statement["Effect"], statement["Resource"]) == ("Deny", METHOD_ARN)


def test_a_web_page_of_the_list_needs_a_token_too() -> None:
    page = {"Origin": "https://app.example"}
    rules = Rules(allow_origins=origins(["https://app.example"]))
    policy = asyncio.run(authorize(TOKENS, authorizer_event(headers=page, query={"token": TOKEN}), rules=rules))
    assert policy["policyDocument"]["Statement"][0]["Effect"] == "Allow"
    with pytest.raises(Unauthorized):
        asyncio.run(authorize(TOKENS, authorizer_event(headers=page), rules=rules))


def test_a_token_that_does_not_expire_says_so_by_silence() -> None:
    class Eternal:
        async def identify(self, token: str) -> Identity:
            return Identity("kim", None)

    policy = asyncio.run(authorize(Eternal(), authorizer_event(query={"token": "t"}), rules=Rules()))
    assert policy["context"] == {"userId": "kim"}


def test_keys_that_cannot_be_had_are_no_refusal() -> None:
    class Down:
        async def identify(self, token: str) -> Identity:
            raise Unavailable("planted")

    with pytest.raises(Unavailable):
        asyncio.run(authorize(Down(), authorizer_event(query={"token": "t"}), rules=Rules()))
