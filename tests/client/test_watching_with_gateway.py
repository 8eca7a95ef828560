"""Two apps of one user on the real gateway: one asks, the other watches, whatever happens in between."""

import asyncio
import contextlib
import queue
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from answerback.client import (
    Asked,
    BlockingClient,
    ChangesMissed,
    Client,
    ConversationChanged,
    Done,
    Failed,
    PartText,
    RequestCancelled,
    RequestFailed,
    Restarted,
    Started,
    Text,
    Timing,
    parts_of,
)
from answerback.gateway.app import Gateway
from answerback.gateway.settings import Caps, GatewaySettings

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.05)
KOREAN = "봄에는 어디로 갈까요? 😀 제주도는 어때요? "


@pytest.fixture
async def start(tmp_path):
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings):
            models = ("echo", "slow=echo:delay_ms=3", "stuck=echo:delay_ms=100000", "parts=echo:parts=1&delay_ms=3")
            settings = {"models": models, "rate_limit": 0, "port": 0, **settings}
            chosen = GatewaySettings(admin_port=None, data_dir=tmp_path, grace_s=0.1, **settings)
            return await stack.enter_async_context(Gateway(chosen))

        yield start


class Seen:
    """What a watcher is shown; it complains of anything twice or out of order."""

    def __init__(self):
        self.texts = {}
        self.answers = {}

    def see(self, item):
        request_id, event = item
        assert request_id not in self.answers
        match event:
            case Asked():
                assert request_id not in self.texts
                self.texts[request_id] = ""
            case Restarted():
                self.texts[request_id] = ""
            case Text():
                assert event.offset == len(self.texts[request_id])
                self.texts[request_id] += event.delta
            case Done(answer):
                assert answer.text == self.texts[request_id]
                self.answers[request_id] = answer

    async def until(self, watch, count, *, on_text=None):
        """Read until so many answers have ended."""
        async for item in watch:
            self.see(item)
            if on_text is not None and isinstance(item.event, Text):
                on_text()
            if len(self.answers) == count:
                return


@contextlib.asynccontextmanager
async def devices(url, *, desktop=None, laptop=None):
    """A desktop that asks, and a laptop that watches; both may have a timing of their own."""
    async with (
        Client(url, user="kim", timing=desktop) as one,
        Client(url, user="kim", timing=laptop) as other,
        other.watch("trip") as watch,
    ):
        yield one, other, watch


def cut(app):
    """Kill the network of an app."""
    for link in list(app._driver._links.values()):
        link.abort()


async def test_a_question_is_seen_on_another_device_as_it_is_answered(start):
    gateway = await start()
    async with devices(gateway.url) as (desktop, _, watch):
        answer = await desktop.stream(KOREAN, conversation="trip", model="slow").answer
        events = []
        async for request_id, event in watch:
            assert request_id == answer.request_id
            events.append(event)
            if isinstance(event, Done):
                break
    question, started, *texts, done = events
    assert (question.question, question.model, question.conversation_id) == (KOREAN, "slow", "trip")
    assert isinstance(started, Started)
    assert "".join(text.delta for text in texts) == answer.text
    assert done.answer == answer


async def test_who_comes_late_sees_the_answer_from_its_first_character(start):
    gateway = await start()
    async with Client(gateway.url, user="kim") as desktop, Client(gateway.url, user="kim") as laptop:
        stream = desktop.stream(KOREAN * 20, conversation="trip", model="slow")
        await anext(stream)
        async with laptop.watch("trip") as watch, laptop.watch("trip") as again:
            for one in (watch, again):
                seen = Seen()
                await seen.until(one, 1)
                assert seen.answers == {stream.request_id: await stream.answer}


async def test_a_watcher_whose_network_is_killed_again_and_again(start):
    gateway = await start()
    async with devices(gateway.url, laptop=QUICK) as (desktop, laptop, watch):
        streams = [desktop.stream(f"{number} {KOREAN * 20}", conversation="trip", model="slow") for number in range(4)]
        seen = Seen()
        await seen.until(watch, 4, on_text=lambda: cut(laptop))
        assert seen.answers == {stream.request_id: await stream.answer for stream in streams}


async def test_what_ended_while_the_watcher_was_away_comes_from_the_history(start):
    gateway = await start()
    away = Timing(backoff_min_s=60, backoff_max_s=60)
    async with Client(gateway.url, user="kim") as desktop, Client(gateway.url, user="kim", timing=away) as laptop:
        await desktop.ask("before", conversation="trip")
        async with laptop.watch("trip") as watch:
            running = desktop.stream(KOREAN * 10, conversation="trip", model="slow")
            seen = Seen()
            while not seen.texts.get(running.request_id):
                seen.see(await watch.next())
            cut(laptop)
            answers = [await running.answer]
            answers += [await desktop.ask(f"{number}", conversation="trip") for number in range(15)]
            laptop.reconnect_now()
            await seen.until(watch, 16)
            assert {rid: one.text for rid, one in seen.answers.items()} == {one.request_id: one.text for one in answers}
        async with laptop.watch("trip", after=answers[12].request_id) as watch:
            seen = Seen()
            await seen.until(watch, 3)
            assert list(seen.answers) == [one.request_id for one in answers[13:]]


async def test_a_restart_of_the_gateway(start):
    first = await start()
    port = int(first.url.rpartition(":")[2])
    async with devices(first.url, desktop=QUICK, laptop=QUICK) as (desktop, _, watch):
        stream = desktop.stream(KOREAN * 40, conversation="trip", model="slow")
        seen = Seen()
        while not seen.texts.get(stream.request_id):
            seen.see(await watch.next())
        await first.__aexit__(None, None, None)
        await start(port=port)
        await seen.until(watch, 1)
        assert seen.answers[stream.request_id].text == (await stream.answer).text == KOREAN * 40
        assert seen.answers[stream.request_id].attempt == 2


async def test_a_watcher_stops_the_answer(start):
    gateway = await start()
    async with devices(gateway.url) as (desktop, laptop, watch):
        stream = desktop.stream("never ends", conversation="trip", model="stuck")
        first = await watch.next()
        laptop.cancel(first.request_id, conversation="elsewhere")
        laptop.cancel(first.request_id, conversation="trip")
        while not isinstance(event := (await watch.next()).event, Failed):
            pass
        assert isinstance(event.error, RequestCancelled)
        with pytest.raises(RequestCancelled):
            await stream.answer


async def test_parts_are_shown_as_the_question_asks_for_them(start):
    gateway = await start()
    async with devices(gateway.url, laptop=QUICK) as (desktop, laptop, watch):
        stream = desktop.stream(KOREAN * 5, conversation="trip", model="parts", parts=["reasoning", "tool"])
        shown = {}
        async for _, event in watch:
            if isinstance(event, PartText):
                shown[event.part] = shown.get(event.part, "") + event.delta
                cut(laptop)
            if isinstance(event, Done):
                break
        answer = await stream.answer
        assert event.answer.parts == answer.parts
        assert list(shown.values()) == [part.text for part in answer.parts if part.kind != "text"]
        cut(laptop)
        await desktop.stream("again", conversation="trip", model="parts", parts=["tool"]).answer
        seen = Seen()
        await seen.until(watch, 1)
        (turn, _) = [turn async for turn in laptop.history("trip", parts=True)]
        assert seen.answers[turn.request_id].parts == parts_of(turn)


async def test_two_devices_that_ask_and_watch_see_each_others_questions_alone(start):
    gateway = await start()
    async with (
        Client(gateway.url, user="kim") as one,
        Client(gateway.url, user="kim", timing=QUICK) as two,
        one.watch("trip") as seen_by_one,
        two.watch("trip") as seen_by_two,
    ):
        asked_by_one = [one.stream(f"one {n}", conversation="trip", model="slow") for n in range(3)]
        asked_by_two = [two.stream(f"two {n}", conversation="trip", model="slow") for n in range(3)]
        first, second = Seen(), Seen()
        await asyncio.gather(first.until(seen_by_one, 3), second.until(seen_by_two, 3, on_text=lambda: cut(two)))
        assert set(first.answers) == {stream.request_id for stream in asked_by_two}
        assert set(second.answers) == {stream.request_id for stream in asked_by_one}


async def test_another_user_sees_nothing(start):
    gateway = await start()
    async with (
        Client(gateway.url, user="kim") as kim,
        Client(gateway.url, user="lee") as lee,
        lee.watch("trip") as watch,
        lee.changes() as changes,
    ):
        assert await changes.next() == ChangesMissed()
        answer = await kim.ask("mine", conversation="trip")
        own = lee.watch("other")
        async with own:
            lee.cancel(answer.request_id, conversation="trip")
            await lee.ping()
            assert watch._unread == changes._unread == {}


async def test_the_list_stays_in_step(start):
    gateway = await start()
    async with (
        Client(gateway.url, user="kim") as desktop,
        Client(gateway.url, user="kim") as laptop,
        laptop.changes() as changes,
    ):
        assert await changes.next() == ChangesMissed()
        await desktop.ask("Where to?", conversation="trip")
        while (change := await changes.next()).turns < 1:
            pass
        assert isinstance(change, ConversationChanged)
        assert (change.conversation_id, change.title, change.deleted) == ("trip", "Where to?", False)
        await desktop.rename("trip", "Jeju")
        assert (await changes.next()).title == "Jeju"
        await desktop.delete("trip")
        assert (await changes.next()).deleted
        await desktop.restore("trip")
        assert not (await changes.next()).deleted


async def test_a_gateway_that_allows_no_watchers(start):
    gateway = await start(caps=Caps(watchers=0))
    async with Client(gateway.url, user="kim") as app:
        with pytest.raises(RequestFailed, match="does not show answers to other devices"):
            async with app.watch("trip"):
                pass


async def test_one_too_many_sees_the_answers_when_they_have_ended(start):
    gateway = await start(caps=Caps(watchers=1))
    timing = Timing(full_watch_s=0.05)
    async with Client(gateway.url, user="kim") as desktop, Client(gateway.url, user="kim", timing=timing) as laptop:
        await desktop.ask("before", conversation="trip")
        async with desktop.watch("trip") as first, laptop.watch("trip") as second:
            assert (first.is_live, second.is_live) == (True, False)
            answer = await desktop.ask("now", conversation="trip")
            seen = Seen()
            await seen.until(second, 1)
            assert list(seen.answers) == [answer.request_id]


async def test_threads_that_share_a_watch_lose_nothing(start):
    gateway = await start()

    def use():
        with BlockingClient(gateway.url, user="kim") as desktop, BlockingClient(gateway.url, user="kim") as laptop:
            shown = queue.Queue()
            with ThreadPoolExecutor(4) as threads, laptop.watch("trip") as watch:
                for _ in range(4):
                    threads.submit(lambda: [shown.put(item) for item in watch])
                for _ in range(10):
                    desktop.ask("Hi", conversation="trip", model="echo")
                return Counter(type(shown.get(timeout=10).event) for _ in range(30))

    assert await asyncio.to_thread(use) == {Asked: 10, Text: 10, Done: 10}


async def test_without_asyncio(start):
    gateway = await start()

    def use():
        with BlockingClient(gateway.url, user="kim") as desktop, BlockingClient(gateway.url, user="kim") as laptop:
            with laptop.watch("trip") as watch:
                assert watch.is_live
                stream = desktop.stream(KOREAN, conversation="trip", model="slow")
                seen = Seen()
                for item in watch:
                    seen.see(item)
                    if seen.answers:
                        break
                assert seen.answers == {stream.request_id: stream.answer}
                stuck = desktop.stream("never ends", conversation="trip", model="stuck")
                for request_id, event in watch:
                    if isinstance(event, Asked):
                        laptop.cancel(request_id, conversation="trip")
                    if isinstance(event, Failed):
                        break
                with pytest.raises(RequestCancelled):
                    _ = stuck.answer
            changes = laptop.changes()
            for change in changes:
                assert change == ChangesMissed()
                break
            assert list(watch) == list(changes) == []  # left behind, they are closed

    await asyncio.to_thread(use)
