"""The client's conversations and their history, page by page."""

import asyncio

import pytest

from answerback.client import Client, ProtocolViolation, RequestFailed, parts_of
from answerback.client.paging import TurnPages
from answerback.protocol.frames import History


def turn(rid, question, answer, **more):
    return {
        "requestId": rid,
        "question": question,
        "answer": answer,
        "status": "completed",
        "askedAt": "2025-01-01T00:00:00Z",
        "answeredAt": "2025-01-01T00:00:01Z",
        **more,
    }


async def serve_history(peer, *pages):
    for number, turns in enumerate(pages):
        asked = await peer.get("getHistory")
        assert asked.get("before") == (f"p{number}" if number else None)
        more = {"next": f"p{number + 1}"} if number + 1 < len(pages) else {}
        reply = {"requestId": asked["requestId"], "conversationId": asked["conversationId"], "turns": turns, **more}
        await peer.send({"action": "history", **reply})


async def test_history_is_paged_and_its_pieces_are_joined(gateway):
    pages = [
        [turn("long", "", "tail", answerOffset=6, questionOffset=4), turn("new", "q3", "a3")],
        [turn("long", "tion", "middle")],
        [turn("old", "q1", "a1")],
    ]
    async with Client(gateway.url) as app:
        serving = asyncio.create_task(serve_history(await gateway.peer(), *pages))
        turns = [(t.request_id, t.question, t.answer) async for t in app.history("c")]
        await serving
    assert turns == [("new", "q3", "a3"), ("long", "tion", "middletail"), ("old", "q1", "a1")]


async def test_parts_of_a_turn_in_pieces_are_joined(gateway):
    def labels(*parts):
        return [{"part": n, "kind": kind, "from": start, "to": end} for n, kind, start, end in parts]

    later = turn("a", "q", "nk and so", answerOffset=5, parts=labels((1, "reasoning", 5, 7), (2, "text", 7, 14)))
    earlier = turn("a", "q", "hmthi", parts=labels((0, "text", 0, 2), (1, "reasoning", 2, 5)))
    async with Client(gateway.url) as app:
        serving = asyncio.create_task(serve_history(await gateway.peer(), [later], [earlier]))
        (whole,) = [one async for one in app.history("c", parts=True)]
        await serving
    assert parts_of(whole) == (("text", None, "hm"), ("reasoning", None, "think"), ("text", None, " and so"))


@pytest.mark.parametrize(
    "pages",
    [
        [[turn("a", "q", "tail", answerOffset=6)]],
        [[turn("a", "q", "tail", answerOffset=6)], [turn("b", "q", "others")]],
        [[turn("a", "q", "tail", answerOffset=6)], [turn("a", "q", "short")]],
    ],
)
async def test_pieces_that_do_not_fit(gateway, pages):
    async with Client(gateway.url) as app:
        serving = asyncio.create_task(serve_history(await gateway.peer(), *pages))
        with pytest.raises(ProtocolViolation):
            [t async for t in app.history("c")]
        await serving


def test_a_page_that_follows_itself_is_no_history():
    pages, page = TurnPages("c"), History(request_id="r", conversation_id="c", turns=(), next="p")
    assert pages.take(page) == []
    with pytest.raises(ProtocolViolation, match="follows itself"):
        pages.take(page)


async def test_conversations_and_their_changes(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        listing = asyncio.create_task(collect(app.conversations()))
        for before, following in ((None, {"next": "n"}), ("n", {})):
            asked = await peer.get("listConversations")
            assert asked.get("before") == before
            row = {"conversationId": f"c-{before}", "title": "T", "turns": 1, "createdAt": "x", "updatedAt": "y"}
            reply = {"requestId": asked["requestId"], "conversations": [row], **following}
            await peer.send({"action": "conversations", **reply})
        assert [row.conversation_id for row in await listing] == ["c-None", "c-n"]
        for change, field in (
            (app.rename("c", "New"), {"title": "New"}),
            (app.delete("c"), {"deleted": True}),
            (app.restore("c"), {"deleted": False}),
        ):
            changing = asyncio.create_task(change)
            asked = await peer.get("updateConversation")
            assert field.items() <= asked.items()
            reply = {"requestId": asked["requestId"], "conversationId": "c", "title": "New", "deleted": False}
            await peer.send({"action": "conversation", **reply})
            assert (await changing).title == "New"


async def collect(source):
    return [item async for item in source]


async def test_a_call_that_is_refused_or_answered_wrongly(gateway):
    async with Client(gateway.url) as app:
        peer = await gateway.peer()
        renaming = asyncio.create_task(app.rename("c", "New"))
        rid = (await peer.get("updateConversation"))["requestId"]
        await peer.send({"action": "error", "code": "unknown_request", "message": "No such thing.", "requestId": rid})
        with pytest.raises(RequestFailed, match="No such thing"):
            await renaming
        renaming = asyncio.create_task(app.rename("c", "New"))
        rid = (await peer.get("updateConversation"))["requestId"]
        await peer.send({"action": "tokenRenewed", "requestId": rid})
        with pytest.raises(ProtocolViolation):
            await renaming
