"""Several gateways on one PostgreSQL: real processes, and apps that come to any of them."""

import asyncio
import json
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from answerback import Client
from answerback.stores.encoding import decode_record
from balancer import Balancer
from cli_process import STOP_TIMEOUT_S, Serve, read_admin, start_gateway, start_standby
from collector import Collector, check_trace
from forked import Command
from watching_peers import app

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.timeout(120)]

TEXT = " ".join(f"단어{n}" for n in range(60))


async def ask(socket: ClientConnection, request_id: str, message: str, **more: Any) -> None:
    frame = {"action": "sendMessage", "requestId": request_id, "message": message, "stream": True} | more
    await socket.send(json.dumps(frame))


async def answer(socket: ClientConnection, text: str = "") -> tuple[dict[str, Any], str]:
    """The ending, and the streamed text on top of what was there before."""
    while True:
        frame = json.loads(await socket.recv())
        if frame["action"] == "messageDelta":
            text = text[: frame["offset"]] + frame["delta"]
        elif frame["action"] == "messageResponse":
            return frame, text


async def resume(socket: ClientConnection, request_id: str, offset: int) -> None:
    points = [{"requestId": request_id, "attempt": 1, "offset": offset}]
    await socket.send(json.dumps({"action": "hello", "helloId": "h", "resume": points}))


async def test_what_a_dead_gateway_began_is_one_trace_and_the_console_shows_it(join: Serve, database: str) -> None:
    with Collector() as collector:
        a, b = (join(name, "--otlp-endpoint", collector.url) for name in ("a", "b"))
        async with connect(f"{a.url}/?userId=ann&sessionId=s") as socket:
            await ask(socket, "r1", TEXT)
            while not any(span.name == "accept" for span in collector.spans):
                await socket.recv()
            a.stop(signal.SIGKILL)
        async with connect(f"{b.url}/?userId=ann&sessionId=s") as socket:
            await ask(socket, "r1", TEXT)
            ended, text = await answer(socket)
            assert (ended["status"], text) == ("completed", TEXT)
        overview = json.loads(await asyncio.to_thread(read_admin, b, "overview"))
        metrics = await asyncio.to_thread(read_admin, b, "metrics")
        assert b.stop() == 0
    assert [(node["name"], node["state"]) for node in overview["nodes"]] == [("b", "serving"), ("a", "dead")]
    states = re.findall(r'^answerback_nodes\{state="(\w+)"\} (\d)', metrics, re.MULTILINE)
    assert dict(states) == {"serving": "1", "standby": "0", "draining": "0", "gone": "0", "dead": "1"}
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT record, record_schema FROM answerback.requests").fetchall()
    check_trace(collector.spans, decode_record(*rows[0]), attempts=2)


async def test_an_app_moves_in_mid_answer_and_its_old_socket_is_closed(join: Serve) -> None:
    urls = [f"{join(name).url}/?userId=ann&sessionId=s" for name in ("a", "b")]
    async with connect(urls[0]) as first:
        await ask(first, "r1", TEXT)
        text = ""
        while len(text) < 60:
            frame = json.loads(await first.recv())
            text += frame.get("delta", "")
        async with connect(urls[1]) as second:
            await resume(second, "r1", len(text))
            ended, text = await answer(second, text)
            assert (ended["status"], text) == ("completed", TEXT)
        while json.loads(await first.recv()).get("code") != "session_replaced":
            pass
        await first.wait_closed()


async def test_a_long_answer_comes_whole_over_the_gateway_to_which_the_app_moved(join: Serve) -> None:
    """A notice has less than 8,000 bytes; a Korean letter has three, and a quote is written in two."""
    urls = [f"{join(name).url}/?userId=ann&sessionId=s" for name in ("a", "b")]
    question = " ".join(f'"{word}\\"' * 60 for word in ("단어", "물음표", "한국어", "말", "글", "뜻", "길", "끝"))
    for stream in (False, True):
        async with connect(urls[0]) as first:
            await ask(first, f"r{stream}", f"{question} {TEXT}", stream=stream)
            assert json.loads(await first.recv())["action"] == "messageAccepted"
            async with connect(urls[1]) as second:
                await resume(second, f"r{stream}", 0)
                async with asyncio.timeout(20):
                    ended, text = await answer(second)
                assert (text if stream else ended["response"]) == f"{question} {TEXT}"


async def test_any_gateway_stops_an_answer_and_serves_one_that_has_ended(join: Serve) -> None:
    urls = [f"{join(name).url}/?userId=ann&sessionId=" for name in ("a", "b")]
    async with connect(urls[0] + "s") as first, connect(urls[0] + "t") as other:
        await ask(first, "r1", TEXT * 20)
        while "delta" not in await first.recv(decode=True):
            pass
        await ask(other, "r2", "short", conversationId="c2")
        await answer(other)
        async with connect(urls[1] + "s") as second:
            await second.send(json.dumps({"action": "cancelMessage", "requestId": "r1"}))
            ended, _ = await answer(second)
            assert (ended["requestId"], ended["status"]) == ("r1", "cancelled")
        async with connect(urls[1] + "t") as second:
            await resume(second, "r2", 0)
            assert (await answer(second))[1] == "short"


async def test_devices_at_two_gateways_show_one_answer_and_either_stops_it(join: Serve) -> None:
    a, b = (join(name).url for name in ("a", "b"))
    async with app(a, "desk") as desk, app(b, "phone") as phone, app(a, "near") as near, app(b, "late") as late:
        for one in (phone, near):
            assert (await one.watch())["action"] == "watching"
        await late.watch(None)
        await desk.ask("q", TEXT)
        await desk.until(lambda: len(desk.texts.get("q", "")) > 60)
        await late.watch()
        async with app(a, "phone") as newer:  # which moves to the other gateway while it watches
            moved = phone.moved_to(newer.socket)
            await moved.watch()
            await asyncio.gather(*(one.ended("q") for one in (desk, moved, near, late)))
            assert desk.texts == moved.texts == near.texts == late.texts == {"q": TEXT}
            assert desk.endings == moved.endings == near.endings == late.endings
            await late.until(lambda: late.others[-1]["action"] == "conversationChanged")
            await desk.ask("q2", TEXT)
            await late.until(lambda: bool(late.texts.get("q2")))
            await late.send("cancelMessage", requestId="q2", conversationId="c")
            await asyncio.gather(*(one.ended("q2") for one in (desk, moved, near, late)))
            assert desk.endings["q2"]["status"] == "cancelled"
            assert desk.endings == moved.endings == near.endings == late.endings


async def test_who_watches_sees_a_dead_gateways_answer_go_on_at_another(join: Serve, database: str) -> None:
    a, b = (join(name) for name in ("a", "b"))
    async with app(a.url, "desk") as desk, app(b.url, "phone") as phone:
        await phone.watch()
        await desk.ask("q", TEXT)
        await phone.until(lambda: len(phone.texts.get("q", "")) > 60)
        a.stop(signal.SIGKILL)
        await phone.ended("q")
        assert (phone.texts, phone.attempts) == ({"q": TEXT}, {"q": 2})
    assert await asyncio.to_thread(b.stop) == 0
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM answerback.watchers").fetchall() == [(0,)]


async def test_one_conversation_is_answered_in_order_whoever_is_asked(join: Serve, database: str) -> None:
    urls = [join(name).url for name in ("a", "b", "c")]

    async def app(number: int) -> None:
        async with connect(f"{urls[number]}/?userId=ann&sessionId=s{number}") as socket:
            for n in range(6):
                await ask(socket, f"r{number}-{n}", "a few words that take their time", conversationId="c")
            for _ in range(6):
                frame, _ = await answer(socket)
                assert frame["status"] == "completed"

    await asyncio.gather(*(app(number) for number in range(3)))
    async with connect(f"{urls[0]}/?userId=ann&sessionId=h") as socket:
        pages: list[Any] = [{}]
        while not pages[1:] or "next" in pages[-1]:
            page = {"action": "getHistory", "requestId": "h", "conversationId": "c", "before": pages[-1].get("next")}
            await socket.send(json.dumps(page))
            pages.append(json.loads(await socket.recv()))
    turns = [turn for page in reversed(pages[1:]) for turn in page["turns"]]
    for number in range(3):
        mine = [turn["requestId"] for turn in turns if turn["requestId"].startswith(f"r{number}-")]
        assert mine == [f"r{number}-{n}" for n in range(6)]
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT record FROM answerback.requests ORDER BY n").fetchall()
    ran = [json.loads(record) for (record,) in rows]
    for one, following in pairwise(ran):
        assert following["started_at_ms"] >= one["ending"]["ended_at_ms"]


async def streamed(app: Client, name: str, worst: list[float]) -> int:
    """The attempt that answered; the text is exact."""
    last, text = time.monotonic(), ""
    stream = app.stream(f"{name} {TEXT}", conversation=name)
    async for piece in stream:
        now = time.monotonic()
        worst[0], last, text = max(worst[0], now - last), now, text + piece
    assert text == f"{name} {TEXT}"
    return (await stream.answer).attempt


async def test_answers_go_on_elsewhere_when_a_gateway_is_killed(join: Serve) -> None:
    gateways = [join(name) for name in ("a", "b")]
    async with Balancer([gateway.port for gateway in gateways]) as balancer:
        apps = [Client(f"ws://127.0.0.1:{balancer.port}", user=f"u{n}") for n in range(10)]
        await asyncio.gather(*(app.__aenter__() for app in apps))
        worst = [0.0]
        asked = [asyncio.create_task(streamed(app, f"app{n}", worst)) for n, app in enumerate(apps)]
        await asyncio.sleep(0.7)
        gateways[0].process.send_signal(signal.SIGKILL)
        attempts = await asyncio.gather(*asked)
        await asyncio.gather(*(app.__aexit__(None, None, None) for app in apps))
    assert set(attempts) == {1, 2}
    print(f"longest silence {worst[0]:.2f} s")


async def test_apps_move_when_a_gateway_stops_and_no_answer_is_begun_again(join: Serve) -> None:
    gateways = [join(name, "--drain", "6s") for name in ("a", "b")]
    async with Balancer([gateway.port for gateway in gateways]) as balancer:
        apps = [Client(f"ws://127.0.0.1:{balancer.port}", user=f"u{n}") for n in range(10)]
        await asyncio.gather(*(app.__aenter__() for app in apps))
        worst = [0.0]
        asked = [asyncio.create_task(streamed(app, f"app{n}", worst)) for n, app in enumerate(apps)]
        await asyncio.sleep(0.3)
        gateways[0].process.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*asked) == [1] * 10
        assert await asyncio.to_thread(gateways[0].process.wait, STOP_TIMEOUT_S) == 0
        assert await asyncio.gather(*(streamed(app, f"again{n}", worst) for n, app in enumerate(apps))) == [1] * 10
        await asyncio.gather(*(app.__aexit__(None, None, None) for app in apps))
    print(f"longest silence {worst[0]:.2f} s")


async def test_a_gateway_alone_and_a_fleet_exclude_each_other(join: Serve, tmp_path: Path, database: str) -> None:
    join("a")
    for arguments, why in (
        (("--database", database), "Another gateway uses this database"),
        (("--node", "b"), "name it with --database"),
        (("--database", database, "--node", "a b"), "letters, digits"),
        (("--database", database, "--node", "auto"), "give a --port"),
    ):
        with pytest.raises(AssertionError, match=why):
            start_gateway(*arguments, data_dir=tmp_path / "other", log=tmp_path / "other.log")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_one_that_stands_by_serves_when_no_other_does(
    join: Serve, tmp_path: Path, database: str, unused_port: int, how: int
) -> None:
    options = ("--standby", "--drain", "6s")
    first = await asyncio.to_thread(join, "a", *options)
    more = ("--model", "echo:delay_ms=25", "--port", str(unused_port), "--database", database, "--node", "b")
    second = await asyncio.to_thread(start_standby, tmp_path / "b", tmp_path / "b.log", *options, *more)
    assert states_of(database) == {"a": "serving", "b": "standby"}
    try:
        async with Balancer([first.port, unused_port]) as balancer:
            apps = [Client(f"ws://127.0.0.1:{balancer.port}", user=f"u{n}") for n in range(10)]
            await asyncio.gather(*(app.__aenter__() for app in apps))
            worst = [0.0]
            asked = [asyncio.create_task(streamed(app, f"app{n}", worst)) for n, app in enumerate(apps)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(first.stop, how)
            assert set(await asyncio.gather(*asked)) == {1 if how == signal.SIGTERM else 2}
            await asyncio.gather(*(app.__aexit__(None, None, None) for app in apps))
        third = await asyncio.to_thread(start_standby, tmp_path / "c", tmp_path / "c.log", *options, *more[:-1], "c")
        third.terminate()
        assert (await asyncio.to_thread(third.communicate, timeout=STOP_TIMEOUT_S), third.returncode) == (("", None), 0)
        assert states_of(database)["b"] == "serving"
    finally:
        second.terminate()
        second.communicate(timeout=STOP_TIMEOUT_S)
    print(f"longest silence {worst[0]:.2f} s")


def states_of(database: str) -> dict[str, str]:
    """What each gateway has said of itself last."""
    with psycopg.connect(database) as connection:
        return dict(connection.execute("SELECT node, state FROM answerback.nodes").fetchall())


async def test_nodes_shows_what_waits_behind_another_gateway_and_who_is_the_janitor(join: Serve, database: str) -> None:
    a, b = [await asyncio.to_thread(join, name, "--janitor-interval", "1s") for name in ("a", "b")]
    async with (
        connect(f"{a.url}/?userId=ann&sessionId=s") as first,
        connect(f"{b.url}/?userId=ann&sessionId=t") as second,
    ):
        await ask(first, "r1", TEXT * 20, conversationId="c")
        while "delta" not in await first.recv(decode=True):
            pass
        await ask(second, "r2", "short", conversationId="c")
        while True:
            command = Command(["nodes", "--json", "--database", database], stdout=subprocess.PIPE, text=True)
            out, _ = await asyncio.to_thread(command.communicate, timeout=STOP_TIMEOUT_S)
            shown = {node["name"]: node for node in json.loads(out)}
            if shown["b"]["behind"] and any(node["janitor"] for node in shown.values()):
                break
        await first.send(json.dumps({"action": "cancelMessage", "requestId": "r1"}))
        assert (await answer(second))[0]["status"] == "completed"
    assert command.returncode == 0
    assert [shown[name][what] for name in "ab" for what in ("running", "waiting", "behind")] == [1, 0, 0, 0, 1, 1]
    assert sorted(node["janitor"] for node in shown.values()) == [False, True]
    assert all(node["notices"] >= 0 for node in shown.values())
