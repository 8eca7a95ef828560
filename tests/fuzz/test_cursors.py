"""`before` of a page is the client's to send: whatever it is, the real store answers, or a sentence says what to do."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answerback.protocol.codec import decode_client, encode
from answerback.protocol.frames import Conversations, Error, GetHistory, History, ListConversations
from answerback.service.history_pages import HistoryPages
from answerback.stores import open_store
from answerback.stores.store import SqlStore

numbers = st.integers(-1, 5) | st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**18, 10**19, 10**200])
parts = (
    numbers.map(str)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["", "\u0662", "1e3", "+1", "a\0b", "p"])
)
cursors = st.lists(parts, min_size=1, max_size=4).map(":".join).filter(lambda text: 0 < len(text) <= 256)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def history_pages(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryPages]:
    url = request.getfixturevalue("postgres_server").url if request.param == "postgres" else None
    store: SqlStore = await open_store(url, tmp_path)
    yield HistoryPages(history=store, clock=lambda: 1_750_000_000_000)
    await store.close()


@pytest.mark.parametrize(
    "before", ["9223372036854775807", "9223372036854775807:1:1", "9223372036854775806:1:1", "1:a\0", "1:p:p", ":p"]
)
async def test_cursors_that_no_store_can_take(history_pages: HistoryPages, before: str) -> None:
    await check(history_pages, before, 5)


async def test_any_cursor_is_answered(history_pages: HistoryPages) -> None:
    asked: list[tuple[str, int]] = []

    @settings(max_examples=150)
    @given(before=cursors, limit=st.integers(1, 100))
    def collect(before: str, limit: int) -> None:
        asked.append((before, limit))

    collect()
    for before, limit in asked:
        await check(history_pages, before, limit)


async def check(history_pages: HistoryPages, before: str, limit: int) -> None:
    """Every kind of page has one answer that is a page or a sentence."""
    for frame in (
        GetHistory(request_id="r", conversation_id="c", before=before, limit=limit),
        GetHistory(request_id="r", conversation_id="c", before=before, limit=limit, parts=True),
        ListConversations(request_id="r", before=before, limit=limit),
    ):
        assert decode_client(encode(frame)) == frame
        answer = await history_pages.answer("u", frame)
        assert isinstance(answer, Conversations | History | Error)
        assert answer.request_id == "r"
