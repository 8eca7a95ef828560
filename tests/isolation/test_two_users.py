"""Two users on one gateway: every action with every id of the other's, byte for byte as if the id did not exist."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from two_users import Site, Victim, neutral, unlike

pytestmark = pytest.mark.timeout(60)

ATTACKER = "bob"
Frame = dict[str, Any]
Probe = Callable[[str], Frame]

REQUEST_PROBES: dict[str, Probe] = {
    "ask under the id": lambda name: {"action": "sendMessage", "requestId": name, "message": "mine"},
    "ask the same": lambda name: {"action": "sendMessage", "requestId": name, "message": "a secret of Ann"},
    "ask, streamed": lambda name: {"action": "sendMessage", "requestId": name, "message": "mine", "stream": True},
    "a broken question": lambda name: {"action": "sendMessage", "requestId": name, "message": ""},
    "a refused question": lambda name: {"action": "sendMessage", "requestId": name, "message": "m", "model": "none"},
    "cancel": lambda name: {"action": "cancelMessage", "requestId": name},
    "stop": lambda name: {"action": "cancelMessage", "requestId": name, "conversationId": "any"},
    "watch from there": lambda name: {
        "action": "watch",
        "requestId": "r",
        "conversationId": "any",
        "number": 1,
        "resume": [{"requestId": name, "attempt": 1, "offset": 0}],
    },
    "resume": lambda name: {
        "action": "hello",
        "helloId": "probe",
        "resume": [{"requestId": name, "attempt": 1, "offset": 0}],
    },
    "resume from the end": lambda name: {
        "action": "hello",
        "helloId": "probe",
        "resume": [{"requestId": name, "attempt": 1, "offset": 15}],
    },
    "replace": lambda name: {
        "action": "sendMessage",
        "requestId": "new-question",
        "message": "mine",
        "conversationId": "conversation-of-bob",
        "replaces": name,
        "model": "context",
    },
    "list under the id": lambda name: {"action": "listConversations", "requestId": name},
    "history under the id": lambda name: {"action": "getHistory", "requestId": name, "conversationId": "any"},
    "update under the id": lambda name: {"action": "updateConversation", "requestId": name, "conversationId": "any"},
    "history before it": lambda name: {
        "action": "getHistory",
        "requestId": "r",
        "conversationId": "any",
        "before": name,
    },
}
CONVERSATION_PROBES: dict[str, Probe] = {
    "history": lambda name: {"action": "getHistory", "requestId": "r", "conversationId": name},
    "watch": lambda name: {"action": "watch", "requestId": "r", "conversationId": name, "number": 1},
    "rename": lambda name: {"action": "updateConversation", "requestId": "r", "conversationId": name, "title": "mine"},
    "delete": lambda name: {"action": "updateConversation", "requestId": "r", "conversationId": name, "deleted": True},
    "restore": lambda name: {
        "action": "updateConversation",
        "requestId": "r",
        "conversationId": name,
        "deleted": False,
    },
    "update": lambda name: {"action": "updateConversation", "requestId": "r", "conversationId": name},
    "ask in it": lambda name: {
        "action": "sendMessage",
        "requestId": "new-question",
        "message": "What was said?",
        "conversationId": name,
        "model": "context",
    },
    "list before it": lambda name: {"action": "listConversations", "requestId": "r", "before": f"9999999999999:{name}"},
}


async def answers(site: Site, probe: Probe, name: str, attacker: str) -> list[str]:
    """Everything that the attacker sees after one frame, on a connection under the victim's session id."""
    peer = await site.join(attacker)
    frame = probe(name)
    await peer.say(**frame)
    request_id = frame.get("requestId")
    if frame["action"] == "sendMessage":
        await peer.until("messageResponse", requestId=request_id)
    elif frame["action"] == "hello":
        await peer.until("welcome", helloId="probe")
    else:
        await peer.first(lambda frame: frame.get("requestId") == request_id)
    await peer.say(action="hello", helloId="last")
    await peer.until("welcome", helloId="last")
    return [neutral(text, name).replace(attacker, "ATTACKER") for text in await peer.close()]


async def snapshot(victim: Victim) -> list[str]:
    """All that the victim can see of her own."""
    peer = victim.peer
    begin = len(peer.texts)
    await peer.say(action="listConversations", requestId="snapshot-list")
    names = list(victim.conversations.values())
    for number, name in enumerate(names):
        await peer.say(action="getHistory", requestId=f"snapshot-{number}", conversationId=name)
    await peer.count(begin + 1 + len(names))
    seen = peer.texts[begin:]
    del peer.texts[begin:]
    return sorted(seen)


def users() -> Iterator[str]:
    """Equally long names, so that answers with them in are equally long."""
    yield from (f"bob-{number:03}" for number in range(1000))


@pytest.mark.parametrize("probe", REQUEST_PROBES)
async def test_another_user_s_request_is_as_one_that_does_not_exist(site: Site, ann: Victim, probe: str) -> None:
    before, seen_before, attackers = await snapshot(ann), list(ann.peer.texts), users()
    for state, name in ann.requests.items():
        there = await answers(site, REQUEST_PROBES[probe], name, next(attackers))
        not_there = await answers(site, REQUEST_PROBES[probe], unlike(name), next(attackers))
        assert there == not_there, state
        assert "secret" not in "".join(there) or probe == "ask the same"
    assert await snapshot(ann) == before
    assert ann.peer.texts == seen_before
    await still_hers(ann)


@pytest.mark.parametrize("probe", CONVERSATION_PROBES)
async def test_another_user_s_conversation_is_as_one_that_does_not_exist(site: Site, ann: Victim, probe: str) -> None:
    before, seen_before, attackers = await snapshot(ann), list(ann.peer.texts), users()
    for state, name in ann.conversations.items():
        there = await answers(site, CONVERSATION_PROBES[probe], name, next(attackers))
        not_there = await answers(site, CONVERSATION_PROBES[probe], unlike(name), next(attackers))
        assert there == not_there, state
        assert "secret" not in "".join(there)
    assert await snapshot(ann) == before
    assert ann.peer.texts == seen_before
    await still_hers(ann)


async def still_hers(ann: Victim) -> None:
    """The running request runs, the waiting one waits, and the ended ones have their endings."""
    peer = ann.peer
    peer.texts.clear()
    points = [{"requestId": name, "attempt": 0, "offset": 0} for name in ann.requests.values()]
    await peer.say(action="hello", helloId="still", resume=points)
    await peer.until("welcome", helloId="still")
    endings = {
        frame["requestId"]: frame for frame in map(json.loads, peer.texts) if frame["action"] == "messageResponse"
    }
    assert {name: endings[name]["status"] if name in endings else None for name in ann.requests.values()} == {
        ann.requests["done"]: "completed",
        ann.requests["streamed"]: "completed",
        ann.requests["running"]: None,
        ann.requests["waiting"]: None,
        ann.requests["refused"]: "failed",
        ann.requests["cancelled early"]: "cancelled",
    }
    assert endings[ann.requests["done"]]["response"] == "a secret of Ann"
    await peer.say(action="cancelMessage", requestId=ann.requests["running"])
    assert (await peer.until("messageResponse", requestId=ann.requests["running"]))["status"] == "cancelled"
    assert (await peer.until("messageResponse", requestId=ann.requests["waiting"]))["response"] == "a secret of Ann"


async def test_who_watches_another_user_s_conversations_is_shown_nothing_of_them(site: Site, ann: Victim) -> None:
    attacker = await site.join(ATTACKER)
    names = [*ann.conversations.values(), *ann.requests.values(), None]
    points = [{"requestId": name, "attempt": 1, "offset": 0} for name in ann.requests.values()]
    for number, name in enumerate(names):
        where = {} if name is None else {"conversationId": name, "resume": points}
        await attacker.say(action="watch", requestId=f"w{number}", number=number, **where)
        await attacker.until("watching", requestId=f"w{number}")
        for request in ann.requests.values():
            await attacker.say(action="cancelMessage", requestId=request, conversationId=name or "c")
    await still_hers(ann)
    await attacker.say(action="hello", helloId="last")
    await attacker.until("welcome", helloId="last")
    seen = list(map(json.loads, await attacker.close()))
    assert {frame["action"] for frame in seen} == {"watching", "error", "welcome"}
    assert {frame["code"] for frame in seen if frame["action"] == "error"} == {"unknown_request"}
    assert not [frame for frame in seen if "turn" in frame]


async def test_another_user_s_session_is_not_taken_over(site: Site, ann: Victim) -> None:
    attacker = await site.join(ATTACKER)
    await attacker.say(action="hello", helloId="h")
    welcome = await attacker.until("welcome")
    assert (welcome["userId"], welcome["sessionId"]) == (ATTACKER, "session-of-both")
    await ann.peer.say(action="ping")
    await ann.peer.until("pong")
    await ann.peer.say(action="cancelMessage", requestId=ann.requests["running"])
    await ann.peer.until("messageResponse", requestId=ann.requests["waiting"])
    await attacker.say(action="ping")
    await attacker.until("pong")
    assert [json.loads(text)["action"] for text in attacker.texts] == ["welcome", "pong"]


async def test_a_question_in_another_user_s_name_is_refused_whether_there_is_such_a_user(
    site: Site, ann: Victim
) -> None:
    seen = []
    for user in ("ann", "eve"):
        peer = await site.join(ATTACKER)
        await peer.say(action="sendMessage", requestId="q", userId=user, message="Hello?")
        await peer.until("messageResponse")
        seen.append([neutral(text, user) for text in await peer.close()])
        # The refusal uses the id up; for the next user it has to be free again.
        await forget(site)
    assert seen[0] == seen[1]
    assert "user_mismatch" in seen[0][0]
    await still_hers(ann)


async def forget(site: Site) -> None:
    key = (site.data_dir / "admin.key").read_text().strip()
    url = f"{site.gateway.admin_url}/users/{ATTACKER}"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        http.delete(url) as response,
    ):
        assert response.status == 200


async def test_connecting_as_another_user_is_refused_whether_there_is_such_a_user(site: Site, ann: Victim) -> None:
    if not site.has_tokens:
        return  # any client that can reach a server without tokens can be anybody: PROTOCOL.md, section 16
    seen = []
    async with aiohttp.ClientSession(headers=site.headers(ATTACKER)) as http:
        for user in ("ann", "eve"):
            headers = {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "MDEyMzQ1Njc4OTAxMjM0NQ==",
            }
            url = site.gateway.url.replace("ws:", "http:")
            async with http.get(f"{url}/?userId={user}", headers=headers) as response:
                seen.append((response.status, await response.text()))
    assert seen[0] == seen[1]
    assert seen[0][0] == 403


async def test_a_token_of_another_user_does_not_turn_a_connection_into_hers(site: Site, ann: Victim) -> None:
    peer = await site.join(ATTACKER)
    await peer.say(action="renewToken", requestId="r", token=site.token("ann"))
    if site.has_tokens:
        assert (await peer.until("error"))["code"] == "user_mismatch"
    else:
        await peer.until("tokenRenewed")
    await peer.say(action="hello", helloId="h", resume=[{"requestId": ann.requests["done"], "attempt": 0, "offset": 0}])
    assert (await peer.until("error", requestId=ann.requests["done"]))["code"] == "unknown_request"
    assert (await peer.until("welcome"))["userId"] == ATTACKER


ADMIN_ROUTES = (
    ("GET", "/@connections/{connection}"),
    ("POST", "/@connections/{connection}"),
    ("DELETE", "/@connections/{connection}"),
    ("DELETE", "/requests/ann/{request}"),
    ("GET", "/requests"),
    ("GET", "/users/{user}"),
    ("DELETE", "/users/{user}"),
    ("PUT", "/users/{user}/limit"),
    ("GET", "/usage"),
    ("GET", "/metrics"),
)


@pytest.mark.parametrize("route", ADMIN_ROUTES, ids=" ".join)
async def test_the_admin_port_reveals_nothing_without_its_key(site: Site, ann: Victim, route: tuple[str, str]) -> None:
    method, path = route
    real = {"connection": ann.connection_id, "request": ann.requests["running"], "user": "ann"}
    made_up = {name: unlike(value) for name, value in real.items()}
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {site.token(ATTACKER)}"},
        {"Authorization": f"AWS4-HMAC-SHA256 Credential={ann.connection_id}/20260101/r/execute-api/aws4_request"},
    ):
        seen = []
        async with aiohttp.ClientSession(headers=headers) as http:
            for names in (real, made_up):
                url = site.gateway.admin_url + path.format(**names)
                async with http.request(method, url, data=b"{}") as response:
                    kept = {name: value for name, value in response.headers.items() if name != "Date"}
                    seen.append((response.status, kept, await response.read()))
        assert seen[0] == seen[1]
        assert seen[0][0] == 403
    await ann.peer.say(action="ping")
    await ann.peer.until("pong")
    await still_hers(ann)


async def test_the_probes_themselves_see_a_difference_where_there_is_one(site: Site, ann: Victim) -> None:
    """Ann, from another session of hers, gets the error that the id is taken: the comparison would notice that."""
    there = await conflict(site, ann.requests["done"])
    assert "request_conflict" in there
    assert neutral(there, ann.requests["done"]) != neutral("{}", "x")


async def conflict(site: Site, name: str) -> str:
    peer = await site.join("ann", "another-session")
    await peer.say(action="cancelMessage", requestId=name)
    await peer.until("error")
    return "".join(await peer.close())
