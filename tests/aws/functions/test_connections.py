"""`$connect` and `$disconnect`."""

import asyncio
from typing import Any

import pytest

from answerback.core.handshake import Rules
from answerback.ports import Bound, Connection, Unavailable
from answerback.stores.connections import MemoryConnections
from answerback_aws.runtime.functions.connections import connect, disconnect
from answerback_aws.runtime.settings import Settings
from lambda_functions import Functions, connect_event, disconnect_event

NOW_MS = 1_731_324_925_000


def opened(connections: Any = None, **options: Any) -> tuple[dict[str, Any], Any]:
    store = connections or MemoryConnections()
    answer = asyncio.run(connect(store, connect_event("c-1", **options), clock=lambda: NOW_MS, rules=Rules()))
    return answer, asyncio.run(store.get("c-1"))


def test_a_connection_is_saved_as_it_is() -> None:
    answer, saved = opened(
        headers={"User-Agent": "app/1.0" + "x" * 300},
        query={"sessionId": "session_abc123"},
        authorizer={"userId": "user_001", "expiresAtMs": "1731328524553"},
    )
    assert answer == {"statusCode": 200}
    assert saved == Connection(
        connection_id="c-1",
        session_id="session_abc123",
        connected_at_ms=1_731_324_924_553,
        last_activity_ms=NOW_MS,
        user_id="user_001",
        authenticated=True,
        token_expires_at_ms=1_731_328_524_553,
        source_ip="166.90.225.1",
        user_agent=("app/1.0" + "x" * 300)[:256],
    )


def test_without_a_session_it_is_one_of_its_own() -> None:
    sessions = {opened()[1].session_id for _ in range(10)}
    assert len(sessions) == 10


def test_without_tokens_the_query_names_the_user() -> None:
    _, saved = opened(query={"userId": "user_001"})
    assert (saved.user_id, saved.authenticated, saved.token_expires_at_ms) == ("user_001", False, None)


def test_the_token_s_user_wins() -> None:
    _, saved = opened(query={"userId": "user_001"}, authorizer={"userId": "kim"})
    assert (saved.user_id, saved.authenticated) == ("kim", True)


def test_only_our_subprotocol_is_echoed_and_never_a_token() -> None:
    answer, _ = opened(headers={"Sec-WebSocket-Protocol": "bearer.secret , answerback.v1"})
    assert answer == {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "answerback.v1"}}


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Sec-WebSocket-Protocol": "graphql-ws"}},
        {"query": {"sessionId": ""}},
        {"query": {"sessionId": "x" * 129}},
        {"query": {"sessionId": "a\nb"}},
        {"query": {"userId": " "}},
    ],
)
def test_a_handshake_that_cannot_be_served_is_400(options: dict[str, Any]) -> None:
    answer, saved = opened(**options)
    assert answer["statusCode"] == 400
    assert saved is None


PAGES = [
    (None, 200),
    ("https://app.example", 200),
    ("https://APP.example/", 200),
    ("https://evil.example", 403),
    ("https://app.example.evil.example", 403),
    ("http://app.example", 403),
    ("null", 403),
    ("", 403),
]


@pytest.mark.parametrize(("origin", "status"), PAGES)
@pytest.mark.parametrize("header", ["Origin", "origin"])
def test_a_web_page_connects_if_it_is_on_the_list(header: str, origin: str | None, status: int) -> None:
    """An app sends no `Origin`; a browser always does."""
    settings = Settings({"ANSWERBACK_ALLOW_ORIGINS": "https://other.example https://App.example/"})
    store = MemoryConnections()
    event = connect_event("c-1", headers={} if origin is None else {header: origin})
    answer = asyncio.run(connect(store, event, clock=lambda: NOW_MS, rules=settings.handshake_rules))
    assert answer["statusCode"] == status
    assert (asyncio.run(store.get("c-1")) is not None) is (status == 200)


def test_where_no_page_is_on_the_list_none_connects() -> None:
    assert opened(headers={"Origin": "https://app.example"})[0]["statusCode"] == 403


def test_nulls_of_older_events() -> None:
    event = connect_event("c-1")
    event["queryStringParameters"] = None
    event["requestContext"]["authorizer"] = None
    event["requestContext"]["identity"]["userAgent"] = None
    assert asyncio.run(connect(MemoryConnections(), event, clock=lambda: NOW_MS, rules=Rules())) == {"statusCode": 200}


def test_an_outage_is_503() -> None:
    class Down(MemoryConnections):
        async def add(self, connection: Connection) -> None:
            raise Unavailable("planted")

    assert opened(Down())[0] == {"statusCode": 503}


def test_a_disconnect_removes_and_an_outage_does_not_matter() -> None:
    class Down(MemoryConnections):
        async def remove(self, connection_id: str) -> None:
            raise Unavailable("planted")

    connections = MemoryConnections()
    opened(connections)
    for store in (connections, Down()):
        assert asyncio.run(disconnect(store, disconnect_event("c-1"))) == {"statusCode": 200}
    assert asyncio.run(connections.get("c-1")) is None


def test_a_late_disconnect_leaves_the_newer_connection() -> None:
    async def scene() -> None:
        connections = MemoryConnections()
        query = {"sessionId": "s", "userId": "kim"}
        for name, at_ms in (("old", 1_000), ("new", 2_000)):
            await connect(
                connections,
                connect_event(name, query=query, connected_at_ms=at_ms),
                clock=lambda: NOW_MS,
                rules=Rules(),
            )
            assert isinstance(await connections.bind(name, "kim"), Bound)
        await disconnect(connections, disconnect_event("old"))
        bound = await connections.bind("new", "kim")
        assert isinstance(bound, Bound)
        assert bound.replaced is None

    asyncio.run(scene())


def test_nothing_is_posted_to_a_connection_that_opens(functions: Functions) -> None:
    functions.connect("c-1", query={"sessionId": "s", "userId": "kim"})
    assert functions.management.calls == 0
