"""The opening handshake: one table, run through the gateway's entrance and through the functions on AWS."""

import asyncio
import unicodedata
from dataclasses import dataclass, field
from ipaddress import ip_network
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import make_mocked_request

from answerback.core.handshake import HandshakeError, Hosts, Rules, client_address, is_loopback, origins
from answerback.gateway.upgrade import HandshakeValidator
from answerback.ports import Connection, Identity, TokenRefused, Unavailable
from answerback.stores.connections import MemoryConnections
from answerback_aws.runtime.functions.authorizer import Unauthorized, authorize
from answerback_aws.runtime.functions.connections import connect
from lambda_functions import authorizer_event, connect_event

NOW_MS = 1_731_324_925_000
PAGE = "https://app.example"
WEBSOCKET = {
    "Host": "127.0.0.1:8765",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


HONG, HONG_NFD = "홍", unicodedata.normalize("NFD", "홍")
BEARER_HONG = {"Authorization": "Bearer hong"}


class TwoUsers:
    """Tokens that are the names of their users."""

    async def identify(self, token: str) -> Identity:
        if token == "down":
            raise Unavailable("planted")
        if token == "hong":
            return Identity(HONG, NOW_MS + 1_000)
        if token not in {"alice", "bob"}:
            raise TokenRefused("planted")
        return Identity(token, NOW_MS + 1_000)


@dataclass(frozen=True)
class Case:
    """A request, and what comes of it: a status, or for 101 the facts of the connection.

    `on_aws`: the status where it has to be another one, because an authorizer cannot choose.
    """

    name: str
    status: int = 101
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    tokens: bool = False
    user: str | None = None
    session: str | None = None
    on_aws: int | None = None


def offering(names: str) -> dict[str, str]:
    return {"Sec-WebSocket-Protocol": names}


BEARER_ALICE = {"Authorization": "Bearer alice"}
CASES = [
    Case("nothing is said"),
    Case("session and user of the URL", query={"sessionId": "desk/1", "userId": "u"}, session="desk/1", user="u"),
    Case("the longest id", query={"sessionId": "x" * 128}, session="x" * 128),
    Case("too long a session", 400, query={"sessionId": "x" * 129}),
    Case("an empty session", 400, query={"sessionId": ""}),
    Case("a session with a space", 400, query={"sessionId": "two words"}),
    Case("a session that cannot be seen", 400, query={"sessionId": "a\u200bb"}),
    Case("an empty user", 400, query={"userId": ""}),
    Case("a user with a control character", 400, query={"userId": "\x07"}),
    Case("no subprotocol of ours", 400, headers=offering("other.v7")),
    Case("an empty list of subprotocols", 400, headers=offering("")),
    Case("a bearer subprotocol alone", 400, headers=offering("bearer.alice")),
    Case("our subprotocol among others", headers=offering("other.v7 , answerback.v1")),
    Case("a listed page", headers={"Origin": PAGE}),
    Case("a listed page, written otherwise", headers={"origin": "https://APP.example/"}),
    Case("a foreign page", 403, headers={"Origin": "https://evil.example"}),
    Case("a page whose name begins like a listed one", 403, headers={"Origin": f"{PAGE}.evil.example"}),
    Case("a page of another scheme", 403, headers={"Origin": "http://app.example"}),
    Case("a page without a name", 403, headers={"Origin": "null"}),
    Case("an empty Origin", 403, headers={"Origin": ""}),
    Case("a page is refused before its ids are read", 403, query={"userId": ""}, headers={"Origin": "null"}),
    Case("no token where none is asked for", headers={"Authorization": "Bearer nonsense"}),
    Case("a token in the header", headers=BEARER_ALICE, tokens=True, user="alice"),
    Case("a token, written otherwise", headers={"authorization": "bearer  alice "}, tokens=True, user="alice"),
    Case("a token in a subprotocol", headers=offering("answerback.v1, bearer.alice"), tokens=True, user="alice"),
    Case("a token in the query", query={"token": "alice"}, tokens=True, user="alice"),
    Case("the header comes first", headers=BEARER_ALICE, query={"token": "bob"}, tokens=True, user="alice"),
    Case("the header counts alone", 401, headers={"Authorization": "Bearer no"}, query={"token": "bob"}, tokens=True),
    Case("so does another scheme", 401, headers={"Authorization": "Basic YQ=="}, query={"token": "bob"}, tokens=True),
    Case("and a header without a token", 401, headers={"Authorization": "Bearer"}, query={"token": "bob"}, tokens=True),
    Case(
        "then the subprotocol",
        headers=offering("bearer.bob,answerback.v1"),
        query={"token": "alice"},
        tokens=True,
        user="bob",
    ),
    Case("no token", 401, tokens=True),
    Case("an empty token", 401, query={"token": ""}, tokens=True),
    Case("an empty token in a subprotocol", 401, headers=offering("answerback.v1, bearer."), tokens=True),
    Case("a user alone is no token", 401, query={"userId": "alice"}, tokens=True),
    Case("the token's own user", headers=BEARER_ALICE, query={"userId": "alice"}, tokens=True, user="alice"),
    Case("a user in NFD", query={"userId": HONG_NFD}, user=HONG),
    Case("the token's own user in NFD", headers=BEARER_HONG, query={"userId": HONG_NFD}, tokens=True, user=HONG),
    Case("another user than the token's", 403, headers=BEARER_ALICE, query={"userId": "bob"}, tokens=True),
    Case("a malformed user beside a token", 400, headers=BEARER_ALICE, query={"userId": ""}, tokens=True, on_aws=403),
    Case("a malformed session beside a token", 400, headers=BEARER_ALICE, query={"sessionId": ""}, tokens=True),
    Case("a malformed session without a token", 400, query={"sessionId": ""}, tokens=True, on_aws=401),
    Case("tokens cannot be checked", 503, headers={"Authorization": "Bearer down"}, tokens=True, on_aws=500),
    Case("a foreign page with a token", 403, headers=BEARER_ALICE | {"Origin": "null"}, tokens=True),
]


async def by_gateway(case: Case) -> tuple[int, Connection | None]:
    path = "/?" + urlencode(case.query)
    rules = Rules(hosts=Hosts.of("127.0.0.1", ()), allow_origins=origins([PAGE]))
    validator = HandshakeValidator(rules=rules, tokens=TwoUsers() if case.tokens else None, clock=lambda: NOW_MS)
    try:
        return 101, await validator.validate(make_mocked_request("GET", path, headers=WEBSOCKET | case.headers))
    except HandshakeError as error:
        return error.status, None


async def by_functions(case: Case) -> tuple[int, Connection | None]:
    """As API Gateway calls them: the authorizer, if there is one, then `$connect` with what it said."""
    rules = Rules(allow_origins=origins([PAGE]), origin_setting="AllowOrigins")
    context = None
    if case.tokens:
        try:
            policy = await authorize(
                TwoUsers(), authorizer_event("c", headers=case.headers, query=case.query), rules=rules
            )
        except Unauthorized:
            return 401, None
        except Unavailable:
            return 500, None
        if policy["policyDocument"]["Statement"][0]["Effect"] == "Deny":
            return 403, None
        context = policy["context"]
    connections = MemoryConnections()
    event = connect_event("c", headers=case.headers, query=case.query, authorizer=context)
    answer = await connect(connections, event, clock=lambda: NOW_MS, rules=rules)
    return (101 if answer["statusCode"] == 200 else answer["statusCode"]), await connections.get("c")


@pytest.mark.parametrize("entrance", [by_gateway, by_functions])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_entrances_follow_one_table(case: Case, entrance) -> None:
    status, connection = asyncio.run(entrance(case))
    expected = case.on_aws if entrance is by_functions and case.on_aws is not None else case.status
    assert status == expected
    if expected != 101:
        assert connection is None
        return
    assert connection is not None
    assert (connection.user_id, connection.authenticated) == (case.user, case.tokens)
    assert connection.token_expires_at_ms == (NOW_MS + 1_000 if case.tokens else None)
    if case.session is None:
        assert connection.session_id.startswith("connection-")
    else:
        assert connection.session_id == case.session


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": ""}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example", "Upgrade": ""}, 403),
        ({"Origin": "null", "Upgrade": ""}, 403),
        ({"Upgrade": ""}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Upgrade": "h2c, WebSocket"}, 101),
        ({"Connection": "keep-alive"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": " 13 "}, 101),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "not base64 !"}, 400),
        ({"Sec-WebSocket-Key": "\u00e9"}, 400),
    ],
)
def test_what_api_gateway_checks_itself_the_gateway_checks(headers: dict[str, str], status: int) -> None:
    assert asyncio.run(by_gateway(Case("", headers=headers)))[0] == status


def test_a_wildcard_bind_goes_by_any_name_unless_names_are_listed() -> None:
    assert Hosts.of("0.0.0.0", ()).accept("server.example:8765")
    assert not Hosts.of("0.0.0.0", ("a.example",)).accept("server.example")
    assert Hosts.of("0.0.0.0", ("a.example",)).accept("a.example")
    assert not Hosts.of("0.0.0.0", ()).accept(None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.168.1.4", "localhost.evil.example", "::"])
def test_what_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


PROXIES = [ip_network(name) for name in ("10.0.0.0/8", "127.0.0.1", "fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.1", "", "203.0.113.1"),
        ("203.0.113.1", "198.51.100.7", "203.0.113.1"),  # no proxy of ours
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),  # the first is the client's own invention
        ("127.0.0.1", "6.6.6.6,198.51.100.7,10.1.2.3", "198.51.100.7"),  # two proxies
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("fd00::1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7 evil=1", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4.5", "10.0.0.1"),
        ("10.0.0.1.evil", "198.51.100.7", "10.0.0.1.evil"),
        ("", "198.51.100.7", ""),
    ],
)
def test_who_is_behind_a_proxy(peer: str, forwarded: str, address: str) -> None:
    assert client_address(peer, [item.strip() for item in forwarded.split(",") if item], PROXIES) == address
    assert client_address(peer, forwarded.split(","), []) == peer, "nobody is trusted"
