"""One name in NFC and in NFD is one user and one conversation, at every door; what was stored under NFD is found."""

import json
import unicodedata
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import websockets

from answerback.auth import make_token
from answerback.core import request as changes
from answerback.core.context import Message
from answerback.core.keys import fingerprint
from answerback.core.parts import Content
from answerback.core.request import Ending, Policy, Question
from answerback.gateway.app import Gateway
from answerback.gateway.settings import AuthSettings, GatewaySettings
from answerback.ports import Piece, Prompt, Quota
from answerback.protocol.frames import SendMessage, Status
from answerback.service.id_forms import UsersInBothForms
from answerback.stores.sqlite import SqliteStore
from asking import record_of

NFC, NFD = "홍길동", unicodedata.normalize("NFD", "홍길동")
TRIP, TRIP_NFD = "여행", unicodedata.normalize("NFD", "여행")
SECRET = "a secret of thirty-two characters"
NOW_MS = 1_750_000_000_000
FORMS = (NFC, NFD)


def settings(folder: Path, **options: Any) -> GatewaySettings:
    base: dict[str, Any] = {"port": 0, "admin_port": 0, "models": ("echo",), "rate_limit": 0, "grace_s": 0.0}
    return GatewaySettings(data_dir=folder, **{**base, **options})


def question(request_id: str, **more: Any) -> dict[str, Any]:
    return {"action": "sendMessage", "requestId": request_id, "message": "hello there", **more}


async def ask(ws: websockets.ClientConnection, request_id: str, **more: Any) -> dict[str, Any]:
    return await send(ws, "messageResponse", question(request_id, **more))


async def send(ws: websockets.ClientConnection, wanted: str, frame: dict[str, Any]) -> dict[str, Any]:
    await ws.send(json.dumps(frame))
    while (found := json.loads(await ws.recv()))["action"] not in {wanted, "error"}:
        pass
    return dict(found)


async def history(ws: websockets.ClientConnection, conversation_id: str) -> list[str]:
    frame = {"action": "getHistory", "requestId": "h", "conversationId": conversation_id}
    return [turn["requestId"] for turn in (await send(ws, "history", frame))["turns"]]


async def conversations(ws: websockets.ClientConnection) -> list[tuple[str, int]]:
    found = await send(ws, "conversations", {"action": "listConversations", "requestId": "l"})
    return [(one["conversationId"], one["turns"]) for one in found["conversations"]]


async def admin(gateway: Gateway, folder: Path, method: str, path: str, **options: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {(folder / 'admin.key').read_text().strip()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{gateway.admin_url}{path}", **options) as response,
    ):
        return response.status, await response.json()


# --- the doors


@pytest.mark.parametrize("form", FORMS)
async def test_a_name_in_the_url_or_in_a_frame_is_one_user(tmp_path: Path, form: str) -> None:
    async with Gateway(settings(tmp_path)) as gateway:
        async with websockets.connect(f"{gateway.url}/?userId={quote(form)}") as ws:
            for number, name in enumerate(FORMS):
                assert (await ask(ws, f"r{number}", userId=name))["status"] == "completed"
        async with websockets.connect(gateway.url) as ws:
            assert (await ask(ws, "r2", userId=form))["status"] == "completed"
            welcome = await send(ws, "welcome", {"action": "hello", "helloId": "h"})
            assert welcome["userId"] == NFC
        users = (await admin(gateway, tmp_path, "GET", "/users"))[1]["users"]
        assert [(user["userId"], user["turns"]) for user in users] == [(NFC, 3)]


@pytest.mark.parametrize("form", FORMS)
async def test_a_name_in_a_token_is_one_user(tmp_path: Path, form: str) -> None:
    token = make_token(form, secret=SECRET, ttl_s=3600)
    async with Gateway(settings(tmp_path, auth=AuthSettings(secret=SECRET))) as gateway:
        for named in FORMS:
            async with websockets.connect(f"{gateway.url}/?token={token}&userId={quote(named)}") as ws:
                assert (await send(ws, "welcome", {"action": "hello", "helloId": "h"}))["userId"] == NFC
                for other in FORMS:
                    renewed = make_token(other, secret=SECRET, ttl_s=3600)
                    frame = {"action": "renewToken", "requestId": "t", "token": renewed}
                    assert (await send(ws, "tokenRenewed", frame))["action"] == "tokenRenewed"


async def test_a_conversation_is_one_and_a_request_id_goes_back_as_it_came(tmp_path: Path) -> None:
    async with Gateway(settings(tmp_path)) as gateway, websockets.connect(f"{gateway.url}/?userId=kim") as ws:
        for name, conversation_id in zip(FORMS, (TRIP, TRIP_NFD), strict=True):
            ending = await ask(ws, name, conversationId=conversation_id)
            assert ending["requestId"] == name
        assert await history(ws, TRIP) == await history(ws, TRIP_NFD) == list(FORMS), "two request ids"
        assert await conversations(ws) == [(TRIP, 2)]
        frame = {"action": "updateConversation", "requestId": "u", "conversationId": TRIP_NFD, "title": "Trip"}
        assert (await send(ws, "conversation", frame))["title"] == "Trip"
        assert len(await conversations(ws)) == 1


# --- what was stored before


@pytest.fixture
async def old(tmp_path: Path) -> Path:
    """A store of before: a user and a conversation in NFD with two turns and one unfinished request; a limit of 7."""
    store = SqliteStore(tmp_path / "answerback.db")
    await store.open()
    await store.set_limit(NFD, 7, now_ms=NOW_MS)
    for number, user_id in enumerate((NFD, NFD, NFD, "kim")):
        frame = SendMessage(request_id=f"old-{number}", message="hello there", conversation_id=TRIP_NFD)
        facts = {"fingerprint": fingerprint(frame), "accepted_at_ms": NOW_MS + number}
        record = record_of(frame.request_id, user_id, conversation_id=TRIP_NFD, **facts)
        question = Question(message=frame.message, model="echo")
        await store.accept(record, question, Quota(per_minute=0, max_pending=10), now_ms=NOW_MS + number)
        if number == 2:
            continue
        claim = partial(changes.claim, owner="w", now_ms=NOW_MS + number, policy=Policy())
        await store.change(record.key, claim)
        ending = Ending(status=Status.COMPLETED, attempt=1, length=4, ended_at_ms=NOW_MS + number + 1)
        await store.change(
            record.key, partial(changes.finish, owner="w", attempt=1, ending=ending, content=Content("text"))
        )
    await store.close()
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
async def test_what_was_stored_under_the_other_form_is_there(old: Path, form: str) -> None:
    forever = Policy(queue_timeout_ms=10**14)
    async with (
        Gateway(settings(old, policy=forever, retention_days=3650)) as gateway,
        websockets.connect(f"{gateway.url}/?userId={quote(form)}&sessionId=s") as ws,
    ):
        resume = [{"requestId": f"old-{number}", "attempt": 0, "offset": 0} for number in (0, 2)]
        await ws.send(json.dumps({"action": "hello", "helloId": "h", "resume": resume}))
        endings: dict[str, str] = {}
        while len(endings) < 2:
            found = json.loads(await ws.recv())
            assert found["action"] != "error", found
            if found["action"] == "messageResponse":
                endings[found["requestId"]] = found["response"]
        assert endings == {"old-0": "text", "old-2": "hello there"}
        again = await ask(ws, "old-1", conversationId=TRIP_NFD)
        assert again["response"] == "text", "a repeated id does not run again"
        assert (await ask(ws, "new", conversationId=TRIP))["response"] == "hello there"
        assert await history(ws, TRIP) == ["old-0", "old-1", "old-2", "new"]
        assert await conversations(ws) == [(TRIP, 4)]
        status, shown = await admin(gateway, old, "GET", f"/users/{quote(form)}")
        assert (status, shown["turns"], shown["perMinute"]) == (200, 4, 7)
        used = (await admin(gateway, old, "GET", f"/usage?user={quote(form)}"))[1]["usage"]
        assert sum(day["requests"] for day in used) == 4


async def test_the_model_is_shown_what_was_said_under_the_other_form(old: Path) -> None:
    class Listening:
        name, context_tokens, concurrency = "echo", 8_192, 1
        shown: Sequence[Message] = ()

        async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
            self.shown = prompt.messages
            yield "text"

        async def close(self) -> None:
            pass

    model = Listening()
    async with (
        Gateway(settings(old, retention_days=3650), models=(model,)) as gateway,
        websockets.connect(f"{gateway.url}/?userId=kim") as ws,
    ):
        await ask(ws, "new", conversationId=TRIP)
    assert [message.text for message in model.shown] == ["hello there", "text", "hello there"]


@pytest.mark.parametrize("form", FORMS)
async def test_deleting_a_user_erases_both_forms(old: Path, form: str) -> None:
    async with Gateway(settings(old, retention_days=3650)) as gateway:
        async with websockets.connect(f"{gateway.url}/?userId={quote(NFC)}") as ws:
            await ask(ws, "new", conversationId=TRIP)
        assert (await admin(gateway, old, "DELETE", f"/users/{quote(form)}"))[0] == 200
        users = (await admin(gateway, old, "GET", "/users"))[1]["users"]
        assert [user["userId"] for user in users] == ["kim"]
        for name in FORMS:
            assert (await admin(gateway, old, "GET", f"/users/{quote(name)}"))[0] == 404


@pytest.mark.parametrize("form", FORMS)
async def test_a_limit_of_before_goes_on(old: Path, form: str) -> None:
    async with (
        Gateway(settings(old, retention_days=3650)) as gateway,
        websockets.connect(f"{gateway.url}/?userId={quote(form)}") as ws,
    ):
        codes = [(await ask(ws, f"r{number}")).get("error", {}).get("code") for number in range(16)]
        assert "rate_limited" in codes
        assert (await admin(gateway, old, "PUT", f"/users/{quote(form)}/limit", json={"perMinute": 0}))[0] == 200
        assert (await ask(ws, "after"))["status"] == "completed"


async def test_retention_is_set_under_the_form_that_is_stored(old: Path) -> None:
    store = SqliteStore(old / "answerback.db")
    await store.open()
    users = UsersInBothForms(store)
    for one in (None, TRIP):
        assert await users.set_retention(NFC, 5, now_ms=NOW_MS, conversation_id=one)
    stored = await store.user(NFD)
    assert stored is not None
    assert stored.keep_days == 5
    assert await store.delete_expired(now_ms=NOW_MS + 6 * 86_400_000, keep_days=100) == 1
    await store.close()
