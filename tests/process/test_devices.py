"""Several devices of a user on one gateway process, without the SDK."""

import asyncio
import re
import signal
import socket
from typing import Any

import pytest

from cli_process import Serve, read_admin
from watching_peers import App, app

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

TEXT = " ".join(f"단어{n}" for n in range(40))
SLOW = "slow=echo:delay_ms=25"


async def test_one_asks_and_another_sees_it_from_the_first_character(serve: Serve) -> None:
    url = serve("--model", SLOW).url
    async with app(url, "desk") as desk, app(url, "phone") as phone, app(url, "late") as late:
        assert "watch" in (await hello(desk))["features"]
        assert (await phone.watch())["action"] == "watching"
        await desk.ask("q", TEXT)
        await desk.until(lambda: len(desk.texts.get("q", "")) > 20)
        await late.watch()
        await asyncio.gather(desk.ended("q"), phone.ended("q"), late.ended("q"))
        assert desk.texts == phone.texts == late.texts == {"q": TEXT}
        assert desk.endings == phone.endings == late.endings
        assert (desk.asked, phone.asked["q"]["question"]) == ({}, TEXT)
        assert (await late.watch())["turn"] == "q"


async def hello(of: App) -> dict[str, Any]:
    await of.send("hello", helloId="h")
    await of.until(lambda: bool(of.others))
    return of.others.pop()


async def test_a_watcher_is_cut_and_resumes_and_a_stranger_sees_nothing(serve: Serve) -> None:
    url = serve("--model", SLOW).url
    async with app(url, "desk") as desk, app(url, "phone", user="lee") as stranger:
        assert (await stranger.watch())["action"] == "watching"
        async with app(url, "phone") as phone:
            await phone.watch()
            await desk.ask("q", TEXT)
            await phone.until(lambda: len(phone.texts.get("q", "")) > 20)
            has = len(phone.texts["q"])
            phone.socket.transport.abort()
        async with app(url, "phone") as newer:
            again = phone.moved_to(newer.socket)
            asked, again.asked = again.asked, dict(again.asked)
            await again.watch()
            await asyncio.gather(desk.ended("q"), again.ended("q"))
            assert again.texts["q"] == TEXT
            assert 0 < has < len(TEXT)
            assert again.asked == asked
            assert again.endings == desk.endings
        assert (await stranger.watch()).get("turn") is None
        assert (stranger.asked, stranger.endings, stranger.texts) == ({}, {}, {})


async def test_a_watcher_that_does_not_read_holds_up_nobody_and_has_everything_when_it_reads(serve: Serve) -> None:
    gateway = serve("--model", "echo", "--write-buffer-bytes", "20000", "--max-tokens", "100000")
    url = gateway.url
    texts = {f"q{n}": f"{n}" + " 가나다라" * 7_000 for n in range(60)}
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    async with app(url, "desk") as desk, app(url, "phone", sock=small, max_queue=1) as phone:
        await phone.watch()
        for name, text in texts.items():
            await desk.ask(name, text)
            async with asyncio.timeout(10):
                await desk.ended(name)
        assert phone.endings == {}
        found = re.search(r"^answerback_parked_deliveries (\d+)", read_admin(gateway, "metrics"), re.MULTILINE)
        assert found is not None
        assert int(found[1]) > 0
        await phone.ended(*texts)
        assert phone.texts == desk.texts == texts
        assert phone.endings == desk.endings
        assert set(phone.asked) == set(texts)


async def test_a_watcher_stops_it_and_hears_of_changes_of_the_list(serve: Serve) -> None:
    url = serve("--model", SLOW).url
    async with app(url, "desk") as desk, app(url, "phone") as phone:
        await phone.watch()
        await phone.watch(None)
        await desk.ask("q", TEXT)
        await phone.until(lambda: bool(phone.texts.get("q")))
        await phone.send("cancelMessage", requestId="q", conversationId="c")
        await asyncio.gather(desk.ended("q"), phone.ended("q"))
        assert desk.endings["q"]["status"] == phone.endings["q"]["status"] == "cancelled"
        assert TEXT.startswith(phone.texts["q"])
        await phone.until(lambda: phone.others[-1]["action"] == "conversationChanged")
        assert (phone.others[-1]["conversationId"], phone.others[-1]["turns"]) == ("c", 1)


async def test_a_gateway_dies_and_the_next_one_shows_the_answer_to_both(serve: Serve) -> None:
    gateway = serve("--model", SLOW)
    async with app(gateway.url, "desk") as desk, app(gateway.url, "phone") as phone:
        await phone.watch()
        await desk.ask("q", TEXT)
        await phone.until(lambda: len(phone.texts.get("q", "")) > 20)
        gateway.stop(signal.SIGKILL)
    url = serve("--model", SLOW).url
    async with app(url, "phone") as newer:
        again = phone.moved_to(newer.socket)
        await again.watch()
        await again.ended("q")
        assert (again.texts, again.attempts) == ({"q": TEXT}, {"q": 2})


async def test_without_places_nobody_watches(serve: Serve) -> None:
    url = serve("--model", "echo", "--max-watchers", "0").url
    async with app(url, "desk") as desk:
        assert "watch" not in (await hello(desk))["features"]
        assert (await desk.watch())["code"] == "forbidden"
