"""The console: what it reads, what protects it, its words, and itself in a real browser."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from answerback.client import Client, RequestCancelled, RequestFailed
from answerback.gateway.app import Gateway
from answerback.gateway.logging import TextFormatter
from answerback.gateway.settings import GatewaySettings
from answerback.texts import words_of
from browser import PROGRAM, Page, browser
from wall import set_clock

PAGE = files("answerback.gateway").joinpath("console.html").read_text(encoding="utf-8")
NASTY = "<img/src=x/onerror=alert(1)>\"'&amp;{0}"


def gateway_in(folder: Path, **options: Any) -> Gateway:
    return Gateway(GatewaySettings(**{"port": 0, "admin_port": 0, "data_dir": folder, "models": ("echo",)} | options))


def key_in(folder: Path) -> str:
    return (folder / "admin.key").read_text().strip()


async def get(gateway: Gateway, path: str, **headers: str) -> tuple[int, Any, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.admin_url}{path}", headers=headers) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def give_budgets(gateway: Gateway, folder: Path, user: str) -> None:
    """A day and a month to the user, and a team with a day."""
    shown = {"Authorization": f"Bearer {key_in(folder)}"}
    user, tokens = quote(user, safe=""), {"limit": 5000, "unit": "tokens"}
    async with aiohttp.ClientSession(gateway.admin_url, headers=shown) as session:
        for path, body in (
            (f"/users/{user}/team", {"team": "design"}),
            (f"/budgets/{user}", {"period": "day", "budget": tokens}),
            (f"/budgets/{user}", {"period": "month", "budget": {"limit": 20_000_000, "unit": "microUsd"}}),
            ("/budgets/team%20design", {"period": "day", "budget": tokens | {"limit": 90_000}}),
        ):
            async with session.put(URL(path, encoded=True), json=body) as answer:
                assert answer.status == 200, await answer.text()


# --- what it reads -------------------------------------------------------------------------------------------


async def test_the_overview_has_queues_errors_and_gateways(tmp_path: Path) -> None:
    models = ("good=echo", "broken=echo:fail=unavailable", "slow=echo:delay_ms=600000&concurrency=1")
    async with (
        gateway_in(tmp_path, models=models, rate_limit=7, grace_s=0) as gateway,
        Client(gateway.url, user="ann") as app,
    ):
        await app.ask("one two", model="good")
        for model in ("broken", "none"):
            with pytest.raises(RequestFailed):
                await app.ask("one", model=model)
        asking = [asyncio.create_task(app.ask("one two", model="slow", conversation=f"c{n}")) for n in range(2)]
        overview: dict[str, Any] = {}
        while not overview or overview["models"][2]["waiting"] != 1:
            overview = json.loads((await get(gateway, "/overview", Authorization=f"Bearer {key_in(tmp_path)}"))[2])
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    good, broken, slow = overview["models"]
    assert good | {"slots": 0} == {
        **{"model": "good", "slots": 0, "running": 0, "waiting": 0, "completed": 1, "failed": 0, "cancelled": 0},
        **{"inputTokens": 2, "outputTokens": 2},
    }
    assert (broken["completed"], broken["failed"]) == (0, 1)
    assert (slow["slots"], slow["running"], slow["waiting"]) == (1, 1, 1)
    assert overview["errors"] == [
        {"code": "forbidden", "failed": 0, "refused": 1},
        {"code": "model_unavailable", "failed": 1, "refused": 0},
    ]
    [node] = overview["nodes"]
    assert (node["name"], node["state"], node["facts"]) == (None, "serving", {"sockets": 1, "running": 1, "waiting": 1})
    assert (overview["healthy"], overview["rateLimit"]) == (True, 7)


async def test_users_come_with_their_budgets_if_that_is_asked_for(tmp_path: Path) -> None:
    async with gateway_in(tmp_path) as gateway, Client(gateway.url, user="ann") as app:
        await give_budgets(gateway, tmp_path, "ann")
        await app.ask("one two")
        shown = {"Authorization": f"Bearer {key_in(tmp_path)}"}
        [ann] = json.loads((await get(gateway, "/users?with=budgets", **shown))[2])["users"]
        assert json.loads((await get(gateway, "/users/ann?with=budgets", **shown))[2]) == ann
        [plain] = json.loads((await get(gateway, "/users", **shown))[2])["users"]
    [day, month] = sorted(ann["budgets"], key=lambda one: str(one["period"]))
    assert (day["unit"], day["limit"], day["used"], day["reserved"]) == ("tokens", 5000, 4, 0)
    assert (month["unit"], month["limit"], month["used"]) == ("microUsd", 20_000_000, 0)
    assert day["opensAtMs"] <= month["opensAtMs"]
    assert (plain["team"], "budgets" in plain) == ("design", False)


# --- what protects it ----------------------------------------------------------------------------------------


async def test_the_page_is_open_and_what_it_reads_is_not(tmp_path: Path) -> None:
    async with gateway_in(tmp_path) as gateway:
        status, headers, text = await get(gateway, "/console")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?:", policy + text)
        for path in ("/overview", "/requests", "/users"):
            metrics_key = (tmp_path / "metrics.key").read_text().strip()
            for shown in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {metrics_key}"}):
                assert (await get(gateway, path, **shown))[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [("{}", 200), ("http://evil.example", 403), ("null", 403), ("https{}", 403), ("{}.evil.example", 403)],
)
async def test_only_its_own_origin_may_call(tmp_path: Path, origin: str, status: int) -> None:
    async with gateway_in(tmp_path) as gateway:
        shown = {"Authorization": f"Bearer {key_in(tmp_path)}", "Origin": origin.format(gateway.admin_url)}
        assert (await get(gateway, "/overview", **shown))[0] == status


# --- its words -----------------------------------------------------------------------------------------------


def test_every_text_of_the_page_has_its_korean_and_no_other() -> None:
    script = PAGE.partition("<script>\n")[2]
    shown = {
        *re.findall(r'data-(?:t|hint)="([^"]+)"', PAGE),
        *re.findall(r'\bt\("([^"]+)"', script),
        *re.findall(r': \["([^"]+)", "\w+"\]', script),
        *re.findall(r'\bt\([^")]*\? "([^"]+)" : "([^"]+)"', script),
    }
    assert shown == set(words_of("ko")["console"])
    for english, korean in words_of("ko")["console"].items():
        assert re.search("[가-힣]", korean)
        assert sorted(re.findall(r"\{\d\}", english)) == sorted(re.findall(r"\{\d\}", korean)), english


# --- in a real browser ---------------------------------------------------------------------------------------


class Operator:
    """The operator before the page."""

    def __init__(self, page: Page, gateway: Gateway) -> None:
        self.page = page
        self._gateway = gateway

    async def enter(self, key: str) -> None:
        await self.page.open(f"{self._gateway.admin_url}/console")
        await self.type_key(key)

    async def type_key(self, key: str) -> None:
        await self.page.click("document.querySelector('#key')")
        await self.page.type(key)

    async def until_shown(self, place: str, text: str) -> None:
        # The `innerText` of what is hidden is its text all the same.
        shown = f"document.querySelector({json.dumps(place)})"
        await self.page.until(f"{shown}?.checkVisibility() && {shown}.innerText.includes({json.dumps(text)})")

    async def press(self, text: str) -> None:
        """The button with that text in a table, and what confirms it."""
        await self.page.click(self._button(text))
        await self.page.click("document.querySelector('dialog button.danger')")

    async def until_pressable(self, text: str) -> None:
        await self.page.until(f"{self._button(text)}?.checkVisibility()")

    def _button(self, text: str) -> str:
        return f"[...document.querySelectorAll('td button')].find((one) => one.innerText === {json.dumps(text)})"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: [
        TextFormatter().format(record) for record in caplog.records if record.getMessage().startswith("operator:")
    ]


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("language", "cancel", "block", "unblock", "refused"),
    [
        ("en-US", "Cancel", "Block", "Unblock", "This is not the admin key."),
        ("ko-KR", "중지", "차단", "차단 해제", "관리자 키가 아니에요."),
    ],
)
async def test_an_operator_cancels_and_blocks(
    tmp_path: Path,
    lines: Callable[[], list[str]],
    language: str,
    cancel: str,
    block: str,
    unblock: str,
    refused: str,
) -> None:
    data = tmp_path / "data"
    async with (
        gateway_in(data, models=("slow=echo:delay_ms=600000",), grace_s=0) as gateway,
        browser(tmp_path / "browser", language=language) as page,
        Client(gateway.url, user=NASTY) as app,
    ):
        asking = asyncio.create_task(app.ask("a secret question"))
        operator = Operator(page, gateway)
        await operator.enter("not the key")
        await operator.until_shown("#refused", refused)
        await operator.type_key(key_in(data))
        await operator.until_shown("#live", NASTY)

        await operator.press(cancel)
        with pytest.raises(RequestCancelled):
            await asking
        await operator.until_shown("#users", NASTY)
        await operator.press(block)
        await operator.press(unblock)
        await operator.until_pressable(block)
        assert "secret" not in await page.run("document.body.innerText")
        assert await page.run("document.images.length") == 0
        refusals = [text for text in page.complaints if "403" not in text]
        assert refusals == []
    told = lines()
    for text in ("a request was cancelled", "a user was blocked", "a user was unblocked"):
        assert len([line for line in told if text in line and "remote=127.0.0.1" in line]) == 1, told


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
@pytest.mark.parametrize("user", [".", "..", "...", "%2e%2e"])
async def test_who_is_called_as_a_folder_above_can_be_blocked(tmp_path: Path, user: str) -> None:
    data = tmp_path / "data"
    async with (
        gateway_in(data, grace_s=0) as gateway,
        browser(tmp_path / "browser", language="en-US") as page,
        Client(gateway.url, user=user) as app,
    ):
        await app.ask("why?")
        operator = Operator(page, gateway)
        await operator.enter(key_in(data))
        await operator.until_shown("#users", user)
        await operator.press("Block")
        await operator.press("Unblock")
        await operator.until_pressable("Block")


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
async def test_the_language_can_be_chosen_and_the_page_locked(tmp_path: Path) -> None:
    async with (
        gateway_in(tmp_path / "data") as gateway,
        browser(tmp_path / "browser", language="ko-KR") as page,
    ):
        operator = Operator(page, gateway)
        await operator.enter(key_in(tmp_path / "data"))
        await operator.until_shown("main", "진행 중인 답변이 없어요.")
        await page.click("document.querySelector('#language')")
        await operator.until_shown("main", "No answer is under way.")
        assert not re.search("[가-힣]", await page.run("document.querySelector('main').innerText"))
        await page.open(f"{gateway.admin_url}/console")
        await operator.until_shown("main", "No answer is under way.")
        await page.click("document.querySelector('#leave')")
        await page.until("document.querySelector('main').hidden")
        assert await page.run("sessionStorage.length") == 0


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
async def test_a_late_refusal_of_an_old_key_does_not_lock_the_page(tmp_path: Path) -> None:
    async with (
        gateway_in(tmp_path / "data") as gateway,
        browser(tmp_path / "browser", language="en-US") as page,
    ):
        operator = Operator(page, gateway)
        await page.open(f"{gateway.admin_url}/console")
        await page.run(
            "(() => { const real = fetch; window.fetch = async (path, how) => { const answer = await real(path, how); "
            "if (path === '/requests' && !window.release) await new Promise((go) => { window.release = go; }); "
            "return answer; }; })()"
        )
        await operator.type_key("not the key")
        await operator.until_shown("#refused", "This is not the admin key.")
        await page.until("window.release !== undefined")
        await operator.type_key(key_in(tmp_path / "data"))
        await operator.until_shown("main", "No answer is under way.")
        await page.run("window.release()")
        await page.run("new Promise((resolve) => setTimeout(resolve))")
        assert not await page.run("document.querySelector('main').hidden")


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("language", "team", "day", "month", "free"),
    [
        ("en-US", "Team design", "5,000 tokens a day", "$20.00 a month", "$0.00"),
        ("ko-KR", "팀 design", "하루 5,000 토큰", "한 달 US$20.00", "US$0.00"),
    ],
)
async def test_budgets_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, team: str, day: str, month: str, free: str
) -> None:
    set_clock(monkeypatch)
    async with (
        gateway_in(tmp_path / "data") as gateway,
        browser(tmp_path / "browser", language=language) as page,
        Client(gateway.url, user=NASTY) as app,
    ):
        await app.ask("one two")
        await give_budgets(gateway, tmp_path / "data", NASTY)
        await app.ask("one two")
        await Operator(page, gateway).enter(key_in(tmp_path / "data"))
        for text in (NASTY, day, month, team):
            await Operator(page, gateway).until_shown("#budgets", text)
        rows = await page.run("[...document.querySelectorAll('#budgets tr')].map((row) => row.innerText.split('\t'))")
        used = [(row[0], row[2].split()[0]) for row in rows[1:]]
        assert sorted(used) == sorted([(NASTY, "4"), (NASTY, free), (team, "4")])
        assert "design" in await page.run("document.querySelector('#users').innerText")
        assert page.complaints == []
